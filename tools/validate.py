"""Checks all of params.yaml before anything runs, the models' knobs and recipes and the user's raw data included.

python -m tools.validate
"""

import sys
from pathlib import Path

import numpy as np

from mer import corpora, models
from mer.corpora import megc2019_flow
from mer.errors import MerError, listed, suggestion
from mer.loso import augmentation
from mer.loso.recipe import Recipe
from mer.magnification.magnet import named_factors
from mer.params import Params, load
from stages.train import read_weights


def check(params: Params) -> None:
    """Raise MerError for the first thing that cannot work."""
    used = {item.knobs for item in params.experiments.values()}
    for section in params.knobs:
        if section not in {*used, *models.names(), "none"}:
            valid = [*used, *models.names(), *(f for f in Params.model_fields if f != "knobs")]
            raise MerError(f"params.yaml: section {section!r} is unknown; {suggestion(section, valid)}")
    for name, item in params.experiments.items():
        check_experiment(params, name, item)
    for section in ("figures", "join"):
        for name, run in getattr(params, section).runs.items():
            class_lists(f"{section}.runs.{name}", run.labels, run.classes)


def check_experiment(params: Params, name: str, item) -> None:
    where = f"params.yaml: experiments.{name}"
    module = models.load(item.model)
    hyper = {**params.knobs[item.knobs], **item.overrides}
    models.check_knobs(item.model, params.knobs[item.knobs], f"params.yaml: {item.knobs}")
    models.check_knobs(item.model, item.overrides, f"{where}.overrides")
    try:
        models.build(item.model, item.classes, **hyper)
    except (ValueError, RuntimeError) as error:
        raise MerError(f"{where}: model {item.model} cannot be built with {hyper}: {error}") from None
    if module.RECIPE is None and item.recipe:
        raise MerError(f"{where}.recipe: model {item.model} is no network and has no recipe; remove it")
    if module.RECIPE is not None:
        augmentation.of_model(
            module, Recipe.of(module.RECIPE, item.recipe, f"{where}.recipe"), f"mer/models/{item.model}.py"
        )
    class_lists(f"experiments.{name}", item.labels, item.classes)
    read_weights(item)
    kinds = {Path(path).stem for path in item.inputs if path.endswith(".h5")}
    missing = set(models.products(item.model, hyper)) - kinds
    if item.model == "uamrn":
        check_sequence(params, where, {n: p.default for n, p in models.knobs("uamrn").items()} | hyper)
    if missing:
        raise MerError(f"{where}.inputs: model {item.model} also reads {listed(sorted(missing))}; add its product")


def check_sequence(params: Params, where: str, hyper: dict) -> None:
    """Whether the magnified frames that will be made are those that UAMRN is told of (U-01, U-27)."""
    factors = named_factors(params.magnify_learned.factors)
    if hyper["length"] != len(factors):
        raise MerError(
            f"{where}: uamrn.length is {hyper['length']}, magnify_learned.factors {params.magnify_learned.factors} are "
            f"{len(factors)}; make them agree"
        )
    ends = np.linspace(hyper["first_factor"], hyper["last_factor"], len(factors))
    if hyper["position"] == "factor" and not np.allclose(ends, factors):
        raise MerError(
            f"{where}: uamrn.position is factor, but uamrn.first_factor and last_factor do not make the factors "
            f"{params.magnify_learned.factors}; make them agree"
        )


def class_lists(where: str, labels: str, classes: int) -> None:
    try:
        corpora.class_lists(labels, classes)
    except MerError as error:
        raise MerError(f"params.yaml: {where}: {error}") from None


def check_raw(params: Params) -> None:
    """Raise MerError when a corpus that the user brings is not there."""
    made = {f"data/raw/{name}/corpus" for name in params.synthesize.runs}
    for name, run in params.index.runs.items():
        if run.raw not in made and not Path(run.raw).exists():
            raise MerError(
                f"{run.raw}: is missing; unpack the corpus there (docs/corpora.md), or correct index.runs.{name}.raw"
            )
        if run.raw not in made and not Path(run.watch).exists():
            raise MerError(f"{run.watch}: is missing; make it with: make manifest C={name}")
    for run in params.import_flow.runs.values():
        if not Path(run.raw).is_dir():
            how = " && ".join(megc2019_flow.how(run.raw))
            raise MerError(f"{run.raw}: is missing; bring the release with: mkdir -p {run.raw} && {how}")


def main() -> None:
    try:
        params = load("params.yaml")
        check(params)
        check_raw(params)
    except MerError as error:
        sys.exit(f"params: {error}")
    print(f"params.yaml is valid: preset {params.preset}, {len(params.experiments)} experiments")


if __name__ == "__main__":
    main()
