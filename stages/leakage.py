"""How much choosing the epoch on the test subject would have flattered; writes metrics/leakage.json.

    python -m stages.leakage

Of every experiment that was trained with train.audit: UF1 and UAR as they are, as would have been claimed, the gap.
"""

from pathlib import Path

from mer.evaluation.metrics import leak
from stages._run import run
from stages.evaluate import read, write_json


def main(stage):
    leaks = {}
    names = list(stage.params.experiments.keys())
    for name in names:
        folder = Path("data/predictions") / name
        predictions, run_info = read(folder)
        if (folder / "audit.csv").exists():
            audited, _ = read(folder, "audit.csv")
            leaks[name] = leak(predictions, audited, run_info["class_names"])
    write_json(Path("metrics/leakage.json"), leaks)


if __name__ == "__main__":
    run("leakage", main)
