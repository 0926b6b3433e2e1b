"""Line 4: Micron-BERT at the paper's size, 224 px, patches of 8, d 512, 4 + 4 layers.

`step`: pairs a second, memory and utilisation of a pretraining step in bf16, of every form of benchmarks.micronbert and
for several batches; a pair is two images. Utilisation is what the network computes forward and backward, without what
`checkpointing` computes again, by the device's peak, which the goal is of; `of_matmul` is the share of what a matrix
product reaches. `loader`: random shards, in the system's memory, read alone and while the network trains on them.

`pretraining`: a short one on moving textures (benchmarks.gpu._people), by the task itself, which goes on from its
checkpoint in `--out`. Its shards, 3.7 GB in line_4_frames, are rendered again where they are missing. `restored`: error
of the swapped patches and of the others, and how often a patch has a lower diagonal when it is swapped than when it is
not, on people who were not trained on; beside the weights at the start.

`fine-tuning`: leave-one-subject-out recognition of CASME II's numbers on other people, rendered alike, from those
weights, from random ones, and from those weights with shuffled labels; a part for as many folds as half a call trains.
"""

import functools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import micronbert as bench
from benchmarks.gpu import _people, folds
from benchmarks.gpu._clips import Clips
from benchmarks.gpu._run import Line, Session, keep_weights, peak_memory, rounded, steps_done, synchronize
from benchmarks.gpu.msmmt import PEAKS
from mer import models
from mer.errors import MerError
from mer.evaluation import restored as evaluation
from mer.loso.loop import train_folds
from mer.loso.recipe import Recipe
from mer.loso.task import TrainingPlan
from mer.models import micronbert
from mer.pretraining import frame_pairs
from mer.pretraining.distributed import World
from mer.storage.shards import Shards

NUMBER, TITLE = 4, "Micron-BERT"
GOAL, LOADER_GOAL = 0.45, 1.5  # of the device's peak in bfloat16; times as fast as the step
BATCHES = (16, 32, 64, 128, 256)  # pairs
FRAMES = 4096  # of the loader's shards
READERS = frame_pairs.AHEAD + 1  # threads of the task
SMALLEST = {"size": 32, "width": 16, "layers": 1, "heads": 2, "widen": 2}  # --tiny
FOLDER = "line_4_frames"
GAP = (5, 11)  # frames
PEOPLE = {"people": 64, "clips": 16, "frames": 24, "kept_back": 8}
PLAN = {"epochs": 20, "global_batch": 128, "lr": 3e-4, "weight_decay": 0.05}
TINY = {"people": 3, "clips": 1, "frames": 12, "kept_back": 1, "epochs": 1, "global_batch": 4, "lr": 1e-3,
        "weight_decay": 0.05}  # fmt: skip
BLOCKS = {"ratio": micronbert.RATIO, "min_block": micronbert.MIN_BLOCK, "min_aspect": micronbert.MIN_ASPECT,
          "count": "once"}  # fmt: skip
LOSS = {"gamma": 1.0, "beta": 1.0, "agreement": "mse", "crop_area": (0.4, 1.0), "target": "imagenet"}
MOST, AT_ONCE = 256, 32  # pairs that `restored` is of, and of a batch
POINTS = 40  # of the loss curve
CLIPS, SUBJECTS, CLASSES = 246, 26, len(_people.EMOTIONS)
STARTS = {"pretrained": (True, False), "random": (False, False), "shuffled labels": (True, True)}


def settings(session: Session) -> dict:
    return plan(session)


def plan(session: Session) -> dict:
    return session.pick({**PEOPLE, **PLAN}, TINY)


def knobs(session: Session) -> dict:
    return session.pick(bench.PAPER, SMALLEST)


def blocks(session: Session) -> dict:
    return BLOCKS | session.pick({}, {"min_block": 2})


# ---- speed ----------------------------------------------------------------------------------------------------------


def made(session: Session, batch: int, folder: Path | None = None) -> bench.Bench:
    return bench.Bench(
        knobs(session), batch=batch, device=session.device.type, half=True, folder=folder,
        frames=session.pick(FRAMES, 256),
    )  # fmt: skip


def step(session: Session, form: str, batch: int) -> dict:
    """Median seconds of a step, its memory, and the shares of the peak and of a matrix product."""
    result: dict = {"form": form, "batch": batch, "precision": "bf16", **knobs(session)}
    try:
        with peak_memory(session.device, result):
            one = made(session, batch)
            one.form(form)  # the first one chooses algorithms
            seconds = statistics.median(one.form(form) for _ in range(session.pick(10, 1)))
        one.optimizer.zero_grad()
        rate, product = bench.operations(one) / seconds, bench.matmul_rate(one, session.pick(None, 64))
    except torch.cuda.OutOfMemoryError:
        return result | {"not_possible": "does not fit into the memory"}
    on_gpu = session.device.type == "cuda"
    peak = next((v for k, v in PEAKS.items() if on_gpu and k in torch.cuda.get_device_name()), None)
    return result | {
        "seconds": rounded(seconds), "pairs_per_s": rounded(batch / seconds),
        "images_per_s": rounded(2 * batch / seconds), "tera_operations_per_s": rounded(rate / 1e12),
        "utilisation": rounded(rate / peak, 3) if peak else None, "of_matmul": rounded(rate / product, 3),
    }  # fmt: skip


def loader(session: Session, batch: int, readers: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        one = made(session, batch, Path(folder))
        found = bench.loader(one, readers, session.pick(30, 2))
    return {"batch": batch, "readers": readers, **found}


# ---- pretraining ----------------------------------------------------------------------------------------------------


def network(session: Session) -> micronbert.Autoencoder:
    """With the weights at the start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return micronbert.build_pretrained(**knobs(session))


def shards(session: Session) -> tuple[Shards, Shards]:
    """Of those who are trained on, and of those who are kept back."""
    how, folder = plan(session), session.out / FOLDER
    given = {name: how[name] for name in ("people", "clips", "frames")}
    people = _people.write_shards(folder, **given, size=knobs(session)["size"], workers=session.pick(-1, 1))
    back = people[-how["kept_back"] :]
    return Shards(folder, exclude=back), Shards(folder, exclude=[name for name in people if name not in back])


def pretrain(line: Line) -> dict:
    """To the last step, or until the time is over; seconds are those of all calls, without rendering."""
    session, how = line.session, plan(line.session)
    pairs = frame_pairs.Pairs(shards(session)[0], GAP, "frames", 0)
    checkpoint, weights = session.out / "line_4_checkpoint.pt", session.out / "line_4_micronbert.pth"
    start, before = time.monotonic(), line.progress.get("training_seconds", 0)
    try:
        trained, log = frame_pairs.train(
            network(session), pairs, **blocks(session), **LOSS, **{name: how[name] for name in PLAN}, bf16=True,
            world=World(device=session.device.type), checkpoint=checkpoint,
        )  # fmt: skip
    finally:
        line.progress["training_seconds"] = round(before + time.monotonic() - start, 1)
        line.progress["training_steps"] = steps_done(checkpoint)
    keep_weights(weights, trained)
    checkpoint.unlink()  # a finished training needs no second 300 MB
    seconds, steps = max(line.progress["training_seconds"], 0.1), line.progress["training_steps"]
    points = [[float(value) for value in text.split()] for text in log]
    return {
        **how, "pairs": len(pairs), "steps": steps, "weights": weights.name, "minutes": rounded(seconds / 60),
        "pairs_per_s": rounded(steps * how["global_batch"] / seconds),
        "loss": points[-1 :: -max(1, -(-len(points) // POINTS))][::-1],
        "loss_columns": ["step", "total", "reconstruction", "agreement"],
    }  # fmt: skip


def weights_of(session: Session) -> Path:
    """What `pretrain` wrote. Raises MerError where it is gone."""
    path = session.out / "line_4_micronbert.pth"
    if not path.is_file():
        raise MerError(f"{path}: is not there; put it back, or take part pretraining out of line_4.json to train again")
    return path


@torch.no_grad()
def numbers(session: Session, autoencoder: micronbert.Autoencoder, pairs: frame_pairs.Pairs) -> dict:
    """See mer.evaluation.restored.numbers."""
    autoencoder = autoencoder.to(session.device).eval()
    count = min(session.pick(MOST, 8), len(pairs))
    kept: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, AT_ONCE):
        rows = slice(start, min(count, start + AT_ONCE))
        frames = torch.from_numpy(pairs.read(0, count, rows)).to(session.device)
        first, other, cells, _ = frame_pairs.prepared(
            autoencoder, frames, 0, count, rows, seed=1, crop_area=None, **blocks(session)
        )  # fmt: skip
        found = autoencoder(first, other, cells)
        wanted, copied = (autoencoder.wanted(images, LOSS["target"]) for images in (first, other))
        made = {
            "errors": (found.patches.float() - wanted).square().mean(-1), "copied": (copied - wanted).square().mean(-1),
            "cells": cells, "one": found.diagonal, "two": autoencoder(first, other, ~cells).diagonal,
            "contexts": autoencoder.backbone.contexts(other),
        }  # fmt: skip
        for name, value in made.items():
            kept.setdefault(name, []).append(value.cpu().numpy())
    one = {name: np.concatenate(values) for name, values in kept.items()}
    return evaluation.numbers(one["errors"], one["copied"], one["cells"], (one["one"], one["two"]), one["contexts"])


def restored(session: Session) -> dict:
    pairs = frame_pairs.Pairs(shards(session)[1], GAP, "frames", 1)
    trained = micronbert.load_user_weights(weights_of(session), **knobs(session))
    found = {"start": numbers(session, network(session), pairs), "trained": numbers(session, trained, pairs)}
    shutil.rmtree(session.out / FOLDER)  # several GB that nothing needs any more
    return found


# ---- fine-tuning ----------------------------------------------------------------------------------------------------


def corpus(session: Session) -> Clips:
    """inputs (N, 2, size, size, 3) uint8."""
    clips, subjects = session.pick((CLIPS, SUBJECTS), (9, 3))
    inputs, labels, who = _people.labelled(clips, subjects, knobs(session)["size"], session.pick(-1, 1))
    names = [f"s{n:02d}" for n in who]
    ids = [f"textures/{name}/{i:03d}" for i, name in enumerate(names)]
    to = session.device
    return Clips(torch.from_numpy(inputs).to(to), torch.from_numpy(labels).to(to), ids, ["textures"] * clips, names)


def builder(session: Session, pretrained: bool) -> Callable[[], micronbert.MicronBERT]:
    build = functools.partial(models.build, "micronbert", CLASSES, start="random", **knobs(session))
    if not pretrained:
        return build
    state = micronbert.load_weights(build(), weights_of(session)).backbone.state_dict()

    def filled() -> micronbert.MicronBERT:
        made = build()
        made.backbone.load_state_dict(state)
        return made

    return filled


def recognition(epochs: int) -> TrainingPlan:
    recipe = Recipe.of(micronbert.RECIPE, {"epochs": epochs})
    return TrainingPlan(
        schedule=recipe.rates(), batch_size=recipe.batch_size, optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay, bf16=True,
    )  # fmt: skip


def epoch(session: Session, corpus: Callable[[], Clips]) -> dict:
    """Seconds an epoch of a fold."""
    return folds.per_fold_epoch(session, corpus(), builder(session, False), recognition, 1)


def fine_tuned(session: Session, corpus: Callable[[], Clips], start: str, names: list[str]) -> dict:
    """Folds one after another, each by the kernels of a whole device: what was found of their test clips."""
    clips, (pretrained, shuffled) = corpus(), STARTS[start]
    epochs, result = session.pick(micronbert.RECIPE["epochs"], 1), {}
    labels = clips.labels
    if shuffled:
        order = np.random.default_rng(0).permutation(len(labels))
        labels = labels[torch.from_numpy(order).to(labels.device)]
    tasks = clips.tasks(names, 0)
    begun = time.perf_counter()
    with peak_memory(session.device, result):
        outcomes = train_folds(
            tasks, clips.inputs, labels, builder(session, pretrained), recognition(epochs), ids=clips.ids,
            in_parallel=False,
        )  # fmt: skip
        synchronize(session.device)
    found = [outcome.probability.argmax(1) for outcome in outcomes if outcome.probability is not None]
    rows = np.concatenate([task.test for task in tasks])
    return result | {
        "start": start, "folds": len(tasks), "epochs": epochs, "minutes": rounded((time.perf_counter() - begun) / 60),
        "clips": rows.tolist(), "label": labels.cpu().numpy()[rows].tolist(), "found": np.concatenate(found).tolist(),
    }  # fmt: skip


def scores(label: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
    """UF1, UAR and accuracy, as mer.evaluation.metrics, which needs pandas; None where it is not defined."""
    table = np.zeros((CLASSES, CLASSES), int)
    np.add.at(table, (label, found), 1)
    hits, there, told = np.diag(table), table.sum(1), table.sum(0)
    return {
        "uf1": rounded((2 * hits / (there + told)).mean()) if (there + told).all() else None,
        "uar": rounded((hits / there).mean()) if there.all() else None,
        "accuracy": rounded(hits.sum() / len(label)),
    }


def measure(line: Line) -> dict:
    session = line.session
    need = functools.partial(session.pick, tiny=1)
    for batch in session.pick(BATCHES, (2,)):
        for form in bench.FORMS:
            line.part(f"step, {form}, batch {batch}", functools.partial(step, session, form, batch), need(30))
    best = fastest(line)
    if best is not None:
        for readers in (1, READERS):
            work = functools.partial(loader, session, best["batch"], readers)
            line.part(f"loader, {readers} readers", work, need(60))
    trained = line.part("pretraining", functools.partial(pretrain, line), need(90))
    if trained is not None:
        line.part("restored", functools.partial(restored, session), need(60))
        clips = functools.cache(functools.partial(corpus, session))  # rendered where a part is left that needs it
        one = line.part("fine-tuning, an epoch", functools.partial(epoch, session, clips), need(60))
        if one is not None:
            tune(line, clips, one["seconds_per_fold_epoch"])
    else:
        done = line.progress.get("training_steps", 0)
        line.left["restored, fine-tuning"] = f"the pretraining has {done} steps behind it"
    return summary(line)


def tune(line: Line, clips: Callable[[], Clips], seconds: float) -> None:
    """The parts of fine-tuning; seconds: of a fold and epoch."""
    session = line.session
    names = [f"textures/s{n:02d}" for n in range(session.pick(SUBJECTS, 3))]
    expected = seconds * session.pick(micronbert.RECIPE["epochs"], 1)  # of a fold
    for start in STARTS:
        for some in folds.groups(line, names, expected * len(names)):
            what = f"fine-tuning, {start}" + f", {some[0]} to {some[-1]}" * (len(some) < len(names))
            work = functools.partial(fine_tuned, session, clips, start, some)
            line.part(what, work, 1.2 * expected * len(some) + session.pick(20, 1))


# ---- summary --------------------------------------------------------------------------------------------------------


def fastest(line: Line) -> dict | None:
    """The `fused` step with the most pairs a second."""
    done = [part["result"] for name, part in line.parts.items() if name.startswith("step, fused")]
    return max((one for one in done if "not_possible" not in one), key=lambda one: one["pairs_per_s"], default=None)


def summary(line: Line) -> dict:
    best, found = fastest(line), {"goal": GOAL, "loader_goal": LOADER_GOAL}
    if best is not None:
        names = ("batch", "pairs_per_s", "images_per_s", "utilisation", "of_matmul")
        found |= {name: best[name] for name in names} | {"paper": bench.paper(best["pairs_per_s"])}
        found["reached"] = (best["utilisation"] or 0) >= GOAL
        rates = {}
        for form in bench.FORMS:
            one = line.result(f"step, {form}, batch {best['batch']}")
            if one and "not_possible" not in one:
                rates[form] = rounded(one["pairs_per_s"] / best["pairs_per_s"], 3)
        found["times_as_fast_as_fused"] = rates
        read = line.result(f"loader, {READERS} readers")
        if read:
            times = read["pairs_per_s"] / best["pairs_per_s"]
            together = read["together_pairs_per_s"] / best["pairs_per_s"]
            found |= {"loader_times_the_step": rounded(times, 3), "loader_reached": times >= LOADER_GOAL,
                      "together_of_the_step": rounded(together, 3)}  # fmt: skip
    if line.result("pretraining"):
        found["loss"] = line.result("pretraining")["loss"][-1]
    if line.result("restored"):
        found["swapped_lower"] = {name: one["swapped_lower"] for name, one in line.result("restored").items()}
    tuned = [
        part["result"]
        for name, part in line.parts.items()
        if name.startswith("fine-tuning") and "start" in part["result"]  # the part of an epoch has none
    ]
    for start in STARTS:
        some = [one for one in tuned if one["start"] == start]
        if sum(one["folds"] for one in some) == line.session.pick(SUBJECTS, 3):
            told = (np.concatenate([one[name] for one in some]) for name in ("label", "found"))
            found.setdefault("recognition", {"chance": rounded(1 / CLASSES)})[start] = scores(*told)
    return found
