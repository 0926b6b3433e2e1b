"""Tests of two methods: the t-test over parts that papers print, and tests over subjects.

Pure functions. A p-value is one-sided (`greater`: the first is better) or two-sided. What is undefined is None with a
reason, never NaN.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mer.errors import MerError
from mer.evaluation.metrics import KEPT, difference
from mer.evaluation.published import composite_scores, printed_tests

if TYPE_CHECKING:
    import pandas as pd

PERMUTATIONS = 10_000
ROUNDING = 1e-12  # differences this close are equal: sums of the same fractions in another order
TESTED = ("uar", "uf1")


# ---- over parts ----------------------------------------------------------------------------------------------------


def paired_t(ours: ArrayLike, others: ArrayLike) -> dict:
    """One-sided paired t-test over n scores of two methods, such as UF1 on Mixed, CASME II, SAMM and SMIC-HS (D-20).

    t = mean(d) / (s / sqrt(n)) for the differences d with standard deviation s (n - 1 degrees of freedom); p is the
    probability of this t or a larger one if the mean of d were 0. It gives the p-values that DCMA prints (4.5.1).

    The test is unsound here. Mixed is counted beside its own parts, so the n differences depend on each other. n is 4.
    A part is no draw from a population of datasets, and neither subjects nor seeds have a part in it: p says nothing
    of other subjects. `permutation_test` is the sound one.

    Args:
        ours, others: (n,) scores, in the same order of parts.

    Returns:
        {t, p, n, undefined}; t and p are None where all differences are equal, and `undefined` is the reason.

    Raises:
        MerError: lists of unequal lengths, less than two scores, or one that is no finite number.
    """
    from scipy import stats

    pair = [_finite(values) for values in (ours, others)]
    if pair[0].shape != pair[1].shape or pair[0].ndim != 1 or len(pair[0]) < 2:
        raise MerError(f"scores are {pair[0].shape} and {pair[1].shape}; needed are two equal lists of 2 at least")
    n = len(pair[0])
    if np.ptp(pair[0] - pair[1]) <= ROUNDING:
        return {"t": None, "p": None, "n": n, "undefined": f"the {n} differences are equal"}
    t, p = stats.ttest_rel(*pair, alternative="greater")
    return {"t": float(t), "p": float(p), "n": n, "undefined": None}


def _finite(values: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):  # text, or lists of unequal lengths
        array = None
    if array is None or not np.isfinite(array).all():
        raise MerError("scores must be lists of finite numbers; leave out a part without a score on both sides")
    return array


def published_t_tests(paper: str, scores: Mapping[str, Sequence[float | None]] | None = None) -> list[dict]:
    """`paired_t` of a paper's method against each one that it prints a p-value for.

    Args:
        paper: one that prints p-values (mer.evaluation.published).
        scores: of an experiment, {uar: values in the order of mer.evaluation.published.PARTS, uf1: …}; None undefined.

    Returns:
        One entry a method: {method, uar: {printed, recomputed, experiment}, uf1: …}; `recomputed` and `experiment` are
        results of `paired_t`, the latter None without `scores`, and of t and p None where a score is undefined.

    Raises:
        MerError: a paper without printed p-values, or `scores` of another number of parts.
    """
    published = composite_scores(paper)
    return [
        {"method": row.method}
        | {
            name: {
                "printed": row.p_values[name],
                "recomputed": paired_t(published[paper][name], published[row.method_id][name]),
                "experiment": None if scores is None else _against(scores[name], published[row.method_id][name]),
            }
            for name in TESTED
        }
        for row in printed_tests(paper)
    ]


def _against(ours: Sequence[float | None], others: Sequence[float]) -> dict:
    if None in ours:
        return {"t": None, "p": None, "n": len(ours), "undefined": "a part has no score"}
    return paired_t(np.array(ours, dtype=float), others)


# ---- over subjects -------------------------------------------------------------------------------------------------


def permutation_test(
    first: "pd.DataFrame",
    second: "pd.DataFrame",
    class_names: Sequence[str],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict:
    """Paired permutation test of two experiments on the same clips; its unit is the subject (corpus, subject).

    If neither experiment is better, the predictions of both for a subject may be exchanged. Each permutation exchanges
    them for a random half of the subjects, on average: all clips and runs of a subject at once, for these are alike.
    Statistic: the difference of the pooled metrics, with several runs (seeds) of their means over the runs. Where
    2^subjects is at most `permutations`, all exchanges are enumerated and p is exact. Otherwise they are drawn, and
    p = (1 + those as extreme) / (1 + permutations), which is never too small (Phipson and Smyth 2010).

    The folds share most of their training clips. The test is about other subjects for the networks as trained, not
    about other training sets.

    Args:
        first, second: predictions of the same clips, one row a seed and clip; equally many seeds. Run for run is
            exchanged in the order of the seeds.

    Returns:
        {uf1: {difference, greater, two_sided}, uar: …, acc: …, permutations: how many, exact, undefined: {metric:
        reason}}; None where undefined.

    Raises:
        MerError: they are of other clips or labels, have different numbers of runs, or `permutations` is below 1.
    """
    if permutations < 1:
        raise MerError(f"permutations is {permutations}; needed is 1 at least")
    gaps = difference(first, second, class_names, replicates=1)  # for its checks as well
    tables = _confusions(first, second, len(class_names))
    runs = [len(table) for table in tables]
    if runs[0] != runs[1]:
        raise MerError(
            f"the experiments have {runs[0]} and {runs[1]} runs, and a run is exchanged for a run; "
            "give both as many train.seeds"
        )
    subjects = tables[0].shape[1]
    exact = subjects < 63 and 2**subjects <= permutations
    if exact:
        swaps = np.arange(2**subjects)[:, None] >> np.arange(subjects) & 1
    else:
        swaps = np.random.default_rng(seed).integers(0, 2, (permutations, subjects))
    null = _gaps(tables, swaps)
    observed = _gaps(tables, np.zeros((1, subjects)))
    out: dict = {"permutations": len(swaps), "exact": exact, "undefined": {}}
    for name in KEPT:
        out[name] = {"difference": gaps[name]["difference"], "greater": None, "two_sided": None}
        if out[name]["difference"] is None or not np.isfinite(null[name]).all():
            out["undefined"][name] = "a class without a clip"
            continue
        for side, extreme in (
            ("greater", null[name] >= observed[name] - ROUNDING),
            ("two_sided", np.abs(null[name]) >= np.abs(observed[name]) - ROUNDING),
        ):
            count = int(extreme.sum())
            out[name][side] = count / len(swaps) if exact else (1 + count) / (1 + len(swaps))
    return out


def signed_rank(first: "pd.DataFrame", second: "pd.DataFrame", class_names: Sequence[str]) -> dict:
    """Wilcoxon's signed-rank test over the subjects' accuracies, with several runs of their means over the runs.

    A subject with one clip counts as much as one with thirty; subjects with equal accuracies are left out. Exact for
    few subjects, the normal approximation otherwise, as scipy.stats.wilcoxon chooses.

    Args:
        first, second: predictions of the same clips, one row a seed and clip; any seeds.

    Returns:
        {greater, two_sided, n: subjects whose accuracies differ, subjects: all, undefined: the reason or None}.

    Raises:
        MerError: they are of other clips or labels.
    """
    from scipy import stats

    difference(first, second, class_names, replicates=1)  # for its checks
    accuracies = [
        (np.einsum("rsii->rs", table) / table.sum((2, 3))).mean(0)
        for table in _confusions(first, second, len(class_names))
    ]
    gaps = np.round(accuracies[0] - accuracies[1], 12)  # equal fractions are ties
    some = gaps[gaps != 0]
    found = {"n": len(some), "subjects": len(gaps)}
    if not len(some):
        return {"greater": None, "two_sided": None, **found, "undefined": "no subject's accuracies differ"}
    greater, two_sided = (float(stats.wilcoxon(some, alternative=a).pvalue) for a in ("greater", "two-sided"))
    return {"greater": greater, "two_sided": two_sided, **found, "undefined": None}


def mcnemar(first: "pd.DataFrame", second: "pd.DataFrame", class_names: Sequence[str]) -> dict:
    """McNemar's exact test over the clips of which one of two experiments is right (McNemar 1947; exact: binomial).

    If both were as often right, each of these clips would be right for the first with probability 1/2.

    Clips of one subject are alike, so clips are no independent draws, and p is too small. It is here because papers of
    the field print it; `permutation_test` is the one over subjects.

    Args:
        first, second: predictions of the same clips, one row a clip. With several runs (seeds) a clip has no single
            prediction, and the result is undefined.

    Returns:
        {first: clips that the first alone has right, second: the same of the second, greater, two_sided, undefined:
        the reason or None}.

    Raises:
        MerError: they are of other clips or labels.
    """
    from scipy import stats

    difference(first, second, class_names, replicates=1)  # for its checks
    if any(len(set(rows["seed"])) > 1 for rows in (first, second)):
        undefined = "with several runs a clip has no single prediction"
        return {"first": None, "second": None, "greater": None, "two_sided": None, "undefined": undefined}
    columns = [f"p{c}" for c in range(len(class_names))]
    right = [
        (rows[columns].to_numpy().argmax(1) == rows["label"].to_numpy())
        for rows in (table.sort_values("id") for table in (first, second))
    ]
    alone = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    found = {"first": alone[0], "second": alone[1]}
    if not sum(alone):
        return {**found, "greater": None, "two_sided": None, "undefined": "both are right on the same clips"}
    greater, two_sided = (
        float(stats.binomtest(alone[0], sum(alone), alternative=side).pvalue) for side in ("greater", "two-sided")
    )
    return {**found, "greater": greater, "two_sided": two_sided, "undefined": None}


def _confusions(first: "pd.DataFrame", second: "pd.DataFrame", k: int) -> list[np.ndarray]:
    """(runs, subjects, k, k) counts of each, rows true, columns predicted; runs by ascending seed, equal subjects."""
    who = dict(zip(first["id"], first["corpus"] + "/" + first["subject"].astype(str), strict=True))
    numbers = {name: number for number, name in enumerate(sorted(set(who.values())))}
    tables = []
    for rows in (first, second):
        subject = np.array([numbers[who[clip]] for clip in rows["id"]])
        seeds, run = np.unique(rows["seed"], return_inverse=True)
        guess = rows[[f"p{c}" for c in range(k)]].to_numpy().argmax(1)
        cell = ((run * len(numbers) + subject) * k + rows["label"].to_numpy()) * k + guess
        shape = (len(seeds), len(numbers), k, k)
        tables.append(np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape))
    return tables


def _gaps(tables: Sequence[np.ndarray], swaps: np.ndarray) -> dict[str, np.ndarray]:
    """uf1, uar and acc of the first less the second (P,), NaN where undefined, after each exchange.

    tables: two of (runs, subjects, k, k); swaps: (P, subjects), 1 where the subject's predictions are exchanged.
    """
    moved = np.tensordot(swaps.astype(float), (tables[1] - tables[0]).astype(float), axes=(1, 1))  # (P, runs, k, k)
    sides = [_scores(tables[0].sum(1) + moved), _scores(tables[1].sum(1) - moved)]
    return {name: sides[0][name] - sides[1][name] for name in KEPT}


def _scores(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """uf1, uar and acc (P,), means over the runs of confusion matrices (P, runs, k, k)."""
    hits, true, predicted = np.einsum("prii->pri", confusions), confusions.sum(3), confusions.sum(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        uf1, uar = (2 * hits / (true + predicted)).mean(2), (hits / true).mean(2)
    return {"uf1": uf1.mean(1), "uar": uar.mean(1), "acc": (hits.sum(2) / confusions.sum((2, 3))).mean(1)}
