"""The tool that copies the demo's pictures to docs/images."""

import shutil

import cv2
import numpy as np
import pytest

from tests.helpers.refusals import refused
from tools import pictures


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """The demo's parameters and pictures; no browser."""
    shutil.copyfile(root / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "docs/images").mkdir(parents=True)
    (tmp_path / pictures.FIGURES).mkdir(parents=True)
    wheel = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
    for name in pictures.SHOWN:
        cv2.imwrite(str(tmp_path / pictures.FIGURES / f"{name}.png"), wheel)
    (tmp_path / pictures.PAGE).parent.mkdir(parents=True)
    (tmp_path / pictures.PAGE).write_text("<p>page</p>", encoding="utf-8")
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    return tmp_path


def test_pictures_keep_their_colours(project):
    """The mean error of WebP at this quality on patches of colour is below two grey levels."""
    *written, said = pictures.copy(project)
    assert written == [*(f"{shown}.webp" for shown in pictures.SHOWN.values()), "simulated_flow.webp"]
    assert said.startswith("report.webp stays as it is: none of chromium, ")
    before = cv2.imread(str(project / pictures.FIGURES / "flow.png")).astype(int)
    after = cv2.imread(str(project / "docs/images/flow.webp")).astype(int)
    inner = np.zeros(before.shape[:2], bool)  # colour is kept at half the resolution, so borders of patches differ
    for y in range(0, 80, 20):
        for x in range(0, 120, 20):
            inner[y + 4 : y + 16, x + 4 : x + 16] = True
    assert abs(before - after)[inner].mean() < 2


def test_another_preset_and_a_missing_picture_are_refused(project):
    (project / pictures.FIGURES / "flow.png").unlink()
    refused("metrics/figures/synthetic/flow.png: not here yet; run make repro first", pictures.copy, project)
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(text.replace("preset: demo", "preset: other"), encoding="utf-8")
    refused("docs/images are of the demo; go back to it first", pictures.copy, project)
