"""The tool that copies results for git: what it refuses."""

import errno
import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from mer.errors import MerError
from mer.evaluation.predictions import run_text
from mer.params import load
from tests.helpers.refusals import refused
from tools.publish import publish


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """The demo's parameters, metrics, and the description of a run for each experiment; nothing is out of date."""
    shutil.copyfile(root / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "metrics/details").mkdir(parents=True)
    shutil.copyfile(root / "results/demo/leakage.json", tmp_path / "metrics/leakage.json")
    for name in experiments(tmp_path):
        describe(tmp_path, name, leaky=False)
        for folder in ("", "details/"):
            shutil.copyfile(root / f"results/demo/{folder}synthetic-linear.json",
                            tmp_path / f"metrics/{folder}{name}.json")  # fmt: skip
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=0, stdout="{}"))
    return tmp_path


def experiments(folder) -> list[str]:
    return list(load(folder / "params.yaml").experiments)


def describe(folder, name, *, leaky):
    path = folder / f"data/predictions/{name}/run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(run_text({"class_names": ["a"], "files": {}, "protocol": {"leaky": leaky}}))
    return path


def test_a_leaky_result_is_not_published(project):
    describe(project, "synthetic-ststnet", leaky=True)
    with pytest.raises(MerError, match=r"^synthetic-ststnet: the epoch was chosen on the test subject"):
        publish(project)
    assert not (project / "results").exists()


def test_an_edited_description_of_a_run_is_refused(project):
    path = describe(project, "synthetic-ststnet", leaky=True)
    content = json.loads(path.read_text())
    content["protocol"]["leaky"] = False
    path.write_text(json.dumps(content))
    with pytest.raises(MerError, match=r"run.json: .*its content is not that of its SHA-256"):
        publish(project)
    assert not (project / "results").exists()


def content(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_results_are_copied_and_replace_older_ones(project):
    left = project / "results/demo/details/gone.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    target = publish(project)
    found = content(target)
    expected = {"params.yaml", "leakage.json", *(f"{part}{name}.json" for part in ("", "details/", "runs/")
                                                 for name in experiments(project))}  # fmt: skip
    assert set(found) == expected
    assert found["synthetic-linear.json"] == (project / "metrics/synthetic-linear.json").read_bytes()
    assert found["details/synthetic-uamrn.json"] == (project / "metrics/details/synthetic-uamrn.json").read_bytes()
    assert [path.name for path in (project / "results").iterdir()] == ["demo"]


@pytest.mark.parametrize("name", ["leakage.json", "synthetic-linear.json", "details/synthetic-uamrn.json"])
@pytest.mark.parametrize("text", ['{"uf1": 9', "[]", "null", None])
def test_a_damaged_file_of_metrics_is_not_published(project, name, text):
    publish(project)
    before, path = content(project / "results"), project / "metrics" / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    refused(rf"metrics/{name}: is (damaged: .*; run python -m tools.repair .*{name}, then dvc repro|missing; run dvc)",
            publish, project)  # fmt: skip
    assert content(project / "results") == before


@pytest.mark.parametrize("copies", [0, 3, 10])
def test_a_full_disk_leaves_the_older_results(project, monkeypatch, copies):
    publish(project)
    before, copy, left = content(project / "results"), shutil.copyfile, copies

    def full(*paths):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(*paths)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        publish(project)
    assert content(project / "results") == before
    assert [path.name for path in (project / "results").iterdir()] == ["demo"]
