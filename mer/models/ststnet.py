"""STSTNet (Liong et al. 2019, "Shallow triple stream three-dimensional CNN"), exactly as its PyTorch release.

Shapes: B clips; input (B, 3, 28, 28), grey levels 0..255 in the release's channel order (strain, v, u), which is the
order in which OpenCV reads its PNGs. Three parallel streams of 3, 5 and 8 filters; 16 maps of 5x5; one linear layer.
"""

import pickle

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.errors import MerError

PRODUCTS = ("flow",)
# Short, for the pipeline: the published 800 epochs at 5e-5 take two hours on two cores.
RECIPE = {"optimizer": "adam", "lr": 1e-3, "epochs": 60, "batch_size": 256}
SIZE = 28


def build(classes: int, *, dropout: float = 0.5) -> "STSTNet":
    """dropout: probability with which a pooled feature is dropped in each stream."""
    return STSTNet(classes, dropout=dropout)


class STSTNet(nn.Module):
    """Module names are those of the released weight files: conv1..3, bn1..3, fc."""

    def __init__(self, classes: int = 3, *, dropout: float = 0.5):
        super().__init__()
        # Padding 2, and normalisation after the rectifier: with either changed, the released weights lose 0.06 UF1.
        self.conv1 = nn.Conv2d(3, 3, kernel_size=3, padding=2)
        self.conv2 = nn.Conv2d(3, 5, kernel_size=3, padding=2)
        self.conv3 = nn.Conv2d(3, 8, kernel_size=3, padding=2)
        self.bn1 = nn.BatchNorm2d(3)
        self.bn2 = nn.BatchNorm2d(5)
        self.bn3 = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(16 * 5 * 5, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 28, 28) grey levels 0..255 -> (B, classes) logits."""
        streams = [
            self.stream(x, self.conv1, self.bn1),
            self.stream(x, self.conv2, self.bn2),
            self.stream(x, self.conv3, self.bn3),
        ]
        features = F.avg_pool2d(torch.cat(streams, dim=1), kernel_size=2, stride=2)  # (B, 16, 5, 5)
        return self.fc(features.flatten(1))

    def stream(self, x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
        """(B, 3, 28, 28) -> (B, filters, 10, 10)."""
        return self.dropout(F.max_pool2d(norm(F.relu(conv(x))), kernel_size=3, stride=3, padding=1))


def prepare(flow: np.ndarray) -> np.ndarray:
    """Flow images (N, 3, H, W) (u, v, strain) -> (N, 3, 28, 28) float32 (strain, v, u), grey levels 0..255.

    Averaged down to 28x28, then each channel of each image stretched to 0..255 by itself, as the release does it; its
    own images come back as they are. A channel without any motion is 0.
    """
    import cv2

    small = np.stack([cv2.resize(f.transpose(1, 2, 0), (SIZE, SIZE), interpolation=cv2.INTER_AREA) for f in flow])
    low, high = small.min((1, 2), keepdims=True), small.max((1, 2), keepdims=True)
    grey = (small - low) * (255 / np.where(high > low, high - low, 1))
    return np.ascontiguousarray(grey[..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32)


def mirror(grey: Tensor) -> Tensor:
    """The inputs of the mirrored faces: columns reversed; u, the last channel, is stretched, so -u is 255 - u."""
    mirrored = grey.flip(-1).clone()
    mirrored[:, 2] = 255 - mirrored[:, 2]
    return mirrored


def load_released(path) -> STSTNet:
    """One of the released weight files (`<subject>.pth`), in evaluation mode."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model = STSTNet(classes=len(state.get("fc.bias", ())) or 3)
        model.load_state_dict(state)
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise MerError(f"{path}: is not an STSTNet weight file: {error}") from None
    return model.eval()
