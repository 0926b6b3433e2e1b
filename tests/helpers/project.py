"""A project of its own in a temporary folder, with a corpus so small that every stage takes seconds."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mer.params import load
from tools import plan

TINY = {"subjects": 3, "clips": 15, "pool_subjects": 2, "pool_images": 1}


def make_project(root: Path, folder: Path, change: Callable[[Any], None] | None = None) -> Path:
    """The repository's own files, as they are in the working tree, with the demo made tiny and git initialised.

    change: of params.yaml, instead of the usual tiny one.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        source = root / name
        left_out = name.startswith(("tests/", "results/", "metrics/")) and name != "results/README.md"
        if source.is_file() and not left_out and name != "dvc.lock":
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    edit(folder, change or _tiny)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], cwd=folder, check=True, capture_output=True
        )
    return folder


def _tiny(params) -> None:
    params["synthesize"]["runs"].update(synthetic=TINY)
    for run in params["pretrain"]["runs"].values():
        if run["task"] != "fetch":
            run.update(bundled=None)  # the stages shall train
        if "pool" in run:
            run.update(pool="synthetic")  # and no other people be rendered
        if run["task"] in ("macro", "moving_layers"):
            run.update(steps=2, batch_size=2, size=32)
    pairs = {"knobs": {"width": 8, "layers": 1, "heads": 1, "widen": 1}, "pool": "synthetic", "size": 24, "epochs": 1}
    params["pretrain"]["runs"]["micronbert"].update({**pairs, "global_batch": 2, "min_block": 2})
    params["micronbert"].update(crop="box224", size=24, patch=8, width=8, layers=1, heads=1, widen=1)
    params["experiments"]["synthetic-micronbert"].update(recipe={"epochs": 1}, knobs={})  # with all it has: MB3
    # One network with products of its own is enough for tests of stages; `make repro` runs all.
    for one in (params["experiments"], params["explain"]["drawn"]):
        one.pop("synthetic-msmmt")
        one.pop("synthetic-dcma")
    params["experiments"].pop("synthetic-linear-three")
    params["experiments"]["synthetic-ststnet"].update(recipe={"epochs": 4})
    params["experiments"]["synthetic-uamrn"].update(recipe={"epochs": 2})
    params["uamrn"].update(d_model=16, blocks=1)
    params["explain"]["drawn"].update({"synthetic-uamrn": ""})


def edit(folder: Path, change, *, planned: bool = True) -> None:
    """Change params.yaml, comments kept, and derive the plan anew; planned=False: the plan stays as it was."""
    yaml = YAML()
    yaml.width = 4096
    params = yaml.load(folder / "params.yaml")
    change(params)
    yaml.dump(params, folder / "params.yaml")
    if planned:
        make_plan(folder)


def make_plan(folder: Path) -> list[str]:
    """As `make plan` does it, with the models of this checkout; what has changed, a line each."""
    return plan.write(plan.derived(load(folder / "params.yaml")), folder / "plan.yaml")
