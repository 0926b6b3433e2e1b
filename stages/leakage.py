"""How much choosing the epoch on the test subject would have flattered; writes metrics/leakage.json.

    python -m stages.leakage

Of every experiment that was trained with an audit: UF1 and UAR as they are, as would have been claimed, the gap.
metrics/leakage.csv has the UF1 of both for `dvc plots`.
"""

from pathlib import Path

import pandas as pd

from mer.evaluation.metrics import leak
from mer.evaluation.predictions import read_predictions
from mer.evaluation.reports import write_csv, write_json
from stages._run import run


def main(stage):
    leaks = {}
    for name in list(stage.params.experiments.keys()):
        folder = Path("data/predictions") / name
        predictions, run_info = read_predictions(folder)
        if (folder / "audit.csv").exists():
            audited, _ = read_predictions(folder, "audit.csv")
            leaks[name] = leak(predictions, audited, run_info["class_names"])
    write_json(Path("metrics/leakage.json"), leaks)
    rows = [
        {"uf1": leaks[name]["uf1"][side], "of": f"{name}, {said}"}
        for name in leaks
        for side, said in (("honest", "as it is"), ("leaky", "as would have been claimed"))
    ]
    write_csv(Path("metrics/leakage.csv"), pd.DataFrame(rows, columns=["uf1", "of"]))


if __name__ == "__main__":
    run("leakage", main)
