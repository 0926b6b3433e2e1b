"""Metrics against a knob, from the details of the experiments: what is written, and what is refused."""

import json
from types import SimpleNamespace

import cv2
import pytest

from mer.evaluation.reports import write_json
from stages.curve import main
from tests.helpers.refusals import refused

POINTS = ["a-0=0.0", "a-1=1e-05", "a-2=4"]


def details(uf1, uar):
    run = {"seed": 0, "uf1": uf1, "uar": uar, "acc": 0.5}
    return {
        "runs": [run], "ci95": {"uf1": None if uf1 is None else [uf1 - 0.1, uf1 + 0.1], "uar": None, "acc": [0.4, 0.6]},
        "undefined": {} if uf1 is not None else {"uf1": "b neither occurs nor is predicted"}, "parts": {},
        "n_clips": 9, "n_subjects": 3, "class_counts": {"a": 5, "b": 4},
        "protocol": {"leaky": False},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def measured(tmp_path, monkeypatch):
    """A project in which three experiments and a baseline were evaluated."""
    monkeypatch.chdir(tmp_path)
    for name, uf1 in (("a-0", 0.5), ("a-1", None), ("a-2", 0.7), ("other", 0.6)):
        write_json(tmp_path / f"metrics/details/{name}.json", details(uf1, 0.25))
    return tmp_path / "metrics"


def curve(**changes):
    given = {"corpus": "a", "model": "m", "knob": "c", "points": POINTS, "baseline": "other"} | changes
    main(SimpleNamespace(key="a-c"), **given)


def test_a_curve_has_the_numbers_of_the_details_in_the_order_of_its_points(measured):
    curve()
    found = json.loads((measured / "curves/a-c.json").read_text())
    assert [(p["experiment"], p["value"], p["uf1"], p["uar"]) for p in found["points"]] == [
        ("a-0", 0.0, 0.5, 0.25), ("a-1", 1e-05, None, 0.25), ("a-2", 4, 0.7, 0.25)
    ]  # fmt: skip
    assert found["points"][1]["undefined"] == {"uf1": "b neither occurs nor is predicted"}
    assert (found["baseline"]["experiment"], found["baseline"]["uf1"]) == ("other", 0.6)
    assert cv2.imread(str(measured / "curves/a-c.png")) is not None
    # Vega, which draws it for `dvc plots`, reads an empty cell as 0.
    assert (measured / "curves/a-c.csv").read_text().splitlines()[2] == "a-1,1e-05,NaN,NaN,NaN,0.25,NaN,NaN"


def test_a_curve_needs_no_baseline(measured):
    curve(baseline=None)
    assert json.loads((measured / "curves/a-c.json").read_text())["baseline"] is None


def test_an_experiment_that_was_not_evaluated_is_named(measured):
    (measured / "details/a-1.json").unlink()
    refused("metrics/details/a-1.json: is missing; run dvc repro", curve)
    (measured / "details/a-1.json").write_text('{"runs": [')
    refused("metrics/details/a-1.json: is damaged: .*; run python -m tools.repair metrics/details/a-1.json", curve)
    assert not (measured / "curves").exists()
