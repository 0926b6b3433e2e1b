"""Moving skin: its motion is what it says, seen without any of its code where that is possible."""

import numpy as np
import pytest
import torch

from mer.magnification import moving_layers, moving_skin
from mer.magnification.moving_layers import FACTOR, LARGEST, REACH
from mer.magnification.moving_skin import STEEPEST, draw_field, quadruples, seen
from tests.helpers.refusals import refused

SIZE = 32
SIDE = SIZE + 2 * REACH
PHOTO = np.random.default_rng(0).integers(0, 256, (SIDE + 9, SIDE + 5, 3), np.uint8)


@pytest.fixture(scope="module")
def places():
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    return torch.from_numpy(np.stack([x, y], -1).reshape(-1, 2).astype(float))


@pytest.fixture(scope="module")
def fields():
    return [draw_field(SIZE, 1.0, np.random.default_rng(seed)) for seed in range(60)]


def test_a_place_is_found_again_where_it_came_from(fields, places):
    for field, factor in fields:
        for amount in (1.0, 1 + factor):
            there = field.origin(places, amount)
            # The iteration ends at 1e-4 px a step and shrinks by 0.6 a step at least: 2.5e-4 px are left at most.
            assert torch.allclose(there + amount * field.at(there), places, atol=3e-4)


def test_the_steepest_slope_is_that_of_finite_differences(fields, places):
    for field, _ in fields[:10]:
        h = 1e-4
        along = [(field.at(places + torch.tensor(d)) - field.at(places - torch.tensor(d))) / (2 * h)
                 for d in ([h, 0.0], [0.0, h])]  # fmt: skip
        expected = torch.stack(along, -1).square().sum((1, 2)).sqrt().max()
        assert field.steepest(places) == pytest.approx(float(expected), rel=1e-5, abs=1e-9)


def test_nothing_folds_and_nothing_is_magnified_beyond_what_was_asked(fields, places):
    moving = 0
    for field, factor in fields:
        peak = float(field.at(places).norm(dim=1).max())
        assert (1 + factor) * field.steepest(places) <= STEEPEST * 1.001
        assert factor <= FACTOR[1]
        assert factor * peak <= LARGEST[1] * 1.001
        moving += peak > 0
    assert 0.8 * len(fields) < moving < len(fields)  # some stand still


def test_a_frame_shows_what_lay_where_it_came_from(fields, places):
    """On a ramp the brightness of a pixel is the place that it shows, with no interpolation error at all."""
    finer = moving_layers.FINER
    ramp = ((torch.arange(finer * SIDE) + 0.5) / finer - 0.5 - REACH) / 100  # px of the frame by 100
    skin = torch.stack(
        [ramp.expand(len(ramp), -1), ramp[:, None].expand(-1, len(ramp)), 0 * ramp.expand(len(ramp), -1)]
    )
    for field, factor in fields[:8]:
        origin = field.origin(places, 1 + factor)
        found = seen(skin.float(), origin, SIZE)
        for axis in (0, 1):
            # float32 places in a grid of -1..1: 1e-7 of 66 px, cubic weights: 1e-5 px.
            assert torch.allclose(100 * found[axis].flatten().double(), origin[:, axis], atol=1e-3)


def test_a_batch_follows_from_seed_and_step_alone():
    how = {"batch_size": 2, "size": SIZE, "seed": 3}
    one, again, other = (quadruples([PHOTO], **how, step=step) for step in (5, 5, 6))
    assert all(torch.equal(x, y) for x, y in zip(one, again, strict=True))
    assert not torch.equal(one.a, other.a)
    assert one.a.shape == one.magnified.shape == (2, 3, SIZE, SIZE)
    assert one.factor.shape == (2,)
    assert max(float(x.abs().max()) for x in one[:4]) <= 1


def test_without_colours_and_noise_b_is_c_and_a_still_face_is_itself(monkeypatch):
    def plain(size, difficulty, rng):
        return np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32), np.zeros((2, 3, size, size), np.float32)

    monkeypatch.setattr(moving_layers, "colours", plain)
    monkeypatch.setattr(moving_skin, "STILL", 1.0)
    a, b, magnified, c, _ = quadruples([PHOTO], batch_size=2, size=SIZE, seed=0, step=0)
    assert torch.equal(b, c)
    assert torch.equal(a, b)
    assert torch.equal(a, magnified)
    monkeypatch.setattr(moving_skin, "STILL", 0.0)
    a, b, magnified, c, _ = quadruples([PHOTO], batch_size=2, size=SIZE, seed=0, step=0)
    assert torch.equal(b, c)
    assert float((a - magnified).abs().mean()) > float((a - b).abs().mean()) > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "moving skin: there are no images; give portraits, or train on layers alone"),
        ([PHOTO[:SIDE - 1]], "moving layers: image 0 is"),
    ],
)  # fmt: skip
def test_images_that_cannot_be_used_are_refused(images, message):
    refused(message, quadruples, images, batch_size=1, size=SIZE, seed=0, step=0)
