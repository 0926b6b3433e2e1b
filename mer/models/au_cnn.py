"""A small convolutional network on flow maps, one or several views of a clip, trained in the fold.

A view is a flow map of the clip, as for mer.models.au_linear. All views go through the same network, each by itself; in
the fold it begins with random weights or with those that know action units from simulated maps
(mer.networks.action_units). A clip's probability is the mean over its views, each as it is and mirrored. With
`auxiliary` it also learns the action units that coders saw in the training clips, beside their classes.

Shapes: B clips, V views, C classes, U action units.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.errors import MerError
from mer.facs import UNITS, coded_units
from mer.networks.action_units import ActionUnitNetwork
from mer.products import Product, Weights, flow_views, weights
from mer.storage.weights import read_weights
from mer.stretch import SIZE, check_flow, stretched

RECIPE = {
    "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "epochs": 30, "batch_size": 64, "schedule": "cosine",
    "mirror": True, "zoom": 0.1,
}  # fmt: skip
VECTORS = None  # a stretched map keeps no lengths; check_recipe refuses to turn it
SOURCE = "bring weights that a run of task simulated_flow has made"


def build(
    classes: int,
    *,
    crop: str = "box224",
    second: str = "none",
    offset: bool = False,
    start: Literal["random", "pretrained"] = "random",
    width: int = 16,
    dropout: float = 0.3,
    auxiliary: float = 0.0,
) -> "FlowNetwork":
    """The network.

    Args:
        crop, second, offset: which views are read, as for mer.models.au_linear.
        start: pretrained: the convolutions are those of weights action_units, whose width is 32.
        width: channels of the first convolutions; the last ones have three times as many.
        dropout: before the last layer.
        auxiliary: weight of the coded action units' loss beside that of the classes; 0: they are not learned.
    """
    if width < 1 or not 0 <= dropout < 1:
        raise MerError(f"au_cnn: width is {width}, dropout {dropout}; needed are 1 or more, and a share below 1")
    if not 0 <= auxiliary < math.inf:
        raise MerError(f"au_cnn: auxiliary is {auxiliary}; needed is 0 or more, and finite")
    views = 1 + (second != "none") + offset
    return FlowNetwork(classes, views=views, width=width, dropout=dropout, auxiliary=auxiliary)


def reads(knobs: dict) -> tuple[Product | Weights, ...]:
    """The flow of every view; pretrained weights where it begins with them."""
    start = [weights("action_units")] if knobs["start"] == "pretrained" else []
    return (*flow_views(knobs["crop"], knobs["second"], offset=knobs["offset"]), *start)


def prepare(*views: np.ndarray) -> np.ndarray:
    """Flow images (N, 3, H, W) of every view -> (N, 3 V, 28, 28) float32, each channel of each stretched."""
    for view in views:
        check_flow("au_cnn", view)
    return np.concatenate([stretched(view) for view in views], axis=1)


def targets(aus: Sequence[str], knobs: dict) -> np.ndarray | None:
    """The coded action units, (N, U); where `auxiliary` is 0, None."""
    return coded_units(aus) if knobs["auxiliary"] else None


def mirror(inputs: Tensor) -> Tensor:
    """The inputs of the mirrored faces: columns reversed, u negated."""
    mirrored = inputs.flip(-1)
    mirrored[:, ::3] *= -1
    return mirrored


class FlowNetwork(nn.Module):
    """(B, 3 V, 28, 28) -> in training what `loss` takes; in evaluation the log of the mean probability, (B, C).

    In training: logits (B, V, C) of each view; with `auxiliary` also those of the action units (B, V, U), and its
    value.
    """

    def __init__(self, classes: int, *, views: int, width: int, dropout: float, auxiliary: float = 0.0):
        super().__init__()
        self.views, self.classes, self.auxiliary = views, classes, auxiliary
        self.trunk = ActionUnitNetwork(width)
        self.trunk.dropout = nn.Dropout(dropout)
        self.trunk.head = nn.Linear(self.trunk.head.in_features, classes + (len(UNITS) if auxiliary else 0))

    def forward(self, inputs: Tensor) -> Tensor | tuple[Tensor, Tensor, float]:
        logits = self._logits(inputs)
        if self.training:
            return (*logits.split([self.classes, len(UNITS)], -1), self.auxiliary) if self.auxiliary else logits
        both = torch.cat([logits, self._logits(mirror(inputs))], 1)[..., : self.classes]
        return both.softmax(-1).mean(1).clamp_min(1e-30).log()

    def _logits(self, inputs: Tensor) -> Tensor:
        """(B, V, C), or (B, V, C + U)"""
        maps = inputs.reshape(len(inputs) * self.views, 3, SIZE, SIZE)
        return self._logits_of(maps).reshape(len(inputs), self.views, -1)

    def _logits_of(self, maps: Tensor) -> Tensor:
        """(B, 3, 28, 28) -> (B, C), or (B, C + U), of one view."""
        return self.trunk(maps)


def loss(
    network: Callable[[Tensor], Any], inputs: Tensor, labels: Tensor, row_weight: Tensor, units: Tensor | None = None
) -> Tensor:
    """The mean of the views' cross entropies; every class of a batch counts the same, as in mer.models.linear.

    units: (B, U), 1 or 0, NaN where nobody knows. To the loss comes `auxiliary` times the mean binary cross entropy of
    the known ones.
    """
    found = network(inputs)
    logits = found if units is None else found[0]
    each = F.cross_entropy(logits.transpose(1, 2), labels[:, None].expand(-1, logits.shape[1]), reduction="none").mean(
        1
    )
    share = (F.one_hot(labels, logits.shape[-1]).to(row_weight.dtype) * row_weight[:, None]).sum(0)
    total = (each * row_weight / share[labels].clamp_min(1e-9)).sum() / (share > 0).sum()
    if units is None:
        return total
    _, of_units, auxiliary = found
    known = (~units.isnan()) * row_weight[:, None]
    wanted = units.nan_to_num(0)[:, None].expand_as(of_units)
    apart = F.binary_cross_entropy_with_logits(of_units, wanted, reduction="none").mean(1)
    return total + auxiliary * (apart * known).sum() / known.sum().clamp_min(1e-9)


def check_recipe(recipe: Any, knobs: dict) -> None:
    """Raise MerError for turned maps: a stretched u and v cannot be turned together."""
    if recipe.rotate:
        raise MerError("au_cnn: recipe.rotate turns maps whose u and v were stretched apart; set it to 0")
    if knobs["start"] == "pretrained" and knobs["width"] != 32:
        raise MerError(f"au_cnn: width is {knobs['width']}, that of weights action_units is 32; set width to 32")


def load_weights(network: FlowNetwork, path: str | Path) -> FlowNetwork:
    """Give a network all but the last layer of weights action_units."""
    expected = {n: v for n, v in network.trunk.state_dict().items() if not n.startswith("head.")}
    state = read_weights(path, expected, "ActionUnitNetwork", SOURCE, more=True)
    network.trunk.load_state_dict(state, strict=False)
    return network
