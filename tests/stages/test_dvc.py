"""The graph under DVC itself: what reruns, what comes from cache, and what a kill -9 costs. Slow: real processes."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.helpers.processes import living, wait
from tests.helpers.project import edit, make_project
from tests.helpers.stages import finished

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GIT_AUTHOR_NAME": "t",
               "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}  # fmt: skip
TRAIN = "train@synthetic-ststnet"
ALIGN = "align@synthetic-box224"
LANDMARKS = "landmarks@synthetic"
POINTS = "data/cache/synthetic/landmarks.h5"
FRAMES = "data/cache/synthetic/box224/frames.h5"
PREDICTIONS = "data/predictions/synthetic-ststnet"


def dvc(folder: Path, *args, check=True) -> str:
    done = subprocess.run(["dvc", *args], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, output
    return output


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def content(folder: Path) -> dict[str, str]:
    """Bytes of everything the graph has made; the page, which shows times of stages, is left out."""
    files = [p for top in ("data", "metrics") for p in (folder / top).rglob("*") if p.is_file()]
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if not {".partial", "timings", "report"} & set(p.parts) and p.name != ".gitignore"
    }


DRAWN = ("explain", "motion_maps")  # of what a network found


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """A finished tiny project. Its network trains, and its stages read clips, long enough to be caught at it."""
    folder = make_project(root, tmp_path_factory.mktemp("project"))
    for name in ("landmarks", "align"):
        # 15 clips take less than the 0.3 s in which a stage may notice that DVC is gone.
        path = folder / f"stages/{name}.py"
        code, found = re.subn(r"(-> dict:\n)", r'\1    __import__("time").sleep(0.1)\n', path.read_text())
        assert found
        path.write_text(code)
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
    allowed = {
        f"{s}@synthetic-{m}" for s in ("train", "evaluate") for m in ("linear", "ststnet", "uamrn", "micronbert")
    }
    allowed |= {f"{s}@synthetic-{m}" for s, m in (("explain", "uamrn"), *((s, "micronbert") for s in DRAWN))}
    allowed |= {f"{s}@synthetic-{m}" for s in ("fit", "recognise") for m in ("linear", "ststnet")}
    assert set(ran(output)) <= allowed | {"leakage", "tables", "report@demo"}
    assert TRAIN in ran(output)
    assert content(project)[f"{PREDICTIONS}/predictions.csv"] != before[f"{PREDICTIONS}/predictions.csv"]
    assert "synthetic-ststnet" in dvc(project, "exp", "show", "--csv")
    assert "metrics/synthetic-ststnet.json" in dvc(project, "metrics", "diff")
    output = dvc(project, "exp", "run", "-S", "train.seed=0")
    assert ran(output) == []
    assert content(project) == before


def test_a_second_machine_pulls_what_the_first_has_computed_and_runs_no_stage(project, tmp_path):
    """A folder as remote; with S3 only the address differs."""
    commit(project, "as it is")
    dvc(project, "remote", "add", "--local", "--default", "shared", str(tmp_path / "remote"))
    dvc(project, "push", "--run-cache")
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", project, other], check=True)
    edit(other, lambda p: p["runtime"].update(workers=2), planned=False)
    dvc(other, "remote", "add", "--local", "--default", "shared", str(tmp_path / "remote"))
    for folder in ("data/raw", "data/cache"):
        (other / folder).mkdir(parents=True, exist_ok=True)
    # One product alone, then all that there is.
    dvc(other, "pull", "data/cache/synthetic/box224/flow.h5")
    assert not (other / FRAMES).exists()
    dvc(other, "pull")
    assert ran(dvc(other, "repro")) == []
    assert content(other) == content(project)
    # Without the recordings, as of a corpus that may not be shared.
    (other / "data/raw/synthetic").rename(tmp_path / "recordings")
    assert ran(dvc(other, "repro", "--allow-missing")) == []
    assert not (other / "data/raw/synthetic").exists()
    (tmp_path / "recordings").rename(other / "data/raw/synthetic")
    # What the second computes, the first finds: also of parameters that stand in no commit.
    edit(other, lambda p: p["experiments"]["synthetic-ststnet"].update(recipe={"epochs": 3}))
    assert TRAIN in ran(dvc(other, "repro", "evaluate@synthetic-ststnet"))
    dvc(other, "push", "--run-cache")
    edit(project, lambda p: p["experiments"]["synthetic-ststnet"].update(recipe={"epochs": 3}))
    try:
        dvc(project, "fetch", "--run-cache")
        # Metrics stand in git and not in the cache, so they are computed; the training is not.
        assert ran(dvc(project, "repro", "--pull", "evaluate@synthetic-ststnet")) == ["evaluate@synthetic-ststnet"]
        assert content(project)[f"{PREDICTIONS}/predictions.csv"] == content(other)[f"{PREDICTIONS}/predictions.csv"]
    finally:
        edit(project, lambda p: p["experiments"]["synthetic-ststnet"].update(recipe={"epochs": 150}))
        dvc(project, "repro")
        dvc(project, "remote", "remove", "--local", "shared")


def commit(folder: Path, message: str) -> None:
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True, env=ENVIRONMENT)
    subprocess.run(["git", "commit", "-qm", message, "--allow-empty"], cwd=folder, check=True, env=ENVIRONMENT)


def test_bad_input_is_one_line_directly_above_dvcs_own_and_nothing_earlier_is_lost(project):
    before = content(project)
    frame = next((project / "data/raw/synthetic/corpus/sub01").rglob("*.jpg"))
    folder = frame.parent
    numbers = sorted(int(p.stem[3:]) for p in folder.glob("*.jpg"))
    middle = folder / f"img{numbers[len(numbers) // 2]}.jpg"
    edit(project, lambda p: p["corpora"]["synthetic"].update(raw="data/raw/theirs"))
    shutil.copytree(project / "data/raw/synthetic/corpus", project / "data/raw/theirs", copy_function=shutil.copyfile)
    broken = project / "data/raw/theirs" / middle.relative_to(project / "data/raw/synthetic/corpus")
    good = broken.read_bytes()
    broken.write_bytes(b"no image")
    output = dvc(project, "repro", check=False)
    lines = [line for line in output.replace("\r", "\n").splitlines() if line.strip()]
    complaint = [i for i, line in enumerate(lines) if "cannot be read as an image" in line]
    assert len(complaint) == 1, output
    assert re.match(r"align@synthetic-(box112|box224|none224): data/raw/theirs/", lines[complaint[0]])
    assert lines[complaint[0]].endswith("replace the file")
    assert "failed to reproduce" in lines[complaint[0] + 1]

    broken.write_bytes(good)
    # Only the paths differ from the run before, and the clips' contents make the keys.
    assert "15 of 15 clips were finished earlier" in dvc(project, "repro")
    edit(project, lambda p: p["corpora"]["synthetic"].pop("raw"))
    shutil.rmtree(project / "data/raw/theirs")
    assert ran(dvc(project, "repro")) == []  # restored from cache
    after = content(project)
    assert {k: v for k, v in after.items() if k in before} == before


def forget(folder: Path, stage: str, out: str) -> None:
    """Take an output from DVC's caches; else DVC would restore it after the kill instead of running the stage."""
    shutil.rmtree(folder / ".dvc/cache/runs")
    lock = YAML(typ="safe").load(folder / "dvc.lock")
    md5 = next(o["md5"] for o in lock["stages"][stage]["outs"] if o["path"] == out)
    cached = folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.chmod(0o644)
    cached.unlink()


@pytest.mark.parametrize("victims", ["dvc", "stage", "both"])
@pytest.mark.parametrize(("stage", "out"), [(LANDMARKS, POINTS), (ALIGN, FRAMES), (TRAIN, PREDICTIONS)])
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
    workers = [p for p in living(project) if any(a.startswith("stages.") for a in p.cmdline())]
    assert workers
    targets = {
        "dvc": [running.pid],
        "stage": [p.pid for p in workers],
        "both": [running.pid, *(p.pid for p in workers)],
    }
    for pid in targets[victims]:
        os.kill(pid, signal.SIGKILL)
    running.wait()
    wait(lambda: not living(project), "every process of the run to end", 15)
    kept = finished(project, stage)
    assert kept >= 1
    assert not (project / out).exists()
    output = dvc(project, "repro")
    assert stage in ran(output)
    assert f"{kept} of {3 if stage == TRAIN else 15} " in output
    assert "were finished earlier" in output
    assert content(project) == before
    assert finished(project, stage) == (3 if stage == TRAIN else 0)


@pytest.mark.parametrize(("stage", "out"), [(LANDMARKS, POINTS), (ALIGN, FRAMES)])
def test_a_kill_after_the_product_stood_and_before_dvc_recorded_it_ends_with_the_same_bytes(project, stage, out):
    """DVC removes the product and runs the stage: every clip is kept from the run before, extras included."""
    before = content(project)
    forget(project, stage, out)
    (project / out).unlink()
    output = dvc(project, "repro")
    assert ran(output) == [stage]
    assert "15 of 15 clips were finished earlier" in output
    assert content(project) == before


# ---- additions ------------------------------------------------------------------------------------------------------


def plan(folder: Path) -> list[str]:
    """`make plan` with the project's own models."""
    done = subprocess.run([sys.executable, "-m", "tools.plan"], cwd=folder, env=ENVIRONMENT, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def add(folder: Path, **sections) -> list[str]:
    """Add entries to sections of params.yaml; what the plan says of it."""

    def change(params):
        for section, entries in sections.items():
            params[section].update(entries)

    edit(folder, change, planned=False)
    return plan(folder)


def of(stages: list[str], *names: str) -> set[str]:
    return {stage for stage in stages if stage.split("@")[0] in names}


def test_an_added_experiment_is_one_line(project):
    line = {"corpus": "synthetic", "model": "linear", "knobs": {"grid": 14}}
    said = add(project, experiments={"synthetic-linear-fine": line})
    assert said[0] == "2 stages more: train@synthetic-linear-fine, evaluate@synthetic-linear-fine"
    assert sorted(ran(dvc(project, "repro"))) == [
        "evaluate@synthetic-linear-fine", "leakage", "report@demo", "tables", "train@synthetic-linear-fine"
    ]  # fmt: skip
    assert (project / "metrics/synthetic-linear-fine.json").exists()


def test_an_added_corpus_in_a_known_layout_is_one_line_and_editing_the_renderer_does_not_touch_it(project):
    shutil.copytree(project / "data/raw/synthetic/corpus", project / "data/raw/mine", copy_function=shutil.copyfile)
    add(
        project, corpora={"mine": {"reader": "casme2", "watch": "data/raw/mine", "classes": 5}},
        experiments={"mine-linear": {"corpus": "mine", "model": "linear"}},
    )  # fmt: skip
    stages = ran(dvc(project, "repro"))
    assert "index@mine" in stages
    assert "figures@mine" in stages
    assert not [stage for stage in stages if "synthetic" in stage]
    same = [json.loads((project / f"metrics/{name}-linear.json").read_text())["uf1"] for name in ("mine", "synthetic")]
    assert same[0] == same[1]

    renderer = project / "mer/synthetic/face.py"
    renderer.write_text(renderer.read_text() + "\n# edited\n")
    stages = ran(dvc(project, "repro"))
    assert "synthesize@synthetic" in stages
    assert not [stage for stage in stages if "mine" in stage]


READER = '''"""A corpus of somebody's own: rows of a csv, frames in numbered files."""

from pathlib import Path

import pandas as pd

from mer.clips import COLUMNS

CLASSES = {3: {"disgust": {"disgust"}, "happiness": {"happiness"}, "surprise": {"surprise"}}}


def read_corpus(root, corpus, on_error="stop"):
    sheet = pd.read_csv(Path(root) / "rows.csv", dtype={"who": str, "clip": str})
    rows = pd.DataFrame(dict.fromkeys(COLUMNS[:-1], ""), index=sheet.index)
    rows["corpus"], rows["subject"], rows["clip"], rows["emotion"] = corpus, sheet["who"], sheet["clip"], sheet["felt"]
    rows["id"] = corpus + "/" + sheet["who"] + "/" + sheet["clip"]
    rows["onset"], rows["apex"], rows["offset"], rows["fps"] = sheet["first"], sheet["top"], sheet["last"], 200.0
    rows["apex_source"] = "annotated"
    rows["frame"] = [f"{root}/{w}/{c}/img{{}}.jpg" for w, c in zip(sheet["who"], sheet["clip"], strict=True)]
    rows.attrs["excluded"] = []
    return rows
'''


def test_an_added_corpus_with_its_own_sheet_is_one_file_and_one_line(project):
    (project / "mer/corpora/theirs.py").write_text(READER)
    shutil.copytree(project / "data/raw/synthetic/corpus", project / "data/raw/theirs", copy_function=shutil.copyfile)
    index = pd.read_csv(project / "data/index/synthetic.csv", dtype={"subject": str})
    index = index.rename(columns={"subject": "who", "emotion": "felt", "onset": "first", "apex": "top",
                                  "offset": "last"})  # fmt: skip
    index[["who", "clip", "felt", "first", "top", "last"]].to_csv(project / "data/raw/theirs/rows.csv", index=False)
    add(
        project, corpora={"theirs": {"watch": "data/raw/theirs", "classes": 3}},
        experiments={"theirs-linear": {"corpus": "theirs", "model": "linear"}},
    )  # fmt: skip
    stages = ran(dvc(project, "repro", "evaluate@theirs-linear"))
    assert of(stages, "index", "train") == {"index@theirs", "train@theirs-linear"}
    assert json.loads((project / "metrics/theirs-linear.json").read_text())["n_subjects"] == 3


MODEL = '''"""Reads two products, packed into channels, and begins with weights of its own."""

import numpy as np
from torch import nn

from mer.products import dynamic_image, eulerian, flow, frames, weights
from mer.storage.weights import read_weights

CLIP = eulerian(frames("box224"), "msmmt")
READS = (flow(CLIP), dynamic_image(CLIP), weights("own"))
RECIPE = {"epochs": 2, "batch_size": 8}


def build(classes: int, *, width: int = 64):
    return nn.Sequential(nn.Conv2d(6, 3, 1), nn.Conv2d(3, width, 7, 16, bias=False), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(width, classes))


def prepare(flow, dynamic):
    return np.concatenate([flow, dynamic.transpose(0, 3, 1, 2) / 255], axis=1).astype(np.float32)[..., ::4, ::4]


def load_weights(network, path):
    network[1].weight.data = read_weights(path, {"conv1.weight": network[1].weight}, "ResNet-18", "x", more=True)[
        "conv1.weight"]
    return network
'''


def test_an_added_model_with_two_products_and_weights_of_its_own_is_one_file_and_two_entries(project):
    (project / "mer/models/theirs.py").write_text(MODEL)
    params = YAML(typ="safe").load(project / "params.yaml")
    own = {**params["pretrain"]["runs"]["resnet18"], "user_weights": None}
    edit(project, lambda p: p["pretrain"]["runs"].update(own=own), planned=False)
    said = add(project, experiments={"synthetic-theirs": {"corpus": "synthetic", "model": "theirs"}})
    assert said[0].startswith("5 stages more: pretrain@own, flow@synthetic-box224-msmmt, ")
    stages = ran(dvc(project, "repro", "evaluate@synthetic-theirs"))
    assert set(stages) == {
        "pretrain@own", "flow@synthetic-box224-msmmt", "dynamic_image@synthetic-box224-msmmt",
        "train@synthetic-theirs", "evaluate@synthetic-theirs",
    }  # fmt: skip
    protocol = json.loads((project / "data/predictions/synthetic-theirs/run.json").read_text())["protocol"]
    assert set(protocol["weights"]) == {"theirs", "own"}


def test_two_composite_chains_two_lengths_and_two_selections_in_one_graph(project):
    """L 12 beside L 8, inner_val beside last_epoch, a composite of flow and of magnified flow with dynamic images."""
    short = {"corpus": "synthetic", "model": "uamrn", "knobs": {"factors": "arange_2_14_1"}, "recipe": {"epochs": 1}}
    said = add(
        project, corpora={"both": {"parts": ["synthetic", "mine"], "labels": "casme2", "classes": 5}},
        experiments={
            "both-linear": {"corpus": "both", "model": "linear"}, "both-theirs": {"corpus": "both", "model": "theirs"},
            "synthetic-uamrn-l12": short,
            "synthetic-ststnet-inner": {"corpus": "synthetic", "model": "ststnet", "recipe": {"epochs": 2},
                                        "selection": "inner_val", "held_out": 0.4},
        },
    )  # fmt: skip
    assert "stages more" in said[0]
    stages = ran(dvc(project, "repro"))
    assert of(stages, "join", "compose") == {
        "compose@both", "join@both-box224-flow", "join@both-box224-msmmt-flow", "join@both-box224-msmmt-dynamic_image"
    }  # fmt: skip
    assert of(stages, "embed") == {"embed@synthetic-box224-magnet-arange_2_14_1-resnet18-layer2-4"}
    selections = {
        name: json.loads((project / f"data/predictions/{name}/run.json").read_text())["protocol"]["selection"]
        for name in ("synthetic-ststnet", "synthetic-ststnet-inner")
    }
    assert selections == {"synthetic-ststnet": "last_epoch", "synthetic-ststnet-inner": "inner_val"}
    parts = json.loads((project / "metrics/both-linear.json").read_text())["parts"]
    assert set(parts) == {"synthetic", "mine"}
    assert ran(dvc(project, "repro")) == []


def test_editing_the_resnet_reruns_uamrn_and_editing_the_engine_no_estimator(project):
    path = project / "mer/networks/resnet.py"
    before = path.read_text()
    path.write_text(before + "\n# edited\n")
    changed = {line.split(":")[0] for line in dvc(project, "status").splitlines() if line and not line[0].isspace()}
    assert {stage for stage in changed if stage.startswith("train@")} == {
        "train@synthetic-uamrn", "train@synthetic-uamrn-l12"
    }  # fmt: skip
    assert {stage.split("@")[0] for stage in changed} <= {"train", "embed", "pretrain"}
    path.write_text(before)
    path = project / "mer/loso/loop.py"
    before = path.read_text()
    path.write_text(before + "\n# edited\n")
    changed = {line.split(":")[0] for line in dvc(project, "status").splitlines() if line and not line[0].isspace()}
    assert "train@synthetic-ststnet" in changed
    assert not {stage for stage in changed if "linear" in stage}
    path.write_text(before)
    assert ran(dvc(project, "repro")) == []


def test_a_stale_plan_is_refused_whoever_calls_and_nothing_is_lost(project):
    before = content(project)
    edit(project, lambda p: p["experiments"].update({"synthetic-new": {"corpus": "synthetic", "model": "linear"}}),
         planned=False)  # fmt: skip
    edit(project, lambda p: p["evaluate"].update(bootstrap=200), planned=False)
    output = dvc(project, "repro", "evaluate@synthetic-linear", check=False)
    assert "plan.yaml is older than params.yaml: experiments.synthetic-new is not in it; run make plan" in output
    edit(
        project, lambda p: (p["experiments"].pop("synthetic-new"), p["evaluate"].update(bootstrap=2000)), planned=False
    )
    assert ran(dvc(project, "repro")) == []
    output = dvc(project, "exp", "run", "-S", "experiments.synthetic-linear.model=ststnet", check=False)
    assert "plan.yaml is older than params.yaml: experiments.synthetic-linear differs; run make plan" in output
    edit(project, lambda p: p["experiments"]["synthetic-linear"].update(model="linear"), planned=False)
    assert ran(dvc(project, "repro")) == []
    assert content(project) == before


def test_a_plan_that_was_edited_is_refused(project):
    path = project / "plan.yaml"
    good = path.read_text()
    path.write_text(good.replace("crop: box112", "crop: box224", 1))
    output = dvc(project, "repro", check=False)
    assert "plan.yaml: was edited; change params.yaml instead, then run make plan" in output
    path.write_text(good)
    assert ran(dvc(project, "repro")) == []


HOSTILE = (
    "$(touch X)",
    "`touch X`",
    "x; touch X; #",
    "x' ; touch X; '",
    'x" ; touch X; "',
    "x && touch X",
    "-x",
    "~/X",
)


def test_nothing_from_a_file_reaches_a_shell(project):
    """Values are quoted where they stand in a command; whatever becomes of the stages, no command of theirs runs."""
    before = (project / "params.yaml").read_text()

    def every_value(params):
        for number, text in enumerate(HOSTILE):
            params["corpora"][f"evil{number}"] = {
                "reader": "casme2",
                "classes": 5,
                "raw": text,
                "watch": "data/raw/mine",
            }
        params["explain"]["drawn"]["synthetic-uamrn"] = HOSTILE[0]
        params["pretrain"]["runs"]["resnet18"].update(raw=HOSTILE[2], user_weights=HOSTILE[3])

    edit(project, every_value, planned=False)
    plan(project)
    stages = ran(dvc(project, "repro", "--keep-going", check=False))
    assert {f"index@evil{number}" for number in range(len(HOSTILE))} <= set(stages)
    assert not list(project.rglob("X"))
    assert not (Path.home() / "X").exists()
    (project / "params.yaml").write_text(before)
    plan(project)
    assert ran(dvc(project, "repro")) == []
