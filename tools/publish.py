"""Copies the present results to results/<preset>/, to be committed.

    python -m tools.publish

Each experiment's metric, its details and run.json, the measured leaks, and the params.yaml that made them. Refused
while anything is out of date, and for a result whose epoch was chosen on the test subject.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from mer.errors import MerError, listed
from mer.evaluation.predictions import read_run
from mer.evaluation.reports import Details, Leaks, Metric, read_json
from mer.params import load
from mer.storage.files import replaced_folder
from tools._errors import one_line


def publish(root: Path = Path()) -> Path:
    """The folder of the results; an earlier one is replaced once all files are there.

    Raises MerError for what is out of date, chosen on the test subject, missing or damaged; then nothing is changed.
    """
    params = load(root / "params.yaml")
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    status = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if status.returncode:
        raise MerError(f"dvc status failed: {status.stderr.strip()}")
    stale = json.loads(status.stdout or "{}")
    if stale:
        raise MerError(f"stages are out of date: {listed(stale)}; run dvc repro first")
    runs = {name: f"data/predictions/{name}/run.json" for name in params.experiments}
    leaky = [name for name, run in runs.items() if read_run(root / run)["protocol"]["leaky"]]
    if leaky:
        raise MerError(
            f"{listed(leaky)}: the epoch was chosen on the test subject; that is never published as a metric"
        )
    read_json(root / "metrics/leakage.json", Leaks)
    copies = {"params.yaml": "params.yaml", "metrics/leakage.json": "leakage.json"}
    for name, run in runs.items():
        metric, details = f"metrics/{name}.json", f"metrics/details/{name}.json"
        read_json(root / metric, Metric)
        read_json(root / details, Details)
        copies |= {metric: f"{name}.json", details: f"details/{name}.json", run: f"runs/{name}.json"}
    target = root / "results" / params.preset
    with replaced_folder(target) as fresh:
        for source, place in copies.items():
            (fresh / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(root / source, fresh / place)
    return target


def main() -> None:
    with one_line("publish"):
        print(f"published in {publish()}; now: git add results")


if __name__ == "__main__":
    main()
