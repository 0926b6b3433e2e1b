"""Confusion matrices normalised by row: DCMA's printed results give two of them whole (fidelity 4.8)."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.evaluation import confusion, metrics
from tests.helpers.refusals import refused

NAMES = ["negative", "positive", "surprise"]
CASME2 = np.array([[89, 0, 1], [2, 29, 1], [4, 0, 24]])
SMIC = np.array([[70, 0, 1], [0, 49, 2], [0, 4, 39]])
NO_SURPRISE = np.array([[5, 1, 2], [0, 3, 0], [0, 0, 0]])


def predictions(matrices, seeds=(0,)) -> pd.DataFrame:
    """A row a seed and clip, of which the matrices of corpora are the counts; a second seed predicts class 0."""
    rows = []
    for seed in seeds:
        for corpus, counts in matrices.items():
            pairs = np.repeat(np.argwhere(np.ones_like(counts)), counts.ravel(), axis=0)
            p = np.eye(3)[pairs[:, 1] if seed == 0 else np.zeros(len(pairs), dtype=int)]
            rows.append(pd.DataFrame(
                {"seed": seed, "id": [f"{corpus}/{i:03}" for i in range(len(pairs))], "corpus": corpus,
                 "subject": [f"s{i % 9}" for i in range(len(pairs))], "label": pairs[:, 0], "p0": p[:, 0],
                 "p1": p[:, 1], "p2": p[:, 2]}))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """drawn(matrices, …): the figure; it is written, too."""

    def draw(matrices, names=NAMES, title="an experiment", **more):
        kept, save = [], confusion.save
        monkeypatch.setattr(confusion, "save", lambda figure, path: (kept.append(figure), save(figure, path)))
        confusion.draw(matrices, names, tmp_path / "confusion.png", title, **more)
        assert cv2.imread(str(tmp_path / "confusion.png")).std() > 5
        return kept[-1]

    return draw


def cells(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_shares_are_those_that_dcma_prints_as_recall():
    """UAR, their mean over the classes, as Table 6 prints it."""
    for counts, printed in ((CASME2, 0.9174), (SMIC, 0.9512)):
        shares = confusion.row_shares(counts)
        np.testing.assert_allclose(shares.sum(1), 1)
        np.testing.assert_allclose(shares, [[n / sum(row) for n in row] for row in counts.tolist()])
        assert np.diag(shares).mean() == pytest.approx(printed, abs=5e-5)


def test_a_class_without_clips_has_no_shares():
    shares = confusion.row_shares(NO_SURPRISE)
    assert np.isnan(shares[2]).all()
    np.testing.assert_allclose(shares[:2], [[5 / 8, 1 / 8, 2 / 8], [0, 1, 0]])


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("corpora", [{"casme2": CASME2}, {"casme2": CASME2, "samm": NO_SURPRISE, "smic": SMIC}])
def test_predictions_and_details_give_the_same_counts(corpora, seeds):
    rows = predictions(corpora, seeds)
    run = {"class_names": NAMES, "protocol": {"leaky": False}, "environment": {}}
    details = json.loads(json.dumps(metrics.evaluate(rows, run, replicates=100, seed=0)[1]))
    found, other = confusion.of_predictions(rows, 3), confusion.of_details(details)
    assert list(found) == list(other) == ([""] if len(corpora) == 1 else ["FULL", *corpora])
    for name in found:
        np.testing.assert_array_equal(found[name], other[name])
    whole = sum(corpora.values())
    guessed = np.zeros_like(whole)
    guessed[:, 0] = whole.sum(1)  # by the second seed
    expected = whole if seeds == (0,) else whole + guessed
    np.testing.assert_array_equal(next(iter(found.values())), expected)
    if len(corpora) > 1 and seeds == (0,):
        np.testing.assert_array_equal(found["smic"], SMIC)


def test_recorded_against_simulated_is_split_by_folds():
    rows = predictions({"casme2": CASME2, "samm": NO_SURPRISE, "smic": SMIC})
    rows["fold"] = np.where(rows["corpus"] == "smic", "simulated", "recorded")
    run = {"class_names": NAMES, "protocol": {"leaky": False, "leave_out": "origin"}, "environment": {}}
    found, other = (
        confusion.of_predictions(rows, 3, "origin"),
        confusion.of_details(metrics.evaluate(rows, run, replicates=100, seed=0)[1]),
    )
    assert list(found) == list(other) == ["FULL", "recorded", "simulated"]
    for name in found:
        np.testing.assert_array_equal(found[name], other[name])
    np.testing.assert_array_equal(found["recorded"], CASME2 + NO_SURPRISE)


# ---- the picture ----------------------------------------------------------------------------------------------------


def test_a_composite_has_a_panel_for_the_whole_and_for_each_part(drawn):
    parts = {"casme2": CASME2, "samm": NO_SURPRISE, "smic": SMIC}
    figure = drawn(confusion.of_predictions(predictions(parts), 3))
    panels = [a for a in figure.axes if a.get_images() and a.get_title()]
    assert [a.get_title() for a in panels] == [
        "(a) FULL: 326 clips", "(b) casme2: 150 clips", "(c) samm: 11 clips", "(d) smic: 165 clips"
    ]  # fmt: skip
    assert cells(panels[1]) == ["98.9 %\n89", "0", "1.1 %\n1", "6.2 %\n2", "90.6 %\n29", "3.1 %\n1", "14.3 %\n4", "0",
                                "85.7 %\n24"]  # fmt: skip
    assert cells(panels[2])[-1] == "no clip of this class"
    assert len(cells(panels[2])) == 7  # six numbers, and that
    assert [t.get_text() for t in panels[2].get_yticklabels()] == ["negative\nn 8", "positive\nn 3", "surprise\nn 0"]
    assert [t.get_text() for t in panels[1].get_xticklabels()] == NAMES
    for a in panels:
        assert a.get_images()[0].get_clim() == (0, 1)  # one scale
    assert "shares of each true class" in "".join(t.get_text() for t in figure.texts)


def test_counts_of_several_runs_are_sums_and_n_is_not(drawn):
    figure = drawn({"": 3 * CASME2}, runs=3)
    a = next(a for a in figure.axes if a.get_images())
    assert a.get_title() == "150 clips"
    assert cells(a)[0] == "98.9 %\n267"
    assert a.get_yticklabels()[0].get_text() == "negative\nn 90"
    assert any("sum of 3 runs" in t.get_text() for t in figure.texts)


@pytest.mark.parametrize("k", [2, 5, 7])
def test_any_number_of_classes(drawn, k):
    names = [f"class {c}" for c in range(k)]
    figure = drawn({"": np.arange(k * k).reshape(k, k)}, names)
    assert len(cells(next(a for a in figure.axes if a.get_images()))) == k * k


def test_equal_matrices_are_equal_bytes(drawn, tmp_path):
    drawn({"": SMIC})
    first = (tmp_path / "confusion.png").read_bytes()
    drawn({"": SMIC})
    assert (tmp_path / "confusion.png").read_bytes() == first


def test_a_matrix_of_other_classes_is_refused(tmp_path):
    refused(r"confusion matrix of the whole is \(3, 3\); 2 classes need \(2, 2\)", confusion.draw, {"": SMIC},
            ["a", "b"], tmp_path / "x.png", "x")  # fmt: skip
