"""Stage restore: numbers and pictures of a pretrained network, from shards of random frames."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from mer.models import micronbert
from mer.params import load
from mer.storage.cache import CacheWriter
from mer.storage.weights import save_weights
from stages import restore
from tests.helpers.refusals import refused

pytestmark = pytest.mark.usefixtures("one_thread")

KNOBS = {"width": 16, "layers": 1, "heads": 2, "widen": 2}
RUN = {"knobs": KNOBS, "size": 32, "gap": [2, 4], "min_block": 2, "pool": "tiny", "corpora": []}


@pytest.fixture(scope="module")
def params():
    return load("params.yaml")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Shards of three people and a network that was not trained."""
    rng = np.random.default_rng(0)
    (tmp_path / "data/frames/tiny-pool-32").mkdir(parents=True)
    for subject in "abc":
        path = tmp_path / f"data/frames/tiny-pool-32/{subject}.h5"
        with CacheWriter(path, kind="recording_frames", ragged=True, params={}) as shard:
            frames = rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
            shard.append(f"pool/{subject}/r/1", frames, fps=np.float64(200))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(params, curve=("2 0.6 0.5 0.1", "4 0.3 0.2 0.1"), **changes) -> dict:
    entry = params.pretrain.runs["micronbert"].model_copy(update={**RUN, **changes})
    torch.manual_seed(0)
    network = micronbert.build_pretrained(**entry.knobs, size=32)
    about = {"weights": "made up"} | ({"loss": list(curve)} if curve else {})
    save_weights(network, "data/weights/micronbert.safetensors", about)
    named = SimpleNamespace(pretrain=SimpleNamespace(runs={"micronbert": entry}, seed=0))
    restore.main(SimpleNamespace(params=named, key="micronbert", device="cpu"))
    with open("metrics/pretraining/micronbert.json") as file:
        return json.load(file, parse_constant=pytest.fail)


def test_numbers_are_those_of_the_pairs(project, params):
    found = drawn(params)
    assert found["steps"] == 4
    assert found["pairs"] == 24  # of three recordings of ten frames, eight with a partner two frames later each
    # Independent frames, uniform in 0..255: the squared difference of two is 2 x the variance of one, which is
    # (256^2 - 1) / 12, in units of ImageNet's deviations.
    variance = (256**2 - 1) / 12 * np.mean([1 / (255 * d) ** 2 for d in micronbert.DEVIATION])
    assert found["copied"]["swapped"] == pytest.approx(2 * variance, rel=0.03)
    assert found["copied"]["others"] == pytest.approx(2 * variance, rel=0.03)
    assert 0.4 < found["swapped_lower"] < 0.6  # nothing was learned
    for name in ("pairs", "loss"):
        assert cv2.imread(f"metrics/pretraining/micronbert/{name}.png").std() > 10


def test_a_masked_autoencoder_has_no_diagonal(project, params):
    found = drawn(params, knobs={**KNOBS, "pretext": "mask", "dma": False, "poi": False}, ratio=0.75)
    assert found["swapped_lower"] is None
    assert found["error"]["others"] > 0


@pytest.mark.parametrize("target", ["unit", "patch"])
def test_a_restored_picture_is_in_grey_levels_whatever_the_target_is(project, params, target, monkeypatch):
    """A network that restores what is wanted draws frame t."""
    monkeypatch.setattr(
        micronbert.Autoencoder, "forward",
        lambda self, first, other, cells: micronbert.Restored(self.wanted(first, target), None, None, None),
    )  # fmt: skip
    seen, draw = [], restore.restored.pairs_figure
    monkeypatch.setattr(restore.restored, "pairs_figure", lambda shown, *how: (seen.append(shown), draw(shown, *how)))
    found = drawn(params, target=target, knobs={**KNOBS, "dma": False, "poi": False})
    assert found["error"]["swapped"] < 1e-10
    assert np.array_equal(seen[0].restored, seen[0].first)
    assert len(seen[0].first) == 3  # a pair of each recording
    cells = seen[0].cells.repeat(8, 1).repeat(8, 2)
    assert np.array_equal(seen[0].given[cells], seen[0].other[cells])
    assert np.array_equal(seen[0].given[~cells], seen[0].first[~cells])


def test_the_users_own_weights_have_no_curve(project, params):
    assert drawn(params, curve=())["steps"] is None
    assert not (project / "metrics/pretraining/micronbert/loss.png").exists()


def test_equal_runs_have_equal_bytes(project, params):
    drawn(params)
    first = [path.read_bytes() for path in sorted((project / "metrics").rglob("*.*"))]
    drawn(params)
    assert [path.read_bytes() for path in sorted((project / "metrics").rglob("*.*"))] == first


def test_weights_of_another_pretext_are_refused(project, params):
    drawn(params)
    entry = params.pretrain.runs["micronbert"].model_copy(update={**RUN, "knobs": {**KNOBS, "poi": False}})
    named = SimpleNamespace(pretrain=SimpleNamespace(runs={"micronbert": entry}, seed=0))
    line = "micronbert.safetensors: was pretrained as pretext swap, dma True, poi True, heads 2; needed is pretext swap"
    refused(line, restore.main, SimpleNamespace(params=named, key="micronbert", device="cpu"))


def test_the_level_in_the_loss_curve_is_the_loss_of_a_network_that_gives_back_what_it_is_given(
    project, params, monkeypatch
):
    monkeypatch.setattr(
        micronbert.Autoencoder, "forward",
        lambda self, *frames: micronbert.Restored(self.wanted(self.seen(*frames), "imagenet"), None, None, None),
    )  # fmt: skip
    found = drawn(params, knobs={**KNOBS, "dma": False, "poi": False})
    share = found["error"]["swapped"] / found["copied"]["swapped"]
    assert share == pytest.approx(1, rel=1e-5)
    assert found["error"]["others"] == 0
    both = found["error"]
    # The mean over all patches, as eq. (14) has it; half of them are swapped, within the last block.
    assert found["given_back"] == pytest.approx(both["swapped"] / 2, rel=0.3)
    assert found["given_back"] < both["swapped"]
