"""Pictures of UAMRN's attention and of gamma, its uncertainty, with the numbers by which they are judged.

Shapes: N clips, h heads, n positions: the L frames of a sequence, or the learned first position (pool: cls) and then
the frames. An attention matrix has queries q as rows and keys k as columns. The numbers are pure functions; an
undefined one is None.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mer.errors import MerError
from mer.evaluation.canvas import blank, heading, save
from mer.evaluation.explained import explained_rows
from mer.evaluation.reports import write_json
from mer.products import named_factors
from mer.storage.cache import ClipCache

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

NOT_KEPT = "#fbdcb4"  # pairs in no common bucket: a tint, distinct from every grey of the scale
TEST, TRAINED = "#0072b2", "#d55e00"  # distinct for the colour-blind, too
NEAR = 2  # positions from the diagonal that count as near it
MOST_ORDERED = 8  # classes of which all orders are counted: 8! = 40320


def draw(found: ClipCache, predictions: "pd.DataFrame", run_info: dict, folder: Path, *, title: str, clip: str) -> None:
    """attention.png: attention in one clip and its mean over all (UAMRN figure 4); gamma.png: gamma against the size
    of the class (its section 3.3); gamma.json: the numbers in it. Arguments: see mer.evaluation.explained.
    """
    names = run_info["class_names"]
    mean: np.ndarray | float = 0.0
    kept: np.ndarray | float = 0.0
    for clip_id in found.ids:
        matrices = found[clip_id].astype(np.float64)
        mean, kept = mean + matrices / len(found), kept + (matrices != 0) / len(found)
    attention_figure(
        found[clip], mean, folder / "attention.png", f"{title}: attention by the model that has not seen the subject",
        clip, factors=named_factors(run_info["knobs"]["factors"]), clips=len(found), kept=kept,
    )  # fmt: skip
    labels, probability = explained_rows(predictions, run_info, found.ids)
    correct = probability.argmax(1) == labels
    gamma, weight = (np.array([found.extra(kind, i) for i in found.ids], dtype=float) for kind in ("gamma", "weight"))
    known = np.isfinite(weight)  # a fold was trained on them
    gamma_figure(gamma, weight, labels, names, folder / "gamma.png", f"{title}: gamma", correct)
    summaries = {
        "test": gamma_summary(gamma, labels, len(names), correct),
        "training": gamma_summary(weight[known], labels[known], len(names)),
    }
    write_json(folder / "gamma.json", {"class_names": names, **summaries})


# ---- attention ----------------------------------------------------------------------------------------------------


def share_kept(matrix: ArrayLike) -> float:
    """Share of the pairs (q, k) of a matrix (n, n) that attention is paid to at all: entries that are not exactly 0.

    0 is what a pair without a common bucket has; a weight too small for its type of float looks the same.
    """
    return float(np.mean(np.asarray(matrix) != 0))


def diagonal_mass(matrix: ArrayLike, reach: int = 0) -> float | None:
    """Share of all attention that stays within `reach` positions of the diagonal; None where nothing is attended to.

    A query without partner pays none: its row of zeros counts neither here nor in the whole.
    """
    matrix = np.asarray(matrix)
    place = np.arange(len(matrix))
    return _share(matrix, np.abs(place[:, None] - place) <= reach)


def lower_right_mass(matrix: ArrayLike) -> float | None:
    """Share of all attention that the last n // 2 queries pay to the last n // 2 keys; None as in `diagonal_mass`."""
    matrix = np.asarray(matrix)
    late = np.arange(len(matrix)) >= len(matrix) - len(matrix) // 2
    return _share(matrix, late[:, None] & late)


def _share(matrix: np.ndarray, part: np.ndarray) -> float | None:
    total = matrix.sum(dtype=float)
    return float(matrix[part].sum(dtype=float) / total) if total > 0 else None


def attention_figure(
    matrices: ArrayLike,
    mean: ArrayLike,
    path: str | Path,
    title: str,
    name: str,
    *,
    factors: ArrayLike,
    clips: int,
    kept: ArrayLike | None = None,
) -> None:
    """UAMRN figure 4: sparse attention in one clip and, beside it, the mean of many; a row a block, a column a head.

    Each panel has its own scale of greys: a query with one partner gives it 1, one with twenty 0.05 each, and a mean is
    flatter than its clips. Black is the 99th percentile of what is kept, and printed.

    Args:
        matrices, mean: (blocks, h, n, n), of one clip and the mean over clips; n = L, or L + 1 with a learned first
            position, which is drawn, and left out of the numbers.
        path: the PNG to write.
        name: of the clip.
        factors: (L,) of magnification.
        clips: how many the mean is of.
        kept: (blocks, h, n, n) share of the clips in which a pair is kept. Without it, only pairs that some clip keeps
            can be counted for the mean.
    """
    matrices, mean, factors = np.asarray(matrices), np.asarray(mean), np.asarray(factors, dtype=float)
    kept = None if kept is None else np.asarray(kept)
    length, shape = len(factors), matrices.shape
    if length < 2 or len(shape) != 4 or shape[2:] not in {(length, length), (length + 1, length + 1)}:
        raise MerError(
            f"attention is {shape}; {length} factors, 2 at least, need (blocks, heads, {length}, {length}), or a "
            "position more for cls"
        )
    for other, what in ((mean, "mean"), (kept, "kept")):
        if other is not None and other.shape != shape:
            raise MerError(f"attention is {shape}, but {what} {other.shape}; both must be alike")
    blocks, heads, places = shape[:3]
    first, late = places - length, places - length // 2  # the first frame, and the first of the later half
    figure = blank(max(2 * (2.35 * heads + 0.65), 8.8), 3.0 * blocks + 2.1, band=1.05, h_pad=0.08)
    sides = figure.subfigures(1, 2, squeeze=False)[0]
    whole = f"mean of {clips} clips"
    halves: list[tuple[str, np.ndarray, str, np.ndarray, Callable[[np.ndarray], float]]]
    halves = [(name, matrices, "kept", matrices, share_kept)]
    if kept is None:
        halves.append((f"{whole} (ever kept: in a clip at least)", mean, "ever kept", mean, share_kept))
    else:
        halves.append((whole, mean, "kept", kept, np.mean))
    for side, (above, stack, by, pairs, share) in zip(sides, halves, strict=True):
        side.suptitle(above, fontsize=11, weight="bold")
        axes = side.subplots(blocks, heads, squeeze=False, sharex=True, sharey=True)
        for b, h in np.ndindex(blocks, heads):
            a, frames = axes[b][h], stack[b, h, first:, first:]
            largest = _draw(a, stack[b, h])
            all_pairs, corner = (_percent(share(pairs[b, h, start:, start:])) for start in (first, late))
            lines = (
                f"block {b + 1}, head {h + 1}: black {largest}",
                f"{by} {all_pairs}, lower right {corner}",
                _against_even("on diagonal", frames, diagonal_mass),
                _against_even(f"within {NEAR} of it", frames, lambda m: diagonal_mass(m, NEAR)),
                _against_even("in lower right", frames, lower_right_mass),
            )
            a.set_title("\n".join(lines), fontsize=7.5, loc="left", linespacing=1.15)
            edge = late - 0.5
            a.plot([places - 0.5, edge, edge], [edge, edge, places - 0.5], "--", color=TEST, linewidth=0.8)
            a.tick_params(labelsize=7)
            a.tick_params(axis="x", rotation=90)
        ticks = _ticks(length)
        labels = [f"{i + 1}  x{factors[i]:.3g}" for i in ticks]
        if first:  # the first frame stands beside cls, and its label would be on cls's
            ticks, labels = [-1, *ticks[1:]], ["cls", *labels[1:]]
        axes[0][0].set_yticks([first + i for i in ticks], labels)
        axes[0][0].set_xticks([first + i for i in ticks], labels)
        for a in axes[:, 0]:
            a.set_ylabel("query q", fontsize=8)
        for a in axes[-1]:
            a.set_xlabel("key k", fontsize=8)
    _attention_legend(figure, first)
    heading(figure, title)
    save(figure, path)


def _draw(a: "Axes", matrix: np.ndarray) -> str:
    """The matrix on the axes `a`; from which value on it is black."""
    from matplotlib import colormaps

    positive = matrix[matrix != 0]
    largest = float(np.quantile(positive, 0.99)) if len(positive) else 1.0
    greys = colormaps["Greys"].with_extremes(bad=NOT_KEPT)
    a.imshow(np.ma.masked_equal(matrix, 0), cmap=greys, vmin=0, vmax=largest, interpolation="nearest")
    return f"{largest:.2g}" if len(positive) else "none"


def _against_even(what: str, frames: np.ndarray, mass: Callable[[np.ndarray], float | None]) -> str:
    return f"{what} {_percent(mass(frames))} (even {_percent(mass(np.ones_like(frames)))})"


def _ticks(length: int) -> list[int]:
    """The first position and every quarter of the sequence."""
    return sorted({0, *(max(0, round(length * quarter / 4) - 1) for quarter in (1, 2, 3, 4))})


def _attention_legend(figure: "Figure", first: int) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=NOT_KEPT, edgecolor="grey", label="not kept: exactly 0, no common bucket (mean: in no clip)"),
        Patch(facecolor="white", edgecolor="grey", label="kept, small"),
        Patch(facecolor="black", edgecolor="grey", label="large: as printed and more, by panel"),
        Patch(facecolor="none", edgecolor=TEST, linestyle="--", label="lower right"),
    ]
    height = figure.get_size_inches()[1]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.01, 1 - 0.36 / height), ncols=len(handles),
                  fontsize=8, frameon=False, columnspacing=1.4, handlelength=1.5)  # fmt: skip
    text = "kept: share of the pairs; on, within, in: share of the attention, beside that of an even spread"
    text += "; cls not counted" if first else ""
    text += ".\nSection 4.5 expects most near the diagonal, and little kept in the lower right."
    figure.text(0.02, 1 - 0.62 / height, text, fontsize=8, va="top")


# ---- uncertainty --------------------------------------------------------------------------------------------------


def gamma_summary(gamma: ArrayLike, labels: ArrayLike, n_classes: int, correct: ArrayLike | None = None) -> dict:
    """Whether rare classes, and clips classified wrong, have the larger gamma (UAMRN 3.3).

    Args:
        gamma: (N,), eq. 8.
        labels: (N,) integers 0 … n_classes - 1.
        correct: (N,) bool, whether the clip was classified right.

    Returns:
        {sizes, medians: of gamma, one a class, spearman: their rank correlation over the classes that occur, below 0
        where rare classes weigh more, chance: share of all orders of the classes with a correlation as low, auroc:
        probability that a clip classified wrong has a larger gamma than one classified right, undefined: {which:
        reason}}; None where undefined.
    """
    from scipy.stats import rankdata, spearmanr

    gamma, labels, correct = _checked(gamma, labels, n_classes, correct)
    sizes = np.bincount(labels, minlength=n_classes)
    medians = [float(np.median(gamma[labels == c])) if n else None for c, n in enumerate(sizes)]
    found = {"sizes": sizes.tolist(), "medians": medians, "spearman": None, "chance": None, "auroc": None}
    undefined = {}
    size, median = sizes[sizes > 0], np.array([m for m in medians if m is not None])
    if len(size) < 3:
        undefined["spearman"] = f"{len(size)} of {n_classes} classes occur, 3 are needed"
    elif np.ptp(size) == 0:
        undefined["spearman"] = "all classes have as many clips"
    elif np.ptp(median) == 0:
        undefined["spearman"] = "all classes have the same median"
    else:
        found["spearman"] = float(spearmanr(size, median).statistic)
    if found["spearman"] is None:
        undefined["chance"] = undefined["spearman"]
    elif len(size) > MOST_ORDERED:
        undefined["chance"] = f"more than {MOST_ORDERED} classes"
    else:
        rank, other = rankdata(size), rankdata(median)
        orders = np.array(list(itertools.permutations(rank)))
        found["chance"] = float(np.mean(orders @ other <= rank @ other + 1e-9))  # ranks are halves: no sum is so near
    if correct is None:
        undefined["auroc"] = "not told which clips were classified right"
    elif correct.all() or not correct.any():
        undefined["auroc"] = f"all clips were classified {'right' if correct.all() else 'wrong'}"
    else:
        wrong, right = int((~correct).sum()), int(correct.sum())
        pairs = rankdata(gamma)[~correct].sum() - wrong * (wrong + 1) / 2  # Mann and Whitney's U; a tie is a half
        found["auroc"] = float(pairs / (wrong * right))
    return found | {"undefined": undefined}


def gamma_figure(
    gamma: ArrayLike,
    trained: ArrayLike | None,
    labels: ArrayLike,
    names: Sequence[str],
    path: str | Path,
    title: str,
    correct: ArrayLike | None = None,
) -> None:
    """Gamma by class, test clips and training clips, against class size, and of clips classified right and wrong.

    Args:
        gamma: (N,), eq. 8, of each clip by the network that did not train on it.
        trained: (N,), mean gamma of the clip in the folds that trained on it, by the weights that were tested: its
            weight in the loss; NaN where no fold trained on it; or None.
        labels: (N,) integers, positions in `names`.
        names: of all classes, whether or not each occurs.
        path: the PNG to write.
        correct: (N,) bool, whether that network classified it right; or None.
    """
    gamma, labels, correct = _checked(gamma, labels, len(names), correct)
    kinds = [("test clips", gamma, TEST)]
    of_kinds = [labels]
    if trained is not None and np.isfinite(trained).any():
        known = np.isfinite(trained)
        values, of_known, _ = _checked(np.asarray(trained)[known], labels[known], len(names))
        kinds.append(("training clips", values, TRAINED))
        of_kinds.append(of_known)
    if all(np.ptp(values) == 0 for _, values, _ in kinds):
        _constant_gamma_figure(gamma, [values[0] for _, values, _ in kinds], path, title)
        return
    panels = len(kinds) + 1 + (correct is not None)
    rows = -(-panels // 2)
    figure = blank(9.8, 3.6 * rows + 0.6, band=0.5)
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    for a in axes[panels:]:
        a.axis("off")
    summaries = [gamma_summary(gamma, labels, len(names), correct)]
    summaries += [gamma_summary(kinds[1][1], of_kinds[1], len(names))] if len(kinds) > 1 else []
    order = [c for c in np.argsort(-np.array(summaries[0]["sizes"]), kind="stable") if summaries[0]["sizes"][c]]
    explanations = ("by the network that did not train on them", "their weight in the loss, after training")
    for a, (kind, values, colour), own, text in zip(axes, kinds, of_kinds, explanations, strict=False):
        _boxes(a, [(names[c], values[own == c]) for c in order if (own == c).any()], colour)
        a.set_title(f"{kind}: {text}", fontsize=9)
    _against_size(axes[len(kinds)], kinds, summaries, names)
    if correct is not None:
        a, auroc = axes[panels - 1], summaries[0]["auroc"]
        _boxes(a, [("classified right", gamma[correct]), ("classified wrong", gamma[~correct])], TEST)
        if auroc is None:
            text = f"?\n{summaries[0]['undefined']['auroc']}"
        else:
            text = f": area under the ROC curve {auroc:.2f}\n(0.5: no; 1: all wrong ones are above all right ones)"
        a.set_title(f"does gamma tell wrong from right{text}", fontsize=9)
    for a in axes[:panels]:
        a.set_ylabel(a.get_ylabel() or "gamma", fontsize=8)
        a.tick_params(labelsize=8)
    heading(figure, title)
    save(figure, path)


def _checked(
    gamma: ArrayLike, labels: ArrayLike, n_classes: int, correct: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    gamma, labels = np.asarray(gamma, dtype=float), np.asarray(labels)
    correct = None if correct is None else np.asarray(correct, dtype=bool)
    shapes = [x.shape for x in (gamma, labels, correct) if x is not None]
    if gamma.ndim != 1 or not len(gamma) or len(set(shapes)) > 1:
        raise MerError(f"gamma, labels and correct have the shapes {shapes}; needed are equal lists, not empty")
    if not np.isfinite(gamma).all():
        raise MerError(f"gamma is not finite for {int((~np.isfinite(gamma)).sum())} of {len(gamma)} clips; train again")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= n_classes:
        raise MerError(f"labels must be integers 0..{n_classes - 1}, found {labels.min()} to {labels.max()}")
    return gamma, labels, correct


def _constant_gamma_figure(gamma: np.ndarray, values: list[float], path: str | Path, title: str) -> None:
    """One line of text: boxes of a single value show nothing."""
    numbers = " and ".join(dict.fromkeys(f"{v:.3g}" for v in values))
    figure = blank(9.8, 1.9, band=0.5)
    text = f"gamma is {numbers} for all {len(gamma)} clips: all weigh the same in the loss."
    if set(values) == {1}:
        text += "\nThe network is deterministic (uncertainty: false)."
    figure.text(0.5, 0.4, text, fontsize=12, ha="center", va="center")
    heading(figure, title)
    save(figure, path)


def _boxes(a: "Axes", groups: list[tuple[str, np.ndarray]], colour: str) -> None:
    """A box (quartiles, median, whiskers of the 5th and 95th percentile) and all points for each (name, values)."""
    places = [i for i, (_, values) in enumerate(groups) if len(values)]
    black = {"color": "black", "linewidth": 1}
    a.boxplot(
        [groups[i][1] for i in places], positions=places, widths=0.6, whis=(5, 95), showfliers=False,
        manage_ticks=False, boxprops=black, whiskerprops=black, capprops=black,
        medianprops={"color": "black", "linewidth": 2.5},
    )  # fmt: skip
    for i, (_, values) in enumerate(groups):
        # Multiples of the golden ratio: spread evenly, and the same in each drawing.
        aside = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.45
        a.scatter(i + aside, values, s=9, color=colour, alpha=0.45, linewidths=0)
    a.set_xticks(range(len(groups)), [f"{name}\nn {len(values)}" for name, values in groups])
    a.set_xlim(-0.6, len(groups) - 0.4)
    _scale(a, np.concatenate([values for _, values in groups]))


def _against_size(a: "Axes", kinds: list, summaries: list[dict], names: Sequence[str]) -> None:
    """Class medians against class sizes, and their rank correlation; each kind by its own median: they differ much."""
    sizes = np.array(summaries[0]["sizes"])
    order = [c for c in np.argsort(sizes, kind="stable") if sizes[c]]
    lines, drawn = [], []
    for (kind, values, colour), summary, marker in zip(kinds, summaries, "os", strict=False):
        if summary["spearman"] is None:
            text = f"none, {summary['undefined']['spearman']}"
        else:
            text = f"{summary['spearman']:+.2f}"
        if summary["chance"] is not None:
            text += f" (as low by chance: {100 * summary['chance']:.2g} %)"
        drawn.append(np.array([summary["medians"][c] for c in order]) / (np.median(values) or 1.0))
        lines += a.plot(
            sizes[order], drawn[-1], marker=marker, color=colour, linewidth=1, label=f"{kind}: rank correlation {text}"
        )
    a.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
    a.set_xscale("log")
    _plain(a.xaxis)
    low, high = sizes[order[0]] / 1.25, sizes[order[-1]] * 1.25
    a.set_xlim(low, high)
    a.set_xlabel("clips of the class", fontsize=8)
    a.set_ylabel("median gamma, class / all clips")
    _scale(a, np.concatenate(drawn))
    least, most = a.get_ylim()
    least, most = min(least, 0.8), max(most, 1.2)  # a few per cent shall not look like a steep line
    # The names stand above all points, moved aside where classes are of nearly the same size.
    bottom, top = a.transData.transform([(1, least), (1, most)])[:, 1]
    a.set_ylim(least, a.transData.inverted().transform((0, bottom + (top - bottom) / 0.68))[1])
    places = np.log(sizes[order] / low) / np.log(high / low)
    for c, place, moved in zip(order, places, _apart(places, 0.05), strict=True):
        a.plot([place, place, moved], [0, 0.7, 0.74], transform=a.transAxes, color="0.85", linewidth=0.8, zorder=0)
        a.text(moved, 0.76, names[c], transform=a.transAxes, rotation=90, fontsize=8, ha="center", va="bottom")
    a.legend(
        handles=lines, title="rare classes: do they weigh more? (3.3 expects a falling line)", loc="lower center",
        bbox_to_anchor=(0.5, 1.0), fontsize=8, title_fontsize=9, frameon=False, borderaxespad=0.2,
    )  # fmt: skip


def _apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Ascending places in 0..1, moved as little as this takes to be `gap` apart and to stay below 1 - gap / 2."""
    moved = np.array(places, dtype=float)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    limit = 1 - gap / 2
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved


def _scale(a: "Axes", values: np.ndarray) -> None:
    """Logarithmic where the largest is more than ten times the smallest."""
    if values.min() > 0 and values.max() > 10 * values.min():
        a.set_yscale("log")
        _plain(a.yaxis)


def _plain(axis: "Axis") -> None:
    """Numbers of a logarithmic axis as 0.5, 1, 2, 5, 10 …"""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"
