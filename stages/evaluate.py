"""Scores the predictions of an experiment; writes metrics/<experiment>.json, its details and the data of its plots.

    python -m stages.evaluate synthetic-ststnet

A pure function of data/predictions/<experiment>/.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mer.errors import MerError
from mer.evaluation import metrics
from mer.storage.cache import replace_file
from stages._run import run


def main(stage):
    predictions, run_info = read(Path("data/predictions") / stage.key)
    section = stage.section
    metric, details = metrics.evaluate(predictions, run_info, replicates=section.bootstrap, seed=section.seed)
    write_json(Path("metrics") / f"{stage.key}.json", metric)
    write_json(Path("metrics/details") / f"{stage.key}.json", details)

    names = np.array(run_info["class_names"])
    guess = predictions[[f"p{c}" for c in range(len(names))]].to_numpy().argmax(1)
    plots = Path("metrics/plots") / stage.key
    confusion = pd.DataFrame({"actual": names[predictions["label"]], "predicted": names[guess]})
    write_csv(plots / "confusion.csv", confusion)
    who = predictions["corpus"] + "/" + predictions["subject"].astype(str)
    write_csv(plots / "subjects.csv", metrics.subject_accuracy(predictions["label"], guess, who))


def read(folder: Path, name: str = "predictions.csv") -> tuple[pd.DataFrame, dict]:
    """Predictions and run.json of an experiment."""
    try:
        predictions = pd.read_csv(folder / name, dtype={"id": str, "corpus": str, "subject": str})
        return predictions, json.loads((folder / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise MerError(f"{folder}: predictions cannot be read ({error}); run dvc repro") from None


def write_json(path: Path, content: dict) -> None:
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def write_csv(path: Path, table: pd.DataFrame) -> None:
    replace_file(path, table.to_csv(index=False, lineterminator="\n", float_format="%.6g").encode())


if __name__ == "__main__":
    run("evaluate", main)
