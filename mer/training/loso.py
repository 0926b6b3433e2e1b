"""Leave one subject out: every subject is tested once, by a model that has seen none of its clips.

A fold is keyed by (corpus, subject) and depends on nothing but its own key, seed and clips: its random streams are
derived from them, and its result is the same whatever other folds are run, in whatever order. Nothing is learned,
chosen or normalised with the test subject in sight; the epoch is the last one.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from mer import models
from mer.cache import ClipCache, digest, report_reused
from mer.errors import MerError, listed
from mer.parallel import SERIAL, Engine, map_clips
from mer.spool import Spool
from mer.training.recipe import Recipe


@dataclass(frozen=True)
class Fold:
    """The test subject and the rows it is tested on."""

    corpus: str
    subject: str
    test: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.corpus}/{self.subject}"


def folds(table: pd.DataFrame) -> list[Fold]:
    """One fold a (corpus, subject), in the order of their names. Raises MerError with fewer than two subjects."""
    keys = list(zip(table["corpus"], table["subject"], strict=True))
    if len(set(keys)) < 2:
        raise MerError(f"leave-one-subject-out needs two subjects, the index has {len(set(keys))}")
    return [Fold(c, s, tuple(i for i, k in enumerate(keys) if k == (c, s))) for c, s in sorted(set(keys))]


def run(
    arrays: Sequence[np.ndarray | ClipCache],
    table: pd.DataFrame,
    *,
    model: str,
    classes: int,
    hyper: dict | None = None,
    recipe: dict | None = None,
    seed: int = 0,
    device: str = "cpu",
    engine: Engine = SERIAL,
    spool: Spool | None = None,
    code: str = "",
) -> pd.DataFrame:
    """Train and test a model in every fold.

    Args:
        arrays: the products that the model reads, in the order of its PRODUCTS: product files, or arrays with rows as
            in `table`. Read a few clips at a time; only what the model's `prepare` makes of them is held.
        table: one row a clip with id, corpus, subject and integer label (see mer.corpora.select).
        model, classes, hyper: what mer.models.build takes.
        recipe: changes to the model's own recipe.
        seed: from which every fold's streams are derived.
        spool, code: where finished folds are kept, also after the end (those of other parameters are removed), and a
            digest of the code they depend on. Without, nothing is kept.

    Returns:
        Predictions, one row a clip in the order of `id`: seed, selection, id, corpus, subject, fold, label and one
        probability p0, p1, … a class.

    Raises:
        MerError: fewer than two subjects, values or a loss that are not finite (naming fold, epoch and clips).
    """
    order = np.argsort(table["id"].to_numpy(), kind="stable")  # row order of the caller cannot matter
    table = table.iloc[order].reset_index(drop=True)
    module = models.load(model)
    hyper = dict(hyper or {})
    models.check_knobs(model, hyper)
    plan = Recipe.of(module.RECIPE, recipe or {}) if module.RECIPE is not None else None
    if plan is not None:
        import torch  # noqa: F401 - before any fold, so that map_clips can limit its threads in this process too
    inputs = _prepare(module, arrays, order, table["id"].tolist())
    _check_finite(inputs, table)
    labels = table["label"].to_numpy(dtype=np.int64)
    content = hashlib.sha256(np.ascontiguousarray(inputs)).hexdigest()
    rows = table[["id", "corpus", "subject", "label"]].astype(str).to_numpy().tolist()
    common = digest(model, classes, hyper, asdict(plan) if plan else None, seed, device, content, rows, code)

    def key(fold: Fold) -> str:
        return digest(common, fold.name)

    todo = folds(table)
    work = functools.partial(
        _run_fold, inputs=inputs, labels=labels, ids=table["id"].tolist(), model=model, classes=classes, hyper=hyper,
        recipe=plan, seed=seed, device=device,
    )  # fmt: skip
    if spool is None:
        results = map_clips(work, todo, engine, "folds")
    else:
        missing = [(fold, key(fold)) for fold in todo if key(fold) not in spool]
        report_reused(len(todo) - len(missing), len(todo), "folds", engine)
        map_clips(functools.partial(_keep_fold, work=work, spool=spool), missing, engine, "folds")
        results = [spool.get(key(fold))["probability"] for fold in todo]
        spool.clear(but=[key(fold) for fold in todo])

    probability = np.zeros((len(table), classes))
    fold_name = np.empty(len(table), dtype=object)
    for fold, result in zip(todo, results, strict=True):
        probability[list(fold.test)] = result
        fold_name[list(fold.test)] = fold.name
    predictions = table[["id", "corpus", "subject", "label"]].assign(seed=seed, selection="last_epoch", fold=fold_name)
    for c in range(classes):
        predictions[f"p{c}"] = probability[:, c]
    return predictions[
        ["seed", "selection", "id", "corpus", "subject", "fold", "label", *(f"p{c}" for c in range(classes))]
    ]


def _prepare(module, arrays, order, ids: list[str], at_once: int = 16) -> np.ndarray:
    """The model's inputs, rows in the order of `ids`."""
    parts = []
    for start in range(0, len(ids), at_once):
        rows = slice(start, start + at_once)
        parts.append(
            module.prepare(*[a.load(ids[rows]) if isinstance(a, ClipCache) else a[order[rows]] for a in arrays])
        )
    return np.concatenate(parts)


def _check_finite(inputs: np.ndarray, table: pd.DataFrame) -> None:
    bad = ~np.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    if bad.any():
        raise MerError(f"values that are not finite in clips {listed(table['id'][bad])}; make their product again")


def _keep_fold(item, *, work, spool: Spool) -> None:
    fold, key = item
    spool.put(key, {"probability": work(fold)})


def _run_fold(fold: Fold, *, inputs, labels, ids, model, classes, hyper, recipe, seed, device) -> np.ndarray:
    """(n_test, classes) probabilities of the test subject's clips."""
    test = np.array(fold.test)
    train = np.setdiff1d(np.arange(len(labels)), test)
    if recipe is None:
        estimator = models.build(model, classes, **hyper)
        estimator.fit(inputs[train], labels[train])
        # An estimator speaks only of the classes it was shown; the others have probability 0.
        probability = np.zeros((len(test), classes))
        probability[:, estimator.classes_] = estimator.predict_proba(inputs[test])
        return probability
    return _train_network(fold, inputs, labels, ids, train, test, model, classes, hyper, recipe, seed, device)


def _train_network(fold, inputs, labels, ids, train, test, model, classes, hyper, recipe, seed, device) -> np.ndarray:
    import torch
    from torch.nn import functional as F

    mirror = getattr(models.load(model), "mirror", None)
    if recipe.mirror and mirror is None:
        raise MerError(f"recipe.mirror is on, but mer/models/{model}.py declares no `mirror`")
    stream = int(digest(seed, fold.name)[:15], 16)
    sampler = np.random.default_rng(stream)
    with torch.random.fork_rng():
        torch.manual_seed(stream)
        network = models.build(model, classes, **hyper).to(device)
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer](
            network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        x, y = torch.tensor(inputs, device=device), torch.tensor(labels, device=device)
        for epoch in range(recipe.epochs):
            network.train()
            for rows in _batches(sampler.permutation(train), recipe.batch_size):
                batch = x[torch.from_numpy(rows).to(device)]
                if recipe.mirror:
                    flipped = torch.from_numpy(sampler.random(len(rows)) < 0.5).to(device)
                    batch = torch.where(flipped[:, None, None, None], mirror(batch), batch)
                loss = F.cross_entropy(network(batch), y[torch.from_numpy(rows).to(device)])
                if not torch.isfinite(loss):
                    raise MerError(
                        f"fold {fold.name}, epoch {epoch + 1}: loss is {loss.item()} on clips "
                        f"{listed(ids[r] for r in rows)}; the weights before this step were sound: lower recipe.lr"
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        network.eval()
        with torch.inference_mode():
            return network(x[torch.from_numpy(test).to(device)]).double().softmax(1).cpu().numpy()


def _batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive batches; a last one of a single clip joins its neighbour, since batch norm cannot take it."""
    cuts = list(range(size, len(rows), size))
    if cuts and len(rows) - cuts[-1] == 1:
        cuts.pop()
    return np.split(rows, cuts)
