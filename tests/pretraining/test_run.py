"""What holds for every task: tasks and networks are found by name, and the user's own file comes before any of them."""

import re

import pytest
import torch

from mer import pretraining
from mer.errors import MerError
from mer.magnification.magnet import MagNet
from mer.networks.resnet import ResNet18
from mer.pretraining import Context, load_network, load_task, networks, run, tasks, user_files
from mer.storage.weights import digest_of, save_weights
from tests.helpers.refusals import refused

NETWORKS = {"resnet18": ResNet18, "magnet": MagNet}


def entry(folder, task="none", network="resnet18"):
    return {"task": task, "network": network, "user_weights": folder if folder is None else str(folder)}


@pytest.fixture
def asked(monkeypatch):
    """A task `none` that writes down what it is asked."""
    calls = []

    class Task:
        @staticmethod
        def run(entry, context):
            calls.append((entry, context))
            return "made"

    monkeypatch.setattr(pretraining, "load_task", lambda name: Task if name == "none" else load_task(name))
    return calls


# ---- by name --------------------------------------------------------------------------------------------------------


def test_tasks_and_networks_are_the_files_that_declare_one():
    """The loop, which is no task, and layers that are no network lie in the same folders."""
    assert {"macro", "moving_layers", "fetch"} <= tasks().keys()
    assert "loop" not in tasks()
    assert networks()["resnet18"] == "mer.networks.resnet"
    assert networks()["magnet"] == "mer.magnification.magnet"
    assert not {"norm", "random_layers", "eulerian"} & networks().keys()


def test_each_declares_what_it_must():
    for name in tasks():
        assert callable(load_task(name).run)
    for name in networks():
        network = load_network(name).build_pretrained()
        assert isinstance(network, torch.nn.Module)
        assert vars(load_network(name))["NETWORK"] == name


def test_an_unknown_name_names_the_nearest():
    for broken, message in (
        (entry(None, task="marco"), "pretrain: task 'marco' is unknown; did you mean 'macro'?"),
        (
            entry(None, task="macro", network="resnet"),
            "pretrain: network 'resnet' is unknown; did you mean 'resnet18'?",
        ),
    ):
        with pytest.raises(MerError, match=re.escape(message)):
            run(broken, Context(where="pretrain.runs.x"))


def test_a_network_that_declares_too_little_is_refused(monkeypatch):
    monkeypatch.setattr(pretraining, "networks", lambda: {"bare": "mer.networks.norm"})
    message = "mer.networks.norm declares no build_pretrained, load_user_weights; see mer/pretraining/__init__.py"
    with pytest.raises(MerError, match=re.escape(message)):
        load_network("bare")


# ---- the user's own file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [True, False])
def test_without_a_file_of_the_user_the_task_is_asked(tmp_path, asked, folder):
    """A note and hidden files are none."""
    (tmp_path / "README.md").write_text("weights belong here")
    (tmp_path / ".gitkeep").write_text("")
    given, context = entry(tmp_path if folder else None), Context(where="pretrain.runs.x", seed=3)
    assert run(given, context) == "made"
    assert asked == [(given, context)]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["own.pth", "own.pt", "own.bin", "own.safetensors"])
def test_a_file_of_the_user_is_taken_as_it_is_whatever_the_task(tmp_path, asked, network, name):
    own, path = NETWORKS[network](), tmp_path / name
    save_weights(own, path) if path.suffix == ".safetensors" else torch.save(own.state_dict(), path)
    made = run(entry(tmp_path, network=network), Context(where="pretrain.runs.x"))
    assert asked == []
    assert made.about == {"weights": f"given: {name}", "sha256": digest_of(path)}
    found = made.network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in own.state_dict().items())


def test_who_was_seen_by_a_users_weights_stays_known(tmp_path, asked):
    """Else a training elsewhere on subjects that are tested would be reported as clean."""
    save_weights(ResNet18(), tmp_path / "own.safetensors", {"weights": "trained", "subjects": ["c/s1", "c/s2"]})
    made = run(entry(tmp_path), Context(where="pretrain.runs.x"))
    assert made.about["subjects"] == ["c/s1", "c/s2"]


def test_a_users_weights_of_frame_pairs_have_the_size_of_the_run(tmp_path):
    from mer.models import micronbert

    knobs = {"patch": 6, "width": 16, "layers": 1, "heads": 2, "widen": 2}
    save_weights(micronbert.build_pretrained(**knobs, size=48), tmp_path / "own.safetensors")
    given = {**entry(tmp_path, "frame_pairs", "micronbert"), "knobs": knobs, "size": 48}
    made = run(given, Context(where="pretrain.runs.x"))
    assert made.network.size == 48
    assert made.about["attention"].startswith("softmax_axis keys, scaled, roles paper")
    refused(
        "pretrain.runs.x.knobs: micronbert cannot be built with {'depth': 3, 'size': 48}",
        run, given | {"knobs": {"depth": 3}}, Context(where="pretrain.runs.x"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b.pth", "a.bin"], "{0}: holds a.bin, b.pth; leave one file of weights there"),
        (["a.zip"], "{0}/a.zip: is no file of weights; valid ends of its name: .pth, .pt, .bin, .safetensors"),
        (["old"], "{0}/old: is no file of weights;"),
        (["a.pth"], "{0}/a.pth: is not a torch file of weights ("),
        (None, "{0}: there is no such folder; make it, or correct pretrain.runs.x.user_weights"),
    ],
)
def test_a_folder_that_cannot_be_meant_is_refused(tmp_path, asked, names, message):
    folder = tmp_path / "own"
    for name in names or ():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    with pytest.raises(MerError, match=re.escape(message.format(folder))) as caught:
        run(entry(folder), Context(where="pretrain.runs.x"))
    assert "\n" not in str(caught.value)
    assert asked == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "own.pth").write_bytes(b"")
    with pytest.raises(MerError, match=r"own\.pth: there is no such folder; make it, or correct here"):
        user_files(tmp_path / "own.pth", "here")


# ---- the bundled file -----------------------------------------------------------------------------------------------

WHERE = Context(where="pretrain.runs.x")
BACK = "; it came with the repository: git checkout -- {0}, or train here: set pretrain.runs.x.bundled to null"


@pytest.fixture
def bundled(tmp_path):
    """A file in float16, and its weights as they are read again."""
    network = MagNet()
    save_weights(network, tmp_path / "ours.safetensors", {"weights": "9 steps", "commit": "abc"}, half=True)
    return tmp_path / "ours.safetensors", {k: v.half().float() for k, v in network.state_dict().items()}


def test_the_bundled_file_comes_before_the_task_without_material(bundled, asked):
    path, expected = bundled
    made = run(entry(None, network="magnet") | {"bundled": str(path)}, WHERE)
    assert asked == []
    assert made.about == {"weights": "bundled: ours.safetensors, 9 steps", "commit": "abc", "sha256": digest_of(path)}
    found = made.network.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], value)


def test_a_file_of_the_user_comes_before_the_bundled_one(bundled, asked, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    torch.save(MagNet().state_dict(), own / "own.pth")
    made = run(entry(own, network="magnet") | {"bundled": str(bundled[0])}, WHERE)
    assert asked == []
    assert made.about["weights"] == "given: own.pth"


@pytest.mark.parametrize("there", [True, False])
def test_material_of_the_user_comes_before_the_bundled_file(bundled, asked, monkeypatch, there):
    monkeypatch.setattr(pretraining.load_task("none"), "given", lambda entry, context: there, raising=False)
    made = run(entry(None, network="magnet") | {"bundled": str(bundled[0])}, WHERE)
    assert (made == "made") is there
    assert len(asked) == there


def test_what_is_material_of_the_user(tmp_path):
    """A set in its folder; corpora by name. Moving layers and the pool are everybody's."""
    (tmp_path / "set").mkdir()
    macro, sets, pairs = (load_task(name).given for name in ("macro", "macro_sets", "frame_pairs"))
    assert not macro({"raw": str(tmp_path / "set")}, WHERE)
    assert not sets({"sets": {"rafdb": {"raw": str(tmp_path / "set")}}, "missing": "refuse"}, WHERE)
    (tmp_path / "set" / "fer2013.csv").write_text("")
    assert macro({"raw": str(tmp_path / "set")}, WHERE)
    assert sets({"sets": {"rafdb": {"raw": str(tmp_path / "set")}}, "missing": "refuse"}, WHERE)
    assert pairs({"corpora": ["casme3-box224"]}, WHERE)
    assert not pairs({"corpora": []}, WHERE)
    assert not hasattr(load_task("moving_layers"), "given")


def test_a_bundled_file_that_is_missing_says_how_it_comes_back(tmp_path, asked):
    path = tmp_path / "gone.safetensors"
    refused(f"{path}: is missing{BACK.format(path)}", run, entry(None) | {"bundled": str(path)}, WHERE)


def test_a_damaged_bundled_file_is_refused(bundled, asked):
    path, _ = bundled
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    message = f"{path}: is damaged: its tensors or its note are not those that were written{BACK.format(path)}"
    refused(message, run, entry(None, network="magnet") | {"bundled": str(path)}, WHERE)


def test_a_bundled_file_of_another_version_of_the_network_is_refused(tmp_path, asked):
    path = tmp_path / "ours.safetensors"
    save_weights(torch.nn.Linear(2, 2), path)
    with pytest.raises(MerError, match=r"not the weights of MagNet \(42 tensors\): 42 missing") as caught:
        run(entry(None, network="magnet") | {"bundled": str(path)}, WHERE)
    assert str(caught.value).endswith(BACK.format(path))


def test_a_bundled_resnet_that_ends_early_needs_no_knob(tmp_path, asked):
    network = ResNet18("layer2", 4)
    save_weights(network, tmp_path / "r.safetensors", {"weights": "x", **network.about})
    made = run(entry(None) | {"bundled": str(tmp_path / "r.safetensors")}, WHERE)
    assert made.network.stages == ["layer1", "layer2"]
    assert made.about["ends"] == "layer2"
