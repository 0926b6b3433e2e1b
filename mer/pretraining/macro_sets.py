"""Pretraining of a whole network on several macro-expression sets, mixed and mapped to three classes (DCMA, 4.1.3).

    loss = cross entropy between softmax(network(faces)) and the class of each image: negative, positive, surprise

A share of each set is held out. After each epoch the held-out images are told, each class weighing the same: the rate
falls and the training ends by the loss on them, and the weights of the epoch that tells most of them are kept. With the
classes in balance, as the paper has them, that share is its validation accuracy; here it is the mean recall (UAR).

N images, B of a batch, C = 3 classes. Faces are (side, side, 3) uint8 RGB; in a batch (B, size, size, 3) float32, grey
levels 0..255. Sides and sizes in px.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer import corpora
from mer.corpora import casme2
from mer.errors import MerError, listed, suggestion
from mer.loso.optim import Schedule, stops
from mer.macro import pool
from mer.macro.tables import THREE
from mer.pretraining import Context, Made, load_network, loop, user_files
from mer.pretraining.macro import WHOLE, Batch, check_faces, check_options, content, cut, faces, look
from mer.storage.files import digest

CLASSES = tuple(THREE)  # negative, positive, surprise
# The pool has CASME II's emotions, of which not all are in a class.
POOL_CLASSES, POOL_EMOTIONS = casme2.CLASSES[3], casme2.SHEET_FORMAT.emotions
POOL_CROP = "box112"  # its images show more than a face
BALANCES = {"undersample": "undersampling", "oversample": "oversampling", "weights": "class weights"}  # D-13
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What `pretrain` makes.

    network: in evaluation mode, with the weights of epoch `kept` (from 1) of the `epochs` that were made. accuracy,
    uar: of the `n` held-out images at that epoch.
    """

    network: nn.Module
    accuracy: float
    uar: float
    n: int
    kept: int
    epochs: int


# ---- the task -------------------------------------------------------------------------------------------------------


def run(entry: dict[str, Any], context: Context) -> Made:
    """The task `macro_sets`: a network that has learned the sets that are in place, or the synthetic pool.

    A set is in place where its folder holds files. Images of no class (neutral) and without a face are left out and
    counted in the note, which also names sets that are missing. Without sets and pool, the initial weights are kept.

    Args:
        entry: network, with knobs: of its `build`; sets: by the name of a module in mer.macro, each with raw: its
            folder, options: of its `read_macro`, crop: none for images of faces, box224 or box112 for those that show
            more; missing: refuse or leave_out, where some of the sets are in place; held_out: share of the images;
            balance, epochs, batch_size, size, optimizer, lr, factor, patience, stop and mirror as for `pretrain`.

    Raises:
        MerError: no such folder, missing sets that may not be left out, an unknown option or knob, a set or image that
            cannot be read, an emotion that the mapping does not know, no face at all, a network of other classes, and
            what `pretrain` refuses.
    """
    network = initial_network(entry, context)
    there, absent = sets_in_place(entry, context)
    if there:
        parts = [read_set(name, entry, context) for name in there]
    elif context.pool is not None:
        parts = [read_pool(context.pool / "macro", entry, context)]
    else:
        return Made(network, {"weights": "random weights"})
    images = [face for part in parts for face in part.faces]
    labels = np.concatenate([part.labels for part in parts])
    held = np.concatenate([part.held for part in parts])
    learned, tested = ([image for image, here in zip(images, held, strict=True) if here == side] for side in (0, 1))
    done = pretrain(
        learned, labels[~held], network, held_faces=tested, held_labels=labels[held], balance=entry["balance"],
        epochs=entry["epochs"], batch_size=entry["batch_size"], size=entry["size"], optimizer=entry["optimizer"],
        lr=entry["lr"], factor=entry["factor"], patience=entry["patience"], stop=entry["stop"], mirror=entry["mirror"],
        seed=context.seed, device=context.device, checkpoint=context.checkpoint, code=context.code,
        progress=context.progress,
    )  # fmt: skip
    made = "" if done.epochs == entry["epochs"] else f"{done.epochs} of "
    what = [f"{made}{entry['epochs']} epochs on {', '.join(part.what for part in parts)}"]
    what += [f"without {listed(absent)} (missing)"] if there and absent else []
    what += [f"balanced by {BALANCES[entry['balance']]}", f"best validation epoch {done.kept}", "from random weights"]
    score = f"{done.accuracy:.3f} (UAR {done.uar:.3f}) of {done.n} held-out images, {len(CLASSES)} classes"
    accuracy = f"{score}, at epoch {done.kept} of {done.epochs}"
    return Made(done.network, {"weights": ", ".join(what), "accuracy": accuracy})


def given(entry: dict[str, Any], context: Context) -> bool:
    """Whether one of the sets is in place."""
    return bool(sets_in_place(entry, context)[0])


def initial_network(entry: dict[str, Any], context: Context) -> nn.Module:
    """The network with random weights. Raises MerError for one that tells other classes, and for unknown knobs."""
    name, knobs = entry["network"], entry["knobs"]
    module = load_network(name)
    if getattr(module, "PRETRAINED", None) != CLASSES:
        raise MerError(
            f"{context.where}.network is {name!r}, which does not tell {', '.join(CLASSES)} apart by itself (its file "
            "has no such PRETRAINED); name another, or take task macro"
        )
    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        try:
            return module.build_pretrained(**knobs)
        except TypeError as error:
            raise MerError(
                f"{context.where}.knobs: {name} cannot be built with {knobs} ({error}); correct it"
            ) from None


def sets_in_place(entry: dict[str, Any], context: Context) -> tuple[list[str], list[str]]:
    """The sets that are in place, and those that are missing, in the order of the entry.

    Raises MerError where some are missing and `missing` says refuse, or there is no such folder.
    """
    sets = entry["sets"]
    there = [name for name in sets if user_files(sets[name]["raw"], f"{context.where}.sets.{name}.raw")]
    absent = [name for name in sets if name not in there]
    if there and absent and entry["missing"] != "leave_out":
        places = listed(f"{name} (looked for in {sets[name]['raw']})" for name in absent)
        raise MerError(
            f"{context.where}.sets: missing: {places}; in place: {listed(there)}; put what is missing there as "
            f"docs/macro.md shows, or, to go on without it, set {context.where}.missing: leave_out"
        )
    return there, absent


class Part(NamedTuple):
    """The images of one set. labels: (N,) int64; held: which are held out, (N,) bool; what: its name with counts."""

    faces: list[np.ndarray]
    labels: np.ndarray
    held: np.ndarray
    what: str


def read_set(name: str, entry: dict[str, Any], context: Context) -> Part:
    """The images of a set that are in a class and show a face."""
    one, where = entry["sets"][name], f"{context.where}.sets.{name}"
    reader, options = corpora.load(name).read_macro, one["options"]
    check_options(reader, options, f"params.yaml: {where}.options")
    table = reader(one["raw"], **options)
    edition = [table.attrs["edition"]] if "edition" in table.attrs else []
    notes = [*edition, *(f"{option} {value}" for option, value in options.items())]
    table, left_out = labelled(table, THREE, {"neutral"}, name)
    return _read(table, left_out, name, notes, one["crop"], f"set {where}.crop to none", entry, context)


def read_pool(folder: Path, entry: dict[str, Any], context: Context) -> Part:
    """The images of the synthetic pool that are in a class and show a face."""
    table = pool.read_macro(folder)
    people = f"{table['subject'].nunique()} people"
    table, left_out = labelled(table, POOL_CLASSES, POOL_EMOTIONS, "the synthetic macro pool")
    remedy = "run dvc repro synthesize"
    return _read(table, left_out, "the synthetic macro pool", [people], POOL_CROP, remedy, entry, context)


def _read(
    table: pd.DataFrame, left_out: int, name: str, notes: list[str], crop: str, remedy: str, entry: dict[str, Any],
    context: Context,
) -> Part:  # fmt: skip
    squares = faces(table, entry["size"], crop=crop, engine=context.engine)
    found = np.array([square is not None for square in squares], dtype=bool)
    if not found.any():
        raise MerError(f"no face was found in any image of {name} ({len(found)} in a class); {remedy}")
    table = table[found]
    labels, subjects = table["label"].to_numpy(np.int64), table["subject"].to_numpy()
    counts = [f"{found.sum()} images"]
    counts += [f"{n} {why}" for n, why in ((left_out, "in no class"), ((~found).sum(), "without a face")) if n]
    return Part(
        [square for square in squares if square is not None],
        labels,
        hold_out(labels, subjects, share=entry["held_out"], seed=context.seed),
        f"{name} ({', '.join([*notes, *counts])})",
    )


# ---- classes and what is held out -----------------------------------------------------------------------------------


def labelled(
    table: pd.DataFrame, classes: Mapping[str, Collection[str]], without: Collection[str], what: str
) -> tuple[pd.DataFrame, int]:
    """The rows whose emotion is in a class, with a column `label`, and how many are in none.

    Args:
        table: of mer.macro.tables.
        classes: name -> emotions, in label order.
        without: emotions that may be in no class.
        what: the set, for messages.

    Raises:
        MerError: an emotion that is in neither, or no image in a class.
    """
    label_of = {emotion: i for i, emotions in enumerate(classes.values()) for emotion in emotions}
    mapping = "; ".join([
        *(f"{name}: {', '.join(sorted(emotions))}" for name, emotions in classes.items()),
        f"in no class: {', '.join(sorted(set(without) - label_of.keys()))}",
    ])  # fmt: skip
    unknown = table["emotion"][~table["emotion"].isin({*label_of, *without})].value_counts().sort_index()
    if len(unknown):
        names = listed(f"{name} ({n} images)" for name, n in unknown.items())
        raise MerError(
            f"{what}: emotions that the mapping does not know: {names}; correct the labels; the mapping is {mapping}"
        )
    label = table["emotion"].map(label_of)
    rows = table[label.notna()]
    if rows.empty:
        raise MerError(f"{what}: none of {len(table)} images is in a class ({mapping}); name another set")
    return rows.assign(label=label[label.notna()].astype(int)), len(table) - len(rows)


def hold_out(labels: np.ndarray, subjects: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Which images of one set are held out, (N,) bool.

    Whole subjects where they are known: drawn one after another while that brings the number of their images nearer to
    `share`, one at least and never all. Of images whose subject is "", single ones: `share` of each class, one at least
    and never all.

    Args:
        labels: (N,). subjects: (N,), "" where unknown.
        seed: of what is drawn.
    """
    held = np.zeros(len(labels), dtype=bool)
    rng = np.random.default_rng([seed, 2])
    known = subjects != ""
    names, counts = np.unique(subjects[known].astype(str), return_counts=True)
    wanted, taken = share * counts.sum(), 0
    for place in rng.permutation(len(names))[:-1].tolist():
        count = int(counts[place])
        if taken and abs(taken + count - wanted) >= abs(taken - wanted):
            break
        held |= subjects == names[place]
        taken += count
    for label in np.unique(labels[~known]):
        rows = rng.permutation(np.flatnonzero(~known & (labels == label)))
        held[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return held


# ---- batches --------------------------------------------------------------------------------------------------------


def epoch_size(labels: np.ndarray, balance: str) -> int:
    """How many images an epoch has; labels: (N,), every class among them."""
    counts = np.bincount(labels, minlength=len(CLASSES))
    each = {"undersample": counts.min(), "oversample": counts.max()}
    return int(len(CLASSES) * each[balance]) if balance in each else len(labels)


def order(labels: np.ndarray, balance: str, seed: int, epoch: int) -> np.ndarray:
    """Which images epoch 0, 1, … shows one after another, (epoch_size,): a function of seed and epoch.

    Every class as often as the others, drawn anew, or with `weights` every image once. An image is shown again only
    when its whole class was.
    """
    rng = np.random.default_rng([seed, 0, epoch])
    if balance == "weights":
        return rng.permutation(len(labels))
    each = epoch_size(labels, balance) // len(CLASSES)
    shown = []
    for label in range(len(CLASSES)):
        rows = np.flatnonzero(labels == label)
        shown += [np.tile(rows, each // len(rows)), rng.permutation(rows)[: each % len(rows)]]
    return rng.permutation(np.concatenate(shown))


def class_weights(labels: np.ndarray) -> np.ndarray:
    """What an image of each class counts, (C,) float32: each class the same in sum, the images 1 in the mean."""
    return (len(labels) / (len(CLASSES) * np.bincount(labels, minlength=len(CLASSES)))).astype(np.float32)


# ---- training -------------------------------------------------------------------------------------------------------


class Validation:
    """The held-out images after each epoch: a `mer.pretraining.loop.Watch`.

    losses: of each epoch so far, the mean over the classes of the mean cross entropy of their images. right: of each
    epoch how many images of each class are told rightly, (C,). best: the weights of epoch `kept`.
    """

    def __init__(
        self,
        network: nn.Module,
        faces: Sequence[np.ndarray],
        labels: np.ndarray,
        *,
        steps: int,
        stop: int,
        size: int,
        batch_size: int,
        device: torch.device,
    ):
        """steps: of an epoch. The others as for `pretrain`."""
        self.network, self.faces, self.labels = network, faces, labels
        self.steps, self.stop, self.size, self.batch_size, self.device = steps, stop, size, batch_size, device
        self.counts = np.bincount(labels, minlength=len(CLASSES))
        self.losses: list[float] = []
        self.right: list[list[int]] = []
        self.best: dict[str, Tensor] = {}

    @property
    def kept(self) -> int:
        """The epoch, from 0, with the highest mean recall; among equals the lowest loss, then the first."""
        return max(range(len(self.losses)), key=lambda epoch: (self.uar(epoch), -self.losses[epoch]))

    def uar(self, epoch: int) -> float:
        """The mean recall after epoch 0, 1, …."""
        return float(np.mean(np.array(self.right[epoch]) / self.counts))

    def accuracy(self, epoch: int) -> float:
        """The share of the held-out images that are told rightly after epoch 0, 1, …."""
        return sum(self.right[epoch]) / len(self.labels)

    @property
    def ended(self) -> bool:
        return stops(self.losses, self.stop or None)

    def after(self, step: int) -> None:
        if (step + 1) % self.steps:
            return
        logits = self._logits()
        each = F.cross_entropy(logits, torch.from_numpy(self.labels), reduction="none").numpy()
        loss = float(np.mean(np.bincount(self.labels, weights=each, minlength=len(CLASSES)) / self.counts))
        if not math.isfinite(loss):
            raise MerError(f"macro_sets: epoch {len(self.losses) + 1}: the loss on held-out images is {loss}; lower lr")
        told = logits.argmax(1).numpy() == self.labels
        self.losses.append(loss)
        self.right.append(np.bincount(self.labels[told], minlength=len(CLASSES)).tolist())
        if self.kept == len(self.losses) - 1:
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    @torch.no_grad()
    def _logits(self) -> Tensor:
        """(N, C) float64, on the CPU."""
        self.network.eval()
        parts = [self.faces[i : i + self.batch_size] for i in range(0, len(self.faces), self.batch_size)]
        found = [
            self.network(cut(part, np.tile(WHOLE, (len(part), 1)), self.size, self.device)).double().cpu()
            for part in parts
        ]
        self.network.train()
        return torch.cat(found)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "right": self.right, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses, self.right, self.best = state["losses"], state["right"], state["best"]


def pretrain(
    faces: Sequence[np.ndarray],
    labels: np.ndarray,
    network: nn.Module,
    *,
    held_faces: Sequence[np.ndarray],
    held_labels: np.ndarray,
    epochs: int,
    batch_size: int,
    size: int,
    lr: float,
    balance: str = "undersample",
    optimizer: str = "adam",
    factor: float = 0.1,
    patience: int = 10,
    stop: int = 20,
    mirror: bool = True,
    seed: int = 0,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
    every: int = 50,
    code: str = "",
    progress: bool = False,
) -> Learned:
    """Train a network in place; it ends with the weights of the epoch that told the held-out images best.

    On a CPU, equal arguments and equal first weights give equal bits, also when the training is killed and goes on
    from its checkpoint. On a GPU the order of sums, and so the last bits, may change from run to run.

    Args:
        faces, labels: N images as mer.pretraining.macro.faces returns them, of any sides up to `size`, and their
            classes, (N,) whole numbers from 0.
        network: maps (B, size, size, 3) to logits (B, C).
        held_faces, held_labels: images that nothing is learned from, of every class.
        epochs: the most that are made.
        batch_size: every batch is full; what is left at the end of an epoch is not shown in it.
        size: px to which faces are enlarged, batch by batch.
        lr: the first learning rate. optimizer: adam, or adamw with torch's weight decay of 0.01.
        balance: undersample: of each class as many images as the smallest has, drawn anew each epoch; oversample: each
            class as often as the largest; weights: every image once, the classes weighted in the loss.
        factor, patience: the rate is multiplied by `factor` after more than `patience` epochs without a loss on the
            held-out images below the lowest before (mer.loso.optim.Schedule, plateau).
        stop: epochs without a lower one after which the training ends; 0: it never ends before its time.
        mirror: half of the faces, drawn anew each time, are mirrored.
        seed: from which order and mirroring, and a network's own draws (dropout), come.
        device: `cpu` or `cuda`.
        checkpoint: a file that is written every `every` steps and left behind at the end; a later call with the same
            arguments, images, first weights and `code` goes on from it, one with others ignores it. None: nothing is
            kept.
        code: a digest of the code that the weights depend on.

    Raises:
        MerError: arguments out of range, images and labels that do not belong together, a class without images, an
            epoch smaller than a batch, a network of other outputs, or a loss or gradient that is not finite.
    """
    _check(
        balance=balance, optimizer=optimizer, epochs=epochs, batch_size=batch_size, every=every, patience=patience,
        stop=stop, lr=lr, factor=factor,
    )  # fmt: skip
    labels = _checked(faces, labels, size, "images", "name a set that shows them, or lower held_out")
    held_labels = _checked(held_faces, held_labels, size, "held-out images", "raise held_out, or name a larger set")
    shown = epoch_size(labels, balance)
    steps = shown // batch_size
    if steps == 0:
        counts = ", ".join(f"{n} {name}" for name, n in zip(CLASSES, np.bincount(labels), strict=True))
        raise MerError(
            f"macro_sets: an epoch has {shown} images (balance {balance}, of {counts}), fewer than a batch; lower "
            f"batch_size, which is {batch_size}, or name a larger set"
        )
    _check_network(network, size)
    device = torch.device(device)
    initial = [[name, content([value.detach().cpu().numpy()])] for name, value in network.state_dict().items()]
    key = digest(
        epochs, batch_size, size, lr, balance, optimizer, factor, patience, stop, mirror, seed, device.type,
        content(faces), content([labels]), content(held_faces), content([held_labels]), initial, code,
    )  # fmt: skip
    network.to(device)
    validation = Validation(
        network, held_faces, held_labels, steps=steps, stop=stop, size=size, batch_size=batch_size, device=device
    )
    schedule = Schedule(kind="plateau", lr=lr, epochs=epochs, factor=factor, patience=patience)
    weight = torch.from_numpy(class_weights(labels)).to(device) if balance == "weights" else None
    of_epoch = functools.lru_cache(maxsize=1)(functools.partial(order, labels, balance, seed))

    @functools.lru_cache(maxsize=1)
    def batch(step: int) -> Batch:
        epoch, place = divmod(step, steps)
        rows = of_epoch(epoch)[place * batch_size : (place + 1) * batch_size]
        return Batch(rows, *look(batch_size, seed=seed, step=step, mirror=mirror, crop=1.0))

    def objective(step: int) -> Tensor:
        rows, squares, _ = batch(step)
        logits = network(cut([faces[row] for row in rows], squares, size, device))
        label = torch.from_numpy(labels[rows]).to(device)
        return F.cross_entropy(logits, label, weight, reduction="sum") / batch_size

    loop.train(
        network, objective, task="macro_sets", steps=epochs * steps, key=key, checkpoint=checkpoint, every=every,
        optimizer=OPTIMIZERS[optimizer](network.parameters(), lr=lr), progress=progress,
        rate=lambda step: schedule.rate(step // steps, validation.losses), step_seed=lambda step: batch(step).seed,
        watch=validation,
    )  # fmt: skip
    network.load_state_dict(validation.best)
    kept = validation.kept
    return Learned(
        network=network, accuracy=validation.accuracy(kept), uar=validation.uar(kept), n=len(held_labels),
        kept=kept + 1, epochs=len(validation.losses),
    )  # fmt: skip


# ---- bad input ------------------------------------------------------------------------------------------------------


def _check(
    *, balance: str, optimizer: str, epochs: int, batch_size: int, every: int, patience: int, stop: int, lr: float,
    factor: float,
) -> None:  # fmt: skip
    valid: Iterable[tuple[str, str, Iterable[str]]] = (
        ("balance", balance, BALANCES),
        ("optimizer", optimizer, OPTIMIZERS),
    )
    for name, chosen, names in valid:
        if chosen not in names:
            raise MerError(f"macro_sets: {name} is {chosen!r}; {suggestion(chosen, names)}")
    least = {"epochs": (epochs, 1), "batch_size": (batch_size, 2), "every": (every, 1), "patience": (patience, 0)}
    for name, (value, needed) in (least | {"stop": (stop, 0)}).items():
        if value < needed:
            raise MerError(f"macro_sets: {name} is {value}; needed is {needed} at least")
    if not 0 < lr < math.inf:
        raise MerError(f"macro_sets: lr is {lr}; needed is a finite number above 0")
    if not 0 < factor < 1:
        raise MerError(f"macro_sets: factor is {factor}; needed is a share of the rate, above 0 and below 1")


def _checked(faces: Sequence[np.ndarray], labels: Any, size: int, what: str, remedy: str) -> np.ndarray:
    """The labels as (N,) int64, if they and the faces are what they shall be."""
    check_faces(faces, size, what)
    labels = np.asarray(labels)
    if labels.shape != (len(faces),) or labels.dtype.kind not in "iu":
        raise MerError(
            f"macro_sets: labels of {len(faces)} {what} are {labels.shape} {labels.dtype}; give a whole number for each"
        )
    if not (labels.min() >= 0 and labels.max() < len(CLASSES)):
        raise MerError(f"macro_sets: labels of {what} are {labels.min()}..{labels.max()}; valid: 0..{len(CLASSES) - 1}")
    counts = np.bincount(labels, minlength=len(CLASSES))
    empty = [name for name, n in zip(CLASSES, counts, strict=True) if not n]
    if empty:
        raise MerError(f"macro_sets: of {len(faces)} {what} none is {' or '.join(empty)}; {remedy}")
    return labels.astype(np.int64)


@torch.no_grad()
def _check_network(network: nn.Module, size: int) -> None:
    device = next(network.parameters()).device
    try:
        found = tuple(network.eval()(torch.zeros(2, size, size, 3, device=device)).shape)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise MerError(
            f"macro_sets: the network cannot take faces of {size} px ({reason}); raise size, or correct its knobs"
        ) from None
    if found != (2, len(CLASSES)):
        raise MerError(
            f"macro_sets: the network makes {found} of 2 faces; needed are logits {(2, len(CLASSES))}, of "
            f"{', '.join(CLASSES)}"
        )
