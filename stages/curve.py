"""Sets metrics against the knob in which experiments differ; writes metrics/curves/<curve>.json, .csv and .png.

    python -m stages.curve composite-msmmt-alpha

The numbers are those of metrics/details; nothing is computed anew.
"""

import json
from pathlib import Path

from mer.evaluation import curves
from mer.evaluation.reports import Details, read_json, write_csv, write_json
from stages._run import run


def main(stage, *, corpus: str, model: str, knob: str, points: list[str], baseline: str | None = None):
    def scores(experiment):
        return curves.scores(experiment, read_json(Path("metrics/details") / f"{experiment}.json", Details))

    pairs = [point.split("=") for point in points]  # <experiment>=<value of the knob>
    curve = {
        "corpus": corpus, "model": model, "knob": knob,
        "points": [{"value": json.loads(value), **scores(experiment)} for experiment, value in pairs],
        "baseline": scores(baseline) if baseline is not None else None,
    }  # fmt: skip
    folder = Path("metrics/curves")
    write_json(folder / f"{stage.key}.json", curve)
    write_csv(folder / f"{stage.key}.csv", curves.table(curve))
    curves.draw(curve, folder / f"{stage.key}.png")


if __name__ == "__main__":
    run("curve", main)
