"""What every model must pass, like scikit-learn's check_estimator. A new file of mer/models needs no entry here.

Shapes: N clips, C classes.
"""

import inspect
import io
import pickle
import re
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from torch import nn

from mer import models
from mer.errors import MerError
from mer.loso import run as loso
from mer.loso.augmentation import of_model
from mer.loso.recipe import Recipe
from mer.loso.stacked_folds import vmap_obstacle
from mer.loso.task import TrainingPlan, cross_entropy
from mer.networks import norm, random_layers
from mer.networks.resnet import CHANNELS
from mer.products import Product, Weights, named_factors

pytestmark = pytest.mark.usefixtures("one_thread")

# Where the paper's size takes too long: (knobs, px of the crop). The defaults and the crop's own size elsewhere.
SIZES = {
    "micronbert": ({"size": 32, "width": 16, "layers": 2, "heads": 2}, 32),
    "msmmt": ({"size": 128, "width": 16, "layers": 2, "heads": 2, "fc1": 8, "start": "random"}, 128),
    "au_linear": ({"units": False}, 28),  # without weights; tests/models/test_au_linear.py has some
    "uamrn": ({"factors": "linspace_2_13_3", "tap": "layer1", "grid": 1, "d_model": 16, "blocks": 1, "samples": 2}, 32),
}
# Why a network cannot be trained with other folds in parallel, as vmap_obstacle says it.
KNOWN_OBSTACLES: dict[str, str] = {}
# Where conf/base.yaml differs from the defaults of `build`, with the reason.
DIFFERENT_IN_BASE = {
    "uamrn": {"features": True},  # a frozen ResNet makes its features once, in stage embed
}

N, NAMES = 7, models.names()
NETWORKS = [name for name in NAMES if models.load(name).recipe is not None]
ESTIMATORS = [name for name in NAMES if name not in NETWORKS]
FRAMES = 4  # of a clip


def knobs_of(name: str) -> dict:
    return SIZES.get(name, ({}, 0))[0]


def build(name: str, classes: int = 3, seed: int = 0):
    torch.manual_seed(seed)
    return models.build(name, classes, **knobs_of(name))


def reads(name: str, knobs: dict | None = None) -> list[Product]:
    """The products among what the model reads; knobs: instead of those of SIZES."""
    spec = models.load(name)
    found = spec.reads(spec.all_knobs(knobs_of(name) if knobs is None else knobs))
    return [one for one in found if isinstance(one, Product)]


def array(product: Product, side: int, rng: np.random.Generator) -> np.ndarray:
    """N clips of a product, of random content."""
    settings = dict(product.settings)
    grey = {"frames": (FRAMES, side, side, 3), "pair": (2, side, side, 3), "dynamic_image": (side, side, 3),
            "apex_frame": (side, side, 3)}  # fmt: skip
    if product.kind == "magnet":
        grey["magnet"] = (len(named_factors(settings["factors"])), side, side, 3)
    if product.kind in grey:
        return rng.integers(0, 256, (N, *grey[product.kind]), dtype=np.uint8)
    real = {"flow": (3, side, side), "flow_offset": (3, side, side), "flows": (FRAMES - 1, 3, side, side)}
    if product.kind == "embedding" and settings["by"] == "networks.resnet":
        how = dict(setting.split("=") for setting in settings["settings"])
        factors = dict(dict(product.reads)["sequence"].settings)["factors"]
        real["embedding"] = (len(named_factors(factors)), CHANNELS[how["tap"]] * int(how["grid"]) ** 2)
    assert product.kind in real, f"the shape of {product} is unknown here; add it to `array` in {__file__}"
    return rng.normal(size=(N, *real[product.kind])).astype(np.float32)


def arrays(name: str, seed: int = 0, knobs: dict | None = None) -> list[np.ndarray]:
    rng, side = np.random.default_rng(seed), SIZES.get(name, ({}, 0))[1]
    return [array(p, side or int(re.search(r"\d+$", p.crop)[0]), rng) for p in reads(name, knobs)]


def prepare(name: str, *given: np.ndarray) -> np.ndarray:
    return models.load(name).prepared(given, knobs_of(name))


def prepared(name: str, seed: int = 0) -> np.ndarray:
    return prepare(name, *arrays(name, seed))


def engine_network(name: str) -> nn.Module:
    """As the engine trains it with other folds: dropout and batch norm are the engine's."""
    network = build(name).train()
    random_layers.attach(network)
    norm.attach(network)
    return network


def close(found, expected, of: float = 1e-5) -> None:
    """Equal up to the rounding of float32 sums in another order: `of` the largest value."""
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=of * np.abs(expected).max())


# ---- every model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_it_builds_with_its_defaults(name, classes):
    models.build(name, classes)


@pytest.mark.parametrize("name", NAMES)
def test_its_knobs_are_plain_and_have_valid_defaults(name):
    spec = models.load(name)
    first, *others = inspect.signature(spec.build).parameters.values()
    assert first.name == "classes"
    assert {p.kind for p in others} <= {inspect.Parameter.KEYWORD_ONLY}
    for knob, parameter in spec.knobs.items():
        models.check_value(f"{name}.{knob}", parameter.default, parameter.annotation)


@pytest.mark.parametrize("name", NAMES)
def test_its_knobs_in_the_base_preset_are_its_defaults(name, root):
    section = YAML(typ="safe").load(root / "conf/base.yaml").get(name)
    if section is None:
        assert name not in DIFFERENT_IN_BASE
        return
    assert section == models.load(name).all_knobs(DIFFERENT_IN_BASE.get(name, {}))


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_products(name):
    spec = models.load(name)
    for knobs in (knobs_of(name), {}, DIFFERENT_IN_BASE.get(name, {})):
        found = spec.reads(spec.all_knobs(knobs))
        assert isinstance(found, tuple)
        assert any(isinstance(one, Product) for one in found)
        assert all(isinstance(one, Product | Weights) for one in found)
        assert len(set(found)) == len(found)
        weights = [one for one in found if isinstance(one, Weights)]
        assert len(weights) <= 1
        assert not weights or spec.takes_weights


@pytest.mark.parametrize("name", NAMES)
def test_what_it_prepares_of_a_clip_does_not_depend_on_other_clips(name):
    given = arrays(name)
    kept = [a.copy() for a in given]
    whole = prepare(name, *given)
    assert len(whole) == N
    assert np.isfinite(whole).all()
    for before, after in zip(kept, given, strict=True):
        np.testing.assert_array_equal(after, before)
    others = [b.copy() for b in arrays(name, seed=1)]
    for mine, other in zip(given, others, strict=True):
        other[2] = mine[2]
    np.testing.assert_array_equal(prepare(name, *others)[2], whole[2])
    close(np.concatenate([prepare(name, *(a[i : i + 1] for a in given)) for i in range(N)]), whole)
    assert not np.array_equal(prepare(name, *others)[3], whole[3])  # it does depend on the clip


def accepted(name: str, recipe: dict) -> list[tuple[dict, models.ModelSpec]]:
    """Knobs with which the model takes a recipe, each with the model.

    Looked at are those of SIZES, and each other product that it reads where one knob is changed.
    """
    spec, found = models.load(name), {}
    for knob, parameter in spec.knobs.items():
        values = [False, True] if parameter.annotation is bool else get_args(parameter.annotation)
        for changes in ({}, *({knob: value} for value in values)):
            knobs = knobs_of(name) | changes
            found.setdefault(spec.reads(spec.all_knobs(knobs)), knobs)

    def takes(knobs: dict) -> bool:
        try:
            Recipe.of_model(spec, recipe, knobs)
        except MerError:
            return False
        return True

    return [(knobs, spec) for knobs in found.values() if takes(knobs)]


@pytest.mark.parametrize("name", [name for name in NAMES if models.load(name).mirror is not None])
def test_its_mirror_gives_the_inputs_of_mirrored_faces_and_back(name):
    """Whatever it reads, unless its `check_recipe` refuses to mirror that."""

    def mirrored(product: Product, x: np.ndarray) -> np.ndarray:
        assert product.kind != "embedding", f"features of {name} cannot be mirrored; let its check_recipe refuse them"
        if x.dtype == np.uint8:  # (…, height, width, 3)
            return np.ascontiguousarray(x[..., ::-1, :])
        x = x[..., ::-1].copy()
        x[..., 0, :, :] *= -1  # u of (…, 3, height, width)
        return x

    every = accepted(name, {"mirror": True})
    assert every
    for knobs, spec in every:

        def mirror(x: np.ndarray, spec: models.ModelSpec = spec) -> np.ndarray:
            return spec.mirror(x) if name in ESTIMATORS else spec.mirror(torch.from_numpy(x)).numpy()

        given = arrays(name, knobs=knobs)
        x = spec.prepared(given, knobs)
        once = mirror(x)
        assert (once.shape, once.dtype) == (x.shape, x.dtype)
        assert not np.array_equal(once, x)
        close(mirror(once), x, of=np.finfo(np.float32).eps)
        of_mirrored = [mirrored(p, a) for p, a in zip(reads(name, knobs), given, strict=True)]
        close(once, spec.prepared(of_mirrored, knobs))


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_through_the_engine(name):
    table = pd.DataFrame({"id": [f"c/{i % 3}/{i}" for i in range(N)], "corpus": "c",
                          "subject": [str(i % 3) for i in range(N)], "label": [0, 1, 2, 1, 2, 0, 1]})  # fmt: skip
    recipe = None if name in ESTIMATORS else {"epochs": 1, "batch_size": 4}
    found = loso.run(arrays(name), table, model=name, classes=3, knobs=knobs_of(name), recipe=recipe)
    probability = found[["p0", "p1", "p2"]].to_numpy()
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-6)  # a softmax in float32
    assert np.ptp(probability, axis=0).any()  # clips differ


# ---- estimators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_gives_a_probability_for_each_class_and_survives_a_pickle(name, classes):
    x, label = prepared(name), np.arange(N) % classes
    fitted = build(name, classes).fit(x, label)
    assert fitted.classes_.tolist() == list(range(classes))
    probability = fitted.predict_proba(x)
    assert probability.shape == (N, classes)
    np.testing.assert_allclose(probability.sum(1), 1)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(x), probability)


# ---- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_its_recipe_is_valid_and_declared_for(name):
    spec = models.load(name)
    of_model(spec, Recipe.of(spec.recipe, {}))
    if spec.vectors is not None:
        channels = prepared(name).shape[1]
        assert len(set(spec.vectors)) == 2
        assert all(0 <= channel < channels for channel in spec.vectors)


@pytest.mark.parametrize("name", [name for name in NETWORKS if models.load(name).declares_vectors])
def test_what_it_reads_can_be_turned_and_scaled_or_the_recipe_is_refused_before_training(name):
    for knobs, spec in accepted(name, {"rotate": 5.0, "zoom": 0.1}):
        x = torch.from_numpy(spec.prepared(arrays(name, knobs=knobs), knobs))
        augmentation = of_model(spec, Recipe(rotate=5.0, zoom=0.1))
        turned = augmentation(x, augmentation.draw(np.random.default_rng(0), N))
        assert (turned.shape, turned.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_gives_logits_for_each_clip_by_itself(name, classes):
    network, x = build(name, classes).eval(), torch.from_numpy(prepared(name))
    with torch.no_grad():
        logits = network(x)
        assert logits.shape == (N, classes)
        assert torch.isfinite(logits).all()
        close(torch.cat([network(x[i : i + 1]) for i in range(N)]), logits)
        assert torch.equal(network(x), logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_changes_neither_its_loss_nor_its_gradient(name):
    """Rows of weight 0, as the engine adds them for folds in parallel; batch norm is told which rows are real."""
    loss = models.load(name).loss or cross_entropy
    x, y = torch.from_numpy(prepared(name)), torch.arange(N) % 3
    n = N - 2

    def outcome(count: int) -> tuple[torch.Tensor, list]:
        network, real = engine_network(name), torch.arange(count) < n
        for layer in network.modules():
            if isinstance(layer, norm.MaskedBatchNorm):
                layer.rows = real
        random_layers.begin(network)
        value = loss(network, x[:count], y[:count], real / n)
        assert value.shape == ()
        learned = [p for p in network.parameters() if p.requires_grad]
        return value.detach(), torch.autograd.grad(value, learned, allow_unused=True)

    (plain, gradient), (padded, of_padded) = outcome(n), outcome(N)
    close(padded, plain)
    assert any(g is not None and g.any() for g in gradient)
    for a, b in zip(of_padded, gradient, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            # What cancels in the sums of a gradient leaves the rounding of its terms.
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(float(b.abs().max()), 1e-3))


@pytest.mark.parametrize("name", NETWORKS)
def test_it_can_be_trained_with_other_folds_in_parallel(name):
    spec = models.load(name)
    recipe = Recipe.of(spec.recipe, {})
    plan = TrainingPlan(schedule=recipe.rates(), batch_size=recipe.batch_size, loss=spec.loss or cross_entropy)
    obstacle = vmap_obstacle(lambda: models.build(name, 3, **knobs_of(name)), torch.from_numpy(prepared(name)), plan)
    assert obstacle == KNOWN_OBSTACLES.get(name)


@pytest.mark.parametrize("name", NETWORKS)
def test_its_weights_survive_a_file(name):
    x = torch.from_numpy(prepared(name))
    network = engine_network(name)
    network(x)  # moves the statistics of batch norm
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = build(name, seed=1).eval()
    with torch.no_grad():
        before = other(x)
        other.load_state_dict(torch.load(file, weights_only=True))
        after, expected = other(x), network.eval()(x)
    assert not torch.equal(before, after)
    # MaskedBatchNorm against nn.BatchNorm: a scale and a shift instead of a quotient.
    close(after, expected)


@pytest.mark.parametrize("name", [name for name in NETWORKS if models.load(name).explain is not None])
def test_its_explanations_have_a_row_a_clip_and_leave_the_network_as_it_was(name):
    spec, network = models.load(name), build(name).eval()
    x, y = torch.from_numpy(prepared(name)), torch.arange(N) % 3
    before = {key: value.clone() for key, value in network.state_dict().items()}
    logits = network(x).detach()
    found = spec.explain(network, x)
    of_training = spec.explain_training(network, x, y) if spec.explain_training is not None else {}
    assert "data" in found
    assert not found.keys() & of_training.keys()
    for key, value in [*found.items(), *of_training.items()]:
        assert len(value) == N, key
    for key, value in of_training.items():
        assert value.shape == (N,), key
    assert not network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(network(x), logits)


def test_the_tables_above_name_models_that_exist():
    assert {*SIZES, *KNOWN_OBSTACLES, *DIFFERENT_IN_BASE} <= set(NAMES)
