"""The baseline that keeps the deep models honest: logistic regression on a small flow map.

The flow image (u, v, strain) is averaged over a 7x7 grid: 147 numbers a clip. Every training clip also enters mirrored
(columns reversed, u negated), and a test clip's probability is the mean of both its forms, since a smile to the left is
the same class as a smile to the right.
"""

import math
from typing import Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mer.errors import MerError
from mer.products import Product, eulerian, flow, frames

RECIPE = None
SIZE = 28


def build(
    classes: int, *, crop: str = "box224", evm: str = "none", grid: Literal[4, 7, 14, 28] = 7, c: float = 0.01
) -> "MirroredLogisticRegression":
    """The baseline.

    Args:
        crop, evm: whose flow is read: a crop of mer.products, and the recipe of magnify_eulerian by which it is
            magnified before, or none; to stand beside a model that reads the same flow.
        grid: cells a side of the averaged map.
        c: inverse strength of the ridge penalty, above 0.
    """
    if not 0 < c < math.inf:
        raise MerError(f"linear.c is {c}; it must be above 0 and finite")
    return MirroredLogisticRegression(grid=grid, c=c)


def reads(knobs: dict) -> tuple[Product, ...]:
    """The flow from onset to apex of the clips that the knobs name."""
    clip = frames(knobs["crop"])
    return (flow(clip if knobs["evm"] == "none" else eulerian(clip, knobs["evm"])),)


def prepare(flow: np.ndarray) -> np.ndarray:
    """Flow images (N, 3, H, W), 28 px a side or more, averaged down to (N, 3, 28, 28), the finest grid there is."""
    if flow.ndim != 4 or flow.shape[1] != 3 or not flow.size:
        raise MerError(f"linear reads flow images (N, 3, H, W), not {flow.shape}; flow comes with strain beside it")
    n, channels, height, width = flow.shape
    if min(height, width) < SIZE:
        raise MerError(f"linear reads flow images of {SIZE} px a side or more, these are {height}x{width}")
    if height % SIZE or width % SIZE:
        import cv2

        # The mean over the area of each cell, with the shares of the pixels on its border.
        planes = (cv2.resize(plane, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for f in flow for plane in f)
        return np.stack(list(planes)).reshape(n, channels, SIZE, SIZE).astype(np.float64)
    blocks = flow.reshape(n, channels, SIZE, height // SIZE, SIZE, width // SIZE)
    return blocks.mean((3, 5), dtype=np.float64)


def mirror(flow: np.ndarray) -> np.ndarray:
    """The flow images of the mirrored faces: columns reversed, u negated; v and strain keep their sign."""
    mirrored = flow[..., ::-1].copy()
    mirrored[:, 0] *= -1
    return mirrored


class MirroredLogisticRegression(ClassifierMixin, BaseEstimator):
    """Class-balanced logistic regression on flow images (N, 3, 28, 28); standardised on what it is fitted to."""

    def __init__(self, grid: int = 7, c: float = 0.01):
        self.grid = grid
        self.c = c

    def fit(self, flow: np.ndarray, label: np.ndarray) -> Self:
        features = np.concatenate([self._features(flow), self._features(mirror(flow))])
        label = np.concatenate([label, label])
        # lbfgs stops where the gradient is small; 147 standardised features reach that in well under 1000 steps.
        regression = LogisticRegression(C=self.c, class_weight="balanced", max_iter=1000)
        self.classes_ = np.unique(label)
        self.model_ = make_pipeline(StandardScaler(), regression)
        if len(self.classes_) > 1:  # with one class there is nothing to fit
            self.model_.fit(features, label)
        return self

    def predict_proba(self, flow: np.ndarray) -> np.ndarray:
        """(N, len(classes_)), columns as in `classes_`: the classes that were seen in training."""
        if len(self.classes_) == 1:
            return np.ones((len(flow), 1))
        return np.mean([self.model_.predict_proba(self._features(x)) for x in (flow, mirror(flow))], axis=0)

    def predict(self, flow: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(flow).argmax(1)]

    def _features(self, flow: np.ndarray) -> np.ndarray:
        n, channels, size, _ = flow.shape
        step = size // self.grid
        return flow.reshape(n, channels, self.grid, step, self.grid, step).mean((3, 5), dtype=np.float64).reshape(n, -1)
