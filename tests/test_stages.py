"""`python -m stages.<name>` on bad input: one line with file, clip or parameter and the remedy, exit code 2."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from stages.landmarks import LOOK_AHEAD
from tests.project import edit, make_project


def stage(folder: Path, name: str, *args: str) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr, progress bars left out."""
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *args], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]
    return done.returncode, lines


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A tiny project, run up to its landmarks."""
    folder = make_project(root, tmp_path_factory.mktemp("project"))
    edit(folder, lambda p: p["runtime"].update(workers=1))
    for name in ("synthesize", "index", "landmarks"):
        code, lines = stage(folder, name, "synthetic")
        assert code == 0, lines
    return folder


@pytest.fixture
def project(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "p", symlinks=True)
    return tmp_path / "p"


def a_clip(project: Path) -> Path:
    return sorted((project / "data/raw/synthetic/corpus").glob("sub01/*"))[0]


def frames(clip: Path) -> list[Path]:
    return sorted(clip.glob("*.jpg"), key=lambda p: int(p.stem.removeprefix("img")))


def blank(clip: Path) -> Path:
    """Nobody in the onset, nor in the frames after it that are looked at instead; returns the onset."""
    onset = frames(clip)[2]  # two spare frames lie before it
    for path in frames(clip)[2 : 2 + LOOK_AHEAD + 1]:
        cv2.imwrite(str(path), np.full((320, 320, 3), 128, np.uint8))
    return onset


def change_sheet(project: Path, **changes) -> str:
    """Change cells of the first row; returns its clip."""
    path = project / "data/raw/synthetic/corpus/CASME2-coding.xlsx"
    sheet = pd.read_excel(path, dtype=str)
    for column, value in changes.items():
        sheet.loc[0, column] = value
    sheet.to_excel(path, index=False)
    return sheet.loc[0, "Filename"]


def refused(result, *parts: str) -> None:
    code, lines = result
    assert code == 2, lines
    assert len(lines) == 1, lines
    for part in parts:
        assert part in lines[0], lines[0]


def test_unknown_parameter_names_the_nearest(project):
    edit(project, lambda p: p["align"].update(top_margn=0.1))
    refused(stage(project, "align", "synthetic-box224"), "align@synthetic-box224: params.yaml: align.top_margn",
            "is unknown", "did you mean 'top_margin'?")  # fmt: skip


def test_unknown_run_names_the_nearest(project):
    refused(stage(project, "align", "synthetic-box22"), "align.runs has no 'synthetic-box22'", "'synthetic-box224'")


def test_missing_frame(project):
    gone = frames(a_clip(project))[10]
    gone.unlink()
    refused(stage(project, "index", "synthetic"), "index@synthetic: ", f"{gone.name}: frame is missing",
            "unpack the clip again")  # fmt: skip


def test_missing_folder(project):
    shutil.rmtree(a_clip(project))
    refused(stage(project, "index", "synthetic"), "1 clips of CASME2-coding.xlsx have no folder: sub01/")


def test_annotation_outside_the_clip(project):
    clip = change_sheet(project, OffsetFrame="99999")
    refused(stage(project, "index", "synthetic"), clip, "to 99999, on disk are", "annotation points outside the clip")


def test_apex_outside_onset_and_offset(project):
    clip = change_sheet(project, ApexFrame="1")
    refused(stage(project, "index", "synthetic"), f"clip {clip}: onset", "are out of order; correct the row")


def test_a_cell_that_is_no_number(project):
    clip = change_sheet(project, OnsetFrame="x46")
    refused(stage(project, "index", "synthetic"), clip, "OnsetFrame is 'x46', needed is a frame number")


def test_a_sheet_with_other_columns(project):
    path = project / "data/raw/synthetic/corpus/CASME2-coding.xlsx"
    pd.read_excel(path, dtype=str).rename(columns={"ApexFrame": "Apex"}).to_excel(path, index=False)
    refused(stage(project, "index", "synthetic"), "columns ApexFrame are missing; found Subject, Filename")


def test_a_damaged_or_missing_sheet(project):
    path = project / "data/raw/synthetic/corpus/CASME2-coding.xlsx"
    path.write_bytes(b"PK")
    refused(stage(project, "index", "synthetic"), "CASME2-coding.xlsx: cannot be read as xlsx")
    path.unlink()
    refused(stage(project, "index", "synthetic"), "needs exactly one label sheet (*.xlsx), found none")


def test_wrong_count(project):
    edit(project, lambda p: p["index"]["runs"]["synthetic"].update(expect={"clips": 246}))
    refused(stage(project, "index", "synthetic"), "has 15 clips, index.runs.synthetic.expect.clips says 246")


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_unreadable_image(project, content):
    broken = frames(a_clip(project))[10]
    broken.write_bytes(content)
    result = stage(project, "align", "synthetic-box224")
    refused(
        result, f"{broken.relative_to(project)}: cannot be read as an image ({len(content)} bytes); replace the file"
    )


def test_no_face_found(project):
    onset = blank(a_clip(project))
    assert stage(project, "index", "synthetic")[0] == 0
    refused(stage(project, "landmarks", "synthetic"), f"{onset.relative_to(project)}: no face found in a 320x320 image",
            "raise landmarks.upsample")  # fmt: skip


def test_truncated_hdf5(project):
    path = project / "data/cache/synthetic/landmarks.h5"
    path.write_bytes(path.read_bytes()[:-300])
    refused(
        stage(project, "align", "synthetic-box224"),
        "landmarks.h5: is truncated or not HDF5",
        "dvc checkout or dvc repro",
    )


def test_product_and_index_disagree(project):
    index = project / "data/index/synthetic.csv"
    index.write_text(index.read_text().replace("synthetic/sub01/", "synthetic/sub09/"))
    refused(stage(project, "align", "synthetic-box224"), "landmarks.h5: 5 of the 15 clips of data/index/synthetic.csv",
            "run dvc repro")  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corrected_clip_costs_itself_only(project, workers):
    edit(project, lambda p: p["runtime"].update(workers=workers))
    last = sorted((project / "data/raw/synthetic/corpus").glob("sub*/*"))[-1]
    broken = frames(last)[10]
    good = broken.read_bytes()
    broken.write_bytes(b"")
    code, lines = stage(project, "align", "synthetic-box224")
    assert code == 2
    assert len(lines) == 1, lines
    assert f"{broken.relative_to(project)}: cannot be read as an image" in lines[0]
    broken.write_bytes(good)
    code, lines = stage(project, "align", "synthetic-box224")
    assert code == 0
    # With two workers, the other one may have been at a clip when the first gave up.
    assert lines in [[f"{n} of 15 clips were finished earlier"] for n in range(15 - workers, 15)]
    assert not list((project / "data/.partial/align@synthetic-box224").glob("*.block"))


def test_exclusions_are_listed_through_to_the_predictions(project):
    blank(a_clip(project))
    gone = sorted((project / "data/raw/synthetic/corpus").glob("sub02/*"))[1]
    shutil.rmtree(gone)
    edit(project, lambda p: (p["index"].update(on_error="exclude"), p["landmarks"].update(on_error="exclude")))
    keys = {"index": "synthetic", "landmarks": "synthetic", "train": "synthetic-linear"}
    for name in ("index", "landmarks", "align", "spot", "flow", "train"):
        code, lines = stage(project, name, keys.get(name, "synthetic-box224"))
        assert code == 0, lines
    protocol = json.loads((project / "data/predictions/synthetic-linear/run.json").read_text())["protocol"]
    assert protocol["n_excluded"] == 2
    reasons = protocol["excluded"]
    assert "no face found" in reasons[f"synthetic/{a_clip(project).relative_to(project / 'data/raw/synthetic/corpus')}"]
    assert f"synthetic/sub02/{gone.name}" in reasons
    assert len(pd.read_csv(project / "data/predictions/synthetic-linear/predictions.csv")) == 13
