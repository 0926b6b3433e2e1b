"""Checks all of params.yaml before anything runs, the models' knobs and recipes and the user's raw data included.

python -m tools.validate
"""

import sys
from pathlib import Path

from mer import models
from mer.corpora import SELECTIONS, megc2019_flow
from mer.errors import MerError, suggestion
from mer.params import Params, load
from mer.training.recipe import Recipe


def check(params: Params) -> None:
    """Raise MerError for the first thing that cannot work."""
    for name, item in params.experiments.items():
        where = f"params.yaml: experiments.{name}"
        models.check_knobs(item.model, params.knobs[item.knobs], f"params.yaml: {item.knobs}")
        models.check_knobs(item.model, item.overrides, f"{where}.overrides")
        declared = models.load(item.model).RECIPE
        if declared is None and item.recipe:
            raise MerError(f"{where}.recipe: model {item.model} is no network and has no recipe; remove it")
        if declared is not None:
            Recipe.of(declared, item.recipe, f"{where}.recipe")
        if item.corpus not in SELECTIONS:
            raise MerError(f"{where}.corpus {item.corpus!r} has no class lists; {suggestion(item.corpus, SELECTIONS)}")
        if item.classes not in SELECTIONS[item.corpus]:
            raise MerError(f"{where}.classes is {item.classes}; {item.corpus} has {sorted(SELECTIONS[item.corpus])}")


def check_raw(params: Params) -> None:
    """Raise MerError when a corpus that the user brings is not there."""
    made = {f"data/raw/{name}/corpus" for name in params.synthesize.runs}
    for name, run in params.index.runs.items():
        if run.raw not in made and not Path(run.raw).exists():
            raise MerError(f"{run.raw}: is missing; unpack the corpus there, or correct index.runs.{name}.raw")
    for run in params.import_flow.runs.values():
        if not Path(run.raw).is_dir():
            how = " && ".join(megc2019_flow.HOW)
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
