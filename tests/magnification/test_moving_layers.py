"""Moving layers against closed forms, and their convention against the public weights and the synthetic corpus."""

import dataclasses

import cv2
import numpy as np
import pandas as pd
import pytest
import skimage.data
import torch

from mer.errors import MerError
from mer.magnification import moving_layers
from mer.magnification.magnet import load_magnet
from mer.magnification.moving_layers import FINER, REACH, draw, frames, paint, quadruples
from mer.synthetic.pool import write_pool

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 32
SIDE = FINER * (SIZE + 2 * REACH)
PHOTOS = [skimage.data.astronaut()[:240, 100:340], skimage.data.chelsea(), skimage.data.coffee()]
PLACE = (np.arange(SIDE) + 0.5) / FINER - 0.5 - REACH  # of the finer grid's pixels, in px of the frame


def wave(x, y, wavelength=(9.0, 14.0)):
    """What the layers of these tests show: brightness at (x, y) px."""
    return 0.4 * np.sin(2 * np.pi * x / wavelength[0]) + 0.4 * np.cos(2 * np.pi * y / wavelength[1])


def layer(opacity=1.0, **arguments) -> np.ndarray:
    """(4, S, S): `wave` on the finer grid."""
    grey = np.broadcast_to(wave(PLACE[None, :], PLACE[:, None], **arguments), (SIDE, SIDE))
    return np.stack([grey, grey, grey, np.broadcast_to(opacity, (SIDE, SIDE))]).astype(np.float32)


def expected(right: float, down: float) -> np.ndarray:
    pixel = np.arange(SIZE)
    return wave(pixel[None, :] - right, pixel[:, None] - down)


# ---- motion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [(0.0, 0.0), (0.05, 0.0), (-0.013, 0.4), (1.37, -2.6), (12.9, -12.9)])
def test_displacement_against_the_closed_form(d):
    seen = frames(torch.from_numpy(layer())[None, None].double(), np.array([[d]]), SIZE)[0, 0].numpy()
    assert np.abs(seen - expected(*d)).max() < 2e-3  # of an amplitude of 0.4: the kernel's ripple


@pytest.mark.parametrize("d", [0.01, 0.05, 0.3, 2.7])
def test_displacement_to_a_thousandth_of_a_px(d):
    """The phase of a wave, from its projection on sine and cosine; down to 4 px, close to the least a frame holds."""
    for length in (4.0, 8.0, 16.0):
        x = np.broadcast_to(np.sin(2 * np.pi * PLACE / length)[None, :], (SIDE, SIDE))
        layers = torch.from_numpy(np.stack([x] * 4))[None, None]
        still, moved = (frames(layers, np.array([[[s, 0.0]]]), SIZE)[0, 0, 0].numpy() for s in (0.0, d))
        carrier = np.exp(-2j * np.pi * np.arange(SIZE) / length)
        phase = np.angle((still * carrier).sum() / (moved * carrier).sum())
        turns = phase / (2 * np.pi) - d / length
        assert abs(turns - round(turns)) * length < 1e-3


def test_the_four_frames_of_a_sample():
    d, factor = (0.31, -0.2), 6.0
    scenes = draw([], batch_size=1, size=SIZE, seed=0, step=0)
    scenes = dataclasses.replace(
        scenes,
        layers=layer()[None, None],
        displacement=np.array([[d]]),
        factor=np.array([factor]),
        gain=np.array([[[1.0] * 3, [0.8, 0.9, 1.0]]], np.float32),
        offset=np.array([[[0.0] * 3, [0.1, -0.1, 0.0]]], np.float32),
        noise=np.zeros_like(scenes.noise),
    )
    a, b, magnified, c, f = (x[0].numpy() for x in paint(scenes))
    assert f == factor
    for k, (gain, offset) in enumerate(((0.8, 0.1), (0.9, -0.1), (1.0, 0.0))):
        np.testing.assert_allclose(a[k], expected(0, 0), atol=2e-3)
        np.testing.assert_allclose(c[k], expected(*d), atol=2e-3)
        np.testing.assert_allclose(b[k], gain * expected(*d) + offset, atol=2e-3)
        np.testing.assert_allclose(magnified[k], gain * expected(7 * d[0], 7 * d[1]) + offset, atol=2e-3)


def test_a_cut_out_moves_with_its_edge_over_the_background():
    """An opaque left half, moved to the right by 3 px: there the cut-out, elsewhere the still background."""
    half = np.broadcast_to(PLACE[None, :] < SIZE / 2, (SIDE, SIDE))
    layers = np.stack([layer(), layer(half, wavelength=(20.0, 5.0))])[None]
    seen = frames(torch.from_numpy(layers), np.array([[[0.0, 0.0], [3.0, 0.0]]]), SIZE)[0, 0].numpy()
    pixel = np.arange(SIZE)
    over = wave(pixel[None, :] - 3, pixel[:, None], (20.0, 5.0))
    np.testing.assert_allclose(seen[:, :16], over[:, :16], atol=0.02)  # 3 px from the edge, where the kernel ends
    np.testing.assert_allclose(seen[:, 22:], expected(0, 0)[:, 22:], atol=0.02)


# ---- what is drawn --------------------------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_and_step_alone():
    def one(seed, step):
        return quadruples(PHOTOS, batch_size=2, size=SIZE, seed=seed, step=step)

    first = one(3, 7)
    one(3, 8)
    again = one(3, 7)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    for other in (one(3, 8), one(4, 7)):
        assert not torch.equal(first.a, other.a)
        assert not torch.equal(first.factor, other.factor)


@pytest.mark.parametrize("images", [[], PHOTOS])
def test_shapes_and_ranges(images):
    batch = quadruples(images, batch_size=3, size=SIZE, seed=0, step=0)
    for frame in batch[:4]:
        assert frame.shape == (3, 3, SIZE, SIZE)
        assert frame.dtype == torch.float32
        assert frame.abs().max() <= 1
    assert batch.factor.shape == (3,)


@pytest.fixture(scope="module")
def many():
    """What 200 samples are drawn as."""
    return [draw([], batch_size=20, size=16, seed=1, step=step) for step in range(10)]


def test_motions_are_those_promised(many):
    speed = np.concatenate([np.hypot(*s.displacement.transpose(2, 0, 1)).max(1) for s in many])
    factor = np.concatenate([s.factor for s in many])
    still = speed == 0
    assert 0 < still.mean() < 3 * moving_layers.STILL
    assert moving_layers.DISPLACEMENT[0] <= speed[~still].min() < 0.1
    assert 2 < speed.max() <= moving_layers.DISPLACEMENT[1]
    assert moving_layers.FACTOR[0] <= factor.min() < 3 < 15 < factor.max() <= moving_layers.FACTOR[1]
    assert 7 < (factor * speed).max() <= moving_layers.LARGEST[1] + 1e-9
    # A layer must reach as far as the largest motion and the kernel.
    assert moving_layers.LARGEST[1] + moving_layers.DISPLACEMENT[1] + moving_layers.LOBES + 1 <= REACH


def test_easy_scenes_move_less_and_keep_their_colours():
    easy, hard = (draw([], batch_size=40, size=16, seed=1, step=0, difficulty=d) for d in (0.0, 1.0))
    largest = [(s.factor * np.hypot(*s.displacement.transpose(2, 0, 1)).max(1)).max() for s in (easy, hard)]
    assert largest[0] <= moving_layers.LARGEST[0] + 1e-9 < largest[1]
    recoloured = [(s.gain != 1).any((1, 2)).mean() for s in (easy, hard)]
    assert recoloured[0] < 0.25 < recoloured[1]


def test_scenes_of_every_kind(many):
    moving = np.concatenate([np.hypot(*s.displacement.transpose(2, 0, 1))[:, 0] > 0 for s in many])
    others = np.concatenate([(np.hypot(*s.displacement.transpose(2, 0, 1))[:, 1:] > 0).any(1) for s in many])
    kinds = {"still": ~moving & ~others, "background": moving & ~others, "cut-outs": ~moving & others}
    assert all(kind.mean() > 0.02 for kind in kinds.values()), kinds
    assert (moving & others).mean() > 0.4


def test_b_and_magnified_share_colours_and_a_and_c():
    """A still scene: what differs is colour and noise."""
    scenes = draw(PHOTOS, batch_size=12, size=SIZE, seed=2, step=0)
    scenes = dataclasses.replace(scenes, displacement=0 * scenes.displacement, noise=0 * scenes.noise)
    a, b, magnified, c, _ = paint(scenes)
    assert torch.equal(a, c)
    assert torch.equal(b, magnified)
    differ = (a != b).flatten(1).any(1)
    assert differ.any()
    assert not differ.all()


# ---- the convention -------------------------------------------------------------------------------------------------


def test_the_public_weights_paint_the_target(reference):
    """Of pairs with one colour, and motions at which these weights magnify."""
    public = load_magnet(reference / "magnet" / "magnet_epoch12_loss7.28e-02.pth")
    scenes = draw(PHOTOS, batch_size=8, size=64, seed=5, step=0)
    speed = np.hypot(*scenes.displacement.transpose(2, 0, 1)).max(1)
    scenes = dataclasses.replace(
        scenes,
        displacement=scenes.displacement / np.maximum(speed, 1e-9)[:, None, None],
        factor=np.full(8, 6.0),
        gain=np.ones_like(scenes.gain),
        offset=np.zeros_like(scenes.offset),
    )
    batch = paint(scenes)
    with torch.no_grad():
        out = public(batch.a, batch.b, batch.factor)
    error, of_b, of_a = ((x - batch.magnified).abs().mean() for x in (out, batch.b, batch.a))
    assert error < 0.75 * of_b < of_a


def test_pairs_of_the_synthetic_corpus_follow_the_other_convention(tmp_path):
    """There, m is a displaced by `factor` times as much, so (M) is to be asked for one less: a + factor * (b - a)."""
    write_pool(tmp_path / "pool", subjects={101: 0}, seed=0, macro=0, clips=0, pairs=3, length=(8, 9))
    rows = pd.read_csv(tmp_path / "pool/pairs/pairs.csv")
    row = rows.loc[(rows["factor"] * rows["peak"]).idxmin()]  # linear where motion is small
    a, b, m = (cv2.imread(str(tmp_path / "pool/pairs" / row[k])).astype(np.float32) for k in ("a", "b", "magnified"))
    a, b, m = (cv2.GaussianBlur(x, (0, 0), 5) for x in (a, b, m))
    slope = float(((b - a) * (m - a)).sum() / ((b - a) ** 2).sum())
    assert abs(slope - row["factor"]) < 0.2 * row["factor"]


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        ([PHOTOS[0], PHOTOS[0][..., 0]], {}, r"image 1 is .240, 240. uint8; needed is .H, W, 3. uint8, RGB: convert"),
        ([PHOTOS[0].astype(np.float32)], {}, r"image 0 is .240, 240, 3. float32"),
        ([None], {}, "image 0 is NoneType"),
        ([PHOTOS[0][:65]], {}, "image 0 is 240x65 px; needed is 66 px at least for frames of 32 px: leave it out, or"),
        ([], {"size": 0}, "size is 0, batch_size 2; needed is 1 at least"),
        ([], {"difficulty": 1.5}, "difficulty is 1.5; needed is 0..1"),
        ([], {"batch_size": 0}, "size is 32, batch_size 0; needed is 1 at least"),
    ],
)
def test_bad_input(images, arguments, message):
    with pytest.raises(MerError, match=f"moving layers: {message}") as caught:
        quadruples(images, **{"batch_size": 2, "size": SIZE, "seed": 0, "step": 0, **arguments})
    assert "\n" not in str(caught.value)
