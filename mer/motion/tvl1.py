"""TV-L1 optical flow (Zach, Pock, Bischof 2007)."""

import numpy as np

from mer.errors import MerError


def tvl1(
    prev: np.ndarray, next: np.ndarray, *, attachment: float = 15.0, tightness: float = 0.3, warps: int = 5
) -> np.ndarray:
    """Flow from `prev` to `next`.

    Args:
        prev, next: (H, W) or (N, H, W) grey images of one shape, uint8 (0..255) or float (0..1).
        attachment: weight of the data term (lambda of the paper), unit 1/intensity.
        tightness: coupling of the two sub-problems (theta of the paper).
        warps: how often `next` is warped by the present estimate at every pyramid level.

    Returns:
        (2, H, W) or (N, 2, H, W) float32, pixels: u (right), then v (down).

    Raises:
        MerError: shapes differ or are not images, or a value is not finite.
    """
    prev, next = _grey("prev", prev), _grey("next", next)
    if prev.shape != next.shape:
        raise MerError(f"tvl1: prev is {prev.shape}, next {next.shape}; both must be one shape")
    if prev.ndim == 3:
        return np.stack(
            [
                tvl1(a, b, attachment=attachment, tightness=tightness, warps=warps)
                for a, b in zip(prev, next, strict=True)
            ]
        )
    from skimage.registration import optical_flow_tvl1

    if np.array_equal(prev, next):
        return np.zeros((2, *prev.shape), dtype=np.float32)
    # scikit-image's reference is our `prev`: its flow says where each pixel of the reference lies in the other image.
    v, u = optical_flow_tvl1(
        prev, next, attachment=attachment, tightness=tightness, num_warp=warps, dtype=np.float32
    )  # fmt: skip
    return np.stack([u, v]).astype(np.float32)


def _grey(name: str, image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim not in (2, 3) or min(image.shape[-2:]) < 4:
        raise MerError(f"tvl1: {name} is {image.shape}; needed is (H, W) or (N, H, W), at least 4x4 px, one channel")
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    image = image.astype(np.float32)
    if not np.isfinite(image).all():
        raise MerError(f"tvl1: {name} has values that are not finite; check the frame it was read from")
    return image
