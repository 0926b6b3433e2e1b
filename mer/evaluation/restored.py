"""What a network that was pretrained on pairs of frames restores, and its loss curve (Micron-BERT's Figure 4 and more).

Shapes: B pairs, N = s x s patches of a frame of H x W px.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mer.evaluation.canvas import blank, heading, save
from mer.evaluation.heatmaps import PANEL, bare, second_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = 6  # pairs of the picture
COLOURS = "viridis"  # of maps: from dark to bright, for the colour-blind, too
CHANGE = 4  # how many times the difference of the frames is shown


class Pictures(NamedTuple):
    """Of B pairs: frames t and t+delta, what the network is given of them and what it restores, (B, H, W, 3) uint8;
    cells (B, s, s) bool: swapped or masked; maps (B, s, s) float by name; names (B,), of recording and frames."""

    first: np.ndarray
    other: np.ndarray
    given: np.ndarray
    restored: np.ndarray
    cells: np.ndarray
    maps: dict[str, np.ndarray]
    names: list[str]


# ---- numbers --------------------------------------------------------------------------------------------------------


def numbers(
    errors: np.ndarray,
    copied: np.ndarray,
    cells: np.ndarray,
    diagonals: tuple[np.ndarray, np.ndarray] | None,
    contexts: np.ndarray,
) -> dict[str, Any]:
    """How well a network restores, and whether the diagonal tells swapped patches from the others.

    Args:
        errors: mean squared error of each restored patch, (B, N); copied: that of frame t+delta in place of frame t.
        cells: swapped or masked patches, (B, N) bool.
        diagonals: of eq. (8), (B, N), of the same pairs with those patches swapped, and with all others; or None.
        contexts: contextual tokens of the frames, (B, d).

    Returns:
        {pairs; error: {swapped, others}; copied: {swapped, others}: of frame t+delta in place of frame t, so what a
        swap changes; given_back: mean over all patches for a network that gives back what it is given;
        swapped_lower: how often a patch has a lower diagonal when it is swapped than when it is not, 0.5 by chance. A
        patch is compared with itself: blocks lie in the middle of a frame more often than at its border;
        context_spread: distance of the contextual tokens from their mean, over its length: 0 where all frames have the
        same}; None where there is no such thing.
    """

    def both(values: np.ndarray) -> dict[str, float | None]:
        parts = {"swapped": values[cells], "others": values[~cells]}
        return {name: float(part.mean()) if part.size else None for name, part in parts.items()}

    lower = None
    if diagonals is not None:
        one, two = diagonals
        swapped, other = np.where(cells, one, two), np.where(cells, two, one)
        lower = float((swapped < other).mean() + (swapped == other).mean() / 2)
    middle = contexts.mean(0)
    length = float(np.linalg.norm(middle))
    spread = float(np.linalg.norm(contexts - middle, axis=1).mean()) / length if length else None
    return {
        "pairs": len(cells), "error": both(errors), "copied": both(copied),
        "given_back": float((copied * cells).mean()), "swapped_lower": lower, "context_spread": spread,
    }  # fmt: skip


def points_of(lines: Sequence[str]) -> np.ndarray:
    """The loss curve as the note of the weights keeps it: (P, 4) of step, total, reconstruction and agreement."""
    return np.array([line.split() for line in lines], dtype=float).reshape(-1, 4)


# ---- pictures -------------------------------------------------------------------------------------------------------


def pairs_figure(shown: Pictures, path: str | Path, title: str, verb: str) -> None:
    """A pair a row: frame t, frame t+delta, their difference, what the network is given, what it restores, its maps.

    Args:
        path: the PNG to write.
        title: begins the heading.
        verb: what was done to the patches that are outlined: swapped or masked.
    """
    columns = 5 + len(shown.maps)
    count = len(shown.first)
    figure = blank(PANEL * columns + 0.6, (PANEL + 0.22) * count + 1.15, band=0.8)
    axes = figure.subplots(count, columns, squeeze=False)
    for i, line in enumerate(axes):
        difference = np.abs(shown.first[i].astype(int) - shown.other[i]).mean(-1)
        bare(line[0]).imshow(shown.first[i])
        line[0].set_xlabel(shown.names[i], fontsize=7)
        bare(line[1]).imshow(shown.other[i])
        bare(line[2]).imshow(difference * CHANGE, cmap="gray", vmin=0, vmax=255)
        line[2].set_xlabel(f"mean {difference.mean():.2f} grey levels", fontsize=8)
        bare(line[3]).imshow(shown.given[i])
        bare(line[4]).imshow(shown.restored[i])
        left = np.abs(shown.first[i].astype(int) - shown.restored[i]).mean()
        line[4].set_xlabel(f"wrong by {left:.2f}", fontsize=8)
        for a, values in zip(line[5:], shown.maps.values(), strict=True):
            bare(a).imshow(values[i], cmap=COLOURS, extent=(0, shown.first.shape[2], shown.first.shape[1], 0))
            a.set_xlabel(f"{values[i].min():.2g} to {values[i].max():.2g}", fontsize=8)
        for a in line[3:]:
            outline(a, shown.cells[i], shown.first.shape[1:3])
    titles = ["frame t", "frame t+\u03b4", f"difference x {CHANGE}", f"{verb} (outlined)", "restored", *shown.maps]
    for a, text in zip(axes[0], titles, strict=True):
        a.set_title(text, fontsize=9)
    heading(figure, f"{title}: pairs of frames, as the network is given them and restores them")
    if shown.maps:
        second_line(figure, "Maps: dark is the least of each, bright the most, as printed below.")
    save(figure, path)


def outline(a: "Axes", cells: np.ndarray, shape: tuple[int, int]) -> None:
    """Lines around the cells (s, s) bool of a picture of (H, W) px."""
    rows, columns = (size / n for size, n in zip(shape, cells.shape, strict=True))
    padded = np.pad(cells, 1)
    segments = []
    for i, j in zip(*np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1]), strict=True):
        segments.append([(j * columns, i * rows), ((j + 1) * columns, i * rows)])
    for i, j in zip(*np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1]), strict=True):
        segments.append([(j * columns, i * rows), (j * columns, (i + 1) * rows)])
    from matplotlib.collections import LineCollection

    for colour, width in (("black", 2.0), ("white", 0.9)):
        a.add_collection(LineCollection(segments, colors=colour, linewidths=width), autolim=False)


def loss_figure(points: np.ndarray, given_back: float | None, path: str | Path, title: str) -> None:
    """Reconstruction and agreement against the step, on a logarithmic scale.

    Args:
        points: of `points_of`. given_back: of `numbers`, a level line; None: there is none.
        path: the PNG to write. title: begins the heading.
    """
    figure = blank(6.4, 4.0)
    a = figure.subplots()
    marker = "o" if len(points) < 3 else ""
    a.plot(points[:, 0], points[:, 2], color="#000000", linewidth=2, marker=marker, label="reconstruction, eq. (14)")
    if (points[:, 3] > 0).any():
        a.plot(points[:, 0], np.where(points[:, 3] > 0, points[:, 3], np.nan), color="#0072b2", linestyle="-.",
               marker=marker, label="agreement, eq. (15)")  # fmt: skip
    if given_back:
        a.axhline(given_back, color="#d55e00", linestyle="--", label="reconstruction that gives back what it is given")
    a.set_yscale("log")
    a.set(xlabel="step", ylabel="loss")
    a.grid(alpha=0.3)
    a.legend(fontsize=9, frameon=False)
    heading(figure, f"{title}: loss curve")
    save(figure, path)
