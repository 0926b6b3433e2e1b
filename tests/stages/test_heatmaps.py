"""Stage heatmaps: maps of several experiments on the same clips, from made-up predictions."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.evaluation import heatmaps, maps
from mer.evaluation.predictions import write_predictions
from stages.heatmaps import main
from tests.helpers.refusals import refused

CLASSES = ["negative", "positive", "surprise"]
IDS = [f"c/s{s}/{label}{i}" for s in range(4) for label in range(3) for i in range(2)]
BOTH = ["a-none", "a-mixed"]


def heat_of(name: str, clip_id: str) -> np.ndarray:
    return np.random.default_rng([len(name), IDS.index(clip_id)]).uniform(size=(5, 5)).astype(np.float32)


def write(folder, name, *, ids=IDS, classes=CLASSES, right=(), form=(20, 20, 3), explains=True, leaky=False) -> None:
    """Predictions of an experiment: class 0 but for the clips `right`; two seeds, of which the first is explained."""
    rows = pd.DataFrame({
        "seed": 3, "selection": "last_epoch", "epoch": 1, "id": ids, "corpus": "c",
        "subject": [i.split("/")[1] for i in ids], "fold": "f", "label": [int(i[-2]) for i in ids],
    })  # fmt: skip
    guess = [int(i[-2]) if i in right else 0 for i in ids]
    p = np.full((len(ids), len(classes)), 0.2)
    p[np.arange(len(ids)), guess] = 1 - 0.2 * (len(classes) - 1)
    rows = rows.assign(**{f"p{c}": p[:, c] for c in range(len(classes))})
    explanations = {i: {"data": heat_of(name, i), "picture": np.full(form, 9 * n, np.uint8)} for n, i in enumerate(ids)}
    run = {"model": "dcma", "class_names": classes, "protocol": {"seeds": [3, 4], "leaky": leaky}}
    both = pd.concat([rows, rows.assign(seed=4)], ignore_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / name, both, rows.iloc[:0], run, explanations if explains else {})


@pytest.fixture(autouse=True)
def predicted(tmp_path, monkeypatch):
    """A project with the predictions of two experiments."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/predictions"
    write(folder, BOTH[0])
    write(folder, BOTH[1], right=IDS[:12])
    return folder


def compare(**changes) -> dict:
    given = {"maps": "Grad-CAM", "experiments": BOTH, "number": 4} | changes
    main(SimpleNamespace(key="a-attention"), **given)
    with open("metrics/heatmaps/a-attention.json") as file:
        return json.load(file, parse_constant=pytest.fail)


@pytest.fixture
def figures(monkeypatch):
    kept, save = [], heatmaps.save
    monkeypatch.setattr(heatmaps, "save", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def test_the_same_clips_by_each_experiment(predicted, figures):
    found = compare()
    assert found["maps"] == "Grad-CAM"
    assert [(row["id"], row["class"]) for row in found["clips"]] == [
        ("c/s0/00", "negative"), ("c/s3/00", "negative"), ("c/s1/10", "positive"), ("c/s2/20", "surprise")
    ]  # fmt: skip
    surprise = found["clips"][3]["experiments"]
    assert surprise["a-none"] == {
        "predicted": "negative", "probability": 0.6, "right": False,
        "concentration": maps.concentration(heat_of("a-none", "c/s2/20")),
        "centre": list(maps.centre(heat_of("a-none", "c/s2/20"))),
    }  # fmt: skip
    assert list(found["experiments"]) == BOTH
    assert {name: (of["right"], of["clips"]) for name, of in found["experiments"].items()} == {
        "a-none": (8, 24), "a-mixed": (16, 24)
    }  # fmt: skip
    labels = np.array([int(i[-2]) for i in IDS])
    every = np.array([heat_of("a-mixed", i) for i in IDS], dtype=float)
    assert found["experiments"]["a-mixed"].items() >= maps.summary(every, labels, 3).items()

    (figure,) = figures
    assert cv2.imread("metrics/heatmaps/a-attention.png").std() > 10
    axes = np.array([a for a in figure.axes if a.get_images() and a.get_label() != "<colorbar>"]).reshape(4, 3)
    assert [a.get_xlabel() for a in axes[:, 0]] == [row["id"] for row in found["clips"]]
    assert axes[3][0].get_images()[0].get_array()[0, 0, 0] == 9 * IDS.index("c/s2/20")
    np.testing.assert_allclose(
        axes[3][2].get_images()[1].get_array(), heatmaps.enlarged(heat_of("a-mixed", "c/s2/20"), 20, 20)
    )
    assert [a.get_title() for a in axes[0]] == ["clip", "a-none\n8 of 24 right", "a-mixed\n16 of 24 right"]
    assert axes[3][1].get_xlabel() == "negative 0.60, wrong"
    assert axes[3][1].xaxis.label.get_weight() == "bold"
    assert axes[0][1].get_xlabel() == "negative 0.60, right"
    said = "\n".join(t.get_text() for t in figure.texts)
    assert "a-attention: Grad-CAM by networks that have not seen the subject" in said


def test_clips_that_are_named_are_drawn_in_that_order_and_equal_runs_are_equal_bytes():
    chosen = ["c/s3/21", "c/s0/00"]
    assert [row["id"] for row in compare(number=0, clips=chosen)["clips"]] == chosen
    with open("metrics/heatmaps/a-attention.png", "rb") as file:
        first = file.read()
    compare(number=0, clips=chosen)
    with open("metrics/heatmaps/a-attention.png", "rb") as file:
        assert file.read() == first


def test_which_clips_are_drawn_does_not_depend_on_what_was_predicted(predicted):
    clips = [row["id"] for row in compare(number=7)["clips"]]
    write(predicted, BOTH[0], right=IDS)
    assert [row["id"] for row in compare(number=7)["clips"]] == clips


def test_pictures_of_two_sizes(predicted, figures):
    write(predicted, BOTH[1], form=(32, 32, 3))
    compare(number=1)
    a = [a for a in figures[0].axes if len(a.get_images()) == 2]
    assert [of.get_images()[1].get_array().shape for of in a] == [(20, 20), (32, 32)]


# ---- what it refuses ------------------------------------------------------------------------------------------------


def test_a_clip_that_is_not_there_names_the_nearest():
    refused(r"params.yaml: heatmaps.a-attention.clips is 'c/s3/2', which was not predicted; did you mean 'c/s3/2",
            compare, clips=["c/s0/00", "c/s3/2"])  # fmt: skip


def test_other_clips_and_other_classes_are_refused(predicted):
    write(predicted, BOTH[1], ids=IDS[1:])
    refused("a-none and a-mixed have other clips, such as c/s0/00; run dvc repro, or leave one of them out", compare)
    write(predicted, BOTH[1], classes=["negative", "positive", "other"])
    refused("a-none and a-mixed have other classes, such as other, surprise; run dvc repro", compare)
    write(predicted, BOTH[1], classes=["positive", "negative", "surprise"])
    refused("a-none and a-mixed have other classes, such as negative, positive; run dvc repro", compare)


def test_an_experiment_that_was_not_explained_is_named(predicted):
    write(predicted, BOTH[1], explains=False)
    remedy = "remove a-mixed from heatmaps.a-attention"
    refused(f"data/predictions/a-mixed: model dcma has explained nothing; {remedy}", compare)
    write(predicted, BOTH[1], explains=False, leaky=True)
    refused(f"nothing is explained with selection test_best; set another, or {remedy}", compare)
    refused(
        "data/predictions/a-x/run.json: there is no such file; run dvc repro", compare, experiments=["a-none", "a-x"]
    )


def test_pictures_of_another_form_are_refused(predicted):
    write(predicted, BOTH[1], form=(3, 20, 20))
    refused(r"a-mixed/explain.h5: pictures are \(3, 20, 20\), needed is \(H, W, 3\); train again", compare)
