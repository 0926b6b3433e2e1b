"""The graph under DVC itself: what reruns, what comes from cache, and what a kill -9 costs. Slow: real processes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from tests.helpers.project import edit, make_project

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GIT_AUTHOR_NAME": "t",
               "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}  # fmt: skip
TRAIN = "train@synthetic-ststnet"
ALIGN = "align@synthetic-box224"
FRAMES = "data/cache/synthetic/box224/frames.h5"
PREDICTIONS = "data/predictions/synthetic-ststnet"


def dvc(folder: Path, *args, check=True) -> str:
    done = subprocess.run(["dvc", *args], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, output
    return output


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def content(folder: Path) -> dict[str, str]:
    """Bytes of everything the graph has made."""
    files = [p for top in ("data", "metrics") for p in (folder / top).rglob("*") if p.is_file()]
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if ".partial" not in p.parts and "timings" not in p.parts and p.name != ".gitignore"
    }


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """A finished tiny project. Its network trains long enough to be caught at it."""
    folder = make_project(root, tmp_path_factory.mktemp("project"))
    edit(folder, lambda p: p["experiments"]["synthetic-ststnet"].update(recipe={"epochs": 150}))
    edit(folder, lambda p: p["runtime"].update(workers=1))
    dvc(folder, "repro")
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True, env=ENVIRONMENT)
    subprocess.run(["git", "commit", "-qm", "ran"], cwd=folder, check=True, env=ENVIRONMENT)
    return folder


def test_a_second_run_runs_no_stage_and_a_runtime_change_neither(project):
    assert ran(dvc(project, "repro")) == []
    edit(project, lambda p: p["runtime"].update(workers=2))
    assert ran(dvc(project, "repro")) == []
    edit(project, lambda p: p["runtime"].update(workers=1))


def test_a_changed_seed_reruns_training_and_evaluation_and_setting_it_back_restores_from_cache(project):
    before = content(project)
    output = dvc(project, "exp", "run", "-S", "train.seed=1")
    allowed = {f"{s}@synthetic-{m}" for s in ("train", "evaluate") for m in ("linear", "ststnet", "uamrn")}
    assert set(ran(output)) <= allowed | {"leakage", "explain@synthetic-uamrn"}
    assert TRAIN in ran(output)
    assert content(project)[f"{PREDICTIONS}/predictions.csv"] != before[f"{PREDICTIONS}/predictions.csv"]
    assert "synthetic-ststnet" in dvc(project, "exp", "show", "--csv")
    assert "metrics/synthetic-ststnet.json" in dvc(project, "metrics", "diff")
    output = dvc(project, "exp", "run", "-S", "train.seed=0")
    assert ran(output) == []
    assert content(project) == before


def processes(folder: Path) -> list[psutil.Process]:
    """Every stage process that works in this project, with its workers."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile, or somebody else's
    return found


def wait(condition, what: str, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)


def finished(folder: Path, stage: str) -> int:
    """Clips or folds that a run of the stage has finished: as blocks of their own, or already in the product's part."""
    spool = folder / "data/.partial" / stage
    lines = [line for path in spool.glob("*.rows") for line in path.read_bytes().splitlines(keepends=True)]
    return len(
        {path.stem for path in spool.glob("*.block")} | {json.loads(x)["key"] for x in lines if x.endswith(b"\n")}
    )


def test_bad_input_is_one_line_directly_above_dvcs_own_and_nothing_earlier_is_lost(project):
    before = content(project)
    frame = next((project / "data/raw/synthetic/corpus/sub01").rglob("*.jpg"))
    folder = frame.parent
    numbers = sorted(int(p.stem[3:]) for p in folder.glob("*.jpg"))
    middle = folder / f"img{numbers[len(numbers) // 2]}.jpg"
    edit(project, lambda p: p["index"]["runs"]["synthetic"].update(raw="data/raw/theirs"))
    shutil.copytree(project / "data/raw/synthetic/corpus", project / "data/raw/theirs", copy_function=shutil.copyfile)
    broken = project / "data/raw/theirs" / middle.relative_to(project / "data/raw/synthetic/corpus")
    good = broken.read_bytes()
    broken.write_bytes(b"no image")
    output = dvc(project, "repro", check=False)
    lines = [line for line in output.replace("\r", "\n").splitlines() if line.strip()]
    complaint = [i for i, line in enumerate(lines) if "cannot be read as an image" in line]
    assert len(complaint) == 1, output
    assert lines[complaint[0]].startswith(f"{ALIGN}: data/raw/theirs/")
    assert lines[complaint[0]].endswith("replace the file")
    assert "failed to reproduce" in lines[complaint[0] + 1]

    broken.write_bytes(good)
    # Only the paths differ from the run before, and the clips' contents make the keys.
    assert "15 of 15 clips were finished earlier" in dvc(project, "repro")
    edit(project, lambda p: p["index"]["runs"]["synthetic"].update(raw="data/raw/synthetic/corpus"))
    shutil.rmtree(project / "data/raw/theirs")
    assert ran(dvc(project, "repro")) == []  # restored from cache
    after = content(project)
    assert {k: v for k, v in after.items() if k in before} == before


def test_an_added_model_is_one_file_and_one_entry(project):
    (project / "mer/models/theirs.py").write_text(
        '"""Says the most frequent class."""\n'
        "from sklearn.dummy import DummyClassifier\n\nPRODUCTS = ('flow',)\nRECIPE = None\n\n"
        "def prepare(flow):\n    return flow.mean((1, 2, 3))[:, None]\n\n"
        "def build(classes: int):\n    return DummyClassifier(strategy='prior')\n"
    )

    def add(params):
        entry = dict(params["experiments"]["synthetic-linear"])
        params["experiments"]["synthetic-theirs"] = {**entry, "model": "theirs", "knobs": "none"}

    edit(project, add)
    stages = ran(dvc(project, "repro"))
    assert sorted(stages) == ["evaluate@synthetic-theirs", "leakage", "train@synthetic-theirs"]
    assert (project / "metrics/synthetic-theirs.json").exists()


def forget(folder: Path, stage: str, out: str) -> None:
    """Take an output from DVC's caches; else DVC would restore it after the kill instead of running the stage."""
    shutil.rmtree(folder / ".dvc/cache/runs")
    lock = YAML(typ="safe").load(folder / "dvc.lock")
    md5 = next(o["md5"] for o in lock["stages"][stage]["outs"] if o["path"] == out)
    cached = folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.chmod(0o644)
    cached.unlink()


@pytest.mark.parametrize("victims", ["dvc", "stage", "both"])
@pytest.mark.parametrize(("stage", "out"), [(ALIGN, FRAMES), (TRAIN, PREDICTIONS)])
def test_kill_9_loses_at_most_the_clip_at_hand_and_ends_with_the_same_bytes(project, stage, out, victims):
    before = content(project)
    shutil.rmtree(project / "data/.partial" / stage)
    # One worker process writes one block at a time, two die with their parent.
    edit(project, lambda p: p["runtime"].update(workers=2 if victims == "both" else 1))
    forget(project, stage, out)
    running = subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", stage],
        cwd=project, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait(lambda: finished(project, stage) >= 1, f"the first finished item of {stage}")
    workers = [p for p in processes(project) if any(a.startswith("stages.") for a in p.cmdline())]
    assert workers
    targets = {
        "dvc": [running.pid],
        "stage": [p.pid for p in workers],
        "both": [running.pid, *(p.pid for p in workers)],
    }
    for pid in targets[victims]:
        os.kill(pid, signal.SIGKILL)
    running.wait()
    wait(lambda: not processes(project), "every process of the run to end", 15)
    kept = finished(project, stage)
    assert kept >= 1
    assert not (project / out).exists()
    output = dvc(project, "repro")
    assert stage in ran(output)
    assert f"{kept} of {15 if stage == ALIGN else 3} " in output
    assert "were finished earlier" in output
    assert content(project) == before
    assert finished(project, stage) == (0 if stage == ALIGN else 3)
