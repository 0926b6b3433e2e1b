"""Trains an experiment's model once, on all of its subjects; writes the recogniser data/recognisers/<experiment>/.

    python -m stages.fit synthetic-ststnet

By the experiment's own recipe, as its folds were trained. Its card says what leave-one-subject-out scored, on people
whom the models had not seen; nothing is measured on the clips that it was trained on.
"""

from pathlib import Path

import numpy as np

from mer import imports, models, validation
from mer.evaluation.calibration import tempered
from mer.evaluation.predictions import read_predictions
from mer.evaluation.reports import Details, Metric, read_json
from mer.loso import run as loso
from mer.recognise import bundle
from mer.recognise.bundle import Range, Scored
from mer.recognise.measures import entropy, looked_at
from mer.storage.cache import ClipCache
from mer.storage.files import replaced_folder
from mer.storage.weights import provenance
from stages._run import chosen, run
from stages.train import recipe, rows_of

# Sections of params.yaml by which the clips of a user are processed.
SECTIONS = ("landmarks", "align", "spot", "magnify_eulerian", "magnify_learned", "flow", "dynamic_image")


def main(
    stage, *, index: str, labels: str, classes: int, model: str, reads: list[str], out: str, data: str, form: str,
    weights: str | None = None, networks: list[str] | None = None, landmarks: str | None = None,
    flow: str | None = None,
):  # fmt: skip
    experiment, spec = chosen(stage.params.experiments, stage.key, "experiments"), models.load(model)
    validation.check_experiment(stage.params, stage.key, experiment)
    settings, knobs = stage.params.train.of(experiment), stage.params.knobs_of(experiment)
    caches = [ClipCache(path) for path in reads]
    table, _, _ = rows_of(index, labels, classes, caches)
    names, seed = table.attrs["class_names"], (list(settings.seeds) or [settings.seed])[0]
    fitted = loso.fitted(
        caches, table, model=model, classes=classes, knobs=knobs, recipe=experiment.recipe, seed=seed,
        selection=settings.selection, held_out=settings.held_out, weights=weights, device=stage.device,
    )  # fmt: skip
    details = read_json(Path("metrics/details") / f"{stage.key}.json", Details)
    metric = read_json(Path("metrics") / f"{stage.key}.json", Metric)
    predictions, _ = read_predictions(Path("data/predictions") / stage.key)
    temperature = float(details["calibration"]["temperature"])
    probability = predictions[[f"p{c}" for c in range(classes)]].to_numpy()
    others = {"landmarks": landmarks, "flow": flow}
    seen = looked_at({name: ClipCache(path) for name, path in others.items() if path}, table["id"].tolist())
    seen |= {"fps": table["fps"].to_numpy(float), "entropy": entropy(tempered(probability, temperature))}
    counts = np.bincount(table["label"], minlength=classes)
    card = {
        "experiment": stage.key, "model": model, "knobs": spec.all_knobs(knobs), "recipe": recipe(spec, experiment),
        "seed": seed, "classes": list(names), "corpus": experiment.corpus,
        "subjects": sorted(set(table["corpus"] + "/" + table["subject"].astype(str))), "n_clips": len(table),
        "class_counts": {name: int(n) for name, n in zip(names, counts, strict=True)},
        "loso": scored(metric, details), "temperature": temperature,
        "seen": {name: Range.of(values) for name, values in seen.items()},
        "form": form,
        "made_with": {"libraries": imports.versions()},
        "networks": {Path(path).stem: provenance(path) for path in [*(networks or []), *filter(None, [weights])]},
        "licence": bundle.LICENCES[data], "intended": bundle.INTENDED, "not_for": bundle.NOT_FOR,
        "params": {name: getattr(stage.params, name).model_dump(mode="json") for name in SECTIONS},
    }  # fmt: skip
    with replaced_folder(Path(out)) as fresh:
        bundle.write(fresh, card, fitted, {Path(path).stem: Path(path) for path in networks or []})


def scored(metric: dict, details: dict) -> Scored:
    interval = details["ci95"]["uf1"]
    return Scored(
        uf1=metric["uf1"], uar=metric["uar"], acc=metric["acc"], uf1_ci95=interval and tuple(interval),
        seeds=len(details["runs"]), n_clips=metric["n_clips"], n_subjects=metric["n_subjects"],
        leaky=details["protocol"]["leaky"],
    )  # fmt: skip


if __name__ == "__main__":
    run("fit", main)
