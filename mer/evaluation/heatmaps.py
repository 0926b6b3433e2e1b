"""Heat maps over the pictures that they are of: one clip, and several experiments on the same clips (DCMA's Figure 8).

A map (h, w) of few places is enlarged smoothly over its picture (H, W, 3) uint8 RGB. The picture is drawn in grey, the
heat in yellow to red that covers the more of it the hotter, with a line at half of the map's maximum: that is seen in
print and by the colour-blind, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mer.errors import MerError, listed
from mer.evaluation.canvas import blank, heading, save
from mer.evaluation.maps import centre, concentration, picture, summary
from mer.storage.cache import ClipCache

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLOURS = "YlOrRd"
OPAQUE = 0.85  # of the largest heat
DARKEST = 0.35  # grey of the darkest hundredth of a picture: the colours of what is black could not be told apart
PANEL = 1.75  # inches
WIDTH = 6.4  # inches that the heading needs

# ---- which clips ----------------------------------------------------------------------------------------------------


def spread(ids: Sequence[str], labels: Sequence[int], subjects: Sequence[str], number: int) -> list[str]:
    """So many of the clips, by class: the classes in turn, and of each the clip of whom was chosen least so far.

    Equals are taken in the order of their ids, so the same clips are chosen whatever was predicted of them. All clips
    where there are no more.
    """
    left = sorted(zip(ids, map(int, labels), subjects, strict=True))
    taken: list[tuple[str, int, str]] = []
    while left and len(taken) < number:
        rank = {label: sum(of == label for _, of, _ in taken) for label in {label for _, label, _ in left}}
        label = min(rank, key=lambda c: (rank[c], c))
        people = [who for _, _, who in taken]
        best = min((row for row in left if row[1] == label), key=lambda row: (people.count(row[2]), row[0]))
        left.remove(best)
        taken.append(best)
    return [clip_id for clip_id, _, _ in sorted(taken, key=lambda row: (row[1], row[0]))]


# ---- numbers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explained:
    """What an experiment explains: maps (N, h, w), labels (N,) and probability (N, C), in the order of `found`."""

    found: ClipCache
    class_names: list[str]
    subjects: list[str]
    maps: np.ndarray
    labels: np.ndarray
    probability: np.ndarray


def examples(labels: np.ndarray, probability: np.ndarray, n_classes: int) -> list[tuple[int | None, int | None]]:
    """Of each class a clip that was recognised and one that was not, as positions; None where there is none.

    It is the one in the middle of them by the probability of what was predicted: neither the best nor the worst.
    """
    best, guess = probability.max(1), probability.argmax(1)
    found = []
    for label in range(n_classes):
        sides = []
        for right in (True, False):
            rows = np.flatnonzero((labels == label) & ((guess == label) == right))
            rows = rows[np.argsort(best[rows], kind="stable")]
            sides.append(int(rows[len(rows) // 2]) if len(rows) else None)
        found.append((sides[0], sides[1]))
    return found


def check_alike(experiments: Mapping[str, Explained]) -> None:
    """Raise MerError unless all experiments have the same classes and clips."""
    first, *others = experiments
    for other in others:
        both = experiments[first], experiments[other]
        for what, (one, two) in (
            ("classes", [of.class_names for of in both]),
            ("clips", [of.found.ids for of in both]),
        ):
            apart = sorted(set(one) ^ set(two)) or [name for name, n in zip(one, two, strict=True) if name != n]
            if apart:
                raise MerError(
                    f"{first} and {other} have other {what}, such as {listed(apart, 3)}; run dvc repro, or leave one "
                    "of them out"
                )


def compared(experiments: Mapping[str, Explained], clips: Sequence[str]) -> dict[str, Any]:
    """The numbers of `comparison`.

    Returns:
        {class_names, experiments: {name: {clips, right, and mer.evaluation.maps.summary, of all clips}}, clips: [{id,
        class, experiments: {name: `of_clip`}}]}.
    """
    first = next(iter(experiments.values()))
    names, rows = first.class_names, []
    for clip in clips:
        i = first.found.ids.index(clip)
        own = {n: of_clip(of.maps[i], int(of.labels[i]), of.probability[i], names) for n, of in experiments.items()}
        rows.append({"id": clip, "class": names[first.labels[i]], "experiments": own})
    whole = {
        name: {
            "clips": len(of.labels),
            "right": int((of.probability.argmax(1) == of.labels).sum()),
            **summary(of.maps, of.labels, len(names)),
        }
        for name, of in experiments.items()
    }
    return {"class_names": names, "experiments": whole, "clips": rows}


def of_clip(heat: np.ndarray, label: int, probability: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """What a network made of a clip: {predicted, probability, right, concentration, centre: [row, column]}."""
    best, middle = int(probability.argmax()), centre(heat)
    return {
        "predicted": names[best], "probability": round(float(probability[best]), 6), "right": best == label,
        "concentration": concentration(heat), "centre": None if middle is None else list(middle),
    }  # fmt: skip


# ---- pictures -------------------------------------------------------------------------------------------------------


def comparison(
    content: Mapping[str, Any], experiments: Mapping[str, Explained], path: str | Path, title: str
) -> None:  # fmt: skip
    """One clip a row: its picture, then the map of each experiment.

    Args:
        content: `compared` of the experiments.
        path: the PNG to write.
        title: begins the heading.
    """
    clips = content["clips"]
    figure = blank(max(PANEL * (1 + len(experiments)) + 1.2, WIDTH), (PANEL + 0.35) * len(clips) + 1.3, band=0.65)
    axes = figure.subplots(len(clips), 1 + len(experiments), squeeze=False)
    for line, row in zip(axes, clips, strict=True):
        first = next(iter(experiments.values()))
        bare(line[0]).imshow(picture(first.found, row["id"]))
        line[0].set_ylabel(row["class"], fontsize=9)
        line[0].set_xlabel(row["id"], fontsize=7)
        for a, (name, of) in zip(line[1:], experiments.items(), strict=True):
            drawn = over(a, picture(of.found, row["id"]), of.found[row["id"]])
            verdict(a, row["experiments"][name])
    axes[0][0].set_title("clip", fontsize=9)
    for a, name in zip(axes[0][1:], experiments, strict=True):
        of = content["experiments"][name]
        a.set_title(f"{_lines(name)}\n{of['right']} of {of['clips']} right", fontsize=8.5)
    bar(figure, drawn, axes)
    heading(figure, f"{title} by networks that have not seen the subject")
    second_line(figure, "For the class that each predicts. Line: half of the map's maximum.")
    save(figure, path)


def over(a: "Axes", face: np.ndarray, heat: np.ndarray, most: float | None = None) -> "AxesImage":
    """A map (h, w) over its picture (H, W, 3) or (H, W); most: the value of the full colour, default 1."""
    large = enlarged(heat, *face.shape[:2])
    drawn = in_grey(a, face).imshow(large, cmap=colours(), vmin=0, vmax=1 if most is None else most)
    if heat.max() > heat.min():
        half = [large.max() / 2]
        a.contour(large, half, colors="white", linewidths=2.2)
        a.contour(large, half, colors="black", linewidths=0.9)
    return drawn


def in_grey(a: "Axes", face: np.ndarray) -> "Axes":
    """The axes with a picture (H, W, 3) or (H, W) in light grey, without ticks."""
    grey = face.mean(-1) if face.ndim == 3 else face
    low, high = np.quantile(grey, (0.01, 0.99))
    low -= (high - low) * DARKEST / (1 - DARKEST)
    bare(a).imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1))
    return a


def enlarged(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map (h, w) as (height, width), smooth, 0 and above; each place stands for an equal part of the picture."""
    import cv2

    large = cv2.resize(np.ascontiguousarray(heat, dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(large, 0, float(heat.max()))  # a cubic goes beyond its values


def colours(name: str = COLOURS, diverging: bool = False) -> "ListedColormap":
    """From clear to opaque; of diverging ones the middle is clear."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    values = colormaps[name](np.linspace(0, 1, 256))
    values[:, 3] = OPAQUE * (np.sqrt(np.abs(np.linspace(-1, 1, 256))) if diverging else np.linspace(0, 1, 256))
    return ListedColormap(values)


def verdict(a: "Axes", cell: Mapping[str, Any]) -> None:
    """What was predicted, below a panel; what is wrong is in bold letters and a dashed frame."""
    text = f"{cell['predicted']} {cell['probability']:.2f}, {'right' if cell['right'] else 'wrong'}"
    if cell["concentration"] is None:
        text += "\nno heat"
    a.set_xlabel(text, fontsize=8, weight="normal" if cell["right"] else "bold")
    for spine in a.spines.values() if not cell["right"] else ():
        spine.set(linestyle=(0, (4, 2)), linewidth=1.8)


def bare(a: "Axes") -> "Axes":
    """Axes without ticks."""
    a.set_xticks([])
    a.set_yticks([])
    return a


def bar(
    figure: "Figure", drawn: "AxesImage", axes: np.ndarray, label: str = "heat, 1: the map's maximum",
    location: str = "right",
) -> None:  # fmt: skip
    """The scale, over the grey of a face."""
    found = figure.colorbar(drawn, ax=axes, location=location, shrink=min(1.0, 2.6 / len(axes)), aspect=25, pad=0.02)
    found.ax.set_facecolor("0.75")
    found.ax.tick_params(labelsize=8)
    found.set_label(label, fontsize=8)


def second_line(figure: "Figure", text: str) -> None:
    """A line below the heading."""
    figure.text(0.02, 1 - 0.42 / figure.get_size_inches()[1], text, fontsize=9, va="top")


def _lines(name: str, most: int = 22) -> str:
    """A long name in two lines, broken at the hyphen that is nearest to its middle."""
    hyphens = [i for i, sign in enumerate(name) if sign == "-"]
    if len(name) <= most or not hyphens:
        return name
    cut = min(hyphens, key=lambda i: abs(i - len(name) / 2)) + 1
    return f"{name[:cut]}\n{name[cut:]}"
