"""The GPU benchmark at sizes at which it measures nothing: that every line runs, is written, and goes on."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from benchmarks import cells
from benchmarks.gpu import _run, folds, tables
from benchmarks.gpu.__main__ import LINES, main
from benchmarks.gpu._clips import load
from benchmarks.gpu._run import Line, Session, TimeUp, alarm, check
from mer import models
from mer.products import Product

# None of these may be needed on a GPU machine.
BLOCKED = ("pydantic", "dvc", "ruamel", "pandas", "safetensors", "skimage", "sklearn", "numba", "psutil", "dlib",
           "captum", "matplotlib", "face_alignment")  # fmt: skip
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
import mer.pretraining.loop
mer.pretraining.loop.THREADS = 1  # a second would wait for a core that other tests use
from benchmarks.gpu.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def read(out, number: int) -> dict:
    return json.loads((out / f"line_{number}.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, root):
    """All lines, run in a process that lacks the packages that a GPU machine lacks."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "-c", PROGRAM.format(blocked=BLOCKED), "--device", "cpu", "--tiny", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MER_COMMIT": "0abc123"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


def session(out, **changes) -> Session:
    given = {"device": torch.device("cpu"), "tiny": True, "minutes": 1.0, "deadline": time.monotonic() + 60}
    return Session(out=out, **{**given, **changes})


# ---- every line -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", LINES)
def test_a_line_is_well_formed(measured, number):
    found = read(measured, number)
    assert found["line"] == number
    assert found["finished"]
    assert found["left"] == found["failed"] == {}
    assert found["summary"].get("passed", True)
    assert found["where"]["commit"] == "0abc123"
    assert {"torch", "numpy", "scipy", "h5py", "opencv"} <= found["where"]["versions"].keys()
    for part in found["parts"].values():
        assert part["result"]
        assert part["seconds"] >= 0
        assert part["commit"] == "0abc123"


@pytest.mark.slow
def test_the_checks_have_what_a_reader_needs(measured):
    checks = [c for part in read(measured, 1)["parts"].values() for c in part["result"]]
    assert len(checks) > 70
    assert len({c["name"] for c in checks}) == len(checks)
    for one in checks:
        assert one["passed"]
        assert "reason" in one or {"difference", "tolerance", "relative"} < one.keys()
    masks = [c for c in checks if c["name"].startswith("Dropout")]
    assert masks
    assert all(c["tolerance"] == 0 for c in masks)


@pytest.mark.slow
def test_predictions_have_a_row_a_seed_selection_and_clip(measured):
    with (measured / "line_3_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [(row["seed"], row["selection"], row["id"]) for row in rows]
    assert len(set(keys)) == len(keys) == 2 * 2 * 12
    assert keys == sorted(keys)
    for row in rows:
        assert row["fold"] == f"{row['corpus']}/{row['subject']}"
        assert sum(float(row[p]) for p in ("p0", "p1", "p2")) == pytest.approx(1)


@pytest.mark.slow
def test_trained_weights_stay_and_their_checkpoint_goes(measured):
    from mer.magnification.magnet import load_magnet

    load_magnet(measured / "line_8_magnet.pth")
    assert not (measured / "line_8_checkpoint.pt").exists()
    assert {"start", "trained"} == read(measured, 8)["parts"]["magnification"]["result"].keys()


@pytest.mark.slow
def test_line_4_pretrains_and_recognises(measured):
    parts = {name: part["result"] for name, part in read(measured, 4)["parts"].items()}
    assert {part["form"] for part in parts.values() if "form" in part} == {"fused", "checkpointing", "maps"}
    assert parts["pretraining"]["loss"][-1][0] == parts["pretraining"]["steps"]
    assert {"start", "trained"} == parts["restored"].keys()
    assert parts["restored"]["start"]["copied"] == parts["restored"]["trained"]["copied"]  # the same pairs and blocks
    assert {"chance", "pretrained", "random", "shuffled labels"} == read(measured, 4)["summary"]["recognition"].keys()
    for start in ("pretrained", "random", "shuffled labels"):
        assert parts[f"fine-tuning, {start}"]["clips"] == list(range(9))
    assert (measured / "line_4_micronbert.pth").is_file()
    assert not (measured / "line_4_checkpoint.pt").exists()
    assert not (measured / "line_4_frames").exists()


@pytest.mark.slow
def test_finished_parts_are_skipped(measured, capsys, monkeypatch):
    for module in LINES.values():
        monkeypatch.setattr(module, "timed", lambda *_: pytest.fail("measured again"), raising=False)
    before = {number: read(measured, number) for number in LINES}
    assert main(["--device", "cpu", "--tiny", "--out", str(measured)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [f"line {number} finished" for number in LINES]
    for number, content in before.items():
        assert read(measured, number)["parts"] == content["parts"]
        assert read(measured, number)["summary"] == content["summary"]


@pytest.mark.slow
def test_results_of_other_settings_are_not_mixed(measured, tmp_path):
    kept = read(measured, 2)
    kept["settings"]["device"] = "another card"
    (tmp_path / "line_2.json").write_text(json.dumps(kept))
    with pytest.raises(SystemExit, match=r"^gpu: .*line_2.json: .*device 'another card', now 'cpu'.* --out$"):
        main(["--line", "2", "--device", "cpu", "--tiny", "--out", str(tmp_path)])


# ---- the command ----------------------------------------------------------------------------------------------------


def test_without_time_everything_is_left(tmp_path, capsys):
    assert main(["--line", "2", "9", "--minutes", "0", "--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    found = read(tmp_path, 2)
    assert not found["finished"]
    assert set(found["left"]) == {"error", "batches of 1", "batches of 2", "where the time goes"}
    assert "  left: error: needs some" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--line", "11"], r"^gpu: line 11 is not built; valid: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10$"),
        (["--tiny"], r"^gpu: --tiny measures nothing that belongs into the results; give another --out$"),
        (["--flow", "/nowhere"], r"^gpu: --flow /nowhere: is not there$"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["--device", "cpu", *arguments])


# ---- parts ----------------------------------------------------------------------------------------------------------


def fail(error):
    raise error


def test_a_part_that_fails_spoils_no_other_and_is_tried_again(tmp_path):
    line = Line(session(tmp_path), 2, "a line", {})
    assert line.part("bad", lambda: fail(RuntimeError("no kernel\nimage"))) is None
    assert line.part("good", lambda: {"value": 1}) == {"value": 1}
    assert "RuntimeError: no kernel image (test_gpu.py:" in line.failed["bad"]
    line.save()
    assert not read(tmp_path, 2)["finished"]
    again = Line(session(tmp_path), 2, "a line", {})
    assert again.part("bad", lambda: {"value": 2}) == {"value": 2}
    assert again.part("good", lambda: pytest.fail("measured again")) == {"value": 1}
    again.save()
    assert read(tmp_path, 2)["finished"]


def test_a_part_ends_with_the_time(tmp_path):
    line = Line(session(tmp_path, deadline=time.monotonic() + 0.3), 2, "a line", {})
    start = time.monotonic()
    assert line.part("long", lambda: time.sleep(30), needs=0) is None
    assert time.monotonic() - start < 5
    assert line.left == {"long": "interrupted when the time was over"}
    assert line.part("next", dict, needs=1) is None
    assert "needs some 1 s" in line.left["next"]


def test_the_alarm_is_no_exception_that_work_may_swallow():
    def work():
        try:
            time.sleep(5)
        except Exception:
            pytest.fail("swallowed")

    with pytest.raises(TimeUp), alarm(0.05):
        work()
    time.sleep(0.05)  # and it does not ring on


def test_an_interrupted_training_goes_on(tmp_path, monkeypatch):
    from benchmarks.gpu import magnet

    monkeypatch.setattr("mer.pretraining.loop.THREADS", 1)
    monkeypatch.setitem(magnet.TINY, "size", 16)
    line = Line(session(tmp_path, steps=4), 8, "a line", {})
    made, steps = magnet.training.moving_layers.quadruples, []

    def quadruples(*args, **kwargs):
        steps.append(kwargs["step"])
        if kwargs["step"] == 3 and len(steps) < 5:
            raise TimeUp
        return made(*args, **kwargs)

    monkeypatch.setattr(magnet.training.moving_layers, "quadruples", quadruples)
    assert line.part("training", lambda: magnet.train(line)) is None
    assert line.progress["training_steps"] == 2
    line.save()
    again = Line(session(tmp_path, steps=4), 8, "a line", {})
    assert again.part("training", lambda: magnet.train(again))["steps"] == 4
    assert steps == [0, 1, 2, 3, 2, 3]
    assert again.progress["training_seconds"] >= line.progress["training_seconds"]


def test_an_interrupted_pretraining_goes_on(tmp_path, monkeypatch):
    """Also where the shards are gone: they are rendered again with the same bytes."""
    from benchmarks.gpu import micronbert

    monkeypatch.setattr("mer.pretraining.loop.THREADS", 1)
    monkeypatch.setattr(micronbert.frame_pairs, "EVERY", 2)
    made, steps = micronbert.frame_pairs.prepared, []

    def prepared(network, frames, step, *args, **kwargs):
        steps.append(step)
        if len(steps) == 3:
            raise TimeUp
        return made(network, frames, step, *args, **kwargs)

    monkeypatch.setattr(micronbert.frame_pairs, "prepared", prepared)
    line = Line(session(tmp_path), 4, "a line", {})
    assert line.part("pretraining", lambda: micronbert.pretrain(line)) is None
    assert line.progress["training_steps"] == 2
    line.save()
    shutil.rmtree(tmp_path / "line_4_frames")
    again = Line(session(tmp_path), 4, "a line", {})
    assert again.part("pretraining", lambda: micronbert.pretrain(again))["steps"] == 3
    assert steps == [0, 1, 2, 2]


def test_lost_weights_are_said(tmp_path):
    from benchmarks.gpu import micronbert

    line = Line(session(tmp_path), 4, "a line", {})
    assert line.part("fine-tuning", lambda: {"build": micronbert.builder(line.session, True)()}) is None
    assert line.failed["fine-tuning"].startswith(f"{tmp_path}/line_4_micronbert.pth: is not there; put it back")


def test_the_scores_of_line_4_are_those_of_the_pipeline():
    from benchmarks.gpu import micronbert
    from mer.evaluation.metrics import score

    rng = np.random.default_rng(0)
    label, found = np.arange(60) % 5, rng.integers(0, 5, 60)
    expected, told = score(label, found, list("abcde")), micronbert.scores(label, found)
    for ours, theirs in (("uf1", "uf1"), ("uar", "uar"), ("accuracy", "acc")):
        assert told[ours] == pytest.approx(expected[theirs], rel=1e-3)  # of four digits
    assert micronbert.scores(np.zeros(3, int), np.zeros(3, int)) == {"uf1": None, "uar": None, "accuracy": 1.0}


def test_textures_move_as_faces_do():
    """Onset and apex differ by the movement, which has the size of the corpus's, and by noise."""
    from benchmarks.gpu import _people

    pairs, labels, who = _people.labelled(4, 2, 224, 1)
    assert pairs.shape == (4, 2, 224, 224, 3)
    assert who.tolist() == sorted(who.tolist())
    assert set(who.tolist()) == {0, 1}
    assert set(labels.tolist()) <= set(range(5))
    for pair in pairs:
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pair]
        flow = cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 25, 5, 5, 1.1, 0)
        # Expressions of 0.3 to 1.5 px, and a drift of typically 0.5 px by axis.
        assert 0.2 < np.quantile(np.hypot(*np.moveaxis(flow, -1, 0)), 0.99) < 3


def test_held_out_subjects_are_neither_trained_on_nor_tested(tmp_path):
    from benchmarks.gpu import dcma

    clips = dcma.corpus(session(tmp_path))
    who = np.array(clips.who)
    for task in clips.tasks(clips.names, 0):
        parts = [set(who[rows]) for rows in (task.train, task.validation, task.test)]
        assert parts[2] == {task.name}
        assert all(parts)
        assert sum(map(len, parts)) == len(set().union(*parts)) == 3
        assert sorted(np.concatenate([task.train, task.validation, task.test])) == list(range(len(who)))


def test_check_fails_beyond_its_tolerance():
    one = torch.tensor([1.0, -2.0])
    assert check("equal", one, one, 0)["passed"]
    found = check("apart", one, one + 0.2, 0.1)
    assert found["difference"] == pytest.approx(0.2)
    assert not found["passed"]
    assert check("as a share", one, one + 0.2, 0.12, relative=True)["passed"]  # of 1.8
    assert not check("not a number", torch.tensor(float("nan")), torch.tensor(0.0), 1)["passed"]
    with pytest.raises(ValueError, match="is compared with"):
        check("shapes", one, one[:1], 1)


def test_rows_of_a_fold_are_replaced(tmp_path):
    def row(seed, fold, probability):
        return [str(seed), "last_epoch", "800", f"{fold}/1", "c", fold[2:], fold, "0", str(probability), "0", "0"]

    some = session(tmp_path)
    folds.keep(some, [row(0, "c/a", 0.1), row(0, "c/b", 0.2), row(1, "c/a", 0.3)])
    folds.keep(some, [row(0, "c/a", 0.9)])
    _, rows = folds.predictions(some)
    assert [(r[0], r[6], r[8]) for r in rows] == [("0", "c/a", "0.9"), ("0", "c/b", "0.2"), ("1", "c/a", "0.3")]


def test_folds_are_grouped_once(tmp_path):
    line = Line(session(tmp_path), 3, "a line", {})
    names = [f"c/{i:02d}" for i in range(10)]
    assert [len(g) for g in folds.groups(line, names, seconds=100)] == [3, 3, 3, 1]  # 30 s a part
    assert [len(g) for g in folds.groups(line, names, seconds=1)] == [3, 3, 3, 1]
    assert [len(g) for g in folds.groups(Line(session(tmp_path), 3, "", {}), names, seconds=1)] == [10]


def test_the_release_is_split_and_drawn_as_by_the_engine(tmp_path, reference):
    from benchmarks import ststnet_release
    from mer.loso import folds as engine

    clips = load(session(tmp_path, flow=reference / "megc2019_flow"))
    table, _ = ststnet_release.load(reference / "megc2019_flow")
    table = table.sort_values("id").reset_index(drop=True)
    assert clips.ids == table["id"].tolist()
    assert clips.labels.tolist() == table["label"].tolist()
    for task, fold in zip(clips.tasks(clips.names, 3), engine.folds(table), strict=True):
        assert (task.name, task.stream) == (fold.name, fold.stream(3))
        np.testing.assert_array_equal(task.test, fold.test)


def test_rounded_knows_no_nan():
    assert _run.rounded(0.123456, 3) == 0.123
    assert _run.rounded(float("inf")) is None


# ---- line 10 --------------------------------------------------------------------------------------------------------


def test_the_cells_are_those_of_the_presets(root, monkeypatch):
    monkeypatch.chdir(root)
    assert cells.PATH.read_text() == cells.text(), "run python -m benchmarks.cells"


def test_every_cell_can_be_built_from_noise_of_its_products():
    """Products of all kinds and sizes go through the models' own prepare."""
    for cell in {tables.key(c): c for some in tables.tables().values() for c in some}.values():
        spec = models.load(cell["model"])
        read = [one for one in spec.reads(cell["knobs"]) if isinstance(one, Product)]
        arrays = [tables.product(one, cell["knobs"], 2) for one in read]
        prepared = spec.prepared(arrays, cell["knobs"])
        assert len(prepared) == 2
        assert np.isfinite(prepared).all()
        assert tables.plan(cell, 2, on_gpu=True).bf16 == cell["recipe"]["bf16"]
    assert {cell["model"] for cell in tables.tables()["dcma"]} == {"dcma"}


def test_the_minutes_of_a_cell_by_hand():
    """26 subjects of 246 clips: 236.5 to train on; batches of 16 are 15 steps, of 40 epochs."""
    cell = {"clips": 246, "subjects": 26, "seeds": 2, "held_out": 0.2, "selection": "last_epoch",
            "recipe": {"epochs": 40, "batch_size": 16}}  # fmt: skip
    assert tables.minutes(cell, 0.1) == pytest.approx(0.1 * 15 * 40 * 26 * 2 / 60)
    # What needs a validation keeps a fifth back: 189.2, 12 steps.
    for more in ({"selection": "inner_val"}, {"recipe": {**cell["recipe"], "stop": 5}},
                 {"recipe": {**cell["recipe"], "schedule": "plateau"}}):  # fmt: skip
        assert tables.minutes({**cell, **more}, 0.1) == pytest.approx(0.1 * 12 * 40 * 26 * 2 / 60)


def test_a_table_is_the_sum_of_its_cells(tmp_path, monkeypatch):
    """Cells of one key share a measurement; the faster way counts; what was not measured is not in the sum."""
    cell = {"model": "ststnet", "classes": 3, "knobs": {}, "recipe": {"epochs": 10, "batch_size": 32}, "clips": 100,
            "subjects": 10, "seeds": 1, "held_out": 0.2, "selection": "last_epoch"}  # fmt: skip
    one, two = {**cell, "experiment": "one"}, {**cell, "experiment": "two", "clips": 200}
    other = {**cell, "experiment": "other", "knobs": {"dropout": 0.1}}
    monkeypatch.setattr(tables, "tables", lambda: {"a": [one, two], "b": [two, other], "c": [other]})
    line = Line(session(tmp_path), 10, "", {})
    line.part("one, 1 together", lambda: {"seconds_per_fold_step": 0.04, "peak_mib": 100})
    line.part("one, 26 together", lambda: {"seconds_per_fold_step": 0.01, "peak_mib": 900})
    line.part("other, 1 together", lambda: {"not_possible": "does not fit"})
    found = tables.summary(line, {tables.key(one): "one", tables.key(other): "other"})
    first, second = 0.01 * 3 * 10 * 10 / 60, 0.01 * 6 * 10 * 10 / 60
    assert found["a"]["minutes"] == pytest.approx(first + second, rel=1e-3)
    assert found["a"] | {"minutes": 0} == {
        "cells": 2, "measured": 2, "minutes": 0, "longest": "two", "minutes_of_the_longest": pytest.approx(second),
        "peak_mib": 900,
    }  # fmt: skip
    assert (found["b"]["cells"], found["b"]["measured"], found["b"]["longest"]) == (2, 1, "two")
    assert found["c"] == {"cells": 1, "measured": 0}
