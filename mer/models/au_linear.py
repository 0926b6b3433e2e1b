"""Action units of simulated flow beside the flow itself: a logistic regression for every view of a clip.

A view is a flow map of the clip: that from onset to apex, that from apex to offset, or that of another release. Of each
are read: the means of u, v and strain over a grid of regions, and the logits of a network that has seen nothing but
simulated maps of action units (mer.networks.action_units). Every training clip also enters mirrored, and a test clip's
probability is the mean over its views and both forms of each.

Shapes: N clips, V views, F features.
"""

import math
from typing import Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mer.errors import MerError
from mer.models import linear
from mer.products import Product, Weights, flow_views, weights
from mer.stretch import SIZE, check_flow, stretched

RECIPE = None
FORMS = 2  # as it is, and mirrored


def build(
    classes: int,
    *,
    crop: str = "box224",
    second: str = "none",
    offset: bool = False,
    means: Literal["raw", "centred", "both", "squashed", "none"] = "raw",
    grid: Literal[4, 7, 14, 28] = 7,
    units: bool = True,
    c: float = 0.01,
) -> "ViewRegression":
    """The model.

    Args:
        crop: whose flow is read.
        second: another corpus with the same clips, such as the second release, whose flow is a second view; or none.
        offset: its flow from apex to offset (the corpus's own, without a second) is a further view.
        means: of regions: raw; centred: u and v less their own median in each map, which a stretch and the head move;
            both: a regression with the ones and a regression with the others; squashed: centred, and one blink or
            outlier no longer sets the scale of a map, see `squashed`.
        grid: regions a side.
        units: the logits of the pretrained network are read.
        c: inverse strength of the ridge penalty, above 0.
    """
    if not 0 < c < math.inf:
        raise MerError(f"au_linear.c is {c}; it must be above 0 and finite")
    if means == "none" and not units:
        raise MerError("au_linear reads nothing with means none and units false; set one of them")
    return ViewRegression(c=c)


def reads(knobs: dict) -> tuple[Product | Weights, ...]:
    """The flow of every view, and the weights of the network."""
    views = flow_views(knobs["crop"], knobs["second"], offset=knobs["offset"])
    return (*views, *([weights("action_units")] if knobs["units"] else []))


def prepare(*views: np.ndarray, means: str, grid: int, units: bool, weights: str | None) -> np.ndarray:
    """Flow images (N, 3, H, W) of every view -> (N, V, 2, F): features of each view as it is and mirrored.

    With means both every view is there twice.
    """
    for view in views:
        check_flow("au_linear", view)
    kinds = ("raw", "centred") if means == "both" else (means,)
    maps = [stretched(view) for view in views]
    return np.stack([_features(one, kind, grid, units, weights) for one in maps for kind in kinds], axis=1)


def _features(maps: np.ndarray, means: str, grid: int, units: bool, path: str | None) -> np.ndarray:
    """(N, 2, F) of maps (N, 3, 28, 28) as released."""
    forms = []
    for form in (maps, linear.mirror(maps)):
        parts = []
        if means != "none":
            step = SIZE // grid
            own = squashed(form) if means == "squashed" else form.copy()
            if means == "centred":
                own[:, :2] -= np.median(own[:, :2], axis=(2, 3), keepdims=True)
            own = own.reshape(len(own), 3, grid, step, grid, step).mean((3, 5), dtype=np.float64)
            parts.append(own.reshape(len(own), -1))
        if units:
            from mer.networks.action_units import logits

            if path is None:
                raise MerError("au_linear.units is true, and there are no weights of action_units; give them")
            parts.append(logits(form, path))
        forms.append(np.concatenate(parts, axis=1))
    return np.stack(forms, axis=1)


def squashed(maps: np.ndarray) -> np.ndarray:
    """Maps (N, 3, H, W) whose scale is set by most of the face, in -1 to 1.

    A stretch gives the largest motion, often a blink, the whole range. Here u and v are less their own median, strain
    less its least; both are divided by 90 % quantiles, u and v by that of the length of (u, v), which keeps its
    direction as far as the stretch has; tanh bounds what is larger. One grey level is added to the quantiles, so that
    an empty map stays empty.
    """
    found = maps.astype(np.float64)
    motion, strain = found[:, :2], found[:, 2]
    motion -= np.median(motion, axis=(2, 3), keepdims=True)
    strain -= strain.min((1, 2), keepdims=True)
    motion /= np.quantile(np.hypot(motion[:, 0], motion[:, 1]), 0.9, axis=(1, 2))[:, None, None, None] + 1
    strain /= np.quantile(strain, 0.9, axis=(1, 2))[:, None, None] + 1
    return np.tanh(found)


class ViewRegression(ClassifierMixin, BaseEstimator):
    """A class-balanced logistic regression for each view, standardised on what it is fitted to; (N, V, 2, F)."""

    def __init__(self, c: float = 0.01):
        self.c = c

    def fit(self, features: np.ndarray, label: np.ndarray) -> Self:
        self.classes_ = np.unique(label)
        self.models_ = []
        if len(self.classes_) > 1:  # with one class there is nothing to fit
            for view in range(features.shape[1]):
                regression = LogisticRegression(C=self.c, class_weight="balanced", max_iter=1000)
                both = np.concatenate([features[:, view, form] for form in range(FORMS)])
                self.models_.append(make_pipeline(StandardScaler(), regression).fit(both, np.tile(label, FORMS)))
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """(N, len(classes_)), columns as in `classes_`."""
        if len(self.classes_) == 1:
            return np.ones((len(features), 1))
        found = [
            model.predict_proba(features[:, view, form])
            for view, model in enumerate(self.models_) for form in range(FORMS)
        ]  # fmt: skip
        return np.mean(found, axis=0)

    def predict(self, features: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(features).argmax(1)]
