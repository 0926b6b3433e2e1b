"""Metrics against a knob: the numbers are those of the metrics, and what is undefined is a gap with its reason."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.evaluation import curves, metrics

NAMES = ["negative", "positive", "surprise"]
PARTS = {"casme2": 3, "smic": 2}  # corpus -> how many of the classes its subjects show


def evaluated(right: float, parts=PARTS, seeds=(0,), leaky=False) -> tuple[dict, dict]:
    """(metric, details), as read from their files, of predictions of which so many are right."""
    rng, rows = np.random.default_rng(5), []
    for seed in seeds:
        for corpus, classes in parts.items():
            y = np.arange(60) % classes
            p = np.eye(3)[np.where(rng.random(60) < right, y, (y + 1) % classes)]
            rows.append(pd.DataFrame(
                {"seed": seed, "id": [f"{corpus}/{i:02d}" for i in range(60)], "corpus": corpus,
                 "subject": [f"s{i // 10}" for i in range(60)], "label": y, "p0": p[:, 0], "p1": p[:, 1],
                 "p2": p[:, 2]}))  # fmt: skip
    run = {"class_names": NAMES, "protocol": {"leaky": leaky}, "environment": {}}
    found = metrics.evaluate(pd.concat(rows, ignore_index=True), run, replicates=100, seed=0)
    return json.loads(json.dumps(found))


def curve_of(values, *, baseline=None, **settings) -> dict:
    """A curve that falls with its knob."""
    details = [evaluated(1 - 0.5 * i / len(values), **settings)[1] for i in range(len(values))]
    points = [{"value": v, **curves.scores(f"e{v}", d)} for v, d in zip(values, details, strict=True)]
    return {"corpus": "both", "model": "linear", "knob": "c", "points": points, "baseline": baseline}


@pytest.fixture
def figure(monkeypatch):
    """figure(curve): what is drawn of it."""

    def drawn(curve):
        kept = []
        monkeypatch.setattr(curves, "save", lambda figure, path: kept.append(figure))
        curves.draw(curve, "")
        return kept[0]

    return drawn


def lines(axes) -> dict[str, list]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [(0,), (3, 4, 5)])
@pytest.mark.parametrize("parts", [PARTS, {"casme2": 3}])
def test_scores_are_those_of_the_metrics(parts, seeds):
    """To the last bit, after both files were written and read."""
    metric, details = evaluated(0.7, parts, seeds)
    found = curves.scores("e", details)
    for name in ("uf1", "uar", "acc"):
        assert found[name] == metric[name]
        assert found["ci95"][name] == details["ci95"][name]
        assert {part: of[name] for part, of in found["parts"].items()} == {
            part: of[name] for part, of in metric["parts"].items()
        }
    if len(parts) > 1:
        assert found["parts"]["smic"]["uf1"] is None
        assert found["parts"]["smic"]["undefined"]["uf1"] == "surprise neither occurs nor is predicted"


def test_the_table_has_a_row_a_point_and_nan_where_undefined():
    curve = curve_of([0.5, 1.0])
    table = curves.table(curve)
    assert list(table) == ["experiment", "c", "uf1", "uf1_low", "uf1_high", "uf1_casme2", "uf1_smic",
                           "uar", "uar_low", "uar_high", "uar_casme2", "uar_smic"]  # fmt: skip
    assert table["c"].tolist() == [0.5, 1.0]
    assert table["uf1"].tolist() == [point["uf1"] for point in curve["points"]]
    assert table[["uar_low", "uar_high"]].to_numpy().tolist() == [point["ci95"]["uar"] for point in curve["points"]]
    assert table["uf1_smic"].isna().all()


# ---- the picture ----------------------------------------------------------------------------------------------------


def test_equal_curves_are_equal_bytes_of_the_size_that_is_said(tmp_path):
    for name in ("a.png", "b.png"):
        curves.draw(curve_of([0.0, 0.5, 1.0]), tmp_path / name)
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture.shape == (484, 990, 3)  # 4.4 and 9 inches of 110 px
    assert picture.std() > 5
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_composite_has_a_line_a_part_beside_the_whole(figure):
    curve = curve_of([0.0, 0.5, 1.0], parts={"casme2": 3, "samm": 3, "smic": 3}, baseline=None)
    for axes, name in zip(figure(curve).axes, ("uf1", "uar"), strict=True):
        found = lines(axes)
        assert list(found) == ["FULL", "casme2", "samm", "smic"]
        assert found["FULL"] == [point[name] for point in curve["points"]]
        assert found["samm"] == [point["parts"]["samm"][name] for point in curve["points"]]
        assert len({line.get_color() for line in axes.get_lines()}) == 4
        assert len({line.get_marker() for line in axes.get_lines()}) == 4
        band = axes.collections[0].get_paths()[0].vertices
        assert [band[:, 1].min(), band[:, 1].max()] == [
            min(point["ci95"][name][0] for point in curve["points"]),
            max(point["ci95"][name][1] for point in curve["points"]),
        ]
        assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("c", name.upper(), "linear")


def test_there_are_styles_for_as_many_parts_as_a_composite_may_have():
    assert len(curves.STYLES) == 1 + 5  # `parts` of mer.params.Corpus
    assert all(len(set(column)) == len(curves.STYLES) for column in zip(*curves.STYLES, strict=True))


def test_a_corpus_without_parts_has_one_line_of_its_name(figure):
    for axes in figure(curve_of([0.0, 0.5], parts={"casme2": 3})).axes:
        assert list(lines(axes)) == ["both"]


def test_what_is_undefined_is_a_gap_and_named(figure):
    """UF1 of smic is undefined everywhere, that of the whole at one point; UAR of it is, and would be 0 elsewhere."""
    curve = curve_of([0.0, 0.5, 1.0])
    curve["points"][1] |= {"uf1": None, "undefined": {"uf1": "surprise neither occurs nor is predicted"}}
    curve["points"][1]["ci95"]["uf1"] = None
    drawn = figure(curve)
    uf1 = lines(drawn.axes[0])
    assert np.isnan(uf1["FULL"]).tolist() == [False, True, False]
    assert np.isnan(uf1["smic"]).all()
    assert not np.isnan(uf1["casme2"]).any()
    assert drawn.get_supxlabel().splitlines() == [
        "undefined: UF1 of smic at c 0.0 (surprise neither occurs nor is predicted)",
        "UAR of smic at c 0.0 (no clip of surprise)",
        "UF1 of FULL at c 0.5 (surprise neither occurs nor is predicted)",
        "and 4 more",
    ]


def test_a_baseline_is_a_level_line_also_where_one_metric_of_it_is_undefined(figure):
    level = curves.scores("both-other", evaluated(0.4)[1])
    curve = curve_of([0.0, 0.5], parts={"casme2": 3}, baseline=level)
    for axes, name in zip(figure(curve).axes, ("uf1", "uar"), strict=True):
        assert lines(axes)["both-other"] == [level[name]] * 2
    curve["baseline"] = level | {"uf1": None, "undefined": {"uf1": "why"}}
    drawn = figure(curve)
    assert np.isnan(lines(drawn.axes[0])["both-other"]).all()
    assert lines(drawn.axes[1])["both-other"] == [level["uar"]] * 2
    assert drawn.get_supxlabel() == "undefined: UF1 of both-other (why)"
    assert "both-other" in [text.get_text() for text in drawn.legends[0].get_texts()]


def test_values_over_two_decades_have_a_logarithmic_axis(figure):
    assert figure(curve_of([0.001, 0.01, 0.1])).axes[0].get_xscale() == "log"
    assert figure(curve_of([0.0, 0.01, 1.0])).axes[0].get_xscale() == "linear"


def test_a_leaky_curve_is_stamped(figure):
    titles = [figure(curve_of([0.0, 0.5], leaky=leaky)).texts[0].get_text() for leaky in (False, True)]
    assert titles == [
        "both: UF1 and UAR of linear against c",
        "both: UF1 and UAR of linear against c; LEAKY: the epoch was chosen on the test subject",
    ]
