"""Leave one subject out: every subject is tested once, by a model that has seen none of its clips.

A fold depends on nothing but its own key, seed and clips: its random streams are derived from them, and its result is
the same, to rounding, whatever other folds are trained beside it. Nothing is learned, chosen or normalised with the
test subject in sight. Which epoch is tested is one of SELECTIONS:

    last_epoch   the last one
    inner_val    the one with the lowest loss on training subjects that are held out
    test_best    the first that is best on the test subject: a leak, kept to measure how much it flatters
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from mer import models
from mer.errors import MerError, listed
from mer.loso.folds import Fold, folds, hold_out
from mer.loso.recipe import Recipe
from mer.parallel import SERIAL, Engine, map_clips
from mer.storage.cache import ClipCache, digest, report_reused
from mer.storage.spool import Spool
from mer.storage.weights import digest_of

SELECTIONS = ("last_epoch", "inner_val", "test_best")
LEAKY = "test_best"
EXPLAINED = "explained."  # before the names of explanations in a job's result
HOLDING_OUT = 1  # added to a fold's stream for the draw of held-out subjects


def run(
    arrays: Sequence[np.ndarray | ClipCache],
    table: pd.DataFrame,
    *,
    model: str,
    classes: int,
    hyper: dict | None = None,
    recipe: dict | None = None,
    seeds: Sequence[int] = (0,),
    selection: Literal["last_epoch", "inner_val", "test_best"] = "last_epoch",
    audit: bool = False,
    held_out: float = 0.2,
    together: int | Literal["auto"] = "auto",
    weights: str | None = None,
    explained: Callable[[str, dict[str, np.ndarray]], None] | None = None,
    device: str = "cpu",
    engine: Engine = SERIAL,
    spool: Spool | None = None,
    code: str = "",
) -> pd.DataFrame:
    """Train and test a model in every fold, once a seed.

    Args:
        arrays: the products that the model reads, in the order of its PRODUCTS: product files, or arrays with rows as
            in `table`. Read a few clips at a time; only what the model's `prepare` makes of them is held.
        table: one row a clip with id, corpus, subject and integer label (see mer.corpora.select).
        model, classes, hyper: what mer.models.build takes.
        recipe: changes to the model's own recipe.
        seeds: the whole is done once with each; every fold's streams are derived from it.
        selection: which epoch is tested; an estimator without epochs is tested as it is.
        audit: also keep what `test_best` would have claimed, as rows of that selection; nothing else changes.
        held_out: share of the training clips that `inner_val`, a plateau or early stopping hold out, whole subjects.
        together: how many folds are trained side by side; auto: one on a CPU, as many as fit on a GPU.
        weights: a file that the model's `load_weights` takes before a fold begins.
        explained: called once a clip, in the order of the ids, with the id and what the model's `explain` finds in it
            by the network that has not seen its subject; and, as `weight`, what it counted in the loss of those that
            have, by the model's `weigh`: the mean over the folds that trained on it, of the weights that are tested,
            NaN where it was held out in all of them. Of the first seed; nothing with `test_best`.
        engine: its processes share the groups of folds (on a CPU).
        spool, code: where finished folds are kept, also after the end (those of other parameters are removed), and a
            digest of the code they depend on. Without, nothing is kept.

    Returns:
        Predictions, one row a seed, selection and clip, in this order (clips by id): seed, selection, epoch (that was
        tested, from 1; 0 without epochs), id, corpus, subject, fold, label and one probability p0, p1, … a class.

    Raises:
        MerError: fewer than two subjects, values or a loss that are not finite (naming fold, epoch and clips), more
            than fits into memory even fold by fold.
    """
    if selection not in SELECTIONS:
        raise MerError(f"train.selection is {selection!r}; valid: {', '.join(SELECTIONS)}")
    order = np.argsort(table["id"].to_numpy(), kind="stable")  # row order of the caller cannot matter
    table = table.iloc[order].reset_index(drop=True)
    module = models.load(model)
    hyper = dict(hyper or {})
    models.check_knobs(model, hyper)
    inputs = _prepare(module, arrays, order, table["id"].tolist())
    _check_finite(inputs, table)
    who = (table["corpus"] + "/" + table["subject"].astype(str)).to_numpy()
    training = _Training(
        inputs=inputs, labels=table["label"].to_numpy(dtype=np.int64, copy=True), ids=table["id"].tolist(), who=who,
        model=model, classes=classes, hyper=hyper,
        recipe=None if module.RECIPE is None else Recipe.of(module.RECIPE, recipe or {}), selection=selection,
        audit=audit or selection == LEAKY, held_out=held_out, device=device, weights=weights,
        explaining=explained is not None and selection != LEAKY,
    )  # fmt: skip
    rows = table[["id", "corpus", "subject", "label"]].astype(str).to_numpy().tolist()
    common = digest(training.about(), hashlib.sha256(np.ascontiguousarray(inputs)).hexdigest(), rows, code)
    jobs, kept = _grouped(folds(table), list(dict.fromkeys(seeds)), training, together, common, spool, engine)
    epochs = training.recipe.epochs if training.recipe else None
    if spool is None:
        results = _train(jobs, training, engine, device, epochs)
    else:
        missing = [job for job in jobs if job.key not in spool]
        total, left = (sum(len(job.folds) for job in some) for some in (jobs, missing))
        report_reused(total - left, total, "folds", engine)
        _train(missing, functools.partial(_store, training=training, spool=spool), engine, device, epochs)
        results = [spool.get(job.key) for job in jobs]
        spool.clear(but=kept)
    done = list(zip(jobs, results, strict=True))
    predictions = []
    for seed in dict.fromkeys(seeds):
        for name in dict.fromkeys((selection, LEAKY) if audit else (selection,)):
            predictions.append(_predictions(table, classes, seed, name, [(j, r) for j, r in done if j.seed == seed]))
    if explained is not None:
        _hand_on([(j, r) for j, r in done if j.seed == seeds[0]], table["id"].tolist(), explained)
    return pd.concat(predictions, ignore_index=True)


@dataclass(frozen=True)
class _Job:
    """Folds that are trained side by side, and the key of their result."""

    seed: int
    folds: tuple[Fold, ...]
    key: str


def _grouped(todo, seeds, training, together, common: str, spool: Spool | None, engine: Engine):
    """(jobs, keys to be kept). Rounding knows the group: an interrupted run goes on with the grouping it began with."""
    plan = digest(common, "groups", together)
    if together == "auto" and training.device == "cpu":
        size = 1  # two processes with a fold each are faster than folds side by side (benchmarks/loso.py)
    elif spool is not None and plan in spool:
        size = int(spool.get(plan)["size"])
    else:
        size = training.side_by_side(len(todo), together, engine)
        if spool is not None:
            spool.put(plan, {"size": np.int64(size)})
    groups = [tuple(todo[k : k + size]) for k in range(0, len(todo), size)]
    jobs = [_Job(seed, g, digest(common, seed, [fold.name for fold in g])) for seed in seeds for g in groups]
    return jobs, [plan, *(job.key for job in jobs)]


def _train(jobs: list[_Job], work: Callable, engine: Engine, device: str, epochs: int | None) -> list:
    """[work(job) …]; processes share the jobs on a CPU, a GPU is fed by this one."""
    if device == "cpu":
        return map_clips(work, jobs, engine, "folds" if all(len(j.folds) == 1 for j in jobs) else "groups", each=_said)
    results = []
    for number, job in enumerate(jobs, start=1):
        label = f"group {number} of {len(jobs)}, {len(job.folds)} folds"
        with tqdm(total=epochs, desc=label, unit="epoch", disable=not engine.progress, mininterval=0.5) as bar:
            results.append(work(job, bar=bar))
    return results


def _said(result: dict) -> str:
    """What the progress bar says of a finished job."""
    return f"loss {result['loss'].mean():.3f} after {int(result['epochs'].max())} epochs" if "loss" in result else ""


def _store(job: _Job, *, training: "_Training", spool: Spool, bar=None) -> dict:
    result = training(job, bar=bar)
    spool.put(job.key, result)
    return {name: result[name] for name in ("loss", "epochs") if name in result}


def _predictions(table: pd.DataFrame, classes: int, seed: int, selection: str, done: list) -> pd.DataFrame:
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


def _hand_on(done: list, ids: list[str], explained: Callable[[str, dict[str, np.ndarray]], None]) -> None:
    """Explanations of all jobs of a seed, clip by clip; nothing where the model has none."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for job, result in done:
        names = [name for name in result if name.startswith(EXPLAINED)]
        rows = [row for fold in job.folds for row in fold.test]
        for place, row in enumerate(rows):
            found[row] = {name.removeprefix(EXPLAINED): result[name][place] for name in names}
    counted = [result["counted"] for _, result in done if "counted" in result]
    if counted:
        of_folds = np.concatenate(counted)
        some = np.isfinite(of_folds)
        with np.errstate(invalid="ignore"):  # a clip that every fold held out
            mean = np.where(some, of_folds, 0).sum(0) / some.sum(0)
        for row, value in enumerate(mean):
            found[row]["weight"] = np.float32(value)
    for row in sorted(found):
        if found[row]:
            explained(ids[row], found[row])


# ---- one job --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Training:
    """All that a process needs to train folds; called with a job, it returns the arrays that make its result."""

    inputs: np.ndarray
    labels: np.ndarray
    ids: list[str]
    who: np.ndarray
    model: str
    classes: int
    hyper: dict
    recipe: Recipe | None
    selection: str
    audit: bool
    held_out: float
    device: str
    weights: str | None
    explaining: bool

    def about(self) -> list:
        """What the result depends on, beside clips and code."""
        recipe = asdict(self.recipe) if self.recipe else None
        about = [self.model, self.classes, self.hyper, recipe, self.selection, self.audit]
        holds_out = self.recipe is not None and self._holds_out
        about += [self.held_out if holds_out else None, self.device if recipe else None, self.explaining]
        return [*about, digest_of(self.weights) if self.weights else None]

    @property
    def _holds_out(self) -> bool:
        return self.selection == "inner_val" or self.recipe.watches

    def side_by_side(self, count: int, together: int | str, engine: Engine) -> int:
        """How many folds are trained side by side; says so where it is less than was asked for."""
        wanted = count if together == "auto" else min(int(together), count)
        if self.recipe is None or wanted == 1:
            return 1
        from mer.loso.loop import why_alone
        from mer.loso.memory import folds_that_fit

        inputs, labels = self._tensors()
        reason = why_alone(self._build, inputs, self._plan())
        if reason is not None:
            _say(engine, f"{self.model} trains one fold at a time: {reason}")
            return 1
        processes = engine.count(-(-count // wanted)) if self.device == "cpu" else 1
        fits = folds_that_fit(self._build, inputs, labels, self._plan(), processes)
        if fits < wanted and together != "auto":
            _say(engine, f"train.folds_together is {together}, but only {fits} fit into memory: {fits} at a time")
        return min(wanted, fits)

    def __call__(self, job: _Job, bar=None) -> dict[str, np.ndarray]:
        """probability (n, C), folds one after another; of a network also epochs, chosen, loss, audit, audit_epoch."""
        if self.recipe is None:
            return {"probability": np.concatenate([self._estimate(fold) for fold in job.folds])}
        outcomes = self._networks(job.folds, job.seed, bar)
        result = {
            "probability": np.concatenate([o.probability for o in outcomes]),
            "epochs": np.array([o.epochs for o in outcomes]),
            "chosen": np.array([o.chosen for o in outcomes]),
            "loss": np.array([o.train_losses[-1] for o in outcomes]),
        }
        if self.audit:
            result |= {
                "audit": np.concatenate([o.audit for o in outcomes]),
                "audit_epoch": np.array([o.audit_epoch for o in outcomes]),
            }
        for name in outcomes[0].explained:
            result[EXPLAINED + name] = np.concatenate([o.explained[name] for o in outcomes])
        if outcomes[0].counted is not None:
            result["counted"] = np.full((len(outcomes), len(self.labels)), np.nan, dtype=np.float32)
            for row, fold, outcome in zip(result["counted"], job.folds, outcomes, strict=True):
                row[self._task(fold, job.seed).train] = outcome.counted
        return result

    def _estimate(self, fold: Fold) -> np.ndarray:
        test = np.array(fold.test)
        train = np.setdiff1d(np.arange(len(self.labels)), test)
        estimator = models.build(self.model, self.classes, **self.hyper)
        estimator.fit(self.inputs[train], self.labels[train])
        # An estimator speaks only of the classes it was shown; the others have probability 0.
        probability = np.zeros((len(test), self.classes))
        probability[:, estimator.classes_] = estimator.predict_proba(self.inputs[test])
        return probability

    def _networks(self, some: Sequence[Fold], seed: int, bar):
        import torch

        from mer.loso.loop import train_group

        def watch(loss: float) -> None:
            if bar is not None:
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                bar.update()

        inputs, labels = self._tensors()
        try:
            return train_group(
                [self._task(fold, seed) for fold in some], inputs, labels, self._build, self._plan(), ids=self.ids,
                together=len(some) > 1, watch=watch,
            )  # fmt: skip
        except torch.cuda.OutOfMemoryError:
            if len(some) == 1:
                raise MerError(
                    f"fold {some[0].name} does not fit into the GPU's memory; lower recipe.batch_size"
                ) from None
        half = (len(some) + 1) // 2
        print(f"{len(some)} folds do not fit into the GPU's memory side by side: {half} at a time", file=sys.stderr)
        torch.cuda.empty_cache()
        return [*self._networks(some[:half], seed, bar), *self._networks(some[half:], seed, bar)]

    def _task(self, fold: Fold, seed: int):
        from mer.loso.loop import Task

        test, stream = np.array(fold.test), fold.stream(seed)
        train, validation = np.setdiff1d(np.arange(len(self.labels)), test), np.empty(0, dtype=np.int64)
        if self._holds_out:
            held = hold_out(self.who[train], self.labels[train], self.held_out, stream + HOLDING_OUT)
            train, validation = train[~held], train[held]
        return Task(fold.name, stream, train, test, validation)

    def _plan(self):
        from mer.loso.augmentation import of_model
        from mer.loso.loop import Plan, cross_entropy

        recipe, module = self.recipe, models.load(self.model)
        return Plan(
            schedule=recipe.rates(), batch_size=recipe.batch_size, decoupled=recipe.optimizer == "adamw",
            weight_decay=recipe.weight_decay, augment=of_model(module, recipe, f"mer/models/{self.model}.py"),
            loss=getattr(module, "loss", cross_entropy), patience=recipe.stop or None,
            best=self.selection == "inner_val", audit=self.audit, half=recipe.bf16 and self.device != "cpu",
            compiled=recipe.compiled, explain=getattr(module, "explain", None) if self.explaining else None,
            weigh=getattr(module, "weigh", None) if self.explaining else None,
        )  # fmt: skip

    def _build(self):
        network = models.build(self.model, self.classes, **self.hyper)
        return models.load(self.model).load_weights(network, self.weights) if self.weights else network

    def _tensors(self):
        """Inputs and labels on the device, where they stay."""
        import torch

        return torch.from_numpy(self.inputs).to(self.device), torch.from_numpy(self.labels).to(self.device)


def _say(engine: Engine, text: str) -> None:
    if engine.progress:
        print(text, file=sys.stderr)


# ---- inputs ---------------------------------------------------------------------------------------------------------


def _prepare(module, arrays, order, ids: list[str], at_once: int = 16) -> np.ndarray:
    """The model's inputs, rows in the order of `ids`. Raises MerError for a `prepare` in which clips see each other."""
    for array in arrays:
        if not isinstance(array, ClipCache) and len(array) != len(ids):
            raise MerError(f"an array has {len(array)} rows, the table {len(ids)}; needed is one row a clip")
    parts = []
    for start in range(0, len(ids), at_once):
        rows = slice(start, start + at_once)
        block = [a.load(ids[rows]) if isinstance(a, ClipCache) else a[order[rows]] for a in arrays]
        parts.append(module.prepare(*block))
        if start == 0:
            alone, beside = module.prepare(*[a[:1] for a in block]), parts[0][:1]
            if not np.allclose(alone, beside, rtol=1e-4, atol=1e-4 * np.abs(beside).max(initial=0), equal_nan=True):
                raise MerError(
                    f"{module.__name__}: what its prepare makes of {ids[0]} depends on the clips beside it, so test "
                    "clips would reach training; normalise each clip by itself"
                )
    return np.concatenate(parts)


def _check_finite(inputs: np.ndarray, table: pd.DataFrame) -> None:
    bad = ~np.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    if bad.any():
        raise MerError(f"values that are not finite in clips {listed(table['id'][bad])}; make their product again")
