"""ResNet-18 (He et al. 2016, "Deep Residual Learning for Image Recognition"), whole or in part, and its weights.

Parameters are named as torchvision names them; files with transformers' names ("microsoft/resnet-18") are understood:

    conv1, bn1                          embedder.embedder.convolution, .normalization
    layer1.0.conv1, layer1.0.bn1        encoder.stages.0.layers.0.layer.0.convolution, .normalization
    layer1.0.conv2, layer1.0.bn2        encoder.stages.0.layers.0.layer.1.…
    layer2.0.downsample.0, .1           encoder.stages.1.layers.0.shortcut.convolution, .normalization
"""

import functools
import re
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.errors import MerError, suggestion
from mer.storage.weights import read_official, read_weights, weights_about

CHANNELS = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
AT_ONCE = 32  # frames in a network that keeps nothing for a backward pass
NETWORK = "resnet18"  # its name in pretrain.runs, see mer.pretraining
IMAGENET = "microsoft/resnet-18"  # the official weights, by their name on the Hugging Face hub
SOURCE = "bring a ResNet-18 with torchvision's or transformers' names"


class ResNet18(nn.Module):
    """ResNet-18 up to `tap`, its maps averaged to grid x grid cells: (N, H, W, 3) grey levels -> (N, C * grid**2).

    freeze: nothing of it is trained, and batch norm keeps the statistics that it has.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, tap: str = "layer4", grid: int = 1, *, freeze: bool = False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64)
        self.stages = list(CHANNELS)[: list(CHANNELS).index(tap) + 1]
        inputs = 64
        for name in self.stages:
            stride = 1 if name == "layer1" else 2
            self.add_module(name, nn.Sequential(BasicBlock(inputs, CHANNELS[name], stride), BasicBlock(CHANNELS[name])))
            inputs = CHANNELS[name]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        # ImageNet's, as the official weights expect them, in grey levels.
        for name, values in (("centre", (123.675, 116.28, 103.53)), ("spread", (58.395, 57.12, 57.375))):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.grid, self.frozen, self.width = grid, freeze, inputs * grid**2
        self.requires_grad_(not freeze)
        self.train()

    @property
    def about(self) -> dict[str, str]:
        """For the note in a file of its weights: where it ends, if before layer4."""
        return {} if self.stages[-1] == "layer4" else {"ends": self.stages[-1]}

    def train(self, mode: bool = True) -> "ResNet18":
        return super().train(mode and not self.frozen)

    def forward(self, frames: Tensor) -> Tensor:
        if self.training:
            return self._features(frames)
        return torch.cat([self._features(part) for part in frames.split(AT_ONCE)])

    def _features(self, frames: Tensor) -> Tensor:
        x = (frames.permute(0, 3, 1, 2).to(self.centre.dtype) - self.centre) / self.spread
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)  # a fourth of the side
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return F.adaptive_avg_pool2d(x, self.grid).flatten(1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the input."""

    def __init__(self, inputs: int, outputs: int | None = None, stride: int = 1):
        super().__init__()
        outputs = outputs or inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


# ---- weights --------------------------------------------------------------------------------------------------------


def load_resnet18(network: ResNet18, path: str | Path) -> ResNet18:
    """Give the network the weights of a file; deeper stages and a classifier in it are left out.

    Args:
        path: see mer.storage.weights.read_weights; the names are torchvision's or transformers', behind a common prefix
            or not.

    Raises:
        MerError: no such file, or not the weights of a ResNet-18: which tensors miss, which have another shape.
    """
    state = read_weights(path, needed(network), "ResNet-18", SOURCE, renamed=as_torchvision, more=True)
    network.load_state_dict(state, strict=False)  # all but batch norm's counters, which some files lack
    return network


@functools.lru_cache(maxsize=1)
def frozen_resnet18(path: str, tap: str, grid: int, device: str = "cpu") -> ResNet18:
    """Such a network in evaluation mode, read once a process; the file must not change meanwhile."""
    return load_resnet18(ResNet18(tap, grid, freeze=True), path).to(device)


@torch.inference_mode()
def features(
    frames: np.ndarray,
    path: str,
    tap: Literal["layer1", "layer2", "layer3", "layer4"],
    grid: int,
    device: str = "cpu",
) -> np.ndarray:
    """Of frames (N, H, W, 3) uint8, by a frozen ResNet-18 with the weights at `path`: (N, C * grid**2) float32."""
    # The same sums in every run, and float32 that is float32 (TF32 has 10 bits), as in training.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        found = frozen_resnet18(path, tap, grid, device)(torch.from_numpy(frames).to(device))
    return found.cpu().numpy()


def build_pretrained(tap: str = "layer4", grid: int = 1) -> ResNet18:
    """The network as it is pretrained, whole or up to a stage; its weights are drawn from torch's generator."""
    if tap not in CHANNELS:
        raise MerError(f"resnet18: tap is {tap!r}; {suggestion(tap, CHANNELS)}")
    return ResNet18(tap, grid)


def load_user_weights(path: str | Path, tap: str | None = None, grid: int = 1) -> ResNet18:
    """The network with the weights of a file; errors are those of `load_resnet18`.

    tap: None: up to the stage where the note of the file says that the network ends, such as the bundled one's; whole
    where it says nothing.
    """
    if tap is None:
        end = weights_about(path).get("ends", "")
        tap = end if isinstance(end, str) and end in CHANNELS else "layer4"
    return load_resnet18(build_pretrained(tap, grid), path)


def load_official(network: ResNet18, source: str = IMAGENET, revision: str = "main") -> ResNet18:
    """Give the network official weights; source, revision and errors as in mer.storage.weights.read_official."""
    state = read_official("ResNetModel", source, revision, needed(network), "ResNet-18", renamed=as_torchvision)
    network.load_state_dict(state, strict=False)
    return network


def needed(network: ResNet18) -> dict[str, Tensor]:
    """What a file of weights must hold."""
    return {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def as_torchvision(state: dict) -> dict:
    """A state under torchvision's names: without the prefix that all of a network's names share, and renamed."""
    state = {_name(name): value for name, value in state.items()}
    stem = next((name for name in state if re.fullmatch(r"(.*\.)?conv1\.weight", name) and "layer" not in name), "")
    prefix = stem.removesuffix("conv1.weight")
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _name(name: str) -> str:
    name = re.sub(r"embedder\.embedder\.convolution\b", "conv1", name)
    name = re.sub(r"embedder\.embedder\.normalization\b", "bn1", name)

    def block(match: re.Match) -> str:
        stage, place, layer, kind = match.groups()
        if layer is None:
            inner = f"downsample.{0 if kind == 'convolution' else 1}"
        else:
            inner = f"{'conv' if kind == 'convolution' else 'bn'}{int(layer) + 1}"
        return f"layer{int(stage) + 1}.{place}.{inner}"

    return re.sub(
        r"encoder\.stages\.(\d)\.layers\.(\d)\.(?:layer\.(\d)|shortcut)\.(convolution|normalization)", block, name
    )
