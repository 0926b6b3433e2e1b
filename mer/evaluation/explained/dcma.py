"""Pictures of what DCMA looks at: Grad-CAM of its classifier's input, and the confusion matrix of its predictions.

Shapes: N clips, maps (N, h, w), C classes; pictures (H, W, 3) uint8 RGB, what the network was given. The numbers are
those of mer.evaluation.maps.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mer.evaluation import confusion
from mer.evaluation.canvas import blank, heading, save
from mer.evaluation.explained import explained_rows
from mer.evaluation.heatmaps import (
    PANEL,
    WIDTH,
    bar,
    bare,
    colours,
    enlarged,
    examples,
    in_grey,
    of_clip,
    over,
    second_line,
    verdict,
)
from mer.evaluation.maps import between_classes, class_maps, picture, read_maps, summary
from mer.evaluation.reports import write_json
from mer.storage.cache import ClipCache

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MAPS = "Grad-CAM"
DIVERGING = "PuOr_r"  # told apart by the colour-blind


def draw(found: ClipCache, predictions: "pd.DataFrame", run_info: dict, folder: Path, *, title: str, clip: str) -> None:
    """confusion.png: DCMA's Figures 5 to 7; gradcam.png: Grad-CAM, and spatial attention where there is some, of `clip`
    and of a clip of each class that was recognised and one that was not; gradcam_by_class.png: their mean in each
    class, and where it differs; gradcam.json: the numbers. Arguments: see mer.evaluation.explained.

    Raises MerError for explanations that are no maps over pictures.
    """
    names = run_info["class_names"]
    maps = read_maps(found)
    spatial = _spatial(found)
    labels, probability = explained_rows(predictions, run_info, found.ids)
    matrices = confusion.of_predictions(predictions, len(names), run_info["protocol"].get("leave_out", "subject"))
    confusion.draw(matrices, names, folder / "confusion.png", title, runs=len(run_info["protocol"]["seeds"]))
    clips_figure(found, maps, spatial, labels, probability, names, folder / "gradcam.png", title, clip)
    faces = [_mean_face(found, labels == c) for c in range(len(names))]
    class_figure(faces, maps, labels, names, folder / "gradcam_by_class.png", title)
    right = probability.argmax(1) == labels
    content = {
        "class_names": names,
        "clips": np.bincount(labels, minlength=len(names)).tolist(),
        "gradcam": summary(maps, labels, len(names)),
        "recognised": {
            name: summary(maps[which], labels[which], len(names))["concentration"]["mean"] if which.any() else None
            for name, which in (("right", right), ("wrong", ~right))
        },
        "spatial": None if spatial is None else summary(spatial, labels, len(names)),
    }
    write_json(folder / "gradcam.json", content)


def _spatial(found: ClipCache) -> np.ndarray | None:
    """Spatial attention (N, h, w), eq. (7); None for a network without."""
    if "spatial" not in found.extras(found.ids[0]):
        return None
    return np.array([found.extra("spatial", clip_id) for clip_id in found.ids], dtype=np.float64)


def _mean_face(found: ClipCache, chosen: np.ndarray) -> np.ndarray | None:
    """(H, W, 3), the mean of the chosen clips' pictures, one at a time; None without clips."""
    ids = [clip_id for clip_id, here in zip(found.ids, chosen, strict=True) if here]
    total: np.ndarray | float = 0.0
    for clip_id in ids:
        total = total + picture(found, clip_id) / len(ids)
    return np.asarray(total) if ids else None


def clips_figure(
    found: ClipCache,
    maps: np.ndarray,
    spatial: np.ndarray | None,
    labels: np.ndarray,
    probability: np.ndarray,
    names: Sequence[str],
    path: str | Path,
    title: str,
    clip: str,
) -> None:
    """The drawn clip, then a row a class: a clip that was recognised, and one that was not, each with its maps.

    Args:
        maps, spatial, labels, probability: of the clips of `found`, in its order.
        path: the PNG to write.
        clip: the drawn clip.
    """
    row = found.ids.index(clip)
    rows: list[tuple[str, tuple[int | None, int | None], tuple[str, str]]]
    rows = [(f"{names[labels[row]]}\n(the drawn clip)", (row, None), ("", ""))]
    for label, both in enumerate(examples(labels, probability, len(names))):
        said = ("none recognised", "none missed") if (labels == label).any() else ("no clip of this class", "")
        rows.append((names[label], both, said))
    panels = 2 if spatial is None else 3
    figure = blank(PANEL * 2 * panels + 1.2, (PANEL + 0.42) * len(rows) + 1.2, band=0.85)
    axes = figure.subplots(len(rows), 2 * panels, squeeze=False)
    for (name, both, said), line in zip(rows, axes, strict=True):
        line[0].set_ylabel(name, fontsize=9)
        for side, position, none in zip(np.split(line, 2), both, said, strict=True):
            if position is None:
                _nothing(list(side), none)
                continue
            clip_id, label = found.ids[position], int(labels[position])
            face = picture(found, clip_id)
            bare(side[0]).imshow(face)
            side[0].set_title(clip_id, fontsize=7.5)
            drawn = over(side[1], face, maps[position])
            side[1].set_title(MAPS, fontsize=8)
            verdict(side[1], of_clip(maps[position], label, probability[position], names))
            if spatial is not None:
                low, high = float(spatial[position].min()), float(spatial[position].max())
                over(side[2], face, spatial[position] - low, max(high - low, 1e-12))
                side[2].set_title("spatial attention", fontsize=8)
                side[2].set_xlabel(f"{low:.3f} to {high:.3f}", fontsize=8)
    bar(figure, drawn, axes)
    heading(figure, f"{title}: {MAPS} by the network that has not seen the subject")
    text = "Of each class a clip that was recognised, and one that was not: the middle ones by probability.\n"
    text += "Line: half of the maximum."
    if spatial is not None:
        text += " Spatial attention (eq. 7): colours from its least to its most in the clip, as printed; line: between."
    second_line(figure, text)
    save(figure, path)


def _nothing(side: Sequence["Axes"], text: str) -> None:
    """Panels of a clip that there is not; the name of the row stays."""
    for a in side:
        bare(a).set_box_aspect(1)
        a.spines[:].set_visible(False)
    side[0].text(0.5, 0.5, text, transform=side[0].transAxes, fontsize=9, ha="center", va="center", color="0.4")


def class_figure(
    faces: Sequence[np.ndarray | None],
    maps: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    path: str | Path,
    title: str,
) -> None:
    """Mean relative map over the mean picture: of all clips and of each class; below, what a class has beyond all.

    Args:
        faces: (H, W, 3) mean pictures of each class; None without clips.
        maps: (N, h, w); labels: (N,) integers, positions in `names`.
        path: the PNG to write.
    """
    counts = np.bincount(labels, minlength=len(names))
    every, *of_classes = class_maps(maps, labels, len(names))
    known = [(n, face) for n, face in zip(counts, faces, strict=True) if face is not None]
    columns = [("all", len(labels), sum(n * face for n, face in known) / len(labels), every)]
    columns += list(zip(names, counts, faces, of_classes, strict=True))
    figure = blank(max(PANEL * len(columns) + 1.2, WIDTH), 2 * (PANEL + 0.25) + 1.15, band=0.85)
    axes = figure.subplots(2, len(columns), squeeze=False)
    heats = [heat for *_, heat in columns if heat is not None]
    most = max((float(heat.max()) for heat in heats), default=1.0)
    apart = [None, *(None if heat is None or every is None else heat - every for heat in of_classes)]
    widest = max((float(np.abs(d).max()) for d in apart if d is not None), default=1.0) or 1.0
    drawn, different = None, None
    for (name, count, face, heat), difference, (a, below) in zip(columns, apart, axes.T, strict=True):
        a.set_title(f"{name}\n{count} clip{'s' if count != 1 else ''}", fontsize=9)
        if face is None or heat is None:
            for empty in (a, below):
                bare(empty).text(0.5, 0.5, "no clip" if face is None else "no heat", transform=empty.transAxes,
                                 fontsize=9, ha="center", va="center", color="0.4")  # fmt: skip
                empty.set_box_aspect(1)
            continue
        drawn = over(a, face, heat, most)
        if difference is None:
            below.axis("off")
            continue
        above, under = (enlarged(np.maximum(sign * difference, 0), *face.shape[:2]) for sign in (1, -1))
        signed = colours(DIVERGING, diverging=True)
        different = in_grey(below, face).imshow(above - under, cmap=signed, vmin=-widest, vmax=widest)
    axes[0][0].set_ylabel("mean", fontsize=9)
    if drawn is not None:
        bar(figure, drawn, axes[:1], "relative heat")
    if different is not None:
        bar(figure, different, axes[1:], "class less all")
    heading(figure, f"{title}: mean {MAPS} of each class by networks that have not seen the subjects")
    between = between_classes(maps, labels)
    said = "undefined" if between is None else f"{100 * between[0]:.1f} %, by chance {100 * between[1]:.1f} %"
    text = "Relative heat: 1 where no place is preferred; line: half of the maximum.\n"
    second_line(figure, text + f"Of the clips' differences between classes: {said}.")
    save(figure, path)
