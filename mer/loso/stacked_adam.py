"""Adam and AdamW of several folds in one tensor."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor


class StackedAdam:
    """Adam or AdamW on one tensor (K, …): K folds with their own step counts and learning rates.

    Equal to torch.optim.Adam / AdamW on every fold by itself.

    Args:
        parameter: changed in place by `step`.
        weight_decay: added to the gradient (adam), or subtracted from the parameter itself (adamw).
    """

    def __init__(
        self, parameter: Tensor, *, optimizer: Literal["adam", "adamw"] = "adam",
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
    ):  # fmt: skip
        self.parameter, self.betas, self.eps = parameter, betas, eps
        self.weight_decay, self.optimizer = weight_decay, optimizer
        self.first, self.second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self.steps = np.zeros(len(parameter), dtype=np.int64)

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: Sequence[float], active: Sequence[bool]) -> None:
        """One step of the active folds with their rates (K,); the others do not change, whatever their gradient."""
        on = np.asarray(active, dtype=bool)
        if not on.any():
            return
        self.steps[on] += 1
        steps, rates = self.steps[on], np.asarray(rate, dtype=np.float64)[on]
        (b1, b2), p = self.betas, self.parameter
        parts: tuple[Tensor, ...]
        if on.all():
            parts = (p, self.first, self.second, gradient)
        else:
            index = torch.from_numpy(np.flatnonzero(on)).to(p.device)
            parts = tuple(t[index] for t in (p, self.first, self.second, gradient))
        value, first, second, gradient = parts

        def per_fold(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(p.device, p.dtype).view(-1, *[1] * (p.dim() - 1))

        if self.weight_decay:
            if self.optimizer == "adamw":
                value.mul_(per_fold(1 - rates * self.weight_decay))
            else:
                gradient = gradient.add(value, alpha=self.weight_decay)
        first.lerp_(gradient, 1 - b1)
        second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        size = second.sqrt().div_(per_fold(np.sqrt(1 - b2**steps))).add_(self.eps)
        value.sub_((first / size).mul_(per_fold(rates / (1 - b1**steps))))
        if not on.all():
            for whole, part in ((p, value), (self.first, first), (self.second, second)):
                whole[index] = part

    def select(self, parameter: Tensor, kept: Tensor) -> None:
        """Go on with the folds `kept` (indices on the device), whose values are in `parameter`."""
        self.parameter = parameter
        self.first, self.second = self.first[kept], self.second[kept]
        self.steps = self.steps[kept.cpu().numpy()]
