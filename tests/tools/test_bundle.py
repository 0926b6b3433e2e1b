"""The tool that makes trained weights part of the repository: what the file says of itself, and what is refused."""

import json
import shutil
import subprocess

import pytest
import torch

from mer.magnification.magnet import MagNet, load_magnet
from mer.storage.weights import save_weights, weights_about
from tests.helpers.refusals import refused
from tools import bundle as tool
from tools.bundle import bundle

WEIGHTS, OURS = "data/weights/magnet.safetensors", "assets/weights/magnet.safetensors"
ABOUT = {"weights": "trained here, 3 steps", "device": "cpu"}


def git(folder, *arguments):
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """The demo's parameters in a repository, MagNet trained, nothing out of date."""
    shutil.copyfile(root / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    save_weights(MagNet(), tmp_path / WEIGHTS, ABOUT)
    monkeypatch.setattr(tool, "_stale", lambda names, root: [])
    return tmp_path


def test_the_file_holds_the_weights_in_float16_and_what_made_them(project):
    assert bundle(["magnet"], project) == [project / OURS]
    whole, half = (load_magnet(project / path).state_dict() for path in (WEIGHTS, OURS))
    for name, value in whole.items():
        assert torch.equal(half[name], value.half().float())
    assert (project / OURS).stat().st_size < 0.55 * (project / WEIGHTS).stat().st_size
    about = weights_about(project / OURS)
    recipe = json.loads(about.pop("recipe"))
    assert about.pop("versions").startswith(f"torch {torch.__version__}, numpy ")
    assert about == ABOUT | {"commit": git(project, "rev-parse", "HEAD")}
    run = recipe["pretrain"]["magnet"]
    assert run["task"] == "moving_layers"
    assert recipe["synthesize"][run["pool"]]["pool_subjects"] > 0
    assert {"seed"} <= recipe.keys()


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"weights": "given: own.pth"}, "given: own.pth: was not trained here; nothing else is bundled"),
        ({"weights": "bundled: magnet.safetensors, 3 steps"}, "was not trained here"),
        ({"weights": "official: x"}, "was not trained here"),
        ({"weights": "3 steps", "subjects": ["samm/006"]}, "saw samm/006; bundled weights may know nobody who is"),
    ],
)
def test_weights_of_others_and_of_evaluated_people_are_refused(project, about, message):
    save_weights(MagNet(), project / WEIGHTS, about)
    refused(message, bundle, ["magnet"], project)
    assert not (project / OURS).exists()


def test_what_float16_cannot_hold_is_refused(project):
    network = MagNet()
    with torch.no_grad():
        network.manipulator.g.conv2d.weight[0, 0, 0, 0] = 1e6
    save_weights(network, project / WEIGHTS, ABOUT)
    refused("float16 cannot hold manipulator.g.conv2d.weight; nothing was written", bundle, ["magnet"], project)
    assert not (project / OURS).exists()


def test_an_unknown_run_and_a_stage_that_is_out_of_date_are_refused(project, monkeypatch):
    refused("'magnett' is no entry of pretrain.runs; did you mean 'magnet'?", bundle, ["magnett"], project)
    monkeypatch.setattr(tool, "_stale", lambda names, root: [f"pretrain@{name}" for name in names])
    refused("out of date: pretrain@magnet; run dvc repro pretrain@magnet first", bundle, ["magnet"], project)


def test_code_that_is_not_committed_is_refused_but_not_the_preset(project):
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "\n")
    bundle(["magnet"], project)
    (project / "code.py").write_text("2")
    refused("not committed: code.py; commit first: the file shall name what made it", bundle, ["magnet"], project)


def test_too_much_in_all_is_said(project, monkeypatch):
    monkeypatch.setattr(tool, "MOST", 1_000_000)
    refused("assets/weights: 1.8 MB, more than 1; make a network smaller", bundle, ["magnet"], project)
