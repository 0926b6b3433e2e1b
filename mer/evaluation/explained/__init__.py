"""Pictures of what a model found in the clips that it was not trained on: one file for each model that explains itself.

The file has the model's name and one function:

    draw(found, predictions, run_info, folder, *, title, clip)
        found: explain.h5 of the experiment, see mer.storage.cache.ClipCache. Its clips are those of `predictions`.
        predictions, run_info: as mer.evaluation.predictions.read_predictions returns them.
        folder: where the pictures are written.
        title: begins every heading; the name of the experiment.
        clip: id of the one clip that is drawn by itself; it is in `found`.

Where explain.h5 has a map (h, w) a clip as its data, and beside it the `picture` (H, W, 3) that the map is over, the
file also says what the maps are, and stage heatmaps can set several experiments side by side:

    MAPS = "Grad-CAM"
"""

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from mer.errors import MerError, suggestion
from mer.evaluation.predictions import read_predictions
from mer.storage.cache import ClipCache

if TYPE_CHECKING:
    import pandas as pd


def drawer(model: str) -> ModuleType:
    """The module that draws what a model found. Raises MerError where the model has none."""
    if model not in {module.name for module in pkgutil.iter_modules(__path__)}:
        raise MerError(
            f"model {model}: nothing draws its explanations; write mer/evaluation/explained/{model}.py with a function "
            "draw, or remove the experiment from explain.drawn"
        )
    return importlib.import_module(f"{__name__}.{model}")


def read_explained(source: Path, where: str) -> tuple[ClipCache, "pd.DataFrame", dict]:
    """explain.h5, predictions and run.json of an experiment.

    Args:
        source: data/predictions/<experiment>.
        where: in params.yaml, what asks for them.

    Raises MerError where nothing was explained, and what `read_predictions` and ClipCache raise.
    """
    predictions, run_info = read_predictions(source)
    if not (source / "explain.h5").exists():
        several = "candidates" in run_info["protocol"]
        if run_info["protocol"]["leaky"] or several:
            which = run_info["protocol"].get("selection") if several else "test_best"
            raise MerError(f"{source}: nothing is explained with selection {which}; set another, or remove {where}")
        raise MerError(f"{source}: model {run_info['model']} has explained nothing; remove {where}")
    return ClipCache(source / "explain.h5", "explain"), predictions, run_info


def check_clip(clip: str, found: ClipCache, where: str) -> None:
    """Raise MerError for a clip that was not predicted, naming the nearest; where: in params.yaml."""
    if clip not in found:
        raise MerError(f"params.yaml: {where} is {clip!r}, which was not predicted; {suggestion(clip, found.ids)}")


def explained_rows(predictions: "pd.DataFrame", run_info: dict, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and probabilities (N, C) of the clips `ids`, of the first seed: explanations are of no other."""
    rows = predictions[predictions["seed"] == run_info["protocol"]["seeds"][0]].set_index("id").loc[ids]
    return rows["label"].to_numpy(), rows[[f"p{c}" for c in range(len(run_info["class_names"]))]].to_numpy()
