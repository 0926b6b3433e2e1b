"""Pretraining on pairs of unlabelled frames (Micron-BERT, sections 4.4 to 4.7 and 5.2).

    loss = gamma * reconstruction + beta * agreement                                                          eq. (13)

A pair is frame t of a recording and frame t+delta, delta drawn anew each time. Blocks of the second are swapped into
the first, which the network restores; contextual tokens of the second and of a crop of it have to agree.

Frames are read from shards (mer.storage.shards) while the network computes. Which pair, gap, blocks and crop a row of a
step has is a function of the seed, the step and the row, and no list of pairs is kept: epochs are walked through by a
permutation that is computed (`shuffled`). So memory is that of a few batches whatever the number of frames; a killed
training goes on with the same numbers, also with another number of processes.

A file of such a network declares `RESTORES = True` beside what mer.pretraining asks for. What its
`build_pretrained(checkpointing=…, size=…, **knobs)` returns, an nn.Module:

    size, patches, pretext, agrees     px of its frames and patches in them; swap | mask; whether contextual tokens have
                                       to agree
    form                               what decides its training beside parameters and shapes, as a list
    about                              what the note of its weights says of it, text by name
    normalised(frames)                 (…, H, W, 3) uint8 -> (…, 3, H, W), what it reads
    draw_cells(batch, generator, …)    (batch, N) bool: which patches are swapped, or masked
    forward(first, other, cells, crop) what it restores, with `contexts`, the contextual tokens of other and crop
    loss(found, first, cells, target)  eq. (14), a scalar
    wanted(frames, target)             what has to be restored, (B, N, values of a patch), as `found.patches` are
    seen(first, other, cells)          frames as the network is given them, for a picture; grey_levels(frames): undoes
                                       `normalised`; images(found, first, target): restored frames in grey levels.
                                       `found` has also `diagonal` and `scores`, (B, N) each, or None
    backbone                           an nn.Module with `width` and `contexts(images)`, (B, width)
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.errors import MerError
from mer.pretraining import Context, Made, load_network, loop
from mer.pretraining.distributed import World, check_batch
from mer.storage.files import digest
from mer.storage.shards import Shards

AHEAD = 3  # batches that are read ahead
EVERY = 50  # steps between checkpoints, and over which a point of the loss curve is the mean
ASPECT = (3 / 4, 4 / 3)  # of a crop, width by height (M-13)
# DINO (Caron et al. 2021), where `agreement` is dino (M-12); widths, temperatures and rates are theirs.
HIDDEN, BOTTLENECK, PROTOTYPES = 2048, 256, 4096
STUDENT, TEACHER, MOMENTUM, CENTRE = 0.1, 0.04, 0.996, 0.9
PAIR, BLOCKS, CROPS, GAPS = range(4)  # purposes of random streams


def given(entry: dict[str, Any], context: Context) -> bool:
    """Whether the frames are those of corpora."""
    return bool(entry["corpora"])


def run(entry: dict[str, Any], context: Context) -> Made:
    """The task `frame_pairs`.

    Args:
        entry: knobs: of the network; size: px; exclude_subjects: `<corpus>/<subject>` whose frames are not seen (M-03);
            and the arguments of `train` by name.

    Raises:
        MerError: no frames outside the excluded subjects, recordings shorter than the gap, a batch that the processes
            cannot share, a network of another kind, and what `train` refuses.
    """
    shards = Shards(context.frames, exclude=entry["exclude_subjects"])
    network = initial_network(entry, context)
    names = [
        "ratio", "min_block", "min_aspect", "count", "gamma", "beta", "agreement", "crop_area", "target", "epochs",
        "global_batch", "lr", "weight_decay", "bf16",
    ]  # fmt: skip
    pairs = Pairs(shards, entry["gap"], entry["unit"], context.seed)
    trained, log = train(
        network, pairs, **{name: entry[name] for name in names}, seed=context.seed,
        world=context.world or World(device=context.device), checkpoint=context.checkpoint,
        code=context.code, progress=context.progress,
    )  # fmt: skip
    kind = "masked patches" if trained.pretext == "mask" else "swapped blocks"
    people = f"{len(shards.subjects)} people"
    epochs = f"{entry['epochs']} epoch{'s' if entry['epochs'] > 1 else ''}"
    what = f"{epochs} on {len(pairs)} pairs of frames of {people} ({kind}), without labels"
    short = f", {pairs.short} parts of recordings shorter than the gap left out" if pairs.short else ""
    seen = [subject for subject in shards.subjects if not subject.startswith("pool/")]
    about: dict[str, str | list[str]] = {
        "weights": what + short + ", from random weights",
        "loss": log,
        **trained.about,
    }
    return Made(trained, about | ({"subjects": seen} if seen else {}))


def knobs_of(entry: dict[str, Any]) -> dict[str, Any]:
    """The knobs of the network: those of the run, and the size of its frames."""
    return {**entry["knobs"], "size": entry["size"]}


def initial_network(entry: dict[str, Any], context: Context) -> Any:
    """The network with random weights. Raises MerError for one of another kind, and for unknown knobs."""
    name, knobs, where = entry["network"], knobs_of(entry), context.where
    module = load_network(name)
    if not getattr(module, "RESTORES", False):
        raise MerError(
            f"{where}.network is {name!r}, which does not restore frames (its file has no RESTORES); name one that does"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        try:
            return module.build_pretrained(**knobs, checkpointing=entry["checkpointing"])
        except TypeError as error:
            raise MerError(
                f"{where}.knobs: {name} cannot be built with {entry['knobs']} ({error}); correct it"
            ) from None
        except MerError as error:
            raise MerError(f"{where}: {error}") from None


# ---- which pairs ----------------------------------------------------------------------------------------------------


class Pairs:
    """All pairs of frames at a gap, in a shuffled order that is computed; `len` counts first frames.

    Args:
        shards: of mer.storage.shards.
        gap: (least, most) frames between the two, or milliseconds with unit `ms` (M-22). A first frame near the end of
            its segment has the smaller gaps only.
        seed: of order and gaps.

    Raises:
        MerError: no recording that is long enough, or without a frame rate where the gap is in milliseconds.
    """

    def __init__(self, shards: Shards, gap: Sequence[float], unit: str, seed: int):
        self.shards, self.seed = shards, seed
        lengths = np.asarray(shards.lengths, np.int64)
        rates = np.full(len(lengths), 1000.0) if unit == "frames" else np.asarray(shards.fps, float)
        if np.isnan(rates).any():
            raise MerError("frame_pairs: gap is in ms, and not all frame rates are known; set unit: frames")
        # Nothing is longer than a recording, and a number beyond int64 would become negative.
        least, most = (np.minimum(np.rint(g * rates / 1000), lengths.max()) for g in gap)
        self.least = np.maximum(1, least).astype(np.int64)
        self.most = np.maximum(self.least, most).astype(np.int64)
        starts = np.maximum(0, lengths - self.least)
        self.lengths, self.short = lengths, int((starts == 0).sum())
        self.ends = np.cumsum(starts)
        if not len(self):
            raise MerError(
                f"frame_pairs: the longest recording has {lengths.max()} frames, and the gap is {gap[0]:g} {unit} at "
                "least; lower gap, or bring longer recordings"
            )

    def __len__(self) -> int:
        return int(self.ends[-1])

    def places(self, step: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segment, first and other frame of each row of a step, (batch,) each; an epoch is len // batch steps."""
        epoch, at = divmod(step, len(self) // batch)
        order = shuffled(np.arange(at * batch, (at + 1) * batch), len(self), self.seed, epoch)
        segment = np.searchsorted(self.ends, order, side="right")
        first = order - np.concatenate([[0], self.ends])[segment]
        most = np.minimum(self.most[segment], self.lengths[segment] - 1 - first)
        u = np.random.default_rng([self.seed, GAPS, step]).random(batch)
        least = self.least[segment]
        return segment, first, first + least + np.floor(u * (most - least + 1)).astype(np.int64)

    def read(self, step: int, batch: int, rows: slice, pool: ThreadPoolExecutor | None = None) -> np.ndarray:
        """Both frames of the rows, (2, b, size, size, 3) uint8; pool: threads that read them; None: this one.

        Raises FileError where a frame has other bytes than were written.
        """
        segment, first, other = (a[rows].tolist() for a in self.places(step, batch))
        both = [*zip(segment, first, strict=True), *zip(segment, other, strict=True)]
        found = [self.shards.read(*one) for one in both] if pool is None else list(pool.map(self._read, both))
        return np.stack(found).reshape(2, len(segment), *found[0].shape)

    def _read(self, place: tuple[int, int]) -> np.ndarray:
        return self.shards.read(*place)


def shuffled(places: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Where each place 0..n - 1 goes in the permutation of an epoch, int64; nothing of length n is kept.

    A Feistel network of four rounds on the next power of four, walked on until it falls below n: a bijection.
    """
    half = max(1, math.ceil(math.log2(max(n, 2)) / 2))
    mask = (1 << half) - 1
    keys = np.random.default_rng([seed, PAIR, epoch]).integers(1, 2**63, 4, dtype=np.uint64)

    def once(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for key in keys.tolist():
            mixed = right.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(32)).astype(np.int64) & mask)
        return (left << half) | right

    with np.errstate(over="ignore"):
        found = once(np.asarray(places, np.int64))
        while (outside := found >= n).any():
            found[outside] = once(found[outside])
    return found


# ---- batches --------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Of one process: frames t and t+delta and the crop (b, 3, H, W) normalised, the cells (b, N) that are swapped."""

    first: Tensor
    other: Tensor
    cells: Tensor
    crop: Tensor | None


class Batches:
    """The batch of a step; the frames of the next steps are read meanwhile."""

    def __init__(
        self, network: Any, pairs: Pairs, pool: ThreadPoolExecutor, steps: int, batch: int, world: World, **options: Any
    ):  # fmt: skip
        self.network, self.pairs, self.pool, self.world = network, pairs, pool, world
        self.steps, self.batch, self.options = steps, batch, options
        self.waiting: dict[int, Future] = {}

    def __call__(self, step: int) -> Batch:
        rows = self.world.rows(self.batch)
        for k in range(step, min(step + 1 + AHEAD, self.steps)):
            if k not in self.waiting:
                self.waiting[k] = self.pool.submit(self.read, k, rows)
        frames, cells = self.waiting.pop(step).result()
        if self.world.device.startswith("cuda"):
            frames = frames.pin_memory().to(self.world.device, non_blocking=True)
        return prepared(self.network, frames, step, self.batch, rows, cells=cells, **self.options)

    def read(self, step: int, rows: slice) -> tuple[Tensor, Tensor]:
        """Frames, and the cells of the whole batch: to draw those of a large one takes longer than a step on a GPU."""
        frames = torch.from_numpy(self.pairs.read(step, self.batch, rows))
        return frames, drawn(
            self.network, step, self.batch, **{k: v for k, v in self.options.items() if k != "crop_area"}
        )


def drawn(network: Any, step: int, batch: int, *, seed: int, **how: Any) -> Tensor:
    """Which patches of the whole batch are swapped, (batch, N) bool; how: of the network's `draw_cells`."""
    generator = torch.Generator().manual_seed(int(digest(seed, BLOCKS, step)[:15], 16))
    return network.draw_cells(batch, generator, **how)


def prepared(
    network: Any, frames: Tensor, step: int, batch: int, rows: slice, *, seed: int,
    crop_area: Sequence[float] | None, cells: Tensor | None = None, **how: Any,
) -> Batch:  # fmt: skip
    """A batch of frames (2, b, H, W, 3) uint8, which are `rows` of the batch of all processes.

    Args:
        crop_area: see `train`; None: without crops. cells: of `drawn`; None: they are drawn here. how: see `drawn`.
    """
    cells = drawn(network, step, batch, seed=seed, **how) if cells is None else cells
    crop = None
    # Inside a step autocast would round the places that a crop is read from to eight bits.
    with torch.autocast(frames.device.type, enabled=False):
        first, other = network.normalised(frames)
        if crop_area is not None:
            u = np.random.default_rng([seed, CROPS, step]).random((batch, 4))[rows]
            crop = cropped(other, torch.from_numpy(boxes(u, crop_area)).to(other))
    return Batch(first, other, cells[rows].to(first.device), crop)


def boxes(u: np.ndarray, area: Sequence[float]) -> np.ndarray:
    """Crops by four uniform numbers each, (b, 4): left, top, width and height as shares of the image (M-13)."""
    share = area[0] + u[:, 0] * (area[1] - area[0])
    aspect = np.exp(np.log(ASPECT[0]) + u[:, 1] * np.log(ASPECT[1] / ASPECT[0]))
    width, height = np.minimum(1, np.sqrt(share * aspect)), np.minimum(1, np.sqrt(share / aspect))
    return np.stack([u[:, 2] * (1 - width), u[:, 3] * (1 - height), width, height], 1)


def cropped(images: Tensor, box: Tensor) -> Tensor:
    """Images (b, 3, H, W) cut to boxes (b, 4) of `boxes` and enlarged to their size, bilinear."""
    left, top, width, height = box.unbind(1)
    zero = torch.zeros_like(left)
    theta = torch.stack(
        [width, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1], 1
    ).view(-1, 2, 3)  # fmt: skip
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


# ---- training -------------------------------------------------------------------------------------------------------


class Losses(nn.Module):
    """A network that restores, with its loss, eq. (13): forward(batch) -> (total, reconstruction, agreement).

    agreement: mse | mse_stopgrad | dino (M-12). With dino a head on the contextual token and a teacher, the running
    mean of encoder and head, are part of the module.
    """

    centre: Tensor

    def __init__(self, network: Any, *, gamma: float, beta: float, agreement: str, target: str):
        super().__init__()
        self.network, self.gamma, self.beta, self.agreement, self.target = network, gamma, beta, agreement, target
        self.agrees = network.agrees and beta > 0
        self.head = self.teacher = None
        if self.agrees and agreement == "dino":
            width = network.backbone.width
            self.head, self.teacher = Head(width), nn.ModuleList([deepcopy(network.backbone), Head(width)])
            self.teacher[1].load_state_dict(self.head.state_dict())
            self.teacher.requires_grad_(False)
            self.register_buffer("centre", torch.zeros(PROTOTYPES))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        found = self.network(*batch)
        restored = self.network.loss(found, batch.first, batch.cells, self.target)
        agreed = restored.new_zeros(())
        if found.contexts is not None:
            agreed = self.dino(batch, *found.contexts) if self.head is not None else agreement_loss(
                *found.contexts, stopped=self.agreement == "mse_stopgrad"
            )  # fmt: skip
        return self.gamma * restored + self.beta * agreed, restored.detach(), agreed.detach()

    def dino(self, batch: Batch, whole: Tensor, crop: Tensor) -> Tensor:
        """The student of each view is told what the teacher makes of the other."""
        assert self.head is not None
        assert self.teacher is not None
        assert batch.crop is not None
        with torch.no_grad():
            backbone, head = self.teacher
            told = head(backbone.contexts(torch.cat([batch.crop, batch.other])))  # type: ignore[operator]
            wanted = ((told - self.centre) / TEACHER).softmax(-1)
            if self.training:
                mean = told.mean(0)
                if torch.distributed.is_initialized():
                    torch.distributed.all_reduce(mean)
                    mean /= torch.distributed.get_world_size()
                self.centre = self.centre * CENTRE + mean * (1 - CENTRE)
        said = (self.head(torch.cat([whole, crop])) / STUDENT).log_softmax(-1)
        return -(wanted * said).sum(-1).mean()

    @torch.no_grad()
    def follow(self) -> None:
        """After a step: the teacher moves towards the student."""
        if self.teacher is not None:
            student = [*self.network.backbone.parameters(), *self.head.parameters()]  # type: ignore[union-attr]
            for own, new in zip(self.teacher.parameters(), student, strict=True):
                own.lerp_(new, 1 - MOMENTUM)


def agreement_loss(whole: Tensor, crop: Tensor, *, stopped: bool = False) -> Tensor:
    """Eq. (15), a scalar, of contextual tokens (B, d); stopped: no gradient into the whole frame's (M-12)."""
    return F.mse_loss(crop.float(), (whole.detach() if stopped else whole).float())


class Head(nn.Module):
    """DINO's: contextual tokens (B, d) -> (B, PROTOTYPES)."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, BOTTLENECK)
        )
        self.last = nn.Linear(BOTTLENECK, PROTOTYPES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.layers(x), dim=-1), F.normalize(self.last.weight, dim=-1))


class Curve:
    """The loss curve, and the teacher's steps: a `mer.pretraining.loop.Watch`.

    points: of each EVERY steps the step, and the means of total, reconstruction and agreement.
    """

    ended = False

    def __init__(self, losses: Losses, world: World, steps: int):
        self.losses, self.world, self.steps = losses, world, steps
        self.points: list[list[float]] = []
        self.begun: float | None = None  # when the first step of this process ended
        self.timed = 0  # steps after that one
        self.sums, self.made = torch.zeros(3, dtype=torch.float64), 0
        self.present = torch.zeros(3)

    def after(self, step: int) -> None:
        self.losses.follow()
        self.begun, self.timed = (time.perf_counter(), 0) if self.begun is None else (self.begun, self.timed + 1)
        self.sums += self.world.mean(self.present).cpu().double()
        self.made += 1
        if (step + 1) % EVERY == 0 or step + 1 == self.steps:
            self.points.append([step + 1, *(self.sums / self.made).tolist()])
            self.sums, self.made = torch.zeros(3, dtype=torch.float64), 0

    def rate(self, batch: int) -> str:
        """Pairs and frames a second of this process, in words; the first step, which loads, is not counted."""
        if self.begun is None or not self.timed:
            return "too few steps for a rate"
        pairs = self.timed * batch / (time.perf_counter() - self.begun)
        return f"{pairs:,.0f} pairs a second ({2 * pairs:,.0f} frames)"

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points, "sums": self.sums, "made": self.made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points, self.sums, self.made = state["points"], state["sums"], state["made"]

    def lines(self) -> list[str]:
        """As the note of the weights keeps it, at most 200 points."""
        stride = max(1, math.ceil(len(self.points) / 200))
        kept = [point for i, point in enumerate(self.points) if (len(self.points) - 1 - i) % stride == 0]
        return [f"{int(step)} {total:.5g} {one:.5g} {two:.5g}" for step, total, one, two in kept]


def check_cells(network: Any, ratio: float, min_block: float) -> None:
    """Raise MerError where no patch is swapped or masked, or all are, whatever is drawn."""
    patches = network.patches
    if network.pretext == "mask":
        masked = round(ratio * patches)
        if masked in (0, patches):
            raise MerError(
                f"frame_pairs: ratio is {ratio:g}, which masks {masked} of {patches} patches; choose one between"
            )
    elif min_block > ratio * patches:
        raise MerError(
            f"frame_pairs: min_block is {min_block:g} patches, ratio {ratio:g} swaps {ratio * patches:g} of {patches}; "
            "lower min_block, or take larger frames"
        )


def train(
    network: Any,
    pairs: Pairs,
    *,
    ratio: float,
    min_block: float,
    min_aspect: float,
    count: str,
    gamma: float,
    beta: float,
    agreement: str,
    crop_area: Sequence[float],
    target: str,
    epochs: int,
    global_batch: int,
    lr: float,
    weight_decay: float,
    bf16: bool,
    seed: int = 0,
    world: World | None = None,
    checkpoint: str | Path | None = None,
    code: str = "",
    progress: bool = False,
) -> tuple[Any, list[str]]:
    """Train a network in place with AdamW, the rate down half a cosine to 0 (M-21: no warm-up); and its loss curve.

    Args:
        ratio: r_s of Algorithm 1, or the share of masked patches. min_block, min_aspect, count: see `swapped_cells`.
        gamma, beta: eq. (13) (M-01). agreement: M-12. crop_area: least and most share of the frame (M-13).
        target: M-23. global_batch: pairs a step, of all processes together.
        bf16: compute in bfloat16 where torch.autocast does so; on a GPU only.
        world: the processes; None: this one alone.
        checkpoint, code, progress: as for mer.pretraining.loop.train.

    Raises:
        MerError: frames of another size, a batch larger than the pairs or that the processes cannot share, and a loss
            that is not finite.
    """
    world = world or World()
    check_batch(global_batch, world.size, "global_batch")
    if global_batch > len(pairs):
        raise MerError(f"frame_pairs: global_batch is {global_batch}, there are {len(pairs)} pairs; lower it")
    if pairs.shards.size != network.size:
        raise MerError(f"frame_pairs: frames are {pairs.shards.size} px, the network reads {network.size}; set size")
    steps = epochs * (len(pairs) // global_batch)
    how: dict[str, Any] = {"ratio": ratio, "min_block": min_block, "min_aspect": min_aspect, "count": count}
    check_cells(network, ratio, min_block)
    with torch.random.fork_rng(devices=[]):  # of dino's head
        torch.manual_seed(seed)
        losses = Losses(network, gamma=gamma, beta=beta, agreement=agreement, target=target).to(world.device)
    options = {"seed": seed, "crop_area": crop_area if losses.agrees else None, **how}
    wrapped, curve = world.wrapped(losses), Curve(losses, world, steps)
    settings = [gamma, beta, agreement, target, epochs, global_batch, lr, weight_decay, bf16]
    lengths = [pairs.least.tolist(), pairs.most.tolist()]
    key = digest(network.form, network.size, network.pretext, pairs.shards.digest, lengths, options, settings, code)
    trained = [parameter for parameter in losses.parameters() if parameter.requires_grad]
    cuda = world.device.startswith("cuda")
    # Threads wait for the disk and for checksums, which leave Python's lock.
    with ThreadPoolExecutor(AHEAD + 1) as pool:
        batches = Batches(network, pairs, pool, steps, global_batch, world, **options)

        def objective(step: int) -> Tensor:
            total, *parts = wrapped(batches(step))
            curve.present = torch.stack([total.detach(), *parts])
            return total

        loop.train(
            losses, objective, task="frame_pairs", steps=steps, key=key, watch=curve, checkpoint=checkpoint,
            every=EVERY, optimizer=torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay),
            rate=lambda step: lr * (1 + math.cos(math.pi * step / steps)) / 2, world=world,
            autocast=torch.bfloat16 if bf16 and cuda else None, progress=progress and world.rank == 0,
        )  # fmt: skip
    if progress and world.rank == 0:
        print(f"frame_pairs: {steps} steps of {global_batch} pairs; {curve.rate(global_batch)}", flush=True)
    return network, curve.lines()
