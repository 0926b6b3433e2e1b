"""The tool that copies results for git: what it refuses."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from mer.errors import MerError
from mer.evaluation.predictions import run_text
from tools.publish import publish


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """The demo's parameters and the description of a run for each experiment; nothing is out of date."""
    shutil.copyfile(root / "params.yaml", tmp_path / "params.yaml")
    for name in ("synthetic-linear", "synthetic-ststnet", "synthetic-uamrn"):
        describe(tmp_path, name, leaky=False)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=0, stdout="{}"))
    return tmp_path


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
