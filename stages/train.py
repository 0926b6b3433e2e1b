"""Trains a model with each subject left out once; writes data/predictions/<experiment>/.

    python -m stages.train synthetic-ststnet

predictions.csv has one row a clip (and seed), predicted by the model that has not seen its subject; run.json says under
which protocol; audit.csv, with train.audit, what choosing the epoch on the test subject would have claimed; explain.h5,
where the model has explanations, what that model saw in the clip. Finished folds survive a kill.
"""

import json
import platform
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mer import corpora, models
from mer.clips import read_index
from mer.errors import MerError, listed
from mer.loso import run as loso
from mer.loso.recipe import Recipe
from mer.storage.cache import CacheWriter, ClipCache, available
from mer.storage.spool import Spool
from mer.storage.weights import told_of
from stages._run import run

WEIGHTS = ".safetensors"


def main(stage):
    item = stage.item
    index = read_index(item.index)
    table = corpora.select(index, item.labels, item.classes)
    hyper = {**stage.params.knobs[item.knobs], **item.overrides}
    caches, excluded = read_products(item, hyper, table)
    weights = read_weights(item)
    names = table.attrs["class_names"]
    table = table[~table["id"].isin(excluded)]
    table.attrs["class_names"] = names
    train, explanations = stage.section, {}
    with Spool(stage.spool) as spool:
        predictions = loso.run(
            caches, table, model=item.model, classes=item.classes, hyper=hyper, recipe=item.recipe,
            seeds=seeds(train), selection=train.selection, audit=train.audit, held_out=train.held_out,
            together=train.folds_together, weights=weights, explained=explanations.__setitem__, device=stage.device,
            engine=stage.engine, spool=spool, code=stage.code(),
        )  # fmt: skip
        # The folds stay in the spool: DVC has not recorded the folder yet, and a kill before it has must not cost them.
        run_info = about(stage, index, table, excluded, networks(item, caches, weights))
        write(Path("data/predictions") / stage.key, predictions, run_info, train.selection, explanations)


def seeds(train) -> list[int]:
    return list(train.seeds) or [train.seed]


def read_products(item, hyper: dict, table) -> tuple[list[ClipCache], dict[str, str]]:
    """The products that the model reads, in its order, and the clips that one of them leaves out, with the reason."""
    caches = [ClipCache(path) for path in dict.fromkeys(item.inputs) if not path.endswith(WEIGHTS)]
    found = {cache.kind: cache for cache in caches}
    if len(found) != len(caches):
        raise MerError(f"inputs {listed(item.inputs)} hold one kind of product twice; name each kind once")
    needed = models.products(item.model, hyper)
    missing = [kind for kind in needed if kind not in found]
    if missing:
        raise MerError(f"model {item.model} reads {listed(needed)}; inputs hold {listed(found)}: add {listed(missing)}")
    for cache in caches:
        for name, value in cache.params.get("knobs", {}).items():
            if hyper.get(name, value) != value:
                raise MerError(
                    f"{cache.path}: was made with {item.model}.{name} {value}, this experiment has {hyper[name]}; set "
                    f"it in section {item.model}, for all experiments"
                )
    _, excluded = available(list(table.itertuples()), item.index, *caches)
    return [found[kind] for kind in needed], excluded


def read_weights(item) -> str | None:
    """The file of weights among the inputs."""
    found = [path for path in dict.fromkeys(item.inputs) if path.endswith(WEIGHTS)]
    if len(found) > 1:
        raise MerError(f"inputs name weights {listed(found)}; a model takes one file")
    if found and not hasattr(models.load(item.model), "load_weights"):
        raise MerError(f"inputs name weights {found[0]}, but model {item.model} takes none; remove them")
    return found[0] if found else None


def networks(item, caches: list[ClipCache], weights: str | None) -> dict[str, str]:
    """Every network that had a part in the predictions, and what its weights were before the folds."""
    found = {} if models.load(item.model).RECIPE is None else {item.model: "random"}
    for cache in caches:
        found |= cache.params.get("networks", {})
    return found | ({Path(weights).stem: told_of(weights)} if weights else {})


def about(stage, index, table, excluded: dict[str, str], weights: dict[str, str]) -> dict:
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
            "weights": weights,
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


def write(folder: Path, predictions, run_info: dict, selection: str, explanations: dict[str, dict]) -> None:
    """All files in one rename, so that the folder is there whole or not at all."""
    part = Path("data/.partial") / f"predictions-{folder.name}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    honest = predictions["selection"] == selection
    for name, rows in (("predictions", predictions[honest]), ("audit", predictions[~honest])):
        if len(rows):
            rows.to_csv(part / f"{name}.csv", index=False, lineterminator="\n", float_format="%.9g")
    if explanations:
        with CacheWriter(
            part / "explain.h5", kind="explain", ragged=False, params={"model": run_info["model"]}
        ) as file:
            for clip_id, found in explanations.items():
                file.append(clip_id, **found)
    (part / "run.json").write_text(json.dumps(run_info, indent=1, sort_keys=True) + "\n")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


if __name__ == "__main__":
    run("train", main)
