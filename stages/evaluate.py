"""Scores the predictions of an experiment; writes metrics/<experiment>.json, its details and the data of its plots.

    python -m stages.evaluate synthetic-ststnet

A pure function of data/predictions/<experiment>/.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from mer.evaluation import metrics
from mer.evaluation.predictions import read_predictions
from mer.evaluation.reports import write_csv, write_json
from stages._run import run


def main(stage):
    predictions, run_info = read_predictions(Path("data/predictions") / stage.key)
    section = stage.section
    metric, details = metrics.evaluate(predictions, run_info, replicates=section.bootstrap, seed=section.seed)
    write_json(Path("metrics") / f"{stage.key}.json", metric)
    write_json(Path("metrics/details") / f"{stage.key}.json", details)

    names = np.array(run_info["class_names"])
    guess = predictions[[f"p{c}" for c in range(len(names))]].to_numpy().argmax(1)
    plots = Path("metrics/plots") / stage.key
    confusion = pd.DataFrame({"actual": names[predictions["label"]], "predicted": names[guess]})
    write_csv(plots / "confusion.csv", confusion)
    per_class = pd.DataFrame({"class": names, "f1": [details["per_class"][name]["f1"] for name in names]})
    write_csv(plots / "classes.csv", per_class)
    who = predictions["corpus"] + "/" + predictions["subject"].astype(str)
    write_csv(plots / "subjects.csv", metrics.subject_accuracy(predictions["label"], guess, who))


if __name__ == "__main__":
    run("evaluate", main)
