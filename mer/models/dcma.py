"""DCMA (Gan et al., "Densely connected network with mixed attention": dense blocks, channel and spatial attention).

The magnified apex frame of a clip goes through a stem and dense blocks, in which every layer reads what all earlier
ones wrote; attention weights channels and places of what a block hands on. The network learns macro-expressions first
(stage pretrain@dcma), then micro-expressions. With H_0 the input of a block and [ ] side by side in channels:

    (4)  H_i = BN(ReLU(conv5x5([H_0, …, H_{i-1}])))                              `DenseBlock`
    (5)  M_c = sigmoid(MLP(mean over places of H) + MLP(maximum over places))    `ChannelAttention`
    (6)  H'  = H * M_c                                                           `Attention.forward`
    (7)  M_s = sigmoid(conv5x5([mean over channels of H', maximum]))             `SpatialAttention`
    (8)  H^  = H' * M_s                                                          `Attention.forward`
    (9)  y   = softmax(W flatten(H^ at 7x7) + b)                                 `DCMA.forward`

Eqs. (1) to (3) are mer.magnification; (10) is the engine's cross entropy, (11) to (14) are mer.evaluation.metrics.

Of the sizes the paper gives the number of parameters, 3.115 million, and the 7x7 of eq. (9). The defaults have 3.123
million with three classes (D-05). What the paper leaves open is a knob of `build`, with its id in the reading notes.

Shapes: B clips, C channels, faces (B, H, W, 3) uint8 or float, grey levels 0..255, RGB.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.errors import MerError
from mer.products import Product, Weights, apex_frame, eulerian, frames, pair, recording, weights
from mer.storage.weights import read_weights

NETWORK = "dcma"  # for stage pretrain
# The paper's, Table 4; plateau and stop on held-out training subjects. D-10: with the printed patience of 20 for both a
# training ends when its rate would fall for the first time.
RECIPE = {
    "optimizer": "adam", "lr": 0.01, "epochs": 200, "batch_size": 32, "schedule": "plateau", "factor": 0.1,
    "patience": 10, "stop": 20,
}  # fmt: skip
KERNEL = 5  # px, of every convolution but those of 1x1
GRID = 7  # of eq. (9)
PRETRAINED = ("negative", "positive", "surprise")  # what pretraining tells apart
SOURCE = "write them with dvc repro pretrain, or put a file of this network's own into pretrain.runs.dcma.user_weights"


def build(
    classes: int,
    *,
    evm: str = "dcma",
    crop: Literal["after", "before"] = "after",
    size: int = 112,
    start: Literal["pretrained", "random"] = "pretrained",
    classifier: Literal["new", "kept"] = "new",
    features: Literal["dense", "residual"] = "dense",
    attention: Literal["mixed", "channel", "spatial", "none"] = "mixed",
    attend: Literal["block", "layer", "last"] = "block",
    stem: int = 16,
    blocks: int = 4,
    layers: int = 5,
    growth: int = 24,
    compression: float = 1.0,
    order: Literal["printed", "densenet"] = "printed",
    reduction: int = 8,
    slope: float = 0.3,
) -> "DCMA":
    """The network, of the size in D-05 unless told otherwise.

    Args:
        evm: the recipe of magnify_eulerian, or none: the apex frame as it was recorded.
        crop: the face is cut out after the recording was magnified, or before (D-02).
        size: px to which the face is reduced.
        start: weights of pretrain@dcma, or of the ablation's own pretraining: see `pretraining_of`; or random.
        classifier: that of the pretraining is dropped, or kept, which needs the same three classes in the same order.
        features: dense blocks, or residual ones of about as many parameters (Table 12, D-23).
        attention: Table 11. attend: at the end of each block, before pooling, on the inputs of each layer, or once
            before the classifier (D-08).
        stem, blocks, layers, growth: channels of the stem, number of blocks, layers in each, channels a layer adds.
        compression: 1: blocks are joined by 2x2 average pooling alone; less: a 1x1 convolution before it keeps this
            share of the channels (D-07).
        order: convolution, rectifier, norm as eq. (4) prints it, or norm, rectifier, convolution as DenseNet has it
            (D-06).
        reduction, slope: r of eq. (5), and the slope of its LeakyReLU below zero (D-09).
    """
    given = locals()
    for name in ("size", "stem", "blocks", "layers", "growth", "reduction"):
        if given[name] < 1:
            raise MerError(f"dcma.{name} is {given[name]}; it must be at least 1")
    if not 0 < compression <= 1:
        raise MerError(f"dcma.compression is {compression}; it is a share of the channels, above 0 and up to 1")
    if not 0 <= slope < math.inf:
        raise MerError(f"dcma.slope is {slope}; it must be 0 or above and finite")
    if size < 2**blocks:
        raise MerError(
            f"dcma.size is {size}, of which {blocks} blocks leave nothing; needed is {2**blocks} px at least"
        )
    if classifier == "kept" and classes != len(PRETRAINED):
        raise MerError(
            f"dcma.classifier is kept, but it tells {len(PRETRAINED)} classes ({', '.join(PRETRAINED)}), and here are "
            f"{classes}; set it to new"
        )
    return DCMA(
        classes, classifier=classifier, features=features, attention=attention, attend=attend, stem=stem,
        blocks=blocks, layers=layers, growth=growth, compression=compression, order=order, reduction=reduction,
        slope=slope,
    )  # fmt: skip


# ---- the network ----------------------------------------------------------------------------------------------------


class DCMA(nn.Module):
    """Faces (B, H, W, 3), grey levels 0..255 -> logits (B, classes). Arguments: see `build`.

    Every tensor is channels-last from the faces on: on a CPU the 5x5 convolutions are faster so.
    """

    def __init__(
        self,
        classes: int,
        *,
        classifier: str = "new",
        features: str = "dense",
        attention: str = "mixed",
        attend: str = "block",
        stem: int = 16,
        blocks: int = 4,
        layers: int = 5,
        growth: int = 24,
        compression: float = 1.0,
        order: str = "printed",
        reduction: int = 8,
        slope: float = 0.3,
    ):
        super().__init__()
        self.classifier = classifier

        def attentive(channels: int, place: str) -> nn.Module:
            return Attention(channels, attention, reduction, slope) if attend == place else nn.Identity()

        widths = dense_widths(stem, blocks, layers, growth, compression)
        if features == "residual":
            r = reduction if attend == "block" and attention in ("mixed", "channel") else None
            widths = residual_widths(widths, stem, layers, growth, compression, r)
        self.stem = Convolution(3, stem, stride=2)
        self.blocks, before = nn.ModuleList(), stem
        for j, width in enumerate(widths):
            if features == "dense":
                inputs = [attentive(before + i * growth, "layer") for i in range(layers)]
                found: nn.Module = DenseBlock(before, growth, order, inputs)
            else:
                found = ResidualStage(before, width, pairs(layers), attentive(before, "layer"))
            kept = squeezed(width, compression) if j < blocks - 1 else width
            squeeze = nn.Conv2d(width, kept, 1) if kept < width else nn.Identity()
            self.blocks.append(nn.Sequential(found, attentive(width, "block"), squeeze))
            before = kept
        self.attention = attentive(before, "last")
        self.fc = nn.Linear(before * GRID * GRID, classes)

    def forward(self, faces: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.maps(faces), GRID).flatten(1))  # eq. (9)

    def maps(self, faces: Tensor) -> Tensor:
        """What the classifier is given, before it is brought to 7x7: (B, C, h, w); h = H / 2**blocks."""
        x = faces.permute(0, 3, 1, 2).to(self.fc.weight.dtype) / 127.5 - 1
        x = self.stem(x)
        for j, block in enumerate(self.blocks):
            x = block(F.avg_pool2d(x, 2) if j else x)
        return self.attention(x)


class Convolution(nn.Module):
    """BN(ReLU(conv5x5)) of eq. (4), or conv5x5(ReLU(BN)) with `order` densenet (D-06)."""

    def __init__(self, before: int, width: int, *, stride: int = 1, order: str = "printed"):
        super().__init__()
        self.printed = order == "printed"
        # DenseNet's convolution is followed by the norms of later layers, which take its bias out again.
        self.conv = nn.Conv2d(before, width, KERNEL, stride, padding=KERNEL // 2, bias=self.printed)
        self.norm = nn.BatchNorm2d(width if self.printed else before)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(x))) if self.printed else self.conv(F.relu(self.norm(x)))


class DenseBlock(nn.Module):
    """Eq. (4): (B, C, h, w) -> (B, C + layers * growth, h, w), the input first, then each layer's maps.

    attend: one module for the input of each layer, Identity where it is not attended to (D-08).
    """

    def __init__(self, before: int, growth: int, order: str, attend: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(Convolution(before + i * growth, growth, order=order) for i in range(len(attend)))
        self.attend = nn.ModuleList(attend)
        self.spreads = order == "printed" and all(isinstance(module, nn.Identity) for module in attend)

    def forward(self, x: Tensor) -> Tensor:
        if self.spreads:
            return self.spread(x)
        for attend, layer in zip(self.attend, self.layers, strict=True):
            x = torch.cat([x, layer(attend(x))], 1)
        return x

    def spread(self, x: Tensor) -> Tensor:
        """The same sums in another order: what a layer wrote is convolved once for all later layers, as soon as it is
        there, so that nothing is copied side by side but the kernels: about a tenth faster on a CPU."""
        layers = cast(list[Convolution], list(self.layers))
        growth, first, parts, sums = layers[0].conv.out_channels, 0, [x], None
        bias = torch.cat([cast(Tensor, layer.conv.bias) for layer in layers])
        for i, layer in enumerate(layers):
            last = first + parts[-1].shape[1]
            kernels = torch.cat([later.conv.weight[:, first:last] for later in layers[i:]])
            found = F.conv2d(parts[-1], kernels, None if i else bias, padding=KERNEL // 2)
            sums = found if sums is None else sums + found
            parts.append(layer.norm(F.relu(sums[:, :growth])))
            sums, first = sums[:, growth:], last
        return torch.cat(parts, 1)


class ResidualStage(nn.Module):
    """Table 12's counterpart (D-23): pairs of eq. (4)'s layers, the input of each pair added to its output."""

    def __init__(self, before: int, width: int, number: int, attend: nn.Module):
        super().__init__()
        self.attend = attend
        self.pairs = nn.ModuleList(
            nn.Sequential(Convolution(before if i == 0 else width, width), Convolution(width, width))
            for i in range(number)
        )
        self.skip = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(x)
        for i, pair_of_layers in enumerate(self.pairs):
            x = pair_of_layers(x) + (self.skip(x) if i == 0 else x)
        return x


def squeezed(width: int, compression: float) -> int:
    """Channels that a block hands on (D-07)."""
    return max(1, int(width * compression))


def dense_widths(stem: int, blocks: int, layers: int, growth: int, compression: float) -> list[int]:
    """Channels at the end of each dense block, before they are squeezed."""
    widths, before = [], stem
    for _ in range(blocks):
        widths.append(before + layers * growth)
        before = squeezed(widths[-1], compression)
    return widths


def pairs(layers: int) -> int:
    """How many pairs of layers stand in the place of a dense block's layers."""
    return max(1, layers // 2)


def residual_widths(
    dense: list[int], stem: int, layers: int, growth: int, compression: float, reduction: int | None
) -> list[int]:
    """Channels of the residual stages: those of the dense blocks by one factor, with which the number of parameters is
    nearest to that of the dense network (D-23). reduction: r of eq. (5) at the end of each block; None: there is none.
    """

    def count(widths: list[int], stage: Callable[[int, int], int]) -> int:
        """Parameters that depend on the widths, with three classes; stage: those of a stage, from its channels."""
        befores = [stem, *(squeezed(width, compression) for width in widths[:-1])]
        joints = sum(w * b + b for w, b in zip(widths, befores[1:], strict=False)) if compression < 1 else 0
        attention = sum(2 * w * max(1, w // reduction) for w in widths) if reduction is not None else 0
        stages = sum(stage(*sizes) for sizes in zip(befores, widths, strict=True))
        return stages + joints + attention + len(PRETRAINED) * GRID**2 * widths[-1]

    def convolution(before: int, width: int) -> int:
        return KERNEL**2 * before * width + 3 * width

    def dense_stage(before: int, width: int) -> int:
        return sum(convolution(before + i * growth, growth) for i in range(layers))

    def residual_stage(before: int, width: int) -> int:
        skip = (before + 1) * width if before != width else 0
        return convolution(before, width) + (2 * pairs(layers) - 1) * convolution(width, width) + skip

    wanted = count(dense, dense_stage)
    found = ([max(1, round(share * width / 1000)) for width in dense] for share in range(1, 4001))
    return min(found, key=lambda widths: abs(count(widths, residual_stage) - wanted))


# ---- attention ------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Eqs. (5) to (8): (B, C, h, w) -> the same, each channel and then each place times its weight.

    parts: mixed | channel | spatial | none.
    """

    def __init__(self, channels: int, parts: str, reduction: int, slope: float):
        super().__init__()
        self.channel = ChannelAttention(channels, reduction, slope) if parts in ("mixed", "channel") else None
        self.spatial = SpatialAttention() if parts in ("mixed", "spatial") else None

    def forward(self, x: Tensor) -> Tensor:
        if self.channel is not None:
            x = x * self.channel(x)  # eq. (6)
        if self.spatial is not None:
            x = x * self.spatial(x)  # eq. (8)
        return x


def largest(x: Tensor, first: int, last: int) -> Tensor:
    """The maximum over the axes `first` to `last`.

    The gradient of amax looks for the numbers that equal the maximum. What torch.compile makes of it under autocast
    compares numbers before rounding with a maximum after it, finds none, and divides by how many there are.
    """
    if torch.compiler.is_compiling():
        return x.flatten(first, last).max(first).values
    return x.amax(tuple(range(first, last + 1)))


class ChannelAttention(nn.Module):
    """Eq. (5), the weights (B, C, 1, 1), 0..1; reduction: r, slope: of the LeakyReLU below zero (D-09)."""

    def __init__(self, channels: int, reduction: int, slope: float):
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // reduction))
        self.widen = nn.Linear(max(1, channels // reduction), channels)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack([x.mean((2, 3)), largest(x, 2, 3)])  # (2, B, C): one product for both
        found = self.widen(F.leaky_relu(self.squeeze(pooled), self.slope)).sum(0)
        return torch.sigmoid(found)[:, :, None, None]


class SpatialAttention(nn.Module):
    """Eq. (7), the weights (B, 1, h, w), 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), largest(x, 1, 1).unsqueeze(1)], 1)))


# ---- explanations ---------------------------------------------------------------------------------------------------


def explain(network: DCMA, inputs: Tensor) -> dict[str, Tensor]:
    """Grad-CAM (Selvaraju et al. 2017) of the class that a trained network finds, on what its classifier reads.

    Returns:
        data (B, h, w) float, 0 and above, with 1 as the maximum of each clip unless nothing speaks for the class; h and
        w as in `DCMA.maps`. logits (B, C). picture (B, H, W, 3), the faces. Where places are weighted, also spatial
        (B, h, w), eq. (7) of the last block, 0..1.
    """
    from captum.attr import LayerGradCam

    faces = inputs.to(network.fc.weight.dtype)
    spatial: list[Tensor] = []
    last = [module for module in network.modules() if isinstance(module, SpatialAttention)][-1:]
    hooks = [module.register_forward_hook(lambda _, given, found: spatial.append(found[:, 0])) for module in last]
    with torch.no_grad():
        logits = network(faces)
    for hook in hooks:
        hook.remove()
    with torch.enable_grad():
        found = LayerGradCam(network, network.attention).attribute(
            faces, logits.argmax(1), relu_attributions=True, attribute_to_layer_input=False
        )
    heat = found[:, 0].detach()
    most = heat.amax((1, 2), keepdim=True)
    explained = {"data": heat / torch.where(most > 0, most, 1), "logits": logits, "picture": inputs}
    if spatial:
        explained["spatial"] = spatial[0]
    return explained


# ---- weights --------------------------------------------------------------------------------------------------------


def build_pretrained(**knobs: Any) -> DCMA:
    """The network that stage pretrain trains, with a classifier of the classes PRETRAINED; knobs as for `build`."""
    return build(len(PRETRAINED), **knobs)


def load_user_weights(path: str | Path, **knobs: Any) -> DCMA:
    """The network with the weights of a file, classifier included. Raises MerError for those of another network."""
    return _filled(build_pretrained(**knobs), path, keep=True)


def load_weights(network: DCMA, path: str | Path) -> DCMA:
    """Give a network what was pretrained; its classifier stays new, unless the knob `classifier` is kept."""
    return _filled(network, path, keep=network.classifier == "kept")


def _filled(network: DCMA, path: str | Path, *, keep: bool) -> DCMA:
    expected = {name: value for name, value in network.state_dict().items() if keep or not name.startswith("fc.")}
    network.load_state_dict(read_weights(path, expected, "DCMA", SOURCE, more=not keep), strict=False)
    return network


# ---- inputs ---------------------------------------------------------------------------------------------------------


def reads(knobs: dict) -> tuple[Product | Weights, ...]:
    """The magnified apex frame, and the weights of the same network pretrained.

    Networks of another attention or of residual stages have been pretrained as such: weights dcma_channel,
    dcma_spatial, dcma_none, dcma_residual, or dcma_residual_none, ….
    """
    evm, before = knobs["evm"], knobs["crop"] == "before"
    found: Product
    if evm == "none":
        found = pair(frames("box112"))
    elif before:
        found = apex_frame(eulerian(frames("box112"), evm))
    else:
        found = apex_frame(frames("box112", of=eulerian(recording(), evm)))
    if knobs["start"] == "random":
        return (found,)
    parts = (("residual", knobs["features"] == "residual"), (knobs["attention"], knobs["attention"] != "mixed"))
    return found, weights("_".join(["dcma", *(name for name, other in parts if other)]))


def prepare(apex: np.ndarray, *, size: int) -> np.ndarray:
    """Apex frames (N, H, W, 3) uint8, or pairs of onset and apex (N, 2, H, W, 3), as (N, size, size, 3) uint8."""
    import cv2

    if apex.ndim == 5 and apex.shape[1] == 2:
        apex = apex[:, 1]
    if apex.ndim != 4 or apex.shape[-1] != 3 or apex.dtype != np.uint8 or not apex.size:
        raise MerError(
            f"dcma reads apex frames (clips, height, width, 3) uint8, or pairs with the onset before it, not "
            f"{apex.shape} {apex.dtype}"
        )
    if apex.shape[1:3] == (size, size):
        return np.ascontiguousarray(apex)
    smaller = size < min(apex.shape[1:3])
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (size, size), interpolation=how) for frame in apex])


def mirror(inputs: Tensor) -> Tensor:
    """The mirrored faces: columns reversed."""
    return inputs.flip(-2)
