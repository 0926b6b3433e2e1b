"""Optical strain, how much the face deforms where the flow moves it; and flow with strain as a 3-channel image."""

from typing import Literal

import numpy as np

from mer.errors import MerError, suggestion

# What networks pretrained on ImageNet expect of RGB in 0..1.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
# Fixed ranges of u, v (px) and strain (unit 1) in a 224 px crop. In the clips that the README shows, 99 %
# of the motion stays below 1.2 px and 99.5 % of the strain below 0.08.
LIMITS = (2.0, 2.0, 0.1)


def optical_strain(flow: np.ndarray) -> np.ndarray:
    """Magnitude of the strain tensor, the symmetric part of the flow gradient (MSMMT eqs. 7-9).

    sqrt(u_x^2 + v_y^2 + (u_y + v_x)^2 / 2): the squares of the two normal and the two shear components. Eq. 9 as
    printed repeats u_x under the shear; the prose beside it decides (fidelity S-14). Gradients by central
    differences, one-sided at the border.

    Args:
        flow: (2, H, W) or (N, 2, H, W), pixels, H and W at least 2.

    Returns:
        (H, W) or (N, H, W) float32, unit 1. A rigid shift has strain 0.

    Raises:
        MerError: another shape, or a value that is not finite.
    """
    flow = np.asarray(flow, dtype=np.float32)
    if flow.ndim not in (3, 4) or flow.shape[-3] != 2 or min(flow.shape[-2:]) < 2:
        raise MerError(f"optical_strain: flow is {flow.shape}; needed is (2, H, W) or (N, 2, H, W), at least 2x2 px")
    _check_finite("optical_strain: flow", flow)
    u, v = flow[..., 0, :, :], flow[..., 1, :, :]
    u_y, u_x = np.gradient(u, axis=(-2, -1))
    v_y, v_x = np.gradient(v, axis=(-2, -1))
    return np.sqrt(u_x**2 + v_y**2 + (u_y + v_x) ** 2 / 2).astype(np.float32)


def flow_image(flow: np.ndarray) -> np.ndarray:
    """(2, H, W) -> (3, H, W): u, v (pixels) and optical strain (unit 1)."""
    return np.concatenate([flow, optical_strain(flow)[..., None, :, :]], axis=-3)


def unit_channels(
    image: np.ndarray, scaling: Literal["fixed", "min_max"] = "fixed", limits: tuple[float, float, float] = LIMITS
) -> np.ndarray:
    """A flow image with each channel brought to 0..1 (MSMMT, section 3.2; fidelity S-13).

    Args:
        image: (3, H, W) or (N, 3, H, W): u, v (px) and strain (unit 1).
        scaling: `fixed`: from -limit..limit, the same for all clips, so that how far something moved is still seen, and
            no motion is mid-grey. `min_max`: from the channel's own range.
        limits: px, px and unit 1; `fixed` only. What lies beyond is cut off.

    Returns:
        float32 of the same shape. A constant channel is mid-grey under `min_max`.

    Raises:
        MerError: another shape, a value that is not finite, an unknown scaling, or limits that are not three positive
            numbers.
    """
    image = np.asarray(image, dtype=np.float32)
    if image.ndim not in (3, 4) or image.shape[-3] != 3:
        raise MerError(f"unit_channels: image is {image.shape}; needed is (3, H, W) or (N, 3, H, W)")
    _check_finite("unit_channels: image", image)
    if scaling == "fixed":
        if len(limits) != 3 or not all(0 < limit < np.inf for limit in limits):
            raise MerError(f"unit_channels: limits are {limits}; needed are three positive numbers")
        return np.clip(image / (2 * np.asarray(limits, np.float32)[:, None, None]) + 0.5, 0, 1)
    if scaling == "min_max":
        low, high = image.min((-2, -1), keepdims=True), image.max((-2, -1), keepdims=True)
        return np.where(high > low, (image - low) / np.where(high > low, high - low, 1), 0.5).astype(np.float32)
    raise MerError(f"unit_channels: scaling {scaling!r} is unknown; {suggestion(scaling, ['fixed', 'min_max'])}")


def three_channels(
    image: np.ndarray, scaling: Literal["fixed", "min_max"] = "fixed", limits: tuple[float, float, float] = LIMITS
) -> np.ndarray:
    """`unit_channels`, normalised as networks pretrained on ImageNet expect their RGB (S-13); same arguments."""
    unit = unit_channels(image, scaling, limits)
    return (unit - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None]


def _check_finite(what: str, values: np.ndarray) -> None:
    """Raise MerError for (..., H, W) with a value that is NaN or infinite; of a batch, the first such one is named."""
    finite = np.isfinite(values).all((-3, -2, -1))
    if not finite.all():
        which = f" {int(np.argmin(finite))} of {len(values)}" if values.ndim == 4 else ""
        raise MerError(f"{what}{which} has values that are not finite; check the frames that it was made from")
