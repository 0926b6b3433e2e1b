"""Trains and tests the networks of a job.

Shapes: N clips, n test clips of a job, C classes.
"""

import functools
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mer import models
from mer.errors import MerError, listed
from mer.loso.augmentation import of_model
from mer.loso.folds import Fold, hold_out
from mer.loso.jobs import EXPLAINED, EXPLAINED_TRAINING, Job, Training
from mer.loso.loop import Outcome, train_folds
from mer.loso.memory import folds_that_fit
from mer.loso.recipe import Recipe
from mer.loso.stacked_folds import vmap_obstacle
from mer.loso.task import Task, TrainingPlan, cross_entropy
from mer.parallel import Engine
from mer.storage.weights import digest_of

HOLDING_OUT = 1  # added to a fold's stream for the draw of held-out subjects


@dataclass(frozen=True, kw_only=True)
class NetworkTraining(Training):
    """The arguments of mer.loso.run.run, as a process needs them; audit is on where the selection is leaky."""

    recipe_changes: dict[str, Any]
    selection: str
    audit: bool
    held_out: float
    validation: str
    weights: str | None
    explaining: bool

    @functools.cached_property
    def recipe(self) -> Recipe:
        return Recipe.of_model(models.load(self.model), self.recipe_changes, self.knobs)

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    def settings(self) -> list:
        held_out = None if not self._holds_out else self.held_out if self.validation == "held_out" else self.validation
        weights = digest_of(self.weights) if self.weights else None
        return [
            self.model, self.classes, self.knobs, asdict(self.recipe), self.selection, self.audit, held_out,
            self.device, weights, self.explaining,
        ]  # fmt: skip

    @property
    def _holds_out(self) -> bool:
        return self.selection == "inner_val" or self.recipe.needs_validation

    def group_size(self, count: int, wanted: int | Literal["auto"], engine: Engine) -> int:
        """At most what fits into memory; 1 for a network that vmap cannot run. Both are printed."""
        size = count if wanted == "auto" else min(int(wanted), count)
        if size == 1:
            return 1
        inputs, labels, targets = self._tensors()
        obstacle = vmap_obstacle(self._build, inputs, self._plan(), targets)
        if obstacle is not None:
            _print_note(engine, f"{self.model} trains one fold at a time: {obstacle}")
            return 1
        processes = engine.count(-(-count // size)) if self.device == "cpu" else 1
        fits = folds_that_fit(self._build, inputs, labels, self._plan(), processes, targets)
        if fits < size and wanted != "auto":
            _print_note(
                engine, f"train.folds_in_parallel is {wanted}, but only {fits} fit into memory: {fits} at a time"
            )
        return min(size, fits)

    def __call__(self, job: Job, bar: Any = None) -> dict[str, np.ndarray]:
        """probability (n, C), folds one after another; epochs, chosen, loss, one a fold; with the audit also audit
        (n, C) and audit_epoch; and the explanations."""
        tasks = [self._task(fold, job.seed) for fold in job.folds]
        outcomes = self._train(tasks, bar)
        self._check_explanations(outcomes[0])
        result = {
            "probability": np.concatenate([o.probability for o in outcomes]),
            "epochs": np.array([o.epochs for o in outcomes]),
            "chosen": np.array([o.chosen for o in outcomes]),
            "loss": np.array([o.train_losses[-1] for o in outcomes]),
        }
        if self.audit:
            result |= {
                "audit": np.concatenate([o.audit for o in outcomes]),
                "audit_epoch": np.array([o.audit_epoch for o in outcomes]),
            }
        for name in outcomes[0].explained:
            result[EXPLAINED + name] = np.concatenate([o.explained[name] for o in outcomes])
        for name in outcomes[0].explained_training:
            values = np.full((len(outcomes), len(self.labels)), np.nan, dtype=np.float32)
            for row, task, outcome in zip(values, tasks, outcomes, strict=True):
                row[task.train] = outcome.explained_training[name]
            result[EXPLAINED_TRAINING + name] = values
        return result

    def fitted(self, fold: Fold, seed: int) -> nn.Module:
        """The network of a fold, trained as `__call__` does it, in evaluation mode."""
        kept: list[nn.Module] = []
        inputs, labels, targets = self._tensors()
        plan = replace(self._plan(), keep=kept.append)
        train_folds(
            [self._task(fold, seed)], inputs, labels, self._build, plan, ids=self.ids, targets=targets,
            in_parallel=False,
        )  # fmt: skip
        return kept[0]

    def _check_explanations(self, outcome: Outcome) -> None:
        """Raise MerError for names that cannot stand in one product."""
        path, names, of_training = models.load(self.model).path, outcome.explained, outcome.explained_training
        if twice := sorted(names.keys() & of_training.keys()):
            raise MerError(f"{path}: explain and explain_training both return {listed(twice)}; rename one of them")
        if taken := sorted({"clip_id", "key"} & (names.keys() | of_training.keys())):
            raise MerError(f"{path}: explain returns {listed(taken)}, which explain.h5 uses itself; rename it")
        if (names or of_training) and "data" not in names:
            raise MerError(f"{path}: explain returns {listed(names) or 'nothing'}; one array must be named data")

    def _train(self, tasks: list[Task], bar: Any) -> list[Outcome]:
        """In parallel; where that does not fit into the GPU's memory, half of them at a time."""

        def after_epoch(loss: float) -> None:
            if bar is not None:
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                bar.update()

        inputs, labels, targets = self._tensors()
        try:
            return train_folds(
                tasks, inputs, labels, self._build, self._plan(), ids=self.ids, targets=targets,
                in_parallel=len(tasks) > 1, after_epoch=after_epoch,
            )  # fmt: skip
        except torch.cuda.OutOfMemoryError:
            if len(tasks) == 1:
                raise MerError(
                    f"fold {tasks[0].name} does not fit into the GPU's memory; lower recipe.batch_size"
                ) from None
        half = (len(tasks) + 1) // 2
        print(f"{len(tasks)} folds in parallel do not fit into the GPU's memory: {half} at a time", file=sys.stderr)
        torch.cuda.empty_cache()
        return [*self._train(tasks[:half], bar), *self._train(tasks[half:], bar)]

    def _task(self, fold: Fold, seed: int) -> Task:
        test, stream = np.array(fold.test, dtype=np.int64), fold.stream(seed)
        train, validation = np.setdiff1d(np.arange(len(self.labels)), test), np.empty(0, dtype=np.int64)
        if self._holds_out and self.validation == "test_subject":
            validation = test
        elif self._holds_out:
            held = hold_out(self.subjects[train], self.labels[train], self.held_out, stream + HOLDING_OUT)
            train, validation = train[~held], train[held]
        return Task(fold.name, stream, train, test, validation)

    def _plan(self) -> TrainingPlan:
        recipe, spec = self.recipe, models.load(self.model)
        return TrainingPlan(
            schedule=recipe.rates(), batch_size=recipe.batch_size, optimizer=recipe.optimizer,
            weight_decay=recipe.weight_decay, augment=of_model(spec, recipe), loss=spec.loss or cross_entropy,
            patience=recipe.stop or None, best=self.selection == "inner_val", audit=self.audit,
            bf16=recipe.bf16 and self.device != "cpu", compiled=recipe.compiled,
            explain=spec.explain if self.explaining else None,
            explain_training=spec.explain_training if self.explaining else None,
        )  # fmt: skip

    def _build(self) -> nn.Module:
        network = models.build(self.model, self.classes, **self.knobs)
        if not self.weights:
            return network
        # mer.loso.run.run refuses weights for a model that declares no load_weights.
        return models.load(self.model).load_weights(network, self.weights)  # type: ignore[misc]

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs, labels and targets on the device, where they stay."""
        inputs, labels = (torch.from_numpy(array).to(self.device) for array in (self.inputs, self.labels))
        return inputs, labels, None if self.targets is None else torch.from_numpy(self.targets).to(self.device)


def _print_note(engine: Engine, text: str) -> None:
    if engine.progress:
        print(text, file=sys.stderr)
