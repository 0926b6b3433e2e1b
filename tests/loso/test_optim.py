"""Stacked Adam, schedules and early stopping against torch's own, fold by fold."""

import math

import numpy as np
import pytest
import torch

from mer.errors import MerError
from mer.loso.optim import Schedule, StackedAdam, stops


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_every_fold_moves_as_torch_moves_it(decoupled, decay, dtype, limit):
    """Four folds, two tensors' worth of values each, steps left out at random, rates of their own."""
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.normal(size=(4, 3, 5)), dtype=dtype)
    stacked = start.clone()
    ours = StackedAdam(stacked, weight_decay=decay, decoupled=decoupled)
    alone = [torch.nn.Parameter(start[k].clone()) for k in range(4)]
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    theirs = [kind([p], lr=1.0, weight_decay=decay) for p in alone]
    for _ in range(200):
        active, rate = rng.random(4) < 0.7, 10.0 ** rng.uniform(-4, -1, 4)
        gradient = torch.tensor(rng.normal(size=(4, 3, 5)), dtype=dtype)
        before = stacked.clone()
        hidden = gradient.clone()
        hidden[torch.from_numpy(~active)] = math.nan  # what a fold without a batch has there must not matter
        ours.step(hidden, rate, active)
        for k in range(4):
            if active[k]:
                theirs[k].param_groups[0]["lr"] = rate[k]
                alone[k].grad = gradient[k]
                theirs[k].step()
            else:
                assert torch.equal(stacked[k], before[k])
    torch.testing.assert_close(stacked, torch.stack([p.detach() for p in alone]), rtol=limit, atol=limit)


def test_folds_that_go_on_without_the_others_keep_their_moments():
    gradient = torch.randn(3, 4, dtype=torch.float64)
    whole, part = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    a, b = StackedAdam(whole), StackedAdam(part)
    for adam in (a, b):
        adam.step(gradient, [0.1] * 3, [True, True, True])
    kept = torch.tensor([0, 2])
    part = part[kept]
    b.select(part, kept)
    a.step(gradient * 2, [0.1] * 3, [True] * 3)
    b.step(gradient[kept] * 2, [0.1] * 2, [True] * 2)
    assert torch.equal(whole[kept], part)


def torch_rates(make, epochs, losses=None):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, rates = make(optimizer), []
    for epoch in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([losses[epoch]] if losses is not None else []))
    return rates


def test_schedules_are_torchs():
    from torch.optim import lr_scheduler as of

    step = Schedule(kind="step", lr=0.1, epochs=50, every=7, factor=0.3)
    assert [step.rate(e) for e in range(50)] == pytest.approx(torch_rates(lambda o: of.StepLR(o, 7, 0.3), 50))
    cosine = Schedule(kind="cosine", lr=0.1, epochs=50, lowest=0.01)
    expected = torch_rates(lambda o: of.CosineAnnealingLR(o, 50, 0.01), 50)
    assert [cosine.rate(e) for e in range(50)] == pytest.approx(expected)
    assert {Schedule(lr=0.1, epochs=9).rate(e) for e in range(9)} == {0.1}


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_is_torchs(patience):
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    rng = np.random.default_rng(patience)
    losses = (1 / np.arange(1, 81) + rng.normal(0, 0.05, 80) ** 2).tolist()
    expected = torch_rates(
        lambda o: ReduceLROnPlateau(o, factor=0.5, patience=patience, min_lr=1e-3, eps=0), 80, losses
    )
    ours = Schedule(kind="plateau", lr=0.1, epochs=80, factor=0.5, patience=patience, lowest=1e-3)
    assert len(set(expected)) > 1
    assert [ours.rate(e, losses[:e]) for e in range(80)] == pytest.approx(expected)


def test_warm_up_grows_evenly_and_the_wave_starts_after_it():
    cosine = Schedule(kind="cosine", lr=0.1, epochs=24, warmup=4)
    rates = [cosine.rate(e) for e in range(24)]
    assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert rates[4:] == pytest.approx([0.1 * (1 + math.cos(math.pi * e / 20)) / 2 for e in range(20)])


def test_a_schedule_that_cannot_be_is_refused():
    for wrong in ({"kind": "poly"}, {"warmup": 9}, {"every": 0}, {"factor": 1.0}, {"lowest": 1.0}):
        with pytest.raises(MerError):
            Schedule(**{"lr": 0.1, "epochs": 9, **wrong})


def test_early_stopping_waits_for_its_patience():
    assert not stops([3, 2, 1], 2)
    assert not stops([3, 1, 2], 2)
    assert stops([3, 1, 2, 1], 2)
    assert not stops([3, 1, 2, 0.9], 2)
    assert not stops([1, 2, 3, 4], None)
