"""Metrics against scikit-learn, printed confusion matrices and slow definitions."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from mer.errors import MerError
from mer.evaluation import metrics

THREE = ["negative", "positive", "surprise"]


def expand(confusion):
    """Label lists with this confusion matrix."""
    pairs = [(i, j) for i, row in enumerate(confusion) for j, n in enumerate(row) for _ in range(n)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


# DCMA's full model on two parts of its composite (fidelity 4.8): the printed scores fix these matrices.
@pytest.mark.parametrize(
    ("confusion", "acc", "uf1", "uar"),
    [
        ([[89, 0, 1], [2, 29, 1], [4, 0, 24]], 142 / 150, 0.9340, 0.9174),
        ([[70, 0, 1], [0, 49, 2], [0, 4, 39]], 158 / 165, 0.9510, 0.9512),
    ],
)
def test_score_of_dcmas_confusion_matrices(confusion, acc, uf1, uar):
    result = metrics.score(*expand(confusion), THREE)
    assert result["confusion"] == confusion
    assert result["acc"] == pytest.approx(acc, abs=1e-12)
    assert result["uf1"] == pytest.approx(uf1, abs=5.1e-5)  # half a unit of the last printed digit
    assert result["uar"] == pytest.approx(uar, abs=5.1e-5)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_score_is_scikit_learns(pairs):
    y_true, y_pred = map(np.array, zip(*pairs, strict=True))
    names = list("abcd")
    result = metrics.score(y_true, y_pred, names)
    f1 = sklearn.metrics.f1_score(y_true, y_pred, labels=range(4), average=None, zero_division=np.nan)
    recall = sklearn.metrics.recall_score(y_true, y_pred, labels=range(4), average=None, zero_division=np.nan)
    for i, name in enumerate(names):
        ours = result["per_class"][name]
        assert (
            ours["recall"] == pytest.approx(recall[i], nan_ok=True) if (y_true == i).any() else ours["recall"] is None
        )
        touched = ((y_true == i) | (y_pred == i)).any()
        assert ours["f1"] == pytest.approx(f1[i]) if touched else ours["f1"] is None
    if result["uar"] is not None:
        assert result["uar"] == pytest.approx(recall.mean())


def test_a_class_never_predicted_has_f1_0_and_an_absent_class_is_undefined():
    result = metrics.score([0, 0, 1], [0, 0, 0], THREE[:2])
    assert result["per_class"]["positive"]["f1"] == 0
    assert result["uf1"] == pytest.approx(0.4)  # (0.8 + 0) / 2
    result = metrics.score([0, 0, 1], [0, 0, 1], THREE)
    assert result["uar"] is None
    assert "surprise" in result["undefined"]["uar"]
    assert result["uf1"] is None
    assert metrics.score([0, 1], [0, 2], THREE)["uf1"] == pytest.approx(1 / 3)  # predicted but absent: F1 0, defined


@pytest.mark.parametrize(("y", "p"), [([0, 3], [0, 1]), ([], []), ([0, 1], [0]), ([0, 1], [0, -1])])
def test_wrong_labels_are_refused(y, p):
    with pytest.raises(MerError):
        metrics.score(np.array(y, dtype=int), np.array(p, dtype=int), THREE)


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        (
            ["happiness", "other"],
            ["happiness", "other"],
            "labels are text, such as happiness; needed are their positions",
        ),
        ([0, 1], ["0", "1"], "labels are text, such as 0; needed"),
        (np.array(["a", None], object), [0, 1], "labels must be integers 0..2"),
        ([0.0, 1.0], [0, 1], "labels must be integers 0..2, found float64"),
        ([0, np.nan], [0, 1], "labels must be integers 0..2, found float64"),
        ([True, False], [True, False], "labels must be integers 0..2, found bool"),
        ([[0], [1, 2]], [0, 1], "labels must be integers 0..2"),
        ([0, 3], [0, 1], "labels must be integers 0..2, found 0 to 3"),
    ],
)
def test_labels_that_are_no_positions_are_named(y, p, message):
    with pytest.raises(MerError, match=message):
        metrics.score(y, p, THREE)
    with pytest.raises(MerError, match=message):
        metrics.bootstrap_ci95(y, p, ["a", "b"], THREE, replicates=10)


def test_classes_of_one_name_are_refused():
    """Their F1 would stand in one place, and the mean be of the others: 0.333 here, where 0.556 is right."""
    with pytest.raises(MerError, match="class names are a, a, b; needed is a name of its own for each class"):
        metrics.score([0, 1, 2], [0, 1, 1], ["a", "a", "b"])


@pytest.mark.parametrize("nobody", [np.nan, None, pd.NA])
def test_a_clip_without_a_subject_is_refused(nobody):
    for function in (lambda *a: metrics.bootstrap_ci95(*a, THREE, replicates=10), metrics.subject_accuracy):
        with pytest.raises(MerError, match="1 of 3 clips have no subject, the first in row 1; read the table with"):
            function([0, 1, 2], [0, 1, 2], ["a", nobody, "a"])


def test_subjects_of_another_number_are_refused():
    for function in (lambda *a: metrics.bootstrap_ci95(*a, THREE, replicates=10), metrics.subject_accuracy):
        with pytest.raises(MerError, match="2 labels, 2 predictions, 1 subjects"):
            function([0, 1], [0, 1], ["a"])
    with pytest.raises(MerError, match="2 labels, 2 predictions, 2 subjects, 3 runs"):
        metrics.bootstrap_ci95([0, 1], [0, 1], ["a", "b"], THREE, runs=[0, 0, 0], replicates=10)
    with pytest.raises(MerError, match="replicates is 0; needed is 1 at least"):
        metrics.bootstrap_ci95([0, 1], [0, 1], ["a", "b"], THREE, replicates=0)


def test_bootstrap_is_the_slow_loops():
    rng = np.random.default_rng(3)
    y, p, who = rng.integers(0, 3, 60), rng.integers(0, 3, 60), rng.integers(0, 6, 60)
    ours = metrics.bootstrap_ci95(y, p, who, THREE, replicates=300, seed=5)
    draws = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), size=300)
    uar = []
    for draw in draws:
        rows = np.concatenate([np.repeat(np.flatnonzero(who == s), n) for s, n in enumerate(draw)])
        uar.append(sklearn.metrics.recall_score(y[rows], p[rows], average="macro"))
    assert ours["uar"] == pytest.approx(list(np.quantile(uar, [0.025, 0.975])), abs=1e-12)


def test_bootstrap_over_subjects_is_wider_than_over_clips():
    """Ten subjects, each wholly right or wholly wrong: clips drawn singly would hide that."""
    who = np.repeat(np.arange(10), 20)
    y = np.tile([0, 1], 100)
    p = np.where(who < 6, y, 1 - y)
    low, high = metrics.bootstrap_ci95(y, p, who, THREE[:2])["acc"]
    low1, high1 = metrics.bootstrap_ci95(y, p, np.arange(200), THREE[:2])["acc"]
    assert high - low > 3 * (high1 - low1)  # theory: sqrt(20) = 4.5 times


def frame(y, p, who, corpus="a"):
    table = pd.DataFrame(
        {"id": [f"{corpus}/{w}/{i}" for i, w in enumerate(who)], "corpus": corpus, "subject": who, "seed": 0}
    )
    one_hot = np.eye(3)[p]
    return table.assign(label=y, p0=one_hot[:, 0], p1=one_hot[:, 1], p2=one_hot[:, 2])


RUN = {"class_names": THREE, "protocol": {}, "environment": {}}


def test_a_perfect_classifier_scores_1_in_any_order_of_rows():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    who = rng.permutation(np.repeat(list("abcdefghi"), 10))  # interleaved subjects
    rows = frame(y, y, who)
    for shuffled in (rows, rows.sample(frac=1, random_state=1)):
        metric, details = metrics.evaluate(shuffled, RUN, replicates=100, seed=0)
        assert (metric["uf1"], metric["uar"], metric["acc"]) == (1, 1, 1)
        assert details["subject_mean"] == 1


def test_parts_add_up_and_equal_subjects_of_two_corpora_are_two():
    rng = np.random.default_rng(1)
    both = pd.concat(
        [frame(rng.integers(0, 3, 40), rng.integers(0, 3, 40), np.tile(["01", "02"], 20), c) for c in ("a", "b")]
    )
    metric, details = metrics.evaluate(both, RUN, replicates=100, seed=0)
    assert metric["n_subjects"] == 4
    whole = np.array(details["confusion"])
    assert (sum(np.array(p["confusion"]) for p in details["parts"].values()) == whole).all()
    for part, rows in both.groupby("corpus"):
        alone, of_part = metrics.evaluate(rows, RUN, replicates=100, seed=0)
        assert details["parts"][part]["ci95"] == of_part["ci95"]
        assert details["parts"][part]["n_subjects"] == alone["n_subjects"] == 2


def test_several_seeds_are_means_with_every_single_run():
    rng = np.random.default_rng(3)
    y, who = rng.integers(0, 3, 60), np.repeat(list("abcdef"), 10)
    guesses = [np.where(rng.random(60) < right, y, (y + 1) % 3) for right in (0.5, 0.7, 0.9)]
    single = [metrics.evaluate(frame(y, p, who), RUN, replicates=200, seed=0) for p in guesses]
    both = pd.concat([frame(y, p, who).assign(seed=s) for s, p in enumerate(guesses)])
    metric, details = metrics.evaluate(both, RUN, replicates=200, seed=0)
    for name in ("uf1", "uar", "acc"):
        values = [m[name] for m, _ in single]
        assert metric[name] == pytest.approx(np.mean(values), abs=1e-12)
        assert details["spread"][name] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert [run[name] for run in details["runs"]] == values
        # The mean of the runs varies over subjects no more than the runs do.
        widths = [d["ci95"][name][1] - d["ci95"][name][0] for _, d in single]
        assert details["ci95"][name][1] - details["ci95"][name][0] < max(widths)
    assert (metric["n_clips"], metric["n_subjects"]) == (60, 6)
    assert np.sum(details["confusion"]) == 180
    assert single[0][1]["spread"]["uf1"] is None


def test_a_leak_is_what_was_claimed_less_what_is_so():
    y, who = np.tile([0, 1, 2], 10), np.repeat(list("abcde"), 6)
    honest, leaky = frame(y, (y + (y == 0)) % 3, who), frame(y, y, who)
    found = metrics.leak(honest, leaky, THREE)
    assert found["uar"] == {"honest": pytest.approx(2 / 3), "leaky": 1.0, "gap": pytest.approx(1 / 3)}
    assert found["runs"] == 1


def test_runs_of_different_clips_are_refused():
    rows = frame([0, 1, 2], [0, 1, 2], list("abc"))
    with pytest.raises(MerError, match="different clips"):
        metrics.evaluate(pd.concat([rows, rows.iloc[:2].assign(seed=1)]), RUN, replicates=100, seed=0)


def test_a_clip_predicted_twice_is_refused():
    rows = frame([0, 1, 2], [0, 1, 2], list("abc"))
    with pytest.raises(MerError, match="occur twice"):
        metrics.evaluate(pd.concat([rows, rows]), RUN, replicates=100, seed=0)


# ---- two experiments --------------------------------------------------------------------------------------------


def test_a_difference_is_drawn_alike_for_both():
    """Against a slow loop that repeats the rows of the drawn subjects; two experiments, one of them with two seeds."""
    rng = np.random.default_rng(3)
    truth, who = rng.integers(0, 3, 60), np.arange(60) % 6

    def experiment(right, seeds):
        rows = []
        for seed in seeds:
            guess = np.where(rng.random(60) < right, truth, (truth + 1) % 3)
            p = np.eye(3)[guess]
            rows.append(pd.DataFrame(
                {"seed": seed, "id": [f"c{i:02d}" for i in range(60)], "corpus": "c", "subject": [f"s{w}" for w in who],
                 "label": truth, "p0": p[:, 0], "p1": p[:, 1], "p2": p[:, 2]}))  # fmt: skip
        return pd.concat(rows, ignore_index=True)

    first, second = experiment(0.9, [0]), experiment(0.6, [4, 5])
    found = metrics.difference(first, second, THREE, replicates=300, seed=7)
    draws = np.random.default_rng(7).multinomial(6, np.full(6, 1 / 6), size=300)

    def uf1(rows, counts):
        repeated = np.concatenate([np.flatnonzero(rows["subject"] == f"s{s}").repeat(n) for s, n in enumerate(counts)])
        some = rows.iloc[repeated]
        guess = some[["p0", "p1", "p2"]].to_numpy().argmax(1)
        return sklearn.metrics.f1_score(some["label"], guess, average="macro", labels=[0, 1, 2])

    def mean(experiment, counts):
        return np.mean([uf1(rows, counts) for _, rows in experiment.groupby("seed")])

    slow = [mean(first, counts) - mean(second, counts) for counts in draws]
    whole = np.ones(6, dtype=int)
    assert found["uf1"]["difference"] == pytest.approx(mean(first, whole) - mean(second, whole))
    np.testing.assert_allclose([found["uf1"]["low"], found["uf1"]["high"]], np.quantile(slow, [0.025, 0.975]))
    assert found["uf1"]["low"] > 0  # apart
    same = metrics.difference(first, first, THREE)
    assert set(same["uar"].values()) == {0.0}
    with pytest.raises(MerError, match="were tested on other clips or labels"):
        metrics.difference(first, second[second["id"] != "c03"], THREE)
