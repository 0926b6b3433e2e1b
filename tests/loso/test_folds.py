"""Held-out training subjects: whole, of all classes, by the fold's own stream."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mer.errors import MerError
from mer.loso.folds import folds, hold_out
from tests.helpers.refusals import refused


def clips(n=240, subjects=25, seed=0):
    rng = np.random.default_rng(seed)
    who = np.array([f"s{i:02d}" for i in rng.integers(0, subjects, n)])
    return who, rng.choice(5, n, p=[0.13, 0.26, 0.11, 0.1, 0.4])


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_whole_subjects_and_every_class_in_its_share(share):
    who, labels = clips()
    for stream in range(20):
        held = hold_out(who, labels, share, stream)
        assert not set(who[held]) & set(who[~held])
        assert held.mean() == pytest.approx(share, abs=0.03)
        for label in range(5):
            # A subject has ten clips, so a class of 24 cannot be met to the clip.
            assert held[labels == label].mean() == pytest.approx(share, abs=0.12)


def test_recorded_and_simulated_clips_are_two_folds():
    table = pd.DataFrame({"id": list("abcd"), "corpus": ["x", "y", "z", "z"], "subject": ["1", "1", "1", "2"]})
    table["origin"] = ["recorded", "recorded", "simulated", "simulated"]
    found = folds(table, "origin")
    assert [(fold.name, fold.test) for fold in found] == [("recorded", (0, 1)), ("simulated", (2, 3))]
    refused("leave_out origin needs both, the index has recorded alone; take a composite, or set leave_out", folds,
            table.drop(columns="origin"), "origin")  # fmt: skip
    refused("leave-one-database-out needs two corpora, the index has z alone", folds, table[2:], "corpus")


def test_the_stream_decides_and_nothing_else():
    who, labels = clips()
    first = hold_out(who, labels, 0.2, 1)
    np.testing.assert_array_equal(first, hold_out(who, labels, 0.2, 1))
    order = np.random.default_rng(5).permutation(len(who))
    np.testing.assert_array_equal(first[order], hold_out(who[order], labels[order], 0.2, 1))
    assert len({frozenset(who[hold_out(who, labels, 0.2, s)]) for s in range(10)}) > 5


def test_the_only_subject_with_a_class_stays():
    who = np.repeat(list("abcd"), 5)
    labels = np.where(who == "b", 2, np.tile([0, 1, 0, 1, 0], 4))
    for stream in range(20):
        held = hold_out(who, labels, 0.25, stream)
        assert 0 < held.sum() < 20
        assert not held[who == "b"].any()


def test_where_each_has_a_class_of_its_own_one_is_held_out_all_the_same():
    who = np.repeat(list("abc"), 4)
    held = hold_out(who, np.repeat([0, 1, 2], 4), 0.2, 0)
    assert len(set(who[held])) == 1


def test_one_subject_is_refused():
    with pytest.raises(MerError, match="only a is left"):
        hold_out(np.array(["a", "a"]), np.array([0, 1]), 0.2, 0)


def test_few_subjects_are_held_out_as_well_as_can_be():
    """Eight subjects: the error to a fifth of every class, against all choices."""
    rng = np.random.default_rng(7)
    who = np.array([f"s{i}" for i in rng.choice(8, 100, p=[0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05])])
    labels = rng.choice(5, 100, p=[0.13, 0.26, 0.11, 0.1, 0.4])
    counts = np.array([[np.sum((who == w) & (labels == c)) for c in range(5)] for w in np.unique(who)])

    def error(some):
        return ((counts[list(some)].sum(0) - 0.2 * counts.sum(0)) ** 2).sum()

    best = min(error(s) for n in range(1, 5) for s in itertools.combinations(range(8), n))
    for stream in range(10):
        held = hold_out(who, labels, 0.2, stream)
        found = error([k for k, w in enumerate(np.unique(who)) if w in who[held]])
        assert found <= 2 * best + 4  # exchanging one subject at a time may end beside the best choice


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        ([1.0, 1.0, np.nan, np.nan], "row 0 is of corpus 'm', subject 1.0; needed are names"),
        (["1", "1", np.nan, "3"], "row 2 is of corpus 'm', subject nan; .*: read the table with every cell as text"),
        (["a", "b", None, "c"], "row 2 is of corpus 'm', subject None"),
        (["a", "b", pd.NA, "c"], "row 2 is of corpus 'm', subject <NA>"),
        (["a", "b", "", "c"], "row 2 is of corpus 'm', subject ''"),  # nobody knows who that is
        (["a", "b", 2, "c"], "row 2 is of corpus 'm', subject 2; needed are names, or whole numbers for all"),
        ([True, False, True, False], "row 0 is of corpus 'm', subject True"),
        (["Anna", "Bob", "anna", "Bob"], "leave-one-subject-out: subjects 'm/Anna' and 'm/anna' differ in letter case"),
    ],
)  # fmt: skip
def test_clips_without_a_subject_and_one_person_under_two_names_are_refused(subjects, message):
    table = pd.DataFrame({"corpus": "m", "subject": pd.Series(subjects, dtype=object)})
    refused(message, folds, table)
    refused(message.replace("row ", "clip x"), folds, table.assign(id=[f"x{row}" for row in range(4)]))


def test_whole_numbers_are_subjects_in_their_order():
    table = pd.DataFrame({"corpus": "m", "subject": [10, 2, 2, 10]})
    assert [fold.name for fold in folds(table)] == ["m/2", "m/10"]
