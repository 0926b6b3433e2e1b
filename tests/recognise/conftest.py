"""Tiny projects that have been trained, whose clips are recognised again: as frames and as videos."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
import torch

from mer.plan import STAGES
from mer.plan_file import stages_of
from tests.helpers.in_process import run
from tests.helpers.project import TINY, make_project

RECIPES = {
    "synthetic-ststnet": {"epochs": 4}, "synthetic-uamrn": {"epochs": 2}, "synthetic-msmmt": {"epochs": 2},
    "synthetic-dcma": {"epochs": 1}, "synthetic-micronbert": {"epochs": 1},
}  # fmt: skip


def trained(root: Path, folder: Path, experiments: list[str], fitted: list[str]) -> Path:
    """A project with these experiments of the demo alone, trained and evaluated; its stages have run in this process.

    Its weights came along, so what is recognised is preprocessed as in the demo.
    """

    def small(params):
        params["synthesize"]["runs"]["synthetic"] = TINY
        params["uamrn"].update(d_model=16, blocks=1)
        for name in set(params["experiments"]) - set(experiments):
            del params["experiments"][name]
        for name in set(experiments) & set(RECIPES):
            params["experiments"][name]["recipe"] = RECIPES[name]
        params["fit"]["experiments"] = fitted
        params["explain"]["drawn"], params["motion_maps"] = {}, {}
        params["runtime"].update(workers=1, device="cpu")

    make_project(root, folder, small)
    plan = stages_of(folder / "plan.yaml")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.set_num_threads(1)
        for stage in STAGES[: STAGES.index("fit") + 1]:
            if stage != "restore":  # nobody reads its pictures
                run(stage, *plan.get(stage, {}))
        torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="session")
def flows(root, tmp_path_factory):
    """A network and an estimator that read flow; nobody changes the project, so the processes of pytest share one."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, names = base / "flows", ["synthetic-linear", "synthetic-ststnet"]
    with open(base / "flows.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "flows.done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            trained(root, folder, names, names)
            (base / "flows.done").touch()
    return folder
