"""Facial movements of the synthetic corpus: action units as displacement fields, head drift, and rendering.

Flow is (2, H, W), pixels, u right then v down; points are (N, 2) as (x, y). A clip's forward motion from the onset
to a frame is  x -> drift(x + amplitude * field(x)):  first the face moves, then the head.
Sides follow FACS: "L" is the person's left, which is the image's right.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mer.synthetic import mouth
from mer.synthetic.face import MIRROR, SIZE, Identity, to_canvas

# One action unit = bumps on the image's left half: (landmarks whose mean is the centre, direction (inward, down),
# width as a fraction of the face's). The right half mirrors them. Bumps on the midline stand in MIDLINE.
_Bump = tuple[tuple[int, ...], tuple[float, float], float]
UNITS: dict[int, list[_Bump]] = {
    1: [((20, 21), (0.0, -1.0), 0.085)],
    2: [((17, 18, 19), (0.0, -1.0), 0.085)],
    4: [((19, 20), (0.25, 0.9), 0.085), ((21,), (0.5, 0.8), 0.075)],
    5: [((37, 38), (0.0, -1.0), 0.05)],
    6: [((36, 41, 41, 48), (0.1, -1.0), 0.10)],
    7: [((40, 41), (0.0, -1.0), 0.05), ((37, 38), (0.0, 0.6), 0.05)],
    9: [((31, 39), (0.15, -1.0), 0.075), ((21,), (0.3, 0.6), 0.07)],
    10: [((49, 50), (-0.1, -1.0), 0.065), ((31,), (-0.2, -0.5), 0.06)],
    12: [((48,), (-0.75, -0.75), 0.09), ((48, 48, 3), (-0.4, -0.5), 0.10)],
    14: [((48,), (-0.95, 0.1), 0.08)],
    15: [((48,), (-0.1, 1.0), 0.085)],
    24: [((49, 50), (0.35, 0.5), 0.06), ((58, 59), (0.35, -0.7), 0.06)],
}
MIDLINE: dict[int, list[_Bump]] = {
    17: [((8, 57), (0.0, -1.0), 0.10), ((57,), (0.0, -0.6), 0.07)],
    25: [((51, 62), (0.0, -0.35), 0.06), ((57, 66), (0.0, 1.0), 0.07)],
    26: [((8, 57), (0.0, 1.0), 0.13)],
}


@dataclass(frozen=True)
class Bumps:
    """A displacement field as a sum of Gaussians: centres (K, 2) px, vectors (K, 2) px, widths (K,) px."""

    centres: np.ndarray
    vectors: np.ndarray
    widths: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """Displacement (N, 2) px at points (N, 2), computed bump by bump without any grid."""
        apart = points[:, None, :] - self.centres[None]
        weight = np.exp(-0.5 * (apart**2).sum(-1) / self.widths**2)
        return weight @ self.vectors

    def grid(self, size: int = SIZE) -> np.ndarray:
        """Displacement (2, size, size) float32 at every pixel."""
        axis = np.arange(size)
        # A Gaussian is a product of one in x and one in y, so the sum over bumps is one matrix product.
        across = np.exp(-0.5 * ((axis[None] - self.centres[:, :1]) / self.widths[:, None]) ** 2)
        down = np.exp(-0.5 * ((axis[None] - self.centres[:, 1:]) / self.widths[:, None]) ** 2)
        return np.stack([down.T @ (across * self.vectors[:, i : i + 1]) for i in (0, 1)]).astype(np.float32)

    def scaled(self, factor: float) -> "Bumps":
        return Bumps(self.centres, self.vectors * factor, self.widths)

    def resized(self, factor: float) -> "Bumps":
        """The places and widths in a picture `factor` times as large; the vectors stay."""
        return Bumps((self.centres + 0.5) * factor - 0.5, self.vectors, self.widths * factor)


def read_units(text: str) -> list[tuple[int, float, float]]:
    """ "4+L10" -> [(4, 1, 1), (10, 0, 1)]: unit, share of the image's left half, share of its right half."""
    return [(int(t.lstrip("LR")), float(t[0] != "L"), float(t[0] != "R")) for t in text.split("+")]


def expression(
    landmarks: np.ndarray,
    units: Iterable[tuple[int, float, float]],
    style: dict[int, tuple[float, float]] | None = None,
) -> Bumps:
    """The field of several action units, its largest displacement 1 px.

    landmarks (68, 2) frame px; units as of `read_units`, the shares any weights; style maps a unit to
    (turn in rad, gain): how this person does it.
    """
    width = np.ptp(landmarks[:17, 0])
    right = landmarks[45] - landmarks[36]
    right = right / np.hypot(*right)
    down = np.array([-right[1], right[0]])
    centres, vectors, widths = [], [], []

    def add(index: Iterable[int], direction: tuple[float, float], size: float, strength: float, side: int) -> None:
        centres.append(landmarks[list(index)].mean(0))
        vectors.append(strength * (side * direction[0] * right + direction[1] * down))
        widths.append(size * width)

    for unit, image_left, image_right in units:
        turn, gain = (style or {}).get(unit, (0.0, 1.0))
        cos, sin = np.cos(turn), np.sin(turn)
        for index, (inward, fall), size in UNITS.get(unit, ()):
            direction = (inward * cos - fall * sin, inward * sin + fall * cos)
            if image_left:
                add(index, direction, size, gain * image_left, 1)
            if image_right:
                add(MIRROR[list(index)], direction, size, gain * image_right, -1)
        for index, direction, size in MIDLINE.get(unit, ()):
            add(index, direction, size, gain * (image_left + image_right) / 2, 1)
    bumps = Bumps(np.array(centres), np.array(vectors), np.array(widths))
    return bumps.scaled(1 / np.hypot(*bumps.grid()).max())


def slope(field: np.ndarray) -> float:
    """Largest change of a field (2, H, W) per px; its inverse times an amplitude below 1 keeps the face unfolded."""
    return float(np.sqrt(sum((g**2).sum(0) for g in np.gradient(field, axis=(1, 2)))).max())


def rigid(dx: float, dy: float, angle: float, zoom: float, centre: ArrayLike) -> np.ndarray:
    """(2, 3) affine: turn by `angle` rad and zoom by 1 + `zoom` about `centre`, then move by (dx, dy) px."""
    turn = (1 + zoom) * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.asarray(centre, dtype=float)
    return np.column_stack([turn, centre - turn @ centre + (dx, dy)])


def apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An affine (2, 3) on points (..., 2)."""
    return points @ affine[:, :2].T + affine[:, 2]


def inverse(affine: np.ndarray) -> np.ndarray:
    turn = np.linalg.inv(affine[:, :2])
    return np.column_stack([turn, -turn @ affine[:, 2]])


def pixels(size: int = SIZE) -> np.ndarray:
    """(size, size, 2) float32: the (x, y) of every pixel."""
    axis = np.arange(size, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis), -1)


def forward_flow(field: np.ndarray, amplitude: float, drift: np.ndarray) -> np.ndarray:
    """True displacement (2, H, W) float32 from the onset to a frame; field (2, H, W) at amplitude 1."""
    here = pixels(field.shape[-1])
    there = apply(drift, here + amplitude * field.transpose(1, 2, 0).astype(np.float64))
    return (there - here).transpose(2, 0, 1).astype(np.float32)


def forward_points(points: np.ndarray, bumps: Bumps, amplitude: float, drift: np.ndarray) -> np.ndarray:
    """The same motion for single points (N, 2), evaluated exactly."""
    return apply(drift, points + amplitude * bumps.at(points))


def backward_map(field: np.ndarray, amplitude: float, drift: np.ndarray) -> np.ndarray:
    """(H, W, 2) float32: for every pixel of the moved frame, where it was at the onset. Error below 0.005 px.

    The inverse of x -> drift(x + amplitude * field(x)): undo the drift, then iterate x <- z - amplitude * field(x).
    The field's slope is below 0.1 for micro movements (0.6 for macro), so the iteration contracts that fast.
    """
    z = apply(inverse(drift), pixels(field.shape[-1]).astype(np.float64)).astype(np.float32)
    if amplitude == 0:
        return z
    push = np.ascontiguousarray((amplitude * field).transpose(1, 2, 0))
    # cv2.remap rounds coordinates to 1/32 px; the field changes by less than a tenth of that.
    x = z
    for _ in range(40):
        moved = cv2.remap(push, x[..., 0], x[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        new = z - moved
        done = np.abs(new - x).max() < 0.004
        x = new
        if done:
            break
    return x


def render(identity: Identity, pose: np.ndarray, where: np.ndarray, gap: float = 0.0) -> np.ndarray:
    """The clean frame (H, W, 3) float32 RGB 0..255.

    `where` (H, W, 2) = onset position of every pixel; `pose` (2, 3) = the clip's canonical-to-onset affine; `gap` px
    lie between the lips. One interpolation from the identity's canvas, whatever the motion: frames do not blur with
    time.
    """
    at = apply(inverse(pose), where.astype(np.float64))
    parted = mouth.part(at, identity.drawn, gap) if gap else None
    at = to_canvas(at if parted is None else parted.points, identity.oversample).astype(np.float32)
    face = cv2.remap(identity.canvas, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if parted is None:
        return face
    cover = parted.cover[..., None].astype(np.float32)
    return face * (1 - cover) + cover * (parted.colour * identity.gain).astype(np.float32)


@dataclass(frozen=True)
class Wander:
    """A slow random path of several quantities: sums of two sines each, 0 at the onset.

    size (Q,) = typical amplitude of each; rates (2, Q) in Hz, phases (2, Q) in rad.
    """

    size: np.ndarray
    rates: np.ndarray
    phases: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, size: ArrayLike) -> "Wander":
        size = np.asarray(size, dtype=float)
        shape = (2, len(size))
        return cls(size, rng.uniform(0.5, 2.5, shape), rng.uniform(0, 2 * np.pi, shape))

    def at(self, seconds: float) -> np.ndarray:
        """(Q,) the change since the onset, `seconds` after it (negative before)."""
        turn = 2 * np.pi * self.rates * seconds
        return self.size * (np.sin(turn + self.phases) - np.sin(self.phases)).sum(0) / 2


def envelope(frame: int, onset: int, apex: int, offset: int, sharpness: float, rest: float) -> float:
    """Amplitude 0..1 of the expression: 0 to the onset, 1 at the apex only, falling to `rest` at the offset."""
    if frame <= onset:
        return 0.0
    if frame >= offset:
        return rest
    if frame <= apex:
        return float((0.5 - 0.5 * np.cos(np.pi * (frame - onset) / (apex - onset))) ** sharpness)
    fall = (0.5 + 0.5 * np.cos(np.pi * (frame - apex) / (offset - apex))) ** sharpness
    return float(rest + (1 - rest) * fall)
