"""Layers with random numbers that depend on the fold's stream and step, not on other folds.

A number is a hash of (stream, step, layer, call within the step, place). The host turns the first three into two 32-bit
words (`keys`). The device mixes in the rest with 32-bit integer arithmetic, which gives the same bits on every device,
under vmap, and in any grouping of folds. No generator of torch is read or moved. `Dropout` masks take a fourth of the
time of torch's own on a CPU; `Normal` turns the same hashes into normal numbers.

Shapes: B rows; an input is (B, …). A network that puts frames into the rows keeps the frames of a clip together. Places
are counted row by row, so rows added at the end do not change the numbers of the others.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mer.errors import MerError

# Axes that have a mask of their own; the others share it.
_Kind = type[nn.modules.dropout._DropoutNd]
_AXES: dict[_Kind, int | None] = {nn.Dropout: None, nn.Dropout1d: 2, nn.Dropout2d: 2, nn.Dropout3d: 2}
_DROPOUT = tuple(_AXES)
_REFUSED = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)
EVALUATION = 0x65766174  # the stream of numbers that are drawn in evaluation
EPOCHS = 2**40  # added to the epoch: the step of numbers that are drawn once an epoch; training steps stay far below


class Source(nn.Module):
    """A layer with random numbers: in training those of the fold, in evaluation always the same.

    Args:
        every: `call`: each call of a step draws anew; `epoch`: all calls of an epoch draw the same (in training).

    `key` (2,) int32 is the word pair of the present step (see `words`). `calls` counts the draws since `begin`, which
    the engine calls before each training step. In evaluation the engine does not: a network that draws there calls
    `begin` first in its forward pass, and `number` once when it is built, so that each layer has its own numbers.
    """

    key: Tensor

    def __init__(self, *, every: Literal["call", "epoch"] = "call"):
        super().__init__()
        self.calls, self.every = 0, every
        self.register_buffer("key", torch.zeros(2, dtype=torch.int32), persistent=False)
        self.fixed = [0, 0]  # the word pair of evaluation
        self._index: dict[tuple, Tensor] = {}

    def _hashes(self, place: Tensor, count: int = 1) -> list[Tensor]:
        """`count` int32 hashes of each place, in the range of int32."""
        first = 0 if self.every == "epoch" and self.training else self.calls
        self.calls = first + count
        return [_hash(place, self.key if self.training else self.fixed, first + i) for i in range(count)]

    def _places(self, shape: torch.Size, device: torch.device, channels_last: bool = False) -> Tensor:
        """Where each element stands, counted row by row; int32."""
        form = (shape, channels_last, device)
        if form not in self._index:
            if len(self._index) > 8:  # batches have few sizes
                self._index.clear()
            count = torch.arange(shape.numel(), device=device)
            count = torch.where(count < 2**31, count, count - 2**32).int().view(shape)
            self._index[form] = count.contiguous(memory_format=torch.channels_last) if channels_last else count
        return self._index[form]


class Dropout(Source):
    """Zeroes with probability p and scales the rest by 1 / (1 - p), in training only.

    Args:
        p: probability, 0..1, exact to 2**-32.
        axes: leading axes with a mask of their own: None for all, 2 for (row, channel), 1 for whole rows.

    `sampling`: networks that average over masks set it, and features are dropped in evaluation, too. There all rows
    share a mask, so that the result of a clip does not depend on other clips.
    """

    def __init__(self, p: float = 0.5, axes: int | None = None):
        super().__init__()
        self.p, self.axes, self.sampling = p, axes, False

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.sampling) or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        # A share p of the 2**32 hashes lies below this bound.
        (hashes,) = self._hashes(self._numbers(x if self.training else x[:1]))
        kept = hashes >= min(round(self.p * 2**32), 2**32 - 1) - 2**31
        return x * kept.to(x.dtype) * (1 / (1 - self.p))

    def _numbers(self, x: Tensor) -> Tensor:
        """Where each element stands, in the memory layout of x."""
        shape = x.shape[: self.axes] if self.axes else x.shape
        last = x.dim() == 4 and len(shape) == 4 and x.shape[1] > 1 and x.stride(1) == 1  # channels last
        places = self._places(shape, x.device, last)
        return places.view(*shape, *[1] * (x.dim() - len(shape))) if self.axes else places


class Uniform(Source):
    """Uniform numbers in (0, 1], 24 bits each; the same on every device."""

    def forward(self, *shape: int) -> Tensor:
        """`shape` float32, on the device of the layer. In evaluation all rows of the first axis share their numbers,
        so that the result of a clip does not depend on other clips."""
        form = torch.Size(shape if self.training else (1, *shape[1:]))
        (hashes,) = self._hashes(self._places(form, self.key.device))
        return _uniform(hashes).expand(shape)


class Normal(Source):
    """Standard normal numbers, by Box and Muller's formula from two hashes of 24 bits each; none is beyond 5.9.

    They are the same on every device, up to the rounding of logarithm and cosine.
    """

    def forward(self, *shape: int) -> Tensor:
        """`shape` float32, on the device of the layer."""
        near, turn = self._hashes(self._places(torch.Size(shape), self.key.device), 2)
        radius = (-2 * _uniform(near).log()).sqrt()
        return radius * (2 * math.pi * _uniform(turn)).cos()


def _uniform(hashes: Tensor) -> Tensor:
    """int32 -> float32 in (0, 1], from the upper 24 bits, as many as a float32 holds."""
    return (((hashes >> 8) + 2**23).float() + 0.5) * 2**-24


def _hash(number: Tensor, key: Tensor | list[int], call: int) -> Tensor:
    """Murmur3's 32-bit finaliser with a second word mixed in halfway, so that no two steps share a sequence."""
    # No sums: a compiler may assume that signed ones do not overflow.
    h = number ^ (key[0] ^ _signed(call * 0x9E3779B9))
    h ^= (h >> 16).bitwise_and_(0xFFFF)  # int32 shifts its sign in
    h *= _signed(0x85EBCA6B)
    h ^= (h >> 13).bitwise_and_(0x7FFFF)
    h ^= key[1]
    h *= _signed(0xC2B2AE35)
    h ^= (h >> 16).bitwise_and_(0xFFFF)
    h *= _signed(0x9E3779B1)  # only the highest bits are used, and a product mixes all bits into them
    return h


def _signed(word: int) -> int:
    """An unsigned 32-bit word (or its lowest 32 bits) as the int32 with the same bits."""
    return (word + 2**31) % 2**32 - 2**31


def keys(streams: Sequence[int], steps: Sequence[int] | np.ndarray, layers: int) -> np.ndarray:
    """(K, layers, 2) int32: the words of every layer of K folds at their steps. streams: 0..2**64-1."""
    state = np.array([s % 2**64 for s in streams], dtype=np.uint64)
    state = _mix(_mix(state) + np.asarray(steps).astype(np.uint64))
    words = _mix(state[:, None] + np.arange(1, layers + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))
    return words.view(np.int32).reshape(len(state), layers, 2)


def words(
    sources: Sequence[Source], streams: Sequence[int], steps: Sequence[int] | np.ndarray, epoch: int
) -> np.ndarray:
    """(K, len(sources), 2) int32: the `key` of every source, for K folds at their steps in this epoch (from 0)."""
    once = np.array([source.every == "epoch" for source in sources], dtype=bool)[:, None]
    of_epoch = keys(streams, [EPOCHS + epoch] * len(streams), len(sources))
    return np.where(once, of_epoch, keys(streams, steps, len(sources)))


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's step; uint64 wraps."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def attach(network: nn.Module) -> list[str]:
    """Replace torch's dropout layers by `Dropout`, in place; returns the paths of all sources, in the order of `keys`.

    Raises MerError for layers that draw random numbers in another way.
    """
    for path, module in network.named_modules():
        if isinstance(module, _REFUSED):
            raise MerError(f"{path}: {type(module).__name__} draws random numbers of its own; use nn.Dropout")
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase) and module.dropout > 0:
            raise MerError(
                f"{path}: {type(module).__name__} draws its own dropout masks; set its dropout to 0 and use nn.Dropout "
                "layers"
            )
    made: dict[int, Dropout] = {}  # a layer that is used in two places stays one layer
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _DROPOUT):
                axes = next(axes for kind, axes in _AXES.items() if isinstance(child, kind))
                made.setdefault(id(child), Dropout(child.p, axes).to(_device(network)))
                made[id(child)].train(child.training)
                setattr(parent, name, made[id(child)])
    return list(sources(network))


def sources(network: nn.Module) -> dict[str, Source]:
    """The layers with random numbers, by path."""
    return {path: module for path, module in network.named_modules() if isinstance(module, Source)}


def begin(network: nn.Module) -> None:
    """Start a step: the next call of each layer is its first. A second call within a step draws other numbers."""
    for source in sources(network).values():
        source.calls = 0


def number(network: nn.Module) -> None:
    """Give each layer its own numbers in evaluation, by its place in the network. Called once, after building."""
    found = sources(network)
    for source, pair in zip(found.values(), keys([EVALUATION], [0], len(found))[0].tolist(), strict=True):
        source.fixed = pair


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))
