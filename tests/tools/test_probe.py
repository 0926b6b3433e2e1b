"""The tool that says at which array the information is lost."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mer import corpora
from mer.models import micronbert
from mer.storage.cache import CacheWriter
from tests.helpers.refusals import refused
from tools import probe

NAMES = ["negative", "positive", "surprise"]


def clips(n: int = 60) -> pd.DataFrame:
    """Clips of six subjects and three classes."""
    table = pd.DataFrame({
        "id": [f"c/s{i % 6}/{i:02d}" for i in range(n)], "corpus": "c", "subject": [f"s{i % 6}" for i in range(n)],
        "label": [i // 6 % 3 for i in range(n)],
    })  # fmt: skip
    table.attrs["class_names"] = NAMES
    return table


def test_what_is_there_is_found_and_what_is_not_is_at_chance():
    table, rng = clips(), np.random.default_rng(0)
    labels = table["label"].to_numpy()
    noise = rng.standard_normal((60, 20))
    planted = noise + 3 * np.eye(3)[labels] @ rng.standard_normal((3, 20))
    assert (probe.predictions(planted, labels, table) == labels).mean() > 0.9
    # 60 clips by chance: 1/3 with a deviation of 0.06.
    assert (probe.predictions(noise, labels, table) == labels).mean() < 1 / 3 + 4 * 0.061


def test_the_test_subject_is_never_fitted():
    """A value that names the subject alone: with it, a fitted subject would be told by its own majority."""
    table = clips()
    labels = np.where(table["subject"] == "s0", 2, table["label"] % 2)
    values = np.eye(6)[table["subject"].str[1].astype(int)]
    assert not (probe.predictions(values, labels, table) == labels)[table["subject"] == "s0"].any()


def test_a_turn_of_many_values_changes_no_prediction(monkeypatch):
    from sklearn import decomposition

    table, rng = clips(), np.random.default_rng(1)
    labels, turned = table["label"].to_numpy(), []
    values = rng.standard_normal((60, 80)) + rng.standard_normal((3, 80))[labels]
    fit = decomposition.PCA.fit_transform
    monkeypatch.setattr(decomposition.PCA, "fit_transform", lambda *a, **k: turned.append(1) or fit(*a, **k))
    with_turn = probe.predictions(values, labels, table)
    assert len(turned) == 6
    monkeypatch.setattr(decomposition, "PCA", lambda **how: "passthrough")
    assert np.array_equal(probe.predictions(values, labels, table), with_turn)


# ---- of an experiment -----------------------------------------------------------------------------------------------

KNOBS = {"size": 16, "width": 8, "layers": 1, "heads": 1, "widen": 1, "start": "random"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Pairs of 60 clips, of which the one without a pair is left out; the class is where the apex is bright."""
    monkeypatch.chdir(tmp_path)
    table, rng = clips(), np.random.default_rng(0)
    with CacheWriter(tmp_path / "pair.h5", kind="pair", ragged=False, params={}) as file:
        for clip in table[:-1].itertuples():
            pair = np.repeat(rng.integers(60, 180, (1, 16, 16, 3)), 2, 0)
            pair[1, 5 * clip.label : 5 * clip.label + 5] += 20
            file.append(clip.id, pair.astype(np.uint8))
    experiment = {"c-micronbert": SimpleNamespace(model="micronbert"), "c-linear": SimpleNamespace(model="linear")}
    params = SimpleNamespace(
        experiments=experiment, knobs_of=lambda one: KNOBS, train=SimpleNamespace(seed=0),
        evaluate=SimpleNamespace(seed=0, bootstrap=100),
    )  # fmt: skip
    monkeypatch.setattr(probe, "load", lambda path: params)
    args = {"index": "index.csv", "labels": "c", "classes": 3, "reads": ["pair.h5"]}
    monkeypatch.setattr("mer.plan.derive_training", lambda params, name: {"args": args})
    monkeypatch.setattr("mer.clips.read_index", lambda path: table)
    monkeypatch.setattr(corpora, "select", lambda table, labels, classes: table)
    return table


def test_a_line_an_array_in_the_order_of_the_computation(project, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["probe", "c-micronbert"])
    probe.main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["numbers", "UF1", "95", "%", "shuffled"]
    assert [line.split("  ")[0] for line in lines] == [
        "pixels, mean of a patch", "pixels, length of a patch", "tokens, each", "tokens, length of each",
        "tokens, their mean", "diagonal", "weights W", "P_dma, each", "P_dma, its mean",
    ]  # fmt: skip
    numbers, uf1, low, high, chance = lines[0].removeprefix("pixels, mean of a patch").split()
    assert numbers == "4"
    assert float(uf1) > 0.9
    assert float(low.strip("[,")) <= float(uf1) <= float(high.strip("]"))
    assert float(chance) < 0.6


def test_clips_without_a_product_are_left_out(project):
    arrays, table = probe.arrays_of("c-micronbert")
    assert len(table) == 59
    assert {len(values) for values in arrays.values()} == {59}


def test_frames_that_are_equal_differ_nowhere():
    torch.manual_seed(0)
    network = micronbert.build(3, **KNOBS).eval()
    frames = torch.randint(0, 256, (2, 1, 16, 16, 3), dtype=torch.uint8).expand(-1, 2, -1, -1, -1)
    found = micronbert.probes(network, frames)
    for name, values in found.items():
        if name.startswith(("pixels", "tokens")):
            assert values.abs().max() < 1e-5, name
    torch.testing.assert_close(found["P_dma, each"], network.features(frames)[0])
    assert "diagonal" not in micronbert.probes(micronbert.build(3, **KNOBS, dma=False, poi=False).eval(), frames)


def test_what_cannot_be_probed_is_refused(project, monkeypatch):
    refused("params.yaml has no experiment 'c-micronbet'; did you mean 'c-micronbert'?", probe.arrays_of, "c-micronbet")
    refused(
        "c-linear: mer/models/linear.py declares no probes; see mer/models/__init__.py", probe.arrays_of, "c-linear"
    )
    monkeypatch.setattr(sys, "argv", ["probe"])
    with pytest.raises(SystemExit) as ended:
        probe.main()
    assert ended.value.code == 2
