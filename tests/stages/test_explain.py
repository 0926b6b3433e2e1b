"""Stage explain with UAMRN: what it draws and counts, and what it and `make plan` refuse."""

import json
import shutil

import cv2
import numpy as np
import pytest

from mer.evaluation.predictions import run_text
from mer.params import load
from mer.plan import derive
from mer.plan_file import stages_of
from mer.storage.cache import ClipCache
from tests.helpers import refusals
from tests.helpers.in_process import command
from tests.helpers.project import edit
from tests.helpers.sequences import EXPERIMENT, train
from tests.helpers.stages import refused

FOLDER = f"data/predictions/{EXPERIMENT}"
PICTURES = {"attention.png", "gamma.png", "gamma.json"}


def explain(folder, clip: str = "") -> tuple[int, list[str]]:
    edit(folder, lambda p: p["explain"].update(drawn={EXPERIMENT: clip}))
    return command(folder, "explain", EXPERIMENT)


def drawings(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / f"metrics/explained/{EXPERIMENT}").iterdir()}


def change_run(folder, change) -> None:
    """Another run.json, whole as stage train writes it."""
    path = folder / FOLDER / "run.json"
    run_info = json.loads(path.read_text())
    change(run_info)
    path.unlink()  # a link
    path.write_text(run_text(run_info))


def test_what_is_explained_is_drawn_and_counted_and_the_same_each_time(learned_copy):
    assert explain(learned_copy) == (0, [])
    first = drawings(learned_copy)
    assert set(first) == PICTURES
    for name in ("attention.png", "gamma.png"):
        image = cv2.imdecode(np.frombuffer(first[name], np.uint8), cv2.IMREAD_GRAYSCALE)
        assert image.std() > 10  # grey levels; an empty canvas has none
    found = json.loads(first["gamma.json"])
    sizes = dict(zip(found["class_names"], found["test"]["sizes"], strict=True))
    assert sizes == {"happiness": 2, "disgust": 3, "repression": 3, "surprise": 3, "others": 4}
    cache = ClipCache(learned_copy / FOLDER / "explain.h5")
    happy = [f"synthetic/{clip}" for clip in ("sub01/EP01_02", "sub03/EP01_02")]
    for part, kind in (("test", "gamma"), ("training", "weight")):
        median = np.median([cache.extra(kind, clip_id) for clip_id in happy])
        assert found[part]["medians"][0] == pytest.approx(median)
    shutil.rmtree(learned_copy / f"metrics/explained/{EXPERIMENT}")
    assert explain(learned_copy, cache.ids[0]) == (0, [])  # who is drawn where nobody is named
    assert drawings(learned_copy) == first
    assert explain(learned_copy, "synthetic/sub03/EP01_05") == (0, [])
    changed = {name for name, content in drawings(learned_copy).items() if content != first[name]}
    assert changed == {"attention.png"}


def test_a_deterministic_network_has_gamma_1(embedded_copy):
    """The ablation of Table 5: all clips weigh the same, and there is nothing to hold against their classes."""
    assert train(embedded_copy, knobs={"uncertainty": False}) == (0, [])
    assert explain(embedded_copy) == (0, [])
    found = json.loads(drawings(embedded_copy)["gamma.json"])
    for part in ("test", "training"):
        assert found[part]["medians"] == [1.0] * 5
        assert found[part]["undefined"]["spearman"] == "all classes have the same median"


def test_the_clip_is_an_argument_and_the_drawer_a_dependency(learned_copy):
    """So another clip reruns the pictures alone, and the pictures of one model no other's."""
    edit(learned_copy, lambda p: p["explain"].update(drawn={EXPERIMENT: "synthetic/sub03/EP01_05"}))
    assert stages_of(learned_copy / "plan.yaml")["explain"] == {
        EXPERIMENT: {
            "args": {"clip": "synthetic/sub03/EP01_05"},
            "drawer": "mer/evaluation/explained/uamrn.py",
        }
    }
    edit(learned_copy, lambda p: p["explain"].update(drawn={}))
    assert stages_of(learned_copy / "plan.yaml")["explain"] == {}


# ---- what it refuses ------------------------------------------------------------------------------------------------


def test_a_clip_that_is_not_there_names_the_nearest(learned_copy):
    refused(explain(learned_copy, "synthetic/sub01/EP01_01b"),
            f"explain@{EXPERIMENT}: params.yaml: explain.drawn.{EXPERIMENT} is 'synthetic/sub01/EP01_01b'",
            "did you mean 'synthetic/sub01/EP01_01'?")  # fmt: skip


def test_factors_that_the_explanations_do_not_have_are_refused(learned_copy):
    change_run(learned_copy, lambda run: run["knobs"].update(factors="linspace_2_13_9"))
    refused(explain(learned_copy), "attention is (1, 2, 8, 8); 9 factors, 2 at least, need (blocks, heads, 9, 9)")


def test_a_model_without_explanations_is_refused(learned_copy):
    (learned_copy / FOLDER / "explain.h5").unlink()
    change_run(learned_copy, lambda run: run["files"].pop("explain.h5"))
    remedy = f"remove explain.drawn.{EXPERIMENT}"
    refused(explain(learned_copy), f"{FOLDER}: model uamrn has explained nothing; {remedy}")
    change_run(learned_copy, lambda run: run["protocol"].update(leaky=True))
    refused(explain(learned_copy), f"nothing is explained with selection test_best; set another, or {remedy}")


def test_predictions_that_are_not_there(embedded_copy):
    refused(explain(embedded_copy), f"{FOLDER}/run.json: there is no such file; run dvc repro")


def test_an_unknown_run_names_the_nearest(learned_copy):
    refused(command(learned_copy, "explain", EXPERIMENT[:-1]),
            f"plan.yaml has no explain@{EXPERIMENT[:-1]}; did you mean '{EXPERIMENT}'?")  # fmt: skip


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ({f"{EXPERIMENT}s": ""}, f"explain.drawn.{EXPERIMENT}s is no experiment; did you mean '{EXPERIMENT}'?"),
        ({"synthetic-linear": ""},
         r"explain.drawn.synthetic-linear: model linear explains nothing \(no `explain` in its file\); remove it"),
        ({EXPERIMENT: None}, f"explain.drawn.{EXPERIMENT} is None"),
    ],
)  # fmt: skip
def test_pictures_that_cannot_be_are_refused_when_planning(embedded_copy, drawn, message):
    def planned():
        derive(load(embedded_copy / "params.yaml"))

    planned()
    edit(embedded_copy, lambda p: p["explain"].update(drawn=drawn), planned=False)
    refusals.refused(message, planned)
