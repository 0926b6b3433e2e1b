"""Line 6: UAMRN at the paper's size, 224 px, L 32, d_model 1024, on random clips of CASME II's numbers.

`embedding`: the frozen ResNet-18 over the frames of a corpus. `step`: seconds a step and fold, folds side by side, of
the system and its two ablations. A table cell is 26 folds of 40 epochs over 246 clips: `cell` trains it whole, with as
many folds side by side as fit, a part for each. `attention`: eq. 6 alone, milliseconds a sequence; see benchmarks.ssa.
"""

import functools
import time

import numpy as np
import torch

from benchmarks import ssa
from benchmarks.gpu._run import Line, Session, peak_memory, rounded, synchronize, timed
from mer import models
from mer.loso.loop import train_folds
from mer.loso.memory import folds_that_fit
from mer.loso.recipe import Recipe
from mer.loso.stacked_folds import vmap_obstacle
from mer.loso.task import Task, TrainingPlan
from mer.models import uamrn
from mer.networks.resnet import ResNet18

NUMBER, TITLE = 6, "UAMRN"
CLIPS, SUBJECTS, CLASSES = 246, 26, 5
SYSTEMS = {"uamrn": {}, "deterministic": {"uncertainty": False}, "full attention": {"mask": "full"}}
TINY = {"tap": "layer1", "grid": 1, "factors": "linspace_2_13_4", "d_model": 16, "blocks": 1, "samples": 2}
LENGTHS, TINY_LENGTHS = (32, 128, 512, 2048, 4096), (32, 64)


def corpus(session: Session) -> tuple[list[Task], torch.Tensor, torch.Tensor]:
    """Folds, features and labels; subjects of uneven size."""
    rng = np.random.default_rng(0)
    clips, subjects = session.pick((CLIPS, SUBJECTS), (9, 3))
    who = rng.permutation(np.concatenate([np.arange(subjects), rng.integers(0, subjects, clips - subjects)]))
    labels = rng.integers(0, CLASSES, clips)
    features = rng.normal(size=(clips, *session.pick((32, 2048), (4, 64)))).astype(np.float32)
    features += 0.3 * labels[:, None, None]
    tasks = [Task(f"s{s:02d}", s, np.flatnonzero(who != s), np.flatnonzero(who == s)) for s in range(subjects)]
    return tasks, torch.from_numpy(features).to(session.device), torch.from_numpy(labels).to(session.device)


def build(session: Session, system: str):
    knobs = {"features": True, **session.pick({}, TINY), **SYSTEMS[system]}
    return functools.partial(models.build, "uamrn", CLASSES, **knobs)


def plan(session: Session, epochs: int, half: bool) -> TrainingPlan:
    recipe = Recipe.of(uamrn.RECIPE, {"epochs": epochs})
    return TrainingPlan(schedule=recipe.rates(), batch_size=recipe.batch_size, loss=uamrn.loss, bf16=half)


def embedding(session: Session, half: bool) -> dict:
    """Frames a second; frames are on the device."""
    size, count = session.pick((224, 256), (32, 4))
    frames = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, device=session.device)
    network = ResNet18("layer2", 4, freeze=True).to(session.device)

    @torch.inference_mode()
    def work():
        with torch.autocast(session.device.type, torch.bfloat16, enabled=half):
            network(frames)

    rate = count / timed(session, work)
    return {"frames_per_s": rounded(rate), "minutes_a_corpus": rounded(CLIPS * 32 / rate / 60)}


def step(session: Session, system: str, together: int, half: bool) -> dict:
    """Median seconds of the epochs after the first, by steps and folds."""
    tasks, features, labels = corpus(session)
    build_one = build(session, system)
    result = {"system": system, "together": together, "precision": "bf16" if half else "float32"}
    reason = vmap_obstacle(build_one, features, plan(session, 1, half)) if together > 1 else None
    if reason is not None:
        return result | {"not_possible": reason}
    ticks = []

    def tick(_loss: float) -> None:
        synchronize(session.device)
        ticks.append(time.perf_counter())

    how = plan(session, session.pick(4, 2), half)
    try:
        with peak_memory(session.device, result):
            train_folds(
                tasks[:together], features, labels, build_one, how, ids=range(len(labels)), in_parallel=together > 1,
                after_epoch=tick,
            )  # fmt: skip
    except torch.cuda.OutOfMemoryError:
        return result | {"not_possible": "does not fit into the memory"}
    steps = -(-len(tasks[0].train) // 16)
    seconds = float(np.median(np.diff(ticks))) / steps / together
    return result | {
        "seconds_per_fold_step": rounded(seconds),
        "minutes_a_cell": rounded(seconds * steps * len(tasks) * uamrn.RECIPE["epochs"] / 60),
    }


def cell(session: Session, system: str, half: bool) -> dict:
    """A whole table cell: minutes, and the memory it took."""
    tasks, features, labels = corpus(session)
    build_one, how = build(session, system), plan(session, session.pick(uamrn.RECIPE["epochs"], 1), half)
    on_gpu = session.device.type == "cuda"
    together = min(len(tasks), folds_that_fit(build_one, features, labels, how)) if on_gpu else 1
    result = {"system": system, "precision": "bf16" if half else "float32", "together": together}
    start = time.perf_counter()
    with peak_memory(session.device, result):
        for first in range(0, len(tasks), together):
            some = tasks[first : first + together]
            train_folds(some, features, labels, build_one, how, ids=range(len(labels)), in_parallel=len(some) > 1)
        synchronize(session.device)
    return result | {"minutes": rounded((time.perf_counter() - start) / 60)}


@torch.no_grad()
def attention(session: Session, length: int, half: bool) -> dict:
    batch = session.pick(max(1, 64 * 32 // length), 1)
    kind = torch.bfloat16 if half else torch.float32
    generator = torch.Generator().manual_seed(0)
    shape = (batch, ssa.HEADS, length, session.pick(ssa.WIDTH, 8))
    q, k, v = (torch.randn(shape, generator=generator).to(session.device, kind) for _ in range(3))
    planes = torch.randn(ssa.HEADS, ssa.TABLES, 3, shape[-1], generator=generator).to(session.device, kind)
    found = {form: timed(session, functools.partial(ssa.run, form, q, k, v, planes)) for form in ssa.FORMS}
    return {"length": length, "batch": batch, "precision": "bf16" if half else "float32",
            "ms": {form: rounded(1e3 * seconds / batch) for form, seconds in found.items()}}  # fmt: skip


def measure(line: Line) -> dict:
    session = line.session
    for half in (False, True):
        kind = "bf16" if half else "float32"
        line.part(f"embedding, {kind}", functools.partial(embedding, session, half))
        for system in SYSTEMS:
            for together in session.pick((1, 4, 13, 26), (1, 2)):
                name = f"step, {system}, {together} together, {kind}"
                line.part(name, functools.partial(step, session, system, together, half), needs=session.pick(30, 1))
    for length in session.pick(LENGTHS, TINY_LENGTHS):
        for half in (False, True):
            name = f"attention, L {length}, {'bf16' if half else 'float32'}"
            line.part(name, functools.partial(attention, session, length, half))
    for system in SYSTEMS:
        steps = [p["result"] for name, p in line.parts.items() if name.startswith(f"step, {system},")]
        minutes = min((s["minutes_a_cell"] for s in steps if "minutes_a_cell" in s), default=1.0)
        needs = session.pick(90 * minutes + 30, 1)  # half as much again as its steps foretell
        line.part(f"cell, {system}", functools.partial(cell, session, system, True), needs=needs)
    cells = {system: line.result(f"cell, {system}") for system in SYSTEMS}
    lengths = {f"{n}": line.result(f"attention, L {n}, float32") for n in session.pick(LENGTHS, TINY_LENGTHS)}
    won = ssa.first_win({n: found for n, found in lengths.items() if found}, "masked")
    return {"minutes_a_cell": {s: c and c["minutes"] for s, c in cells.items()}, "bucketed_wins_from": won}
