"""TV-L1 optical flow after Zach, Pock and Bischof, A Duality Based Approach for Realtime TV-L1 Optical Flow, 2007.

Sought is the flow u = (u, v) that minimises

    (E)   sum  lambda |I1(x + u(x)) - I0(x)|  +  |grad u| + |grad v|

With I1 linearised about the present flow u0, the residual is

    (R)   rho(w) = I1(x + u0) + <g, w - u0> - I0,     g = the image gradient there

and a second flow w, held near u by theta, splits (E) into two problems that are solved in turn:

    (T)   w = u - g * clip(rho(u) / |g|^2, -lambda theta, lambda theta)      the data term, pixel by pixel
    (P)   u = w + theta div p                                                total variation, by its dual variable p,
    (D)   p = (p + tau/theta grad u) / (1 + tau/theta |grad u|)              one step; u and v have a p each

From coarse to fine (C), and at every scale `warps` times: warp I1 by u0 = u (W), match its brightness to I0 (B), then
`iterations` times (T), (P), (D), then a 5x5 median of u and of v (M). From Wedel, Pock, Zach, Bischof and Cremers, An
Improved Algorithm for TV-L1 Optical Flow, 2009, come the median and g as the mean of both images' gradients, which is
exact to second order; its size from Sun, Roth and Black, Secrets of Optical Flow Estimation, 2010.

(B) is ours: lamps flicker and cameras regulate, and where an image has little texture, (E) explains one grey level of
difference by pixels of motion. A gain and an offset between the two images are fitted with the flow, by least squares
with Cauchy weights, one step a warp.

So is the noise (N): (E) is the likelihood of residuals with Laplace's distribution, whose weight is the inverse of
their size. `lambda_` is for images with little noise; where the median residual exceeds 0.55 grey levels, it falls.

The steps are stated once, here. What they are made of comes in two forms: `tvl1_torch` (any device, whole batches) and
`tvl1_numba`, which goes through (T), (P) and (D) row by row while the rows are in the processor's cache. Numba, since
torch makes a pass over memory for every operation, and torch.compile needs a compiler on the user's machine; numba
brings its own.
"""

import concurrent.futures
import functools
import math
import numbers
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mer import parallel
from mer.errors import MerError
from mer.shapes import MOST_CHANNELS

if TYPE_CHECKING:
    from torch import Tensor

Images = TypeVar("Images", np.ndarray, "Tensor")

COARSEST = 16  # px; the smaller side of the coarsest scale is at least that
CAUCHY, FLOOR = 2 * 1.4826, 0.17  # (B): twice a Gaussian's sigma from its median size; grey levels, rounding's own
QUIET = 0.55  # (N): grey levels; noise of 1 grey level, smoothed by 0.6 px, leaves a median residual of 0.50
GAINS = (0.5, 2.0)  # a picture twice as bright is another picture
FLAT = 1e-3  # grey levels per px; rounding alone makes gradients of 1e-5 where there are none
SMALLEST = 4  # px; an image below that has no gradient to speak of
DERIVATIVE = (-1 / 60, 9 / 60, -45 / 60, 0.0, 45 / 60, -9 / 60, 1 / 60)  # exact for polynomials of degree 6


def tvl1(
    prev: Images,
    next: Images,
    *,
    tau: float = 0.25,
    lambda_: float = 0.6,
    theta: float = 0.4,
    scales: int = 5,
    warps: int = 6,
    iterations: int = 8,
    sigma: float = 0.6,
    brightness: bool = True,
    noise: bool = True,
) -> Images:
    """Flow from `prev` to `next`: what is at x in `prev` is at x + flow(x) in `next`.

    Args:
        prev, next: (H, W) or (N, H, W) grey images of one shape, uint8 (0..255) or float (0..1); numpy arrays, or torch
            tensors on one device. (3, H, W) are three images; (H, W, 3) is refused.
        tau: step of the dual variable (D), without unit; at most 0.25, where it still converges.
        lambda_: weight of the data term in (E), unit 1/grey level of 255. The larger, the closer to the images.
        theta: tightness of the coupling, px^2 per unit of (E). The smaller, the closer the two flows.
        scales: how many at most, each half as large; the coarsest has sides of 16 px at least.
        warps: linearisations at every scale.
        iterations: rounds of (T), (P), (D) after every warp. Fixed, so that a result does not depend on its batch; few,
            since the scales do the rest: more of them flatten what the images say nothing about.
        sigma: width in px of the Gaussian that both images are smoothed with; 0 = none.
        brightness: allow for a gain and an offset between the images (B); False = they are equally bright.
        noise: let `lambda_` fall with the noise (N); False = it is the same for all images.

    Returns:
        (2, H, W) or (N, 2, H, W) float32, px: u (right), then v (down). numpy in, numpy out; a tensor stays on its
        device. Where `next` would be read outside its border, the neighbourhood alone decides.

    Raises:
        MerError: shapes, types or devices differ, an image smaller than 4x4 px, a value that is not finite, no image,
            or a parameter out of its range.
    """
    _check_parameters(tau, lambda_, theta, scales, warps, iterations, sigma)
    is_torch = hasattr(prev, "device") and hasattr(prev, "detach")
    prev, next = _check_images(prev, next)
    batch: tuple[Any, Any] = prev if prev.ndim == 3 else prev[None], next if next.ndim == 3 else next[None]
    options: dict[str, Any] = {
        "tau": tau, "lambda_": lambda_, "theta": theta, "scales": scales, "warps": warps, "iterations": iterations,
        "sigma": sigma, "brightness": brightness, "noise": noise,
    }  # fmt: skip
    flow: Any = _on_torch(*batch, **options) if is_torch else _on_cpu(*batch, **options)
    return flow if prev.ndim == 3 else flow[0]


def solve(
    I0: Any,
    I1: Any,
    ops: ModuleType,
    *,
    tau: float,
    lambda_: float,
    theta: float,
    scales: int,
    warps: int,
    iterations: int,
    sigma: float,
    brightness: bool,
    noise: bool,
) -> tuple[Any, Any]:
    """The algorithm on grey levels 0..255, made of `ops`; returns (u, v)."""
    pyramid = [(ops.smooth(I0, sigma), ops.smooth(I1, sigma))]
    while len(pyramid) < scales and math.ceil(min(pyramid[-1][0].shape[-2:]) / 2) >= COARSEST:
        pyramid.append(tuple(ops.halve(image) for image in pyramid[-1]))
    u: Any = None
    v: Any = None
    gain, offset = ops.equal(I0)
    for I0, I1 in reversed(pyramid):
        u, v = (ops.double(w, I0) if w is not None else ops.zeros_like(I0) for w in (u, v))  # (C)
        p = ops.dual_like(I0)
        I0_x, I0_y = ops.gradient(I0)
        for _ in range(warps):
            warped, inside = ops.warp(I1, u, v)  # (W)
            if brightness:
                gain, offset = ops.match(I0, warped, inside, gain, offset)  # (B)
                warped = gain * warped + offset
            warped_x, warped_y = ops.gradient(warped)
            g_x, g_y = (warped_x + I0_x) / 2, (warped_y + I0_y) / 2
            inside = inside * (g_x * g_x + g_y * g_y > FLAT**2)
            g_x, g_y = inside * g_x, inside * g_y
            rho_0 = inside * (warped - I0) - g_x * u - g_y * v  # (R) at w = 0
            step = lambda_ * theta * (ops.trust(I0, warped) if noise else 1)  # (N)
            u, v, p = ops.iterate(u, v, p, g_x, g_y, rho_0, step, theta, tau / theta, iterations)
            u, v = ops.median(u), ops.median(v)  # (M)
    return u, v


def stride(shape: Sequence[int]) -> int:
    """Step between the pixels from which the size of the residuals is taken: a few thousand are enough."""
    return max(1, min(shape[-2:]) // 56)


def gaussian(sigma: float) -> tuple[float, ...]:
    """Weights of a Gaussian out to four sigma, sum 1."""
    radius = max(1, math.ceil(4 * sigma))
    weights = [math.exp(-((k / sigma) ** 2) / 2) for k in range(-radius, radius + 1)]
    return tuple(w / sum(weights) for w in weights)


def _on_torch(prev: "Tensor", next: "Tensor", **options: Any) -> "Tensor":
    import torch

    from mer.motion import tvl1_torch

    with torch.no_grad():
        return torch.stack(solve(prev, next, tvl1_torch, **options), dim=1)


def _on_cpu(prev: np.ndarray, next: np.ndarray, **options: Any) -> np.ndarray:
    """Pair by pair, in parallel in threads; without numba, through torch."""
    ops = _compiled()
    if ops is None:
        import torch

        return _on_torch(torch.from_numpy(prev), torch.from_numpy(next), **options).numpy()
    flow = np.empty((len(prev), 2, *prev.shape[1:]), dtype=np.float32)

    def one(k: int) -> None:
        flow[k] = solve(prev[k], next[k], ops, **options)

    threads = min(parallel.threads(), len(prev))
    if threads == 1:
        for k in range(len(prev)):
            one(k)
        return flow
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(prev))))
    return flow


@functools.cache
def _compiled() -> ModuleType | None:
    """`tvl1_numba`, ready; None where numba does not work: it only makes this faster, whatever its reason."""
    try:
        import mer.motion.tvl1_numba as ops

        ops.compile_now()
    except Exception as error:  # numba lags behind new Pythons and NumPys, which shows as errors of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        print(f"tvl1: numba does not work here ({reason}); torch computes the flow, more slowly", file=sys.stderr)
        return None
    return ops


def _check_parameters(
    tau: float, lambda_: float, theta: float, scales: int, warps: int, iterations: int, sigma: float
) -> None:
    given: dict[str, object] = {
        "tau": tau, "lambda_": lambda_, "theta": theta, "scales": scales, "warps": warps, "iterations": iterations,
        "sigma": sigma,
    }  # fmt: skip
    for name, number in given.items():
        if not isinstance(number, numbers.Real):
            raise MerError(f"tvl1: {name} is {number!r}; needed is a number")
    if not 0 < tau <= 0.25:
        raise MerError(f"tvl1: tau is {tau}; it converges above 0 and up to 0.25")
    for name, value in (("lambda_", lambda_), ("theta", theta)):
        if not 0 < value < math.inf:
            raise MerError(f"tvl1: {name} is {value}; needed is a positive number")
    for name, value in (("scales", scales), ("warps", warps), ("iterations", iterations)):
        if value < 1:
            raise MerError(f"tvl1: {name} is {value}; needed is 1 at least")
    if not 0 <= sigma < math.inf:
        raise MerError(f"tvl1: sigma is {sigma}; needed is 0 or a positive number")


def _check_images(prev: Any, next: Any) -> tuple[Any, Any]:
    """Both as float32 grey levels 0..255."""
    images = []
    for name, image in (("prev", prev), ("next", next)):
        shape = tuple(image.shape) if hasattr(image, "shape") else np.shape(image)
        if len(shape) == 3 and 0 < shape[-1] <= MOST_CHANNELS:
            raise MerError(
                f"tvl1: {name} is {shape}: an image with {shape[-1]} channel{'s'[: shape[-1] - 1]} last; needed is "
                f"(H, W) or (N, H, W): convert it to grey; images of {MOST_CHANNELS} px width go one by one, as (H, W)"
            )
        if len(shape) not in (2, 3) or min(shape[-2:]) < SMALLEST:
            raise MerError(f"tvl1: {name} is {shape}; needed is (H, W) or (N, H, W), at least 4x4 px, one channel")
        if 0 in shape:
            raise MerError(f"tvl1: {name} is {shape}: there is no image in it; check the clip it was read from")
        images.append(_grey_levels(name, image))
    prev, next = images
    if type(prev) is not type(next) or prev.shape != next.shape:
        raise MerError(
            f"tvl1: prev is {type(prev).__name__} {tuple(prev.shape)}, next {type(next).__name__} "
            f"{tuple(next.shape)}; both must be one shape and kind"
        )
    if getattr(prev, "device", None) != getattr(next, "device", None):
        raise MerError(f"tvl1: prev is on {prev.device}, next on {next.device}; move one of them")
    return prev, next


def _grey_levels(name: str, image: Any) -> Any:
    if hasattr(image, "detach"):
        import torch

        if image.dtype == torch.uint8:
            return image.to(torch.float32)
        if not image.dtype.is_floating_point:
            raise MerError(f"tvl1: {name} is {image.dtype}; needed is uint8 (0..255) or float (0..1)")
        low, high = float(image.min()), float(image.max())
        image = image.to(torch.float32) * 255
    else:
        image = np.asarray(image)
        if image.dtype == np.uint8:
            return image.astype(np.float32)
        if image.dtype.kind != "f":
            raise MerError(f"tvl1: {name} is {image.dtype}; needed is uint8 (0..255) or float (0..1)")
        low, high = float(image.min()), float(image.max())
        image = image.astype(np.float32) * np.float32(255)
    if not math.isfinite(low + high):
        raise MerError(f"tvl1: {name} has values that are not finite; check the frame it was read from")
    if low < -0.01 or high > 1.01:  # a filter may overshoot by a little
        raise MerError(f"tvl1: {name} has values from {low:g} to {high:g}; float images are 0..1, else give uint8")
    return image
