"""Optimisers of several folds at once, and the learning rates and ends that each fold has of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mer.errors import MerError


class StackedAdam:
    """Adam or AdamW on one tensor (K, …): K folds with their own step counts and learning rates.

    Equal to torch.optim.Adam / AdamW on every fold by itself.

    Args:
        parameter: changed in place by `step`.
        weight_decay: added to the gradient or, with `decoupled` (AdamW), taken from the parameter itself.
    """

    def __init__(
        self, parameter: Tensor, *, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0, decoupled=False
    ):
        self.parameter, self.betas, self.eps = parameter, betas, eps
        self.weight_decay, self.decoupled = weight_decay, decoupled
        self.first, self.second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self.steps = np.zeros(len(parameter), dtype=np.int64)

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: Sequence[float], active: Sequence[bool]) -> None:
        """One step of the active folds with their rates (K,); the others are not touched, whatever their gradient."""
        active, rate = np.asarray(active, dtype=bool), np.asarray(rate, dtype=np.float64)
        if not active.any():
            return
        self.steps[active] += 1
        steps, rate = self.steps[active], rate[active]
        (b1, b2), p = self.betas, self.parameter
        if active.all():
            parts = (p, self.first, self.second, gradient)
        else:
            index = torch.from_numpy(np.flatnonzero(active)).to(p.device)
            parts = tuple(t[index] for t in (p, self.first, self.second, gradient))
        value, first, second, gradient = parts

        def per_fold(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(p.device, p.dtype).view(-1, *[1] * (p.dim() - 1))

        if self.weight_decay:
            if self.decoupled:
                value.mul_(per_fold(1 - rate * self.weight_decay))
            else:
                gradient = gradient.add(value, alpha=self.weight_decay)
        first.lerp_(gradient, 1 - b1)
        second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        size = second.sqrt().div_(per_fold(np.sqrt(1 - b2**steps))).add_(self.eps)
        value.sub_((first / size).mul_(per_fold(rate / (1 - b1**steps))))
        if not active.all():
            for whole, part in ((p, value), (self.first, first), (self.second, second)):
                whole[index] = part

    def select(self, parameter: Tensor, kept: Tensor) -> None:
        """Go on with the folds `kept` (indices on the device), whose values are in `parameter`."""
        self.parameter = parameter
        self.first, self.second = self.first[kept], self.second[kept]
        self.steps = self.steps[kept.cpu().numpy()]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of an epoch: a pure function of the epoch and of the fold's validation losses so far.

    kind: `constant`; `step`: times `factor` every `every` epochs; `cosine`: half a wave from `lr` at the end of the
    warm-up to `lowest` after the last epoch; `plateau`: times `factor` after more than `patience` epochs without an
    improvement by a 10,000th of the best validation loss, as torch's ReduceLROnPlateau has it.
    warmup: epochs in which the rate grows evenly to what it is without; lowest: where `cosine` and `plateau` end.
    """

    kind: Literal["constant", "step", "cosine", "plateau"] = "constant"
    lr: float
    epochs: int
    warmup: int = 0
    every: int = 30
    factor: float = 0.1
    patience: int = 10
    lowest: float = 0.0

    def __post_init__(self):
        if self.kind not in ("constant", "step", "cosine", "plateau"):
            raise MerError(f"schedule {self.kind!r} is unknown; valid: constant, step, cosine, plateau")
        if not 0 <= self.warmup < self.epochs:
            raise MerError(f"warmup is {self.warmup} of {self.epochs} epochs; it must be 0 or above and below them")
        if self.every < 1 or self.patience < 0 or not 0 < self.factor < 1 or not 0 <= self.lowest <= self.lr:
            raise MerError(f"schedule needs every >= 1, patience >= 0, factor in 0..1 and lowest in 0..lr; got {self}")

    @property
    def watches(self) -> bool:
        """Whether it needs validation losses."""
        return self.kind == "plateau"

    def rate(self, epoch: int, losses: Sequence[float] = ()) -> float:
        """For epoch 0, 1, …; losses: validation losses of the epochs before it (read by `plateau` only)."""
        warming = min(1.0, (epoch + 1) / (self.warmup + 1))
        if self.kind == "step":
            return self.lr * warming * self.factor ** (max(0, epoch - self.warmup) // self.every)
        if self.kind == "cosine":
            done = max(0, epoch - self.warmup) / (self.epochs - self.warmup)
            return warming * (self.lowest + (self.lr - self.lowest) * (1 + math.cos(math.pi * done)) / 2)
        if self.kind == "plateau":
            rate, best, bad = self.lr, math.inf, 0
            for loss in losses:
                best, bad = (loss, 0) if loss < best * (1 - 1e-4) else (best, bad + 1)
                if bad > self.patience:
                    rate, bad = max(rate * self.factor, self.lowest), 0
            return warming * rate
        return self.lr * warming


def stops(losses: Sequence[float], patience: int | None) -> bool:
    """Early stopping: whether the last `patience` validation losses brought nothing below the best before them."""
    if patience is None or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])
