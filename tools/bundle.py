"""Copies trained weights to assets/weights/, to be committed: what a fresh clone has instead of training.

    python -m tools.bundle magnet resnet18

In float16. The note in a file says what made it: the run of pretrain.runs and its pool as JSON, the commit, versions
and device. Refused while a stage is out of date or a file is not committed, and for weights that nobody trained here,
that saw subjects of a corpus, or that float16 cannot hold.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from mer import pretraining
from mer.errors import MerError, listed, suggestion
from mer.params import Params, load
from mer.storage.weights import save_weights, subjects_seen, weights_about
from tools._errors import one_line

FOLDER = Path("assets/weights")
MOST = 25_000_000  # bytes of all bundled files together
ELSEWHERE = ("given: ", "bundled: ", "official: ", "ImageNet weights", "random weights")


def bundle(names: list[str], root: Path = Path()) -> list[Path]:
    """The files that were written, assets/weights/<name>.safetensors.

    Raises MerError as the top of this file says; what was refused is not written.
    """
    params = load(root / "params.yaml")
    commit = _committed(root)
    for name in names:
        if name not in params.pretrain.runs:
            raise MerError(f"{name!r} is no entry of pretrain.runs; {suggestion(name, params.pretrain.runs)}")
    stale = _stale(names, root)
    if stale:
        raise MerError(f"out of date: {listed(stale)}; run dvc repro {' '.join(stale)} first")
    written = []
    for name in names:
        target = root / FOLDER / f"{name}.safetensors"
        _write(name, params, commit, root, target)
        written.append(target)
    size = sum(path.stat().st_size for path in (root / FOLDER).glob("*.safetensors"))
    if size > MOST:
        raise MerError(f"{FOLDER}: {size / 1e6:.1f} MB, more than {MOST / 1e6:.0f}; make a network smaller")
    return written


def _write(name: str, params: Params, commit: str, root: Path, target: Path) -> None:
    path, run = root / f"data/weights/{name}.safetensors", params.pretrain.runs[name]
    about = weights_about(path)
    if str(about.get("weights", "")).startswith(ELSEWHERE):
        raise MerError(f"{path}: {about['weights']}: was not trained here; nothing else is bundled")
    if subjects_seen(path):
        raise MerError(f"{path}: saw {listed(subjects_seen(path))}; bundled weights may know nobody who is evaluated")
    entry = run.model_dump()
    pool = entry.get("pool")
    task = pretraining.load_task(run.task)
    knobs = task.knobs_of(entry) if hasattr(task, "knobs_of") else entry.get("knobs", {})
    network = pretraining.load_network(run.network).load_user_weights(path, **knobs)
    broken = [
        n for n, v in network.state_dict().items() if v.is_floating_point() and not torch.isfinite(v.half()).all()
    ]
    if broken:
        raise MerError(f"{path}: float16 cannot hold {listed(broken)}; nothing was written")
    made = {"pretrain": {name: entry}, "seed": params.pretrain.seed}
    if pool is not None:
        made["synthesize"] = {pool: params.synthesize.runs[pool].model_dump(), "seed": params.synthesize.seed}
    versions = ", ".join(f"{package.__name__} {package.__version__}" for package in (torch, np, cv2))
    note = about | {"recipe": json.dumps(made, sort_keys=True), "commit": commit, "versions": versions}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(network, target, note, half=True)


def _committed(root: Path) -> str:
    """The commit that is checked out. Raises MerError where a file of it was changed."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MerError(f"git {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    # What a preset and a run write differs; it is in the note, or DVC watches it.
    changed = [line[3:] for line in git("status", "--porcelain", "--untracked-files=no").splitlines()]
    changed = [path for path in changed if not path.startswith(("metrics/", "results/", "assets/"))]
    changed = sorted(set(changed) - {"params.yaml", "plan.yaml", "dvc.lock"})
    if changed:
        raise MerError(f"not committed: {listed(changed)}; commit first: the file shall name what made it")
    return git("rev-parse", "HEAD").strip()


def _stale(names: list[str], root: Path) -> list[str]:
    stages = [f"pretrain@{name}" for name in names]
    command = [sys.executable, "-m", "dvc", "status", "--json", *stages]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MerError(f"dvc status failed: {done.stderr.strip()}")
    return sorted(json.loads(done.stdout or "{}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="runs of pretrain.runs")
    with one_line("bundle"):
        for path in bundle(parser.parse_args().names):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        print("now: git add assets, and say in docs/weights.md what they score")


if __name__ == "__main__":
    main()
