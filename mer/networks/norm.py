"""Batch norm that leaves padding out, for stacked folds whose batches differ in size.

Shapes: B rows, C channels; inputs (B, C, …). Equal to nn.BatchNorm1d/2d/3d on the real rows, to rounding.
"""

import torch
from torch import Tensor, nn

from mer.errors import MerError


class MaskedBatchNorm(nn.Module):
    """nn.BatchNorm with the same parameters and buffers, whose statistics are those of the real rows.

    `rows` (clips,) bool: which clips are real; empty, the initial value: all. A network may put m frames of a clip into
    m consecutive rows. Without any real row no statistics change.
    """

    rows: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm):
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.register_buffer("rows", torch.ones(0, dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        wide = x if x.dtype == torch.float64 else x.float()  # statistics of bf16 in float32, as torch has them
        if self.training:
            mean, var = self._statistics(wide, shape)
        else:
            mean, var = self.running_mean, self.running_var
        scale = (var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        out = (wide - mean.view(shape)) * scale.view(shape)
        if self.bias is not None:
            out = out + self.bias.view(shape)
        return out.to(x.dtype)

    def _statistics(self, x: Tensor, shape: tuple) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of the real rows; updates the running ones."""
        axes = [0, *range(2, x.dim())]
        rows = self.rows if self.rows.numel() else torch.ones(len(x), dtype=torch.bool, device=x.device)
        if x.shape[0] % rows.shape[0]:
            raise MerError(f"batch norm has {x.shape[0]} rows for {rows.shape[0]} clips; put a clip's frames together")
        real = rows.to(x.dtype).repeat_interleave(x.shape[0] // rows.shape[0]).view(-1, *[1] * (x.dim() - 1))
        count = real.sum() * (x.numel() // (x.shape[0] * x.shape[1]))
        n = count.clamp(min=1)
        mean = (x * real).sum(axes) / n
        var = ((x - mean.view(shape)).square() * real).sum(axes) / n
        with torch.no_grad():
            some = count > 0
            self.num_batches_tracked.add_(some.to(torch.int64))
            if self.momentum is None:  # the mean over all batches
                momentum = 1 / self.num_batches_tracked.clamp(min=1).to(x.dtype)
            else:
                momentum = torch.full_like(count, self.momentum)
            momentum = momentum * some
            unbiased = var * (n / (n - 1).clamp(min=1))
            for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.copy_(running * (1 - momentum) + now.to(running.dtype) * momentum)
        return mean, var


def attach(network: nn.Module) -> list[str]:
    """Replace every batch norm of the network by a masked one, in place; returns their paths. Parameter names stay.

    Raises MerError for layers whose statistics padding would change.
    """
    check(network)
    made: dict[int, MaskedBatchNorm] = {}
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                if id(child) not in made:
                    made[id(child)] = MaskedBatchNorm(child).train(child.training).to(next(child.buffers()).device)
                setattr(parent, name, made[id(child)])
    return [path for path, module in network.named_modules() if isinstance(module, MaskedBatchNorm)]


def of(network: nn.Module) -> list[str]:
    """Paths of the network's batch norms."""
    kind = nn.modules.batchnorm._BatchNorm
    return [path for path, module in network.named_modules() if isinstance(module, kind)]


def check(network: nn.Module) -> None:
    """Raise MerError for layers whose output for a test clip depends on other test clips, or whose statistics padding
    changes."""
    for path, module in network.named_modules():
        batch = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch and not module.track_running_stats:
            raise MerError(
                f"{path}: batch norm without running statistics would normalise a test clip with other test clips; "
                "set track_running_stats"
            )
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise MerError(f"{path}: instance norm with running statistics is not supported; clear track_running_stats")
