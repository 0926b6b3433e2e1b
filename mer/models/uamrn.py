"""UAMRN (Wei et al. 2022, "Micro-Expression Recognition Using Uncertainty-Aware Magnification-Robust Networks").

The apex frame, magnified by L growing factors, is a sequence. Its frames become vectors by the first layers of a
ResNet-18; three sparse self-attention (SSA) blocks let a frame attend only to those that locality sensitive hashing
(LSH) puts into its bucket, so that spoilt ones stand aside; clips of which the network is unsure weigh more in
training. With q_i, k_j, v_j of positions i and j, random planes h_1 … h_np, n_t tables of them, and M passes:

    (4)   h(x) = the signs of x . h_1, …, x . h_np;  Omega = {(i, j): h(q_i) = h(k_j)}        `tags`
    (5)   Omega = union over the n_t tables                                                     `same_bucket`
    (6)   out_i = sum over j with (i, j) in Omega of softmax_j(q_i . k_j / sqrt(d_k)) v_j       `attention`
    (7)   mean, variance = f(x);  p = softmax(mean)                                             `UAMRN.passes`
    (8)   gamma = variance over M passes of the output + mean over M of the variance            `Uncertainty.parts`
    (9)   loss = - mean over clips of gamma * log p of its class                                `Uncertainty.loss`

Eq. (4) leaves no pair out: (i, i) is in Omega where q_i and k_i share a bucket, always if Q = K, by chance otherwise.

Shapes: B clips, L frames, h heads, d_k = d_model / h, C classes, M passes. What the paper leaves open is a knob of
`build`, with its id in the reading notes (U-06 …). No knob: all L positions are used, not L - 1 (U-07); a positive
product is tag 0, as the text has it (its example has it the other way round), and only equality counts (U-08).
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.errors import MerError
from mer.networks import random_layers as streams
from mer.networks.resnet import CHANNELS, ResNet18, load_resnet18
from mer.products import FACTORS, Product, Weights, embedding, frames, magnet, named_factors, weights

# Adam, 2e-4 and a tenth of it every 10 epochs are the paper's; batch size and weight decay are not given (U-24).
RECIPE = {
    "optimizer": "adam", "lr": 2e-4, "weight_decay": 0.0, "epochs": 40, "batch_size": 16, "schedule": "step",
    "every": 10, "factor": 0.1,
}  # fmt: skip


def build(
    classes: int,
    *,
    factors: str = FACTORS[0],
    features: bool = False,
    tap: Literal["layer1", "layer2", "layer3"] = "layer2",
    grid: int = 4,
    project: bool = True,
    freeze: bool = True,
    position: Literal["rank", "factor"] = "rank",
    d_model: int = 1024,
    blocks: int = 3,
    n_h: int = 2,
    n_p: int = 3,
    n_t: int = 4,
    mask: Literal["pre_softmax", "post_softmax", "full"] = "pre_softmax",
    form: Literal["masked", "bucketed"] = "masked",
    resample: Literal["per_forward", "per_init", "per_epoch"] = "per_forward",
    per_head: bool = True,
    share_qk: bool = False,
    layout: Literal["post_norm", "attention"] = "post_norm",
    widen: int = 4,
    dropout: float = 0.1,
    pool: Literal["mean", "last", "cls"] = "mean",
    uncertainty: bool = True,
    samples: int = 5,
    evaluation: Literal["mc", "single"] = "mc",
    output: Literal["logit", "probability"] = "logit",
    variance: Literal["vector", "scalar"] = "vector",
    reduce: Literal["mean", "sum", "max", "true_class"] = "mean",
    aleatoric: Literal["sampled_logits", "none"] = "sampled_logits",
    detach: bool = True,
    normalise: Literal["none", "batch_mean"] = "none",
) -> "UAMRN":
    """The network, of the paper's size unless told otherwise.

    Args:
        factors: by which the frames of a sequence are magnified, see mer.products.named_factors; L is their number
            (U-01).
        features: the inputs are vectors of frames, (B, L, width), as `ResNet18` makes them, instead of frames.
        tap, grid, project: the last stage of the ResNet that is used, the cells a side to which its maps are averaged,
            and whether a linear layer takes channels * grid**2 to d_model (U-20). Without it both must be equal:
            layer1 with grid 4, or layer3 with grid 2, for 1024.
        freeze: the ResNet is not trained, its batch norm neither (U-21).
        position: the position code counts frames, or takes their factors (U-27).
        blocks, n_h, n_p, n_t: SSA blocks, heads, planes a table (2**n_p buckets) and tables.
        mask: where (i, j) is not in Omega: no part in the softmax; zeroed after it; nothing is left out (U-06, and
            "Full-Attention" of the ablation). Without a partner a row is zero in either case.
        form: how pre_softmax is computed, all products and a mask or only those within buckets: the same to rounding.
        resample: planes are drawn in each forward pass, once an epoch, or when the network is made; in evaluation the
            first two draw the same ones every time (U-09).
        per_head: each head has planes of its own (U-10).
        share_qk: one matrix is both Q's and K's, as in Reformer, whose unit length of keys is left out (U-11).
        layout, widen: attention, add, norm, feed-forward through widen * d_model, add, norm; or nothing but attention.
        pool: mean over positions, the last one, or a learned one put before them (U-22).
        dropout: probability, after attention and feed-forward layer (U-16).
        uncertainty: False is the paper's "Deterministic": one pass, no variance, gamma = 1.
        samples, evaluation: M; evaluation takes the mean of M passes, or one without dropout (U-16).
        output, variance: what eq. 8 is about, logits or probabilities; one log-variance a class or a clip (U-13).
        reduce: how eq. 8's vector over classes becomes a number (U-14).
        aleatoric, detach: what teaches the variance: cross entropy of noisy logits, or nothing but gamma, where detach
            lets no gradient pass (U-15). normalise: gamma is divided by its mean over the batch (U-15).
    """
    given = locals()
    for name in ("grid", "d_model", "blocks", "n_h", "n_p", "n_t", "widen", "samples"):
        if given[name] < 1:
            raise MerError(f"uamrn.{name} is {given[name]}; it must be 1 at least")
    if d_model % 2 or d_model % n_h:
        raise MerError(f"uamrn.d_model is {d_model}; it must be even and a multiple of uamrn.n_h, {n_h}")
    if n_p > 62:
        raise MerError(f"uamrn.n_p is {n_p}; a bucket's number has 62 bits at most")
    if not 0 <= dropout < 1:
        raise MerError(f"uamrn.dropout is {dropout}; it must be 0 or above and below 1")
    if features and not freeze:
        raise MerError("uamrn.freeze is false, but uamrn.features leaves no ResNet to train; set features: false")
    if form == "bucketed" and mask != "pre_softmax":
        raise MerError(f"uamrn.form is bucketed, but mask: {mask} needs the products of all pairs; set form: masked")
    width = CHANNELS[tap] * grid**2
    if not project and width != d_model:
        raise MerError(
            f"uamrn.project is false, but {tap} on {grid}x{grid} cells is {width} wide, d_model {d_model}; set project"
        )
    values = torch.from_numpy(named_factors(factors))
    places = torch.arange(len(values)) if position == "rank" else values
    ssa = [
        SSABlock(
            SparseSelfAttention(
                d_model, n_h, n_p, n_t, mask=mask, form=form, resample=resample, per_head=per_head, share_qk=share_qk
            ),
            d_model, layout=layout, widen=widen, dropout=dropout,
        )
        for _ in range(blocks)
    ]  # fmt: skip
    return UAMRN(
        None if features else ResNet18(tap, grid, freeze=freeze),
        nn.Linear(width, d_model) if project else nn.Identity(),
        positions(places, d_model), ssa, classes, width=width, pool=pool, samples=samples if uncertainty else 1,
        evaluation=evaluation if uncertainty else "single", variance=variance,
        uncertainty=Uncertainty(output, reduce, aleatoric, detach, normalise) if uncertainty else None,
    )  # fmt: skip


class UAMRN(nn.Module):
    """Returns `Passes` in training, for `loss`; logits (B, C) in evaluation."""

    position: Tensor

    def __init__(
        self, backbone: ResNet18 | None, project: nn.Module, position: Tensor, blocks: "Sequence[SSABlock]",
        classes: int, *, width: int, pool: str, samples: int, evaluation: str, variance: str,
        uncertainty: "Uncertainty | None",
    ):  # fmt: skip
        super().__init__()
        self.backbone, self.project, self.blocks = backbone, project, nn.ModuleList(blocks)
        self.register_buffer("position", position, persistent=False)
        d_model = position.shape[1]
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, d_model)) if pool == "cls" else None
        self.mean = nn.Linear(d_model, classes)
        self.log_variance = None
        if uncertainty is not None:
            self.log_variance = nn.Linear(d_model, classes if variance == "vector" else 1)
        self.noise = streams.Normal()
        self.width, self.pool, self.samples, self.evaluation = width, pool, samples, evaluation
        self.uncertainty = uncertainty
        streams.number(self)

    def forward(self, x: Tensor) -> "Passes | Tensor":
        """(B, L, H, W, 3) grey levels 0..255, or (B, L, width) features."""
        z = self.embed(x)
        if not self.training:
            return self.predicted(z)
        mean, log_variance = self.passes(z, self.samples)
        noise = None
        if self.uncertainty is not None and self.uncertainty.aleatoric == "sampled_logits":
            noise = torch.stack([self.noise(*mean.shape[1:]) for _ in mean]).to(mean.dtype)
        return Passes(mean, log_variance, noise, self.uncertainty)

    def embed(self, x: Tensor) -> Tensor:
        """What the blocks read, (B, L, d_model); L + 1 with a learned first position."""
        length = len(self.position)
        form = (length, self.width) if self.backbone is None else (length, *x.shape[2:4], 3)
        if tuple(x.shape[1:]) != form:
            wanted = f"(clips, {length}, " + (f"{self.width})" if self.backbone is None else "height, width, 3)")
            raise MerError(
                f"uamrn reads {wanted}, the product gives {tuple(x.shape)}; uamrn.factors say how many frames "
                "come, uamrn.features whether frames or their features, and uamrn.tap and uamrn.grid how wide those are"
            )
        if self.backbone is not None:
            x = self.backbone(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        z = self.project(x) + self.position
        return z if self.cls is None else torch.cat([self.cls.expand(len(z), -1, -1), z], dim=1)

    def passes(self, z: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
        """Eq. 7, `count` times: means (M, B, C) and log-variances (M, B, C or 1), each pass with its own draws."""
        means, variances = [], []
        for _ in range(count):
            x = z
            for block in self.blocks:
                x, _ = block(x)
            x = {"mean": x.mean(1), "last": x[:, -1], "cls": x[:, 0]}[self.pool]
            means.append(self.mean(x))
            if self.log_variance is not None:
                # e**10 is more noise than any logit; beyond, its gradient would leave float32's range.
                variances.append(self.log_variance(x).clamp(-10, 10))
        return in_full(torch.stack(means)), in_full(torch.stack(variances)) if variances else None

    def predicted(self, z: Tensor) -> Tensor:
        """Logits (B, C) of what `embed` returns."""
        several = self.evaluation == "mc"
        self.begin_evaluation(sampling=several)
        mean, _ = self.passes(z, self.samples if several else 1)
        return mean[0] if self.uncertainty is None else self.uncertainty.predicted(mean)

    def sampled(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 7, M times with dropout, with the draws of evaluation; of a network with uncertainty."""
        self.begin_evaluation(sampling=True)
        return self.passes(z, self.samples)  # type: ignore[return-value]  # log-variances come with uncertainty

    def begin_evaluation(self, *, sampling: bool) -> None:
        """What is drawn from now on are the first draws of evaluation. sampling: with dropout."""
        streams.begin(self)
        for layer in self.modules():
            if isinstance(layer, streams.Dropout):
                layer.sampling = sampling


def in_full(x: Tensor) -> Tensor:
    """float32 where autocast made it less: a variance, or a sum of exponentials, needs more than 8 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def positions(places: Tensor, d_model: int) -> Tensor:
    """PE(pos, 2d) = sin(pos / 10000**(2d / d_model)), PE(pos, 2d + 1) = cos(same): (L,) -> (L, d_model)."""
    angle = places.double()[:, None] / 10000 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


# ---- sparse self-attention ----------------------------------------------------------------------------------------


class SSABlock(nn.Module):
    """`post_norm`: a transformer's encoder layer with sparse attention; `attention`: the attention alone."""

    def __init__(self, attention: nn.Module, d_model: int, *, layout: str, widen: int, dropout: float):
        super().__init__()
        self.attention, self.layout = attention, layout
        self.drop = streams.Dropout(dropout)
        if layout == "post_norm":
            self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
            self.wide, self.narrow = nn.Linear(d_model, widen * d_model), nn.Linear(widen * d_model, d_model)
            self.drop2 = streams.Dropout(dropout)

    def forward(self, x: Tensor, matrix: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B, L, d_model) twice; the second of `SparseSelfAttention` is handed on."""
        out, weights = self.attention(x, matrix)
        if self.layout == "attention":
            return self.drop(out), weights
        x = self.norm1(x + self.drop(out))
        return self.norm2(x + self.drop2(self.narrow(F.relu(self.wide(x))))), weights


class SparseSelfAttention(nn.Module):
    """Eqs. 4 to 6 in n_h heads. Q, K and V are matrices, as in eq. 3: a bias of K would cancel in the softmax."""

    kept_planes: Tensor | None

    def __init__(
        self, d_model: int = 1024, n_h: int = 2, n_p: int = 3, n_t: int = 4, *, mask: str = "pre_softmax",
        form: str = "masked", resample: str = "per_forward", per_head: bool = True, share_qk: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.q, self.v = nn.Linear(d_model, d_model, bias=False), nn.Linear(d_model, d_model, bias=False)
        self.k = None if share_qk else nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model)
        self.n_h, self.mask, self.form = n_h, mask, form
        self.shape = (n_h if per_head else 1, n_t, n_p, d_model // n_h)
        self.source = streams.Normal(every="epoch" if resample == "per_epoch" else "call")
        self.register_buffer("kept_planes", torch.randn(self.shape) if resample == "per_init" else None)
        self.looked = False

    def forward(self, x: Tensor, matrix: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B, L, d_model) -> the same, and the attention matrix (B, h, L, L); None if it was not formed.

        matrix: form it, whatever the form.
        """
        q, k, v = ((w or self.q)(x).unflatten(-1, (self.n_h, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        tag_q: Any = None  # stays so where nothing is masked
        tag_k: Any = None
        if self.mask != "full":
            planes = self.planes().to(x.dtype)
            tag_q, tag_k = tags(q.detach(), planes), tags(k.detach(), planes)
            self._warn_once(tag_q, tag_k)
        if self.form == "bucketed" and not matrix:
            out, weights = bucketed_attention(q, k, v, tag_q, tag_k), None
        else:
            out, weights = attention(q, k, v, tag_q, tag_k, self.mask)
        return self.out(out.transpose(1, 2).flatten(2)), weights

    def planes(self) -> Tensor:
        """Normal vectors of the planes, (h or 1, n_t, n_p, d_k)."""
        return self.source(*self.shape) if self.kept_planes is None else self.kept_planes

    def _warn_once(self, tag_q: Tensor, tag_k: Tensor) -> None:
        """Where pairs by chance, L**2 n_t / 2**n_p, are fewer than one; at the first sequences, since a GPU waits.

        With fewer planes buckets may be empty, too, in a draw: frames are so alike that all queries share one bucket.
        """
        _, n_t, n_p, _ = self.shape
        if self.looked or tag_q.shape[-1] ** 2 * n_t >= 2**n_p:
            return
        self.looked = True
        try:
            empty = not same_bucket(tag_q, tag_k).any()
        except RuntimeError:  # folds side by side cannot be looked into
            return
        if empty:
            _warn_of_empty_buckets(n_p)


@functools.cache  # once a process
def _warn_of_empty_buckets(n_p: int) -> None:
    warnings.warn(
        f"uamrn.n_p is {n_p}: no query shares a bucket with any key, so attention gives zeros; lower n_p or raise n_t",
        stacklevel=2,
    )


def tags(x: Tensor, planes: Tensor) -> Tensor:
    """Eq. 4's h: the bucket of each vector in each table. (B, h, L, d_k), (h or 1, n_t, n_p, d_k) -> (B, h, n_t, L)."""
    side = torch.einsum("bhld,htpd->bhtlp", x, planes.expand(x.shape[1], -1, -1, -1)) <= 0
    return (side * 2 ** torch.arange(planes.shape[2], device=x.device)).sum(-1)


def same_bucket(tag_q: Tensor, tag_k: Tensor) -> Tensor:
    """Eq. 5's Omega: whether (i, j) share a bucket in some table. (B, h, n_t, L) twice -> (B, h, L, L) bool."""
    # Table by table: n_t L**2 comparisons at once take four times as long where they leave the processor's cache.
    tables = zip(tag_q.unbind(2), tag_k.unbind(2), strict=True)
    return functools.reduce(torch.logical_or, (q[..., :, None] == k[..., None, :] for q, k in tables))


def attention(q: Tensor, k: Tensor, v: Tensor, tag_q: Any, tag_k: Any, mask: str) -> tuple[Tensor, Tensor]:
    """Eq. 6, all products formed: out (B, h, L, d_k) and matrix (B, h, L, L). See `build` for `mask`."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask == "full":
        weights = scores.softmax(-1)
    else:
        pairs = same_bucket(tag_q, tag_k)
        if mask == "pre_softmax":
            # The lowest number, not minus infinity: a row of those would be NaN. Here it is even, and zeroed below.
            scores = scores.masked_fill(~pairs, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1) * pairs
    return weights.to(v.dtype) @ v, weights


def bucketed_attention(q: Tensor, k: Tensor, v: Tensor, tag_q: Tensor, tag_k: Tensor) -> Tensor:
    """Eq. 6 by Algorithm 1, for pre_softmax: only products within buckets are formed. Equals `attention` to rounding.

    Sizes of buckets are read on the host, so it neither stands in a vmap nor pays for short sequences.
    """
    heads = zip(*(t.flatten(0, 1) for t in (q / math.sqrt(q.shape[-1]), k, v, tag_q, tag_k)), strict=True)
    return torch.stack([_bucketed_head(*head) for head in heads]).unflatten(0, q.shape[:2])


def _bucketed_head(q: Tensor, k: Tensor, v: Tensor, tag_q: Tensor, tag_k: Tensor) -> Tensor:
    """(L, d_k) three times, (n_t, L) twice -> (L, d_k).

    The softmax over the union is a sum over blocks, one a bucket and table, in which a pair that an earlier table has
    counts nothing. All exponentials are relative to the largest score of the row in any block, so none overflows.
    """
    blocks, lowest = [], torch.finfo(q.dtype).min
    largest = torch.full_like(tag_q[0], lowest, dtype=in_full(q[:0]).dtype)
    for t in range(len(tag_q)):
        keys = _members(tag_k[t])
        for tag, i in _members(tag_q[t]).items():
            if tag not in keys:
                continue
            j = keys[tag]
            scores = in_full(q.index_select(0, i) @ k.index_select(0, j).T)
            for earlier_q, earlier_k in zip(tag_q[:t], tag_k[:t], strict=True):
                scores.masked_fill_(earlier_q[i][:, None] == earlier_k[j], -math.inf)
            largest[i] = torch.maximum(largest[i], scores.detach().amax(1))
            blocks.append((i, j, scores))
    total, out = torch.zeros_like(largest), torch.zeros_like(v)
    for i, j, scores in blocks:
        weights = scores.sub_(largest[i, None]).exp_()
        total.index_add_(0, i, weights.sum(1))
        out.index_add_(0, i, weights.to(v.dtype) @ v.index_select(0, j))
    return out / torch.where(total > 0, total, 1)[:, None]


def _members(tag: Tensor) -> dict[int, Tensor]:
    """The positions in each bucket that is not empty; tag (L,)."""
    order = tag.argsort(stable=True)
    values, counts = tag[order].unique_consecutive(return_counts=True)
    return dict(zip(values.tolist(), order.split(counts.tolist()), strict=True))


# ---- uncertainty --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Uncertainty:
    """Eqs. 8 and 9 with their open choices, see `build`. mean (M, B, C), log_variance (M, B, C or 1) of logits."""

    output: str
    reduce: str
    aleatoric: str
    detach: bool
    normalise: str

    def predicted(self, mean: Tensor) -> Tensor:
        """Logits (B, C) of p: the softmax of the mean logit, or the mean of the softmax."""
        return mean.mean(0) if self.output == "logit" else mean_probability(mean)

    def parts(self, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 8: its epistemic part, the variance over passes, and its aleatoric part, the mean variance; (B, C)."""
        y, variance = mean, log_variance.exp().expand_as(mean)
        if self.output == "probability":
            y = mean.softmax(-1)
            # To first order in the logits: sum over k of (dy_c / dlogit_k)**2 variance_k, dy_c = y_c ([c = k] - y_k).
            variance = y**2 * ((1 - 2 * y) * variance + (y**2 * variance).sum(-1, keepdim=True)).clamp(min=0)
        return y.var(0, correction=0), variance.mean(0)

    def gamma(self, mean: Tensor, log_variance: Tensor, labels: Tensor) -> Tensor:
        """Eq. 8 as one number a clip, (B,)."""
        epistemic, aleatoric = self.parts(mean, log_variance)
        total = epistemic + aleatoric
        if self.reduce == "true_class":
            return total.gather(1, labels[:, None])[:, 0]
        reduced: dict[str, Callable[[int], Tensor]] = {"mean": total.mean, "sum": total.sum, "max": total.amax}
        return reduced[self.reduce](1)

    def loss(
        self, mean: Tensor, log_variance: Tensor, noise: Tensor | None, labels: Tensor, row_weight: Tensor
    ) -> Tensor:
        """Eq. 9; noise (M, B, C) standard normal, or None without sampled logits."""
        gamma = self.gamma(mean, log_variance, labels)
        if self.normalise == "batch_mean":
            gamma = gamma / (gamma * row_weight).sum().clamp(min=1e-12)
        gamma = gamma.detach() if self.detach else gamma
        if noise is None:
            logits = self.predicted(mean)
        else:
            # The mean of the probabilities, not of their logarithms: that mean is largest without any noise, whatever
            # the labels, and the variance would learn to be 0.
            logits = mean_probability(mean + (log_variance / 2).exp() * noise)
        return (gamma * F.cross_entropy(logits, labels, reduction="none") * row_weight).sum()


def mean_probability(logits: Tensor) -> Tensor:
    """The logarithm of the mean over passes of the softmax: (M, B, C) -> (B, C)."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


@dataclass(frozen=True)
class Passes:
    """What the network returns in training; `uncertainty` is None for a deterministic network."""

    mean: Tensor
    log_variance: Tensor | None
    noise: Tensor | None
    uncertainty: Uncertainty | None


def loss(network: Callable[[Tensor], Any], inputs: Tensor, labels: Tensor, row_weight: Tensor) -> Tensor:
    """Eq. 9 of a network in training; plain cross entropy if it is deterministic."""
    passes = network(inputs)
    if passes.uncertainty is None:
        return (F.cross_entropy(passes.mean[0], labels, reduction="none") * row_weight).sum()
    return passes.uncertainty.loss(passes.mean, passes.log_variance, passes.noise, labels, row_weight)


@torch.no_grad()
def explain(network: UAMRN, inputs: Tensor) -> dict[str, Tensor]:
    """Attention and uncertainty of clips, with the random numbers of evaluation. The network does not change.

    Returns:
        data (B, blocks, h, L, L), the attention of a pass without dropout, rows q and columns k; logits (B, C); gamma
        (B,), eq. 8 (1 for a deterministic network; reduce: true_class takes the predicted class). Unless the network is
        deterministic also epistemic and aleatoric (B, C), the two parts of eq. 8.
    """
    training = network.training
    network.eval()
    try:
        z = network.embed(inputs)
        network.begin_evaluation(sampling=False)
        matrices, x = [], z
        for block in network.blocks:
            x, matrix = block(x, matrix=True)
            matrices.append(matrix)
        found = {"data": torch.stack(matrices, 1), "logits": network.predicted(z), "gamma": z.new_ones(len(z))}
        if network.uncertainty is not None:
            mean, log_variance = network.sampled(z)
            found["gamma"] = network.uncertainty.gamma(mean, log_variance, found["logits"].argmax(1))
            found["epistemic"], found["aleatoric"] = network.uncertainty.parts(mean, log_variance)
        return found
    finally:
        network.train(training)


@torch.no_grad()
def explain_training(network: UAMRN, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """weight (B,): gamma of eq. 8, by which eq. 9 multiplies a clip's loss (before U-15's `normalise`).

    1 for a deterministic network. With the random numbers of evaluation, not those of a training step.
    """
    if network.uncertainty is None:
        return {"weight": torch.ones(len(inputs), device=inputs.device)}
    training = network.training
    network.eval()
    try:
        return {"weight": network.uncertainty.gamma(*network.sampled(network.embed(inputs)), labels)}
    finally:
        network.train(training)


def load_weights(network: UAMRN, path: str | Path) -> UAMRN:
    """Give a network that reads frames the weights of its ResNet-18 (U-21)."""
    if network.backbone is None:
        raise MerError(f"{path}: uamrn.features is true, so there is no ResNet to take it; set features: false")
    load_resnet18(network.backbone, path)
    return network


# ---- inputs -------------------------------------------------------------------------------------------------------


def reads(knobs: dict) -> tuple[Product | Weights, ...]:
    """What the frozen ResNet made of the magnified frames; or those, and the weights with which the ResNet begins."""
    sequence = magnet(frames("box224"), weights="magnet", factors=knobs["factors"])
    if not knobs["features"]:
        return sequence, weights("resnet18")
    return (embedding(sequence, by="networks.resnet", weights="resnet18", tap=knobs["tap"], grid=knobs["grid"]),)


def prepare(sequence: np.ndarray) -> np.ndarray:
    """Magnified frames (N, L, H, W, 3) uint8 as they are, a fourth of float32; or features (N, L, width) as float32."""
    if sequence.ndim == 5 and sequence.dtype == np.uint8 and sequence.shape[-1] == 3:
        return sequence
    if sequence.ndim == 3 and sequence.dtype.kind == "f":
        return sequence.astype(np.float32)
    raise MerError(
        f"uamrn reads sequences (clips, L, height, width, 3) uint8 or features (clips, L, width), not {sequence.shape} "
        f"{sequence.dtype}"
    )


def mirror(inputs: Tensor) -> Tensor:
    """The sequences of the mirrored faces, (B, L, H, W, 3): columns reversed. `check_recipe` keeps features out."""
    return inputs.flip(-2)


def check_recipe(recipe: Any, knobs: dict) -> None:
    """Raise MerError for mirrored features: what a mirrored face would give cannot be computed from them."""
    if recipe.mirror and knobs["features"]:
        raise MerError(
            "recipe.mirror is true, but uamrn.features makes the inputs vectors of frames, which cannot be mirrored; "
            "set recipe.mirror or uamrn.features to false"
        )
