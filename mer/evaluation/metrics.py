"""Metrics of the field, computed once from pooled out-of-fold predictions (fidelity 0.2).

Pure functions over a fixed class list. What is undefined is None (null in JSON) with a reason, never 0: a class that
is never predicted has F1 0, a class without any clip has no recall.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mer.errors import MerError, listed
from mer.evaluation.calibration import calibrated

KEPT = ("uf1", "uar", "acc")


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, n_classes: int) -> np.ndarray:
    """(n_classes, n_classes) int64 counts, rows true, columns predicted."""
    y_true, y_pred = _integers(y_true, n_classes), _integers(y_pred, n_classes)
    if y_true.shape != y_pred.shape or y_true.ndim != 1 or not len(y_true):
        raise MerError(f"labels are {y_true.shape}, predictions {y_pred.shape}; needed are two equal lists, not empty")
    both = np.concatenate([y_true, y_pred])
    if both.min() < 0 or both.max() >= n_classes:
        raise MerError(f"labels must be integers 0..{n_classes - 1}, found {both.min()} to {both.max()}")
    return np.bincount(y_true * n_classes + y_pred, minlength=n_classes**2).reshape(n_classes, n_classes)


def _integers(labels: ArrayLike, n_classes: int) -> np.ndarray:
    try:
        values = np.asarray(labels)
    except ValueError:  # lists of unequal lengths
        raise MerError(f"labels must be integers 0..{n_classes - 1}, found lists of unequal lengths") from None
    if values.dtype.kind in "US" and values.size:
        raise MerError(f"labels are text, such as {values.flat[0]!s:.40}; needed are their positions in the class list")
    if values.dtype.kind not in "iu" and values.size:
        raise MerError(f"labels must be integers 0..{n_classes - 1}, found {values.dtype}")
    return values.astype(np.int64)


def _check_lists(**lists: ArrayLike) -> None:
    """Raise MerError unless there are as many of each, and each of `subjects` has a name."""
    counts = {name: np.shape(values)[0] if np.ndim(values) else 0 for name, values in lists.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise MerError(f"there are {found}; needed is one of each for every clip")
    unnamed = np.flatnonzero(pd.isna(np.asarray(lists["subjects"], dtype=object)))
    if len(unnamed):
        raise MerError(
            f"{len(unnamed)} of {counts['subjects']} clips have no subject, the first in row {unnamed[0]}; read the "
            "table with every cell as text: a subject may be named NA"
        )


def score(y_true: ArrayLike, y_pred: ArrayLike, class_names: Sequence[str]) -> dict:
    """Accuracy, unweighted F1 and unweighted average recall of pooled predictions.

    uf1: class mean of 2 TP / (2 TP + FP + FN); uar: class mean of TP / (TP + FN) (MEGC2019; MSMMT eqs. 22-24 and DCMA
    eqs. 11-14 in their standard form, fidelity S-21, D-18).

    Args:
        y_true, y_pred: (N,) integers, positions in `class_names`.
        class_names: the full class list, whether or not each occurs.

    Returns:
        {uf1, uar, acc, n_clips, per_class: {name: {f1, recall, precision, n, predicted}}, confusion: rows true,
        class_counts, undefined: {metric: reason}}; floats in 0..1, or None where undefined.

    Raises:
        MerError: lengths differ, nothing to score, a label outside the list, or two classes of one name.
    """
    if len(set(class_names)) < len(class_names):
        raise MerError(f"class names are {listed(class_names, 9)}; needed is a name of its own for each class")
    confusion = confusion_matrix(y_true, y_pred, len(class_names))
    hits, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    undefined: dict[str, str] = {}
    per_class = {}
    for i, name in enumerate(class_names):
        touched = true[i] + predicted[i]
        per_class[name] = {
            "f1": 2 * hits[i] / touched if touched else None,
            "recall": hits[i] / true[i] if true[i] else None,
            "precision": hits[i] / predicted[i] if predicted[i] else None,
            "n": int(true[i]),
            "predicted": int(predicted[i]),
        }
    empty = [name for name, row in per_class.items() if row["n"] == 0]
    if empty:
        undefined["uar"] = f"no clip of {', '.join(empty)}"
    untouched = [name for name, row in per_class.items() if row["f1"] is None]
    if untouched:
        undefined["uf1"] = f"{', '.join(untouched)} neither occurs nor is predicted"
    return {
        "uf1": None if untouched else float(np.mean([row["f1"] for row in per_class.values()])),
        "uar": None if empty else float(np.mean([row["recall"] for row in per_class.values()])),
        "acc": float(hits.sum() / confusion.sum()),
        "n_clips": int(confusion.sum()),
        "per_class": {n: {k: v if v is None or isinstance(v, int) else float(v) for k, v in row.items()}
                      for n, row in per_class.items()},
        "confusion": confusion.tolist(),
        "class_counts": dict(zip(class_names, true.tolist(), strict=True)),
        "undefined": undefined,
    }  # fmt: skip


def bootstrap_ci95(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    subjects: ArrayLike,
    class_names: Sequence[str],
    *,
    runs: ArrayLike | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict:
    """Percentile intervals of uf1, uar and acc when subjects (not clips) are drawn with replacement.

    Clips of one subject are alike, so clips drawn singly would make the interval too narrow. With `runs` (N,), the run
    (seed) of each prediction, the interval is that of the mean over the runs; a replicate has one draw for all of them.

    Returns:
        {uf1: [low, high], uar: …, acc: …, replicates, undefined_replicates}. A replicate in which a class has no clip
        has no UAR and is left out of that metric; with none left the interval is None.

    Raises:
        MerError: lengths differ, a label outside the list, a clip without a subject, or no replicate.
    """
    if replicates < 1:
        raise MerError(f"replicates is {replicates}; needed is 1 at least")
    confusion_matrix(y_true, y_pred, len(class_names))  # for its checks, before labels are taken subject by subject
    _check_lists(labels=y_true, predictions=y_pred, subjects=subjects, **({} if runs is None else {"runs": runs}))
    runs = np.zeros(np.shape(y_true), dtype=int) if runs is None else runs
    return _intervals(_replicates(y_true, y_pred, subjects, runs, len(class_names), replicates, seed))


def _replicates(
    y_true: ArrayLike, y_pred: ArrayLike, subjects: ArrayLike, runs: ArrayLike, k: int, replicates: int, seed: int
) -> dict[str, np.ndarray]:
    """uf1, uar and acc (replicates,), NaN where undefined; equal subjects and seeds have equal draws."""
    y_true, y_pred, subjects, runs = (np.asarray(x) for x in (y_true, y_pred, subjects, runs))
    names = np.unique(subjects)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    of_runs = []
    for run in np.unique(runs):
        # One confusion matrix a subject: a replicate is a weighted sum of them.
        rows = [(subjects == s) & (runs == run) for s in names]
        total = np.einsum("rs,sij->rij", draws, np.stack([confusion_matrix(y_true[r], y_pred[r], k) for r in rows]))
        total = total.astype(float)
        hits, true, predicted = np.einsum("rii->ri", total), total.sum(2), total.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            uf1, uar = (2 * hits / (true + predicted)).mean(1), (hits / true).mean(1)
            of_runs.append({"uf1": uf1, "uar": uar, "acc": hits.sum(1) / total.sum((1, 2))})
    return {name: np.mean([run[name] for run in of_runs], axis=0) for name in KEPT}


def _intervals(values: dict[str, np.ndarray]) -> dict:
    """Their 95 per cent, where defined."""
    intervals = {}
    for name, value in values.items():
        value = value[np.isfinite(value)]
        intervals[name] = [float(q) for q in np.quantile(value, [0.025, 0.975])] if len(value) else None
    return {
        **intervals,
        "replicates": len(values["acc"]),
        "undefined_replicates": {n: int((~np.isfinite(v)).sum()) for n, v in values.items()},
    }


def subject_accuracy(y_true: ArrayLike, y_pred: ArrayLike, subjects: ArrayLike) -> pd.DataFrame:
    """One row a subject: subject, correct, n, accuracy; the mean of `accuracy` is the fold mean (U-17, S-16).

    Raises MerError where lengths differ, or a clip has no subject.
    """
    _check_lists(labels=y_true, predictions=y_pred, subjects=subjects)
    table = pd.DataFrame({"subject": subjects, "correct": np.asarray(y_true) == np.asarray(y_pred)})
    grouped = table.groupby("subject")["correct"].agg(correct="sum", n="size").reset_index()
    return grouped.assign(accuracy=grouped["correct"] / grouped["n"])


def evaluate(predictions: pd.DataFrame, run: dict, *, replicates: int, seed: int) -> tuple[dict, dict]:
    """The metric of an experiment and its details (design: metric JSON).

    With several seeds each run is pooled by itself, and a metric is the mean over the runs; the interval is that of the
    mean, confusion matrices are added up.

    Args:
        predictions: as mer.loso.run.run returns them; one row a seed and clip.
        run: what the training stage wrote beside them: class_names, protocol, environment.

    Returns:
        (metric, details); `metric` = uf1, uar, acc, n_clips, n_subjects, parts (one entry a corpus of a composite, or
        with whole origins left out recorded and simulated);
        details also has `runs`, every single run, and `spread`, their standard deviation (None for one run), of
        each part the same and its interval, and `calibration` (mer.evaluation.calibration).

    Raises:
        MerError: a clip predicted twice in a run, runs of different clips, or probabilities that are none.
    """
    names = run["class_names"]
    predictions = _checked(predictions, names)
    by = part_of(run["protocol"].get("leave_out", "subject"))
    names_of_parts = sorted(predictions[by].unique())
    rows_of = {c: predictions[predictions[by] == c] for c in names_of_parts} if len(names_of_parts) > 1 else {}
    parts = {c: pooled(rows, names) for c, rows in rows_of.items()}
    whole = pooled(predictions, names)

    def ci95(rows: pd.DataFrame) -> dict:
        truth, guess, who, runs = (rows[c].to_numpy() for c in ("label", "predicted", "who", "seed"))
        return bootstrap_ci95(truth, guess, who, names, runs=runs, replicates=replicates, seed=seed)

    metric = {
        **{k: whole[k] for k in KEPT},
        "n_clips": whole["n_clips"],
        "n_subjects": int(predictions["who"].nunique()),
        "parts": {c: {k: part[k] for k in KEPT} for c, part in parts.items()},
    }
    truth, guess, who = (predictions[c].to_numpy() for c in ("label", "predicted", "who"))
    details = {
        "ci95": ci95(predictions),
        "n_clips": metric["n_clips"],
        "n_subjects": metric["n_subjects"],
        **{k: whole[k] for k in ("per_class", "confusion", "class_counts", "undefined", "runs", "spread")},
        "subject_mean": float(subject_accuracy(truth, guess, who)["accuracy"].mean()),
        "calibration": calibrated(predictions[[f"p{c}" for c in range(len(names))]].to_numpy(), truth, who),
        "parts": {
            c: {
                "ci95": ci95(rows_of[c]),
                **{k: part[k] for k in ("n_clips", "class_counts", "confusion", "undefined", "runs", "spread")},
                "n_subjects": int(rows_of[c]["who"].nunique()),
            }
            for c, part in parts.items()
        },
        "protocol": run["protocol"],
        "environment": run["environment"],
    }
    return metric, details


def part_of(left_out: str) -> str:
    """The column of predictions that names the parts of which metrics are computed apart."""
    return "fold" if left_out == "origin" else "corpus"


def leak(predictions: pd.DataFrame, audited: pd.DataFrame, class_names: Sequence[str]) -> dict:
    """What choosing the epoch on the test subject would have claimed beside what is so.

    Args:
        predictions, audited: one row a seed and clip, of the same clips; the second of the selection `test_best`.

    Returns:
        {uf1: {honest, leaky, gap}, uar: …, runs: how many seeds}; means over the seeds; gap = leaky - honest.
    """
    honest, leaky = (pooled(_checked(rows, class_names), class_names) for rows in (predictions, audited))
    out = {}
    for name in ("uf1", "uar"):
        pair = honest[name], leaky[name]
        out[name] = {"honest": pair[0], "leaky": pair[1], "gap": None if None in pair else pair[1] - pair[0]}
    return out | {"runs": len(honest["runs"])}


def difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    class_names: Sequence[str],
    *,
    replicates: int = 2000,
    seed: int = 0,
    own_labels: bool = False,
) -> dict:
    """How much better the first of two experiments is, with the interval of that difference.

    Both are scored on the same draws of subjects, so what makes a subject hard for both cancels: the interval is
    narrower than those of the two metrics, and 0 within it means that these clips do not tell them apart.

    Args:
        first, second: predictions of the same clips, one row a seed and clip; any seeds.
        own_labels: their labels may differ, and each is scored by its own. For the run with exchanged labels of the
            same experiment: the difference is what is learned of the true ones.

    Returns:
        {uf1: {difference, low, high}, uar: …, acc: …}; None where undefined.

    Raises:
        MerError: they are of other clips or labels.
    """
    sides = [_checked(rows, class_names) for rows in (first, second)]
    same = ["id"] if own_labels else ["id", "label"]
    clips = [rows.drop_duplicates("id").sort_values("id")[same].to_numpy().tolist() for rows in sides]
    if clips[0] != clips[1]:
        what = "clips" if own_labels else "clips or labels"
        raise MerError(f"the experiments were tested on other {what}, so their difference has no meaning")
    scores = [pooled(rows, class_names) for rows in sides]
    drawn = [
        _replicates(rows["label"], rows["predicted"], rows["who"], rows["seed"], len(class_names), replicates, seed)
        for rows in sides
    ]
    intervals = _intervals({name: drawn[0][name] - drawn[1][name] for name in KEPT})
    out = {}
    for name in KEPT:
        pair, interval = (scores[0][name], scores[1][name]), intervals[name] or (None, None)
        gap = None if None in pair else pair[0] - pair[1]
        out[name] = {"difference": gap, "low": interval[0], "high": interval[1]}
    return out


def pooled(predictions: pd.DataFrame, names: Sequence[str]) -> dict:
    """`score` of every run (seed), and their means; counts of predictions and confusion matrices are sums."""
    runs = {seed: score(rows["label"].to_numpy(), rows["predicted"].to_numpy(), names)
            for seed, rows in predictions.groupby("seed", sort=False)}  # fmt: skip
    scores = list(runs.values())
    first = scores[0]
    per_class = {
        name: {k: _mean([s["per_class"][name][k] for s in scores]) for k in ("f1", "recall", "precision")}
        | {"n": first["per_class"][name]["n"], "predicted": sum(s["per_class"][name]["predicted"] for s in scores)}
        for name in names
    }
    values = {k: [s[k] for s in scores] for k in KEPT}
    return {
        **means(scores),
        "n_clips": first["n_clips"],
        "per_class": per_class,
        "confusion": np.sum([s["confusion"] for s in scores], axis=0).tolist(),
        "class_counts": first["class_counts"],
        "undefined": {k: v for s in scores for k, v in s["undefined"].items()},
        "runs": [{"seed": int(seed), **{k: s[k] for k in KEPT}} for seed, s in runs.items()],
        "spread": {k: float(np.std(v, ddof=1)) if len(v) > 1 and None not in v else None for k, v in values.items()},
    }


def means(runs: Sequence[dict]) -> dict[str, float | None]:
    """uf1, uar and acc over the runs of an experiment, such as `runs` of its details; None where a run has none."""
    return {name: _mean([run[name] for run in runs]) for name in KEPT}


def _mean(values: list) -> float | None:
    return None if None in values else float(np.mean(values))


def _checked(predictions: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """With the columns `predicted` and `who`."""
    twice = predictions["id"][predictions.duplicated(["seed", "id"])]
    if len(twice):
        raise MerError(f"predictions: {len(twice)} clips occur twice, such as {twice.iloc[0]}; train again")
    clips = {tuple(sorted(run["id"])) for _, run in predictions.groupby("seed")}
    if len(clips) > 1:
        raise MerError("predictions: the runs of different seeds have different clips; train again")
    probability = predictions[[f"p{c}" for c in range(len(names))]].to_numpy()
    if not np.allclose(probability.sum(1), 1, atol=1e-6):  # a softmax in float32 is off by less than 1e-6
        raise MerError("predictions: probabilities of a clip do not add up to 1; train again")
    return predictions.assign(
        predicted=probability.argmax(1), who=predictions["corpus"] + "/" + predictions["subject"].astype(str)
    )
