"""The folder of an experiment's predictions: data/predictions/<experiment>.

predictions.csv   a row a seed and clip, as mer.loso.run returns it
audit.csv         with an audit: the same for the epoch that is best on the test subject
explain.h5        a product: what the model's explanations are, of the first seed; where it has any
run.json          how the predictions came about, see `describe_run`
"""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mer.errors import MerError
from mer.storage.cache import CacheWriter

if TYPE_CHECKING:
    import pandas as pd


def read_predictions(folder: Path, name: str = "predictions.csv") -> tuple["pd.DataFrame", dict[str, Any]]:
    """Predictions (or audit.csv) and run.json of an experiment. Raises MerError where one cannot be read."""
    import pandas as pd

    try:
        predictions = pd.read_csv(folder / name, dtype={"id": str, "corpus": str, "subject": str})
        return predictions, json.loads((folder / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise MerError(f"{folder}: predictions cannot be read ({error}); run dvc repro") from None


def write_predictions(
    folder: Path,
    scratch: Path,
    predictions: "pd.DataFrame",
    audit: "pd.DataFrame",
    run_info: dict[str, Any],
    explanations: Mapping[str, dict[str, np.ndarray]],
) -> None:
    """Write all files in one rename, so that the folder is there whole or not at all.

    Args:
        folder: data/predictions/<experiment>; an earlier one is replaced.
        scratch: where the files are gathered, on the same disk; what is there is removed.
        predictions, audit: rows of mer.loso.run; without rows of `audit` there is no audit.csv.
        run_info: as `describe_run` returns it.
        explanations: clip id -> arrays by name, one of them `data`; without any there is no explain.h5.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for name, rows in (("predictions", predictions), ("audit", audit)):
        if len(rows):
            rows.to_csv(scratch / f"{name}.csv", index=False, lineterminator="\n", float_format="%.9g")
    if explanations:
        params = {"model": run_info["model"]}
        with CacheWriter(scratch / "explain.h5", kind="explain", ragged=False, params=params) as file:
            for clip_id, found in explanations.items():
                arrays: dict[str, Any] = found  # the engine refuses the names `key` and `clip_id`
                file.append(clip_id, **arrays)
    (scratch / "run.json").write_text(json.dumps(run_info, indent=1, sort_keys=True) + "\n")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def describe_run(
    *,
    experiment: str,
    model: str,
    knobs: dict[str, Any],
    recipe: dict[str, Any] | None,
    class_names: Sequence[str],
    inputs: Sequence[str],
    protocol: dict[str, Any],
    excluded: Mapping[str, str],
    n_of_other_classes: int,
    device: str,
) -> dict[str, Any]:
    """What a reader must know to trust the numbers. No times: equal runs write equal files.

    Args:
        experiment, model: their names.
        knobs: all of the model's, not only the changed ones.
        recipe: how it was trained, complete; None for an estimator.
        class_names: in label order.
        inputs: paths of the products and weights that the model read.
        protocol: selection, held_out, seeds, folds_in_parallel, leaky, transductive, and `weights`: every network that
            had a part in the predictions, and what its weights were before the folds.
        excluded: clip id -> reason.
        n_of_other_classes: clips of the index that the class list does not select.
        device: cpu or cuda.
    """
    return {
        "experiment": experiment,
        "model": model,
        "knobs": knobs,
        "recipe": recipe,
        "class_names": list(class_names),
        "inputs": list(inputs),
        "protocol": {
            "evaluation": "leave-one-subject-out",
            **protocol,
            "n_excluded": len(excluded),
            "excluded": dict(excluded),
            "n_of_other_classes": n_of_other_classes,
        },
        "environment": _environment(device),
    }


def _environment(device: str) -> dict[str, str]:
    import sklearn
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "machine": platform.machine(),
    }
