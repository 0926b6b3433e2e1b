"""The models. A model is one file here, found by its name; the registry needs no entry.

What the file declares:

    PRODUCTS            kinds of the products it reads, e.g. ("flow",); `prepare` takes their arrays in this order.
                        products(knobs) instead, where that depends on knobs; it is given all of them
    RECIPE              how it is trained: fields of mer.loso.recipe.Recipe; None for a scikit-learn estimator
    build(classes, *, knob=default, …)      the network, paper size by default, or the estimator; nothing is downloaded
    prepare(*arrays)    what goes into it: an array with one row a clip. Learns nothing; sees one clip at a time
    mirror(inputs)      optional: the same inputs for the mirrored face (flow changes the sign of u)
    VECTORS             optional: which channels of the inputs (B, C, H, W) are u and v in px, as a pair, or None for
                        none; a recipe may then turn and scale the faces
    loss(network, inputs, labels, share)        optional, instead of cross entropy: network(inputs) runs it; share (B,)
                        is what each row counts, 1/n for a clip and 0 for padding; returns a scalar. It can run the
                        network and nothing else, so what it needs the network returns in training; in evaluation a
                        network returns logits (B, C)
    load_weights(network, path)                 optional: gives a new network what was trained elsewhere; returns it
    explain(network, inputs)                    optional: what a trained network finds in clips, arrays (B, …) by name,
                        of which one is `data`; kept in explain.h5 for the clips that it was not trained on
    weigh(network, inputs, labels)              optional, (B,): what training clips count in the loss; kept there, too

What a network draws at random comes from nn.Dropout layers or those of mer.networks.random_layers, each of which the
engine gives the fold's own stream; a parameter that requires no gradient is not trained. No bias stands directly
before a batch norm, which takes it out again (its gradient is rounding, and Adam makes steps of that).

A model's knobs are the keyword arguments of its `build`, annotated bool, int, float, str or Literal; a value that
`build` cannot use is a ValueError or a MerError.
"""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

from mer.errors import MerError, suggestion


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The model's module. Raises MerError naming what it lacks."""
    if name not in names():
        raise MerError(f"model {name!r} is unknown; {suggestion(name, names())}")
    module = importlib.import_module(f"mer.models.{name}")
    for needed in ("PRODUCTS", "RECIPE", "build", "prepare"):
        if not hasattr(module, needed) and not (needed == "PRODUCTS" and hasattr(module, "products")):
            raise MerError(
                f"mer/models/{name}.py declares no {needed}; see mer/models/__init__.py for what a model needs"
            )
    return module


def build(name: str, classes: int, **hyper):
    """A model for `classes` classes, of the paper's size unless `hyper` says otherwise, randomly initialised.

    Returns an nn.Module (or, for `linear`, a scikit-learn estimator). Raises MerError for an unknown model or knob.
    """
    check_knobs(name, hyper)
    return load(name).build(classes, **hyper)


def products(name: str, hyper: dict[str, Any]) -> tuple[str, ...]:
    """The kinds of the products that the model reads with these knobs, in the order of its `prepare`."""
    module = load(name)
    if not hasattr(module, "products"):
        return module.PRODUCTS
    return module.products({n: p.default for n, p in knobs(name).items()} | hyper)


def knobs(name: str) -> dict[str, inspect.Parameter]:
    """The model's knobs by name."""
    parameters = inspect.signature(load(name).build, eval_str=True).parameters
    return {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check_knobs(name: str, values: dict[str, Any], where: str | None = None) -> None:
    """Raise MerError for a knob that the model does not have, or a value of another type or outside its list."""
    where = where or name
    valid = knobs(name)
    for knob, value in values.items():
        if knob not in valid:
            raise MerError(f"{where}.{knob} is unknown; {suggestion(knob, valid)}")
        check_value(f"{where}.{knob}", value, valid[knob].annotation)


def check_value(where: str, value: Any, annotation: Any) -> None:
    """Raise MerError unless `value` is what a plain annotation (bool, int, float, str, Literal) allows."""
    if get_origin(annotation) is Literal:
        if value not in get_args(annotation):
            raise MerError(f"{where} is {value!r}; valid: {', '.join(map(str, get_args(annotation)))}")
        return
    if annotation not in (bool, int, float, str):
        raise MerError(
            f"{where}: its annotation {annotation} is none of bool, int, float, str, Literal; change the model"
        )
    allowed = {float: (float, int)}.get(annotation, annotation)
    right = isinstance(value, allowed) and (annotation is bool or not isinstance(value, bool))
    if not right:
        raise MerError(f"{where} is {value!r}; needed is a value of type {annotation.__name__}")
