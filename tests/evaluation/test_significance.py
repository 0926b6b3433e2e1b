"""Tests of two methods against the printed p-values, closed forms, slow loops and what holds under the null."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from mer.errors import MerError
from mer.evaluation import published
from mer.evaluation.metrics import difference, subject_accuracy
from mer.evaluation.significance import mcnemar, paired_t, permutation_test, published_t_tests, signed_rank
from tests.helpers.refusals import refused

THREE = ["negative", "positive", "surprise"]


# ---- over parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", published_t_tests("dcma"), ids=lambda row: row["method"])
def test_the_22_printed_p_values_of_dcma_are_recomputed(row):
    """UF1's are rounded to four digits. UAR's are truncated to four, that of OFF-ApexNet to three (D-20)."""
    uf1, uar = row["uf1"], row["uar"]
    assert uf1["recomputed"]["n"] == uar["recomputed"]["n"] == 4
    assert uf1["recomputed"]["p"] == pytest.approx(uf1["printed"], abs=5e-5)
    assert 0 <= uar["recomputed"]["p"] - uar["printed"] < (1e-3 if "OFF-ApexNet" in row["method"] else 1e-4)


def test_the_t_test_is_the_closed_form():
    """With 3 degrees of freedom the distribution function is 1/2 + (a + sin a cos a) / pi, with tan a = t / sqrt 3."""
    scores = published.composite_scores("dcma")
    ours, others = scores["dcma"]["uar"], scores["merastc"]["uar"]
    gaps = [a - b for a, b in zip(ours, others, strict=True)]
    mean = sum(gaps) / 4
    t = mean / math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / 3 / 4)
    angle = math.atan(t / math.sqrt(3))
    found = paired_t(ours, others)
    assert found["t"] == pytest.approx(t, rel=1e-9)
    assert found["p"] == pytest.approx(0.5 - (angle + math.sin(angle) * math.cos(angle)) / math.pi, rel=1e-9)


def test_the_t_test_is_one_sided():
    up, down = paired_t([0.9, 0.8, 0.9], [0.5, 0.6, 0.7]), paired_t([0.5, 0.6, 0.7], [0.9, 0.8, 0.9])
    assert up["p"] < 0.5 < down["p"]
    assert up["p"] + down["p"] == pytest.approx(1)


def test_equal_differences_have_no_t():
    """0.9 - 0.8 and 0.4 - 0.3 differ in the last bit, which is no spread."""
    for others in ([0.9, 0.4, 0.7], [0.8, 0.3, 0.6]):
        found = paired_t([0.9, 0.4, 0.7], others)
        assert found == {"t": None, "p": None, "n": 3, "undefined": "the 3 differences are equal"}


@pytest.mark.parametrize(
    ("ours", "others", "message"),
    [
        ([0.1, 0.2], [0.1], r"scores are \(2,\) and \(1,\); needed are two equal lists of 2 at least"),
        ([0.1], [0.2], r"scores are \(1,\) and \(1,\)"),
        ([], [], r"scores are \(0,\) and \(0,\)"),
        (0.1, 0.2, r"scores are \(\) and \(\)"),
        ([0.1, None], [0.2, 0.3], "scores must be lists of finite numbers; leave out a part without a score"),
        ([0.1, 0.2], [0.2, np.inf], "scores must be lists of finite numbers"),
        (["a", "b"], [0.2, 0.3], "scores must be lists of finite numbers"),
        ([[0.1], [0.1, 0.2]], [0.2, 0.3], "scores must be lists of finite numbers"),
    ],
)
def test_scores_that_cannot_be_paired_are_refused(ours, others, message):
    refused(message, paired_t, ours, others)


def test_an_experiment_takes_the_place_of_the_papers_method():
    rows = published_t_tests("dcma", published.composite_scores("dcma")["dcma"])
    assert all(row[name]["experiment"] == row[name]["recomputed"] for row in rows for name in ("uar", "uf1"))
    rows = published_t_tests("dcma", {"uar": [0.5, 0.6, None, 0.7], "uf1": [0.5, 0.6, 0.7, 0.7]})
    assert rows[0]["uar"]["experiment"]["undefined"] == "a part has no score"
    assert rows[0]["uf1"]["experiment"]["p"] > 0.5
    refused(r"scores are \(3,\) and \(4,\)", published_t_tests, "dcma", {"uar": [0.1, 0.2, 0.4], "uf1": [0.1]})
    refused("no printed p-values of 'uamrn'", published_t_tests, "uamrn")


# ---- over subjects -------------------------------------------------------------------------------------------------


def predicted(truth, guesses, who, corpora="c"):
    """Predictions of an experiment: `guesses` has a list a run."""
    tables = []
    for seed, guess in enumerate(guesses):
        p = np.eye(3)[guess]
        table = pd.DataFrame(p, columns=["p0", "p1", "p2"]).assign(seed=seed, corpus=corpora, subject=who, label=truth)
        table["id"] = table["corpus"] + "/" + table["subject"] + "/" + table.index.astype(str)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def drawn(rng, truth, right):
    return np.where(rng.random(len(truth)) < right, truth, (truth + rng.integers(1, 3, len(truth))) % 3)


def case(rights, *, runs=1, subjects=5, clips=40, seed=0):
    """Two experiments on the same clips, right with these chances."""
    rng = np.random.default_rng(seed)
    truth, who = np.arange(clips) % 3, np.array([f"s{s:02d}" for s in rng.permutation(np.arange(clips) % subjects)])
    return [predicted(truth, [drawn(rng, truth, right) for _ in range(runs)], who) for right in rights]


def slow(first, second, swapped):
    """Difference of the mean uf1, uar and acc, with the predictions of the swapped subjects exchanged row by row."""
    out = []
    for name in ("uf1", "uar", "acc"):
        sides = []
        for mine, other in ((first, second), (second, first)):
            of_runs = []
            for seed in sorted(mine["seed"].unique()):
                a = mine[mine["seed"] == seed].set_index("id").sort_index()
                b = other[other["seed"] == seed].set_index("id").sort_index()
                away = (a["corpus"] + "/" + a["subject"]).isin(swapped)
                columns = ["p0", "p1", "p2"]
                guess = np.where(away, b[columns].to_numpy().argmax(1), a[columns].to_numpy().argmax(1))
                if name == "uf1":
                    value = sklearn.metrics.f1_score(a["label"], guess, average="macro", labels=[0, 1, 2])
                elif name == "uar":
                    value = sklearn.metrics.recall_score(a["label"], guess, average="macro", labels=[0, 1, 2])
                else:
                    value = (a["label"] == guess).mean()
                of_runs.append(value)
            sides.append(np.mean(of_runs))
        out.append(sides[0] - sides[1])
    return np.array(out)


@pytest.mark.parametrize("runs", [1, 2])
def test_the_exact_test_is_the_slow_loop_over_all_exchanges(runs):
    """Rows of the second in another order; subject 01 of two corpora is two subjects."""
    rng = np.random.default_rng(4)
    truth, who = np.arange(30) % 3, np.array([f"{s:02d}" for s in np.arange(30) % 2])
    corpora = np.where(np.arange(30) < 14, "a", "b")
    first, second = (predicted(truth, [drawn(rng, truth, r) for _ in range(runs)], who, corpora) for r in (0.8, 0.5))
    found = permutation_test(first, second.sample(frac=1, random_state=0), THREE)
    assert (found["permutations"], found["exact"], found["undefined"]) == (16, True, {})
    units = ["a/00", "a/01", "b/00", "b/01"]
    null = np.array([slow(first, second, swapped) for n in range(5) for swapped in itertools.combinations(units, n)])
    for i, name in enumerate(("uf1", "uar", "acc")):
        assert found[name]["difference"] == pytest.approx(null[0, i], abs=1e-12)
        assert found[name]["greater"] == (null[:, i] >= null[0, i] - 1e-12).mean()
        assert found[name]["two_sided"] == (np.abs(null[:, i]) >= np.abs(null[0, i]) - 1e-12).mean()


def test_drawn_exchanges_give_about_the_exact_p():
    """12 subjects: 4096 exchanges. A p from 2000 draws has a standard error of 0.0112 at most; 4 of them may be off."""
    first, second = case((0.7, 0.62), subjects=12, clips=120, seed=2)
    exact, sampled = (permutation_test(first, second, THREE, permutations=n, seed=3) for n in (4096, 2000))
    assert (exact["exact"], sampled["exact"], sampled["permutations"]) == (True, False, 2000)
    for name in ("uf1", "uar", "acc"):
        for side in ("greater", "two_sided"):
            assert exact[name][side] < 0.5
            assert sampled[name][side] == pytest.approx(exact[name][side], abs=0.045)
    assert sampled == permutation_test(first, second, THREE, permutations=2000, seed=3)
    assert sampled != permutation_test(first, second, THREE, permutations=2000, seed=4)


def test_a_drawn_p_is_never_0():
    """Right on every clip against wrong on every clip: only an exchange of all subjects or of none is as extreme."""
    truth, who = np.arange(90) % 3, np.array([f"s{s}" for s in np.arange(90) % 30])
    first, second = predicted(truth, [truth], who), predicted(truth, [(truth + 1) % 3], who)
    found = permutation_test(first, second, THREE, permutations=99)
    assert found["acc"] == {"difference": 1.0, "greater": 0.01, "two_sided": 0.01}
    assert permutation_test(second, first, THREE, permutations=99)["acc"]["greater"] == 1.0


def test_the_second_against_the_first_is_the_mirror():
    first, second = case((0.8, 0.5), subjects=6)
    there, back = permutation_test(first, second, THREE), permutation_test(second, first, THREE)
    for name in ("uf1", "uar", "acc"):
        assert there[name]["difference"] == pytest.approx(-back[name]["difference"])
        assert there[name]["two_sided"] == back[name]["two_sided"]


def test_equal_experiments_have_p_1():
    first, _ = case((0.7, 0.7), runs=2, subjects=20, clips=60)
    for other in (first, first.sample(frac=1, random_state=1)):
        found = permutation_test(first, other, THREE, permutations=200)
        assert all(found[n] == {"difference": 0.0, "greater": 1.0, "two_sided": 1.0} for n in ("uf1", "uar", "acc"))
        assert signed_rank(first, other, THREE)["undefined"] == "no subject's accuracies differ"


def test_p_is_uniform_where_neither_is_better():
    """200 cases. The greatest gap to the uniform distribution is below 0.115 in 99 % of draws (Kolmogorov).

    Subjects differ in how hard they are, alike for both experiments. UF1 takes so many values that ties do not count.
    """
    values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth, subject = rng.integers(0, 3, 150), np.arange(150) % 15
        hard = rng.uniform(0.3, 0.9, 15)[subject]
        who = np.array([f"s{s}" for s in subject])
        sides = [predicted(truth, [drawn(rng, truth, hard)], who) for _ in range(2)]
        values.append(permutation_test(*sides, THREE, permutations=400, seed=seed)["uf1"]["greater"])
    values = np.sort(values)
    steps = np.arange(201) / 200
    assert max((steps[1:] - values).max(), (values - steps[:-1]).max()) < 0.115


def test_clips_of_one_subject_are_exchanged_together():
    """One of four subjects has all that differs, 60 clips of it: no evidence over subjects, whatever the clips say."""
    truth, who = np.arange(72) % 3, np.array(["s0"] * 60 + ["s1"] * 4 + ["s2"] * 4 + ["s3"] * 4)
    wrong = np.where(who == "s0", (truth + 1) % 3, truth)
    found = permutation_test(predicted(truth, [truth], who), predicted(truth, [wrong], who), THREE)
    assert found["acc"]["difference"] == pytest.approx(60 / 72)
    assert (found["acc"]["greater"], found["acc"]["two_sided"]) == (0.5, 1.0)


def test_runs_of_other_seeds_are_means_over_the_runs():
    first, second = case((0.8, 0.6), runs=3)
    moved = second.assign(seed=second["seed"] + 7)
    found = permutation_test(first, moved, THREE)
    assert found == permutation_test(first, second, THREE)
    gaps = difference(first, second, THREE, replicates=1)
    assert {n: found[n]["difference"] for n in gaps} == {n: row["difference"] for n, row in gaps.items()}


def test_a_class_without_a_clip_leaves_accuracy():
    rng = np.random.default_rng(0)
    truth, who = np.arange(20) % 2, np.array([f"s{s}" for s in np.arange(20) % 5])
    sides = [predicted(truth, [drawn(rng, truth, 0.8) % 2], who) for _ in range(2)]
    found = permutation_test(*sides, THREE)
    assert found["undefined"] == {"uf1": "a class without a clip", "uar": "a class without a clip"}
    assert found["uf1"] == {"difference": None, "greater": None, "two_sided": None}
    assert 0 < found["acc"]["two_sided"] <= 1


@pytest.mark.parametrize("test", [permutation_test, signed_rank, mcnemar])
def test_other_clips_or_labels_are_refused(test):
    first, second = case((0.8, 0.5))
    refused("were tested on other clips or labels", test, first, second[second.index > 0], THREE)
    refused("were tested on other clips or labels", test, first, second.assign(label=0), THREE)
    refused("clips occur twice", test, first, pd.concat([second, second]), THREE)


def test_runs_of_another_number_and_no_permutation_are_refused():
    first, second = case((0.8, 0.5), runs=2)
    single = second[second["seed"] == 0]
    refused("have 2 and 1 runs, and a run is exchanged for a run; give both as many train.seeds",
            permutation_test, first, single, THREE)  # fmt: skip
    assert signed_rank(first, single, THREE)["subjects"] == 5
    with pytest.raises(MerError, match="permutations is 0; needed is 1 at least"):
        permutation_test(first, second, THREE, permutations=0)


def test_the_signed_ranks_are_the_slow_loop_over_signs():
    """Eight subjects: all 256 signs of the ranks, ties with their mean rank."""
    first, second = case((0.75, 0.55), subjects=8, clips=90, seed=11)

    def accuracy(rows):
        guess = rows[["p0", "p1", "p2"]].to_numpy().argmax(1)
        return subject_accuracy(rows["label"], guess, rows["subject"]).set_index("subject")["accuracy"]

    gaps = (accuracy(first) - accuracy(second)).round(12)
    ranks = gaps[gaps != 0].abs().rank().to_numpy()
    observed = ranks[gaps[gaps != 0] > 0].sum()
    null = np.array([ranks[np.array(signs)].sum() for signs in itertools.product([False, True], repeat=len(ranks))])
    found = signed_rank(first, second, THREE)
    assert (found["n"], found["subjects"], found["undefined"]) == (len(ranks), 8, None)
    assert found["greater"] == pytest.approx((null >= observed).mean())
    tails = (null >= observed).mean(), (null <= observed).mean()
    assert found["two_sided"] == pytest.approx(min(1, 2 * min(tails)))


def test_mcnemar_is_the_sum_over_binomial_coefficients():
    """Clips that one alone has right, counted in a loop; their order does not matter."""
    first, second = case((0.75, 0.55), subjects=8, clips=90, seed=11)
    of = [dict(zip(rows["id"], zip(rows["label"], rows["p0"], rows["p1"], rows["p2"], strict=True), strict=True))
          for rows in (first, second)]  # fmt: skip
    right = [{clip: max(range(3), key=lambda c: row[1 + c]) == row[0] for clip, row in side.items()} for side in of]
    b, c = (sum(right[i][clip] and not right[1 - i][clip] for clip in right[0]) for i in (0, 1))
    tail = sum(math.comb(b + c, k) for k in range(b, b + c + 1)) / 2 ** (b + c)
    found = mcnemar(first, second.sample(frac=1, random_state=0), THREE)
    assert (found["first"], found["second"], found["undefined"]) == (b, c, None)
    assert b > c > 0
    assert found["greater"] == pytest.approx(tail)
    assert found["two_sided"] == pytest.approx(min(1, 2 * tail))


def test_mcnemar_is_undefined_for_equal_clips_and_for_several_runs():
    first, _ = case((0.8, 0.5))
    assert mcnemar(first, first, THREE)["undefined"] == "both are right on the same clips"
    runs, _ = case((0.8, 0.5), runs=2)
    found = mcnemar(runs, runs, THREE)
    assert found["undefined"] == "with several runs a clip has no single prediction"
    assert found["two_sided"] is None
