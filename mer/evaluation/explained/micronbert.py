"""Pictures of where Micron-BERT finds two frames to differ: the diagonal, the scores and their product (Figure 7).

Shapes: N clips, maps (N, s, s), C classes; pictures (H, W, 3) uint8 RGB, the apex that the network was given.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mer.evaluation.canvas import blank, heading, save
from mer.evaluation.explained import explained_rows
from mer.evaluation.heatmaps import PANEL, bar, bare, examples, of_clip, over, second_line, verdict
from mer.evaluation.maps import picture, read_maps, summary
from mer.evaluation.reports import write_json
from mer.storage.cache import ClipCache

if TYPE_CHECKING:
    import pandas as pd

MAPS = "what differs"
PARTS = {"diagonal": "diagonal, eq. (8)", "scores": "scores, eq. (11)"}


def draw(found: ClipCache, predictions: "pd.DataFrame", run_info: dict, folder: Path, *, title: str, clip: str) -> None:
    """differences.png: onset, apex, the parts and the map of `clip` and of a clip of each class; differences.json: the
    numbers. Arguments: see mer.evaluation.explained.

    Raises MerError for explanations that are no maps over pictures.
    """
    names = run_info["class_names"]
    maps = read_maps(found)
    labels, probability = explained_rows(predictions, run_info, found.ids)
    parts = {name: of_all(found, name) for name in PARTS if name in found.extras(found.ids[0])}
    clips_figure(found, maps, parts, labels, probability, names, folder / "differences.png", title, clip)
    content = {"class_names": names, "clips": np.bincount(labels, minlength=len(names)).tolist()}
    every = {"map": maps, **parts}
    write_json(
        folder / "differences.json",
        content | {name: summary(values, labels, len(names)) for name, values in every.items()},
    )


def caption(parts: Sequence[str]) -> str:
    """What the maps are, by the parts that they are made of."""
    if not parts:
        return "Last: the length of what is read of each patch."
    times = ", times the scores" if "scores" in parts else ""
    return (
        f"{' and '.join(parts).capitalize()}: colours from the least to the most of the clip, as printed. "
        f"Last: 1 less the diagonal by its maximum{times} (M-08)."
    )


def of_all(found: ClipCache, name: str) -> np.ndarray:
    """A map that is kept beside the data, (N, s, s)."""
    return np.array([found.extra(name, clip_id) for clip_id in found.ids], dtype=np.float64)


def clips_figure(
    found: ClipCache,
    maps: np.ndarray,
    parts: dict[str, np.ndarray],
    labels: np.ndarray,
    probability: np.ndarray,
    names: Sequence[str],
    path: str | Path,
    title: str,
    clip: str,
) -> None:
    """The drawn clip, then of each class one that was recognised, or else one that was not.

    Args:
        maps, labels, probability: of the clips of `found`, in its order; parts: alike, by name.
        path: the PNG to write.
        clip: the drawn clip.
    """
    chosen = [(f"{names[labels[found.ids.index(clip)]]}\n(the drawn clip)", found.ids.index(clip))]
    for name, (right, wrong) in zip(names, examples(labels, probability, len(names)), strict=True):
        position = wrong if right is None else right
        if position is not None:
            chosen.append((name, position))
    columns = 3 + len(parts)
    figure = blank(PANEL * columns + 1.2, (PANEL + 0.42) * len(chosen) + 1.2, band=0.85)
    axes = figure.subplots(len(chosen), columns, squeeze=False)
    for (name, position), line in zip(chosen, axes, strict=True):
        clip_id, face = found.ids[position], picture(found, found.ids[position])
        line[0].set_ylabel(name, fontsize=9)
        onset = np.clip(np.round(found.extra("onset", clip_id)), 0, 255).astype(np.uint8)
        for a, image, text in ((line[0], onset, f"onset of {clip_id}"), (line[1], face, "apex")):
            bare(a).imshow(image)
            a.set_title(text, fontsize=7.5)
        for a, (part, values) in zip(line[2:], parts.items(), strict=False):
            low, high = float(values[position].min()), float(values[position].max())
            over(a, face, values[position] - low, max(high - low, 1e-12))
            a.set_title(PARTS[part], fontsize=8)
            a.set_xlabel(f"{low:.2g} to {high:.2g}", fontsize=8)
        drawn = over(line[-1], face, maps[position])
        line[-1].set_title(MAPS, fontsize=8)
        verdict(line[-1], of_clip(maps[position], int(labels[position]), probability[position], names))
    bar(figure, drawn, axes)
    heading(figure, f"{title}: {MAPS}, by the network that has not seen the subject")
    second_line(figure, caption(list(parts)))
    save(figure, path)
