"""ViT (Dosovitskiy et al. 2021, "An image is worth 16x16 words"): its layers for images of several sizes at once, and
its weights.

Shapes: B images, d the width, h heads, T tokens. An image of side s is s/16 x s/16 patches behind one class token. The
tokens of several images of one clip stand in one row, (B, T, d), and `parts` says how many belong to each image: linear
layers take them all at once, attention stays within an image.

Equal to transformers' ViTModel with the same weights (tests). It is written out since MSMMT reads the mean of the
attention maps over the heads, which no other implementation hands out without keeping all of them.

Weights of files may have these names, behind a common prefix or not:

    cls_token, pos_embed                embeddings.cls_token, .position_embeddings
    patch_embed.proj                    embeddings.patch_embeddings.projection
    blocks.0.norm1, .norm2              encoder.layer.0.layernorm_before, _after
    blocks.0.attn.qkv                   encoder.layer.0.attention.attention.query, .key, .value
    blocks.0.attn.proj                  encoder.layer.0.attention.output.dense
    blocks.0.mlp.fc1, .fc2              encoder.layer.0.intermediate.dense, .output.dense
    norm                                layernorm
"""

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mer.errors import MerError
from mer.storage.weights import read_official, read_weights

PATCH = 16  # px, the side
GRID = 14  # patches a side of the official network, which has seen 224 px
NETWORK = "vit"  # its name in pretrain.runs, see mer.pretraining
SOURCE = "bring a ViT-B/16 with transformers' or timm's names"
HEAD = 64  # the width of a head in every official ViT; files do not say how many heads there are
PLACES = 0.5  # standard deviation of the codes of positions where a ViT learns faces from nothing
EPSILON = 1e-12  # of layer norm, as transformers has it
AT_ONCE = 2**20  # numbers of attention maps that are in work at once on a CPU: 4 MB, near the processor
AT_ONCE_GPU = 2**28


class ViT(nn.Module):
    """The layers; `images` and `parts` are explained above.

    width, layers, heads, widen: d, how many, h, and the feed-forward layer's width in d. tokens: class tokens, one for
    each image size that is to have its own. grid: patches a side for which there are position codes; others are
    interpolated.
    """

    heads: Tensor

    def __init__(
        self, width: int = 768, layers: int = 12, heads: int = 12, widen: int = 4, *, tokens: int = 1, grid: int = GRID
    ):
        super().__init__()
        if width % heads:
            raise MerError(f"vit: width is {width} and heads is {heads}; the width must be a multiple of the heads")
        self.width, self.tokens = width, tokens
        # A file of weights tells by it whether its heads are these: no other tensor's shape depends on them.
        self.register_buffer("heads", torch.tensor(heads))
        self.n_h = heads
        self.cls_token = nn.Parameter(torch.zeros(tokens, width))
        self.pos_embed = nn.Parameter(torch.zeros(1 + grid**2, width))
        self.patch = nn.Linear(3 * PATCH**2, width)
        self.blocks = nn.ModuleList(Block(width, heads, widen) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, faces: Tensor) -> Tensor:
        """Faces (B, s, s, 3), grey levels, to what the class token holds after the last norm, (B, d)."""
        x = self.embed(faces.permute(0, 3, 1, 2) / 127.5 - 1)
        for block in self.blocks:
            x, _ = block(x, (x.shape[1],))
        return self.norm(x[:, 0])

    def embed(self, images: Tensor, token: int = 0) -> Tensor:
        """(B, 3, s, s), about -1..1, to tokens (B, 1 + (s/16)**2, d): the class token, then the patches row by row."""
        side = images.shape[-1] // PATCH
        patches = images.unflatten(-1, (side, PATCH)).unflatten(-3, (side, PATCH))  # (B, 3, side, 16, side, 16)
        x = self.patch(patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        first = self.cls_token[token].expand(len(x), 1, -1).to(x.dtype)
        return torch.cat([first, x], 1) + self.positions(side)

    def positions(self, side: int) -> Tensor:
        """(1 + side**2, d), as transformers interpolates them: bicubic."""
        native = math.isqrt(len(self.pos_embed) - 1)
        if side == native:
            return self.pos_embed
        rows = resampling(native, side, "bicubic", self.pos_embed.device)
        grid = self.pos_embed[1:].float().unflatten(0, (native, native))
        between = torch.einsum("ai,bj,ijd->abd", rows, rows, grid).flatten(0, 1)
        return torch.cat([self.pos_embed[:1], between.to(self.pos_embed.dtype)])

    def read(self, state: dict[str, Tensor]) -> "ViT":
        """Take a state with the tensors of `needed`; all class tokens begin as its one.

        Raises MerError where there are more or fewer heads; shapes must have been compared.
        """
        if int(state["heads"]) != self.n_h:
            raise MerError(
                f"the weights are of a ViT with {int(state['heads'])} heads, needed is one with {self.n_h}; bring such "
                "weights, or set heads"
            )
        self.load_state_dict({**state, "cls_token": state["cls_token"].expand(self.tokens, -1)})
        return self

    def needed(self) -> dict[str, Tensor]:
        """What a file of weights must hold."""
        return {**self.state_dict(), "cls_token": self.cls_token[:1]}


class Block(nn.Module):
    """A pre-norm layer: x + attention(norm1(x)), then x + feed-forward(norm2(x))."""

    def __init__(self, width: int, heads: int, widen: int):
        super().__init__()
        self.n_h = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=EPSILON) for _ in range(2))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, widen * width), nn.Linear(widen * width, width)

    def forward(
        self, x: Tensor, parts: Sequence[int], maps: Literal["none", "mean", "detached"] = "none", lean: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x (B, T, d) -> the same shape; and of each part the mean of its attention maps over the heads, (B, t, t).

        maps: `detached` ones pass no gradient; lean: the feed-forward layer's inside is computed again in the backward
        pass instead of kept.
        """
        mixed, found = self.attend(self.norm1(x), parts, maps)
        x = x + mixed
        if lean and torch.is_grad_enabled():
            return x + checkpoint(self.feed_forward, x, use_reentrant=False, preserve_rng_state=False), found
        return x + self.feed_forward(x), found

    def attend(self, x: Tensor, parts: Sequence[int], maps: str) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Attention within each part of x, which is normalised; and the maps, see `forward`."""
        mixed, found = [], []
        mean: Tensor | None
        for part in self.qkv(x).split(list(parts), 1):
            q, k, v = part.unflatten(-1, (3, self.n_h, -1)).permute(2, 0, 3, 1, 4)  # (B, h, t, d / h) each
            if maps == "mean":
                out, mean = attention_with_map(q, k, v)
            else:
                out = attention(q, k, v)
                mean = mean_map(q.detach(), k.detach()) if maps == "detached" else None
            mixed.append(out.transpose(1, 2).flatten(2))
            if mean is not None:
                found.append(mean)
        return self.proj(torch.cat(mixed, 1)), tuple(found)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def attend_first(self, x: Tensor, parts: Sequence[int]) -> Tensor:
        """Attention of the first token of each part alone: (B, parts, d). The others are its keys and values."""
        weight, bias = self.qkv.weight, self.qkv.bias
        split = weight.shape[0] // 3
        starts = [sum(parts[:i]) for i in range(len(parts))]
        queries = F.linear(x[:, starts], weight[:split], bias[:split])
        keys_values = F.linear(x, weight[split:], bias[split:]).split(list(parts), 1)
        mixed = []
        for query, part in zip(queries.split(1, 1), keys_values, strict=True):
            q = query.unflatten(-1, (self.n_h, -1)).transpose(1, 2)
            k, v = part.unflatten(-1, (2, self.n_h, -1)).permute(2, 0, 3, 1, 4)
            mixed.append((_map(q, k).to(v.dtype) @ v).transpose(1, 2).flatten(2))
        return self.proj(torch.cat(mixed, 1))

    def first_map(self, x: Tensor) -> Tensor:
        """The first token's row of the attention map, mean over the heads: x (B, T, d) -> (B, T) float32."""
        y, split = self.norm1(x), x.shape[-1]
        weight, bias = self.qkv.weight[: 2 * split], self.qkv.bias[: 2 * split]
        q = F.linear(y[:, :1], weight[:split], bias[:split]).unflatten(-1, (self.n_h, -1)).transpose(1, 2)
        k = F.linear(y, weight[split:], bias[split:]).unflatten(-1, (self.n_h, -1)).transpose(1, 2)
        return _map(q, k).mean(1)[:, 0]


# ---- attention and the mean of its maps -----------------------------------------------------------------------------


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, h, t, e) three times -> attention's output (B, h, t, e), by a fused kernel; within vmap, for which those have
    no rule, written out."""
    if torch._C._functorch.is_batchedtensor(q):
        return _map(q, k).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


def attention_with_map(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(B, h, t, e) three times -> attention's output (B, h, t, e), and the mean of its maps over the heads (B, t, t).

    The maps of the heads are not kept: the backward pass forms them again, a few clips at a time. Gradients reach q and
    k through both. Maps are float32 whatever q is.
    """
    kind = q.device.type
    if torch.is_autocast_enabled(kind):  # under vmap, a linear layer's output has not always its type
        q, k, v = (x.to(torch.get_autocast_dtype(kind)) for x in (q, k, v))
    return _AttentionWithMap.apply(q, k, v)


def mean_map(q: Tensor, k: Tensor) -> Tensor:
    """The map of `attention_with_map` alone, without gradient."""
    with torch.no_grad():
        return torch.cat([_map(*both).mean(1) for both in _in_chunks(q, k)])


class _AttentionWithMap(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        outs, means = [], []
        for a, b, c in _in_chunks(q, k, v):
            found = _map(a, b)
            outs.append(found.to(c.dtype) @ c)
            means.append(found.mean(1))
        return torch.cat(outs), torch.cat(means)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        scale, found = q.shape[-1] ** -0.5, []
        for a, b, c, d, m in _in_chunks(q, k, v, d_out, d_mean):
            p = _map(a, b)
            d_p = (d @ c.transpose(-1, -2)).to(p.dtype) + (m / q.shape[1]).unsqueeze(1)
            d_s = (p * (d_p - (p * d_p).sum(-1, keepdim=True)) * scale).to(a.dtype)  # of softmax, and of the scale
            found.append((d_s @ b, d_s.transpose(-1, -2) @ a, p.to(d.dtype).transpose(-1, -2) @ d))
        d_q, d_k, d_v = (torch.cat(parts) for parts in zip(*found, strict=True))
        return d_q, d_k, d_v


def _map(q: Tensor, k: Tensor) -> Tensor:
    """The maps of all heads, (B, h, t, t) float32, a row for each token of q."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1, dtype=torch.float32)


def _in_chunks(*tensors: Tensor) -> zip:
    """The tensors (B, …) a few clips at a time, as many as AT_ONCE allows."""
    count, heads, length = tensors[0].shape[:3]
    most = AT_ONCE if tensors[0].device.type == "cpu" else AT_ONCE_GPU
    return zip(*(t.split(min(count, max(1, most // (heads * length**2)))) for t in tensors), strict=True)


# ---- resampling -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def resampling(old: int, new: int, mode: str, device: torch.device) -> Tensor:
    """(new, old) float32: what torch's interpolation does to one axis, as a matrix.

    mode: `bicubic` as it is, or `bilinear` with the antialiasing of a reduction. Products with it run under vmap, and
    give the same bits in every run on a GPU, where interpolation's backward pass does not.
    """
    lines = torch.eye(old)[None, None]  # every column is a line that is 1 at one place
    if new == old:
        return lines[0, 0].to(device)
    found = F.interpolate(lines, size=(new, old), mode=mode, align_corners=False, antialias=mode == "bilinear")
    return found[0, 0].to(device)


# ---- weights --------------------------------------------------------------------------------------------------------


def build_pretrained(width: int = 768, layers: int = 12, heads: int = 12, widen: int = 4, grid: int = GRID) -> ViT:
    """ViT-B/16 or another, its weights drawn from torch's generator; codes of positions as large as those of patches.

    With the usual 0.02 a small one is blind to places for long: after 1,000 steps on faces its loss was that of chance.
    """
    network = ViT(width, layers, heads, widen, grid=grid)
    nn.init.normal_(network.pos_embed, std=PLACES)
    return network


def load_user_weights(path: str | Path, **knobs: Any) -> ViT:
    """The ViT of `build_pretrained` with the weights of a file; errors are those of `load_vit`."""
    return load_vit(build_pretrained(**knobs), path)


def load_vit(network: ViT, path: str | Path) -> ViT:
    """Give the network the weights of a file (mer.storage.weights.read_weights); a classifier in it is left out.

    Raises MerError for no such file and the weights of another ViT: which tensors miss or have another shape, or that
    there are more or fewer heads.
    """
    try:
        return network.read(read_weights(path, network.needed(), "ViT", SOURCE, renamed=as_ours, more=True))
    except MerError as error:
        raise error if str(path) in str(error) else MerError(f"{path}: {error}") from None


def load_official(network: ViT, source: str, revision: str) -> ViT:
    """Official weights as a network of their own size; source, revision and errors as in `read_official`."""

    def needed(config: Any) -> dict[str, Tensor]:
        nonlocal network
        wanted = {"patch_size": PATCH, "num_channels": 3, "hidden_act": "gelu", "qkv_bias": True}
        other = [f"{key} {getattr(config, key)}" for key, value in wanted.items() if getattr(config, key) != value]
        if other or config.intermediate_size % config.hidden_size:
            raise MerError(
                f"{source}: is a ViT with {', '.join(other) or 'an odd width of its feed-forward layer'}; needed is "
                f"one like ViT-B/16: {', '.join(f'{key} {value}' for key, value in wanted.items())}"
            )
        network = ViT(
            config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
            config.intermediate_size // config.hidden_size, grid=config.image_size // PATCH,
        )  # fmt: skip
        return network.needed()

    state = read_official("ViTModel", source, revision, needed, "ViT", renamed=lambda s: as_ours(s, network.n_h))
    return network.read(state)


NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch."),
    (r"patch_embed\.proj\.", "patch."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".\1."),
    (r"\.attention\.q_proj\.", ".query."),
    (r"\.attention\.k_proj\.", ".key."),
    (r"\.attention\.v_proj\.", ".value."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".proj."),
    (r"\.attn\.", "."),
    (r"\.intermediate\.dense\.", ".fc1."),
    (r"\.output\.dense\.", ".fc2."),
    (r"\.mlp\.", "."),
    (r"^layernorm\.", "norm."),
)


def as_ours(state: dict, heads: int | None = None) -> dict:
    """A state under the names of `ViT`, q, k and v in one matrix, without the prefix that all of its names share.

    heads: how many there are; None: what the state says itself, else one for every 64 of the width.
    """
    first = next((name for name in state if re.search(r"(?:^|\.)(?:embeddings\.)?cls_token$", name)), "cls_token")
    prefix = re.sub(r"(?:embeddings\.)?cls_token$", "", first)
    found: dict[str, Any] = {}
    for name, value in state.items():
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            for pattern, ours in NAMES:
                name = re.sub(pattern, ours, name)
            found[name] = value
    for name in [name for name in found if name.endswith((".query.weight", ".query.bias"))]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(isinstance(found.get(part), Tensor) for part in parts):
            found[name.replace(".query.", ".qkv.")] = torch.cat([found.pop(part) for part in parts])
    for name, axes in (("cls_token", 2), ("pos_embed", 2), ("patch.weight", 2)):
        value = found.get(name)
        if isinstance(value, Tensor) and value.dim() > axes:
            found[name] = value.flatten(1) if name == "patch.weight" else value.flatten(0, -2)
    width = found["cls_token"].shape[-1] if isinstance(found.get("cls_token"), Tensor) else 0
    if heads is not None or "heads" not in found:
        found["heads"] = torch.tensor(heads or max(1, width // HEAD))
    return found
