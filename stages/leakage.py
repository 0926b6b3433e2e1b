"""How much choosing the epoch on the test subject would have flattered; writes metrics/leakage.json.

    python -m stages.leakage

Of every experiment that was trained with an audit: UF1 and UAR as they are, as would have been claimed, the gap.
"""

from pathlib import Path

from mer.evaluation.metrics import leak
from mer.evaluation.predictions import read_predictions
from mer.evaluation.reports import write_json
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


if __name__ == "__main__":
    run("leakage", main)
