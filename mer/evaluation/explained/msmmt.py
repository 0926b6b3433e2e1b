"""Pictures of the weights that MSMMT gives the patches of a face (eq. 14), and the numbers by which they are judged.

Shapes: N clips, C classes; the image of a size has P x P patches. A weight, 0..1, is what the last layer multiplies its
patch by. *Relative* is a weight over the mean of its clip, modality and size: 1 everywhere where no patch is preferred.
The numbers are pure functions; an undefined one is None.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mer.errors import MerError
from mer.evaluation.canvas import blank, heading, save
from mer.evaluation.explained import explained_rows
from mer.evaluation.maps import between_classes, class_maps, means
from mer.evaluation.reports import write_json
from mer.models.msmmt import MODALITIES, sides
from mer.networks.vit import PATCH
from mer.storage.cache import ClipCache

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

THIRDS = ("top", "middle", "bottom")
ALPHA = 0.5  # of the colours: the face is seen through them
SEQUENTIAL, DIVERGING = "plasma", "coolwarm"  # perceptually uniform; and with ends that are not dark
PANEL, SMALL = 2.5, 1.55  # inches: a side of a face in the picture of one clip, and in those of many classes
WIDTH = 6.4  # inches that the heading needs
Sizes = Sequence[tuple[int, np.ndarray]]  # of a modality: side of the image in px, and weights (N, P, P)


def draw(found: ClipCache, predictions: "pd.DataFrame", run_info: dict, folder: Path, *, title: str, clip: str) -> None:
    """patch_weights.png: the weights in one clip; patch_weights_by_class.png: their mean in each class;
    patch_weights_differences.png: where that differs from the mean of all clips; patch_weights.json: the numbers.
    Arguments: see mer.evaluation.explained.

    Raises MerError for explanations that are not those of the run's knobs.
    """
    names, knobs = run_info["class_names"], run_info["knobs"]
    weights = patch_weights(found, knobs)
    labels, probability = explained_rows(predictions, run_info, found.ids)
    row = found.ids.index(clip)
    label, predicted = int(labels[row]), int(probability[row].argmax())
    said = f"{clip}: class {names[label]} (probability {probability[row, label]:.2f}), "
    said += f"predicted {names[predicted]} ({probability[row, predicted]:.2f})"
    clip_figure(
        grey(found.extra("picture", clip), knobs["modalities"]),
        {modality: [(px, maps[row]) for px, maps in sizes] for modality, sizes in weights.items()},
        folder / "patch_weights.png", f"{title}: weights of the patches (eq. 14)", said,
    )  # fmt: skip
    faces = [_mean_face(found, [i for i, of in zip(found.ids, labels, strict=True) if of == c], knobs["modalities"])
             for c in range(len(names))]  # fmt: skip
    for what, differences in (("by_class", False), ("differences", True)):
        class_figure(
            faces, weights, labels, names, folder / f"patch_weights_{what}.png", title, differences=differences
        )
    cosine = [float(found.extra("cosine", i)) for i in found.ids] if len(weights) > 1 else None
    content = {
        "class_names": names,
        "clips": np.bincount(labels, minlength=len(names)).tolist(),
        "cosine": None if cosine is None else means(cosine, labels, len(names)),
        "weights": {modality: [{"px": px, **summary(maps, labels, len(names))} for px, maps in sizes]
                    for modality, sizes in weights.items()},
    }  # fmt: skip
    write_json(folder / "patch_weights.json", content)


# ---- what explain.h5 holds ------------------------------------------------------------------------------------------


def patch_weights(found: ClipCache, knobs: Mapping) -> dict[str, Sizes]:
    """Modality -> (px, weights (N, P, P) float64) of each size, largest first.

    Raises MerError for weights or pictures of another form than the knobs say, and for weights below 0.
    """
    modalities = MODALITIES if knobs["modalities"] == "both" else (knobs["modalities"],)
    every = sides(knobs["size"], knobs["scales"], knobs["rounding"])
    most = every[0] // PATCH
    needed = (len(modalities), len(every), most, most)
    if found.shape[1:] != needed:
        said = ", ".join(f"{name} {knobs[name]}" for name in ("modalities", "size", "scales", "rounding"))
        raise MerError(f"{found.path}: weights of patches are {found.shape[1:]}, {said} need {needed}; train again")
    shape = found.extra("picture", found.ids[0]).shape
    if len(shape) != 3 or shape[0] != 3:
        raise MerError(f"{found.path}: pictures are {shape}, needed is (3, h, w); train again")
    data = np.asarray(found.load(), dtype=np.float64)
    if (data < 0).any():
        raise MerError(f"{found.path}: {int((data < 0).sum())} weights of patches are below 0; train again")
    return {
        modality: [(px, as_patches(data[:, m, s], px // PATCH)) for s, px in enumerate(every)]
        for m, modality in enumerate(modalities)
    }


def as_patches(maps: np.ndarray, patches: int) -> np.ndarray:
    """Maps (…, side, side), in which a patch fills several places, as (…, P, P): the place in the middle of each."""
    middle = ((np.arange(patches) + 0.5) * maps.shape[-1] / patches).astype(int)
    return maps[..., middle[:, None], middle]


def grey(picture: np.ndarray, modalities: str) -> np.ndarray:
    """Picture (3, h, w) as (h, w): mean of R, G and B; of a flow image the magnitude, less noisy than strain."""
    return np.hypot(picture[0], picture[1]) if modalities == "flow" else picture.mean(0)


def _mean_face(found: ClipCache, ids: Sequence[str], modalities: str) -> np.ndarray | None:
    """(h, w), the mean of the clips' pictures, one at a time; None without clips."""
    total: np.ndarray | float = 0.0
    for clip_id in ids:
        total = total + grey(found.extra("picture", clip_id), modalities) / len(ids)
    return np.asarray(total) if len(ids) else None


# ---- numbers --------------------------------------------------------------------------------------------------------


def entropy(weights: ArrayLike) -> float | None:
    """Entropy of weights (P, P), as shares of their sum, over that of equal ones: 0, all in one patch, to 1.

    None where all are 0, and for a single patch.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.size < 2 or not weights.any():
        return None
    shares = weights[weights > 0] / weights.sum()
    return float((shares * np.log(1 / shares)).sum() / np.log(weights.size))


def largest_over_mean(weights: ArrayLike) -> float | None:
    """1 where weights (P, P) are equal, P² where one patch has all; None where all are 0."""
    weights = np.asarray(weights, dtype=float)
    return float(weights.max() / weights.mean()) if weights.any() else None


def thirds(weights: ArrayLike) -> list[float] | None:
    """Share of weights (P, P) in the upper, middle and lower third of the picture; None where all are 0.

    A row of patches over a border counts to both sides, by area. In a face that is cut at its brows and chin, brows and
    eyes are in the first third, the nose in the second, the chin in the last; the mouth is on the border of both.
    """
    rows = np.asarray(weights, dtype=float).sum(1)
    if not rows.any():
        return None
    below = np.concatenate([[0], rows.cumsum()]) / rows.sum()
    return np.diff(np.interp(np.arange(4) / 3, np.arange(len(below)) / len(rows), below)).tolist()


def summary(weights: np.ndarray, labels: np.ndarray, n_classes: int) -> dict:
    """Numbers of the weights (N, P, P) of a modality and size.

    Returns:
        {patches: P, entropy, largest_over_mean, top, middle and bottom: share of the weight in a third, each {mean,
        by_class}; between_classes, by_chance: see `between_classes`}; None where undefined.
    """
    shares = [thirds(w) or (None, None, None) for w in weights]
    each = {
        "entropy": [entropy(w) for w in weights],
        "largest_over_mean": [largest_over_mean(w) for w in weights],
        **{third: [s[i] for s in shares] for i, third in enumerate(THIRDS)},
    }
    share, chance = between_classes(weights, labels) or (None, None)
    return {
        "patches": weights.shape[1],
        **{name: means(values, labels, n_classes) for name, values in each.items()},
        "between_classes": share,
        "by_chance": chance,
    }


# ---- pictures -------------------------------------------------------------------------------------------------------


def clip_figure(face: np.ndarray, weights: Mapping[str, Sizes], path: str | Path, title: str, said: str) -> None:
    """The weights in one clip over its picture: a row a modality, a column a size, colours of one scale in a row.

    Args:
        face: (h, w) grey levels, drawn from the darkest to the brightest hundredth.
        weights: modality -> (px, (P, P)) of each size.
        path: the PNG to write.
        title, said: first and second line of the heading.
    """
    columns = 1 + max(map(len, weights.values()))
    figure = blank(max(PANEL * columns + 1.0, WIDTH), (PANEL + 0.55) * len(weights) + 0.75, band=0.65)
    axes = figure.subplots(len(weights), columns, squeeze=False)
    for row, (modality, sizes) in zip(axes, weights.items(), strict=True):
        _face(row[0], face)
        row[0].set_ylabel(_words(modality), fontsize=10)
        row[0].set_title("flow, its magnitude" if MODALITIES[0] not in weights else "dynamic image", fontsize=9)
        low, high = _range([w for _, w in sizes])
        for a, (px, w) in zip(row[1:], sizes, strict=False):
            drawn = _over(a, face, w, SEQUENTIAL, low, high)
            a.set_title(f"{px} px: {len(w)} x {len(w)} patches", fontsize=9)
            a.set_xlabel(_clip_line(w), fontsize=8)
        _bar(figure, drawn, list(row), "weight", "right")
    heading(figure, title)
    _second_line(figure, said)
    save(figure, path)


def class_figure(
    faces: Sequence[np.ndarray | None],
    weights: Mapping[str, Sizes],
    labels: np.ndarray,
    names: Sequence[str],
    path: str | Path,
    title: str,
    *,
    differences: bool,
) -> None:
    """Mean relative weights over the mean picture: a row a class, a column a modality and size; one scale a modality.

    Args:
        faces: (h, w) grey levels of each class; None without clips.
        weights: modality -> (px, (N, P, P)) of each size.
        labels: (N,) integers, positions in `names`.
        path: the PNG to write.
        title: begins the heading.
        differences: what is drawn is the mean of a class less that of all clips; else both.
    """
    counts = np.bincount(labels, minlength=len(names))
    rows = [(f"{name}\n{_clips(n)}", face) for name, n, face in zip(names, counts, faces, strict=True)]
    if not differences:
        known = [(n, face) for n, face in zip(counts, faces, strict=True) if face is not None]
        rows.insert(0, (f"all\n{_clips(len(labels))}", sum(n * face for n, face in known) / len(labels)))
    columns = sum(map(len, weights.values()))
    side = min(max(SMALL, (WIDTH - 0.6) / columns), PANEL)
    figure = blank(max(side * columns + 0.6, WIDTH), side * len(rows) + 1.9, band=0.65)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    colours, label = SEQUENTIAL, "relative weight"
    if differences:
        colours, label = DIVERGING, "relative weight, class less all clips"
    first = 0
    for modality, sizes in weights.items():
        block = axes[:, first : first + len(sizes)]
        maps = [class_maps(w, labels, len(names)) for _, w in sizes]
        if differences:
            maps = [[None if m is None else m - of[0] for m in of[1:]] for of in maps]
        low, high = _range([m for of in maps for m in of if m is not None])
        if differences:
            low, high = -max(-low, high), max(-low, high)
        cells = [(a, face, m) for column, of in zip(block.T, maps, strict=True)
                 for a, (_, face), m in zip(column, rows, of, strict=True)]  # fmt: skip
        images = [_over(a, face, m, colours, low, high) for a, face, m in cells if m is not None and face is not None]
        for a in [a for a, _, m in cells if m is None]:
            _empty(a)
        for a, (px, w) in zip(block[0], sizes, strict=True):
            a.set_title(_column_title(modality, px, w, labels, differences), fontsize=8)
        if images:
            _bar(figure, images[0], list(block.flat), label, "bottom")
        first += len(sizes)
    for a, (name, _) in zip(axes[:, 0], rows, strict=True):
        a.set_ylabel(name, fontsize=9)
    if differences:
        heading(figure, f"{title}: where the weights of a class differ")
        _second_line(figure, "Below each size: how much of the clips' differences is between classes.")
    else:
        heading(figure, f"{title}: mean weights of the patches")
        _second_line(
            figure, "Relative weights, 1 where no patch is preferred, by networks that have not seen the subjects."
        )
    save(figure, path)


def _face(a: "Axes", face: np.ndarray, darkest: float = 0.0) -> None:
    """A face (h, w), its darkest hundredth in this grey, 0..1, its brightest white."""
    low, high = np.quantile(face, (0.01, 0.99))
    low -= (high - low) * darkest / (1 - darkest)
    a.imshow(face, cmap="gray", vmin=low, vmax=high, extent=(0, 1, 1, 0))
    a.set_xticks([])
    a.set_yticks([])


def _over(a: "Axes", face: np.ndarray, weights: np.ndarray, colours: str, low: float, high: float) -> "AxesImage":
    """Weights (P, P) over a face, with the borders of the patches."""
    _face(a, face, darkest=0.3)  # the colours of what is black could not be told from each other
    drawn = a.imshow(weights, cmap=colours, vmin=low, vmax=high, alpha=ALPHA, extent=(0, 1, 1, 0),
                     interpolation="nearest")  # fmt: skip
    borders = np.arange(1, len(weights)) / len(weights)
    for lines in (a.hlines, a.vlines):
        lines(borders, 0, 1, colors="white", linewidths=2.4 / (4 + len(weights)))  # many lines would hide the face
    return drawn


def _range(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """Smallest and largest value of all maps."""
    return min((float(m.min()) for m in maps), default=0.0), max((float(m.max()) for m in maps), default=1.0)


def _empty(a: "Axes") -> None:
    """A panel of a class without clips, or without weights."""
    a.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0), aspect="equal")
    a.text(0.5, 0.5, "none", fontsize=8, ha="center", va="center", color="grey")


def _bar(figure: "Figure", drawn: "AxesImage", axes: list, label: str, location: str) -> None:
    bar = figure.colorbar(drawn, ax=axes, location=location, shrink=0.85, aspect=25, pad=0.02)
    bar.ax.set_facecolor("0.5")  # colours are half transparent, and a face is grey, not white
    bar.ax.tick_params(labelsize=8)
    bar.set_label(label, fontsize=8)


def _second_line(figure: "Figure", text: str) -> None:
    figure.text(0.02, 1 - 0.42 / figure.get_size_inches()[1], text, fontsize=9, va="top")


def _clip_line(weights: np.ndarray) -> str:
    spread, most = entropy(weights), largest_over_mean(weights)
    return "all 0" if spread is None or most is None else f"entropy {spread:.3f}, largest {most:.2f} x mean"


def _column_title(modality: str, px: int, weights: np.ndarray, labels: np.ndarray, differences: bool) -> str:
    lines = [_words(modality), f"{px} px: {weights.shape[1]} x {weights.shape[1]}"]
    if differences:
        between = between_classes(weights, labels)
        lines.append("undefined" if between is None else f"{_percent(between[0])} (chance {_percent(between[1])})")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _words(modality: str) -> str:
    return modality.replace("_", " ")


def _clips(n: int) -> str:
    return f"{n} clip" if n == 1 else f"{n} clips"
