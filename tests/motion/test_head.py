"""What a head that moves as a whole leaves is nothing; what is left is what least squares leave."""

import numpy as np
import pytest

from mer.errors import MerError
from mer.motion.head import without_head_motion

Y, X = np.mgrid[:20, :33].astype(float)
Y, X = Y - Y.mean(), X - X.mean()


def rigid(a, b, scaling, rotation):
    return np.stack([a + scaling * X - rotation * Y, b + rotation * X + scaling * Y])


@pytest.mark.parametrize("motion", [(1.5, -2, 0, 0), (0, 0, 0.03, 0), (0, 0, 0, -0.05), (0.4, 3, -0.02, 0.01)])
def test_a_shift_a_rotation_and_a_scaling_leave_nothing(motion):
    np.testing.assert_allclose(without_head_motion(rigid(*motion)), 0, atol=1e-6)  # float32 of values below 4


@pytest.mark.parametrize("seen", [None, X + Y > 3])
def test_it_is_the_residual_of_least_squares(seen):
    fit = np.ones(X.shape, bool) if seen is None else seen
    flow = np.random.default_rng(0).normal(size=(2, 20, 33)) + rigid(2, 1, 0.05, 0.02)
    basis = np.stack([rigid(*row).ravel() for row in np.eye(4)], axis=1)
    rows = np.stack([fit, fit]).ravel()
    fitted = basis @ np.linalg.lstsq(basis[rows], flow.ravel()[rows], rcond=None)[0]
    np.testing.assert_allclose(without_head_motion(flow, seen).ravel(), flow.ravel() - fitted, atol=1e-6)


def test_a_local_motion_stays():
    bump = np.exp(-(Y**2 + X**2) / (2 * 2**2))
    flow = np.stack([0 * bump, -bump])
    left = without_head_motion(flow + rigid(3, 1, 0.01, 0.02))
    # Least squares take the share of the area with them: the mean of the bump, 2 pi 4 px of 660.
    assert np.abs(left - flow).max() <= bump.mean() + 1e-6


@pytest.mark.parametrize("shape", [(20, 33), (3, 20, 33), (2, 1, 33), (1, 2, 20, 33)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(MerError, match="without_head_motion: flow is"):
        without_head_motion(np.zeros(shape))


def test_a_fit_needs_pixels():
    few = np.zeros((20, 33), bool)
    few[3, 4] = True
    for seen in (few, np.ones((20, 32), bool)):
        with pytest.raises(MerError, match="without_head_motion: seen is"):
            without_head_motion(np.zeros((2, 20, 33)), seen)
