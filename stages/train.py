"""Trains a model with each subject left out once; writes data/predictions/<experiment>/.

    python -m stages.train synthetic-ststnet

predictions.csv has one row a clip (and seed), predicted by the model that has not seen its subject; run.json says under
which protocol; audit.csv, with train.audit, what choosing the epoch on the test subject would have claimed. Finished
folds survive a kill.
"""

import json
import platform
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mer import corpora, models
from mer.cache import ClipCache, available
from mer.clips import read_index
from mer.errors import MerError, listed
from mer.spool import Spool
from mer.training import loso
from mer.training.recipe import Recipe
from stages._run import run


def main(stage):
    item = stage.item
    index = read_index(item.index)
    table = corpora.select(index, item.labels, item.classes)
    caches, excluded = read_products(item, table)
    names = table.attrs["class_names"]
    table = table[~table["id"].isin(excluded)]
    table.attrs["class_names"] = names
    hyper = {**stage.params.knobs[item.knobs], **item.overrides}
    train = stage.section
    with Spool(stage.spool) as spool:
        predictions = loso.run(
            caches, table, model=item.model, classes=item.classes, hyper=hyper, recipe=item.recipe,
            seeds=seeds(train), selection=train.selection, audit=train.audit, held_out=train.held_out,
            together=train.folds_together, device=stage.device, engine=stage.engine, spool=spool, code=stage.code(),
        )  # fmt: skip
        # The folds stay in the spool: DVC has not recorded the folder yet, and a kill before it has must not cost them.
        write(Path("data/predictions") / stage.key, predictions, about(stage, index, table, excluded), train.selection)


def seeds(train) -> list[int]:
    return list(train.seeds) or [train.seed]


def read_products(item, table) -> tuple[list[ClipCache], dict[str, str]]:
    """The products that the model reads, in its order, and the clips that one of them leaves out, with the reason."""
    caches = [ClipCache(path) for path in dict.fromkeys(item.inputs)]
    found = {cache.kind: cache for cache in caches}
    if len(found) != len(caches):
        raise MerError(f"inputs {listed(item.inputs)} hold one kind of product twice; name each kind once")
    needed = models.load(item.model).PRODUCTS
    missing = [kind for kind in needed if kind not in found]
    if missing:
        raise MerError(f"model {item.model} reads {listed(needed)}; inputs hold {listed(found)}: add {listed(missing)}")
    _, excluded = available(list(table.itertuples()), item.index, *caches)
    return [found[kind] for kind in needed], excluded


def about(stage, index, table, excluded: dict[str, str]) -> dict:
    """What a reader must know to trust the numbers. No times: equal runs write equal files."""
    import sklearn
    import torch

    item = stage.item
    module = models.load(item.model)
    recipe = None if module.RECIPE is None else asdict(Recipe.of(module.RECIPE, item.recipe))
    return {
        "experiment": stage.key,
        "model": item.model,
        "knobs": {**{n: p.default for n, p in models.knobs(item.model).items()}, **stage.params.knobs[item.knobs],
                  **item.overrides},
        "recipe": recipe,
        "class_names": table.attrs["class_names"],
        "inputs": list(dict.fromkeys(item.inputs)),
        "protocol": {
            "evaluation": "leave-one-subject-out",
            "selection": stage.section.selection,
            "held_out": stage.section.held_out,
            "seeds": seeds(stage.section),
            "folds_together": stage.section.folds_together,
            "weights": None if recipe is None else "random",
            "leaky": stage.section.selection == loso.LEAKY,
            "transductive": False,
            "n_excluded": len(excluded),
            "excluded": excluded,
            "n_of_other_classes": len(index) - len(table) - sum(i in excluded for i in index["id"]),
        },
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "device": "cpu" if stage.device == "cpu" else torch.cuda.get_device_name(),
            "machine": platform.machine(),
        },
    }  # fmt: skip


def write(folder: Path, predictions, run_info: dict, selection: str) -> None:
    """All files in one rename, so that the folder is there whole or not at all."""
    part = Path("data/.partial") / f"predictions-{folder.name}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    honest = predictions["selection"] == selection
    for name, rows in (("predictions", predictions[honest]), ("audit", predictions[~honest])):
        if len(rows):
            rows.to_csv(part / f"{name}.csv", index=False, lineterminator="\n", float_format="%.9g")
    (part / "run.json").write_text(json.dumps(run_info, indent=1, sort_keys=True) + "\n")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


if __name__ == "__main__":
    run("train", main)
