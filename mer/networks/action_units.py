"""A small convolutional network that tells action units and emotions from flow maps, and its weights.

It learns from simulated maps alone (mer.pretraining.simulated_flow, mer.synthetic.flow_maps). Shapes: B maps, (B, 3,
28, 28): u, v and strain in grey levels, as mer.corpora.flow_release has them, with u and v about 0.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.facs import CLASSES, TARGETS
from mer.storage.weights import read_weights

NETWORK = "action_units"  # its name in pretrain.runs, see mer.pretraining
PRETRAINED = CLASSES
SIZE, LEVELS = 28, 64.0  # px; grey levels that become 1
SOURCE = "bring weights that a run of task simulated_flow has made"
AT_ONCE = 16  # as many as the engine prepares


class ActionUnitNetwork(nn.Module):
    """Maps (B, 3, 28, 28) -> logits (B, units + classes), those of TARGETS before those of CLASSES."""

    def __init__(self, width: int = 32):
        super().__init__()
        sides = [
            (3, width, 1),
            (width, width, 1),
            (width, 2 * width, 2),
            (2 * width, 2 * width, 1),
            (2 * width, 3 * width, 2),
        ]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1, bias=False) for a, b, stride in sides)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _ in sides)
        self.hidden = nn.Linear(3 * width * 7 * 7, 128)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(128, len(TARGETS) + len(CLASSES))

    def features(self, maps: Tensor) -> Tensor:
        """(B, 128), before the last layer."""
        x = maps / LEVELS
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, maps: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(maps)))


def build_pretrained(width: int = 32) -> ActionUnitNetwork:
    """The network, its weights drawn from torch's generator."""
    return ActionUnitNetwork(width)


def load_user_weights(path: str | Path, width: int = 32) -> ActionUnitNetwork:
    """The network with the weights of a file. Raises MerError as mer.storage.weights.read_weights."""
    network = build_pretrained(width)
    network.load_state_dict(read_weights(path, network.state_dict(), "ActionUnitNetwork", SOURCE))
    return network


@functools.lru_cache(maxsize=2)
def _frozen(path: str, width: int) -> ActionUnitNetwork:
    return load_user_weights(path, width).eval()


@torch.inference_mode()
def logits(maps: np.ndarray, path: str, width: int = 32) -> np.ndarray:
    """(N, units + classes) float64 of maps (N, 3, 28, 28), by a frozen network with weights at `path`, on the CPU."""
    network = _frozen(path, width)
    # Batches of one size, the last one padded: sums of a convolution depend on how many maps there are.
    found = []
    for start in range(0, len(maps), AT_ONCE):
        part = np.zeros((AT_ONCE, *maps.shape[1:]), np.float32)
        rows = maps[start : start + AT_ONCE]
        part[: len(rows)] = rows
        found.append(network(torch.from_numpy(part))[: len(rows)].double().numpy())
    return np.concatenate(found)
