"""Flow maps of micro-expressions by simulation: action units as displacement fields on the renderer's own faces.

No picture is drawn. A face is 68 points of the renderer's geometry (mer.synthetic.face); every action unit moves the
skin about its landmarks in the direction that its muscle pulls (mer.synthetic.motion.UNITS); and what an algorithm
would make of that is added: head motion, blinks and gaze, skin without texture, on which flow is lost, small flow that
TV-L1 flattens, wrong flow at the border, other crops. Nothing of it was fitted to labelled clips.

Emotions show action units as the FACS Investigator's Guide has them (Ekman, Friesen and Hager 2002, table 10-1:
prototypes and major variants), contempt as Matsumoto and Ekman (2004) do. Of a prototype a micro-expression shows
parts, often those of one half of the face (Porter and ten Brinke 2008): so parts of each are drawn.

Maps are (3, size, size): u, v (px of a crop 224 px wide) and strain, as mer.motion.strain.flow_image.
"""

import functools
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from mer.errors import MerError, listed, suggestion
from mer.facs import CENTRAL, CLASSES, EMOTIONS, LATERAL, OF_CLASS, TARGETS, UPPER
from mer.motion.strain import flow_image
from mer.synthetic import mouth
from mer.synthetic.face import (
    CENTRE_FRAME,
    CENTRE_SOURCE,
    DLIB_AT_REST,
    MIRROR,
    PORTRAIT_LANDMARKS,
    SCALE,
    crop_side,
    new_geometry,
)
from mer.synthetic.motion import MIDLINE
from mer.synthetic.motion import UNITS as RENDERED

# Beside those of the renderer the lip stretcher, which belongs to fear. The cheeks go with cheek raiser and lip corner
# puller: the whole of them, from the lid to the lips, which a picture without wrinkles does not need to show.
UNITS = RENDERED | {
    6: [*RENDERED[6], ((36, 2, 48), (0.15, -0.9), 0.13)],
    12: [*RENDERED[12], ((36, 2, 48, 48), (-0.35, -0.8), 0.13)],
    20: [((48,), (-0.95, 0.25), 0.09)],
}
FACES = 512  # geometries that are drawn once for a seed; every map varies one of them
CROP = 224  # px
EYES = (np.arange(36, 42), np.arange(42, 48))
# Where a face has edges by which flow is found: brows, eyes, nose, lips.
EDGES = (*range(17, 27), *range(31, 48), 48, 50, 51, 52, 54, 56, 57, 58)


@dataclass(frozen=True, kw_only=True)
class Nuisance:
    """How much of what is no expression is in a map; 0 switches a thing off.

    peak: px, the range of the largest displacement by an expression. asymmetry: spread of the log ratio of the halves;
    one_sided: share of units that move one half alone. style: spread of direction (rad) and of the log gain of a unit.
    companion: a unit of its own accord, its share of the peak. head: typical drift, px; turn: of the head out of the
    plane, px at the nose. blink, gaze: shares of maps. smooth: how much flow is lost where skin has no texture, 0..1.
    flatten: px below which flow, less its median, shrinks to nothing, as a total variation penalty does. border: share
    of maps with wrong flow at the border. noise: px. zoom, low: how much larger the face is in the crop than in box224,
    and how much lower, in sides; crop: the spread of both. In the public releases the eyes, where strain is largest
    over all clips, are a quarter further apart than in box224, and up to a seventh of the side lower.
    """

    peak: tuple[float, float] = (0.3, 2.0)
    asymmetry: float = 0.4
    one_sided: float = 0.15
    style: float = 0.3
    companion: float = 0.25
    head: float = 0.4
    turn: float = 0.25
    blink: float = 0.25
    gaze: float = 0.15
    smooth: float = 0.6
    flatten: float = 0.05
    border: float = 0.25
    noise: float = 0.05
    zoom: float = 1.25
    low: float = 0.06
    crop: float = 0.08

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            low = min(value) if one.name == "peak" else value
            if not 0 <= low < np.inf:
                raise MerError(f"flow maps: {one.name} is {value}; needed is 0 or more")
        if not 0 < self.peak[0] <= self.peak[1]:
            raise MerError(f"flow maps: peak is {self.peak}; needed are two numbers above 0, the least first")
        for name in ("one_sided", "blink", "gaze", "smooth", "border"):
            if getattr(self, name) > 1:
                raise MerError(f"flow maps: {name} is {getattr(self, name)}; a share is 1 at most")


def changed_nuisance(changes: dict[str, Any], where: str) -> Nuisance:
    """Nuisance with changes. Raises MerError for a name that it does not have, or a value out of range."""
    known = Nuisance.__dataclass_fields__
    for name in changes:
        if name not in known:
            raise MerError(f"{where}.{name} is unknown; {suggestion(name, known)}")
    changed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
    }
    try:
        return Nuisance(**changed)
    except (TypeError, MerError) as error:
        raise MerError(f"{where}: {error}; correct {listed(changes)}") from None


NONE = replace(
    Nuisance(), asymmetry=0.0, one_sided=0.0, style=0.0, companion=0.0, head=0.0, turn=0.0, blink=0.0, gaze=0.0,
    smooth=0.0, flatten=0.0, border=0.0, noise=0.0, zoom=1.0, low=0.0, crop=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class FlowMaps:
    """flow: (N, 3, size, size) float32. units: (N, len(TARGETS)) float32, 1 where a unit moves. label: (N,) int64."""

    flow: np.ndarray
    units: np.ndarray
    label: np.ndarray


def draw(rng: np.random.Generator, count: int, *, size: int = 28, nuisance: Nuisance | None = None) -> FlowMaps:
    """Maps of random people with the emotions of three classes, each class as often.

    Args:
        rng: all that is random comes from it.
        count: of the maps, 1 at least.
        size: px a side, 14 at least.
        nuisance: None: Nuisance().

    Raises:
        MerError: another count or size.
    """
    if count < 1 or size < 14:
        raise MerError(f"flow maps: {count} maps of {size} px; needed is 1 at least, of 14 px or more")
    how = nuisance or Nuisance()
    label = rng.integers(0, len(CLASSES), count)
    weights = unit_weights(rng, label, how)
    motion = simulate(rng, weights, size=size, nuisance=how)
    return FlowMaps(motion, (weights > 0).astype(np.float32), label.astype(np.int64))


def unit_weights(rng: np.random.Generator, label: np.ndarray, how: Nuisance) -> np.ndarray:
    """How strongly each of TARGETS moves, (N, len(TARGETS)): of a random emotion of the class, a variant's parts."""
    weights = np.zeros((len(label), len(TARGETS)), np.float32)
    n_lateral = len(LATERAL)
    for row, one in zip(weights, label, strict=True):
        emotions = OF_CLASS[CLASSES[one]]
        variants = EMOTIONS[emotions[rng.integers(len(emotions))]]
        units = list(variants[rng.integers(len(variants))])
        if len(units) > 1 and rng.random() < 0.5:  # parts: those of one half of the face, or a random choice
            upper = rng.random() < 0.5
            half = [u for u in units if (int(u.lstrip("L")) in UPPER) == upper]
            some = [u for u in units if rng.random() < 0.6]
            units = (half if rng.random() < 0.5 else some) or units
        lean = how.asymmetry * rng.standard_normal()
        for text in units:
            unit, gain = int(text.lstrip("L")), float(np.exp(how.style * rng.standard_normal()))
            if unit in CENTRAL:
                row[2 * n_lateral + CENTRAL.index(unit)] = gain
                continue
            side = rng.random() < 0.5
            alone = text.startswith("L") or rng.random() < how.one_sided
            place = LATERAL.index(unit)
            row[place] = gain * np.exp(lean / 2) * (not alone or side)
            row[n_lateral + place] = gain * np.exp(-lean / 2) * (not alone or not side)
    return weights


def simulate(
    rng: np.random.Generator,
    weights: np.ndarray,
    *,
    size: int = 28,
    nuisance: Nuisance | None = None,
    subject: np.ndarray | None = None,
) -> np.ndarray:
    """Maps (N, 3, size, size) of people whose units move as `weights`, (N, len(TARGETS)), say.

    subject: (N,) int, 0 to the number of people less one: who is in each map, always in the same crop; None: each is
    another person.
    """
    how, n = nuisance or Nuisance(), len(weights)
    fine = 2 * size if size <= 56 else size
    people = faces(rng, n, how) if subject is None else faces(rng, int(subject.max()) + 1, how, twice=False)[subject]
    bumps = _bumps(rng, people, weights, how)
    motion = _field(*bumps, fine)
    peak = rng.uniform(*how.peak, (n, 1, 1, 1)).astype(np.float32)
    motion *= peak / np.maximum(np.hypot(motion[:, :1], motion[:, 1:]).max((2, 3), keepdims=True), 1e-6)
    if how.companion:
        motion += _companion(rng, people, how, fine) * peak
    if how.blink or how.gaze:
        motion += _eyes(rng, people, how, fine)
    if how.smooth:
        motion *= _texture(rng, people, how, fine)
    if how.head or how.turn:
        motion += _head(rng, people, how, fine)
    if how.noise:
        motion += how.noise * _smooth_noise(rng, (n, 2), fine)
    if how.flatten:
        motion = _flattened(motion, how.flatten)
    if how.border:
        motion += _border(rng, n, how, fine)
    # Strain in change per px of the crop: a cell of the grid is so many of its px.
    image = flow_image(motion * (fine / CROP))
    image[:, :2] *= CROP / fine
    if fine != size:
        image = image.reshape(n, 3, size, 2, size, 2).mean((3, 5))
    return np.ascontiguousarray(image, np.float32)


# ---- faces ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _gallery(seed: int = 0) -> np.ndarray:
    """(FACES, 68, 2): the points of people, in the unit square of their crop (box224)."""
    rng = np.random.default_rng([seed, FACES])
    rest = np.concatenate([PORTRAIT_LANDMARKS[:48], mouth.CLOSED]) - CENTRE_SOURCE
    found = []
    for _ in range(FACES):
        points = new_geometry(rest, rng) * SCALE + CENTRE_FRAME + SCALE * DLIB_AT_REST
        side, (low, high) = crop_side(points), (points.min(0), points.max(0))
        # The box with a fifth of its height on top, as a square about its middle.
        middle = (low + high) / 2 - (0, 0.1 * (high[1] - low[1]))
        found.append((points - middle) / side + 0.5)
    return np.array(found)


def faces(rng: np.random.Generator, count: int, how: Nuisance, *, twice: bool = True) -> np.ndarray:
    """(N, 68, 2) points of random people, 0..1 in the crop, half of them mirrored, in crops that differ.

    twice: whether a person may come twice; without it there are at most FACES.
    """
    points = _gallery()[rng.integers(0, FACES, count) if twice else rng.permutation(FACES)[:count]]
    turned = points[:, MIRROR] * (-1, 1) + (1, 0)
    points = np.where(rng.random((count, 1, 1)) < 0.5, turned, points)
    spread = how.crop * rng.standard_normal((count, 1, 1)) + how.crop / 2 * rng.standard_normal((count, 1, 2))
    place = (0.5, 0.5 + how.low) + how.crop * rng.standard_normal((count, 1, 2))
    return (points - 0.5) * how.zoom * np.exp(spread) + place


# ---- fields ---------------------------------------------------------------------------------------------------------


def _bumps(
    rng: np.random.Generator, points: np.ndarray, weights: np.ndarray, how: Nuisance
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussians of all units: centres (N, K, 2) and widths (N, K), 0..1 in the crop, vectors (N, K, 2)."""
    width = np.ptp(points[:, :17, 0], axis=1)
    right = points[:, 45] - points[:, 36]
    right /= np.hypot(right[:, :1], right[:, 1:])
    down = np.stack([-right[:, 1], right[:, 0]], 1)
    index, directions, sizes, targets = _table()
    turn = how.style * rng.standard_normal((len(points), len(TARGETS)))[:, targets]
    cos, sin = np.cos(turn), np.sin(turn)
    across, fall = directions[:, 0] * cos - directions[:, 1] * sin, directions[:, 0] * sin + directions[:, 1] * cos
    vectors = across[..., None] * right[:, None] + fall[..., None] * down[:, None]
    centres = np.einsum("kp,npx->nkx", index, points)
    spread = np.exp(how.style / 3 * rng.standard_normal((len(points), len(sizes))))
    return centres, sizes * width[:, None] * spread, vectors * weights[:, targets, None]


@functools.lru_cache(maxsize=1)
def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The bumps of all units: which points' mean is the centre (K, 68), direction (K, 2), size (K,), target (K,)."""
    rows = []
    for unit in LATERAL:
        for points, (inward, fall), size in UNITS[unit]:
            rows.append((points, (inward, fall), size, LATERAL.index(unit)))
            mirrored = tuple(MIRROR[list(points)])
            rows.append((mirrored, (-inward, fall), size, len(LATERAL) + LATERAL.index(unit)))
    for unit in CENTRAL:
        rows += [(p, d, size, 2 * len(LATERAL) + CENTRAL.index(unit)) for p, d, size in MIDLINE[unit]]
    index = np.zeros((len(rows), 68))
    for k, (points, *_) in enumerate(rows):
        np.add.at(index[k], list(points), 1 / len(points))
    return (
        index,
        np.array([d for _, d, _, _ in rows]),
        np.array([s for *_, s, _ in rows]),
        np.array([t for *_, t in rows]),
    )


def _field(centres: np.ndarray, widths: np.ndarray, vectors: np.ndarray, fine: int) -> np.ndarray:
    """(N, 2, fine, fine) float32: the sum of Gaussians, each a product of one in x and one in y."""
    axis = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    scale = (np.sqrt(0.5) / widths).astype(np.float32)[..., None]
    across, down = (np.exp(-(((axis - centres[..., i, None].astype(np.float32)) * scale) ** 2)) for i in (0, 1))
    vectors = vectors.astype(np.float32)
    down = np.ascontiguousarray(down.transpose(0, 2, 1))
    return np.stack([down @ (across * vectors[..., i, None]) for i in (0, 1)], 1)


def _companion(rng: np.random.Generator, points: np.ndarray, how: Nuisance, fine: int) -> np.ndarray:
    """One unit that belongs to no emotion: faces rarely move one muscle alone."""
    n, sides = len(points), len(LATERAL)
    weights = np.zeros((n, len(TARGETS)), np.float32)
    which = rng.integers(0, sides, n)
    strength = how.companion * rng.random((2, n))
    weights[np.arange(n), which], weights[np.arange(n), sides + which] = strength
    return _field(*_bumps(rng, points, weights, how), fine)


def _eyes(rng: np.random.Generator, points: np.ndarray, how: Nuisance, fine: int) -> np.ndarray:
    """Lids that close or open, and eyeballs that turn, both sides alike: large motion that says nothing."""
    n = len(points)
    width = np.ptp(points[:, :17, 0], axis=1)
    centres = np.stack([points[:, eye].mean(1) for eye in EYES for _ in range(2)], 1)
    lids = (rng.random(n) < how.blink) * rng.uniform(-0.5, 1, n) * 3
    looks = (rng.random((n, 1)) < how.gaze) * rng.normal(0, 1.2, (n, 2))
    vectors = np.zeros((n, 4, 2))
    vectors[:, ::2, 1] = lids[:, None] * np.exp(0.1 * rng.standard_normal((n, 2)))
    vectors[:, 1::2] = looks[:, None]
    sizes = np.tile([0.05, 0.035], 2) * width[:, None]
    return _field(centres, sizes, vectors, fine)


def _head(rng: np.random.Generator, points: np.ndarray, how: Nuisance, fine: int) -> np.ndarray:
    """A rigid drift in the plane, and a turn out of it, by which what is nearer moves more."""
    n = len(points)
    axis = ((np.arange(fine) + 0.5) / fine - 0.5).astype(np.float32)
    dx, dy, angle, zoom = (how.head * rng.standard_normal((4, n, 1, 1))).astype(np.float32)
    angle, zoom = angle / 2, zoom / 2  # px over the whole crop
    x, y = axis[None, None, :], axis[None, :, None]
    u, v = dx + zoom * x - angle * y + 0 * y, dy + angle * x + zoom * y + 0 * x
    nose = points[:, 30]
    near = np.exp(
        -((axis + 0.5 - nose[:, :1]) ** 2)[:, None, :] / 0.1 - ((axis + 0.5 - nose[:, 1:]) ** 2)[:, :, None] / 0.15
    )
    yaw, pitch = how.turn * rng.standard_normal((2, n, 1, 1))
    return np.stack([u + yaw * near, v + pitch * near], 1).astype(np.float32)


def _texture(rng: np.random.Generator, points: np.ndarray, how: Nuisance, fine: int) -> np.ndarray:
    """(N, 1, fine, fine) 0..1: what share of the flow is found, 1 on edges of the face, less on smooth skin."""
    n = len(points)
    centres = points[:, list(EDGES)]
    widths = np.full((n, len(EDGES)), 0.05) * np.ptp(points[:, :17, 0], axis=1)[:, None]
    edges = _field(centres, widths, np.ones((n, len(EDGES), 2)), fine)[:, :1]
    seen = np.clip(edges + 0.5 + 0.5 * _smooth_noise(rng, (n, 1), fine), 0, 1)
    lost = how.smooth * rng.random((n, 1, 1, 1), np.float32)
    return 1 - lost * (1 - seen)


def _border(rng: np.random.Generator, n: int, how: Nuisance, fine: int) -> np.ndarray:
    """Wrong flow in blobs at the border, where hair, background and what left the picture are."""
    count = 3
    along, deep = rng.random((n, count)), 0.06 * np.abs(rng.standard_normal((n, count)))
    side = rng.integers(0, 4, (n, count))
    x = np.select([side == 0, side == 1, side >= 2], [deep, 1 - deep, along])
    y = np.select([side < 2, side == 2, side == 3], [along, deep, 1 - deep])
    there = rng.random((n, 1)) < how.border
    vectors = there[..., None] * rng.normal(0, 1.5, (n, count, 2))
    return _field(np.stack([x, y], -1), rng.uniform(0.02, 0.07, (n, count)), vectors, fine)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], fine: int) -> np.ndarray:
    """Noise (*shape, fine, fine) of unit variance about 1 at scales of a seventh and of a fourteenth of the picture."""
    total = np.zeros((*shape, fine, fine), np.float32)
    for cells in (7, 14):
        up = _enlarged(cells, fine)
        total += up @ rng.standard_normal((*shape, cells, cells), np.float32) @ up.T
    return total


@functools.lru_cache(maxsize=8)
def _enlarged(cells: int, fine: int) -> np.ndarray:
    """(fine, cells) float32: linear interpolation between cells."""
    at = np.clip((np.arange(fine) + 0.5) * cells / fine - 0.5, 0, cells - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells)))
    return weights.astype(np.float32)


def _flattened(motion: np.ndarray, least: float) -> np.ndarray:
    """Flow less its median, shrunk by `least` px: a total variation penalty takes small motion to nothing."""
    middle = np.median(motion[:, :, ::4, ::4], axis=(2, 3), keepdims=True)
    apart = motion - middle
    length = np.hypot(apart[:, :1], apart[:, 1:])
    return middle + apart * np.maximum(0, 1 - least / np.maximum(length, 1e-9))
