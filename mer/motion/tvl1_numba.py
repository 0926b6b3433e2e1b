"""What mer.motion.tvl1 is made of, for one pair (H, W) float32 on the CPU: the passes of `tvl1_torch` fused by numba.

OpenCV filters; numba does the rest. The first call compiles it, for about three seconds; numba keeps the result on
disk. All of it releases the interpreter's lock, so pairs run in parallel in threads.
"""

import sys
from collections.abc import Callable
from typing import Any

import cv2
import numba
import numpy as np

from mer.motion.tvl1 import CAUCHY, DERIVATIVE, FLOOR, GAINS, QUIET, gaussian, solve, stride

# Strict arithmetic: with `fastmath` the bits depend on what was inlined where, and that differs between code just
# compiled and the same code from numba's cache.
OPTIONS = {"nogil": True, "error_model": "numpy"}
COMPILED = ("_match", "_cubic", "_warp", "_iterate", "_primal", "_dual")


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # neither this folder nor the home can be written to
        return numba.njit(**OPTIONS)(function)


def compile_now() -> None:
    """Compile all of it, or load it from numba's cache. Where the cache cannot be used, compile for this process alone.

    Numba meets a full disk or a damaged cache only when a function is called for the first time.
    """
    try:
        _use_all()
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        print(f"tvl1: numba's cache cannot be used ({reason}); compiled for this process alone", file=sys.stderr)
        for name in COMPILED:
            globals()[name] = numba.njit(**OPTIONS)(globals()[name].py_func)
        _use_all()


def _use_all() -> None:
    image = np.zeros((4, 4), np.float32)
    solve(
        image, image, sys.modules[__name__], tau=0.25, lambda_=1.0, theta=1.0, scales=1, warps=1, iterations=1,
        sigma=1.0, brightness=True, noise=True,
    )  # fmt: skip


# In compiled code a plain 1 is an integer, and an integer beside a float32 makes a float64.
ZERO, HALF, ONE, THREE_HALVES, TWO, FIVE_HALVES = (np.float32(k) for k in (0, 0.5, 1, 1.5, 2, 2.5))
_ONE = np.ones(1, np.float32)
_DERIVATIVE = np.array(DERIVATIVE, np.float32)


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    if sigma == 0:
        return image
    weights = np.array(gaussian(sigma), np.float32)
    return cv2.sepFilter2D(image, cv2.CV_32F, weights, weights, borderType=cv2.BORDER_REPLICATE)


def halve(image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape[0] % 2, image.shape[1] % 2
    image = cv2.copyMakeBorder(smooth(image, 0.7), 0, rows, 0, columns, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)


def double(flow: np.ndarray, image: np.ndarray) -> np.ndarray:
    size = (2 * flow.shape[1], 2 * flow.shape[0])
    flow = 2 * cv2.resize(flow, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(flow[: image.shape[0], : image.shape[1]])


def zeros_like(image: np.ndarray) -> np.ndarray:
    return np.zeros_like(image)


def dual_like(image: np.ndarray) -> np.ndarray:
    return np.zeros((4, *image.shape), np.float32)


def gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    along_x = cv2.sepFilter2D(image, cv2.CV_32F, _DERIVATIVE, _ONE, borderType=cv2.BORDER_REPLICATE)
    return along_x, cv2.sepFilter2D(image, cv2.CV_32F, _ONE, _DERIVATIVE, borderType=cv2.BORDER_REPLICATE)


def equal(image: np.ndarray) -> tuple[np.float32, np.float32]:
    return ONE, ZERO


def trust(image: np.ndarray, warped: np.ndarray) -> np.float32:
    return np.float32(min(ONE, QUIET / (_spread(image, warped) + 0.02)))


def match(
    image: np.ndarray, warped: np.ndarray, inside: np.ndarray, gain: np.float32, offset: np.float32
) -> tuple[np.float32, np.float32]:
    scale = np.float32(1 / (CAUCHY * (_spread(image, warped, gain, offset) + FLOOR)))
    gain, offset = _match(image, warped, inside, gain, offset, scale)
    return np.float32(gain), np.float32(offset)


def median(flow: np.ndarray) -> np.ndarray:
    return cv2.medianBlur(flow, 5)


def warp(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    out, inside = np.empty_like(image), np.empty_like(image)
    _warp(image, u, v, out, inside)
    return out, inside


def iterate(
    u: np.ndarray,
    v: np.ndarray,
    p: np.ndarray,
    g_x: np.ndarray,
    g_y: np.ndarray,
    rho_0: np.ndarray,
    step: float,
    theta: float,
    dual_step: float,
    iterations: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    one = np.float32
    inverse = 1 / (g_x * g_x + g_y * g_y + one(1e-9))
    _iterate(u, v, *p, g_x, g_y, rho_0, inverse, one(step), one(theta), one(dual_step), iterations)
    return u, v, p


LEAST, MOST = GAINS


def _spread(image: np.ndarray, warped: np.ndarray, gain: np.float32 = ONE, offset: np.float32 = ZERO) -> np.float32:
    """Median size of the residuals; of an even number the lower of the two in the middle, as torch takes it."""
    step = stride(image.shape)
    values = np.abs(image[::step, ::step] - gain * warped[::step, ::step] - offset)
    middle = (values.size - 1) // 2
    return np.partition(values, middle, axis=None)[middle]


@_compile
def _match(image, warped, inside, gain, offset, scale):
    """One pass: sums about the first pixel, so that float64 loses nothing."""
    h, w = image.shape
    zero_0, zero_1 = np.float64(image[0, 0]), np.float64(warped[0, 0])
    total = sum_0 = sum_1 = sum_11 = sum_01 = np.float64(0)
    for r in range(h):
        for c in range(w):
            residual = (image[r, c] - gain * warped[r, c] - offset) * scale
            weight = np.float64(inside[r, c] / (ONE + residual * residual))
            x_0, x_1 = image[r, c] - zero_0, warped[r, c] - zero_1
            total += weight
            sum_0 += weight * x_0
            sum_1 += weight * x_1
            sum_11 += weight * x_1 * x_1
            sum_01 += weight * x_0 * x_1
    total += 1e-6
    mean_0, mean_1 = sum_0 / total, sum_1 / total
    varies, together = sum_11 - sum_1 * mean_1, sum_01 - sum_0 * mean_1
    slope = min(max(together / varies, LEAST), MOST) if varies > total else 1.0
    return slope, mean_0 + zero_0 - slope * (mean_1 + zero_1)


@_compile
def _cubic(t):
    """Keys' weights (a = -1/2) of the pixels at -1, 0, 1 and 2 for a place t in 0..1."""
    return (
        ((-HALF * t + ONE) * t - HALF) * t,
        (THREE_HALVES * t - FIVE_HALVES) * t * t + ONE,
        ((-THREE_HALVES * t + TWO) * t + HALF) * t,
        (HALF * t - HALF) * t * t,
    )


@_compile
def _warp(image, u, v, out, inside):
    h, w = image.shape
    right, bottom = np.float32(w - 1), np.float32(h - 1)
    for r in range(h):
        for c in range(w):
            x, y = np.float32(c) + u[r, c], np.float32(r) + v[r, c]
            inside[r, c] = np.float32(x >= ZERO and x <= right and y >= ZERO and y <= bottom)
            x, y = min(max(x, ZERO), right), min(max(y, ZERO), bottom)
            column, row = int(x), int(y)
            x0, x1, x2, x3 = _cubic(x - np.float32(column))
            weights_y = _cubic(y - np.float32(row))
            before, after, beyond = max(column - 1, 0), min(column + 1, w - 1), min(column + 2, w - 1)
            total = ZERO
            for j in range(4):
                line = image[min(max(row + j - 1, 0), h - 1)]
                across = x0 * line[before] + x1 * line[column] + x2 * line[after] + x3 * line[beyond]
                total += weights_y[j] * across
            out[r, c] = total


@_compile
def _iterate(u, v, p_ux, p_uy, p_vx, p_vy, g_x, g_y, rho_0, inverse, step, theta, dual_step, iterations):
    h = u.shape[0]
    for _ in range(iterations):
        for r in range(h):
            _primal(r, u, v, p_ux, p_uy, p_vx, p_vy, g_x, g_y, rho_0, inverse, step, theta)
            if r > 0:  # the row above has now both of its neighbours
                _dual(r - 1, u, p_ux, p_uy, dual_step)
                _dual(r - 1, v, p_vx, p_vy, dual_step)
        _dual(h - 1, u, p_ux, p_uy, dual_step)
        _dual(h - 1, v, p_vx, p_vy, dual_step)


@_compile
def _primal(r, u, v, p_ux, p_uy, p_vx, p_vy, g_x, g_y, rho_0, inverse, step, theta):
    """(T) and (P) in one row."""
    for c in range(u.shape[1]):
        along = (rho_0[r, c] + g_x[r, c] * u[r, c] + g_y[r, c] * v[r, c]) * inverse[r, c]
        along = min(max(along, -step), step)
        div_u, div_v = p_ux[r, c] + p_uy[r, c], p_vx[r, c] + p_vy[r, c]
        if c > 0:
            div_u -= p_ux[r, c - 1]
            div_v -= p_vx[r, c - 1]
        if r > 0:
            div_u -= p_uy[r - 1, c]
            div_v -= p_vy[r - 1, c]
        u[r, c] += theta * div_u - along * g_x[r, c]
        v[r, c] += theta * div_v - along * g_y[r, c]


@_compile
def _dual(r, u, p_x, p_y, dual_step):
    """(D) in one row."""
    h, w = u.shape
    for c in range(w):
        u_x = u[r, c + 1] - u[r, c] if c < w - 1 else ZERO
        u_y = u[r + 1, c] - u[r, c] if r < h - 1 else ZERO
        scale = ONE / (ONE + dual_step * np.sqrt(u_x * u_x + u_y * u_y))
        p_x[r, c] = (p_x[r, c] + dual_step * u_x) * scale
        p_y[r, c] = (p_y[r, c] + dual_step * u_y) * scale
