"""What the training loop is given, and the protocol of the two ways in which folds are trained.

`SingleFold` (mer.loso.one_fold) trains the plain network, which is fastest on a CPU. `StackedFolds`
(mer.loso.stacked_folds) trains several folds in parallel, with their parameters in one tensor. Both are `Folds`.

Shapes: N clips, K folds, B rows of a batch, C classes.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.errors import MerError
from mer.loso.augmentation import Augmentation
from mer.loso.optim import Schedule
from mer.networks import norm, random_layers

# (network, inputs (B, …), labels (B,), row_weight (B,)[, targets (B, T)]) -> scalar; row_weight: 1/n for a clip, 0 for
# padding; targets where the model declares them.
Loss = Callable[..., Tensor]


def cross_entropy(network: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor, row_weight: Tensor) -> Tensor:
    """The mean over the clips; rows of weight 0 do not count."""
    return (F.cross_entropy(network(inputs), labels, reduction="none") * row_weight).sum()


@dataclass(frozen=True)
class Task:
    """One fold. name: for messages; stream: 0..2**63-1, the seed of its random numbers; the rest: rows of the inputs.

    validation: rows of training subjects that are held out, for the selection, `plateau` and early stopping.
    """

    name: str
    stream: int
    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How all folds are trained.

    augment: changes training clips, a batch at a time; patience: a fold stops after so many epochs without a lower
    validation loss; best: the epoch with the lowest validation loss is tested instead of the last one; audit: also
    keeps what selecting the epoch on the test clips would have given, and changes nothing else; bf16: bfloat16
    autocast; compiled: torch.compile.
    explain, explain_training: called with the weights that are tested, see mer/models/__init__.py: (network, inputs
    (B, …)) -> arrays (B, …) by name, of the test clips; (network, inputs, labels (B,)) -> arrays (B,) by name, of the
    training clips.
    keep: called with the network of each fold, in evaluation mode, with the weights that are tested.
    """

    schedule: Schedule
    batch_size: int
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    augment: Augmentation | None = None
    loss: Loss = cross_entropy
    patience: int | None = None
    best: bool = False
    audit: bool = False
    bf16: bool = False
    compiled: bool = False
    explain: Callable[[nn.Module, Tensor], dict[str, Tensor]] | None = None
    explain_training: Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]] | None = None
    keep: Callable[[nn.Module], None] | None = None

    @property
    def needs_validation(self) -> bool:
        return self.best or self.patience is not None or self.schedule.needs_validation


@dataclass(frozen=True)
class LabelledClips:
    """inputs (N, …), labels (N,) int64, on the device that computes; ids (N,), for messages.

    targets: (N, T), what else the loss is given of training clips; None where the model declares none.
    """

    inputs: Tensor
    labels: Tensor
    ids: Sequence[str]
    targets: Tensor | None = None

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        index = self._index(rows)
        return self.inputs[index], self.labels[index]

    def more(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """The last arguments of the loss: the targets of these clips, or nothing."""
        return () if self.targets is None else (self.targets[self._index(rows)],)

    def _index(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self.inputs.device, non_blocking=True)


class Folds(Protocol):
    """The networks of K folds in training. Every list has one entry a fold, in their order; K is 1 in `SingleFold`.

    The order of calls in an epoch is `begin_epoch`, then `losses` and `update` for each step. The networks are in
    training mode between calls. A fold's numbers do not depend on the other folds, except for rounding.
    """

    def begin_epoch(self, epoch: int) -> None:
        """epoch: 0, 1, …; layers that draw once an epoch draw anew."""

    def losses(self, rows: Sequence[np.ndarray | None], drawn: Sequence[np.ndarray | None]) -> Tensor:
        """The losses (K,) of the next batches.

        Args:
            rows: the clips of each batch; None for a fold without one, whose loss is 0.
            drawn: what `plan.augment.draw` gave for them; None without augmentation.

        Raises:
            MerError: a network draws random numbers outside layers that the engine controls.
        """

    def update(self, losses: Tensor, rates: list[float], active: list[bool]) -> None:
        """One step of the optimizer with each fold's learning rate; folds that are not active do not change."""

    def probabilities(self, rows: list[np.ndarray], size: int) -> list[np.ndarray]:
        """(n, C) float64 for the n rows of each fold, by the networks in evaluation mode; batches of `size`."""

    def remember(self, which: list[int]) -> None:
        """Keep the present weights of these folds."""

    def recall(self, which: list[int]) -> None:
        """Put back what `remember` kept last for these folds."""

    def select(self, which: list[int]) -> None:
        """Go on with these folds only; their weights and moments stay as they are."""

    def network_of(self, k: int) -> nn.Module:
        """The network of fold k as a plain module, for the model's `explain`. It may be a copy."""


# ---- what both ways need --------------------------------------------------------------------------------------------


def new_network(task: Task, build: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    """The fold's network in training mode: initial weights and dropout masks come from the fold's stream.

    Raises MerError for layers whose random numbers or statistics the engine cannot control, and for batch norm with a
    single training clip.
    """
    with torch.random.fork_rng():
        torch.manual_seed(task.stream)
        network = controlled(build().to(device))
    if len(task.train) == 1 and norm.of(network):
        raise MerError(
            f"fold {task.name} is left with one training clip, and batch norm needs two; add subjects, or lower "
            "train.held_out"
        )
    return network.train()


def controlled(network: nn.Module) -> nn.Module:
    """The same network with the engine's dropout layers. Raises MerError for layers that the engine cannot control."""
    norm.check(network)
    random_layers.attach(network)
    return network


def weight_dtype(inputs: Tensor) -> torch.dtype:
    """The dtype of row weights; inputs may be uint8."""
    return inputs.dtype if inputs.is_floating_point() else torch.float32


def autocast(device: torch.device, plan: TrainingPlan) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16) if plan.bf16 else contextlib.nullcontext()


def compiled(function: Callable[..., Tensor], plan: TrainingPlan) -> Callable[..., Tensor]:
    """The function, by torch.compile where the plan says so.

    Its first call, which compiles, raises MerError where that fails, as it does without a compiler.
    """
    if not plan.compiled:
        return function
    from torch._dynamo.exc import TorchDynamoException  # takes a second

    call = torch.compile(function)

    def checked(*args: Any) -> Tensor:
        try:
            return call(*args)
        except TorchDynamoException as error:
            reason = str(error).partition("\n\nSet TORCH")[0][:200]  # which variables to set for a longer one
            raise MerError(
                f"recipe.compiled: torch.compile fails here ({reason}); set it to false, or install a C++ compiler "
                "(g++), and Triton for a GPU"
            ) from None

    return checked
