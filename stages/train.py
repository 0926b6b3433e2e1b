"""Trains a model with each subject left out once; writes data/predictions/<experiment>/.

    python -m stages.train synthetic-ststnet

What is in the folder: mer/evaluation/predictions.py. Finished folds survive a kill.
"""

from dataclasses import asdict
from pathlib import Path

from mer import corpora, models, validation
from mer.clips import read_index
from mer.errors import MerError
from mer.evaluation.predictions import describe_run, write_predictions
from mer.loso import nested
from mer.loso import run as loso
from mer.plan import derive_training
from mer.storage.build import available
from mer.storage.cache import ClipCache
from mer.storage.spool import Spool
from mer.storage.weights import provenance, subjects_seen
from stages._run import chosen, run


def main(
    stage, *, index: str, labels: str, classes: int, model: str, reads: list[str], out: str, weights: str | None = None,
    candidates: list[str] | None = None, made: list[str] | None = None,
):  # fmt: skip
    experiment, spec = chosen(stage.params.experiments, stage.key, "experiments"), models.load(model)
    validation.check_experiment(stage.params, stage.key, experiment)
    check_plan(stage)
    settings, knobs = stage.section.of(experiment), stage.params.knobs_of(experiment)
    caches = [ClipCache(path) for path in reads]
    table, everything, excluded = rows_of(index, labels, classes, caches)
    names = table.attrs["class_names"]
    if made:
        table = table.assign(origin=table["corpus"].isin(made).map({True: "simulated", False: "recorded"}))
    if settings.shuffled:
        table = shuffled(table, seed=settings.seed)
    seeds, explanations, choices = list(settings.seeds) or [settings.seed], {}, None
    with Spool(stage.spool) as spool:
        common = {
            "model": model, "classes": classes, "seeds": seeds, "audit": settings.audit, "held_out": settings.held_out,
            "leave_out": settings.leave_out, "folds_in_parallel": settings.folds_in_parallel, "device": stage.device,
            "engine": stage.engine, "spool": spool, "code": stage.code(),
        }  # fmt: skip
        if candidates:
            chosen_from = {
                name: _candidate(stage, one, caches, weights, places.split(","))
                for (name, one), places in zip(
                    stage.params.candidates_of(experiment).items(),
                    (text.partition("=")[2] for text in candidates),
                    strict=True,
                )
            }
            predictions, choices = nested.run(
                chosen_from, table, selection=settings.selection, inner=settings.inner, **common
            )
        else:
            predictions = loso.run(
                caches, table, knobs=knobs, recipe=experiment.recipe, selection=settings.selection,
                validation=settings.validation, weights=weights, explained=explanations.__setitem__, **common,
            )  # fmt: skip
        # The folds stay in the spool: DVC has not recorded the folder yet, and a kill before it has must not cost them.
        run_info = describe_run(
            experiment=stage.key, model=model, knobs=spec.all_knobs(knobs), recipe=recipe(spec, experiment),
            class_names=names, inputs=[*reads, *([weights] if weights else [])], excluded=excluded,
            n_of_other_classes=len(everything) - len(table) - sum(i in excluded for i in everything["id"]),
            editions=dict(zip(table["corpus"], table["edition"], strict=True)), device=stage.device, protocol={
                "selection": settings.selection, "held_out": settings.held_out, "seeds": seeds,
                "folds_in_parallel": settings.folds_in_parallel, "weights": networks(spec, caches, weights),
                "leaky": leaks(spec, experiment, settings),
                "transductive": bool(seen(caches, weights) & set(table["corpus"] + "/" + table["subject"])),
                **({"shuffled": True} if settings.shuffled else {}),
                **({"validation": settings.validation} if settings.validation != "held_out" else {}),
                **({"leave_out": settings.leave_out} if settings.leave_out != "subject" else {}),
                **({"inner": settings.inner} if settings.selection == nested.NESTED else {}),
                **({"candidates": _described(stage, spec, experiment)} if candidates else {}),
            },
        )  # fmt: skip
        honest = predictions["selection"] == settings.selection
        write_predictions(Path(out), predictions[honest], predictions[~honest], run_info, explanations, choices)


def _candidate(stage, experiment, caches: list[ClipCache], weights: str | None, places: list[str]) -> nested.Candidate:
    """places: those of its products among the caches, and w where it begins with the weights."""
    return nested.Candidate(
        arrays=[caches[int(place)] for place in places if place != "w"], knobs=stage.params.knobs_of(experiment),
        recipe=experiment.recipe, weights=weights if "w" in places else None,
    )  # fmt: skip


def _described(stage, spec, experiment) -> dict[str, dict]:
    """The candidates with all their knobs and recipes."""
    return {
        name: {"knobs": spec.all_knobs(stage.params.knobs_of(one)), "recipe": recipe(spec, one)}
        for name, one in stage.params.candidates_of(experiment).items()
    }


def rows_of(index: str, labels: str, classes: int, caches: list[ClipCache]):
    """The clips of an index that have a class and are in every product; the whole index; what products exclude."""
    everything = read_index(Path(index))
    table = corpora.select(everything, labels, classes)
    _, excluded = available(list(table.itertuples()), index, *caches)
    return table[~table["id"].isin(excluded)], everything, excluded


def check_plan(stage) -> None:
    """Raise MerError when the model reads, or imports, something else than when the plan was made."""
    if stage.entry() != derive_training(stage.params, stage.key):
        raise MerError("plan.yaml is older than the model's file, which reads or imports something else; run make plan")


def shuffled(table, seed: int):
    """The same clips, their labels exchanged at random; the counts of the classes stay."""
    import numpy as np

    return table.assign(label=np.random.default_rng(seed).permutation(table["label"].to_numpy()))


def leaks(spec, experiment, settings) -> bool:
    """Whether an epoch, a rate or the end of the training was chosen on the test subject."""
    from mer.loso.recipe import Recipe

    if spec.recipe is None or settings.validation == "held_out":
        return settings.selection == loso.LEAKY
    looked_at = Recipe.of(spec.recipe, experiment.recipe).needs_validation or settings.selection == "inner_val"
    return looked_at or settings.selection == loso.LEAKY


def recipe(spec, experiment) -> dict | None:
    """How a network is trained, complete; None for an estimator."""
    from mer.loso.recipe import Recipe

    return None if spec.recipe is None else asdict(Recipe.of(spec.recipe, experiment.recipe))


def networks(spec, caches: list[ClipCache], weights: str | None) -> dict[str, str]:
    """Every network that had a part in the predictions, and what its weights were before the folds."""
    found = {} if spec.recipe is None else {spec.name: "random"}
    for cache in caches:
        found |= cache.params.get("networks", {})
    return found | ({Path(weights).stem: provenance(weights)} if weights else {})


def seen(caches: list[ClipCache], weights: str | None) -> set[str]:
    """The subjects, <corpus>/<subject>, that a network had seen before the folds."""
    found = {subject for cache in caches for subject in cache.params.get("subjects_seen", ())}
    return found | (subjects_seen(weights) if weights else set())


if __name__ == "__main__":
    run("train", main)
