"""Line 3: leave-one-subject-out training, folds side by side against fold by fold.

68 folds over the 442 clips of the MEGC 2019 flow release (`--flow`), else over noise of that size; STSTNet as released:
800 epochs of Adam at 5e-5, batches of 256. The peer is benchmarks/_fold_by_fold.py, whose DataLoader is given the clips
once on the host, as the released code has them, and once on the device; the faster counts. Ours audits, as the peer
does: a pass over the test clips after each epoch. Seconds a fold and epoch leave out what is done once: building the
networks and, of ours, the first epoch and the last test.

The whole training is done and timed, a part for each seed. Its predictions, and with the audit what choosing the epoch
on the test clips would have claimed (selection test_best), are in line_3_predictions.csv, a row a seed, selection and
clip, as mer.loso.run.run has them.
"""

import csv
import functools
import io
import math
import statistics
import time
from unittest import mock

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks import _fold_by_fold as peer
from benchmarks.gpu._clips import Clips, load
from benchmarks.gpu._run import Line, Session, peak_memory, rounded, synchronize
from benchmarks.loso import Transformer, _outside
from mer import models
from mer.loso.loop import Outcome, train_folds
from mer.loso.memory import folds_that_fit
from mer.loso.optim import Schedule
from mer.loso.stacked_folds import vmap_obstacle
from mer.loso.task import Task, TrainingPlan
from mer.storage.files import replace_file

NUMBER, TITLE = 3, "LOSO engine"
GOAL = 20  # times faster than fold by fold
LR, BATCH, EPOCHS = 5e-5, 256, 800
SEEDS = (0, 1, 2)
COLUMNS = ("seed", "selection", "epoch", "id", "corpus", "subject", "fold", "label", "p0", "p1", "p2")
build_ststnet = functools.partial(models.build, "ststnet", 3)


def settings(session: Session) -> dict:
    return {"data": "synthetic" if session.flow is None else "megc2019_flow"}


def plan(
    epochs: int, *, batch_size: int = BATCH, lr: float = LR, audit: bool = False, half: bool = False
) -> TrainingPlan:
    return TrainingPlan(schedule=Schedule(lr=lr, epochs=epochs), batch_size=batch_size, audit=audit, bf16=half)


# ---- seconds a fold and epoch ---------------------------------------------------------------------------------------


def per_epoch(device: torch.device, work, epochs: int) -> float:
    """Seconds an epoch of `work(epochs)`, by the difference to one of a single epoch; the median of three."""

    def took(count: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        work(count)
        synchronize(device)
        return time.perf_counter() - start

    took(1)
    seconds = [(took(1 + epochs) - took(1)) / epochs for _ in range(3)]
    return max(statistics.median(seconds), 1e-9)


class Moving(DataLoader):
    """As the released code: batches go to the device one by one."""

    device = torch.device("cpu")

    def __iter__(self):
        for batch in super().__iter__():
            yield [part.to(self.device) for part in batch]


def fold_by_fold(session: Session, clips: Clips, on: str) -> dict:
    """The peer. on: where its DataLoader finds the clips, `host` or `device`."""
    place = "cpu" if on == "host" else session.device
    inputs, labels = clips.inputs.to(place), clips.labels.to(place)
    tasks = clips.tasks(clips.names[: session.pick(3, 1)], 0)
    loader = type("Loader", (Moving,), {"device": session.device}) if on == "host" else DataLoader
    seconds = []
    for task in tasks:
        test = torch.zeros(len(labels), dtype=torch.bool, device=place)
        test[torch.from_numpy(task.test).to(place)] = True

        def train(epochs: int, test=test) -> None:
            network = peer.TripleStream(3).to(session.device)
            with mock.patch.object(peer, "DataLoader", loader):
                peer.train_fold(inputs, labels, test, epochs=epochs, network=network)

        seconds.append(per_epoch(session.device, train, session.pick(10, 1)))
    return {"seconds_per_fold_epoch": rounded(statistics.median(seconds)), "folds": len(tasks)}


def side_by_side(session: Session, clips: Clips, model: str, together: int, *, audit=False, half=False) -> dict:
    """One line of the table."""
    width = session.pick(384, 12)
    build = build_ststnet if model == "ststnet" else functools.partial(Transformer, width=width)
    batch_size = BATCH if model == "ststnet" else 32
    how = functools.partial(plan, batch_size=batch_size, lr=LR if model == "ststnet" else 1e-4, audit=audit, half=half)
    return {"model": model, "audit": audit} | per_fold_epoch(session, clips, build, how, together)


def per_fold_epoch(session: Session, clips: Clips, build, how, together: int) -> dict:
    """Seconds of a training of `together` folds, or of as many as fit. how: number of epochs -> TrainingPlan."""
    reason = vmap_obstacle(build, clips.inputs, how(1)) if together > 1 else None
    if reason is not None:
        return {"together": together, "not_possible": reason}
    if session.device.type == "cuda":
        together = min(together, folds_that_fit(build, clips.inputs, clips.labels, how(1)))
    while True:
        result = {"together": together, "precision": "bf16" if how(1).bf16 else "float32"}
        try:
            with peak_memory(session.device, result):
                seconds = epoch_of(session, clips, build, how, together) / together
            return result | {"seconds_per_fold_epoch": rounded(seconds)}
        except torch.cuda.OutOfMemoryError:
            if together == 1:
                raise
        together = (together + 1) // 2
        torch.cuda.empty_cache()


def epoch_of(session: Session, clips: Clips, build, how, together: int) -> float:
    """Median seconds of the epochs after the first, of one training."""
    ticks = []

    def tick(_loss: float) -> None:
        synchronize(session.device)
        ticks.append(time.perf_counter())

    tasks, count = clips.tasks(clips.names[:together], 0), session.pick(10 if build is build_ststnet else 3, 1)
    train_folds(tasks, clips.inputs, clips.labels, build, how(1 + count), ids=clips.ids, after_epoch=tick)
    return statistics.median(np.diff(ticks).tolist())


def idle(session: Session, clips: Clips) -> dict:
    """Share of an epoch of all folds side by side in which no kernel runs; of a CPU, that no operator takes."""
    tasks = clips.tasks(clips.names, 0)

    def work() -> float:
        start = time.perf_counter()
        train_folds(tasks, clips.inputs, clips.labels, build_ststnet, plan(2), ids=clips.ids)
        synchronize(session.device)
        return time.perf_counter() - start

    work()
    return {"share": rounded(_outside(work, session.device.type), 3)}


# ---- the whole training ---------------------------------------------------------------------------------------------


def train(tasks: list[Task], clips: Clips, build, how: TrainingPlan) -> tuple[list[Outcome], int]:
    """Outcomes, and the most folds that were trained side by side."""
    try:
        return train_folds(tasks, clips.inputs, clips.labels, build, how, ids=clips.ids), len(tasks)
    except torch.cuda.OutOfMemoryError:
        if len(tasks) == 1:
            raise
    half = (len(tasks) + 1) // 2
    torch.cuda.empty_cache()
    (some, most), (others, _) = (train(part, clips, build, how) for part in (tasks[:half], tasks[half:]))
    return [*some, *others], most


def whole(session: Session, clips: Clips, seed: int, names: list[str]) -> dict:
    """All epochs of some folds; their predictions go to the CSV before the part counts as finished."""
    tasks, epochs, result = clips.tasks(names, seed), session.pick(EPOCHS, 2), {}
    start = time.perf_counter()
    with peak_memory(session.device, result):
        outcomes, together = train(tasks, clips, build_ststnet, plan(epochs, audit=True))
        synchronize(session.device)
    seconds = time.perf_counter() - start
    rows = []
    for task, outcome in zip(tasks, outcomes, strict=True):
        kinds = (("last_epoch", outcome.chosen, outcome.probability), ("test_best", outcome.audit_epoch, outcome.audit))
        for selection, epoch, probability in kinds:
            for i, p in zip(task.test, probability, strict=True):
                clip = [clips.ids[i], clips.corpora[i], clips.subjects[i], task.name, int(clips.labels[i])]
                rows.append([str(x) for x in (seed, selection, epoch, *clip, *map(float, p))])
    keep(session, rows)
    return result | {
        "seed": seed, "folds": len(tasks), "together": together, "epochs": epochs, "seconds": rounded(seconds),
        "seconds_per_fold_epoch": rounded(seconds / len(tasks) / epochs),
    }  # fmt: skip


def predictions(session: Session):
    """Path of the CSV and its rows."""
    path = session.out / "line_3_predictions.csv"
    if not path.is_file():
        return path, []
    with path.open(newline="") as file:
        return path, list(csv.reader(file))[1:]


def keep(session: Session, rows: list[list[str]]) -> None:
    """Put rows into the CSV, in place of those of the same seed and fold."""
    path, kept = predictions(session)
    seed, fold = COLUMNS.index("seed"), COLUMNS.index("fold")
    fresh = {(row[seed], row[fold]) for row in rows}
    rows = [*(row for row in kept if (row[seed], row[fold]) not in fresh), *rows]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *sorted(rows, key=lambda row: (int(row[0]), row[1:4]))])
    replace_file(path, text.getvalue().encode())


def scores(session: Session, seeds) -> dict:
    """UF1 and UAR of every seed, as they are and as the leak would have claimed them."""
    from mer.corpora.megc2019_flow import NAMES
    from mer.evaluation.metrics import score

    _, rows = predictions(session)
    found = {}
    for selection in ("last_epoch", "test_best"):
        runs = []
        for seed in seeds:
            some = [row for row in rows if row[0] == str(seed) and row[1] == selection]
            label, probability = [int(row[7]) for row in some], np.array([row[8:] for row in some], dtype=float)
            runs.append(score(label, probability.argmax(1), NAMES))
        found[selection] = {
            key: {"mean": rounded(statistics.mean(run[key] for run in runs)), "runs": [rounded(r[key]) for r in runs]}
            for key in ("uf1", "uar")
        }
    leak = {key: rounded(found["test_best"][key]["mean"] - found["last_epoch"][key]["mean"]) for key in ("uf1", "uar")}
    return {"clips": sum(row[:2] == ["0", "last_epoch"] for row in rows), **found, "leak": leak}


def groups(line: Line, names: list[str], seconds: float) -> list[list[str]]:
    """The folds of a part: all, or as many as are trained in half a call. Kept, since rounding knows the grouping."""
    size = line.progress.get("folds_a_part")
    if size is None:
        share = 0.5 * 60 * line.session.minutes / max(seconds, 1e-9)
        size = line.progress["folds_a_part"] = math.ceil(len(names) / max(1, math.ceil(1 / share)))
    return [names[k : k + size] for k in range(0, len(names), size)]


def measure(line: Line) -> dict:
    session = line.session
    clips = load(session)
    everyone, need = len(clips.names), functools.partial(session.pick, tiny=1)
    peers = [
        line.part(f"fold by fold, clips on the {on}", functools.partial(fold_by_fold, session, clips, on), need(30))
        for on in ("host", "device")
    ]
    for together in session.pick((1, 8, 34, everyone), (1, 2)):
        work = functools.partial(side_by_side, session, clips, "ststnet", together)
        line.part(f"ststnet, {together} together", work, need(20))
    ours = line.part(
        "ststnet, all together, audited",
        functools.partial(side_by_side, session, clips, "ststnet", everyone, audit=True), need(20),
    )  # fmt: skip
    seeds, epochs = SEEDS if session.flow is not None else session.pick(SEEDS[:1], SEEDS[:2]), session.pick(EPOCHS, 2)
    if ours is not None and "not_possible" not in ours:
        expected = ours["seconds_per_fold_epoch"] * epochs  # of a fold
        for seed in seeds:
            for some in groups(line, clips.names, expected * everyone):
                what = f"{epochs} epochs, seed {seed}" + (f", {some[0]} to {some[-1]}" * (len(some) < everyone))
                work = functools.partial(whole, session, clips, seed, some)
                line.part(what, work, 1.2 * expected * len(some) + need(10))
    done = [part["result"] for name, part in line.parts.items() if name.startswith(f"{epochs} epochs")]
    if session.flow is not None and sum(d["folds"] for d in done) == everyone * len(seeds):
        line.part("scores", functools.partial(scores, session, seeds), need(5))
    for half in (False, True):
        for together in session.pick((1, 8, everyone), (2,)):
            name = f"transformer, {together} together" + ", bf16" * half
            work = functools.partial(side_by_side, session, clips, "transformer", together, half=half)
            line.part(name, work, need(60))
    line.part("idle", functools.partial(idle, session, clips), need(30))
    return summary(line, peers, ours, done, everyone)


def summary(line: Line, peers: list, ours: dict | None, done: list[dict], everyone: int) -> dict:
    """Times faster: of epochs, and of the whole training against the peer's by proportion."""
    found: dict = {"goal": GOAL}
    all_epochs = everyone * EPOCHS / 60  # seconds a fold and epoch to minutes
    theirs = min((p["seconds_per_fold_epoch"] for p in peers if p), default=None)
    mine = statistics.mean(d["seconds_per_fold_epoch"] for d in done) if done else None
    if mine is not None:
        found["minutes_for_all"] = rounded(mine * all_epochs)
    if theirs is not None:
        found["fold_by_fold_minutes_for_all"] = rounded(theirs * all_epochs)
        if ours and "not_possible" not in ours:
            found["times_faster_by_epoch"] = rounded(theirs / ours["seconds_per_fold_epoch"], 3)
        if mine is not None:
            found |= {"times_faster": rounded(theirs / mine, 3), "reached": theirs / mine >= GOAL}
    return found | ({"scores": line.result("scores")} if line.result("scores") else {})
