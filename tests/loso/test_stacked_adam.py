"""Stacked Adam against torch's own, fold by fold."""

import math

import numpy as np
import pytest
import torch

from mer.loso.stacked_adam import StackedAdam


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_every_fold_moves_as_torch_moves_it(optimizer, decay, dtype, limit):
    """Four folds, two tensors' worth of values each, steps left out at random, rates of their own."""
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.normal(size=(4, 3, 5)), dtype=dtype)
    stacked = start.clone()
    ours = StackedAdam(stacked, weight_decay=decay, optimizer=optimizer)
    alone = [torch.nn.Parameter(start[k].clone()) for k in range(4)]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
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
