"""Schedules and early stopping against torch's own."""

import math

import numpy as np
import pytest
import torch

from mer.errors import MerError
from mer.loso.optim import Schedule, stops


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
