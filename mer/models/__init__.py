"""The models. A model is one file here, found by its name; nothing else has to know of it.

What the file declares:

    READS                 what `prepare` takes, in its order: products of mer.products, as (flow(frames("box224")),);
                          reads(knobs) instead, where that depends on knobs; it is given all of them
    RECIPE                how it is trained: fields of mer.loso.recipe.Recipe; None for a scikit-learn estimator
    build(classes, *, knob=default, …)        the network, paper size by default, or the estimator; downloads nothing
    prepare(*arrays)      what goes into it: an array with one row a clip. Learns nothing; sees one clip at a time. An
                          argument after a * is the knob of that name: prepare(flow, *, size); `weights` is the path of
                          the file of weights in READS, or None: a frozen network's outputs are inputs
    mirror(inputs)        optional: the same inputs for the mirrored face (flow changes the sign of u)
    VECTORS               optional: which channels of the inputs (B, C, H, W) are u and v in px, as a pair, or None for
                          none; a recipe may then turn and scale the faces
    check_recipe(recipe, knobs)               optional: raises MerError for a mer.loso.recipe.Recipe with which a
                          network of these knobs (all of them) cannot be trained. `make plan` calls it, and a training
                          before it begins, which then refuses nothing that could be known before
    loss(network, inputs, labels, row_weight) optional, instead of cross entropy: network(inputs) runs it; row_weight
                          (B,) is what each row counts, 1/n for a clip and 0 for padding; returns a scalar. It can run
                          the network and nothing else, so what it needs the network returns in training; in evaluation
                          a network returns logits (B, C)
    targets(aus, knobs)                       optional: what else the training clips teach: (N, T) float32 of the texts
                          of column `aus`, the action units that coders saw (mer.facs.coded_units), NaN where unknown;
                          or None, with knobs that need none. Where it is an array, `loss` is also given the batch's
                          rows (B, T), as its last argument
    load_weights(network, path)               optional: gives a new network the weights of a file, which stands in READS
                          as weights("name"); returns it
    explain(network, inputs)                  optional: what a trained network finds in clips, arrays (B, …) by name, of
                          which one is `data`; kept in explain.h5 for the clips that it was not trained on. It may take
                          gradients; one that needs none says torch.no_grad itself
    explain_training(network, inputs, labels) optional: the same of clips that it was trained on, (B,) by name; kept
                          beside, as the mean over the networks that were trained on the clip
    probes(network, inputs)                   optional: what a network that has seen no label computes of clips, arrays
                          (B, …) by name in the order of the computation; tools.probe says what can be told from each

A model that reads several modalities packs them into the channels of one array a clip: `prepare` is given them all and
puts them side by side, VECTORS says which channels are u and v (docs/conventions.md).

What a network draws at random comes from nn.Dropout layers or those of mer.networks.random_layers, each of which the
engine gives the fold's own stream; a parameter that requires no gradient is not trained. No bias stands directly
before a batch norm, which takes it out again (its gradient is rounding, and Adam makes steps of that).

A model's knobs are the keyword arguments of its `build`, annotated bool, int, float, str or Literal; a value that
`build` cannot use is a ValueError or a MerError.
"""

import difflib
import functools
import importlib
import inspect
import numbers
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from mer.errors import MerError, listed, short, suggestion
from mer.products import Product, Weights

# What a file may declare: name -> whether a file without it is refused. READS may be a function, reads.
DECLARATIONS = {
    "READS": True, "RECIPE": True, "build": True, "prepare": True, "mirror": False, "VECTORS": False,
    "check_recipe": False, "loss": False, "targets": False, "load_weights": False, "explain": False,
    "explain_training": False, "probes": False,
}  # fmt: skip
READS_BY_KNOB = "reads"
WEIGHTS = "weights"  # an argument of `prepare`


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model file declares; an optional declaration that it does not have is None."""

    name: str
    reads: Callable[[dict[str, Any]], tuple[Product | Weights, ...]]
    recipe: dict[str, Any] | None
    build: Callable[..., Any]
    prepare: Callable[..., Any]
    mirror: Callable[..., Any] | None
    vectors: tuple[int, int] | None
    declares_vectors: bool
    check_recipe: Callable[..., None] | None
    loss: Callable[..., Any] | None
    targets: Callable[..., Any] | None
    load_weights: Callable[..., Any] | None
    explain: Callable[..., Any] | None
    explain_training: Callable[..., Any] | None
    probes: Callable[..., Any] | None

    @property
    def path(self) -> str:
        """The file, for messages."""
        return f"mer/models/{self.name}.py"

    @functools.cached_property
    def knobs(self) -> dict[str, inspect.Parameter]:
        """The keyword arguments of `build` by name."""
        return _keywords(self.build)

    def prepared(self, arrays: Sequence[Any], knobs: dict[str, Any], weights: str | None = None) -> Any:
        """What `prepare` makes of the arrays, with the knobs that it asks for; `knobs` as for `all_knobs`."""
        known = self.all_knobs(knobs) | {WEIGHTS: weights}
        return self.prepare(*arrays, **{name: known[name] for name in _keywords(self.prepare)})

    @property
    def takes_weights(self) -> bool:
        """Whether a file of weights may stand in READS."""
        return self.load_weights is not None or WEIGHTS in _keywords(self.prepare)

    def all_knobs(self, changes: dict[str, Any]) -> dict[str, Any]:
        """The defaults of `build`, with changes."""
        return {name: parameter.default for name, parameter in self.knobs.items()} | changes


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


@functools.cache
def load(name: str) -> ModelSpec:
    """What the model's file declares. Raises MerError for an unknown model, and a missing or misspelt declaration."""
    if name not in names():
        raise MerError(f"model {name!r} is unknown; {suggestion(name, names())}")
    module = importlib.import_module(f"mer.models.{name}")
    path = f"mer/models/{name}.py"
    found, valid = vars(module), [*DECLARATIONS, READS_BY_KNOB]
    for key in sorted(found.keys() - set(valid)):
        near = difflib.get_close_matches(key.lower(), [v.lower() for v in valid], n=1, cutoff=0.85)
        if near and not key.startswith("_") and not inspect.isclass(found[key]) and not inspect.ismodule(found[key]):
            meant = next(v for v in valid if v.lower() == near[0])
            raise MerError(f"{path} declares {key}, which no model has; did you mean {meant!r}? Else rename it")
    missing = [key for key, needed in DECLARATIONS.items() if needed and key not in found]
    if READS_BY_KNOB in found:
        if "READS" in found:
            raise MerError(f"{path} declares READS and reads; keep one of them")
        missing.remove("READS")
    if missing:
        raise MerError(f"{path} declares no {listed(missing)}; see mer/models/__init__.py for what a model needs")
    if unknown := [knob for knob in _keywords(found["prepare"]) if knob not in {WEIGHTS, *_keywords(found["build"])}]:
        raise MerError(f"{path}: prepare asks for the knob {listed(unknown)}, which build does not have; add it there")
    if "targets" in found and (found["RECIPE"] is None or "loss" not in found):
        raise MerError(f"{path} declares targets, which only a network's own loss is given; declare loss, or remove it")
    if "explain_training" in found and "explain" not in found:
        raise MerError(f"{path} declares explain_training without explain, beside which it is kept; declare both")
    return ModelSpec(
        name=name, reads=found.get(READS_BY_KNOB) or (lambda knobs: found["READS"]), recipe=found["RECIPE"],
        build=found["build"], prepare=found["prepare"], mirror=found.get("mirror"), vectors=found.get("VECTORS"),
        declares_vectors="VECTORS" in found, check_recipe=found.get("check_recipe"), loss=found.get("loss"),
        targets=found.get("targets"), load_weights=found.get("load_weights"), explain=found.get("explain"),
        explain_training=found.get("explain_training"), probes=found.get("probes"),
    )  # fmt: skip


def _keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only arguments of a function by name."""
    parameters = inspect.signature(function, eval_str=True).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build(name: str, classes: int, **knobs: Any) -> Any:
    """A model for `classes` classes, of the paper's size unless `knobs` say otherwise, randomly initialised.

    Returns an nn.Module (or, for `linear`, a scikit-learn estimator). Raises MerError for an unknown model or knob, and
    for fewer than 2 classes or what is no number of classes.
    """
    load(name)
    given: Any = classes
    if isinstance(given, bool) or not isinstance(given, numbers.Integral) or given < 2:
        raise MerError(f"{name}: classes is {classes!r}; needed is a whole number, 2 at least")
    check_knobs(name, knobs)
    return load(name).build(classes, **knobs)


def check_knobs(name: str, values: dict[str, Any], where: str | None = None) -> None:
    """Raise MerError for a knob that the model does not have, or a value of another type or outside its list."""
    where = where or name
    valid = load(name).knobs
    for knob, value in values.items():
        if knob not in valid:
            raise MerError(f"{where}.{knob} is unknown; {suggestion(knob, valid)}")
        check_value(f"{where}.{knob}", value, valid[knob].annotation)


def check_value(where: str, value: Any, annotation: Any) -> None:
    """Raise MerError unless `value` is what a plain annotation (bool, int, float, str, Literal) allows."""
    if get_origin(annotation) is Literal:
        if value not in get_args(annotation):
            raise MerError(f"{where} is {short(value)}; valid: {', '.join(map(str, get_args(annotation)))}")
        return
    if annotation not in (bool, int, float, str):
        raise MerError(
            f"{where}: its annotation {annotation} is none of bool, int, float, str, Literal; change the model"
        )
    allowed = {float: (float, int)}.get(annotation, annotation)
    right = isinstance(value, allowed) and (annotation is bool or not isinstance(value, bool))
    if not right:
        raise MerError(f"{where} is {short(value)}; needed is a value of type {annotation.__name__}")
