"""DCMA as one writes it first, for benchmarks/dcma.py: channels first, float32, a copy of all earlier maps a layer.

The peer of the network in mer/models/dcma.py; it has the same weights.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mer.models.dcma import DCMA, GRID, DenseBlock


def forward(network: DCMA, faces: Tensor) -> Tensor:
    """Faces (B, H, W, 3) -> logits (B, classes)."""
    x = (faces.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()
    x = network.stem(x)
    for j, (features, attention, squeeze) in enumerate(network.blocks):  # type: ignore[misc]
        x = F.avg_pool2d(x, 2) if j else x
        x = squeeze(attention(dense(features, x)))
    return network.fc(F.adaptive_avg_pool2d(network.attention(x), GRID).flatten(1))


def dense(block: DenseBlock, x: Tensor) -> Tensor:
    for layer in block.layers:
        x = torch.cat([x, layer(x)], 1)
    return x
