"""Files of weights whose bytes are not those that were written: refused, whatever byte it is."""

import contextlib
import errno
import json
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from mer.errors import MerError
from mer.storage.weights import (
    provenance,
    read_official,
    read_weights,
    save_weights,
    subjects_seen,
    weights_about,
)
from tests.helpers.refusals import refused

ABOUT = {"weights": "2 steps, drawn here", "subjects": ["casme2/sub01", "samm/006"]}
REMEDY = r"make it again: run python -m tools\.repair \S+w\.safetensors, then dvc repro, if the pipeline made it"


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.fixture
def path(tmp_path, network):
    save_weights(network, tmp_path / "w.safetensors", ABOUT)
    return tmp_path / "w.safetensors"


def read(path, network):
    return read_weights(path, network.state_dict(), "a network", "ask the authors")


def test_what_is_written_is_read_without_the_sum(path, network):
    assert weights_about(path) == ABOUT
    assert subjects_seen(path) == set(ABOUT["subjects"])
    for name, value in read(path, network).items():
        assert torch.equal(value, network.state_dict()[name])
    with safetensors.safe_open(path, "pt") as file:
        assert list(json.loads(file.metadata()["about"])) == ["sha256_of_content", "subjects", "weights"]


def test_without_a_note_there_is_a_sum(tmp_path, network):
    save_weights(network, tmp_path / "w.safetensors")
    assert weights_about(tmp_path / "w.safetensors") == {}
    content = bytearray((tmp_path / "w.safetensors").read_bytes())
    content[-2] ^= 1
    (tmp_path / "w.safetensors").write_bytes(content)
    refused(rf"w\.safetensors: is damaged: .*{REMEDY}", weights_about, tmp_path / "w.safetensors")


@pytest.mark.parametrize("bit", [1, 0x40])
def test_any_flipped_bit_is_noticed_or_changes_nothing(path, network, bit):
    """A flip within the key of the sum leaves a note of other people, which is right but for that entry."""
    content, taken = path.read_bytes(), 0
    start = 8 + int.from_bytes(content[:8], "little")
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        with contextlib.suppress(MerError):
            found, about = read(path, network), weights_about(path)
            assert place < start
            assert {name: about.get(name) for name in ABOUT} == ABOUT
            assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.items())
            taken += 1
    assert taken < 30  # the key of the sum has 17 letters


@pytest.mark.parametrize("value", [0.0, 1e-3, np.nan])
def test_values_that_were_changed(path, network, value):
    """NaN where it is read, and a value that may well be one."""
    content = bytearray(path.read_bytes())
    start = content.index(network.state_dict()["0.weight"].numpy().tobytes())
    content[start : start + 4] = np.float32(value).tobytes()
    path.write_bytes(content)
    refused(rf"w\.safetensors: is damaged: its tensors or its note are not those that were written; {REMEDY}; ask the "
            "authors", read, path, network)  # fmt: skip
    refused("w.safetensors: is damaged: its tensors or its note", weights_about, path)


def test_weights_and_notes_of_others_are_taken_as_they_are(tmp_path, network):
    path = tmp_path / "w.safetensors"
    for metadata in (None, {"format": "pt"}, {"about": "from the shop"}, {"about": json.dumps(ABOUT)}, {"x": "{}"}):
        safetensors.torch.save_file(network.state_dict(), path, metadata)
        assert torch.equal(read(path, network)["0.weight"], network.state_dict()["0.weight"])
    assert weights_about(path) == {}


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin"])
def test_a_torch_file_whose_bytes_were_changed(tmp_path, network, name):
    path = tmp_path / name
    torch.save(network.state_dict(), path)
    read(path, network)
    content = bytearray(path.read_bytes())
    weight = network.state_dict()["0.weight"].numpy().tobytes()
    content[content.index(weight) + 2] ^= 1
    path.write_bytes(content)
    assert torch.isfinite(torch.load(path, weights_only=True)["0.weight"]).all()  # torch itself does not notice
    refused(rf"{name}: is damaged \(\S*data/0 has another sum than was written\); copy or fetch it again", read, path,
            network)  # fmt: skip


def test_a_torch_file_of_the_old_form_has_no_sums(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read(tmp_path / "w.pth", network)["0.weight"], network.state_dict()["0.weight"])


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_an_error_of_the_system_is_not_called_damage(tmp_path, network, monkeypatch, name):
    (tmp_path / name).write_bytes(b"")

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("builtins.open", fail)
    said = refused(f"{name}: input/output error; the disk or the network behind it", read, tmp_path / name, network)
    assert "again: " not in said
    assert "safetensors file" not in said


# ---- what is meant to harm ------------------------------------------------------------------------------------------


class Payload:
    """What a pickle runs when it is read: it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_a_pickle_runs_nothing(tmp_path, network, form):
    content = {**network.state_dict(), "payload": Payload(tmp_path / "ran")}
    if form == "bare":
        (tmp_path / "w.pth").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=form == "zip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(r"w\.pth: is not a torch file of weights \(Weights only load failed", read, tmp_path / "w.pth", network)
    assert not (tmp_path / "ran").exists()
    with (tmp_path / "w.pth").open("rb") as file:
        torch.load(file, weights_only=False) if form != "bare" else pickle.load(file)
    assert (tmp_path / "ran").exists()  # it would have worked


def test_a_pickle_in_a_folder_of_transformers_runs_nothing(tmp_path):
    import transformers

    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    config.save_pretrained(tmp_path)
    torch.save({"a": Payload(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    refused("the official weights of a network cannot be had", read_official, "ResNetModel", str(tmp_path), "main", {},
            "a network", renamed=dict)  # fmt: skip
    assert not (tmp_path / "ran").exists()


def test_a_torch_file_that_unpacks_to_more_than_it_has_is_refused(tmp_path, network):
    torch.save({**network.state_dict(), "more": torch.zeros(50_000_000, dtype=torch.uint8)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as parts,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in parts.namelist():
            packed.writestr(name, parts.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    refused(r"bomb.pth: unpacks to 5\d{7} bytes, more than it has", read, tmp_path / "bomb.pth", network)


@pytest.mark.parametrize(
    "head",
    [
        {"0.weight": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 8]}},
        {"0.weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 2**60]}},
        {"0.weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [8, 0]}},
        {"0.weight": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}},
    ],
)
def test_a_head_that_lies_is_refused(tmp_path, network, head):
    text = json.dumps(head).encode()
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    refused("is not a safetensors file of weights", read, tmp_path / "w.safetensors", network)


def test_notes_of_others_steer_nothing(tmp_path, network):
    """A note goes into stamps, metrics and the report."""
    path = tmp_path / "w.safetensors"
    for about in ("[" * 100_000, json.dumps({"weights": "\x1b[2J" + "x" * 10**6})):
        safetensors.torch.save_file(network.state_dict(), path, {"about": about})
        assert read(path, network).keys() == network.state_dict().keys()
        said = provenance(path)
        assert said.isprintable()
        assert len(said) < 600
    safetensors.torch.save_file(network.state_dict(), path, {"about": json.dumps({"subjects": ["a"] * 10**5 + [1]})})
    assert len(refused("is no list of names", subjects_seen, path)) < 400
