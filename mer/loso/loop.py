"""The training loop: trains and tests the networks of several folds, in parallel or one after another.

The result of a fold depends on its own stream and clips only. Its initial weights, order of the clips, dropout masks,
batch statistics, learning rate and moments are its own. So folds that are trained in parallel give the same results as
each of them alone, to rounding.

Shapes: N clips, C classes.
"""

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mer.errors import MerError, listed
from mer.loso.one_fold import SingleFold
from mer.loso.optim import stops
from mer.loso.stacked_folds import StackedFolds
from mer.loso.task import Folds, LabelledClips, Task, TrainingPlan, autocast


@dataclass
class Outcome:
    """The result of a fold.

    probability: (n_test, C) float64; epochs: how many it was trained; chosen: the epoch (from 1) that was tested;
    train_losses, validation_losses: one an epoch; audit, audit_epoch: (n_test, C) and the first epoch of the highest
    accuracy on the test clips; explained: (n_test, …) by name, from the plan's `explain`; explained_training:
    (n_train,) by name, from its `explain_training`; float32.
    """

    probability: np.ndarray | None = None
    epochs: int = 0
    chosen: int = 0
    train_losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    audit: np.ndarray | None = None
    audit_epoch: int = 0
    explained: dict[str, np.ndarray] = field(default_factory=dict)
    explained_training: dict[str, np.ndarray] = field(default_factory=dict)
    _audit_accuracy: float = -1.0


def train_folds(
    tasks: Sequence[Task],
    inputs: Tensor,
    labels: Tensor,
    build: Callable[[], nn.Module],
    plan: TrainingPlan,
    *,
    ids: Sequence[str],
    targets: Tensor | None = None,
    in_parallel: bool = True,
    after_epoch: Callable[[float], None] | None = None,
) -> list[Outcome]:
    """Train and test every fold.

    Args:
        inputs, labels: (N, …) and (N,) int64, on the device that computes.
        build: returns a new network. Its random numbers come from torch's global generator, which is set to the fold's
            stream before and put back after.
        ids: (N,) names of the clips, for messages.
        targets: (N, T) what else the loss is given, of training clips alone.
        in_parallel: all folds at once; False: one after another. mer.loso.stacked_folds.vmap_obstacle finds networks
            that cannot be trained in parallel.
        after_epoch: called after every epoch with the mean training loss of the folds in training.

    Returns:
        One outcome a task, in their order.

    Raises:
        MerError: a loss that is not finite, before the weights change (names fold, epoch and clips); a layer with
            random numbers of its own; no validation clips where the plan needs them.
    """
    for task in tasks:
        if plan.needs_validation and not len(task.validation):
            raise MerError(f"fold {task.name} holds out no clips, which this recipe needs")
    clips = LabelledClips(inputs, labels, ids, targets)
    if in_parallel and len(tasks) > 1:
        with _deterministic_float32():
            return _train(StackedFolds(tasks, clips, build, plan), tasks, clips, plan, after_epoch)
    with _deterministic_float32(), _freed_memory_kept(inputs.device):
        return [_train(SingleFold(t, clips, build, plan), [t], clips, plan, after_epoch)[0] for t in tasks]


def batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive batches; a last one of a single clip joins its neighbour, since batch norm cannot take it."""
    cuts = list(range(size, len(rows), size))
    if cuts and len(rows) - cuts[-1] == 1:
        cuts.pop()
    return np.split(rows, cuts)


def _train(
    folds: Folds,
    tasks: Sequence[Task],
    clips: LabelledClips,
    plan: TrainingPlan,
    after_epoch: Callable[[float], None] | None = None,
) -> list[Outcome]:
    """`folds` holds those that are still in training; `active` are their places in `tasks`."""
    outcomes = [Outcome() for _ in tasks]
    samplers = [np.random.default_rng(task.stream) for task in tasks]
    active = list(range(len(tasks)))
    for epoch in range(plan.schedule.epochs):
        folds.begin_epoch(epoch)
        rates = [plan.schedule.rate(epoch, outcomes[k].validation_losses) for k in active]
        todo = [batches(samplers[k].permutation(tasks[k].train), plan.batch_size) for k in active]
        sums = np.zeros(len(active))
        for step in range(max(len(b) for b in todo)):
            rows = [b[step] if step < len(b) else None for b in todo]
            drawn = [
                plan.augment.draw(samplers[k], len(r)) if plan.augment is not None and r is not None else None
                for k, r in zip(active, rows, strict=True)
            ]
            losses = folds.losses(rows, drawn)
            values = losses.detach().double().cpu().numpy()
            for k, r, value in zip(active, rows, values, strict=True):
                if r is not None and not math.isfinite(value):
                    raise MerError(
                        f"fold {tasks[k].name}, epoch {epoch + 1}: loss is {value} on clips "
                        f"{listed(clips.ids[i] for i in r)}; lower recipe.lr"
                    )
            folds.update(losses, rates, [r is not None for r in rows])
            sums += [value * len(r) if r is not None else 0 for r, value in zip(rows, values, strict=True)]
        _after_epoch(folds, [tasks[k] for k in active], [outcomes[k] for k in active], sums, clips, plan)
        if after_epoch is not None:
            after_epoch(float(np.mean([outcomes[k].train_losses[-1] for k in active])))
        if plan.patience is not None:
            on = [i for i, k in enumerate(active) if not stops(outcomes[k].validation_losses, plan.patience)]
            if len(on) < len(active) and epoch + 1 < plan.schedule.epochs:
                _test(folds, tasks, outcomes, active, [i for i in range(len(active)) if i not in on], clips, plan)
                active = [active[i] for i in on]
                if not active:
                    return outcomes
                folds.select(on)
    _test(folds, tasks, outcomes, active, list(range(len(active))), clips, plan)
    return outcomes


def _after_epoch(
    folds: Folds, tasks: list[Task], outcomes: list[Outcome], sums: np.ndarray, clips: LabelledClips, plan: TrainingPlan
) -> None:
    """Record the losses of an epoch, the best weights so far, and the audit."""
    for task, outcome, total in zip(tasks, outcomes, sums, strict=True):
        outcome.epochs += 1
        outcome.train_losses.append(float(total / len(task.train)))
        if not plan.best:
            outcome.chosen = outcome.epochs
    if plan.needs_validation:
        better = []
        found = folds.probabilities([task.validation for task in tasks], plan.batch_size)
        for k, (task, outcome) in enumerate(zip(tasks, outcomes, strict=True)):
            label = clips.labels[torch.from_numpy(task.validation).to(clips.labels.device)].cpu().numpy()
            likelihood = found[k][np.arange(len(label)), label]
            with np.errstate(divide="ignore"):
                loss = float(-np.log(likelihood).mean())
            _check_finite(likelihood, task, outcome, task.validation, clips)
            if loss < min(outcome.validation_losses, default=math.inf) or not outcome.validation_losses:
                better.append(k)
                if plan.best:
                    outcome.chosen = outcome.epochs
            outcome.validation_losses.append(loss)
        if plan.best:
            folds.remember(better)
    if plan.audit:
        found = folds.probabilities([task.test for task in tasks], plan.batch_size)
        for task, outcome, probability in zip(tasks, outcomes, found, strict=True):
            label = clips.labels[torch.from_numpy(task.test).to(clips.labels.device)].cpu().numpy()
            accuracy = float((probability.argmax(1) == label).mean())
            if accuracy > outcome._audit_accuracy:
                outcome.audit, outcome.audit_epoch = probability, outcome.epochs
                outcome._audit_accuracy = accuracy


def _test(
    folds: Folds, tasks: Sequence[Task], outcomes: list[Outcome], active: list[int], which: list[int],
    clips: LabelledClips, plan: TrainingPlan,
) -> None:  # fmt: skip
    """Test the folds `which` (places in `active`), whose training has ended."""
    if plan.best:
        folds.recall(which)
    rows = [tasks[k].test if i in which else np.empty(0, dtype=np.int64) for i, k in enumerate(active)]
    found = folds.probabilities(rows, plan.batch_size)
    for i in which:
        task, outcome = tasks[active[i]], outcomes[active[i]]
        _check_finite(found[i], task, outcome, task.test, clips)
        outcome.probability = found[i]
        if plan.explain is not None or plan.explain_training is not None:
            _explain(folds.network_of(i), task, outcome, clips, plan)
        if plan.keep is not None:
            plan.keep(folds.network_of(i).eval())


def _explain(network: nn.Module, task: Task, outcome: Outcome, clips: LabelledClips, plan: TrainingPlan) -> None:
    """Call the model's `explain` on the test clips and its `explain_training` on the training clips.

    The network is in evaluation mode, with gradients enabled.
    """

    def parts(rows: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        return [clips.take(part) for part in np.split(rows, range(plan.batch_size, len(rows), plan.batch_size))]

    network.eval()
    with autocast(clips.inputs.device, plan):
        if plan.explain is not None:
            outcome.explained = _explained("explain", plan.explain, network, ((x,) for x, _ in parts(task.test)))
        if plan.explain_training is not None:
            outcome.explained_training = _explained(
                "explain_training", plan.explain_training, network, parts(task.train)
            )
    network.train()


def _explained(
    function: str, call: Callable[..., dict[str, Tensor]], network: nn.Module, parts: Iterable
) -> dict[str, np.ndarray]:
    """What a function of the model returns for all parts, by name, float32.

    Gradients of the parameters are cleared before each call and after the last.
    """
    found = []
    for part in parts:
        network.zero_grad(set_to_none=True)
        found.append({name: value.detach().float().cpu() for name, value in call(network, *part).items()})
        for name, value in found[-1].items():
            if value.shape[:1] != part[0].shape[:1]:
                raise MerError(
                    f"the model's {function} returns {name!r} of shape {tuple(value.shape)} for {len(part[0])} clips; "
                    "needed is one row a clip"
                )
    network.zero_grad(set_to_none=True)
    return {name: torch.cat([part[name] for part in found]).numpy() for name in found[0]}


def _check_finite(
    probability: np.ndarray, task: Task, outcome: Outcome, rows: np.ndarray, clips: LabelledClips
) -> None:
    """A last step that breaks the weights has no later loss to show it."""
    if not np.isfinite(probability).all():
        raise MerError(
            f"fold {task.name}, after epoch {outcome.epochs}: probabilities of {listed(clips.ids[i] for i in rows)} "
            "are not finite; lower recipe.lr"
        )


@contextlib.contextmanager
def _deterministic_float32() -> Iterator[None]:
    """On a GPU: the same sums in every run, and float32 without TF32, which has 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def _freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Let the C library keep freed memory instead of giving it back to the system.

    Every step frees and allocates the same large tensors; new pages for them cost a quarter of STSTNet's step. Only
    glibc has the switch; elsewhere nothing happens.
    """
    mmap_most, trim_at = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    try:
        library: Any = ctypes.CDLL(None) if device.type == "cpu" else None
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    mallopt(mmap_most, 0)
    mallopt(trim_at, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(mmap_most, 65536)  # glibc's defaults
        mallopt(trim_at, 128 * 1024)
        trim(0)
