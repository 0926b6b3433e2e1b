"""Leave-one-subject-out with several candidates: one is chosen in every fold, or all are averaged.

A candidate is a change of knobs and recipe. In the fold of subject s, every candidate is scored by its predictions of
the other subjects, each by a model that has seen neither that subject nor s; the best one is trained as by
`mer.loso.run` and tested on s. So s takes no part in the choice. `mean` chooses nothing: the probability of a clip is
the mean over all candidates.

    inner 0       leave one subject out: a model without s and t predicts t in the fold of s, and s in the fold of t, so
                  S subjects cost S (S - 1) / 2 trainings a candidate beside the S of the folds
    inner k       k groups of subjects, the same in all folds, which share the models without their own group: S (k - 1)
                  + k trainings
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from mer.errors import MerError, listed
from mer.loso.folds import Fold
from mer.loso.jobs import Job, Training
from mer.loso.run import LEAKY, data_digest, job_keys, predictions_of, prepared_training, store, train_jobs
from mer.parallel import SERIAL, Engine
from mer.storage.build import report_reused
from mer.storage.cache import ClipCache
from mer.storage.files import digest
from mer.storage.spool import Spool

NESTED, MEAN = "nested", "mean"
AT_ONCE = 16  # inner folds of a job of estimators, which take milliseconds; networks have as many as in a fold's job


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What mer.loso.run takes that candidates may differ in."""

    arrays: Sequence[np.ndarray | ClipCache]
    knobs: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None


def run(
    candidates: dict[str, Candidate],
    table: pd.DataFrame,
    *,
    model: str,
    classes: int,
    selection: Literal["nested", "mean"] = "nested",
    seeds: Sequence[int] = (0,),
    inner: int = 0,
    audit: bool = False,
    held_out: float = 0.2,
    leave_out: Literal["subject", "corpus", "origin"] = "subject",
    folds_in_parallel: int | Literal["auto"] = "auto",
    device: str = "cpu",
    engine: Engine = SERIAL,
    spool: Spool | None = None,
    code: str = "",
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Choose and test a candidate in every fold, or test the mean of all, once a seed.

    Args:
        candidates: by name, two at least; equal scores fall to the first.
        selection: nested: one is chosen in every fold; mean: their probabilities are averaged.
        inner: groups of training subjects; 0: every subject by itself.
        audit: of nested: also keep what choosing the candidate on the test subject would have given, as rows of
            `test_best`.
        The others as for mer.loso.run.run.

    Returns:
        Predictions as those of mer.loso.run.run, of that selection; and the choices, a row a seed, fold and candidate:
        seed, fold, candidate, uf1 and uar (of the inner predictions), chosen (0 or 1); None where nothing is chosen.

    Raises:
        MerError: as mer.loso.run.run; one candidate; too few subjects for the inner folds, naming the fold.
    """
    if len(candidates) < 2:
        raise MerError(
            f"selection {selection} needs two candidates at least, it has {listed(candidates) or 'none'} alone; add one"
        )
    seeds, kept = list(dict.fromkeys(seeds)), []
    trainings: dict[str, Training] = {}
    jobs: dict[str, tuple[list[Job], list[Job]]] = {}  # candidate -> those of the folds, and those inside them
    for name, candidate in candidates.items():
        ordered, todo, training = prepared_training(
            candidate.arrays, table, model=model, classes=classes, knobs=candidate.knobs, recipe=candidate.recipe,
            selection="last_epoch", audit=False, held_out=held_out, validation="held_out", weights=candidate.weights,
            explaining=False, device=device, leave_out=leave_out,
        )  # fmt: skip
        common = digest(training.settings(), data_digest(ordered, training), code)
        outer, keys = job_keys(todo, seeds, training, folds_in_parallel, common, spool, engine)
        size = AT_ONCE if training.epochs is None else len(outer[0].folds)
        within = _inner_jobs(inner_folds(ordered, todo, inner), seeds, size, common) if selection == NESTED else []
        trainings[name], jobs[name] = training, (outer, within)
        kept += [*keys, *(job.key for job in within)]
    results = _results(jobs, trainings, engine, spool)
    if spool is not None:
        spool.clear(but=kept)
    trained = {name: tuple([(job, results[job.key]) for job in some] for some in pair) for name, pair in jobs.items()}
    if selection == MEAN:
        return _mean(trained, ordered, classes, seeds), None
    return _chosen(trained, ordered, todo, classes, seeds, inner, audit=audit)


def _results(
    jobs: dict[str, tuple[list[Job], list[Job]]], trainings: dict[str, Training], engine: Engine, spool: Spool | None
) -> dict[str, dict]:
    """The result of every job by its key."""
    every = [(name, job) for name, pair in jobs.items() for job in itertools.chain(*pair)]
    missing = [(name, job) for name, job in every if spool is None or job.key not in spool]
    total, left = (sum(len(job.folds) for _, job in some) for some in (every, missing))
    report_reused(total - left, total, "folds", engine)
    found: dict[str, dict] = {}
    for name, training in trainings.items():
        own = [job for other, job in missing if other == name]
        if spool is None:
            found |= dict(zip([job.key for job in own], train_jobs(own, training, training, engine), strict=True))
        else:
            train_jobs(own, functools.partial(store, training=training, spool=spool), training, engine)
    return found if spool is None else {job.key: spool.get(job.key) for _, job in every}


def cost(subjects: int, candidates: int, inner: int, folds: int | None = None) -> int:
    """How many models are trained for one seed; folds: as many as subjects, unless whole corpora are left out."""
    if folds is None:
        within = subjects * (subjects - 1) // 2 if inner == 0 else subjects * (inner - 1) + inner
        return candidates * (subjects + within)
    return candidates * (folds + (subjects * (folds - 1) if inner == 0 else folds * inner))


# ---- inner folds ----------------------------------------------------------------------------------------------------


def inner_folds(table: pd.DataFrame, todo: list[Fold], inner: int) -> list[Fold]:
    """What is left out together: a fold's test clips, and an inner subject or group.

    A model without subjects s and t serves the folds of both. Raises MerError where a fold has too few subjects.
    """
    who = _who(table)
    groups = _groups(who, inner)
    found: dict[tuple[int, ...], Fold] = {}
    for fold in todo:
        tested = set(fold.test)
        parts = _inner_of(fold, who, groups)
        if len(parts) < 2:
            raise MerError(
                f"fold {fold.name}: {len(parts)} subjects or groups are left for the inner folds, needed are two to "
                "choose a candidate; add subjects, raise train.inner, or take another selection"
            )
        for name, rows in parts:
            test = tuple(sorted(tested | set(rows)))
            # In the order of their names, so that it is the same from both sides.
            corpus, _, rest = " + ".join(sorted((fold.name, name))).partition("/")
            found.setdefault(test, Fold(corpus, rest, test))
    return list(found.values())


def _inner_of(fold: Fold, who: np.ndarray, groups: dict[str, set[str]]) -> list[tuple[str, list[int]]]:
    """(name, rows) of what is predicted inside a fold, without the fold's own clips; nothing is empty."""
    outside = np.setdiff1d(np.arange(len(who)), np.array(fold.test, np.int64))
    parts = [(name, [int(r) for r in outside if who[r] in members]) for name, members in groups.items()]
    return [(name, rows) for name, rows in parts if rows]


def _groups(who: np.ndarray, inner: int) -> dict[str, set[str]]:
    """Group -> subjects: every subject alone, or `inner` groups of about as many clips, whatever their labels are."""
    names, counts = np.unique(who, return_counts=True)
    if inner == 0:
        return {str(name): {str(name)} for name in names}
    found: list[set[str]] = [set() for _ in range(inner)]
    sizes = [0] * inner
    # The order is drawn from the names, so that neighbours in a list, who were recorded alike, are apart.
    order = sorted(range(len(names)), key=lambda k: (-counts[k], digest("group", str(names[k]))))
    for k in order:
        smallest = int(np.argmin(sizes))
        sizes[smallest] += int(counts[k])
        found[smallest].add(str(names[k]))
    return {f"group {number}": members for number, members in enumerate(found, start=1) if members}


def _inner_jobs(within: list[Fold], seeds: list[int], size: int, common: str) -> list[Job]:
    groups = [tuple(within[k : k + size]) for k in range(0, len(within), size)]
    return [
        Job(seed, g, digest(common, seed, "inner", [fold.name for fold in g])) for seed in seeds for g in groups
    ]  # fmt: skip


# ---- the choice -----------------------------------------------------------------------------------------------------


def _chosen(
    trained: dict[str, tuple[list, ...]], table: pd.DataFrame, todo: list[Fold], classes: int, seeds: list[int],
    inner: int, *, audit: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    who, labels = _who(table), table["label"].to_numpy()
    groups = _groups(who, inner)
    predictions, audited, choices = [], [], []
    for seed in seeds:
        tables = _tables(trained, table, classes, seed)
        probability = {name: _inner_predictions(within, seed) for name, (_, within) in trained.items()}
        final, best = (next(iter(tables.values())).copy() for _ in range(2))
        for fold in todo:
            scores = {}
            for name in trained:
                rows, found = _of_fold(fold, who, groups, probability[name])
                scores[name] = score(labels[rows], found, classes)
            chosen = choose(scores)
            choices += [
                {"seed": seed, "fold": fold.name, "candidate": name, "uf1": scores[name][0], "uar": scores[name][1],
                 "chosen": int(name == chosen)} for name in scores
            ]  # fmt: skip
            test = list(fold.test)
            final.iloc[test] = tables[chosen].iloc[test]
            right = {name: _right(tables[name].iloc[test], classes) for name in tables}
            best.iloc[test] = tables[max(right, key=lambda name: right[name])].iloc[test]
        predictions.append(final.assign(selection=NESTED))
        audited.append(best.assign(selection=LEAKY))
    parts = [part for pair in zip(predictions, audited, strict=True) for part in (pair if audit else pair[:1])]
    return pd.concat(parts, ignore_index=True), pd.DataFrame(choices)


def _tables(trained: dict[str, tuple[list, ...]], table: pd.DataFrame, classes: int, seed: int) -> dict:
    """The predictions of every candidate by itself, of one seed."""
    return {
        name: predictions_of(table, classes, seed, "last_epoch", [(j, r) for j, r in outer if j.seed == seed])
        for name, (outer, _) in trained.items()
    }


def _mean(trained: dict[str, tuple[list, ...]], table: pd.DataFrame, classes: int, seeds: list[int]) -> pd.DataFrame:
    """Every candidate counts the same; the epoch is the first one's."""
    found, columns = [], [f"p{c}" for c in range(classes)]
    for seed in seeds:
        tables = list(_tables(trained, table, classes, seed).values())
        mean = np.mean([one[columns].to_numpy() for one in tables], axis=0)
        found.append(tables[0].assign(selection=MEAN, **dict(zip(columns, mean.T, strict=True))))
    return pd.concat(found, ignore_index=True)


def choose(scores: dict[str, tuple[float, float]]) -> str:
    """The candidate of the highest UF1, then UAR, then the first."""
    return max(scores, key=lambda name: scores[name])


def score(labels: np.ndarray, probability: np.ndarray, classes: int) -> tuple[float, float]:
    """(UF1, UAR) of pooled predictions; a class that nobody shows or predicts has an F1 of 0 and no recall."""
    guess = probability.argmax(1)
    right = np.array([((guess == c) & (labels == c)).sum() for c in range(classes)])
    asked, said = (np.bincount(of, minlength=classes) for of in (labels, guess))
    f1 = 2 * right / np.maximum(asked + said, 1)
    recall = right / np.maximum(asked, 1)
    return float(f1.mean()), float(recall[asked > 0].mean())


def _inner_predictions(within: list, seed: int) -> dict[tuple[int, ...], np.ndarray]:
    """Rows that were left out together -> their probabilities (n, C)."""
    found = {}
    for job, result in within:
        if job.seed == seed:
            ends = np.cumsum([len(fold.test) for fold in job.folds])
            for fold, part in zip(job.folds, np.split(result["probability"], ends[:-1]), strict=True):
                found[fold.test] = part
    return found


def _of_fold(
    fold: Fold, who: np.ndarray, groups: dict[str, set[str]], found: dict[tuple[int, ...], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, probabilities) of a fold's training clips, each by a model that saw neither it nor the test clips."""
    rows, parts = [], []
    for _, inside in _inner_of(fold, who, groups):
        together = tuple(sorted({*fold.test, *inside}))
        rows += inside
        parts.append(found[together][np.searchsorted(together, inside)])
    return np.array(rows), np.concatenate(parts)


def _right(rows: pd.DataFrame, classes: int) -> float:
    return float((rows[[f"p{c}" for c in range(classes)]].to_numpy().argmax(1) == rows["label"].to_numpy()).mean())


def _who(table: pd.DataFrame) -> np.ndarray:
    return (table["corpus"] + "/" + table["subject"].astype(str)).to_numpy()
