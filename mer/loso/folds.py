"""Which clips a fold trains on, holds out and tests. Everything is keyed by (corpus, subject), never by position."""

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mer.clips import check_subjects
from mer.errors import MerError, listed
from mer.storage.files import digest


@dataclass(frozen=True)
class Fold:
    """Who is tested, and on which rows: a subject of a corpus; without a subject's name the whole corpus, or origin."""

    corpus: str
    subject: str
    test: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.corpus}/{self.subject}" if self.subject else self.corpus

    def stream(self, seed: int) -> int:
        """0..2**60-1, from which everything random in this fold is derived; nothing of the other folds is in it."""
        return int(digest(seed, self.name)[:15], 16)


def folds(table: pd.DataFrame, leave_out: str = "subject") -> list[Fold]:
    """One fold a (corpus, subject), in the order of their names; or one a corpus or origin with that `leave_out`.

    An origin is what column `origin` says, recorded or simulated. Subjects are text, or whole numbers in all rows.
    Raises MerError for any other, for subjects that are one person (mer.clips.check_subjects), and with fewer than two
    of what is left out.
    """
    keys = list(zip(table["corpus"], table["subject"], strict=True))
    for row, key in enumerate(keys):
        if not _is_named(*key) or isinstance(key[1], str) != isinstance(keys[0][1], str):
            raise MerError(
                f"leave-one-subject-out: {clip_in(table, row)} is of corpus {key[0]!r}, subject {key[1]!r}; needed are "
                "names, or whole numbers for all subjects: read the table with every cell as text"
            )
    check_subjects(((corpus, str(subject)) for corpus, subject in keys), "leave-one-subject-out")
    if len(set(keys)) < 2:
        raise MerError(f"leave-one-subject-out needs two subjects, the index has {len(set(keys))}")
    if leave_out != "subject":
        of = table[leave_out].tolist() if leave_out in table else ["recorded"] * len(table)
        names = sorted(set(of))
        if len(names) < 2:
            what = {"corpus": "leave-one-database-out needs two corpora", "origin": "leave_out origin needs both"}[
                leave_out
            ]
            raise MerError(
                f"{what}, the index has {listed(names)} alone; take a composite, or set leave_out to subject"
            )
        return [Fold(name, "", tuple(i for i, one in enumerate(of) if one == name)) for name in names]
    return [Fold(c, s, tuple(i for i, k in enumerate(keys) if k == (c, s))) for c, s in sorted(set(keys))]


def _is_named(corpus: Any, subject: Any) -> bool:
    return all(isinstance(name, str) and name for name in (corpus, str(subject) if is_whole(subject) else subject))


def is_whole(value: Any) -> bool:
    """Whether a cell of a table is a whole number."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def clip_in(table: pd.DataFrame, row: int) -> str:
    """How messages call a row of a table."""
    return f"clip {table['id'].iloc[row]}" if "id" in table else f"row {row}"


def hold_out(who: np.ndarray, labels: np.ndarray, share: float, stream: int) -> np.ndarray:
    """Some of the training subjects with all of their clips, for choosing an epoch without the test subject.

    A first subject is drawn; then greedily the one that brings the classes nearest to `share` of each, until none
    does. A subject stays in training when it is the last there with one of its classes.

    Args:
        who: (n,) subject of every training clip.
        labels: (n,) class of every training clip.
        share: of the clips to hold out, 0..1.
        stream: from which the first is drawn.

    Returns:
        (n,) bool, held out or not; with two subjects or more at least one is held out and one is not.

    Raises:
        MerError: there is only one training subject.
    """
    names, number = np.unique(who, return_inverse=True)
    if len(names) < 2:
        raise MerError(
            f"only {names[0]} is left to train on, and a validation needs a second subject; set train.selection to "
            "last_epoch and a recipe without early stopping or plateau"
        )
    counts = np.zeros((len(names), labels.max() + 1), dtype=np.int64)  # of every subject, by class
    np.add.at(counts, (number, labels), 1)
    wanted, held, kept = share * counts.sum(0), np.zeros(counts.shape[1]), counts.sum(0)
    order: list[int] = list(np.random.default_rng(stream).permutation(len(names)))
    chosen: list[int] = []

    def apart(subject: int) -> float:
        return float(((held + counts[subject] - wanted) ** 2).sum())

    while len(chosen) < len(names) - 1:
        free = [s for s in order if s not in chosen and (kept - counts[s])[counts[s] > 0].all()]
        # Where each subject is the only one with some class, holding out is worth more than that class.
        free = free or ([] if chosen else order)
        best = min(free if chosen else free[:1], key=apart, default=None)
        if best is None or (chosen and apart(best) >= ((held - wanted) ** 2).sum()):
            break
        chosen.append(best)
        held, kept = held + counts[best], kept - counts[best]
    return np.isin(number, _exchanged(chosen, order, counts, wanted))


def _exchanged(chosen: list[int], order: list[int], counts: np.ndarray, wanted: np.ndarray) -> list[int]:
    """`chosen` with subjects swapped for others, as long as that brings the classes nearer to what is wanted."""

    def error(some: list[int]) -> float:
        held = counts[some].sum(0)
        lost = ((counts.sum(0) > 0) & (counts.sum(0) == held)).any()
        return np.inf if lost else float(((held - wanted) ** 2).sum())

    best = error(chosen)
    while np.isfinite(best):
        trials = [[*(c for c in chosen if c != out), new] for out in chosen for new in order if new not in chosen]
        nearest = min(trials, key=error, default=chosen)
        if error(nearest) >= best:
            break
        chosen, best = nearest, error(nearest)
    return chosen
