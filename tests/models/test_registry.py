"""Adding a model is one file and one entry under `experiments`."""

import sys

import numpy as np
import pandas as pd
import pytest

from mer import models
from mer.errors import MerError
from mer.loso import run as loso

THEIRS = '''
"""Predicts by the sign of the mean horizontal flow."""
import numpy as np
from typing import Literal
from sklearn.base import BaseEstimator, ClassifierMixin

PRODUCTS = ("flow",)
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
def theirs(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    yield
    sys.modules.pop("mer.models.theirs", None)


def test_a_model_in_one_file_runs_through_the_folds(theirs):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 12)
    flow = np.where(label == 1, 1.0, -1.0)[:, None, None, None] * np.ones((12, 3, 4, 4))
    table = pd.DataFrame({"id": [f"c/{i % 3}/{i}" for i in range(12)], "corpus": "c",
                          "subject": [str(i % 3) for i in range(12)], "label": label})  # fmt: skip
    p = loso.run([flow], table, model="theirs", classes=2)
    assert (p["p1"].round() == p["label"]).all()
    p = loso.run([flow], table, model="theirs", classes=2, hyper={"sign": "left"})
    assert (p["p0"].round() == p["label"]).all()
    with pytest.raises(MerError, match=r"theirs.sign is 'up'; valid: right, left"):
        models.build("theirs", 2, sign="up")


def test_a_file_that_lacks_something_is_named(tmp_path, monkeypatch):
    (tmp_path / "half.py").write_text("PRODUCTS = ('flow',)\n")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    with pytest.raises(MerError, match=r"mer/models/half.py declares no RECIPE"):
        models.load("half")
    sys.modules.pop("mer.models.half", None)


def test_every_model_builds_and_every_knob_has_a_type():
    for name in models.names():
        models.build(name, 3)
        for knob, parameter in models.knobs(name).items():
            models.check_value(f"{name}.{knob}", parameter.default, parameter.annotation)
