"""The mouth of a synthetic face: the portrait's smile is closed, and a closed mouth opens.

The portrait shows teeth. A warp cannot take them away, since what lies between the lips has to vanish: `close` reads
the upper lip and the lower lip from their own places, so that they meet in a line. `part` is the other way round: the
lips draw apart, and what lies between them is painted.

Curves run over x from the left to the right corner of the mouth; points are (x, y), y down, of one pixel grid.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

# iBUG points from the left to the right corner of the mouth in the picture.
ABOVE, BELOW = (48, 49, 50, 51, 52, 53, 54), (48, 59, 58, 57, 56, 55, 54)
UPPER_EDGE, LOWER_EDGE = (48, 60, 61, 62, 63, 64, 54), (48, 60, 67, 66, 65, 64, 54)

# The portrait's mouth at rest, portrait px: narrower than in its smile, corners level with the line, lips that meet.
CLOSED = np.array(
    [
        *[(204.8, 146.3), (210.8, 143.4), (217.6, 141.5), (222.9, 142.2), (228.4, 141.6), (235.0, 143.7)],
        *[(240.8, 146.8), (235.2, 150.3), (229.0, 152.7), (222.8, 153.1), (216.6, 152.4), (210.4, 150.0)],
        *[(206.6, 146.4), (217.4, 146.1), (222.9, 146.4), (228.6, 146.2), (239.0, 146.8), (228.5, 147.0)],
        *[(222.8, 147.2), (217.3, 146.9)],
    ]
)

UPWARDS = 0.25  # share of the opening by which the upper lip rises; the lower one falls by the rest
CAVITY = np.array([52.0, 24.0, 22.0])  # RGB of what lies behind the teeth
TEETH = np.array([214.0, 204.0, 188.0])
TOOTH = 0.16  # height of the upper teeth, in widths of the mouth


def _curve(points: np.ndarray, index: tuple[int, ...]) -> PchipInterpolator:
    x, y = points[list(index)].T
    return PchipInterpolator(np.maximum.accumulate(x + 1e-6 * np.arange(len(x))), y)


def _line(points: np.ndarray) -> np.ndarray:
    """The points with both edges of the lips on their middle."""
    met = points.copy()
    for up, low in zip(UPPER_EDGE, LOWER_EDGE, strict=True):
        met[[up, low]] = (points[up] + points[low]) / 2
    return met


def close(x: np.ndarray, y: np.ndarray, rest: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a face with parted lips is read so that they meet.

    Args:
        x: (W,), y: (H,): the grid.
        rest: (68, 2) landmarks of the closed mouth, in px of the grid.
        apart: (68, 2) the same face, its lips' outer contour as in `rest`, their edges where they are parted.

    Returns:
        rows (H, W): the y to read from at each place; shade (H, W), 0..1: the shadow of the line.
    """
    rows = np.repeat(y[:, None].astype(float), len(x), 1)
    shade = np.zeros_like(rows)
    met = _line(rest)
    left, right = rest[48, 0], rest[54, 0]
    inside = (x > left) & (x < right)
    at = x[inside]
    top, bottom = _curve(rest, ABOVE)(at), _curve(rest, BELOW)(at)
    line = np.clip(_curve(met, UPPER_EDGE)(at), top + 1e-3, np.maximum(bottom, top + 2e-3) - 1e-3)
    # Near the corners the edges of parted lips lie outside of the closed lips, if anywhere.
    upper = np.clip(_edge(apart, UPPER_EDGE, at), top, line)
    lower = np.clip(_edge(apart, LOWER_EDGE, at), line, bottom)
    here = rows[:, inside]
    above = (here > top) & (here <= line)
    below = (here > line) & (here < bottom)
    read = np.where(above, top + (here - top) * (upper - top) / (line - top), here)
    rows[:, inside] = np.where(below, bottom - (bottom - here) * (bottom - lower) / (bottom - line), read)
    width = right - left
    ends = np.clip((at - left) * (right - at) / (0.1 * width * (0.9 * width)), 0, 1)
    shade[:, inside] = ends * np.exp(-0.5 * ((here - line) / (0.015 * width)) ** 2)
    return rows, shade


def _edge(points: np.ndarray, index: tuple[int, ...], at: np.ndarray) -> np.ndarray:
    return _curve(points, index)(np.clip(at, points[48, 0], points[54, 0]))


@dataclass(frozen=True)
class Parted:
    """What `part` returns: points (..., 2) of the closed face, cover (...) 0..1 and colour (..., 3) of the inside."""

    points: np.ndarray
    cover: np.ndarray
    colour: np.ndarray


def part(points: np.ndarray, landmarks: np.ndarray, gap: float) -> Parted:
    """The places that an open mouth shows, `gap` px between its lips at the middle.

    Args:
        points: (..., 2), places of the picture with the mouth open.
        landmarks: (68, 2) of the closed mouth, in the same pixels.
    """
    x, y = points[..., 0], points[..., 1]
    met = _line(landmarks)
    left, right = met[60, 0], met[64, 0]
    width = right - left
    across = 2 * (np.clip(x, left, right) - left) / width - 1
    opened = gap * np.sqrt(np.clip(1 - across**2, 0, 1)) * (1 - 0.25 * across**2)
    line = _curve(met, UPPER_EDGE)(np.clip(x, *met[[48, 54], 0]))
    up, low = line - UPWARDS * opened, line + (1 - UPWARDS) * opened
    closed = y.copy()
    # What lies further away moves less: the lip over its own height, below it the chin over a third of the face.
    for side, edge, reach in ((y <= up, up, 0.35 * width), (y >= low, low, 0.8 * width)):
        push = (edge - line)[side]
        at, rest = y[side], line[side]
        start = at - push
        for _ in range(25):
            start = at - push * np.exp(-0.5 * ((start - rest) / reach) ** 2)
        closed[side] = start
    # `opened` has a vertical tangent at the corners, beyond which nothing is parted.
    cover = np.clip(np.minimum(y - up, low - y) + 0.5, 0, 1) * (opened > 0.3)
    depth = np.clip((y - up) / (TOOTH * width), 0, 20)
    teeth = np.clip((1 - depth) * 4, 0, 1) * np.clip(1.15 - across**2, 0, 1)
    gums = 1 - 0.35 * np.exp(-depth / 0.15)  # the upper lip's shadow
    colour = CAVITY + (teeth * gums)[..., None] * (TEETH - CAVITY)
    return Parted(np.stack([x, closed], -1), cover, colour)
