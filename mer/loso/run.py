"""Leave one subject out: every subject is tested once, by a model that has seen none of its clips.

A fold depends only on its own key, seed and clips. Its random numbers come from streams that are derived from these, so
its result is the same, to rounding, whatever other folds are trained with it. No test subject takes part in learning,
selection or normalisation. The epoch that is tested is one of SELECTIONS:

    last_epoch   the last one
    inner_val    the one with the lowest loss on training subjects that are held out
    test_best    the first that is best on the test subject: a leak, kept to measure how much it flatters

Nothing here imports torch; mer.loso.networks does, where the model is a network.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from mer import models
from mer.errors import MerError, listed, short, suggestion
from mer.loso.folds import Fold, clip_in, folds, is_whole
from mer.loso.jobs import EXPLAINED, EXPLAINED_TRAINING, EstimatorTraining, Job, Training
from mer.parallel import SERIAL, Engine, map_clips, single_threaded
from mer.storage.build import report_reused
from mer.storage.cache import ClipCache
from mer.storage.files import digest
from mer.storage.spool import Spool

SELECTIONS = ("last_epoch", "inner_val", "test_best")
LEAKY = "test_best"
VALIDATIONS = ("held_out", "test_subject")


def run(
    arrays: Sequence[np.ndarray | ClipCache],
    table: pd.DataFrame,
    *,
    model: str,
    classes: int,
    knobs: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    seeds: Sequence[int] = (0,),
    selection: Literal["last_epoch", "inner_val", "test_best"] = "last_epoch",
    audit: bool = False,
    held_out: float = 0.2,
    validation: Literal["held_out", "test_subject"] = "held_out",
    folds_in_parallel: int | Literal["auto"] = "auto",
    weights: str | None = None,
    leave_out: Literal["subject", "corpus", "origin"] = "subject",
    explained: Callable[[str, dict[str, np.ndarray]], None] | None = None,
    device: str = "cpu",
    engine: Engine = SERIAL,
    spool: Spool | None = None,
    code: str = "",
) -> pd.DataFrame:
    """Train and test a model in every fold, once a seed.

    Args:
        arrays: the products that the model reads, in the order of its READS: product files, or arrays with rows as in
            `table`. A few clips are read at a time, and only what the model's `prepare` returns stays in memory.
        table: one row a clip with id, corpus, subject and integer label (see mer.corpora.select).
        model, classes, knobs: as mer.models.build takes them.
        recipe: changes to the model's own recipe.
        seeds: the whole is repeated with each; the streams of every fold are derived from it.
        selection: which epoch is tested; an estimator without epochs is tested as it is.
        audit: also keep what `test_best` would have given, as rows of that selection; nothing else changes.
        held_out: share of the training clips that `inner_val`, a plateau or early stopping hold out, whole subjects.
        validation: whose loss these look at: held-out training subjects, or the test subject itself, which is a leak.
        folds_in_parallel: how many folds are trained in parallel; auto: one on a CPU, as many as fit on a GPU.
        weights: a file that the model's `load_weights` reads before a fold begins.
        leave_out: what a fold tests: a subject, all subjects of a corpus, or all of an origin (column `origin` of the
            table: recorded or simulated).
        explained: called once a clip, in the order of the ids, with the id and arrays by name: what the model's
            `explain` returns for the clip from the network that has not seen its subject; then, of the model's
            `explain_training`, float32 scalars, the mean over the folds that trained on the clip (NaN where every fold
            held it out). Both use the weights that are tested. Of the first seed; nothing with `test_best`.
        engine: its processes share the jobs (on a CPU).
        spool, code: where finished folds are kept, also after the end (those of other parameters are removed), and a
            digest of the code that they depend on. Without a spool nothing is kept.

    Returns:
        Predictions, one row a seed, selection and clip, in this order (clips by id): seed, selection, epoch (that was
        tested, from 1; 0 without epochs), id, corpus, subject, fold, label and one probability p0, p1, … a class.

    Raises:
        MerError: fewer than two subjects, or others that `folds` refuses; a label that is no class; values or a loss
            that are not finite (naming fold, epoch and clips); more than fits into memory even fold by fold.
    """
    table, todo, training = prepared_training(
        arrays, table, model=model, classes=classes, knobs=knobs, recipe=recipe, selection=selection, audit=audit,
        held_out=held_out, validation=validation, weights=weights, explaining=explained is not None, device=device,
        leave_out=leave_out,
    )  # fmt: skip
    common = digest(training.settings(), data_digest(table, training), code)
    seeds = list(dict.fromkeys(seeds))
    jobs, kept = job_keys(todo, seeds, training, folds_in_parallel, common, spool, engine)
    if spool is None:
        results = train_jobs(jobs, training, training, engine)
    else:
        missing = [job for job in jobs if job.key not in spool]
        total, left = (sum(len(job.folds) for job in some) for some in (jobs, missing))
        report_reused(total - left, total, "folds", engine)
        train_jobs(missing, functools.partial(store, training=training, spool=spool), training, engine)
        results = [spool.get(job.key) for job in jobs]
        spool.clear(but=kept)
    done = list(zip(jobs, results, strict=True))
    predictions = []
    for seed in seeds:
        for name in dict.fromkeys((selection, LEAKY) if audit else (selection,)):
            predictions.append(predictions_of(table, classes, seed, name, [(j, r) for j, r in done if j.seed == seed]))
    if explained is not None:
        _emit_explanations([(j, r) for j, r in done if j.seed == seeds[0]], table["id"].tolist(), explained)
    return pd.concat(predictions, ignore_index=True)


def fitted(
    arrays: Sequence[np.ndarray | ClipCache],
    table: pd.DataFrame,
    *,
    model: str,
    classes: int,
    knobs: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    seed: int = 0,
    selection: Literal["last_epoch", "inner_val"] = "last_epoch",
    held_out: float = 0.2,
    weights: str | None = None,
    without: str | None = None,
    device: str = "cpu",
) -> Any:
    """A model that is trained once, on all subjects, for people whom it has not seen.

    Args:
        without: `<corpus>/<subject>` that is left out: then it is the model of that fold of `run`.
        The others as for `run`.

    Returns:
        A network in evaluation mode, or an estimator.

    Raises:
        MerError: as `run`; no such subject.
    """
    table, todo, training = prepared_training(
        arrays, table, model=model, classes=classes, knobs=knobs, recipe=recipe, selection=selection, audit=False,
        held_out=held_out, validation="held_out", weights=weights, explaining=False, device=device,
    )  # fmt: skip
    fold, known = Fold("", "all subjects", ()), {fold.name: fold for fold in todo}
    if without is not None:
        if without not in known:
            raise MerError(f"without is {without!r}; {suggestion(without, known)}")
        fold = known[without]
    with single_threaded():  # as every fold of `run`
        return training.fitted(fold, seed)


def prepared_training(
    arrays: Sequence[np.ndarray | ClipCache], table: pd.DataFrame, *, model: str, classes: int,
    knobs: dict[str, Any] | None, recipe: dict[str, Any] | None, selection: str, audit: bool, held_out: float,
    validation: str, weights: str | None, explaining: bool, device: str, leave_out: str = "subject",
) -> tuple[pd.DataFrame, list[Fold], Training]:  # fmt: skip
    """The table in the order of its ids, its folds, and what trains them."""
    if selection not in SELECTIONS:
        raise MerError(f"train.selection is {selection!r}; valid: {', '.join(SELECTIONS)}")
    if validation not in VALIDATIONS:
        raise MerError(f"train.validation is {validation!r}; valid: {', '.join(VALIDATIONS)}")
    order = np.argsort(table["id"].to_numpy(), kind="stable")  # row order of the caller cannot matter
    table = table.iloc[order].reset_index(drop=True)
    todo, labels = folds(table, leave_out), _labels(table, classes)
    spec = models.load(model)
    knobs = dict(knobs or {})
    models.check_knobs(model, knobs)
    if weights is not None and not spec.takes_weights:
        raise MerError(f"weights are {weights}, but {spec.path} declares no load_weights; leave them out")
    inputs = _prepare(spec, arrays, knobs, weights, order, table["id"].tolist())
    _check_finite(inputs, table)
    arguments: dict[str, Any] = {
        "inputs": inputs,
        "labels": labels,
        "ids": table["id"].tolist(),
        "subjects": (table["corpus"] + "/" + table["subject"].astype(str)).to_numpy(),
        "model": model,
        "classes": classes,
        "knobs": knobs,
    }
    training: Training
    if spec.recipe is None:
        training = EstimatorTraining(**arguments)
    else:
        from mer.loso.networks import NetworkTraining

        training = NetworkTraining(
            **arguments, recipe_changes=dict(recipe or {}), selection=selection,
            audit=audit or selection == LEAKY, held_out=held_out, validation=validation, device=device,
            weights=weights if spec.load_weights is not None else None,
            explaining=explaining and selection != LEAKY, targets=_targets(spec, table, knobs, todo),
        )  # fmt: skip
    return table, todo, training


def data_digest(table: pd.DataFrame, training: Training) -> str:
    """A digest of what a training learns from: the clips, their inputs, labels and targets."""
    rows = table[["id", "corpus", "subject", "label"]].astype(str).to_numpy().tolist()
    arrays = [training.inputs, *([] if training.targets is None else [training.targets])]
    return digest([hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for array in arrays], rows)


def _targets(spec: models.ModelSpec, table: pd.DataFrame, knobs: dict[str, Any], todo: list[Fold]) -> np.ndarray | None:
    """What else the training clips teach, (N, T) float32; None where the model asks for nothing."""
    if spec.targets is None:
        return None
    texts = table["aus"].tolist() if "aus" in table else [""] * len(table)
    found = spec.targets(texts, spec.all_knobs(knobs))
    if found is None:
        return None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or len(found) != len(table) or found.dtype != np.float32:
        raise MerError(f"{spec.path}: targets must return (clips, T) float32, or None; it returns {short(found)}")
    known = np.isfinite(found).any(1)
    for fold in todo:
        if not np.delete(known, fold.test).any():
            raise MerError(
                f"fold {fold.name}: no training clip has action units, which {spec.path} is to learn; bring the label "
                "sheets (docs/corpora.md), or set the knob that asks for them to 0"
            )
    return found


def _labels(table: pd.DataFrame, classes: int) -> np.ndarray:
    """The labels, (N,) int64. Raises MerError for one that is no position in the list of classes."""
    labels: list[Any] = table["label"].tolist()
    for row, label in enumerate(labels):
        if not is_whole(label) or not 0 <= label < classes:
            raise MerError(
                f"label of {clip_in(table, row)} is {label!r}; needed is the number of its class, 0 to {classes - 1}: "
                "take the labels of mer.corpora.select"
            )
    return np.array(labels, dtype=np.int64)


def job_keys(
    todo: list[Fold], seeds: list[int], training: Training, folds_in_parallel: int | Literal["auto"], common: str,
    spool: Spool | None, engine: Engine,
) -> tuple[list[Job], list[str]]:  # fmt: skip
    """(jobs, keys to keep). Rounding depends on which folds a job has, so an interrupted run keeps its jobs."""
    grouping = digest(common, "groups", folds_in_parallel)
    if folds_in_parallel == "auto" and training.device == "cpu":
        size = 1  # two processes with a fold each are faster than folds in parallel (benchmarks/loso.py)
    elif spool is not None and grouping in spool:
        size = int(spool.get(grouping)["size"])
    else:
        size = training.group_size(len(todo), folds_in_parallel, engine)
        if spool is not None:
            spool.put(grouping, {"size": np.asarray(size, np.int64)})
    groups = [tuple(todo[k : k + size]) for k in range(0, len(todo), size)]
    jobs = [Job(seed, g, digest(common, seed, [fold.name for fold in g])) for seed in seeds for g in groups]
    return jobs, [grouping, *(job.key for job in jobs)]


def train_jobs(jobs: list[Job], work: Callable, training: Training, engine: Engine) -> list:
    """[work(job) …]; on a CPU processes share the jobs, on a GPU this process does them all."""
    if training.device == "cpu":
        label = "folds" if all(len(job.folds) == 1 for job in jobs) else "groups"
        return map_clips(work, jobs, engine, label, each=_progress_text)
    results = []
    for number, job in enumerate(jobs, start=1):
        label = f"group {number} of {len(jobs)}, {len(job.folds)} folds"
        with tqdm(total=training.epochs, desc=label, unit="epoch", disable=not engine.progress, mininterval=0.5) as bar:
            results.append(work(job, bar=bar))
    return results


def _progress_text(result: dict) -> str:
    """Of a finished job, for the progress bar."""
    return f"loss {result['loss'].mean():.3f} after {int(result['epochs'].max())} epochs" if "loss" in result else ""


def store(job: Job, *, training: Training, spool: Spool, bar: Any = None) -> dict:
    result = training(job, bar=bar)
    spool.put(job.key, result)
    return {name: result[name] for name in ("loss", "epochs") if name in result}


def predictions_of(table: pd.DataFrame, classes: int, seed: int, selection: str, done: list) -> pd.DataFrame:
    """Of one seed and selection, one row a clip."""
    probability, epoch = np.zeros((len(table), classes)), np.zeros(len(table), dtype=np.int64)
    fold_name = np.empty(len(table), dtype=object)
    leaky = selection == LEAKY
    for job, result in done:
        ends = np.cumsum([len(fold.test) for fold in job.folds])
        parts = np.split(result["audit" if leaky and "audit" in result else "probability"], ends[:-1])
        chosen = result["audit_epoch" if leaky else "chosen"] if "chosen" in result else np.zeros(len(parts), np.int64)
        for fold, part, number in zip(job.folds, parts, chosen, strict=True):
            rows = list(fold.test)
            probability[rows], epoch[rows], fold_name[rows] = part, number, fold.name
    columns = {"seed": seed, "selection": selection, "epoch": epoch, "fold": fold_name}
    columns |= {f"p{c}": probability[:, c] for c in range(classes)}
    predictions = table[["id", "corpus", "subject", "label"]].assign(**columns)
    order = ["seed", "selection", "epoch", "id", "corpus", "subject", "fold", "label"]
    return predictions[[*order, *(f"p{c}" for c in range(classes))]]


def _emit_explanations(done: list, ids: list[str], explained: Callable[[str, dict[str, np.ndarray]], None]) -> None:
    """Call `explained` with the explanations of all jobs of a seed, clip by clip; never where the model has none."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for job, result in done:
        names = [name for name in result if name.startswith(EXPLAINED)]
        rows = [row for fold in job.folds for row in fold.test]
        for place, row in enumerate(rows):
            found[row] = {name.removeprefix(EXPLAINED): result[name][place] for name in names}
    for name in [name for name in done[0][1] if name.startswith(EXPLAINED_TRAINING)]:
        of_folds = np.concatenate([result[name] for _, result in done])  # (folds, N), NaN where not trained on
        known = np.isfinite(of_folds)
        with np.errstate(invalid="ignore"):  # a clip that every fold held out
            mean = np.where(known, of_folds, 0).sum(0) / known.sum(0)
        for row, value in enumerate(mean):
            found[row][name.removeprefix(EXPLAINED_TRAINING)] = np.asarray(value, np.float32)
    for row in sorted(found):
        if found[row]:
            explained(ids[row], found[row])


# ---- inputs ---------------------------------------------------------------------------------------------------------


def _prepare(
    spec: models.ModelSpec,
    arrays: Sequence,
    knobs: dict,
    weights: str | None,
    order: np.ndarray,
    ids: list[str],
    at_once: int = 16,
) -> np.ndarray:
    """The model's inputs, rows in the order of `ids`. Raises MerError where `prepare` of a clip depends on others."""
    for array in arrays:
        if not isinstance(array, ClipCache) and len(array) != len(ids):
            raise MerError(f"an array has {len(array)} rows, the table {len(ids)}; needed is one row a clip")
    parts = []
    for start in range(0, len(ids), at_once):
        rows = slice(start, start + at_once)
        block = [a.load(ids[rows]) if isinstance(a, ClipCache) else a[order[rows]] for a in arrays]
        parts.append(spec.prepared(block, knobs, weights))
        if start == 0:
            alone, beside = spec.prepared([a[:1] for a in block], knobs, weights), parts[0][:1]
            if not np.allclose(alone, beside, rtol=1e-4, atol=1e-4 * np.abs(beside).max(initial=0), equal_nan=True):
                raise MerError(
                    f"{spec.path}: what its prepare returns for {ids[0]} depends on the clips beside it, so test "
                    "clips would reach training; normalise each clip by itself"
                )
    return np.concatenate(parts)


def _check_finite(inputs: np.ndarray, table: pd.DataFrame) -> None:
    bad = ~np.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    if bad.any():
        raise MerError(f"values that are not finite in clips {listed(table['id'][bad])}; make their product again")
