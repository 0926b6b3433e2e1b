"""Nested selection: what is left out, what is chosen, and that the test subject takes no part in it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier

from mer import models
from mer.errors import MerError
from mer.evaluation.metrics import score as metric
from mer.loso import nested
from mer.loso import run as loso
from mer.loso.folds import folds
from mer.loso.nested import Candidate
from mer.models import ModelSpec
from mer.parallel import Engine
from mer.storage.spool import Spool

CLASSES, NAMES = 3, ("a", "b", "c")


def table(subjects=8, clips=6, corpora=("x", "y")):
    rows = [
        {"id": f"{corpora[s % len(corpora)]}/s{s}/{k}", "corpus": corpora[s % len(corpora)], "subject": f"s{s}",
         "label": (s + k) % CLASSES} for s in range(subjects) for k in range(clips)
    ]  # fmt: skip
    return pd.DataFrame(rows).sort_values("id", ignore_index=True)


class Clever(ClassifierMixin, BaseEstimator):
    """Nearest neighbour on one column of the inputs (N, 3): 0 is noise, 1 tells the class, 2 is the clip's number."""

    def __init__(self, column=0):
        self.column = column

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        self.model_ = KNeighborsClassifier(1).fit(x[:, [self.column]], y)
        return self

    def predict_proba(self, x):
        return self.model_.predict_proba(x[:, [self.column]])


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """A model whose knob is the column that it looks at."""

    def build(classes, *, column: int = 0):
        return Clever(column)

    spec = ModelSpec(
        name="clever", reads=lambda knobs: (), recipe=None, build=build, prepare=lambda x: x, mirror=None, vectors=None,
        declares_vectors=False, check_recipe=None, loss=None, targets=None, load_weights=None, explain=None,
        explain_training=None, probes=None,
    )  # fmt: skip
    load = models.load
    monkeypatch.setattr(models, "load", lambda name: spec if name == "clever" else load(name))


def inputs(rows, share=1.0, seed=0):
    """Noise, the label (of a share of the clips; else noise), and numbers that no two clips share."""
    rng = np.random.default_rng(seed)
    told = np.where(rng.random(len(rows)) < share, rows["label"].to_numpy(), rng.integers(0, CLASSES, len(rows)))
    return np.column_stack(
        [rng.random(len(rows)), told + 0.01 * rng.random(len(rows)), rng.permutation(len(rows)) * 9.0]
    )


def run(rows, columns, x, **more):
    candidates = {name: Candidate(arrays=[x], knobs={"column": column}) for name, column in columns.items()}
    return nested.run(candidates, rows, model="clever", classes=CLASSES, **more)


def test_the_candidate_that_tells_the_classes_is_chosen_in_every_fold():
    rows = table()
    x = inputs(rows, share=0.9)
    found, choices = run(rows, {"noise": 0, "label": 1}, x)
    assert choices.groupby("candidate")["chosen"].mean().to_dict() == {"label": 1.0, "noise": 0.0}
    plain = loso.run([x], rows, model="clever", classes=CLASSES, knobs={"column": 1})
    columns = [c for c in found.columns if c != "selection"]
    pd.testing.assert_frame_equal(found[columns], plain[columns])
    assert set(found["selection"]) == {"nested"}
    assert list(choices.columns) == ["seed", "fold", "candidate", "uf1", "uar", "chosen"]
    assert len(choices) == 2 * 8


@pytest.mark.parametrize("inner", [0, 3])
def test_inner_scores_are_those_of_a_slow_loop(inner):
    """For every fold and training subject or group a model is trained anew, without what the two have in common."""
    rows, found = table(subjects=5, clips=4), {}
    x = inputs(rows, share=0.7)
    _, choices = run(rows, {"noise": 0, "label": 1}, x, inner=inner)
    who, label = (rows["corpus"] + "/" + rows["subject"]).to_numpy(), rows["label"].to_numpy()
    groups = nested._groups(who, inner)
    assert sorted(set.union(*groups.values())) == sorted(set(who))
    for outer in sorted(set(who)):
        for name, column in (("noise", 0), ("label", 1)):
            guess, truth = [], []
            for members in groups.values():
                inside = np.isin(who, list(members - {outer}))
                if inside.any():
                    train = ~inside & (who != outer)
                    one = Clever(column).fit(x[train], label[train])
                    probability = np.zeros((inside.sum(), CLASSES))
                    probability[:, one.classes_] = one.predict_proba(x[inside])
                    guess += probability.argmax(1).tolist()
                    truth += label[inside].tolist()
            found[outer, name] = metric(truth, guess, NAMES)["uf1"]
    for row in choices.itertuples():
        assert row.uf1 == pytest.approx(found[row.fold, row.candidate], abs=1e-12)


def test_a_candidate_that_memorises_clips_scores_at_chance_and_is_not_chosen():
    """By its own training clips it would be perfect."""
    rows = table(subjects=10, clips=9)
    x = inputs(rows, share=0.8)
    memory = Clever(2).fit(x, rows["label"].to_numpy())
    assert (memory.predict_proba(x).argmax(1) == rows["label"]).all()
    _, choices = run(rows, {"memory": 2, "label": 1}, x)
    scores = choices.groupby("candidate")["uf1"].mean()
    assert abs(scores["memory"] - 1 / CLASSES) < 0.12  # 90 clips of 3 classes: twice the standard error of chance
    assert choices.query("chosen == 1")["candidate"].unique().tolist() == ["label"]


def blind(rows, x, subject, **more):
    """Whether the choice in a subject's fold stays what it is when its labels and inputs become others."""
    columns = {"noise": 0, "label": 1, "memory": 2}
    mine = (rows["corpus"] + "/" + rows["subject"] == subject).to_numpy()
    other, y = rows.copy(), x.copy()
    other.loc[mine, "label"] = (other.loc[mine, "label"] + 1) % CLASSES
    y[mine] = 0.5 + np.arange(mine.sum())[:, None]
    pick = ["fold", "candidate", "uf1", "uar", "chosen"]
    choices = [run(r, columns, z, **more)[1] for r, z in ((rows, x), (other, y))]
    before, after = (found.loc[found["fold"] == subject, pick].reset_index(drop=True) for found in choices)
    return before.equals(after)


@pytest.mark.parametrize("inner", [0, 3])
def test_the_test_subject_takes_no_part_in_the_choice(inner):
    rows = table()
    for subject in ("x/s0", "y/s3"):
        assert blind(rows, inputs(rows, share=0.6), subject, inner=inner)


def test_a_planted_leak_is_caught(monkeypatch):
    """The same test fails where the fold's own clips are among those that are scored."""

    def leaky(fold, who, groups, found):
        rows, parts = [], []
        for together, probability in found.items():
            if set(fold.test) < set(together):
                rows += together
                parts.append(probability)
        return np.array(rows), np.concatenate(parts)

    rows = table()
    monkeypatch.setattr(nested, "_of_fold", leaky)
    assert not blind(rows, inputs(rows, share=0.6), "x/s0")


def test_as_many_models_are_trained_as_the_cost_says(monkeypatch):
    rows, count = table(subjects=6, clips=4), []
    fit = Clever.fit
    monkeypatch.setattr(Clever, "fit", lambda self, x, y: (count.append(len(y)), fit(self, x, y))[1])
    x = inputs(rows)
    for inner in (0, 2):
        count.clear()
        run(rows, {"noise": 0, "label": 1}, x, inner=inner)
        assert len(count) == nested.cost(6, 2, inner)
    assert nested.cost(68, 3, 0) == 3 * (68 + 68 * 67 // 2)
    count.clear()
    run(rows, {"noise": 0, "label": 1}, x, leave_out="corpus")
    assert len(count) == nested.cost(6, 2, 0, folds=2)


@pytest.mark.parametrize("seeds", [(0,), (0, 3)])
def test_the_mean_is_that_of_the_candidates_by_themselves(seeds):
    rows = table()
    x = inputs(rows, share=0.7)
    found, choices = run(rows, {"noise": 0, "label": 1}, x, selection="mean", seeds=seeds)
    assert choices is None
    assert set(found["selection"]) == {"mean"}
    alone = [loso.run([x], rows, model="clever", classes=CLASSES, knobs={"column": c}, seeds=seeds) for c in (0, 1)]
    columns = [f"p{c}" for c in range(CLASSES)]
    assert found[columns].to_numpy() == pytest.approx((alone[0][columns] + alone[1][columns]).to_numpy() / 2, abs=1e-15)
    rest = [c for c in found.columns if c not in columns and c != "selection"]
    pd.testing.assert_frame_equal(found[rest], alone[0][rest])


def test_a_mean_trains_each_candidate_once_a_fold(monkeypatch):
    rows, count = table(subjects=6, clips=4), []
    fit = Clever.fit
    monkeypatch.setattr(Clever, "fit", lambda self, x, y: (count.append(len(y)), fit(self, x, y))[1])
    run(rows, {"noise": 0, "label": 1}, inputs(rows), selection="mean")
    assert count == [20] * 12


@pytest.mark.slow
def test_neither_processes_nor_a_restart_change_it(tmp_path):
    rows = table(subjects=6, clips=4)
    maps = np.random.default_rng(0).standard_normal((len(rows), 3, 28, 28))
    maps[:, 0, :7] += rows["label"].to_numpy()[:, None, None] / 4

    def run(**more):
        candidates = {f"grid-{n}": Candidate(arrays=[maps], knobs={"grid": n}) for n in (4, 7)}
        return nested.run(candidates, rows, model="linear", classes=CLASSES, seeds=(0, 1), **more)

    alone = run()
    with Spool(tmp_path / "spool") as spool:
        run(spool=spool, code="c")
        kept = sorted((tmp_path / "spool").iterdir())
        for path in kept[::2]:  # as after a kill
            path.unlink()
    with Spool(tmp_path / "spool") as spool:
        again = run(spool=spool, code="c", engine=Engine(workers=2))
    for one, other in zip(alone, again, strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("together", [1, 2])
def test_networks_with_other_recipes(together, one_thread):
    """The chosen one's predictions are those of its own leave-one-subject-out."""
    rows = table(subjects=4, clips=6)
    maps = np.random.default_rng(0).standard_normal((len(rows), 3, 28, 28)).astype(np.float32)
    maps[:, 0, :9] += 3 * rows["label"].to_numpy()[:, None, None]
    recipes = {"none": {"epochs": 1, "lr": 1e-9}, "some": {"epochs": 8, "batch_size": 8}}
    candidates = {name: Candidate(arrays=[maps], recipe=recipe) for name, recipe in recipes.items()}
    how = {"model": "ststnet", "classes": CLASSES, "folds_in_parallel": together}
    found, choices = nested.run(candidates, rows, inner=2, **how)
    assert len(choices) == 8
    assert "some" in set(choices.query("chosen == 1")["candidate"])
    alone = {name: loso.run([maps], rows, recipe=recipe, **how) for name, recipe in recipes.items()}
    for row in choices.query("chosen == 1").itertuples():
        mine = found["fold"] == row.fold
        expected = alone[row.candidate].loc[mine, ["p0", "p1", "p2", "epoch"]]
        pd.testing.assert_frame_equal(found.loc[mine, ["p0", "p1", "p2", "epoch"]], expected)


def test_the_audit_takes_the_candidate_that_is_best_on_the_test_subject():
    rows = table()
    x = inputs(rows, share=0.5)
    found, choices = run(rows, {"noise": 0, "label": 1}, x, audit=True)
    honest, leaky = (found[found["selection"] == name] for name in ("nested", "test_best"))
    assert len(honest) == len(leaky) == len(rows)

    def right(some):
        return (some[["p0", "p1", "p2"]].to_numpy().argmax(1) == some["label"]).groupby(some["fold"]).mean()

    both = [
        right(loso.run([x], rows, model="clever", classes=CLASSES, knobs={"column": column})) for column in (0, 1)
    ]  # fmt: skip
    assert right(leaky).to_numpy() == pytest.approx(np.maximum(both[0], both[1]).to_numpy())
    assert (right(leaky) >= right(honest)).all()
    assert len(choices) == 16


def test_whole_corpora_are_left_out():
    rows = table()
    found, choices = run(rows, {"noise": 0, "label": 1}, inputs(rows, share=0.9), leave_out="corpus")
    assert sorted(set(found["fold"])) == sorted(set(choices["fold"])) == ["x", "y"]
    assert [fold.name for fold in folds(rows, "corpus")] == ["x", "y"]
    for fold in nested.inner_folds(rows, folds(rows, "corpus"), 0):
        who = set(rows["subject"].iloc[list(fold.test)])
        assert len(who) == 5  # those of the corpus that is tested, and one more


def test_what_cannot_be_chosen_from():
    rows = table(subjects=8)
    x = inputs(rows)
    with pytest.raises(MerError, match=r"selection nested needs two candidates at least, it has first alone; add one"):
        run(rows, {"first": 0}, x)
    few = rows[rows["subject"].isin(["s0", "s1"])].reset_index(drop=True)
    with pytest.raises(MerError, match=r"fold x/s0: 1 subjects or groups are left for the inner folds, needed are two"):
        run(few, {"noise": 0, "label": 1}, inputs(few))
    with pytest.raises(MerError, match=r"leave-one-database-out needs two corpora, the index has x alone"):
        folds(rows[rows["corpus"] == "x"], "corpus")


def test_ties_fall_to_the_recall_and_then_to_the_first():
    assert nested.choose({"a": (0.5, 0.5), "b": (0.5, 0.6), "c": (0.4, 0.9)}) == "b"
    assert nested.choose({"a": (0.5, 0.5), "b": (0.5, 0.5)}) == "a"


def test_scores_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    labels, probability = rng.integers(0, 3, 50), rng.random((50, 3))
    expected = metric(labels, probability.argmax(1), NAMES)
    assert nested.score(labels, probability, 3) == pytest.approx((expected["uf1"], expected["uar"]), abs=1e-12)
