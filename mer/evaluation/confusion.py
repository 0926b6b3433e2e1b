"""Confusion matrices, normalised by row, as DCMA's Figures 5 to 7 have them: the counts, and a picture of them.

A matrix (K, K) has true classes as rows, predicted ones as columns. Numbers and drawing are separate.
"""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mer.errors import MerError
from mer.evaluation.canvas import blank, heading, save
from mer.evaluation.curves import WHOLE
from mer.evaluation.metrics import confusion_matrix, part_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "Blues"  # one hue: dark is much, in print and for the colour-blind, too
DARK = 0.55  # share from which on a number is white
SIDE, SMALL = 0.78, 0.6  # inches: a cell of up to FEW classes, and of more
FEW = 5

# ---- numbers --------------------------------------------------------------------------------------------------------


def of_details(details: dict) -> dict[str, np.ndarray]:
    """Counts (K, K) of an experiment by name: of the whole, then of each part of a composite.

    Args:
        details: of mer.evaluation.metrics.evaluate. With several runs its matrices are sums over them.
    """
    matrices = {WHOLE if details["parts"] else "": np.array(details["confusion"], dtype=np.int64)}
    return matrices | {part: np.array(of["confusion"], dtype=np.int64) for part, of in details["parts"].items()}


def of_predictions(predictions: "pd.DataFrame", n_classes: int, left_out: str = "subject") -> dict[str, np.ndarray]:
    """The same from predictions, one row a seed and clip; left_out: as in their protocol, `leave_out`."""
    guess = predictions[[f"p{c}" for c in range(n_classes)]].to_numpy().argmax(1)
    truth, corpus = predictions["label"].to_numpy(), predictions[part_of(left_out)].to_numpy()
    corpora = sorted(set(corpus))
    parts = {c: corpus == c for c in corpora} if len(corpora) > 1 else {}
    rows = {WHOLE if parts else "": np.ones(len(truth), dtype=bool)} | parts
    return {name: confusion_matrix(truth[which], guess[which], n_classes) for name, which in rows.items()}


def row_shares(counts: ArrayLike) -> np.ndarray:
    """Counts (K, K) over the sum of their row, 0..1; NaN in the row of a class without clips."""
    counts = np.asarray(counts, dtype=float)
    total = counts.sum(1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


# ---- the picture ----------------------------------------------------------------------------------------------------


def draw(matrices: Mapping[str, ArrayLike], names: Sequence[str], path: str | Path, title: str, runs: int = 1) -> None:
    """A panel a matrix; a cell has its share of the row and, below, the count; a class without clips has no numbers.

    Args:
        matrices: name of the panel -> counts (K, K), as `of_details` and `of_predictions` return them.
        names: of the K classes.
        path: the PNG to write.
        title: begins the heading.
        runs: how many the counts are the sum of.

    Raises MerError for a matrix of another size, or with counts below 0.
    """
    counts = {name: np.asarray(matrix) for name, matrix in matrices.items()}
    k = len(names)
    for name, matrix in counts.items():
        if matrix.shape != (k, k) or (matrix < 0).any():
            raise MerError(f"confusion matrix {name or 'of the whole'} is {matrix.shape}; {k} classes need ({k}, {k})")
    columns = 2 if len(counts) == 4 else min(len(counts), 3)
    rows = -(-len(counts) // columns)
    cell = SIDE if k <= FEW else SMALL
    width = columns * (cell * k + 1.5) + 0.9
    figure = blank(max(width, 6.4), rows * (cell * k + 1.35) + 0.7, band=0.65)
    axes = figure.subplots(rows, columns, squeeze=False)
    for a in axes.flat[len(counts) :]:
        a.axis("off")
    for a, letter, (name, matrix) in zip(axes.flat, string.ascii_lowercase, counts.items(), strict=False):
        _panel(a, matrix, names, runs)
        clips = f"{matrix.sum() // runs} clips"
        label = f"({letter}) " if len(counts) > 1 else ""
        a.set_title(f"{label}{name}: {clips}" if name else f"{label}{clips}", fontsize=10)
    _bar(figure, axes)
    heading(figure, f"{title}: confusion, shares of each true class")
    said = (
        "in a cell: share of the row, and clips"
        if runs == 1
        else f"in a cell: share of the row, and sum of {runs} runs"
    )
    figure.text(0.02, 1 - 0.42 / figure.get_size_inches()[1], said, fontsize=9, va="top")
    save(figure, path)


def _panel(a: "Axes", counts: np.ndarray, names: Sequence[str], runs: int) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    k, shares = len(names), row_shares(counts)
    a.imshow(np.ma.masked_invalid(shares), cmap=colormaps[COLOURS].with_extremes(bad="white"), vmin=0, vmax=1)
    size = 8.5 if k <= FEW else 7
    for row, column in np.ndindex(k, k):
        if counts[row].any():
            share, count = shares[row, column], counts[row, column]
            text = f"{100 * share:.1f} %\n{count}" if count else "0"
            colour = "white" if share > DARK else "black" if count else "0.45"
            a.text(column, row, text, fontsize=size, ha="center", va="center", color=colour, linespacing=1.3)
    for row in np.flatnonzero(~counts.any(1)).tolist():
        box = Rectangle((-0.5, row - 0.5), k, 1, facecolor="white", edgecolor="0.8", hatch="///", linewidth=0)
        a.add_patch(box)
        a.text((k - 1) / 2, row, "no clip of this class", fontsize=size, ha="center", va="center",
               bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})  # fmt: skip
    a.set_xticks(range(k), names, fontsize=8, rotation=0 if k <= 3 else 30, ha="center" if k <= 3 else "right",
                 rotation_mode="anchor" if k > 3 else "default")  # fmt: skip
    a.set_yticks(range(k), [f"{name}\nn {total // runs}" for name, total in zip(names, counts.sum(1), strict=True)])
    a.tick_params(labelsize=8, length=0)
    a.set_xlabel("predicted", fontsize=9)
    a.set_ylabel("true", fontsize=9)
    a.set_xticks(np.arange(k - 1) + 0.5, minor=True)
    a.set_yticks(np.arange(k - 1) + 0.5, minor=True)
    a.grid(which="minor", color="0.8", linewidth=0.8)
    a.tick_params(which="minor", length=0)


def _bar(figure: "Figure", axes: np.ndarray) -> None:
    drawn = next(a.get_images()[0] for a in axes.flat if a.get_images())
    bar = figure.colorbar(drawn, ax=axes, location="right", shrink=0.6, aspect=30, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("share of the row", fontsize=9)
