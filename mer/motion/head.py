"""The head's own motion in a flow field, and the field without it."""

import numpy as np

from mer.errors import MerError


def without_head_motion(flow: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """Flow without the shift, rotation and scaling that fit it best; a head that moves as a whole leaves nothing.

    A face seen from the front that shifts, tilts or comes nearer moves by (a + c x - d y, b + d x + c y). About the
    centre of the pixels these four motions are orthogonal, so each is fitted by a mean, without a system of equations.
    The fit is of least squares: a facial movement takes a little of it with itself, as its share of the area.

    Args:
        flow: (2, H, W) px, u to the right and v down.
        seen: (H, W) bool, the pixels that are fitted, two at least; None: all.

    Returns:
        (2, H, W) float32 px, of all pixels.

    Raises:
        MerError: another shape; fewer than two pixels to fit.
    """
    flow = np.asarray(flow)
    if flow.ndim != 3 or len(flow) != 2 or min(flow.shape) < 2:
        raise MerError(f"without_head_motion: flow is {flow.shape}; needed is (2, H, W), at least 2x2 px")
    if seen is None:
        seen = np.ones(flow.shape[1:], bool)
    if seen.shape != flow.shape[1:] or seen.sum() < 2:
        raise MerError(f"without_head_motion: seen is {seen.shape} with {seen.sum()} pixels; needed are two or more")
    u, v = flow.astype(np.float64)
    y, x = np.mgrid[: u.shape[0], : u.shape[1]].astype(np.float64)
    x, y, u, v = (one - one[seen].mean() for one in (x, y, u, v))
    square = (x * x + y * y)[seen].mean()
    scaling, rotation = ((x * u + y * v)[seen].mean() / square, (x * v - y * u)[seen].mean() / square)
    return np.stack([u - scaling * x + rotation * y, v - rotation * x - scaling * y]).astype(np.float32)
