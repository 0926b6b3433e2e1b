"""MSMMT (Wang et al. 2022, "Multi-scale multi-modal micro-expression recognition algorithm based on transformer").

Two pictures of a clip, its dynamic image and its flow image, are reduced to three sizes; a ViT reads each of them. What
the first L - 1 layers pay attention to weights the patches before the last layer. The class tokens of both modalities
are classified, and the two tokens of a clip are drawn together against those of other clips. With w_l^h the attention
map of head h in layer l, H heads, L layers, P patches, a batch of B clips, modalities d (dynamic image) and f (flow):

    (12)  G_l = mean over heads of w_l^h, normalised                                            `normalised`
    (13)  G = G_{L-1} … G_1                                                                     `MSMMT.rollout`
    (14)  g = mean over rows of G / maximum of G: one weight a patch                            `patch_weights`
    (15)  input_L = [class token, g * patch tokens] of layer L - 1                              `MSMMT.last_layer`
    (16)  Z_L = the last layer of it                                                            `MSMMT.last_layer`
    (17)  score = FC2(dropout(ReLU(FC1([F_d, F_f]))))                                           `MSMMT.forward`
    (18)  F = [class tokens of the sizes m, m/2, m/4]                                           `MSMMT.modality`
    (19)  l_i^(d,f) = -log exp(s(d_i, f_i) / tau) / sum of exp(s / tau) of d_i with all f and the other d   `one_way`
    (20)  contrast = mean over i of (l_i^(d,f) + l_i^(f,d)) / 2                                 `contrastive`
    (21)  loss = (1 - alpha) * contrast + alpha * cross entropy                                 `loss`

s is the cosine. Eqs. (1) to (4) are mer.motion.dynamic_image, (5) to (9) mer.motion.tvl1 and strain.

**As printed, eq. (14) changes nothing.** Layer norm stands between eqs. (15) and (16), and it takes out the factor of
each token: norm(g z) = norm(z). The class token, the only one that is read, is the same with weights and without. So
`weighting: normalised` multiplies what the layer norm returns, which is what the text describes; `tokens` is eq. (15)
to the letter (S-08).

Shapes: S sizes, d the width, T tokens of all sizes in one row. What the paper leaves open is a knob of `build`, with
its id in the reading notes (S-01 …).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mer.errors import MerError
from mer.networks.vit import GRID, PATCH, Block, ViT, load_vit, resampling
from mer.products import Product, Weights, dynamic_image, eulerian, flow, frames, weights

# The paper's, and its augmentation (S-25); the schedule is not given.
RECIPE = {
    "optimizer": "adamw", "lr": 5e-5, "weight_decay": 0.05, "epochs": 50, "batch_size": 16, "mirror": True,
    "rotate": 10.0, "zoom": 0.1,
}  # fmt: skip
MODALITIES = ("dynamic_image", "flow")
SIZES = 3
SHOWN = 128  # px, the side of the pictures that are kept beside explanations
ALONE = "msmmt: a batch of one clip has nothing to contrast it with; set recipe.batch_size to 2 or more, or alpha to 1"
VECTORS = (3, 4)  # of the six channels: R, G, B of the dynamic image, then u, v, strain


def build(
    classes: int,
    *,
    size: int = 256,
    scales: int = SIZES,
    rounding: Literal["none", "down", "up"] = "none",
    modalities: Literal["both", "dynamic_image", "flow"] = "both",
    evm: str = "msmmt",
    magnified: Literal["both", "dynamic_image", "flow", "none"] = "both",
    start: Literal["pretrained", "random"] = "pretrained",
    share: Literal["modality", "all", "none"] = "modality",
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    widen: int = 4,
    grid: int = GRID,
    scaling: Literal["fixed", "minmax"] = "fixed",
    flow_range: float = 5.0,
    strain_range: float = 0.5,
    weighting: Literal["normalised", "tokens", "off"] = "normalised",
    normalise: Literal["row", "column", "none"] = "row",
    identity: bool = False,
    order: Literal["later_left", "ascending"] = "later_left",
    maximum: Literal["matrix", "vector"] = "matrix",
    rows: Literal["patches", "class"] = "patches",
    detach: bool = False,
    block: Literal["standard", "literal"] = "standard",
    fc1: int = 512,
    dropout: float = 0.5,
    alpha: float = 0.1,
    tau: float = 0.1,
    pairs: Literal["instance", "supervised"] = "instance",
    keep: Literal["all", "attention", "layers"] = "all",
) -> "MSMMT":
    """The network, of the paper's size unless told otherwise.

    Args:
        size, scales: m in px, and how many of the sizes m, m/2, m/4 there are (S-01).
        rounding: what becomes of a size that 16 does not divide: refused, the next smaller one that it does, or the
            next larger (S-01: 224 has 48 or 64).
        modalities: both, or one alone, which has no contrast: plain cross entropy then.
        evm, magnified: the recipe of magnify_eulerian, and which modalities are made of magnified clips (S-12).
        start: the ViTs begin with weights `vit`, or random.
        share: a ViT for each modality, one for all, or one for each modality and size (S-03). Each modality and size
            has a class token of its own in any case.
        width, layers, heads, widen: of the ViT. grid: patches a side for which the weights have position codes: 14 for
            those learned at 224 px, 24 at 384.
        scaling, flow_range, strain_range: u and v from -flow_range to flow_range px, and strain up to strain_range,
            become -1 to 1, and beyond is cut; or each channel of each image is stretched from its minimum to its
            maximum (S-13). Grey levels 0 to 255 become -1 to 1, as the official weights expect it.
        weighting: see above; off: the patches are not weighted.
        normalise: what eq. (12) divides by: the sum of a row (1 already, unless `identity`), of a column, or nothing.
            identity: the identity matrix is added before, for the residual connection (S-04).
        order: eq. (13)'s: later layers to the left, or to the right (S-06).
        maximum, rows: eq. (14) divides by the maximum of the whole matrix, or of the patches' means; these are over the
            patches' rows, or are the row of the class token (S-07).
        detach: no gradient passes through the weights.
        block: the last layer is like the others, or eq. (16) to the letter, where nothing is added to the output of the
            feed-forward layer (S-08).
        fc1, dropout: of the classifier (S-25).
        alpha: weight of the cross entropy, 0 to 1; 1: no contrast (S-19). tau, pairs: the temperature, and what is
            drawn together: the two modalities of a clip, or all clips of a class (S-18).
        keep: what the backward pass finds of the forward pass: all of it; without the inside of the feed-forward
            layers, which is formed again (about a tenth more work); nothing but the layers' inputs (a third more).
    """
    given = locals()
    for name in ("size", "scales", "width", "layers", "heads", "widen", "grid", "fc1"):
        if given[name] < 1:
            raise MerError(f"msmmt.{name} is {given[name]}; it must be at least 1")
    for name in ("flow_range", "strain_range", "tau"):
        if not 0 < given[name] < math.inf:
            raise MerError(f"msmmt.{name} is {given[name]}; it must be above 0 and finite")
    if not 0 <= alpha <= 1:
        raise MerError(f"msmmt.alpha is {alpha}; it is a share, 0 to 1")
    if not 0 <= dropout < 1:
        raise MerError(f"msmmt.dropout is {dropout}; needed is a probability, 0 or above and below 1")
    if layers < 2:
        raise MerError("msmmt.layers is 1; the patches are weighted by the layers before the last one: 2 at least")
    return MSMMT(
        classes, sides(size, scales, rounding), modalities, ViTs(share, width, layers, heads, widen, grid),
        Pictures(scaling, flow_range, strain_range),
        Rollout(weighting, normalise, identity, order, maximum, rows, detach), Contrast(alpha, tau, pairs),
        literal=block == "literal", hidden=fc1, dropout=dropout, keep=keep,
    )  # fmt: skip


def sides(size: int, scales: int = SIZES, rounding: str = "none") -> tuple[int, ...]:
    """The sizes m, m/2, m/4 in px.

    Raises MerError for a size that 16 does not divide, naming the nearest m with which it does, and for a single patch,
    in which there is nothing to weight.
    """
    if not 1 <= scales <= SIZES:
        raise MerError(f"msmmt.scales is {scales}; it is 1 to {SIZES}: m, m/2, m/4")
    whole, smallest = PATCH * 2 ** (scales - 1), PATCH * 2**scales
    exact = [size / 2**i for i in range(scales)]
    if rounding == "none" and any(side % PATCH for side in exact):
        nearest = max(smallest, round(size / whole) * whole)
        raise MerError(
            f"msmmt.size is {size}, and {', '.join(f'{s:g}' for s in exact)} px must each be a multiple of {PATCH}; "
            f"the nearest size is {nearest}, or set msmmt.rounding to down or up"
        )
    to_whole: Callable[[float], int] = math.floor if rounding == "down" else math.ceil
    found = tuple(PATCH * to_whole(side / PATCH) for side in exact)
    if min(found) < 2 * PATCH:
        raise MerError(
            f"msmmt.size is {size}, whose smallest image, {min(found)} px, is a single patch or none; the least size "
            f"is {smallest}"
        )
    return found


# ---- the network ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ViTs:
    """Which ViTs there are (S-03), and their size."""

    share: str
    width: int
    layers: int
    heads: int
    widen: int
    grid: int

    def make(self, modalities: Sequence[str], scales: int) -> nn.ModuleDict:
        tokens = {"modality": scales, "all": scales * len(modalities), "none": 1}[self.share]
        each = [f"{m}_{s}" for m in modalities for s in range(scales)]
        names = {"modality": list(modalities), "all": ["all"], "none": each}[self.share]
        size = (self.width, self.layers, self.heads, self.widen)
        return nn.ModuleDict({name: ViT(*size, tokens=tokens, grid=self.grid) for name in names})

    def used(self, modalities: Sequence[str], m: int, scales: int) -> list[tuple[str, tuple[int, ...], int]]:
        """For modality m: which ViT reads which sizes together, and the first of their class tokens."""
        every = tuple(range(scales))
        if self.share == "none":
            return [(f"{modalities[m]}_{s}", (s,), 0) for s in every]
        return [(modalities[m], every, 0)] if self.share == "modality" else [("all", every, m * scales)]


@dataclass(frozen=True)
class Pictures:
    """How the channels become the values that a ViT reads (S-13)."""

    scaling: str
    flow_range: float
    strain_range: float

    def __call__(self, x: Tensor, modality: str) -> Tensor:
        """Three channels (B, 3, H, W) of a modality to about -1..1."""
        if modality == "dynamic_image":
            return x / 127.5 - 1
        if self.scaling == "minmax":
            low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
            return 2 * (x - low) / torch.where(high > low, high - low, 1) - 1
        ranges = x.new_tensor((self.flow_range, self.flow_range, self.strain_range)).view(3, 1, 1)
        return (x / ranges).clamp(-1, 1)


@dataclass(frozen=True)
class Rollout:
    """Eqs. (12) to (14) with their open choices, see `build`. Maps (B, t, t) of one size, float32; t = 1 + P."""

    weighting: str = "normalised"
    normalise: str = "row"
    identity: bool = False
    order: str = "later_left"
    maximum: str = "matrix"
    rows: str = "patches"
    detach: bool = False

    def normalised(self, mean: Tensor) -> Tensor:
        """Eq. (12), of the mean over the heads, whose rows add up to 1 already."""
        if self.normalise == "row" and not self.identity:
            return mean
        if self.identity:
            mean = mean + torch.eye(mean.shape[-1], device=mean.device, dtype=mean.dtype)
        axis = {"row": -1, "column": -2, "none": None}[self.normalise]
        return mean if axis is None else mean / mean.sum(axis, keepdim=True)

    def product(self, so_far: Tensor | None, mean: Tensor) -> Tensor:
        """Eq. (13), one layer further: so only one matrix of a size is kept, whatever L is."""
        later = self.normalised(mean)
        if so_far is None:
            return later
        return later @ so_far if self.order == "later_left" else so_far @ later

    def patch_weights(self, product: Tensor) -> Tensor:
        """Eq. (14): (B, P), without the class token's column."""
        found = product[:, 0, 1:] if self.rows == "class" else product[:, 1:, 1:].mean(1)
        most = product.amax((1, 2)) if self.maximum == "matrix" else found.amax(1)
        return found / most[:, None]


class MSMMT(nn.Module):
    """Inputs (B, 6, H, W): the dynamic image's grey levels, then flow in px. In evaluation logits (B, classes); in
    training an `Output`."""

    def __init__(
        self,
        classes: int,
        sides: tuple[int, ...],
        modalities: str,
        vits: ViTs,
        pictures: Pictures,
        rollout: Rollout,
        contrast: "Contrast",
        *,
        literal: bool,
        hidden: int,
        dropout: float,
        keep: str,
    ):
        super().__init__()
        self.modalities = MODALITIES if modalities == "both" else (modalities,)
        self.sides, self.plan, self.pictures, self.rollout, self.contrast = sides, vits, pictures, rollout, contrast
        self.literal, self.keep = literal, keep
        self.vits = vits.make(self.modalities, len(sides))
        self.fc1 = nn.Linear(vits.width * len(sides) * len(self.modalities), hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, inputs: Tensor) -> "Tensor | Output":
        features = [self.modality(inputs, m)[0] for m in range(len(self.modalities))]
        logits = self.fc2(self.dropout(F.relu(self.fc1(torch.cat(features, 1)))))  # eq. (17)
        return Output(logits, tuple(features), self.contrast) if self.training else logits

    def modality(self, inputs: Tensor, m: int, weights: bool = False) -> tuple[Tensor, list[Tensor]]:
        """F of eq. (18), (B, S d); and, where asked for, eq. (14)'s weights of each size, (B, P)."""
        tokens, found = [], []
        for name, places, first in self.plan.used(self.modalities, m, len(self.sides)):
            vit: ViT = self.vits[name]  # type: ignore[assignment]  # a ModuleDict holds any module
            images = [self.image(inputs, self.modalities[m], self.sides[s]) for s in places]
            rows = [vit.embed(image, first + i) for i, image in enumerate(images)]
            classes, weighted = self.layers(vit, torch.cat(rows, 1), [row.shape[1] for row in rows], weights)
            tokens.append(classes.flatten(1))
            found += weighted
        return torch.cat(tokens, 1), found

    def image(self, inputs: Tensor, modality: str, side: int) -> Tensor:
        """(B, 3, side, side), reduced or enlarged, of the values that the ViT reads."""
        first = 3 * MODALITIES.index(modality)
        x = self.pictures(inputs[:, first : first + 3], modality)
        for axis in (2, 3):
            if x.shape[axis] != side:
                x = (resampling(x.shape[axis], side, "bilinear", x.device) @ x.transpose(2, axis)).transpose(2, axis)
        return x

    def layers(self, vit: ViT, x: Tensor, parts: list[int], weights: bool) -> tuple[Tensor, list[Tensor]]:
        """All layers: x (B, T, d), `parts` tokens of each size -> class tokens (B, sizes, d), and the weights."""
        *before, last = vit.blocks
        needed = weights or self.rollout.weighting != "off"
        maps = "none" if not needed else "detached" if self.rollout.detach else "mean"
        products: list[Tensor | None] = [None] * len(parts)
        for block in before:
            if self.keep == "layers" and torch.is_grad_enabled():
                x, found = checkpoint(block, x, parts, maps, use_reentrant=False, preserve_rng_state=False)
            else:
                x, found = block(x, parts, maps, lean=self.keep == "attention")
            with torch.autocast(x.device.type, enabled=False):  # eleven products of bfloat16 would lose two digits
                products = [self.rollout.product(p, g) for p, g in zip(products, found, strict=True)] if found else []
        with torch.autocast(x.device.type, enabled=False):
            weighted = [self.rollout.patch_weights(p) for p in products if p is not None]
        return vit.norm(self.last_layer(last, x, parts, weighted)), weighted  # type: ignore[arg-type]

    def last_layer(self, block: Block, x: Tensor, parts: list[int], weights: list[Tensor]) -> Tensor:
        """Eqs. (15) and (16) for the class tokens alone, (B, sizes, d): no other token of this layer is read."""
        classes = x[:, [sum(parts[:i]) for i in range(len(parts))]]
        factors = x.new_ones(())
        if self.rollout.weighting != "off":
            one = weights[0].new_ones(len(x), 1)
            factors = torch.cat([w for part in weights for w in (one, part)], 1)[..., None].to(x.dtype)
        if self.rollout.weighting == "tokens":
            x = x * factors
        keys = block.norm1(x)
        if self.rollout.weighting == "normalised":
            keys = keys * factors
        mixed = classes + block.attend_first(keys, parts)
        return block.feed_forward(mixed) if self.literal else mixed + block.feed_forward(mixed)


# ---- loss -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contrast:
    """Eqs. (19) to (21), see `build`."""

    alpha: float
    tau: float
    pairs: str


@dataclass(frozen=True)
class Output:
    """What the network returns in training: logits (B, classes), and F of each modality, (B, S d)."""

    logits: Tensor
    features: tuple[Tensor, ...]
    contrast: Contrast


def loss(network: Callable[[Tensor], Output], inputs: Tensor, labels: Tensor, row_weight: Tensor) -> Tensor:
    """Eq. (21); cross entropy alone for alpha 1 and for a single modality."""
    output = network(inputs)
    alpha = output.contrast.alpha if len(output.features) > 1 else 1.0
    entropy = (F.cross_entropy(output.logits, labels, reduction="none") * row_weight).sum()
    if alpha == 1:
        return entropy
    tau, classes = output.contrast.tau, labels if output.contrast.pairs == "supervised" else None
    return (1 - alpha) * contrastive(
        *output.features, tau=tau, row_weight=row_weight, classes=classes
    ) + alpha * entropy


def contrastive(a: Tensor, b: Tensor, *, tau: float, row_weight: Tensor, classes: Tensor | None = None) -> Tensor:
    """Eq. (20), with eq. (19) in both directions: features (B, …) of two modalities -> a number.

    Rows of weight 0 count neither as clips nor as the others. It is log(1 + (2 B - 2) exp(-2 / tau)) at least.

    Args:
        classes: (B,); clips of a class belong together, and none of them counts as another. None: a clip is its own
            class.

    Raises:
        MerError: a single row, which has no other to differ from.
    """
    if len(a) < 2:
        raise MerError(ALONE)
    with torch.autocast(a.device.type, enabled=False):
        a, b = (F.normalize(x.float(), dim=1, eps=1e-8) for x in (a, b))
        alike = torch.eye(len(a), dtype=torch.bool, device=a.device)
        if classes is not None:
            alike = alike | (classes[:, None] == classes)
        alike = alike & (row_weight > 0)
        across, same_a, same_b = (x @ y.T / tau for x, y in ((a, b), (a, a), (b, b)))
        each = one_way(across, same_a, alike, row_weight > 0) + one_way(across.T, same_b, alike, row_weight > 0)
        return (each * row_weight).sum() / 2


def one_way(across: Tensor, within: Tensor, alike: Tensor, real: Tensor) -> Tensor:
    """Eq. (19), (B,): similarities / tau of clips (rows) in one modality with clips in the other, and in their own.

    alike: which clips belong together; real: which are no padding. Both count as columns.
    """
    # The lowest number instead of minus infinity: where every row is padding, a sum of nothing must not become NaN.
    lowest = torch.finfo(across.dtype).min / 8  # both directions are added
    others = torch.cat([across.masked_fill(~real, lowest), within.masked_fill(alike | ~real, lowest)], 1)
    together = (across * alike).sum(1) / alike.sum(1).clamp(min=1)
    return others.logsumexp(1) - together


# ---- inputs ---------------------------------------------------------------------------------------------------------


def reads(knobs: dict) -> tuple[Product | Weights, ...]:
    """The dynamic image and the flow from onset to apex, of clips aligned by the inner eye corners and magnified."""
    plain, magnified = frames("innereye256"), knobs["magnified"]
    found: list[Product | Weights] = []
    for modality, product in zip(MODALITIES, (dynamic_image, flow), strict=True):
        if knobs["modalities"] in ("both", modality):
            found.append(product(eulerian(plain, knobs["evm"]) if magnified in ("both", modality) else plain))
    return (*found, weights("vit")) if knobs["start"] == "pretrained" else tuple(found)


def prepare(*arrays: np.ndarray, size: int) -> np.ndarray:
    """Dynamic images (N, H, W, 3) uint8, flow images (N, 3, H, W) float32, or either, as (N, 6, h, w) float32.

    Larger ones are reduced to size x size. The channels of a modality that is not there are 0.
    """
    if len({(len(a), a.shape[2]) for a in arrays}) != 1:
        raise MerError(
            f"msmmt reads pictures of the same clips and size, not {' and '.join(str(a.shape) for a in arrays)}"
        )
    parts: dict[str, np.ndarray] = {}
    for array in arrays:
        if array.ndim == 4 and array.dtype == np.uint8 and array.shape[3] == 3:
            parts["dynamic_image"] = array
        elif array.ndim == 4 and array.dtype.kind == "f" and array.shape[1] == 3:
            parts["flow"] = array.transpose(0, 2, 3, 1)
    if len(parts) != len(arrays):
        raise MerError(
            f"msmmt reads dynamic images (N, H, W, 3) uint8 and flow images (N, 3, H, W), not "
            f"{' and '.join(f'{a.shape} {a.dtype}' for a in arrays)}; flow comes with strain beside it"
        )
    return np.stack(
        [_packed([parts[m][i] if m in parts else None for m in MODALITIES], size) for i in range(len(arrays[0]))]
    )


def _packed(pictures: Sequence[np.ndarray | None], size: int) -> np.ndarray:
    """Two pictures (H, W, 3) of a clip, or one, as (6, h, w)."""
    import cv2

    found = []
    for picture in pictures:
        if picture is not None:
            picture = picture.astype(np.float32)
            if picture.shape[0] > size:
                picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        found.append(picture)
    form = next(p.shape for p in found if p is not None)
    return np.concatenate([np.zeros(form, np.float32) if p is None else p for p in found], 2).transpose(2, 0, 1)


def mirror(inputs: Tensor) -> Tensor:
    """The inputs of the mirrored faces: columns reversed, u negated."""
    mirrored = inputs.flip(-1)
    mirrored[:, VECTORS[0]] *= -1
    return mirrored


def check_recipe(recipe: Any, knobs: dict) -> None:
    """Raise MerError for batches of one clip where there is a contrast."""
    if recipe.batch_size < 2 and knobs["modalities"] == "both" and knobs["alpha"] < 1:
        raise MerError(ALONE)


def load_weights(network: MSMMT, path: str | Path) -> MSMMT:
    """Give each ViT the weights of a file (see mer.networks.vit)."""
    for vit in network.vits.values():
        load_vit(vit, path)  # type: ignore[arg-type]
    return network


# ---- explanation ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def explain(network: MSMMT, inputs: Tensor) -> dict[str, Tensor]:
    """What eq. (14) weights, and with what outcome. The network does not change.

    Returns:
        data (B, modalities, S, side, side), the weight of each patch, where side is the patches a side at size m and a
        patch of a smaller size fills several places; logits (B, C); picture (B, 3, h, w), what the weights may be laid
        over, 128 px at most: the dynamic image in grey levels, or without one the flow image; with both modalities
        also cosine (B,), of F_d and F_f.
    """
    training = network.training
    network.eval()
    try:
        features, weights = zip(
            *(network.modality(inputs, m, True) for m in range(len(network.modalities))), strict=True
        )
        side = network.sides[0] // PATCH
        maps = [torch.stack([_at_full_size(w, side) for w in of_modality], 1) for of_modality in weights]
        first = 3 * MODALITIES.index(network.modalities[0])
        picture = inputs[:, first : first + 3]
        if picture.shape[-1] > SHOWN:
            picture = F.adaptive_avg_pool2d(picture, SHOWN)
        found = {"data": torch.stack(maps, 1), "logits": network(inputs), "picture": picture}
        if len(features) > 1:
            found["cosine"] = F.cosine_similarity(*features)
        return found
    finally:
        network.train(training)


def _at_full_size(weights: Tensor, side: int) -> Tensor:
    """(B, P) -> (B, side, side), each patch as large as it is on the face."""
    own = math.isqrt(weights.shape[1])
    return F.interpolate(weights.unflatten(1, (1, own, own)), (side, side), mode="nearest-exact")[:, 0]
