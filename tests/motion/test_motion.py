"""Flow against known motions, strain against closed forms."""

import numpy as np
import pytest
import skimage.data
from scipy.ndimage import map_coordinates

from mer.errors import MerError
from mer.motion.strain import flow_image, optical_strain
from mer.motion.tvl1 import tvl1

X, Y = np.meshgrid(np.arange(40, dtype=np.float32), np.arange(30, dtype=np.float32))
K = 0.01


@pytest.mark.parametrize(
    ("name", "u", "v", "strain"),
    [
        ("translation", 0 * X + 3, 0 * X - 2, 0),
        ("rotation", -K * Y, K * X, 0),  # a small one moves rigidly
        ("shear", K * Y, 0 * X, K / np.sqrt(2)),
        ("stretch", K * X, 0 * X, K),
        ("expansion", K * X, K * Y, K * np.sqrt(2)),
    ],
)
def test_strain_of_closed_forms(name, u, v, strain):
    # Linear fields: differences are exact but for the rounding of float32 (values up to 3, steps of 1e-7).
    np.testing.assert_allclose(optical_strain(np.stack([u, v])), strain, atol=1e-6)


def test_flow_image_and_batches():
    flow = np.random.default_rng(0).normal(size=(4, 2, 12, 10)).astype(np.float32)
    batch = flow_image(flow)
    assert batch.shape == (4, 3, 12, 10)
    for one, many in zip(flow, batch, strict=True):
        np.testing.assert_array_equal(flow_image(one), many)
        np.testing.assert_array_equal(many[2], optical_strain(one))


@pytest.mark.parametrize("shape", [(30, 40), (3, 30, 40), (2, 1, 40)])
def test_strain_refuses_what_is_no_flow(shape):
    with pytest.raises(MerError, match="optical_strain"):
        optical_strain(np.zeros(shape))


@pytest.fixture(scope="module")
def pair():
    """A photograph and itself moved by (1.25, -0.75) px: next(x) = prev(x - flow)."""
    prev = skimage.data.camera()[100:260, 150:330].astype(float)
    y, x = np.mgrid[: prev.shape[0], : prev.shape[1]].astype(float)
    moved = map_coordinates(prev, [y + 0.75, x - 1.25], order=3, mode="nearest")
    return prev.round().astype(np.uint8), np.clip(moved.round(), 0, 255).astype(np.uint8)


def test_tvl1_of_a_translation(pair):
    flow = tvl1(*pair)
    assert flow.shape == (2, 160, 180)
    assert flow.dtype == np.float32
    error = np.hypot(flow[0] - 1.25, flow[1] + 0.75)[16:-16, 16:-16]
    # 8-bit rounding and flat sky: well under a tenth of the motion of 1.46 px
    assert error.mean() < 0.1
    u, v = np.median(flow[0]), np.median(flow[1])
    assert u == pytest.approx(1.25, abs=0.05)  # x is right and comes first
    assert v == pytest.approx(-0.75, abs=0.05)  # y is down


def test_tvl1_batched_equals_single_and_uint8_equals_float(pair):
    prev, moved = (p[40:100, 40:110] for p in pair)
    single = tvl1(prev, moved)
    batch = tvl1(np.stack([prev, prev]), np.stack([moved, prev]))
    np.testing.assert_array_equal(batch[0], single)
    assert not batch[1].any()  # a still pair has no motion at all
    np.testing.assert_array_equal(tvl1(prev.astype(np.float32) / 255, moved.astype(np.float32) / 255), single)


def test_constant_images_have_no_flow():
    assert not tvl1(np.full((32, 32), 9, np.uint8), np.full((32, 32), 9, np.uint8)).any()
    flow = tvl1(np.full((32, 32), 9, np.uint8), np.full((32, 32), 30, np.uint8))
    assert np.isfinite(flow).all()


@pytest.mark.parametrize(
    ("prev", "following", "message"),
    [
        (np.zeros((32, 32)), np.zeros((32, 33)), "both must be one shape"),
        (np.zeros((32, 32, 3, 1)), np.zeros((32, 32)), "one channel"),
        (np.full((32, 32), np.nan), np.zeros((32, 32)), "not finite"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "at least 4x4"),
    ],
)
def test_tvl1_refuses(prev, following, message):
    with pytest.raises(MerError, match=message):
        tvl1(prev, following)
