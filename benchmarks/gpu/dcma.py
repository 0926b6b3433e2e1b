"""Line 7: DCMA at the printed size, 112 px, against the network as one writes it first; and 68 folds.

`batch`: faces a second in training and inference, of every form of benchmarks.dcma, which also has the peer. torch lets
its convolutions take TF32 on a GPU, ours and the peer's; the goal is against the peer without, which is what float32
says, and the ratio to the peer with TF32 stands beside it. `compiled` is measured in parts of its own, without TF32.

The folds are those of line 3, 442 clips of 68 subjects, here noise of 112 px: the rate falls by held-out subjects, as
the recipe has it, and no fold stops early, so the minutes are the most that it takes. All epochs are trained and timed,
a part for as many folds as half a call trains.
"""

import dataclasses
import functools
import time

import numpy as np
import torch

from benchmarks import dcma as bench
from benchmarks.gpu import folds
from benchmarks.gpu._clips import Clips
from benchmarks.gpu._run import Line, Session, peak_memory, rounded, synchronize, tf32
from mer import models
from mer.loso.recipe import Recipe
from mer.loso.task import Task, TrainingPlan
from mer.models import dcma

NUMBER, TITLE = 7, "DCMA"
GOAL = 5  # times as fast as the plain network in float32
CLIPS, SUBJECTS, CLASSES = 442, 68, 3
SIZE, BATCHES = 112, (32, 128, 512)
TINY = {"size": 16, "stem": 4, "blocks": 2, "layers": 2, "growth": 4}
HELD_OUT = 0.2  # share of the subjects that train.held_out keeps back
VARIANTS = ("float32", "TF32", "compiled")


# ---- the network ----------------------------------------------------------------------------------------------------


def knobs(session: Session) -> dict:
    return session.pick({"size": SIZE}, TINY)


def speed(session: Session, batch: int, variant: str) -> dict:
    """Of one of VARIANTS: faces a second and times as fast as the peer, which runs in the same turns."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second

    result: dict = {"batch": batch, "variant": variant, **knobs(session)}
    torch.compiler.reset()  # what was compiled for another batch would be generalised to any
    try:
        with tf32(variant == "TF32"), peak_memory(session.device, result):
            one = bench.Bench(
                batch=batch, device=session.device.type, compiled=variant == "compiled", **knobs(session)
            )  # fmt: skip
            found = {"gradient_apart": one.compare(), **one.passes(session.pick(9, 1))}
    except torch.cuda.OutOfMemoryError:
        return result | {"not_possible": "does not fit into the memory"}
    except TorchDynamoException as error:  # without a C++ compiler or Triton
        return result | {"not_possible": f"torch.compile fails here ({' '.join(str(error).split())[:200]})"}
    return result | found


# ---- folds ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class HeldOut(Clips):
    """inputs (N, size, size, 3) uint8. share: of the subjects that are held out."""

    share: float = HELD_OUT

    def tasks(self, names: list[str], seed: int) -> list[Task]:
        """Folds in which the subjects that follow in order are held out."""
        everyone, who = self.names, np.array(self.who)
        found = []
        for task in super().tasks(names, seed):
            at = everyone.index(task.name)
            count = max(1, round(self.share * (len(everyone) - 1)))
            held = np.isin(who, [everyone[(at + 1 + j) % len(everyone)] for j in range(count)])
            train, validation = task.train[~held[task.train]], np.flatnonzero(held)
            found.append(dataclasses.replace(task, train=train, validation=validation))
        return found


def corpus(session: Session) -> HeldOut:
    count, subjects = session.pick((CLIPS, SUBJECTS), (12, 3))
    size = knobs(session)["size"]
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, CLASSES, count))
    who = sorted(f"s{i:02d}" for i in np.arange(count) % subjects)
    ids = [f"noise/{s}/{i:03d}" for i, s in enumerate(who)]
    return HeldOut(inputs.to(session.device), labels.to(session.device), ids, ["noise"] * count, who)


def build(session: Session):
    return functools.partial(models.build, "dcma", CLASSES, start="random", **knobs(session))


def plan(epochs: int, *, half: bool) -> TrainingPlan:
    recipe = Recipe.of(dcma.RECIPE, {"epochs": epochs})
    return TrainingPlan(schedule=recipe.rates(), batch_size=recipe.batch_size, optimizer=recipe.optimizer, bf16=half)


def epochs_of(session: Session) -> int:
    return session.pick(dcma.RECIPE["epochs"], 2)


def whole(session: Session, clips: HeldOut, names: list[str]) -> dict:
    """All epochs of some folds, in bf16."""
    tasks, epochs, result = clips.tasks(names, 0), epochs_of(session), {}
    start = time.perf_counter()
    with peak_memory(session.device, result):
        _, together = folds.train(tasks, clips, build(session), plan(epochs, half=True))
        synchronize(session.device)
    seconds = time.perf_counter() - start
    return result | {
        "folds": len(tasks), "together": together, "epochs": epochs, "seconds": rounded(seconds),
        "seconds_per_fold_epoch": rounded(seconds / len(tasks) / epochs),
    }  # fmt: skip


def measure(line: Line) -> dict:
    session = line.session
    need = functools.partial(session.pick, tiny=1)
    for batch in session.pick(BATCHES, (2,)):
        for variant in session.pick(VARIANTS, VARIANTS[:2]):  # to compile takes a minute
            work = functools.partial(speed, session, batch, variant)
            line.part(f"batch {batch}, {variant}", work, need(120 if variant == "compiled" else 30))
    clips = corpus(session)
    everyone, epochs = len(clips.names), epochs_of(session)
    for half in (False, True):
        for together in session.pick((1, 8, 34, everyone), (1, everyone)):
            how = functools.partial(plan, half=half)
            work = functools.partial(folds.per_fold_epoch, session, clips, build(session), how, together)
            line.part(f"folds, {together} together, {'bf16' if half else 'float32'}", work, need(30))
    ours = line.result(f"folds, {everyone} together, bf16")
    if ours is not None and "not_possible" not in ours:
        expected = ours["seconds_per_fold_epoch"] * epochs  # of a fold
        for some in folds.groups(line, clips.names, expected * everyone):
            what = f"{epochs} epochs" + (f", {some[0]} to {some[-1]}" * (len(some) < everyone))
            line.part(what, functools.partial(whole, session, clips, some), 1.2 * expected * len(some) + need(10))
    return summary(line, everyone)


def summary(line: Line, everyone: int) -> dict:
    """Times as fast as the peer, of the fastest form of all batches; minutes of all folds."""
    found: dict = {"goal": GOAL}
    done = [part["result"] for name, part in line.parts.items() if name.startswith("batch")]
    done = [one for one in done if "not_possible" not in one]
    for kind in ("training", "inference"):
        beside = {one["batch"]: one[kind]["faces_per_s"]["plain"] for one in done if one["variant"] == "TF32"}
        best: dict[str, tuple] = {}
        for one in done:
            if one["variant"] == "TF32":
                continue
            for form, times in one[kind]["times_as_fast"].items():
                rate = one[kind]["faces_per_s"][form]
                if form != "plain" and times > best.get(form, (0,))[0]:
                    peer = beside.get(one["batch"])
                    best[form] = times, rate, one["batch"], rounded(rate / peer, 3) if peer else None
        names = ("times_as_fast", "faces_per_s", "batch", "times_as_fast_as_peer_with_tf32")
        found[kind] = {form: dict(zip(names, values, strict=True)) for form, values in best.items()}
    if done:
        reached = {
            k: max((form["times_as_fast"] for form in found[k].values()), default=0) for k in found if k != "goal"
        }
        found |= {"times_as_fast": reached, "reached": min(reached.values()) >= GOAL}
    parts = {name: part["result"] for name, part in line.parts.items()}
    trained = [one for name, one in parts.items() if " epochs" in name]
    if sum(one["folds"] for one in trained) == everyone:
        found["minutes_for_all_folds"] = rounded(sum(one["seconds"] for one in trained) / 60)
    single, together = (parts.get(f"folds, {k} together, bf16", {}) for k in (1, everyone))
    if "seconds_per_fold_epoch" in single and "seconds_per_fold_epoch" in together:
        ratio = single["seconds_per_fold_epoch"] / together["seconds_per_fold_epoch"]
        found["times_as_fast_as_fold_by_fold"] = rounded(ratio, 3)
    return found
