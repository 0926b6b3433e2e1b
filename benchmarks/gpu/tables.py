"""Line 10: what the tables of each paper cost on one GPU, in minutes and memory.

A cell is an experiment of the paper's preset (cells.json, made by benchmarks.cells): leave one subject out, with its
knobs, its recipe and its seeds. Each network is trained for a few epochs on noise of its input's size and CASME II's
numbers, fold by fold, and where a step is short also with as many folds in parallel as fit; the faster way counts. Its
seconds a fold and step (with the validation's share, where a recipe has one), times steps, epochs, subjects and seeds,
are those of a cell. That is the most: a recipe may stop earlier.

Trainings of the folds alone are counted. Products are computed once a corpus and pretraining once a table: lines 2, 4,
6 and 8 measure these.
"""

import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import dcma, folds, micronbert, msmmt, uamrn
from benchmarks.gpu._run import Line, Session, rounded
from mer import models
from mer.loso.augmentation import of_model
from mer.loso.recipe import Recipe
from mer.loso.task import TrainingPlan, cross_entropy
from mer.products import Product, named_factors

NUMBER, TITLE = 10, "the papers' tables"
CLIPS, SUBJECTS = 246, 26  # CASME II
AT_ONCE = 26  # folds in parallel, at most
FILLED = 0.05  # s: a single fold's step that takes so long fills the GPU, and others beside it gain nothing
WIDTHS = {"layer1": 64, "layer2": 128, "layer3": 256}  # channels of a ResNet-18
TINY = {
    "ststnet": {}, "dcma": dcma.TINY, "micronbert": micronbert.SMALLEST,
    "msmmt": {name: value for name, value in msmmt.TINY.items() if name != "batch"},
    "uamrn": uamrn.TINY,
}  # fmt: skip


def tables() -> dict[str, list[dict[str, Any]]]:
    return json.loads(Path(__file__).with_name("cells.json").read_text(encoding="utf-8"))


def key(cell: dict[str, Any]) -> str:
    """Cells with the same key take the same time a step; the first of them names the part."""
    return json.dumps([cell["model"], cell["knobs"], cell["recipe"]], sort_keys=True)


def product(one: Product, knobs: dict[str, Any], count: int) -> np.ndarray:
    """Noise of a product's form, `count` clips."""
    rng, size = np.random.default_rng(0), int(re.findall(r"\d+", one.crop)[-1])
    if one.kind == "embedding":
        length = len(named_factors(knobs["factors"]))
        return rng.normal(size=(count, length, WIDTHS[knobs["tap"]] * knobs["grid"] ** 2)).astype(np.float32)
    if one.kind == "flow":
        return rng.standard_normal((count, 3, size, size), np.float32)
    shape = {"dynamic_image": (size, size, 3), "apex_frame": (size, size, 3), "pair": (2, size, size, 3)}[one.kind]
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8)


def corpus(session: Session, cell: dict[str, Any], knobs: dict[str, Any]) -> dcma.HeldOut:
    """What goes into the network, for clips of CASME II's numbers."""
    spec, (count, subjects) = models.load(cell["model"]), session.pick((CLIPS, SUBJECTS), (12, 3))
    arrays = [product(one, knobs, count) for one in spec.reads(knobs) if isinstance(one, Product)]
    inputs = torch.from_numpy(np.ascontiguousarray(spec.prepared(arrays, knobs)))
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, cell["classes"], count))
    who = sorted(f"s{i:02d}" for i in np.arange(count) % subjects)
    ids = [f"noise/{s}/{i:03d}" for i, s in enumerate(who)]
    to = session.device
    return dcma.HeldOut(inputs.to(to), labels.to(to), ids, ["noise"] * count, who, share=cell["held_out"])


def plan(cell: dict[str, Any], epochs: int, *, on_gpu: bool) -> TrainingPlan:
    """As mer.loso.networks makes it, without early stopping."""
    recipe, spec = Recipe(**{**cell["recipe"], "epochs": epochs, "warmup": 0}), models.load(cell["model"])
    return TrainingPlan(
        schedule=recipe.rates(), batch_size=recipe.batch_size, optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay, augment=of_model(spec, recipe), loss=spec.loss or cross_entropy,
        best=cell["selection"] == "inner_val", bf16=recipe.bf16 and on_gpu, compiled=recipe.compiled,
    )  # fmt: skip


def measured(session: Session, cell: dict[str, Any], together: int) -> dict[str, Any]:
    """Seconds a fold and step, and memory, with as many folds in parallel, or as fit."""
    knobs = cell["knobs"] | session.pick({}, TINY[cell["model"]])
    clips = corpus(session, cell, knobs)
    build = functools.partial(models.build, cell["model"], cell["classes"], **knobs)
    how = functools.partial(plan, cell, on_gpu=session.device.type == "cuda")
    found = folds.per_fold_epoch(session, clips, build, how, min(together, len(clips.names)))
    if "not_possible" not in found:
        train = len(clips.tasks(clips.names[:1], 0)[0].train)
        found["seconds_per_fold_step"] = rounded(found["seconds_per_fold_epoch"] / math.ceil(train / how(1).batch_size))
    return {"model": cell["model"], **found}


def minutes(cell: dict[str, Any], seconds: float) -> float:
    """Of all folds of a cell, by the seconds of a fold and step."""
    recipe = Recipe(**cell["recipe"])
    train = cell["clips"] * (1 - 1 / cell["subjects"])
    if recipe.schedule == "plateau" or recipe.stop or cell["selection"] == "inner_val":
        train *= 1 - cell["held_out"]
    steps = math.ceil(train / recipe.batch_size)
    return seconds * steps * recipe.epochs * cell["subjects"] * cell["seeds"] / 60


def measure(line: Line) -> dict:
    session, first = line.session, {}
    for cells in tables().values():
        for cell in cells:
            first.setdefault(key(cell), cell)
    models_seen: set[str] = set()
    for cell in first.values():
        if session.tiny and cell["model"] in models_seen:
            continue
        models_seen.add(cell["model"])
        one = _part(line, cell, 1, needs=60)
        if one is not None and (session.tiny or one["seconds_per_fold_step"] < FILLED):
            _part(line, cell, AT_ONCE, needs=20 + 5 * AT_ONCE * one["seconds_per_fold_epoch"])
    return summary(line, {k: cell["experiment"] for k, cell in first.items()})


def _part(line: Line, cell: dict[str, Any], together: int, needs: float) -> dict | None:
    work: Callable[[], dict] = functools.partial(measured, line.session, cell, together)
    return line.part(f"{cell['experiment']}, {together} together", work, line.session.pick(needs, 1))


def summary(line: Line, first: dict[str, str]) -> dict:
    """By table: how many cells, minutes of those that were measured, the longest one, and the most memory."""
    found: dict[str, Any] = {}
    for table, cells in tables().items():
        rows, most = {}, 0
        for cell in cells:
            parts = [line.result(f"{first[key(cell)]}, {together} together") for together in (1, AT_ONCE)]
            done = [one for one in parts if one is not None and "not_possible" not in one]
            if done:
                best = min(done, key=lambda one: one["seconds_per_fold_step"])
                rows[cell["experiment"]] = minutes(cell, best["seconds_per_fold_step"])
                most = max(most, best.get("peak_mib", 0))
        found[table] = {"cells": len(cells), "measured": len(rows)}
        if rows:
            longest = max(rows, key=lambda name: rows[name])
            found[table] |= {
                "minutes": rounded(sum(rows.values())), "longest": longest,
                "minutes_of_the_longest": rounded(rows[longest]), "peak_mib": most,
            }  # fmt: skip
    return found
