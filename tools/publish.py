"""Copies the present results to results/<preset>/, to be committed.

    python -m tools.publish

Each experiment's metric, its details and run.json, the measured leaks, and the params.yaml that made them. Refused
while anything is out of date, and for a result whose epoch was chosen on the test subject.
"""

import json
import shutil
import subprocess
from pathlib import Path

from mer.errors import MerError, listed
from mer.evaluation.predictions import read_run
from mer.params import load
from tools._errors import one_line


def publish(root: Path = Path()) -> Path:
    params = load(root / "params.yaml")
    status = subprocess.run(["dvc", "status", "--json"], cwd=root, capture_output=True, text=True, check=False)
    if status.returncode:
        raise MerError(f"dvc status failed: {status.stderr.strip()}")
    stale = json.loads(status.stdout or "{}")
    if stale:
        raise MerError(f"stages are out of date: {listed(stale)}; run dvc repro first")
    leaky = [
        name for name in params.experiments if read_run(root / f"data/predictions/{name}/run.json")["protocol"]["leaky"]
    ]
    if leaky:
        raise MerError(
            f"{listed(leaky)}: the epoch was chosen on the test subject; that is never published as a metric"
        )
    target = root / "results" / params.preset
    shutil.rmtree(target, ignore_errors=True)
    for part in ("details", "runs"):
        (target / part).mkdir(parents=True)
    for name in params.experiments:
        shutil.copyfile(root / f"metrics/{name}.json", target / f"{name}.json")
        shutil.copyfile(root / f"metrics/details/{name}.json", target / f"details/{name}.json")
        shutil.copyfile(root / f"data/predictions/{name}/run.json", target / f"runs/{name}.json")
    for name in ("metrics/leakage.json", "params.yaml"):
        shutil.copyfile(root / name, target / Path(name).name)
    return target


def main() -> None:
    with one_line("publish"):
        print(f"published in {publish()}; now: git add results")


if __name__ == "__main__":
    main()
