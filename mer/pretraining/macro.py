"""Pretraining of a network on macro-expression images, of which there are far more than of micro-expressions.

    loss = cross entropy between softmax(head(network(faces))) and each image's shares of votes, or its one emotion

The network maps faces to features and goes on to a micro-expression model; `head`, a linear layer from the features to
the emotions, serves the training alone and is thrown away.

N images, C emotions, B images of a batch. Faces are (side, side, 3) uint8 RGB; in a batch (B, size, size, 3) float32,
grey levels 0..255. Sides and sizes in px.
"""

import functools
import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer import corpora
from mer.errors import MerError, listed, suggestion
from mer.faces import CROPS, align_clip, detect_landmarks, face_box
from mer.loso.optim import Schedule
from mer.macro import pool
from mer.macro.tables import EMOTIONS, load_image
from mer.parallel import SERIAL, Engine, map_clips
from mer.pretraining import Context, Made, load_network, loop, user_files
from mer.storage.files import digest

SMALLEST = 16  # px; below, nothing of a face can be told
WARMUP = 0.1  # share of the steps in which the rate grows to `lr`, while Adam learns the gradients' sizes
HELD_OUT = 5  # one of so many subjects
WHOLE = np.array([0.0, 1.0, 0.0, 0.0])  # of a face, as it is; see `cut`


@dataclass(frozen=True)
class Pretrained:
    """What `pretrain` makes.

    network: in evaluation mode. accuracy: share of the `n` held-out images whose most likely emotion is the one that
    most voted for; None where none were held out, or no step was made: there is no head to ask then.
    """

    network: nn.Module
    accuracy: float | None
    n: int


# ---- the task -------------------------------------------------------------------------------------------------------


def run(entry: dict[str, Any], context: Context) -> Made:
    """The task `macro`: a network that has learned a set, or the synthetic pool where nobody put a set in place.

    Images without a face are left out and counted in the note. Without set and pool, the initial weights are kept.

    Args:
        entry: network, with knobs: of its `build_pretrained`; raw: folder of the set, with reader: its module in
            mer.macro, options of its `read_macro` and crop; first: imagenet, random, or auto (ImageNet's weights where
            they can be had); size, steps, batch_size, lr and weight_decay as for `pretrain`.

    Raises:
        MerError: no such folder, an unknown option, a set that cannot be read, no face at all, ImageNet's weights that
            cannot be had, a network without features, and what `pretrain` refuses.
    """
    table, what, crop = training_images(entry, context)
    network, first = initial_network(entry, context)
    if table is None:
        return Made(network, {"weights": first} | getattr(network, "about", {}))
    size = entry["size"]
    squares = faces(table, size, crop=crop, engine=context.engine)
    found = [square is not None for square in squares]
    table, images = table[found], [square for square in squares if square is not None]
    if not images:
        raise MerError(f"no face was found in any image of {what}; set {context.where}.crop to none")
    names, held = emotions(table), hold_out(table)
    shares = targets(table, names)
    learned, tested = (
        ([image for image, here in zip(images, rows, strict=True) if here], shares[rows]) for rows in (~held, held)
    )
    result = pretrain(
        *learned, network, held_faces=tested[0], held_targets=tested[1], size=size, steps=entry["steps"],
        batch_size=entry["batch_size"], lr=entry["lr"], weight_decay=entry["weight_decay"], seed=context.seed,
        device=context.device, checkpoint=context.checkpoint, code=context.code, progress=context.progress,
    )  # fmt: skip
    if not all(found):
        what = f"{what}, {found.count(False)} of them without a face"
    about: dict[str, str | list[str]] = {"weights": f"{entry['steps']} steps on {what}, from {first}"}
    if result.accuracy is not None:
        about["accuracy"] = f"{result.accuracy:.3f} of {result.n} held-out images, {len(names)} emotions"
    return Made(result.network, about | getattr(network, "about", {}))


def given(entry: dict[str, Any], context: Context) -> bool:
    """Whether a set is in place."""
    return bool(user_files(entry["raw"], f"{context.where}.raw"))


def training_images(entry: dict[str, Any], context: Context) -> tuple[pd.DataFrame | None, str, str]:
    """The set's table, what it is called, and its crop; (None, "", "") where there is neither set nor pool."""
    if given(entry, context):
        reader, options = corpora.load(entry["reader"]).read_macro, entry["options"]
        check_options(reader, options, f"params.yaml: {context.where}.options")
        table = reader(entry["raw"], **options)
        edition = [table.attrs["edition"]] if "edition" in table.attrs else []
        what = ", ".join([entry["reader"], *edition, *(f"{name} {value}" for name, value in options.items())])
        return table, f"{what} ({len(table)} images)", entry["crop"]
    if context.pool is None:
        return None, "", ""
    table = pool.read_macro(context.pool / "macro")
    return table, f"the synthetic macro pool ({len(table)} images, {table['subject'].nunique()} people)", "box224"


def check_options(reader: Callable, options: dict, where: str) -> None:
    """Raise MerError for an option that the set's reader does not have, or a value of another type."""
    _, *known = inspect.signature(reader, eval_str=True).parameters.values()  # the first is the folder
    types = {parameter.name: parameter.annotation for parameter in known}
    for name, value in options.items():
        if name not in types:
            raise MerError(f"{where}.{name} is unknown; {suggestion(name, types)}")
        if not isinstance(value, types[name]):
            raise MerError(f"{where}.{name} is {value!r}; needed is a value of type {types[name].__name__}")


def initial_network(entry: dict[str, Any], context: Context) -> tuple[nn.Module, str]:
    """The network before training, and what its weights are (U-21)."""
    module = load_network(entry["network"])
    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        knobs = entry.get("knobs", {})
        try:
            network = module.build_pretrained(**knobs)
        except TypeError as error:
            raise MerError(
                f"{context.where}.knobs: {entry['network']} cannot be built with {knobs} ({error}); correct it"
            ) from None
    if not hasattr(network, "width"):
        raise MerError(
            f"{context.where}.network is {entry['network']!r}, which makes no features of faces; name another"
        )
    if entry["first"] == "random":
        return network, "random weights"
    try:
        return module.load_official(network), "ImageNet weights"
    except MerError as error:
        if entry["first"] == "imagenet":
            raise MerError(f"{error}, or take first: random") from None
        print(f"{error}; so it begins with random weights", file=sys.stderr)
        return network, "random weights"


# ---- images, targets and what is held out ---------------------------------------------------------------------------


def faces(table: pd.DataFrame, size: int, *, crop: str = "none", engine: Engine = SERIAL) -> list[np.ndarray | None]:
    """The images of a table, in its order, as (side, side, 3) uint8 RGB.

    crop: `none` for sets of faces: others than squares lose what lies beyond the square in their middle; a side above
    `size` px is reduced to it, a smaller one stays, so that a set of small images needs no more memory than it has
    pixels. Or a crop of mer.faces.align_clip for images that show more than a face, found by dlib; None where no face
    was found.

    Raises MerError where `size` is too small, or an image is missing or damaged.
    """
    _check_size(size)
    paths = [row.image for row in table.itertuples()]
    return map_clips(functools.partial(_face, size=size, crop=crop), paths, engine, "faces")


def _face(path: str, *, size: int, crop: str) -> np.ndarray | None:
    image = load_image({"image": path})
    if crop == "none":
        return _square(image, size)
    try:
        landmarks = detect_landmarks(image)
    except MerError:
        return None  # none, or several: the caller counts them
    box = face_box(image, landmarks) if CROPS[crop].reads == "box" else None
    return align_clip(image[None], landmarks, crop, size=size, box=box)[0]


def _square(image: np.ndarray, size: int) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side > size:
        return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    return square.copy()  # a view would keep the whole image in memory


def emotions(table: pd.DataFrame) -> list[str]:
    """The emotions of a table, or that somebody voted for: those of mer.macro.tables in its order, then the others."""
    present = {column.removeprefix("vote_") for column in _voted(table) if table[column].gt(0).any()}
    present |= set(table["emotion"])
    known = dict.fromkeys(EMOTIONS.values())
    return [name for name in known if name in present] + sorted(present - known.keys())


def targets(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """What the network shall answer, (N, C) float32, each row with the sum 1.

    Args:
        table: with columns `vote_<emotion>`, a row holds its shares of the votes; without, and in a row without votes
            (sets put together), 1 at its emotion.
        names: of the C columns; `emotions` of all images that are trained on or held out.

    Raises:
        MerError: the table has emotions that are not among `names`.
    """
    lacking = [name for name in emotions(table) if name not in names]
    if lacking:
        raise MerError(
            f"emotions {listed(lacking)} stand in the table, but not among the classes {listed(names, 9)}; "
            "name them, or leave their images out"
        )
    votes = table.reindex(columns=[f"vote_{name}" for name in names]).fillna(0.0).to_numpy(np.float64)
    labels = (table["emotion"].to_numpy()[:, None] == np.array(list(names), dtype=object)).astype(np.float64)
    shares = np.where(votes.sum(1, keepdims=True) > 0, votes, labels)
    return (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def _voted(table: pd.DataFrame) -> list[str]:
    return [column for column in table if column.startswith("vote_")]


def hold_out(table: pd.DataFrame) -> np.ndarray:
    """Which rows to keep for the report, (N,) bool, by the rule of each corpus in the table.

    Where a corpus has splits, those of `test` and `val`. Else, where it knows its subjects, a fifth of them, evenly
    spread over their sorted names, one at least and never the only one. Else none.
    """
    held = np.zeros(len(table), dtype=bool)
    corpora, subjects, splits = (table[name].to_numpy() for name in ("corpus", "subject", "split"))
    for corpus in pd.unique(corpora):
        own = corpora == corpus
        if (splits[own] != "").any():
            held |= own & np.isin(splits, ("test", "val"))
            continue
        known = sorted(set(subjects[own]) - {""})
        if len(known) > 1:
            count = max(1, round(len(known) / HELD_OUT))
            chosen = [known[int((k + 0.5) * len(known) / count)] for k in range(count)]
            held |= own & np.isin(subjects, chosen)
    return held


# ---- training -------------------------------------------------------------------------------------------------------


def pretrain(
    faces: Sequence[np.ndarray],
    targets: np.ndarray,
    network: nn.Module,
    *,
    steps: int,
    batch_size: int,
    size: int,
    lr: float,
    weight_decay: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    mirror: bool = True,
    crop: float = 0.85,
    held_faces: Sequence[np.ndarray] | None = None,
    held_targets: np.ndarray | None = None,
    checkpoint: str | Path | None = None,
    every: int = 50,
    code: str = "",
    progress: bool = False,
) -> Pretrained:
    """Train a network in place, for `steps` batches with AdamW; the rate grows, then falls to 0 along half a cosine.

    On a CPU, equal arguments and equal first weights give equal bits, also when the training is killed and goes on
    from its checkpoint. On a GPU the order of sums, and so the last bits, may change from run to run.

    Args:
        faces: N faces as the function `faces` returns them, of any sides up to `size`.
        targets: (N, C), as the function `targets` returns them.
        network: maps (B, size, size, 3) to features (B, `network.width`).
        steps: 0: the network stays as it is.
        batch_size: 2 at least, for batch norm.
        size: px to which faces are enlarged, batch by batch.
        lr: the highest learning rate. weight_decay: of all parameters, as torch.optim.AdamW has it.
        seed: from which batches, what is mirrored and cropped, and a network's own draws (dropout) come.
        device: `cpu` or `cuda`.
        mirror: half of the faces, drawn anew each time, are mirrored. crop: of each face a square is seen, its side a
            share of the face's, drawn from `crop` to 1; 1: all of it.
        held_faces, held_targets: the images that `accuracy` is of, which nothing is learned from; None: no report.
        checkpoint: a file that is written every `every` steps and left behind at the end; a later call with the same
            arguments, images, first weights and `code` goes on from it, one with others ignores it. None: nothing is
            kept.
        code: a digest of the code that the weights depend on.

    Returns:
        The network on `device` and how well it tells the held-out emotions.

    Raises:
        MerError: arguments out of range, no images, images and targets that do not belong together, a network that is
            frozen, or a loss or gradient that is not finite: the weights before that step are sound.
    """
    _check(steps=steps, batch_size=batch_size, every=every, size=size, lr=lr, weight_decay=weight_decay, crop=crop)
    targets = _checked(faces, targets, size, "images")
    if (held_faces is None) != (held_targets is None):
        raise MerError("macro: give held_faces and held_targets both, or none of them")
    held = None
    if held_faces is not None and len(held_faces):
        held = _checked(held_faces, held_targets, size, "held-out images")
        if held.shape[1] != targets.shape[1]:
            raise MerError(f"macro: {held.shape[1]} emotions are held out, {targets.shape[1]} are trained on")
    if not any(p.requires_grad for p in network.parameters()):
        raise MerError("macro: the network is frozen, nothing of it would be trained; unfreeze it")
    device, n = torch.device(device), 0 if held is None else len(held)
    if steps == 0:
        return Pretrained(network.to(device).eval(), None, n)

    initial = [[name, content([value.detach().cpu().numpy()])] for name, value in network.state_dict().items()]
    learned = [name for name, p in network.named_parameters() if p.requires_grad]
    key = digest(
        steps, batch_size, size, lr, weight_decay, seed, device.type, mirror, crop,
        content(faces), content([targets]), initial, learned, code,
    )  # fmt: skip
    head = nn.utils.skip_init(nn.Linear, network.width, targets.shape[1])
    for parameter in head.parameters():
        nn.init.zeros_(parameter)  # no emotion is likelier at first, whatever the features
    model = nn.Sequential(network, head).to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    batch = functools.lru_cache(maxsize=1)(
        functools.partial(draw, len(faces), batch_size=batch_size, seed=seed, mirror=mirror, crop=crop)
    )

    def objective(step: int) -> Tensor:
        rows, squares, _ = batch(step=step)
        seen = cut([faces[row] for row in rows], squares, size, device)
        return F.cross_entropy(model(seen), torch.from_numpy(targets[rows]).to(device))

    loop.train(
        model, objective, task="macro", steps=steps, key=key, checkpoint=checkpoint, every=every, progress=progress,
        optimizer=torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay),
        rate=Schedule(kind="cosine", lr=lr, epochs=steps, warmup=int(WARMUP * steps)).rate,
        step_seed=lambda step: batch(step=step).seed,
    )  # fmt: skip
    right = None
    if held_faces is not None and held is not None:
        with loop.fixed_threads(device):
            right = accuracy(model, held_faces, held, size, batch_size, device)
    return Pretrained(network, right, n)


@torch.no_grad()
def accuracy(
    model: nn.Module,
    faces: Sequence[np.ndarray],
    targets: np.ndarray,
    size: int,
    batch_size: int,
    device: str | torch.device,
) -> float:
    """Share of the faces whose highest of the model's C outputs is where the target is highest."""
    right = 0
    for first in range(0, len(faces), batch_size):
        part = faces[first : first + batch_size]
        found = model(cut(part, np.tile(WHOLE, (len(part), 1)), size, device)).argmax(1).cpu().numpy()
        right += int((found == targets[first : first + batch_size].argmax(1)).sum())
    return right / len(faces)


def content(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of the shapes and values of arrays, in their order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


# ---- batches --------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """rows (B,): which images. squares (B, 4): what is seen of them, see `cut`. seed: of what the network draws."""

    rows: np.ndarray
    squares: np.ndarray
    seed: int


def draw(count: int, *, batch_size: int, seed: int, step: int, mirror: bool = True, crop: float = 0.85) -> Batch:
    """What is seen at step 0, 1, … of a training on `count` images: a function of the seed and the step.

    The epochs, each an order of all images, follow each other without a gap: every batch is full, and a batch may end
    one epoch and begin the next. mirror, crop: see `look`.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = range(places[0] // count, places[-1] // count + 1)
    orders = np.concatenate([np.random.default_rng([seed, 0, epoch]).permutation(count) for epoch in epochs])
    return Batch(orders[places - epochs[0] * count], *look(batch_size, seed=seed, step=step, mirror=mirror, crop=crop))


def look(batch_size: int, *, seed: int, step: int, mirror: bool = True, crop: float = 0.85) -> tuple[np.ndarray, int]:
    """How the images of step 0, 1, … are seen, and the seed of what the network draws: see `Batch`.

    mirror: half of them are mirrored. crop: the side of the square is drawn from `crop` to 1; 1: the face as it is.
    """
    rng = np.random.default_rng([seed, 1, step])
    squares = np.empty((batch_size, 4))
    squares[:, 0] = (rng.random(batch_size) < 0.5) & mirror
    squares[:, 1] = rng.uniform(crop, 1, batch_size)
    squares[:, 2:] = rng.random((batch_size, 2)) * (1 - squares[:, 1:2])
    return squares, int(rng.integers(2**63))


def cut(faces: Sequence[np.ndarray], squares: np.ndarray, size: int, device: str | torch.device = "cpu") -> Tensor:
    """Squares out of faces, enlarged to `size` px with linear interpolation, (B, size, size, 3) float32 on `device`.

    Args:
        faces: B faces, (side, side, 3) uint8; sides may differ.
        squares: (B, 4), of each: whether it is mirrored (1 or 0), its side, its left and its top edge in shares of
            the face's side.
    """
    mirrored, share, left, top = np.asarray(squares, dtype=np.float64).T
    # From places in the result to places in the face, both -1..1 from edge to edge, as torch has it.
    maps = np.zeros((len(faces), 2, 3))
    maps[:, 0, 0], maps[:, 0, 2] = np.where(mirrored > 0, -share, share), 2 * left + share - 1
    maps[:, 1, 1], maps[:, 1, 2] = share, 2 * top + share - 1
    out = torch.empty(len(faces), size, size, 3, device=device)
    sides = np.array([len(face) for face in faces])
    for side in np.unique(sides):
        rows = np.flatnonzero(sides == side)
        whole = torch.from_numpy(np.stack([faces[row] for row in rows.tolist()])).to(device).permute(0, 3, 1, 2).float()
        places = torch.from_numpy(maps[rows]).float().to(device)
        grid = F.affine_grid(places, [len(rows), 3, size, size], align_corners=False)
        square = F.grid_sample(whole, grid, mode="bilinear", padding_mode="border", align_corners=False)
        out[torch.from_numpy(rows).to(device)] = square.permute(0, 2, 3, 1)
    return out


# ---- bad input ------------------------------------------------------------------------------------------------------


def _check(*, steps: int, batch_size: int, every: int, size: int, lr: float, weight_decay: float, crop: float) -> None:
    for name, value, least in (("steps", steps, 0), ("batch_size", batch_size, 2), ("every", every, 1)):
        if value < least:
            raise MerError(f"macro: {name} is {value}; needed is {least} at least")
    _check_size(size)
    if not 0 < lr < math.inf:
        raise MerError(f"macro: lr is {lr}; needed is a finite number above 0")
    if not 0 <= weight_decay < math.inf:
        raise MerError(f"macro: weight_decay is {weight_decay}; needed is 0 or a finite number above")
    if not 0 < crop <= 1:
        raise MerError(f"macro: crop is {crop}; needed is a share of the side, above 0 and up to 1")


def _check_size(size: int) -> None:
    if size < SMALLEST:
        raise MerError(f"macro: size is {size}; needed is {SMALLEST} px at least")


def check_faces(faces: Sequence[np.ndarray], size: int, what: str) -> None:
    """Raise MerError where there are none, or one is not as the function `faces` makes them; `what`: for messages."""
    if not len(faces):
        raise MerError(f"macro: there are no {what}; name a set that holds some")
    for index, face in enumerate(faces):
        square = face.ndim == 3 and face.shape[0] == face.shape[1] and face.shape[2] == 3
        if not square or face.dtype != np.uint8 or not 0 < len(face) <= size:
            raise MerError(
                f"macro: {what}: face {index} is {face.shape} {face.dtype}; needed is (side, side, 3) uint8 "
                f"RGB, side {size} at most, as mer.pretraining.macro.faces makes them"
            )


def _checked(faces: Sequence[np.ndarray], targets: Any, size: int, what: str) -> np.ndarray:
    """The targets as (N, C) float32, if they and the faces are what they shall be."""
    check_faces(faces, size, what)
    targets = np.asarray(targets, dtype=np.float32)
    if len(targets) != len(faces):
        raise MerError(f"macro: {len(faces)} {what} have {len(targets)} targets; give one for each image")
    if targets.ndim != 2 or targets.shape[1] < 2:
        raise MerError(f"macro: targets of {what} are {targets.shape}; needed are 2 emotions at least")
    sound = (targets >= 0).all(1) & np.isclose(targets.sum(1), 1, atol=1e-3)
    if not sound.all():
        wrong = int(sound.argmin())
        raise MerError(
            f"macro: targets of {what}: row {wrong} is {listed(targets[wrong], 9)}; needed are shares of 0 "
            "or more with the sum 1"
        )
    return targets
