"""Dropout that belongs to a fold: its masks depend on the fold's stream and step, not on what runs beside it.

A mask is a hash of (stream, step, layer, call within the step, row, feature). The first three make two 32-bit words on
the host (`keys`), the rest is mixed in on the device with 32-bit integer arithmetic, which is the same on every device,
under vmap, and in any grouping of folds; rows added at the end leave the masks of the others alone. No generator of
torch is read or moved. On a CPU it takes a fourth of the time of torch's own masks.

Shapes: B rows; an input is (B, …), so a network that puts frames into the rows keeps those of a clip together.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mer.errors import MerError

# Axes that have a mask of their own; the others share it.
_AXES = {nn.Dropout: None, nn.Dropout1d: 2, nn.Dropout2d: 2, nn.Dropout3d: 2}
_REFUSED = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)


class Dropout(nn.Module):
    """Zeroes with probability p and scales the rest by 1 / (1 - p), in training only.

    Args:
        p: probability, 0..1, exact to 2**-32.
        axes: leading axes with a mask of their own: None for all, 2 for (row, channel), 1 for whole rows.

    `key` (2,) int32 is the word pair of the present step (see `keys`), `calls` counts the calls within it.
    """

    key: Tensor

    def __init__(self, p: float = 0.5, axes: int | None = None):
        super().__init__()
        self.p, self.axes, self.calls = p, axes, 0
        self.register_buffer("key", torch.zeros(2, dtype=torch.int32), persistent=False)
        self._index: dict[tuple, Tensor] = {}

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        call, self.calls = self.calls, self.calls + 1
        # At p the share of the 2**32 hashes that lies below is p.
        kept = _hash(self._numbers(x), self.key, call) >= min(round(self.p * 2**32), 2**32 - 1) - 2**31
        return x * kept.to(x.dtype) * (1 / (1 - self.p))

    def _numbers(self, x: Tensor) -> Tensor:
        """Where each element stands, counted row by row, in the memory layout of x; int32."""
        shape = x.shape[: self.axes] if self.axes else x.shape
        last = x.dim() == 4 and len(shape) == 4 and x.shape[1] > 1 and x.stride(1) == 1  # channels last
        form = (shape, last, x.device)
        if form not in self._index:
            if len(self._index) > 8:  # batches have few sizes
                self._index.clear()
            count = torch.arange(shape.numel(), device=x.device)
            count = torch.where(count < 2**31, count, count - 2**32).int().view(shape)
            self._index[form] = count.contiguous(memory_format=torch.channels_last) if last else count
        return self._index[form].view(*shape, *[1] * (x.dim() - len(shape))) if self.axes else self._index[form]


def _hash(number: Tensor, key: Tensor, call: int) -> Tensor:
    """Murmur3's 32-bit finaliser with a second word put in on the way, so that no two steps walk one sequence."""
    # No sums: a compiler may take it that signed ones do not overflow.
    h = number ^ (key[0] ^ _signed(call * 0x9E3779B9))
    h ^= (h >> 16).bitwise_and_(0xFFFF)  # int32 shifts its sign in
    h *= _signed(0x85EBCA6B)
    h ^= (h >> 13).bitwise_and_(0x7FFFF)
    h ^= key[1]
    h *= _signed(0xC2B2AE35)
    h ^= (h >> 16).bitwise_and_(0xFFFF)
    h *= _signed(0x9E3779B1)  # the highest bits decide, and multiplying is what stirs those
    return h


def _signed(word: int) -> int:
    """An unsigned 32-bit word (or its lowest 32 bits) as the int32 with the same bits."""
    return (word + 2**31) % 2**32 - 2**31


def keys(streams: Sequence[int], steps: Sequence[int], layers: int) -> np.ndarray:
    """(K, layers, 2) int32: the words of every layer of K folds at their steps. streams: 0..2**64-1."""
    state = np.array([s % 2**64 for s in streams], dtype=np.uint64)
    state = _mix(_mix(state) + np.asarray(steps).astype(np.uint64))
    words = _mix(state[:, None] + np.arange(1, layers + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))
    return words.view(np.int32).reshape(len(state), layers, 2)


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's step; uint64 wraps."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def attach(network: nn.Module) -> list[str]:
    """Replace every dropout layer of the network, in place; returns their paths, the order of `keys`' layers.

    Raises MerError for layers whose random numbers cannot be taken over.
    """
    for path, module in network.named_modules():
        if isinstance(module, _REFUSED):
            raise MerError(f"{path}: {type(module).__name__} draws random numbers of its own; use nn.Dropout")
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase) and module.dropout > 0:
            raise MerError(
                f"{path}: {type(module).__name__} drops out by itself, which no fold can own; set its dropout to 0 and "
                "use nn.Dropout layers"
            )
    made: dict[int, Dropout] = {}  # a layer that stands in two places stays one
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            kind = next((k for k in _AXES if isinstance(child, k)), None)
            if kind is not None:
                made.setdefault(id(child), Dropout(child.p, _AXES[kind]).to(_device(network)))
                made[id(child)].train(child.training)
                setattr(parent, name, made[id(child)])
    return [path for path, module in network.named_modules() if isinstance(module, Dropout)]


def begin(network: nn.Module) -> None:
    """To be called before each step: a layer's second call within a step has a mask of its own."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.calls = 0


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))
