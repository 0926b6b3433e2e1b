"""Pictures of what a model found in the clips that it was not trained on: one file for each model that explains itself.

The file has the model's name and one function:

    draw(found, predictions, run_info, folder, *, title, clip)
        found: explain.h5 of the experiment, see mer.storage.cache.ClipCache. Its clips are those of `predictions`.
        predictions, run_info: as mer.evaluation.predictions.read_predictions returns them.
        folder: where the pictures are written.
        title: begins every heading; the name of the experiment.
        clip: id of the one clip that is drawn by itself; it is in `found`.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from mer.errors import MerError

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


def explained_rows(predictions: "pd.DataFrame", run_info: dict, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and probabilities (N, C) of the clips `ids`, of the first seed: explanations are of no other."""
    rows = predictions[predictions["seed"] == run_info["protocol"]["seeds"][0]].set_index("id").loc[ids]
    return rows["label"].to_numpy(), rows[[f"p{c}" for c in range(len(run_info["class_names"]))]].to_numpy()
