"""A job is the folds that one call trains. `EstimatorTraining` does it for scikit-learn estimators, without torch;
mer.loso.networks for networks.

Shapes: N clips, n test clips of a job, C classes.
"""

import abc
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mer import models
from mer.loso.folds import Fold
from mer.parallel import Engine

# Names of explanations in a job's result begin so: of its test clips (n, …), and of training clips (folds, N).
EXPLAINED, EXPLAINED_TRAINING = "explained.", "explained_training."


@dataclass(frozen=True)
class Job:
    """Folds that are trained in parallel, and the key of their result."""

    seed: int
    folds: tuple[Fold, ...]
    key: str


@dataclass(frozen=True, kw_only=True)
class Training(abc.ABC):
    """All that a process needs to train folds. Called with a job, it returns the arrays of the job's result.

    inputs (N, …), labels (N,) int64, ids (N,), subjects (N,): "<corpus>/<subject>"; rows are the same in all. targets
    (N, T) float32: what else the model's loss is given of training clips; None for a model that declares none.
    """

    inputs: np.ndarray
    labels: np.ndarray
    ids: list[str]
    subjects: np.ndarray
    model: str
    classes: int
    knobs: dict[str, Any]
    device: str = "cpu"
    targets: np.ndarray | None = None

    @property
    def epochs(self) -> int | None:
        """Of a fold, for the progress bar."""
        return None

    @abc.abstractmethod
    def settings(self) -> list:
        """What the result depends on, apart from clips and code."""

    @abc.abstractmethod
    def group_size(self, count: int, wanted: int | Literal["auto"], engine: Engine) -> int:
        """How many of `count` folds a job has, where `wanted` is asked for."""

    @abc.abstractmethod
    def fitted(self, fold: Fold, seed: int) -> Any:
        """The model of a fold: a network in evaluation mode, or an estimator; without test clips it trains on all."""

    @abc.abstractmethod
    def __call__(self, job: Job, bar: Any = None) -> dict[str, np.ndarray]:
        """At least `probability` (n, C), the job's folds one after another. bar: moves once an epoch."""


@dataclass(frozen=True, kw_only=True)
class EstimatorTraining(Training):
    """Trains scikit-learn estimators, one fold at a time."""

    def settings(self) -> list:
        return [self.model, self.classes, self.knobs]

    def group_size(self, count: int, wanted: int | Literal["auto"], engine: Engine) -> int:
        return 1

    def __call__(self, job: Job, bar: Any = None) -> dict[str, np.ndarray]:
        return {"probability": np.concatenate([self._tested(fold) for fold in job.folds])}

    def fitted(self, fold: Fold, seed: int) -> Any:
        train = np.setdiff1d(np.arange(len(self.labels)), np.array(fold.test, dtype=np.int64))
        estimator = models.build(self.model, self.classes, **self.knobs)
        return estimator.fit(self.inputs[train], self.labels[train])

    def _tested(self, fold: Fold) -> np.ndarray:
        test = np.array(fold.test)
        estimator = self.fitted(fold, seed=0)
        # An estimator knows only the classes of its training clips; the others have probability 0.
        probability = np.zeros((len(test), self.classes))
        probability[:, estimator.classes_] = estimator.predict_proba(self.inputs[test])
        return probability
