"""Learning rates and early stopping, fold by fold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mer.errors import MerError


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

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "step", "cosine", "plateau"):
            raise MerError(f"schedule {self.kind!r} is unknown; valid: constant, step, cosine, plateau")
        if not 0 <= self.warmup < self.epochs:
            raise MerError(f"warmup is {self.warmup} of {self.epochs} epochs; it must be 0 or above and below them")
        if self.every < 1 or self.patience < 0 or not 0 < self.factor < 1 or not 0 <= self.lowest <= self.lr:
            raise MerError(f"schedule needs every >= 1, patience >= 0, factor in 0..1 and lowest in 0..lr; got {self}")

    @property
    def needs_validation(self) -> bool:
        """Whether the rate depends on validation losses."""
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
