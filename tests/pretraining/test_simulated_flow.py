"""Task simulated_flow: it learns, it goes on after a kill with the same bits, and its note says what it can."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mer.errors import MerError
from mer.facs import CLASSES, TARGETS
from mer.networks import action_units
from mer.pretraining import Context, run
from mer.pretraining import simulated_flow as task
from mer.synthetic.flow_maps import Nuisance, draw

ENTRY = {"task": "simulated_flow", "network": "action_units", "knobs": {"width": 4}, "user_weights": None,
         "bundled": None, "steps": 4, "batch_size": 8, "lr": 1e-3, "weight_decay": 1e-4, "emotion": 1.0,
         "nuisance": {}}  # fmt: skip
CONTEXT = Context(where="pretrain.runs.action_units")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(task, "HELD_OUT", 256)


def network(seed=0, width=4):
    torch.manual_seed(seed)
    return action_units.build_pretrained(width)


def train(one, **changes):
    return task.train(one, Nuisance(), **({"steps": 6, "batch_size": 8, "lr": 1e-3} | changes))


def bits(one):
    return {name: value.clone() for name, value in one.state_dict().items()}


@pytest.mark.slow
def test_it_learns_units_and_classes():
    """Chance is 1/3 and 1/2; a hundred steps of a small network are far above, on maps that it has not seen."""
    one = network(width=8)
    before = task.scores(one, draw(np.random.default_rng(9), 500))
    after = train(one, steps=100, batch_size=64, lr=3e-3)
    assert before["uar"] < 0.5
    assert before["auc"] < 0.65
    assert after["uar"] > 0.65
    assert after["auc"] > 0.75


def test_a_killed_training_ends_with_the_same_bits(tmp_path):
    one, other = network(), network()
    whole = train(one)
    with pytest.raises(KeyboardInterrupt):
        _interrupted(other, tmp_path / "kept.pt")
    again = network()
    assert train(again, checkpoint=tmp_path / "kept.pt", every=2) == whole
    assert all(torch.equal(value, bits(again)[name]) for name, value in bits(one).items())


def _interrupted(one, path):
    forward, count = one.forward, []

    def dying(maps):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return forward(maps)

    one.forward = dying
    train(one, checkpoint=path, every=2)


def test_the_run_and_its_note():
    made = run(ENTRY, CONTEXT)
    assert made.about["weights"] == "task: simulated_flow, 4 steps of 8 simulated maps"
    assert 0 <= float(made.about["uar"]) <= 1
    assert "subjects" not in made.about
    same = run(ENTRY, CONTEXT)
    assert all(torch.equal(value, bits(same.network)[name]) for name, value in bits(made.network).items())
    other = run(ENTRY, replace(CONTEXT, seed=1))
    assert not torch.equal(other.network.head.weight, made.network.head.weight)
    assert made.network.head.weight.shape == (len(TARGETS) + len(CLASSES), 128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nuisance": {"smoth": 1}}, r"action_units.nuisance.smoth is unknown; did you mean 'smooth'"),
        ({"nuisance": {"smooth": 2}}, r"nuisance: flow maps: smooth is 2; a share is 1 at most; correct smooth"),
        ({"nuisance": {"peak": [2, 1]}}, r"nuisance: flow maps: peak is \(2, 1\); needed are two numbers"),
        ({"network": "vit"}, r"action_units.network: vit tells no action units; take action_units"),
    ],
)
def test_what_it_refuses(changes, message):
    with pytest.raises(MerError, match=message):
        run(ENTRY | changes, CONTEXT)


def test_a_rate_that_is_too_high_is_named():
    with pytest.raises(MerError, match=r"simulated_flow: step \d+ of 60: .*lower lr"):
        train(network(), steps=60, lr=1e30)
