"""STSTNet (Liong et al. 2019, "Shallow triple stream three-dimensional CNN"), exactly as its PyTorch release.

Shapes: B clips; input (B, 3, 28, 28), grey levels 0..255 in the release's channel order (strain, v, u), which is the
order in which OpenCV reads its PNGs. Three parallel streams of 3, 5 and 8 filters; 16 maps of 5x5; one linear layer.
The streams see the same input and meet only in the linear layer, so they are the channels of one convolution here.
"""

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.errors import MerError
from mer.products import flow, frames

READS = (flow(frames("box224")),)
# Short, for the pipeline: the published 800 epochs at 5e-5 take two hours on two cores.
RECIPE = {"optimizer": "adam", "lr": 1e-3, "epochs": 60, "batch_size": 256}
SIZE = 28
STREAMS = (3, 5, 8)  # filters


def build(classes: int, *, dropout: float = 0.5) -> "STSTNet":
    """dropout: probability with which a pooled feature is dropped in each stream."""
    return STSTNet(classes, dropout=dropout)


class STSTNet(nn.Module):
    """Channels 0..2, 3..7 and 8..15 are the three streams."""

    def __init__(self, classes: int = 3, *, dropout: float = 0.5):
        super().__init__()
        # Padding 2, and normalisation after the rectifier: with either changed, the released weights lose 0.06 UF1.
        self.conv = nn.Conv2d(3, sum(STREAMS), kernel_size=3, padding=2)
        self.norm = nn.BatchNorm2d(sum(STREAMS))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(sum(STREAMS) * 5 * 5, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 28, 28) grey levels 0..255 -> (B, classes) logits."""
        maps = self.norm(F.relu(self.conv(x), inplace=True))  # (B, 16, 30, 30)
        maps = self.dropout(F.max_pool2d(maps, kernel_size=3, stride=3, padding=1))  # (B, 16, 10, 10)
        return self.fc(F.avg_pool2d(maps, kernel_size=2, stride=2).flatten(1))


def prepare(flow: np.ndarray) -> np.ndarray:
    """Flow images (N, 3, H, W) (u, v, strain) -> (N, 3, 28, 28) float32 (strain, v, u), grey levels 0..255.

    Averaged down to 28x28, then each channel of each image stretched to 0..255 by itself, as the release does it; its
    own images come back as they are. A channel without any motion is 0.
    """
    import cv2

    if flow.ndim != 4 or flow.shape[1] != 3 or not flow.size:
        raise MerError(f"ststnet reads flow images (N, 3, H, W), not {flow.shape}; flow comes with strain beside it")
    small = np.stack([cv2.resize(f.transpose(1, 2, 0), (SIZE, SIZE), interpolation=cv2.INTER_AREA) for f in flow])
    low, high = small.min((1, 2), keepdims=True), small.max((1, 2), keepdims=True)
    grey = (small - low) * (255 / np.where(high > low, high - low, 1))
    return np.ascontiguousarray(grey[..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32)


def mirror(grey: Tensor) -> Tensor:
    """The inputs of the mirrored faces: columns reversed; u, the last channel, is stretched, so -u is 255 - u."""
    mirrored = grey.flip(-1).clone()
    u = mirrored[:, 2]
    # Without any motion it is 0 throughout, and stays so.
    mirrored[:, 2] = torch.where(u.amax((1, 2), keepdim=True) > 0, 255 - u, u)
    return mirrored


def load_released(path: str | Path) -> STSTNet:
    """One of the released weight files (`<subject>.pth`: conv1..3, bn1..3, fc), in evaluation mode."""
    try:
        released = torch.load(path, map_location="cpu", weights_only=True)
        model = STSTNet(classes=len(released.get("fc.bias", ())) or 3)
        state = {}
        for name, value in model.state_dict().items():
            layer, _, part = name.partition(".")
            streams = {"conv": "conv", "norm": "bn"}.get(layer)
            if streams is None or not value.dim():  # the linear layer; each stream counts the same batches
                state[name] = released[f"{streams}1.{part}" if streams else name]
            else:
                state[name] = torch.cat([released[f"{streams}{i}.{part}"] for i in (1, 2, 3)])
        model.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise MerError(f"{path}: is not an STSTNet weight file: {error}") from None
    return model.eval()
