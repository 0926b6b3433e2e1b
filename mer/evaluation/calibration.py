"""Whether probabilities are shares: reliability, and a temperature that mends them.

A temperature T divides the logits, softmax(log p / T): above 1 it makes a model less certain. It is fitted to the
predictions of leave-one-subject-out, so to clips that each network has not seen, never to training clips (Guo et al.
2017, "On calibration of modern neural networks", eqs. 3 and 9).

Shapes: n predictions, C classes.
"""

from typing import Any

import numpy as np

LEAST = 1e-12  # of a probability before its logarithm; estimators give 0 to classes that they have not seen
RANGE = (0.05, 20.0)  # of temperatures: beyond, a model says the same as at the end
BINS = 10


def tempered(probability: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T), (n, C); 1 changes nothing."""
    logits = np.log(np.maximum(probability, LEAST)) / temperature
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def log_loss(probability: np.ndarray, label: np.ndarray) -> float:
    """The mean negative logarithm of the probability of the true class."""
    return float(-np.log(np.maximum(probability[np.arange(len(label)), label], LEAST)).mean())


def temperature(probability: np.ndarray, label: np.ndarray) -> float:
    """The T in RANGE with the lowest log loss, which is convex in 1 / T.

    Args:
        probability: (n, C), of clips that were not trained on.
        label: (n,) int, the true classes.
    """
    from scipy.optimize import minimize_scalar

    logits = np.log(np.maximum(probability, LEAST))
    rows = np.arange(len(label))

    def loss(inverse: float) -> float:
        scaled = inverse * logits
        top = scaled.max(1)
        return float((np.log(np.exp(scaled - top[:, None]).sum(1)) + top - scaled[rows, label]).mean())

    found = minimize_scalar(loss, bounds=(1 / RANGE[1], 1 / RANGE[0]), method="bounded", options={"xatol": 1e-6})
    return float(1 / found.x)


def reliability(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """The largest probabilities in `bins` equal parts of 0..1; only those that hold predictions.

    Returns:
        For each {confidence, accuracy, n}: the mean of the largest probabilities, the share that is right, how many.
    """
    confidence, right = probability.max(1), probability.argmax(1) == label
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {"confidence": float(confidence[number == k].mean()), "accuracy": float(right[number == k].mean()),
         "n": int((number == k).sum())}
        for k in range(bins) if (number == k).any()
    ]  # fmt: skip


def calibration_error(bins: list[dict[str, Any]]) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy over `reliability`, weighted by n."""
    total = sum(one["n"] for one in bins)
    return float(sum(one["n"] * abs(one["confidence"] - one["accuracy"]) for one in bins) / total)


def calibrated(probability: np.ndarray, label: np.ndarray, who: np.ndarray) -> dict[str, Any]:
    """The calibration of predictions of leave-one-subject-out.

    Args:
        who: (n,) the subject of each. Several seeds are simply further predictions.

    Returns:
        temperature: fitted to all of them, for new people; before, after: {log_loss, error, bins} without it, and with
        a temperature that is fitted to the other subjects for each subject, so `after` is no fit to itself. `after` is
        None with one subject.
    """
    found: dict[str, Any] = {
        "temperature": temperature(probability, label), "before": _scored(probability, label), "after": None,
    }  # fmt: skip
    subjects = np.unique(who)
    if len(subjects) > 1:
        mended = np.empty_like(probability, dtype=np.float64)
        for subject in subjects:
            own = who == subject
            mended[own] = tempered(probability[own], temperature(probability[~own], label[~own]))
        found["after"] = _scored(mended, label)
    return found


def _scored(probability: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    bins = reliability(probability, label)
    return {"log_loss": log_loss(probability, label), "error": calibration_error(bins), "bins": bins}
