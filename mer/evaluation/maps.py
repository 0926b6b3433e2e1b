"""Numbers of maps over a face, such as Grad-CAM: how concentrated they are, where, and whether classes differ in them.

Shapes: N clips, maps (N, h, w), 0 and above, of h x w places. *Relative* is a map over its own mean: 1 everywhere where
no place is preferred. Pure functions; an undefined number is None.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mer.errors import MerError
from mer.storage.cache import ClipCache

PART = 0.1  # of a face, of which `concentration` counts the heat


def read_maps(found: ClipCache) -> np.ndarray:
    """The maps (N, h, w) float64 that explain.h5 holds, over pictures (H, W, 3).

    Raises MerError for data or pictures of another form, and for values below 0.
    """
    if len(found.shape) != 3:
        raise MerError(f"{found.path}: maps are {found.shape[1:]}, needed is (h, w); train again")
    shape = picture(found, found.ids[0]).shape
    if len(shape) != 3 or shape[2] != 3:
        raise MerError(f"{found.path}: pictures are {shape}, needed is (H, W, 3); train again")
    data = np.asarray(found.load(), dtype=np.float64)
    if (data < 0).any():
        raise MerError(f"{found.path}: {int((data < 0).sum())} values of maps are below 0; train again")
    return data


def picture(found: ClipCache, clip_id: str) -> np.ndarray:
    """What the network was given of a clip, (H, W, 3) uint8 RGB."""
    return np.clip(np.round(found.extra("picture", clip_id)), 0, 255).astype(np.uint8)


# ---- of one map -----------------------------------------------------------------------------------------------------


def concentration(heat: ArrayLike, part: float = PART) -> float | None:
    """Share of the heat (h, w) in the part of the face that has the most of it: `part` where it is even, 1 at most.

    A place at the border of the part counts with the share of it that lies within. None where there is no heat.
    """
    heat = np.sort(np.asarray(heat, dtype=float), axis=None)[::-1]
    if not heat.any():
        return None
    below = np.concatenate([[0], heat.cumsum()]) / heat.sum()
    return float(np.interp(part * heat.size, np.arange(heat.size + 1), below))


def centre(heat: ArrayLike) -> tuple[float, float] | None:
    """(row, column) of the centre of mass of a map, 0..1 from the top and the left; None where there is no heat."""
    heat = np.asarray(heat, dtype=float)
    if not heat.any():
        return None
    rows, columns = ((np.arange(n) + 0.5) / n for n in heat.shape)
    return float(heat.sum(1) @ rows / heat.sum()), float(heat.sum(0) @ columns / heat.sum())


# ---- of many --------------------------------------------------------------------------------------------------------


def relative(maps: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative maps (n, h, w), and the labels, of the clips that have any value above 0."""
    mean = maps.mean((1, 2))
    return maps[mean > 0] / mean[mean > 0, None, None], labels[mean > 0]


def class_maps(maps: np.ndarray, labels: np.ndarray, n_classes: int) -> list[np.ndarray | None]:
    """Mean relative maps (h, w): of all clips, then of each class; None without clips."""
    maps, labels = relative(maps, labels)
    chosen = [np.ones(len(labels), dtype=bool), *(labels == c for c in range(n_classes))]
    return [maps[which].mean(0) if which.any() else None for which in chosen]


def between_classes(maps: np.ndarray, labels: np.ndarray) -> tuple[float, float] | None:
    """How much of the differences between clips lies between classes, 0..1, and how much would by chance.

    It is the sum of squares of the class means of the relative maps, over that of the clips, of all places; (K - 1) /
    (n - 1) is its mean over all ways to give n clips the labels of K classes. None with fewer than two classes, or
    without a difference between clips.
    """
    maps, labels = relative(maps, labels)
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        return None
    apart = maps - maps.mean(0)
    total = (apart**2).sum()
    if total < 1e-12 * maps.size:  # equal but for the rounding of float32
        return None
    own = sum(n * (apart[labels == c].mean(0) ** 2).sum() for c, n in zip(classes, sizes, strict=True))
    return float(own / total), (len(classes) - 1) / (len(labels) - 1)


def means(values: Sequence[float | None], labels: np.ndarray, n_classes: int) -> dict:
    """{mean, by_class}: of N values, over those that are defined; None where none is."""

    def mean(of: Sequence[float | None]) -> float | None:
        defined = [v for v in of if v is not None]
        return float(np.mean(defined)) if defined else None

    own = [mean([v for v, label in zip(values, labels, strict=True) if label == c]) for c in range(n_classes)]
    return {"mean": mean(values), "by_class": own}


def summary(maps: np.ndarray, labels: np.ndarray, n_classes: int) -> dict:
    """Numbers of the maps (N, h, w) of clips with labels 0 … n_classes - 1.

    Returns:
        {places: [h, w]; without_heat: clips whose map is 0 everywhere; concentration; row and column: of the centre;
        each {mean, by_class}; between_classes, by_chance: see `between_classes`}; None where undefined.
    """
    centres = [centre(heat) or (None, None) for heat in maps]
    each: dict[str, list[float | None]] = {
        "concentration": [concentration(heat) for heat in maps],
        "row": [row for row, _ in centres],
        "column": [column for _, column in centres],
    }
    share, chance = between_classes(maps, labels) or (None, None)
    return {
        "places": list(maps.shape[1:]),
        "without_heat": int((~maps.any((1, 2))).sum()),
        **{name: means(values, labels, n_classes) for name, values in each.items()},
        "between_classes": share,
        "by_chance": chance,
    }
