"""A pretraining in the processes that runtime.launcher starts."""

import re
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from mer.errors import MerError
from mer.pretraining import Context, frame_pairs, worker
from mer.storage.cache import CacheWriter

ENTRY = {
    "task": "frame_pairs", "network": "micronbert", "knobs": {"width": 16, "layers": 1, "heads": 2, "widen": 2},
    "user_weights": None, "exclude_subjects": [], "size": 32, "gap": [2, 4], "unit": "frames", "ratio": 0.5,
    "min_block": 2, "min_aspect": 0.3, "count": "once", "gamma": 1.0, "beta": 1.0, "agreement": "mse",
    "crop_area": [0.4, 1.0], "target": "imagenet", "epochs": 2, "global_batch": 4, "lr": 1e-3, "weight_decay": 0.01,
    "bf16": False, "checkpointing": False,
}  # fmt: skip


@pytest.fixture
def context(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rng = np.random.default_rng(0)
    (tmp_path / "frames").mkdir()
    for subject in ("s1", "s2"):
        with CacheWriter(tmp_path / f"frames/{subject}.h5", kind="recording_frames", ragged=True, params={}) as shard:
            frames = rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
            shard.append(f"c/{subject}/r/1", frames, fps=np.float64(200))
    return Context(
        where="pretrain.runs.micronbert", checkpoint=tmp_path / "checkpoint.pt", frames=(tmp_path / "frames",), code="1"
    )


def test_alone_the_task_says_what_it_learned_from_whom(context):
    made = frame_pairs.run(ENTRY, context)
    assert made.about["subjects"] == ["c/s1", "c/s2"]
    assert made.about["weights"] == (
        "2 epochs on 16 pairs of frames of 2 people (swapped blocks), without labels, from random weights"
    )
    assert [line.split()[0] for line in made.about["loss"]] == ["8"]
    one = frame_pairs.run({**ENTRY, "exclude_subjects": ["c/s2"]}, context)
    assert one.about["subjects"] == ["c/s1"]


def test_alone_it_trains_on_the_device_of_the_stage(context, monkeypatch):
    seen = []
    monkeypatch.setattr(frame_pairs, "train", lambda *args, world, **how: seen.append(world) or (args[0], []))
    frame_pairs.run(ENTRY, Context(**{**vars(context), "device": "cuda"}))
    assert [(world.device, world.size) for world in seen] == [("cuda", 1)]


def test_people_who_are_all_excluded_are_refused(context):
    with pytest.raises(MerError, match=r"no frames outside the excluded subjects \(2 of 2\)"):
        frame_pairs.run({**ENTRY, "exclude_subjects": ["c/s1", "c/s2"]}, context)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"knobs": {"depth": 3}}, "pretrain.runs.micronbert.knobs: micronbert cannot be built with {'depth': 3}"),
        ({"network": "dcma", "knobs": {}}, "pretrain.runs.micronbert.network is 'dcma', which does not restore frames"),
        ({"network": "resnet18", "knobs": {}}, "network is 'resnet18', which does not restore frames"),
        ({"size": 57}, "pretrain.runs.micronbert: micronbert.size is 57; it must be a multiple of patch (8 px)"),
    ],
)
def test_networks_that_do_not_fit_are_refused(context, change, line):
    with pytest.raises(MerError, match=re.escape(line)):
        frame_pairs.run({**ENTRY, **change}, context)


@pytest.mark.slow
def test_the_processes_of_a_launcher_make_what_one_makes(context, tmp_path):
    alone = frame_pairs.run(ENTRY, Context(**{**vars(context), "checkpoint": None}))
    made = worker.launched("torchrun --standalone --nproc-per-node 2", ENTRY, context)
    assert made.about["weights"] == alone.about["weights"]
    for mine, theirs in zip(alone.about["loss"], made.about["loss"], strict=True):
        np.testing.assert_allclose(*([float(x) for x in line.split()] for line in (mine, theirs)), rtol=1e-4)
    for name, value in alone.network.state_dict().items():
        # Adam divides by the gradient's size: where that is rounding, so is the step of at most the rate.
        torch.testing.assert_close(made.network.state_dict()[name], value, rtol=1e-3, atol=2e-3)
    # One goes on from the checkpoint of two.
    again = frame_pairs.run(ENTRY, context)
    assert again.about["loss"] == made.about["loss"]


@pytest.mark.slow
def test_processes_that_fail_say_why_and_the_stage_names_the_launcher(context, capfd):
    with pytest.raises(MerError, match=r"the processes of runtime.launcher \(torchrun .* 3\) ended with 1"):
        worker.launched("torchrun --standalone --nproc-per-node 3", ENTRY, context)
    assert "global_batch is 4, which 3 processes cannot share evenly" in capfd.readouterr().err


def test_a_launcher_that_is_not_there_is_refused(context):
    with pytest.raises(MerError, match=r"runtime.launcher: no-such-launcher cannot be started"):
        worker.launched("no-such-launcher -n 2", ENTRY, context)


STAGE = """
import sys
from pathlib import Path
from mer.pretraining import Context
from mer.pretraining.worker import launched
launched(sys.argv[1], {}, Context(where="pretrain.runs.x", checkpoint=Path(sys.argv[2]) / "checkpoint.pt"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_a_launcher_ends_with_the_stage_even_if_that_is_killed(tmp_path):
    launcher = tmp_path / "launcher"
    launcher.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/started\nmv {tmp_path}/started {tmp_path}/pid\nsleep 60\n")
    launcher.chmod(0o755)
    stage = subprocess.Popen([sys.executable, "-c", STAGE, str(launcher), str(tmp_path)])
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    started = psutil.Process(int((tmp_path / "pid").read_text()))
    stage.kill()
    stage.wait()
    gone, _ = psutil.wait_procs([started], timeout=30)
    assert gone


@pytest.mark.parametrize(
    ("launcher", "why"), [(" ", "name one, or leave it empty"), ('torchrun "x', "No closing quotation")]
)
def test_a_launcher_that_is_no_command_is_refused(context, launcher, why):
    with pytest.raises(MerError, match=rf"runtime.launcher is .*, which is no command.*{why}"):
        worker.launched(launcher, ENTRY, context)
