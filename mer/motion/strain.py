"""Optical strain: how much the face deforms where the flow moves it."""

import numpy as np

from mer.errors import MerError


def optical_strain(flow: np.ndarray) -> np.ndarray:
    """Magnitude of the strain tensor, the symmetric part of the flow gradient (MSMMT eqs. 7-9; fidelity S-14).

    sqrt(u_x^2 + v_y^2 + (u_y + v_x)^2 / 2), gradients by central differences (one-sided at the border).

    Args:
        flow: (2, H, W) or (N, 2, H, W), pixels, H and W at least 2.

    Returns:
        (H, W) or (N, H, W) float32, unit 1. A rigid shift has strain 0.
    """
    flow = np.asarray(flow, dtype=np.float32)
    if flow.ndim not in (3, 4) or flow.shape[-3] != 2 or min(flow.shape[-2:]) < 2:
        raise MerError(f"optical_strain: flow is {flow.shape}; needed is (2, H, W) or (N, 2, H, W), at least 2x2 px")
    u, v = flow[..., 0, :, :], flow[..., 1, :, :]
    u_y, u_x = np.gradient(u, axis=(-2, -1))
    v_y, v_x = np.gradient(v, axis=(-2, -1))
    return np.sqrt(u_x**2 + v_y**2 + (u_y + v_x) ** 2 / 2).astype(np.float32)


def flow_image(flow: np.ndarray) -> np.ndarray:
    """(2, H, W) -> (3, H, W): u, v (pixels) and optical strain (unit 1)."""
    return np.concatenate([flow, optical_strain(flow)[..., None, :, :]], axis=-3)
