"""What mer.motion.tvl1 is made of, as torch operations on (N, H, W) float32, on any device."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from mer.motion.tvl1 import CAUCHY, DERIVATIVE, FLOOR, GAINS, QUIET, gaussian, stride


def smooth(image: torch.Tensor, sigma: float) -> torch.Tensor:
    return _separable(image, gaussian(sigma), gaussian(sigma)) if sigma > 0 else image


def halve(image: torch.Tensor) -> torch.Tensor:
    """Half as large; pixel k of the result covers the pixels 2k and 2k + 1, the last one repeated if need be."""
    image = smooth(image, 0.7)
    rows, columns = image.shape[-2] % 2, image.shape[-1] % 2
    image = F.pad(image[:, None], (0, columns, 0, rows), mode="replicate")
    return F.avg_pool2d(image, 2)[:, 0]


def double(flow: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """A component of the flow at the next finer scale, of the size of `image` and in its pixels."""
    for axis in (-2, -1):
        n = flow.shape[axis]
        before = flow.index_select(axis, torch.arange(-1, n - 1, device=flow.device).clamp(min=0))
        after = flow.index_select(axis, torch.arange(1, n + 1, device=flow.device).clamp(max=n - 1))
        pair = torch.stack([0.75 * flow + 0.25 * before, 0.75 * flow + 0.25 * after], dim=axis + flow.ndim + 1)
        flow = pair.flatten(axis + flow.ndim, axis + flow.ndim + 1)
    return 2 * flow[:, : image.shape[-2], : image.shape[-1]]


def zeros_like(image: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(image)


def dual_like(image: torch.Tensor) -> torch.Tensor:
    """(4, N, H, W): the x and y part of p for u, then for v."""
    return image.new_zeros(4, *image.shape)


def gradient(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _separable(image, DERIVATIVE, (1.0,)), _separable(image, (1.0,), DERIVATIVE)


def warp(image: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`image` at x + (u, v), by Keys' cubic convolution; and 1 where that lies inside the image, else 0."""
    h, w = image.shape[-2:]
    x = torch.arange(w, device=image.device, dtype=image.dtype) + u
    y = torch.arange(h, device=image.device, dtype=image.dtype)[:, None] + v
    inside = ((x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)).to(image.dtype)
    x, y = x.clamp(0, w - 1), y.clamp(0, h - 1)
    column, row = x.floor(), y.floor()
    weights_x, weights_y = _cubic(x - column), _cubic(y - row)
    column, row = column.long(), row.long()
    flat, out = image.flatten(1), torch.zeros_like(image)
    for j in range(4):
        start = (row + j - 1).clamp(0, h - 1) * w
        line = torch.zeros_like(image)
        for i in range(4):
            place = start + (column + i - 1).clamp(0, w - 1)
            line = line + weights_x[i] * flat.gather(1, place.flatten(1)).view_as(image)
        out = out + weights_y[j] * line
    return out, inside


def iterate(
    u: torch.Tensor,
    v: torch.Tensor,
    p: Sequence[torch.Tensor] | torch.Tensor,
    g_x: torch.Tensor,
    g_y: torch.Tensor,
    rho_0: torch.Tensor,
    step: Any,
    theta: float,
    dual_step: float,
    iterations: int,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """`iterations` rounds of (T), (P) and (D). step: (N, 1, 1), or a number for all."""
    norm = g_x * g_x + g_y * g_y + 1e-9  # where g is 0 the step is, too
    p_ux, p_uy, p_vx, p_vy = p
    for _ in range(iterations):
        along = ((rho_0 + g_x * u + g_y * v) / norm).clamp(-step, step)
        u = u - along * g_x + theta * _divergence(p_ux, p_uy)
        v = v - along * g_y + theta * _divergence(p_vx, p_vy)
        p_ux, p_uy = _dual(p_ux, p_uy, u, dual_step)
        p_vx, p_vy = _dual(p_vx, p_vy, v, dual_step)
    return u, v, (p_ux, p_uy, p_vx, p_vy)


def equal(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain 1 and offset 0, (N, 1, 1)."""
    return image.new_ones(len(image), 1, 1), image.new_zeros(len(image), 1, 1)


def trust(image: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    """(N): 1 for a small residual, falling with its size, (N, 1, 1)."""
    return (QUIET / (_spread(image, warped) + 0.02)).clamp(max=1)


def _spread(image: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    step = stride(image.shape)
    return (image - warped)[:, ::step, ::step].abs().flatten(1).median(1)[0][:, None, None]


def match(
    image: torch.Tensor, warped: torch.Tensor, inside: torch.Tensor, gain: torch.Tensor, offset: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B): the gain and offset that take `warped` to `image`, one reweighted least-squares step from the given ones."""
    spread = _spread(image, gain * warped + offset)
    residual = (image - gain * warped - offset) / (CAUCHY * (spread + FLOOR))
    weight = inside / (1 + residual * residual)
    total = weight.sum((1, 2), keepdim=True) + 1e-6
    mean_0, mean_1 = (((weight * a).sum((1, 2), keepdim=True)) / total for a in (image, warped))
    varies = (weight * (warped - mean_1) ** 2).sum((1, 2), keepdim=True)
    together = (weight * (warped - mean_1) * (image - mean_0)).sum((1, 2), keepdim=True)
    # Without contrast there is no gain to be seen.
    gain = torch.where(varies > total, (together / varies.clamp(min=1e-6)).clamp(*GAINS), torch.ones_like(gain))
    return gain, mean_0 - gain * mean_1


def median(flow: torch.Tensor) -> torch.Tensor:
    """5x5, the border repeated, by exchanges of neighbours alone: the extremes of any 14 of 25 are not the median."""
    padded = F.pad(flow[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]
    h, w = flow.shape[-2:]
    waiting = [padded[:, i : i + h, j : j + w] for i in range(5) for j in range(5)]
    held, waiting = waiting[:14], waiting[14:]
    while True:
        for k in range(len(held) - 1):  # the largest to the end
            held[k], held[k + 1] = torch.minimum(held[k], held[k + 1]), torch.maximum(held[k], held[k + 1])
        for k in range(len(held) - 2, 0, -1):  # the smallest to the front
            held[k - 1], held[k] = torch.minimum(held[k - 1], held[k]), torch.maximum(held[k - 1], held[k])
        if not waiting:
            return held[1]
        held = [*held[1:-1], waiting.pop()]


def _separable(image: torch.Tensor, along_x: Sequence[float], along_y: Sequence[float]) -> torch.Tensor:
    """Correlation with a row of weights and a column of weights, the border repeated."""
    # Sums of shifted pictures: the same bits in every batch, and no TF32, which GPUs take for convolutions.
    for weights, axis in ((along_x, -1), (along_y, -2)):
        reach, length = len(weights) // 2, image.shape[axis]
        pad = (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach)
        padded = F.pad(image[:, None], pad, mode="replicate")[:, 0]
        parts = (w * padded.narrow(axis, k, length) for k, w in enumerate(weights) if w)
        image = sum(parts, start=torch.zeros_like(image))
    return image


def _cubic(t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Keys' weights (a = -1/2) of the pixels at -1, 0, 1 and 2 for a place t in 0..1."""
    return (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )


def _divergence(p_x: torch.Tensor, p_y: torch.Tensor) -> torch.Tensor:
    """Backward differences: minus the adjoint of the forward ones in `_dual`."""
    out = p_x + p_y
    out[..., 1:] -= p_x[..., :-1]
    out[..., 1:, :] -= p_y[..., :-1, :]
    return out


def _dual(p_x: torch.Tensor, p_y: torch.Tensor, u: torch.Tensor, dual_step: float) -> tuple[torch.Tensor, torch.Tensor]:
    u_x = F.pad(u[..., 1:] - u[..., :-1], (0, 1))
    u_y = F.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))
    scale = 1 / (1 + dual_step * torch.sqrt(u_x * u_x + u_y * u_y))
    return (p_x + dual_step * u_x) * scale, (p_y + dual_step * u_y) * scale
