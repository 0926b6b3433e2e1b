"""Augmentation: faces and their vectors, each clip by its own draw."""

import dataclasses

import numpy as np
import pytest
import torch

from mer import models
from mer.errors import MerError
from mer.loso.augmentation import AS_IT_IS, Augmentation, of_model
from mer.loso.recipe import Recipe
from mer.motion.transforms import mirror_flow, turn_flow


def flow(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.interpolate(torch.randn(n, 3, 5, 6, generator=generator), size=(20, 24), mode="bicubic")


def test_each_clip_is_changed_by_its_own_draw():
    """Against the flow transforms one clip at a time, which are tested by flowing turned and mirrored faces."""
    x = flow()
    change = Augmentation(mirror_flow, 20.0, 0.2, (0, 1))
    drawn = np.array([[1, 0, 1], [0, 12, 1.1], [1, -7, 0.9], [0, 0, 1]], dtype=float)
    got = change(x, drawn)
    for k, (mirrored, degrees, scale) in enumerate(drawn):
        one = mirror_flow(x[k : k + 1]) if mirrored else x[k : k + 1]
        torch.testing.assert_close(got[k : k + 1], turn_flow(one, degrees, scale), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[3], x[3], atol=1e-5, rtol=1e-5)


def test_vectors_may_stand_in_any_channels_or_in_none():
    x = flow()
    drawn = np.tile([0, 15.0, 1.0], (4, 1))
    last = Augmentation(rotate=15.0, vectors=(2, 1))(x[:, [2, 1, 0]], drawn)
    first = Augmentation(rotate=15.0, vectors=(0, 1))(x, drawn)
    torch.testing.assert_close(last[:, [2, 1, 0]], first)
    picture = Augmentation(rotate=15.0)(x, drawn)
    torch.testing.assert_close(picture[:, 2], first[:, 2])
    assert not torch.allclose(picture[:, 0], first[:, 0], atol=1e-3)


def test_draws_are_in_range_and_move_the_sampler_only_for_changes_that_are_on():
    drawn = Augmentation(mirror_flow, 10.0, 0.1).draw(np.random.default_rng(0), 4000)
    assert drawn[:, 0].mean() == pytest.approx(0.5, abs=0.04)  # five deviations
    assert -10 <= drawn[:, 1].min() < -9.9
    assert 9.9 < drawn[:, 1].max() <= 10
    assert 0.9 <= drawn[:, 2].min() < 0.901
    assert 1.099 < drawn[:, 2].max() <= 1.1
    sampler = np.random.default_rng(0)
    np.testing.assert_array_equal(Augmentation().draw(sampler, 3), np.tile(AS_IT_IS, (3, 1)))
    assert sampler.random() == np.random.default_rng(0).random()


def test_what_a_model_does_not_declare_is_refused():
    plain = dataclasses.replace(models.load("ststnet"), mirror=None)
    assert of_model(plain, Recipe()) is None
    with pytest.raises(MerError, match=r"mer/models/ststnet.py declares no `mirror`"):
        of_model(plain, Recipe(mirror=True))
    with pytest.raises(MerError, match=r"mer/models/ststnet.py declares no VECTORS"):
        of_model(plain, Recipe(zoom=0.1))
    found = of_model(dataclasses.replace(plain, declares_vectors=True, vectors=(0, 1)), Recipe(rotate=10.0))
    assert (found.mirror, found.rotate, found.vectors) == (None, 10.0, (0, 1))
