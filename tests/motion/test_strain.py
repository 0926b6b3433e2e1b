"""Strain against closed forms, flow as a picture, and flow mirrored and turned."""

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from mer.errors import MerError
from mer.models import linear
from mer.motion.strain import flow_image, optical_strain, three_channels
from mer.motion.transforms import mirror_flow, turn_flow, turn_images
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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_strain_of_no_number_is_refused(value):
    """It would spread to the neighbours, and a network to all of its weights."""
    flow = np.zeros((3, 2, 9, 9), np.float32)
    flow[1, 0, 4, 4] = value
    for function in (optical_strain, flow_image):
        with pytest.raises(MerError, match="optical_strain: flow 1 of 3 has values that are not finite; check"):
            function(flow)
        with pytest.raises(MerError, match="optical_strain: flow has values that are not finite; check"):
            function(flow[1])
    for scaling in ("fixed", "min_max"):
        with pytest.raises(MerError, match="unit_channels: image has values that are not finite"):
            three_channels(np.concatenate([flow[1], flow[1, :1]]), scaling)


@pytest.mark.parametrize("function", [optical_strain, flow_image, mirror_flow, lambda f: turn_flow(f, 5.0)])
@pytest.mark.parametrize("shape", [(30, 40, 2), (5, 30, 40, 2)])
def test_channels_last_are_refused(function, shape):
    with pytest.raises(MerError, match="flow is"):
        function(np.zeros(shape, np.float32))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_with_channels_last_are_not_turned(channels):
    """Their rows would be taken for channels, and turned in the plane of columns and channels."""
    with pytest.raises(MerError, match=r"turn: images are .2, 30, 40, .., channels last; needed is .N, C, H, W."):
        turn_images(torch.zeros(2, 30, 40, channels), 5.0)


@pytest.mark.parametrize("shape", [(30, 40), (3, 30, 40), (2, 1, 40)])
def test_strain_refuses_what_is_no_flow(shape):
    with pytest.raises(MerError, match="optical_strain"):
        optical_strain(np.zeros(shape))


# ---- flow as a picture ----------------------------------------------------------------------------------------------


def flow_images(seed=0, n=3):
    rng = np.random.default_rng(seed)
    flow = np.stack([gaussian_filter(rng.normal(size=(2, 40, 52)), (0, 4, 4)) for _ in range(n)])
    return flow_image((0.3 * flow / np.abs(flow).max()).astype(np.float32))


def test_s13_scaling_of_the_three_channels():
    """S-13: a fixed symmetric range by default, min-max of each picture as the alternative; then ImageNet's mean."""
    images = flow_images()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def unit(x):
        return x * std[:, None, None] + mean[:, None, None]

    fixed, own = three_channels(images), three_channels(images, "min_max")
    assert fixed.dtype == own.dtype == np.float32
    limits = np.array([2, 2, 0.1])[:, None, None]
    np.testing.assert_allclose(unit(fixed), np.clip(images / limits, -1, 1) / 2 + 0.5, atol=1e-6)
    assert np.abs(unit(own).min((-2, -1))).max() < 1e-6
    assert np.abs(unit(own).max((-2, -1)) - 1).max() < 1e-6
    assert np.abs(fixed - own).max() > 0.1
    np.testing.assert_array_equal(three_channels(images[1]), fixed[1])  # a clip does not see the others
    still = np.zeros((3, 8, 8), np.float32)
    for scaling in ("fixed", "min_max"):
        np.testing.assert_allclose(unit(three_channels(still, scaling)), 0.5, atol=1e-6)
    # Twice the motion is twice the contrast with a fixed range, and the same picture with its own.
    np.testing.assert_allclose(unit(three_channels(images / 2)) - 0.5, (unit(fixed) - 0.5) / 2, atol=1e-6)
    np.testing.assert_allclose(three_channels(images / 2, "min_max"), own, atol=1e-5)


def test_three_channels_refuses():
    with pytest.raises(MerError, match=r"scaling 'minmax' is unknown; did you mean 'min_max'"):
        three_channels(flow_images()[0], "minmax")
    with pytest.raises(MerError, match=r"needed is .3, H, W."):
        three_channels(np.zeros((2, 8, 8)))
    with pytest.raises(MerError, match="three positive numbers"):
        three_channels(np.zeros((3, 8, 8)), limits=(1, 0, 1))
    with pytest.raises(MerError, match="three positive numbers"):
        three_channels(np.zeros((3, 8, 8)), limits=(1, np.nan, 1))


def test_s14_strain_is_the_sum_of_squares_of_normal_and_shear_components():
    """S-14, by the tensor: the Frobenius norm of (grad w + grad w^T) / 2; what eq. 9 prints would be another number."""
    a, b, c, d = 0.011, -0.02, 0.03, 0.005
    tensor = np.array([[a, b], [c, d]])
    symmetric = (tensor + tensor.T) / 2
    found = optical_strain(np.stack([a * X + b * Y, c * X + d * Y]))
    np.testing.assert_allclose(found, np.linalg.norm(symmetric), atol=1e-6)
    assert abs(np.linalg.norm(symmetric) - np.sqrt(a**2 + d**2 + (a + a) ** 2 / 2)) > 1e-3


# ---- mirrored and turned --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_mirrored_flow(kind):
    images = flow_images()
    mirrored = np.asarray(mirror_flow(kind(images)))
    np.testing.assert_array_equal(mirrored[:, 0], -images[:, 0, :, ::-1])
    np.testing.assert_array_equal(mirrored[:, 1], images[:, 1, :, ::-1])
    # Strain of the mirrored flow is the mirrored strain: no sign to change.
    np.testing.assert_allclose(optical_strain(mirrored[:, :2]), mirrored[:, 2], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(mirror_flow(mirror_flow(kind(images)))), images)
    np.testing.assert_array_equal(linear.mirror(images), mirrored)  # the baseline means the same by it


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_quarter_turn_is_exact(kind):
    images = np.ascontiguousarray(flow_images()[..., :40, :40])
    turned = np.asarray(turn_flow(kind(images), 90.0))
    # Clockwise on the screen: what moved right now moves down, and stands where the picture's quarter turn puts it.
    rotated = np.rot90(images, k=-1, axes=(-2, -1))
    expected = np.stack([-rotated[:, 1], rotated[:, 0], rotated[:, 2]], axis=1)
    np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_turned_flow_keeps_lengths_and_strain_and_scaling_stretches_vectors():
    y, x = np.mgrid[:61, :81].astype(np.float32)
    expansion = np.stack([0.01 * (x - 40), 0.01 * (y - 30)])[None]  # looks the same from every angle
    middle = np.s_[..., 20:-20, 25:-25]
    for degrees, scale in ((17.0, 1.0), (-33.0, 1.1), (0.0, 0.9)):
        np.testing.assert_allclose(turn_flow(expansion, degrees, scale)[middle], expansion[middle], atol=1e-5)
    constant = np.tile(np.array([1.0, 0.0], np.float32)[:, None, None], (2, 1, 61, 81)).reshape(2, 2, 61, 81)
    turned = turn_flow(constant, np.array([30.0, 60.0], np.float32), np.array([1.0, 2.0], np.float32))
    for k, (angle, length) in enumerate(((30, 1), (60, 2))):
        expected = length * np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
        np.testing.assert_allclose(turned[k, :, 30, 40], expected, atol=1e-6)
    whole = flow_images(1)
    np.testing.assert_allclose(turn_flow(whole, 0.0), whole, atol=1e-5)


def test_flowing_a_turned_pair_gives_the_turned_flow():
    photo = skimage.data.camera()[90:290, 130:330].astype(np.float32)
    y, x = np.mgrid[:200, :200].astype(np.float32)
    moved = map_coordinates(photo, [y + 0.8 * np.exp(-((x - 90) ** 2 + (y - 110) ** 2) / 1800), x + 0.9], order=3)
    pair = [cv2.GaussianBlur(i, (0, 0), 0.7).round().clip(0, 255).astype(np.uint8) for i in (moved, photo)]
    matrix = cv2.getRotationMatrix2D((99.5, 99.5), -12, 1.0)  # OpenCV counts anticlockwise
    turned = [cv2.warpAffine(i, matrix, (200, 200), flags=cv2.INTER_CUBIC) for i in pair]
    expected = turn_flow(tvl1(*pair)[None], 12.0)[0]
    difference = np.hypot(*(tvl1(*turned) - expected))[45:-45, 45:-45]
    assert difference.mean() < 0.08  # two estimates, each 0.03 to 0.05 px from the truth of about 1 px


@pytest.mark.parametrize(
    ("degrees", "scale", "message"),
    [(np.zeros(2), 1.0, "degrees has shape"), (np.nan, 1.0, "degrees"), (0.0, 0.0, "scale must be positive")],
)
def test_turn_flow_refuses(degrees, scale, message):
    with pytest.raises(MerError, match=message):
        turn_flow(flow_images(), degrees, scale)
    with pytest.raises(MerError, match=r"needed is \(N, C, H, W\) float"):
        turn_flow(np.zeros((1, 3, 8, 8), np.int64), 5.0)


@pytest.mark.parametrize("function", [mirror_flow, lambda f: turn_flow(f, 5.0)])
def test_transforms_refuse_what_is_no_flow(function):
    with pytest.raises(MerError, match="u, v and strain"):
        function(np.zeros((4, 8, 8), np.float32))
