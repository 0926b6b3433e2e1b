"""What can be checked of params.yaml before anything runs, beyond the types of mer.params.

`make plan` and `make repro` check everything; stage train checks its own experiment by the same function.
"""

import contextlib
import importlib
import inspect
import shlex
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mer import corpora, models
from mer.errors import MerError, suggestion
from mer.loso import augmentation, task
from mer.loso.nested import MEAN, NESTED
from mer.loso.recipe import Recipe
from mer.params import Experiment, Params
from mer.plan import Plan, labels_of
from mer.pretraining import back_again
from mer.storage.files import digest


def check(params: Params) -> None:
    """Raise MerError for the first thing that cannot work."""
    for section in params.knobs:
        if section not in models.names():
            valid = [*models.names(), *(f for f in Params.model_fields if f != "knobs")]
            raise MerError(f"params.yaml: section {section!r} is unknown; {suggestion(section, valid)}")
    for name, corpus in params.corpora.items():
        check_classes(f"corpora.{name}", labels_of(name, corpus), corpus.classes)
    for name, run in params.pretrain.runs.items():
        # Others' networks are no models; a model's own are knobs of its `build`.
        if run.task in ("frame_pairs", "macro_sets") and run.network in models.names():
            models.check_knobs(run.network, run.knobs, f"params.yaml: pretrain.runs.{name}.knobs")
            if run.task == "frame_pairs" and "size" in run.knobs:
                raise MerError(f"params.yaml: pretrain.runs.{name}.knobs.size: the run has a size of its own; set that")
    with _without_weights() if len(params.experiments) > MANY else contextlib.nullcontext():
        for name, experiment in params.experiments.items():
            check_experiment(params, name, experiment)


MANY = 6  # experiments: to draw the weights of as many networks takes longer than the imports of a device without any


def _without_weights() -> contextlib.AbstractContextManager:
    """Inside, networks are built as shapes alone: two ViT-B in 0.1 s instead of 3."""
    import torch

    return torch.device("meta")


def check_experiment(params: Params, name: str, experiment: Experiment) -> None:
    """Raise MerError for a knob, a recipe or classes with which the experiment cannot be trained."""
    where = f"params.yaml: experiments.{name}"
    try:
        _check_experiment(params, where, experiment)
    except MerError as error:
        if str(error).startswith("params.yaml: "):
            raise
        raise MerError(f"{where}: {error}") from None


def _check_experiment(params: Params, where: str, experiment: Experiment) -> None:
    selection = params.train.of(experiment).selection
    several = selection in (NESTED, MEAN)
    if several and len(experiment.candidates) < 2:
        raise MerError(f"{where}.candidates: selection {selection} needs two or more; add some, or set another")
    if experiment.candidates and not several:
        raise MerError(f"{where}.candidates: selection {selection} has none; set nested or mean, or remove them")
    if selection == MEAN and params.train.of(experiment).audit:
        raise MerError(f"{where}.audit: with selection mean nothing is chosen that an audit could measure; remove it")
    if params.train.of(experiment).inner == 1:
        raise MerError(f"{where}.inner is 1: one group leaves nothing to train on; take 0 or 2 and more")
    known: dict[str, str] = {}
    for name, one in params.candidates_of(experiment).items():
        place = f"{where}.candidates.{name}" if name else where
        what = _check_one(params, place, one)
        other = known.setdefault(what, name)
        if other != name:
            raise MerError(f"{where}.candidates: {other} and {name} differ in nothing; change one, or leave it out")


def _check_one(params: Params, where: str, experiment: Experiment) -> str:
    """A digest of what the experiment, or a candidate of one, is trained with."""
    spec = models.load(experiment.model)
    models.check_knobs(spec.name, params.knobs.get(spec.name, {}), f"params.yaml: {spec.name}")
    models.check_knobs(spec.name, experiment.knobs, f"{where}.knobs")
    corpus = params.corpora[experiment.corpus]
    classes = experiment.classes or corpus.classes
    check_classes(
        where.removeprefix("params.yaml: "), experiment.labels or labels_of(experiment.corpus, corpus), classes
    )
    knobs = params.knobs_of(experiment)
    try:
        network = models.build(spec.name, classes, **knobs)
    except (ValueError, RuntimeError) as error:
        raise MerError(f"{where}: model {spec.name} cannot be built with {knobs}: {error}") from None
    if spec.recipe is None and experiment.recipe:
        raise MerError(f"{where}.recipe: model {spec.name} is no network and has no recipe; remove it")
    if spec.recipe is not None:
        augmentation.of_model(spec, Recipe.of_model(spec, experiment.recipe, knobs, f"{where}.recipe"))
        try:
            task.controlled(network)
        except MerError as error:
            raise MerError(f"{where}: {spec.path}: {error}") from None
    recipe = asdict(Recipe.of(spec.recipe, experiment.recipe)) if spec.recipe is not None else {}
    return digest(spec.all_knobs(knobs), recipe)


def check_classes(where: str, labels: str, classes: int) -> None:
    try:
        corpora.class_lists(labels, classes)
    except MerError as error:
        raise MerError(f"params.yaml: {where}: {error}") from None


def settings_of_embedding(by: str, settings: Iterable[str]) -> dict[str, Any]:
    """`tap=layer2`, `grid=4` as the keyword arguments of mer.<by>.features. Raises MerError for others than it has."""
    where = f"mer.{by}.features"
    function = getattr(importlib.import_module(f"mer.{by}"), "features", None)
    if function is None:
        raise MerError(f"mer.{by} has no function features; correct the model's READS")
    known = inspect.signature(function, eval_str=True).parameters
    found: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in known:
            raise MerError(f"{where} has no argument {name!r}; {suggestion(name, known)}")
        kind: Any = known[name].annotation
        value: Any = text
        with contextlib.suppress(ValueError):  # models.check_value says what is wrong with it
            value = {"True": True, "False": False}.get(text, text) if kind is bool else text
            value = kind(text) if kind in (int, float) else value
        models.check_value(f"{where}: {name}", value, kind)
        found[name] = value
    return found


def check_plan(plan: Plan) -> None:
    """Raise MerError for a plan of which a stage would be called with what its function does not take."""
    for key, entry in plan["embed"].items():
        try:
            settings_of_embedding(entry["args"]["by"], entry["args"].get("settings", ()))
        except MerError as error:
            raise MerError(f"embed@{key}: {error}") from None


def check_raw(params: Params, plan: Plan) -> None:
    """Raise MerError when what the user brings is not there: a corpus, its manifest, a release, a folder of weights."""
    for name, entry in plan["index"].items():
        raw, watch = entry["args"]["raw"], entry["watch"]
        if name in plan["synthesize"]:
            continue
        if not Path(raw).exists():
            raise MerError(
                f"{raw}: is missing; unpack the corpus there (docs/corpora.md), or correct corpora.{name}.raw"
            )
        if not Path(watch).exists():
            raise MerError(f"{watch}: is missing; make it with: make manifest C={name}")
    for entry in plan["import_flow"].values():
        raw = entry["args"]["raw"]
        if not Path(raw).is_dir():
            how = " && ".join(corpora.load(entry["args"]["reader"]).RELEASE.how(raw))
            raise MerError(f"{raw}: is missing; bring the release with: mkdir -p {shlex.quote(raw)} && {how}")
    for name, corpus in params.corpora.items():
        for part, sheet in corpus.sheets.items():
            if not Path(sheet).is_file():
                raise MerError(
                    f"{sheet}: is missing; put the label sheet there (docs/corpora.md), or correct "
                    f"corpora.{name}.sheets.{part}"
                )
    chosen = params.figures.macro
    if any(entry["args"].get("macro_reader") == chosen for entry in plan["figures"].values()) and chosen is not None:
        raw = f"data/raw/{chosen}"
        if not Path(raw).is_dir():
            raise MerError(f"{raw}: is missing; unpack the set there (docs/macro.md), or set figures.macro to null")
    for name in plan["pretrain"]:
        run = params.pretrain.runs[name]
        for field in ("user_weights", "raw", "watch"):
            path = getattr(run, field, None)
            if path is not None and not Path(path).exists():
                raise MerError(f"{path}: is missing; make that folder, or correct pretrain.runs.{name}.{field}")
        bundled = getattr(run, "bundled", None)
        if bundled is not None and not Path(bundled).is_file():
            raise MerError(f"{bundled}: is missing; {back_again(bundled, f'pretrain.runs.{name}')}")
        if run.task == "macro_sets":
            models.check_knobs(run.network, run.knobs, f"params.yaml: pretrain.runs.{name}.knobs")
        for reader, one in run.located().items() if run.task == "macro_sets" else ():
            for field in ("raw", "watch"):
                if not Path(one[field]).exists():
                    raise MerError(
                        f"{one[field]}: is missing; make that folder, or correct pretrain.runs.{name}.sets.{reader}"
                        f".{field}"
                    )
