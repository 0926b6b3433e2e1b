"""Adding a model is one file and one entry under `experiments`."""

import importlib
import re
import sys

import numpy as np
import pandas as pd
import pytest

from mer import corpora, models
from mer.errors import MerError
from mer.loso import run as loso
from mer.loso.recipe import Recipe
from tests.helpers.refusals import refused

THEIRS = '''
"""Predicts by the sign of the mean horizontal flow."""
import numpy as np
from typing import Literal
from sklearn.base import BaseEstimator, ClassifierMixin

from mer.products import flow, frames

READS = (flow(frames("box224")),)
RECIPE = None

def prepare(flow):
    return flow[:, 0].mean((1, 2))[:, None]

def build(classes: int, *, sign: Literal["right", "left"] = "right"):
    return Sign(sign)

class Sign(ClassifierMixin, BaseEstimator):
    def __init__(self, sign="right"):
        self.sign = sign
    def fit(self, x, y):
        self.classes_ = np.arange(2)
        return self
    def predict_proba(self, x):
        p = (x[:, 0] > 0) if self.sign == "right" else (x[:, 0] < 0)
        return np.stack([1 - p, p], 1).astype(float)
'''


@pytest.fixture
def declare(tmp_path, monkeypatch):
    """(text of a model file) -> the name under which it is a model until the test ends."""
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    names = []

    def write(text: str) -> str:
        names.append(f"theirs{len(names)}")
        (tmp_path / f"{names[-1]}.py").write_text(text)
        importlib.invalidate_caches()
        return names[-1]

    yield write
    models.load.cache_clear()
    for name in names:
        sys.modules.pop(f"mer.models.{name}", None)
        vars(models).pop(name, None)


def test_a_model_in_one_file_runs_through_the_folds(declare):
    name = declare(THEIRS)
    assert name in models.names()
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 12)
    flow = np.where(label == 1, 1.0, -1.0)[:, None, None, None] * np.ones((12, 3, 4, 4))
    table = pd.DataFrame({"id": [f"c/{i % 3}/{i}" for i in range(12)], "corpus": "c",
                          "subject": [str(i % 3) for i in range(12)], "label": label})  # fmt: skip
    p = loso.run([flow], table, model=name, classes=2)
    assert (p["p1"].round() == p["label"]).all()
    p = loso.run([flow], table, model=name, classes=2, knobs={"sign": "left"})
    assert (p["p0"].round() == p["label"]).all()
    with pytest.raises(MerError, match=r"theirs0.sign is 'up'; valid: right, left"):
        models.build(name, 2, sign="up")


def test_its_declarations_are_found(declare):
    spec = models.load(declare(THEIRS + "VECTORS = None\n"))
    assert (spec.name, spec.path) == ("theirs0", "mer/models/theirs0.py")
    assert [product.kind for product in spec.reads({})] == ["flow"]
    assert list(spec.knobs) == ["sign"]
    assert spec.all_knobs({}) == {"sign": "right"}
    assert spec.all_knobs({"sign": "left"}) == {"sign": "left"}
    assert (spec.declares_vectors, spec.vectors) == (True, None)
    optional = (spec.mirror, spec.check_recipe, spec.loss, spec.load_weights, spec.explain, spec.explain_training,
                spec.targets)  # fmt: skip
    assert optional == (None,) * 7
    assert not models.load(declare(THEIRS)).declares_vectors


def test_reads_may_depend_on_knobs(declare):
    by_knob = "def reads(knobs):\n    return (flow(frames('box224' if knobs['sign'] == 'right' else 'box112')),)"
    spec = models.load(declare(THEIRS.replace('READS = (flow(frames("box224")),)', by_knob)))
    assert [spec.reads(spec.all_knobs(k))[0].crop for k in ({}, {"sign": "left"})] == ["box224", "box112"]


CHECKING = (
    THEIRS.replace("RECIPE = None", 'RECIPE = {"epochs": 1}')
    + """
from mer.errors import MerError

def check_recipe(recipe, knobs):
    if recipe.batch_size > 8 and knobs["sign"] == "left":
        raise MerError(f"recipe.batch_size is {recipe.batch_size}, theirs.sign left takes 8; lower it")
"""
)


def test_a_recipe_that_does_not_go_with_the_knobs_is_refused_by_the_model(declare):
    """All fields and all knobs are seen, also those that nobody has changed."""
    spec = models.load(declare(CHECKING))
    for changes, knobs in (({}, {}), ({"batch_size": 9}, {}), ({"batch_size": 8}, {"sign": "left"})):
        assert Recipe.of_model(spec, changes, knobs) == Recipe(epochs=1, **changes)
    for changes in ({}, {"batch_size": 9}):
        size = Recipe(**changes).batch_size
        refused(f"^recipe.batch_size is {size}, theirs.sign left takes 8; lower it$", Recipe.of_model, spec, changes,
                {"sign": "left"})  # fmt: skip


def test_training_asks_the_model_before_it_begins(declare):
    name = declare(CHECKING)  # which has no network: nothing is built
    table = pd.DataFrame({"id": ["c/0/0", "c/1/1"], "corpus": "c", "subject": ["0", "1"], "label": [0, 1]})
    refused("^recipe.batch_size is 32, theirs.sign left takes 8", loso.run, [np.ones((2, 3, 4, 4))], table, model=name,
            classes=2, knobs={"sign": "left"})  # fmt: skip


@pytest.mark.parametrize("needed", ["READS", "RECIPE", "build", "prepare"])
def test_a_missing_declaration_is_named(declare, needed):
    name = declare(re.sub(rf"\b{needed}\b(?=\(| =)", f"other_{needed[0]}", THEIRS))
    with pytest.raises(MerError, match=rf"mer/models/{name}.py declares no {needed}; see mer/models/__init__.py"):
        models.load(name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("VECTOR = (0, 1)", "declares VECTOR, which no model has; did you mean 'VECTORS'"),
        ("Vectors = (0, 1)", "declares Vectors, which no model has; did you mean 'VECTORS'"),
        ("def mirrors(x): return x", "declares mirrors, which no model has; did you mean 'mirror'"),
        ("def explain_trainings(n, x, y): return {}", "did you mean 'explain_training'"),
        ("def load_weight(n, p): return n", "did you mean 'load_weights'"),
        ("def check_recipes(r, k): pass", "did you mean 'check_recipe'"),
        ("def reads(knobs): return READS", "declares READS and reads; keep one of them"),
        ("def target(aus, knobs): return None", "declares target, which no model has; did you mean 'targets'"),
        ("def targets(aus, knobs): return None", "declares targets, which only a network's own loss is given; declare"),
    ],
)
def test_a_misspelt_or_doubled_declaration_is_refused(declare, line, message):
    name = declare(THEIRS + line + "\n")
    with pytest.raises(MerError, match=f"mer/models/{name}.py .*{re.escape(message)}"):
        models.load(name)


@pytest.mark.parametrize("name", ["linear", "ststnet", "uamrn"])
@pytest.mark.parametrize("classes", [1, 0, -3, "3", 3.0, True, None])
def test_a_number_of_classes_that_is_none_is_refused(name, classes):
    with pytest.raises(MerError, match=rf"{name}: classes is {classes!r}; needed is a whole number, 2 at least"):
        models.build(name, classes)


def test_a_number_of_classes_may_come_from_numpy():
    assert models.build("ststnet", np.int64(3)).fc.out_features == 3


@pytest.mark.parametrize("classes", ["5", 5.0, True, None, [5]])
def test_a_selection_of_clips_needs_a_number_of_classes(classes):
    with pytest.raises(
        MerError, match=re.escape(f"classes is {classes!r}; needed is a whole number: corpus casme2 has")
    ):
        corpora.select(pd.DataFrame({"emotion": ["happiness"]}), "casme2", classes)


@pytest.mark.parametrize("name", ["linear", "ststnet"])
@pytest.mark.parametrize(
    "shape", [(5, 56, 56, 3), (3, 56, 56), (56, 56, 3), (5, 2, 56, 56), (5, 4, 56, 56), (0, 3, 56, 56)]
)
def test_what_is_no_flow_image_is_not_prepared(name, shape):
    with pytest.raises(MerError, match=re.escape(f"{name} reads flow images (N, 3, H, W), not {shape}")):
        models.load(name).prepare(np.zeros(shape, np.float32))


def test_an_unknown_model_is_refused_with_a_suggestion():
    with pytest.raises(MerError, match=r"model 'uamrm' is unknown; did you mean 'uamrn'"):
        models.load("uamrm")
