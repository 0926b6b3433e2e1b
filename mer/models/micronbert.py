"""Micron-BERT (Nguyen et al. 2023, "Micron-BERT: BERT-based Facial Micro-Expression Recognition").

Frames become tokens of 8x8 px. Pretraining (stage pretrain@micronbert, task frame_pairs) swaps blocks of frame t+delta
into frame t and has the network restore frame t; attention between a patch and itself in the other frame tells how much
it should look there. Recognition takes onset and apex for the two frames. Eqs. (1) to (7) and their symbols:

    P = encoder(patches + positions), with a contextual token before them                          `Backbone.encode`
    (8)   A = softmax(Q(P_{t+delta}) K(P_{t/s})^T), one head, never formed whole                    `diagonal`
    (9)   P_dma = diag(A) V(P_{t/s}), each patch times its own number                               `Backbone.changes`
    (11)  S = the contextual token's row of the last encoder attention                              `Backbone.encode`
    (12)  P_dma = W V(P_{t/s}), W = diag(A) S                                                       `Backbone.changes`
    (13)  loss = gamma reconstruction + beta agreement                                 mer.pretraining.frame_pairs
    (14)  reconstruction: mean squared error between decoder(P_dma) and frame t                     `restoration_loss`
    (10), (15)  agreement of the contextual tokens of frame t+delta and of a crop of it     mer.pretraining.frame_pairs
    Algorithm 1, blockwise swapping                                                                 `swapped_cells`

Table 6: MB1 is `dma: false, poi: false`, the decoder reads what the encoder makes of the swapped frame; MB2 is `poi:
false`, eq. (9); MB3 both, eq. (12); MAE is `pretext: mask`. Each is pretrained as what it is: see `pretraining_of`.

What the paper leaves open is a knob of `build`, or of the run in params.yaml, with its id in the reading notes.

Shapes: B clips, N = s x s patches of a frame, s = size / patch, d the width, C classes. Frames (B, H, W, 3) uint8 or
float, grey levels 0..255, RGB.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mer.errors import MerError
from mer.networks.random_layers import Uniform, begin, number
from mer.networks.vit import EPSILON, Block
from mer.products import Product, Weights, frames, pair, weights
from mer.storage.weights import read_weights, weights_about

NETWORK = "micronbert"  # for stage pretrain
RESTORES = True  # for its task frame_pairs
# M-16: [choice]; the paper gives none of it.
RECIPE = {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.01, "epochs": 50, "batch_size": 16, "schedule": "cosine"}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of channels 0..1
SMALLEST = 1e-6  # variance that is added to a patch's own, as He et al. 2022 do
RATIO, MIN_BLOCK, MIN_ASPECT = 0.5, 16, 0.3  # Algorithm 1: share of patches, patches, height by width
ROUNDS = 64  # blocks that are drawn at recognition; 29 was the most that 200,000 images of 28x28 patches needed
SOURCE = "write them with dvc repro pretrain, or put a file of this network's own into pretrain.runs.…user_weights"


def build(
    classes: int,
    *,
    crop: Literal["none224", "box224"] = "none224",
    size: int = 224,
    start: Literal["pretrained", "random"] = "pretrained",
    pretext: Literal["swap", "mask"] = "swap",
    dma: bool = True,
    poi: bool = True,
    patch: int = 8,
    width: int = 512,
    layers: int = 4,
    heads: int = 4,
    widen: int = 4,
    softmax_axis: Literal["keys", "queries"] = "keys",
    scale: bool = True,
    roles: Literal["paper", "code"] = "paper",
    swap_input: Literal["onset", "apex", "random"] = "onset",
    invert: bool = False,
    weight: Literal["mean_one", "literal"] = "mean_one",
    own_entry: Literal["dropped", "kept"] = "dropped",
    plain: Literal["difference", "apex"] = "difference",
    freeze: bool = False,
    pool: Literal["mean", "flat"] = "mean",
    head: Literal["linear", "mlp"] = "linear",
) -> "MicronBERT":
    """The network, paper size unless told otherwise.

    Args:
        crop: none224, whole frames, as the paper describes no crop; or faces.
        size: px to which a frame is reduced, a multiple of `patch`.
        start: weights of the pretraining that goes with pretext, dma and poi (`pretraining_of`), or random.
        pretext, dma, poi: Table 6, see above.
        patch, width, layers, heads, widen: px a side; d; blocks of the encoder; heads and width of the feed-forward
            layer in d, neither of which the paper gives (M-11). The attention of eq. (8) has one head.
        softmax_axis: eq. (8) is normalised over keys, or over queries, as its side condition says (M-04).
        scale: eq. (8) has a factor of 1 / sqrt(d), which is not printed (M-05).
        roles: of eq. (8): queries of the apex, keys and values of the onset; `code`: queries and values of the onset,
            keys of the apex (M-06).
        swap_input: what stands for the swapped frame: the onset; the apex gives the values of eq. (12); or the onset
            with blocks of the apex, as in pretraining, drawn anew for each clip and step (M-07).
        invert: patches weigh by 1 - diag(A) / max, high where the frames differ (M-08).
        weight: W of eq. (12) is divided by its mean, or as printed (M-09).
        own_entry: of the contextual token in eq. (11): left out, and the others divided by their sum, or left out only
            (M-10).
        plain: what is read without `dma`: apex less onset, or the apex.
        freeze: the pretrained part is not trained (M-16). head: of the classifier (M-16).
        pool: it reads the mean over patches, or all patches side by side, which keeps where something moved (M-16).
    """
    given = locals()
    for name in ("patch", "width", "layers", "heads", "widen"):
        if given[name] < 1:
            raise MerError(f"micronbert.{name} is {given[name]}; it must be at least 1")
    check_kind(pretext, dma, poi)
    if size < 2 * patch or size % patch:
        near = max(2, round(size / patch)) * patch
        raise MerError(f"micronbert.size is {size}; it must be a multiple of patch ({patch} px), such as {near}")
    if width % heads or width % 4:
        raise MerError(f"micronbert.width is {width}; it must be a multiple of heads ({heads}) and of 4")
    if swap_input == "random" and not dma:
        raise MerError("micronbert.swap_input is random, which blends the frames that only dma compares; set dma: true")
    backbone = Backbone(
        size // patch, patch=patch, width=width, layers=layers, heads=heads, widen=widen, kind=(pretext, dma, poi),
        softmax_axis=softmax_axis, scale=scale, roles=roles, invert=invert, weight=weight, own_entry=own_entry,
    )  # fmt: skip
    return MicronBERT(classes, backbone, swap_input=swap_input, plain=plain, freeze=freeze, pool=pool, head=head)


def check_kind(pretext: str, dma: bool, poi: bool) -> None:
    """Raise MerError for a combination that Table 6 does not have."""
    if pretext == "mask" and (dma or poi):
        raise MerError("micronbert.pretext is mask, which has a single frame; set dma: false and poi: false")
    if poi and not dma:
        raise MerError("micronbert.poi weights what dma finds; set dma: true, or poi: false")


def pretraining_of(knobs: dict) -> str:
    """The run of pretrain.runs whose weights belong to these knobs: micronbert, …_mb2, …_mb1 or …_mae."""
    if knobs["pretext"] == "mask":
        return "micronbert_mae"
    return "micronbert" if knobs["poi"] else "micronbert_mb2" if knobs["dma"] else "micronbert_mb1"


# ---- encoder and attention between frames ---------------------------------------------------------------------------


class Backbone(nn.Module):
    """Encoder, and the attention between two frames. Arguments: see `build`; side: patches a side of a frame.

    kind: (pretext, dma, poi). No weight depends on `side`: positions are computed.
    """

    kind: Tensor
    positions: Tensor

    def __init__(
        self,
        side: int,
        *,
        patch: int = 8,
        width: int = 512,
        layers: int = 4,
        heads: int = 4,
        widen: int = 4,
        kind: tuple[str, bool, bool] = ("swap", True, True),
        softmax_axis: str = "keys",
        scale: bool = True,
        roles: str = "paper",
        invert: bool = False,
        weight: str = "mean_one",
        own_entry: str = "dropped",
    ):
        super().__init__()
        self.side, self.patch, self.width, self.heads, self.widen = side, patch, width, heads, widen
        pretext, self.dma, self.poi = kind
        self.axis, self.factor = (-1 if softmax_axis == "keys" else -2), width**-0.5 if scale else 1.0
        self.roles, self.invert, self.weight, self.own_entry = roles, invert, weight, own_entry
        self.checkpointing = False  # keep nothing of a layer's inside for the backward pass
        # A file of weights tells by them what it was pretrained as: shapes alone do not.
        self.register_buffer("kind", torch.tensor([pretext == "mask", self.dma, self.poi, heads]))
        self.register_buffer("positions", sine_cosine(side, width), persistent=False)
        self.embedding = nn.Linear(3 * patch**2, width)
        self.context = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, widen) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        if self.dma:
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        initialise(self)
        nn.init.normal_(self.context, std=0.02)

    @property
    def attention(self) -> str:
        """How eq. (8) and (12) are read, in words; `invert` is not of it, as M-08 chooses it for recognition."""
        axis, scaled = "keys" if self.axis == -1 else "queries", "scaled" if self.factor != 1.0 else "not scaled"
        weights = f", weight {self.weight}, own_entry {self.own_entry}" if self.poi else f", weight {self.weight}"
        return f"softmax_axis {axis}, {scaled}, roles {self.roles}{weights}"

    def tokens(self, images: Tensor) -> Tensor:
        """Eqs. (1) and (2): images (B, 3, H, W) normalised -> (B, N, d)."""
        return self.embedding(patches_of(images, self.patch)) + self.positions

    def contexts(self, images: Tensor) -> Tensor:
        """The contextual tokens (B, d) of images (B, 3, H, W) normalised."""
        return self.encode(self.tokens(images))[0][:, 0]

    def encode(self, tokens: Tensor, scores: bool = False) -> tuple[Tensor, Tensor | None]:
        """Eqs. (3), (4) and (11): tokens (B, n, d) of n patches -> (B, 1 + n, d), the contextual token first.

        scores: also S, (B, n) float32: how much of each patch the contextual token takes, mean over the heads.
        """
        x = torch.cat([self.context.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], 1)
        *before, last = self.blocks
        for block in before:
            x = self.run(block, x)
        found = None
        if scores:
            row = last.first_map(x)[:, 1:]  # type: ignore[operator]  # a ModuleList holds any module
            found = row / row.sum(-1, keepdim=True) if self.own_entry == "dropped" else row
        return self.norm(self.run(last, x)), found

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """A layer; with `checkpointing` its inside is computed again in the backward pass instead of kept."""
        return run_block(block, x, self.checkpointing)

    def changes(self, swapped: Tensor, other: Tensor, scores: Tensor | None, values: Tensor | None = None) -> "Changes":
        """Eqs. (8), (9) and (12): patches (B, N, d) of the swapped frame and of the other one -> P_dma and its weights.

        Args:
            scores: S of the other frame, (B, N); None without PoI.
            values: patches that the values are made of, instead of the swapped frame's.
        """
        first, second = (other, swapped) if self.roles == "paper" else (swapped, other)
        diag = diagonal(self.query(first), self.key(second), self.factor, self.axis)
        w = 1 - diag / diag.amax(1, keepdim=True) if self.invert else diag
        if scores is not None:
            w = w * scores
        if self.weight == "mean_one":
            w = w / w.mean(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
        v = self.value(swapped if values is None else values)
        return Changes(w.to(v.dtype).unsqueeze(-1) * v, diag, w)


class Changes(NamedTuple):
    """P_dma (B, N, d), the diagonal of eq. (8) and the weights of eq. (12), (B, N) float32 each."""

    features: Tensor
    diagonal: Tensor
    weights: Tensor


def run_block(block: nn.Module, x: Tensor, again: bool) -> Tensor:
    """A transformer layer (B, T, d) -> the same shape; again: nothing inside is kept for the backward pass."""
    if again and torch.is_grad_enabled():
        return checkpoint(lambda y: block(y, [y.shape[1]])[0], x, use_reentrant=False, preserve_rng_state=False)
    return block(x, [x.shape[1]])[0]


def diagonal(q: Tensor, k: Tensor, factor: float, axis: int = -1) -> Tensor:
    """The diagonal of eq. (8): (B, N, d) twice -> (B, N) float32, 0..1.

    diag(A)_i = exp(q_i k_i - log sum_j exp(q_i k_j)), so A is never formed, nor its product with the values: the
    logarithm needs the products of queries and keys alone. axis: -1: the sum is over keys j, -2: over queries.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k = q.float() * factor, k.float()
        own = (q * k).sum(-1)
        return (own - (q @ k.transpose(-1, -2)).logsumexp(axis)).exp()


def sine_cosine(side: int, width: int) -> Tensor:
    """The fixed codes of Vaswani et al. 2017, (N, d): half the channels are those of the row, half of the column."""
    rates = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], 1)  # (s, d / 2)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1).float()


def patches_of(images: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, patch * patch * 3), row by row."""
    side = images.shape[-1] // patch
    cells = images.unflatten(-1, (side, patch)).unflatten(-3, (side, patch))  # (B, 3, s, p, s, p)
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def image_of(patches: Tensor, patch: int) -> Tensor:
    """Eq. (6): (B, N, patch * patch * 3) -> (B, 3, H, W); the inverse of `patches_of`."""
    side = math.isqrt(patches.shape[1])
    cells = patches.unflatten(1, (side, side)).unflatten(-1, (patch, patch, 3))  # (B, s, s, p, p, 3)
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def normalised(faces: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Frames (…, H, W, 3) in grey levels -> (…, 3, H, W) with ImageNet's mean and deviation (M-23)."""
    mean, deviation = (torch.tensor(x, dtype=dtype, device=faces.device) for x in (MEAN, DEVIATION))
    return ((faces.to(dtype) / 255 - mean) / deviation).movedim(-1, -3)


def grey_levels(images: Tensor) -> Tensor:
    """The inverse of `normalised` for (…, 3, H, W): 0..255, the channels where they were."""
    mean, deviation = (images.new_tensor(x).view(3, 1, 1) for x in (MEAN, DEVIATION))
    return (images * deviation + mean) * 255


def initialise(module: nn.Module) -> None:
    """Linear layers as in mer.networks.vit."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)


# ---- Algorithm 1 ----------------------------------------------------------------------------------------------------


def swapped_cells(
    draw: Callable[[], Tensor],
    side: int,
    *,
    ratio: float = RATIO,
    min_block: float = MIN_BLOCK,
    min_aspect: float = MIN_ASPECT,
    count: Literal["once", "literal"] = "once",
    rounds: int | None = None,
) -> Tensor:
    """Which patches are swapped, (B, N) bool: rectangles are laid on each image until `ratio` of it is covered.

    All images of a batch are worked on at once, a rectangle each a round; those that are covered wait.

    Args:
        draw: gives (B, 4) numbers, uniform in 0..1, a round: for area, aspect, row and column.
        ratio, min_block, min_aspect: r_s, patches, and height by width (M-14: areas are clamped to `min_block` where
            fewer patches are left, sides are rounded and cut to the image).
        count: a patch counts once, so that `ratio` is reached; `literal`: overlaps count again (M-14).
        rounds: that many are made, whatever is covered; None: as many as are needed.
    """
    target, cells, sums, lines = ratio * side**2, None, None, None
    made = 0
    while rounds is None or made < rounds:
        u = draw()
        if cells is None or sums is None or lines is None:
            cells = torch.zeros(len(u), side, side, dtype=torch.bool, device=u.device)
            sums, lines = torch.zeros(len(u), device=u.device), torch.arange(side, device=u.device)
        top, left, height, width = rectangles(u, side, (target - sums).clamp(min=min_block), min_block, min_aspect)
        rows = (lines >= top[:, None]) & (lines < (top + height)[:, None])
        columns = (lines >= left[:, None]) & (lines < (left + width)[:, None])
        # Printed: c <= r_s N goes on, so an exact hit would swap another block; counted once, it is enough.
        open_ = sums <= target if count == "literal" else sums < target
        cells = cells | (rows[:, :, None] & columns[:, None, :] & open_[:, None, None])
        area = sums + height * width * open_
        sums = area if count == "literal" else cells.sum((1, 2)).float()
        made += 1
        if rounds is None and bool(((sums > target) if count == "literal" else (sums >= target)).all()):
            break
    assert cells is not None
    return cells.flatten(1)


def rectangles(
    u: Tensor, side: int, largest: Tensor, min_block: float, min_aspect: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width, (B,) each: area from min_block to `largest`, aspect from min_aspect to 1 by it."""
    area = min_block + u[:, 0] * (largest - min_block)
    aspect = min_aspect + u[:, 1] * (1 / min_aspect - min_aspect)
    height, width = ((area * a).sqrt().round().clamp(1, side) for a in (aspect, 1 / aspect))
    top, left = (
        (v * (side - length + 1)).floor().clamp(max=side - length)
        for v, length in ((u[:, 2], height), (u[:, 3], width))
    )
    return top, left, height, width


def swap(first: Tensor, other: Tensor, cells: Tensor, patch: int) -> Tensor:
    """Images (B, 3, H, W): `other` in the patches `cells` (B, N), `first` elsewhere."""
    side = first.shape[-1] // patch
    mask = cells.unflatten(1, (side, side)).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return torch.where(mask[:, None], other, first)


# ---- pretraining ----------------------------------------------------------------------------------------------------


class Restored(NamedTuple):
    """What the autoencoder makes of a pair of frames.

    patches: (B, N, patch * patch * 3), the decoder's of frame t, before they are laid side by side. contexts: the
    contextual tokens (B, d) of frame t+delta and of its crop, None without a crop. diagonal, scores: (B, N) of eqs. (8)
    and (11), None where there are none.
    """

    patches: Tensor
    contexts: tuple[Tensor, Tensor] | None
    diagonal: Tensor | None
    scores: Tensor | None


class Autoencoder(nn.Module):
    """Backbone and decoder of as many layers (section 4.3): a network for task frame_pairs, see there."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone, width = backbone, backbone.width
        self.blocks = nn.ModuleList(Block(width, backbone.heads, backbone.widen) for _ in backbone.blocks)
        self.norm, self.pixels = nn.LayerNorm(width, eps=EPSILON), nn.Linear(width, 3 * backbone.patch**2)
        self.mask = nn.Parameter(torch.zeros(1, 1, width)) if bool(backbone.kind[0]) else None
        initialise(self.blocks)
        initialise(self.pixels)
        if self.mask is not None:
            nn.init.normal_(self.mask, std=0.02)

    @property
    def size(self) -> int:
        """px of the frames."""
        return self.backbone.side * self.backbone.patch

    @property
    def patches(self) -> int:
        return self.backbone.side**2

    @property
    def about(self) -> dict[str, str]:
        """What the note of the weights says: attention that no weight's shape tells."""
        return {"attention": self.backbone.attention} if self.backbone.dma else {}

    @property
    def pretext(self) -> str:
        return "swap" if self.mask is None else "mask"

    @property
    def agrees(self) -> bool:
        """Whether contextual tokens of a frame and of its crop have to agree: without PoI nothing reads them."""
        return self.backbone.poi

    @property
    def form(self) -> list:
        """What decides the training and is no parameter of it: also knobs that no weight's shape depends on."""
        net = self.backbone
        return [
            net.patch, net.width, len(net.blocks), net.widen, net.kind.tolist(), net.axis, net.factor, net.roles,
            net.invert, net.weight, net.own_entry,
        ]  # fmt: skip

    def normalised(self, frames: Tensor) -> Tensor:
        return normalised(frames)

    def draw_cells(self, batch: int, generator: torch.Generator, *, ratio: float, **how: Any) -> Tensor:
        """Which patches are swapped, or masked, (batch, N) bool. how: of `swapped_cells`; masks need none of it."""
        side = self.backbone.side
        if self.mask is not None:
            return torch.rand(batch, side**2, generator=generator).argsort(1) < round(ratio * side**2)
        return swapped_cells(lambda: torch.rand(batch, 4, generator=generator), side, ratio=ratio, **how)

    def forward(self, first: Tensor, other: Tensor, cells: Tensor, crop: Tensor | None = None) -> Restored:
        """Frames t and t+delta (B, 3, H, W) normalised, and the cells (B, N) that are swapped, or masked.

        crop: of frame t+delta, (B, 3, H, W), for the agreement of eq. (10).
        """
        if self.mask is not None:
            return self.unmasked(first, cells)
        net = self.backbone
        # Three encodings of one batch each: side by side they are a batch of the encoder.
        parts = [swap(first, other, cells, net.patch)]
        parts += [other] if net.dma else []
        parts += [crop] if crop is not None else []
        tokens = net.tokens(torch.cat(parts))
        count = len(first)
        encoded, scores = net.encode(tokens, scores=net.poi)
        swapped = encoded[:count]
        contexts = (encoded[count : 2 * count, 0], encoded[2 * count :, 0]) if crop is not None else None
        if not net.dma:
            return Restored(self.decode(swapped[:, 1:]), contexts, None, None)
        own = None if scores is None else scores[count : 2 * count]
        found = net.changes(swapped[:, 1:], encoded[count : 2 * count, 1:], own)
        return Restored(self.decode(found.features), contexts, found.diagonal, own)

    def loss(self, found: Restored, first: Tensor, cells: Tensor, target: str) -> Tensor:
        """Eq. (14) of what `forward` found. Arguments: see `restoration_loss`."""
        net = self.backbone
        return restoration_loss(found.patches, first, cells, pretext=self.pretext, target=target, patch=net.patch)

    def wanted(self, frames: Tensor, target: str) -> Tensor:
        """What has to be restored of frames, (B, N, patch * patch * 3): see `wanted_of`."""
        return wanted_of(frames, target, self.backbone.patch)

    def grey_levels(self, images: Tensor) -> Tensor:
        return grey_levels(images)

    def seen(self, first: Tensor, other: Tensor, cells: Tensor) -> Tensor:
        """What the encoder is given, for a picture: frames (B, 3, H, W) with swapped patches, or with grey ones."""
        given = torch.zeros_like(first) if self.mask is not None else other
        return swap(first, given, cells, self.backbone.patch)

    def images(self, found: Restored, first: Tensor, target: str) -> Tensor:
        """The restored frames in grey levels, (B, 3, H, W) float, not clipped; target `patch` takes each patch's own
        mean and deviation from the frame itself."""
        net = self.backbone
        patches, frame = found.patches.float(), patches_of(first.float(), net.patch)
        if target == "patch":
            patches = patches * (frame.var(-1, keepdim=True) + SMALLEST).sqrt() + frame.mean(-1, keepdim=True)
        images = image_of(patches, net.patch)
        return images * 255 if target == "unit" else grey_levels(images)

    def decode(self, features: Tensor) -> Tensor:
        """Eqs. (5) and (6): (B, N, d) -> (B, N, patch * patch * 3)."""
        x = features + self.backbone.positions
        for block in self.blocks:
            x = run_block(block, x, self.backbone.checkpointing)
        return self.pixels(self.norm(x))

    def unmasked(self, first: Tensor, cells: Tensor) -> Restored:
        """Masked autoencoder (He et al. 2022): the encoder sees what `cells` leaves, as many patches of each image."""
        net, mask = self.backbone, self.mask
        assert mask is not None
        order = cells.to(torch.uint8).argsort(dim=1, stable=True)
        seen = order[:, : int((~cells[0]).sum())].unsqueeze(-1).expand(-1, -1, net.width)
        encoded, _ = net.encode(net.tokens(first).gather(1, seen))
        whole = mask.to(encoded.dtype).expand(len(first), cells.shape[1], -1).scatter(1, seen, encoded[:, 1:])
        return Restored(self.decode(whole), None, None, None)


def restoration_loss(patches: Tensor, frame: Tensor, cells: Tensor, *, pretext: str, target: str, patch: int) -> Tensor:
    """Eq. (14), a scalar: over all patches, or with pretext mask over the masked ones.

    Args:
        patches: of `Restored`. frame: frame t, (B, 3, H, W) normalised. cells: (B, N). target: see `wanted_of`.
    """
    each = (patches.float() - wanted_of(frame, target, patch)).square().mean(-1)
    return (each * cells).sum() / cells.sum() if pretext == "mask" else each.mean()


def wanted_of(frame: Tensor, target: str, patch: int) -> Tensor:
    """What has to be restored of frames (B, 3, H, W) normalised, (B, N, patch * patch * 3) float32.

    target: M-23: `imagenet`: the frame as it is; `unit`: 0..1; `patch`: each patch with mean 0 and deviation 1.
    """
    wanted = patches_of(frame.float(), patch)
    if target == "unit":
        mean, deviation = (wanted.new_tensor(x).repeat(patch**2) for x in (MEAN, DEVIATION))
        wanted = wanted * deviation + mean
    if target == "patch":
        mean, variance = wanted.mean(-1, keepdim=True), wanted.var(-1, keepdim=True)
        wanted = (wanted - mean) / (variance + SMALLEST).sqrt()
    return wanted


def build_pretrained(*, checkpointing: bool = False, **knobs: Any) -> Autoencoder:
    """The network that stage pretrain trains; knobs as for `build`, those of recognition alone have no effect."""
    backbone = build(2, **knobs).backbone
    backbone.checkpointing = checkpointing
    return Autoencoder(backbone)


def load_user_weights(path: str | Path, **knobs: Any) -> Autoencoder:
    """The autoencoder with the weights of a file. Raises MerError for those of another network or pretext."""
    network = build_pretrained(**knobs)
    state = read_weights(path, network.state_dict(), "Micron-BERT", SOURCE)
    check_same(network.backbone, state["backbone.kind"], path)
    network.load_state_dict(state)
    return network


def load_weights(network: "MicronBERT", path: str | Path) -> "MicronBERT":
    """Give a network the pretrained backbone; its classifier stays new."""
    expected = {name: value for name, value in network.state_dict().items() if name.startswith("backbone.")}
    state = read_weights(path, expected, "Micron-BERT", SOURCE, more=True)
    check_same(network.backbone, state["backbone.kind"], path)
    network.load_state_dict(state, strict=False)
    return network


def check_same(backbone: Backbone, kind: Tensor, path: str | Path) -> None:
    """Raise MerError where a file's weights were pretrained as another network than this."""

    def named(kind: Tensor) -> str:
        mask, dma, poi, heads = (int(value) for value in kind)
        return f"pretext {'mask' if mask else 'swap'}, dma {bool(dma)}, poi {bool(poi)}, heads {heads}"

    if not torch.equal(kind.to(backbone.kind.device), backbone.kind):
        raise MerError(f"{path}: was pretrained as {named(kind)}; needed is {named(backbone.kind)}; {SOURCE}")
    # A torch file of the user's own has no note.
    attention = weights_about(path).get("attention", backbone.attention)
    if backbone.dma and attention != backbone.attention:
        raise MerError(f"{path}: was pretrained with {attention}; needed is {backbone.attention}; {SOURCE}")


# ---- recognition ----------------------------------------------------------------------------------------------------


class MicronBERT(nn.Module):
    """Pairs (B, 2, H, W, 3), onset and apex in grey levels -> logits (B, classes). Arguments: see `build`."""

    def __init__(
        self, classes: int, backbone: Backbone, *, swap_input: str, plain: str, freeze: bool, pool: str, head: str
    ):
        super().__init__()
        self.backbone, self.swap_input, self.plain, self.pool = backbone, swap_input, plain, pool
        width = backbone.width
        read = width if pool == "mean" else width * backbone.side**2
        self.norm = nn.LayerNorm(read)
        hidden = [nn.Linear(read, width), nn.GELU()] if head == "mlp" else []
        self.fc = nn.Sequential(*hidden, nn.Linear(width if hidden else read, classes))
        self.uniform = Uniform() if swap_input == "random" else None
        if freeze:
            backbone.requires_grad_(False)
        number(self)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.features(inputs)[0]
        return self.fc(self.norm(features.mean(1) if self.pool == "mean" else features.flatten(1)))

    def features(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """P_dma (B, N, d), the diagonal and the scores (B, N); without `dma` the tokens that are read, and None."""
        net = self.backbone
        onset, apex = normalised(inputs, net.embedding.weight.dtype).unbind(1)
        first = onset
        if self.uniform is not None:
            if not self.training:
                begin(self)
            uniform, count = self.uniform, len(inputs)
            first = swap(onset, apex, swapped_cells(lambda: uniform(count, 4), net.side, rounds=ROUNDS), net.patch)
        if not net.dma and self.plain == "apex":
            return net.encode(net.tokens(apex))[0][:, 1:], None, None
        encoded, scores = net.encode(net.tokens(torch.cat([first, apex])), scores=net.poi)
        before, after = encoded[:, 1:].chunk(2)
        if not net.dma:
            return after - before, None, None
        own = None if scores is None else scores.chunk(2)[1]
        found = net.changes(before, after, own, after if self.swap_input == "apex" else None)
        return found.features, found.diagonal, own


def reads(knobs: dict) -> tuple[Product | Weights, ...]:
    """Onset and apex, and the weights of the same network pretrained."""
    found: Product = pair(frames(knobs["crop"]))
    return (found,) if knobs["start"] == "random" else (found, weights(pretraining_of(knobs)))


def prepare(pairs: np.ndarray, *, size: int) -> np.ndarray:
    """Pairs (N, 2, H, W, 3) uint8 as (N, 2, size, size, 3) uint8."""
    import cv2

    if pairs.ndim != 5 or pairs.shape[1] != 2 or pairs.shape[-1] != 3 or pairs.dtype != np.uint8 or not pairs.size:
        raise MerError(
            f"micronbert reads pairs of onset and apex (clips, 2, height, width, 3) uint8, not {pairs.shape} "
            f"{pairs.dtype}"
        )
    if pairs.shape[2:4] == (size, size):
        return np.ascontiguousarray(pairs)
    how = cv2.INTER_AREA if size < min(pairs.shape[2:4]) else cv2.INTER_LINEAR
    reduced = [cv2.resize(frame, (size, size), interpolation=how) for clip in pairs for frame in clip]
    return np.stack(reduced).reshape(len(pairs), 2, size, size, 3)


def mirror(inputs: Tensor) -> Tensor:
    """The mirrored faces: columns reversed."""
    return inputs.flip(-2)


@torch.no_grad()
def explain(network: MicronBERT, inputs: Tensor) -> dict[str, Tensor]:
    """Figure 7: where a trained network finds the frames to differ.

    Returns:
        data (B, s, s) float, 0..1: 1 - diag / max, which M-08 has as the map that is drawn, times S with PoI, divided
        by its maximum (the inverse of what the classifier reads, unless `invert`); without `dma` the length of each
        token. diagonal, scores (B, s, s), as they are, where there are any. logits (B, C). picture (B, H, W, 3), the
        apex; onset, alike.
    """
    network.eval()
    features, diag, scores = network.features(inputs)
    side = network.backbone.side
    heat = features.norm(dim=-1) if diag is None else 1 - diag / diag.amax(1, keepdim=True)
    heat = heat if scores is None else heat * scores
    heat = heat / heat.amax(1, keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
    found = {"data": heat, "diagonal": diag, "scores": scores}
    maps = {name: value.unflatten(1, (side, side)).float() for name, value in found.items() if value is not None}
    return {**maps, "logits": network(inputs), "picture": inputs[:, 1], "onset": inputs[:, 0]}


def probes(network: MicronBERT, inputs: Tensor) -> dict[str, Tensor]:
    """What is left of the difference between onset and apex at each step; `inputs` as for `forward`.

    The change of each patch's pixels: its mean and its length; that of the tokens, each by itself and their mean; and
    with `dma` the diagonal, the weights of eq. (12), and P_dma, each patch by itself and their mean.
    """
    net = network.backbone
    onset, apex = normalised(inputs, net.embedding.weight.dtype).unbind(1)
    pixels = patches_of(apex, net.patch) - patches_of(onset, net.patch)
    encoded, scores = net.encode(net.tokens(torch.cat([onset, apex])), scores=net.poi)
    before, after = encoded[:, 1:].chunk(2)
    found = {
        "pixels, mean of a patch": pixels.mean(-1), "pixels, length of a patch": pixels.norm(dim=-1),
        "tokens, each": after - before, "tokens, length of each": (after - before).norm(dim=-1),
        "tokens, their mean": (after - before).mean(1),
    }  # fmt: skip
    if net.dma:
        own = None if scores is None else scores.chunk(2)[1]
        features, diag, weights = net.changes(before, after, own, after if network.swap_input == "apex" else None)
        found |= {"diagonal": diag, "weights W": weights}
        found |= {"P_dma, each": features, "P_dma, its mean": features.mean(1)}
    return found
