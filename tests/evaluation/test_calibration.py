"""Temperature and reliability: against closed forms, a grid, and data whose calibration is known."""

import numpy as np
import pytest

from mer.evaluation.calibration import (
    RANGE,
    calibrated,
    calibration_error,
    log_loss,
    reliability,
    temperature,
    tempered,
)  # fmt: skip


def drawn(n=20_000, classes=3, scale=2.0, seed=0):
    """Probabilities, and labels that are drawn from them: calibrated by construction."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (n, classes))
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = (probability.cumsum(1) < rng.random((n, 1))).sum(1)
    return probability, label


@pytest.mark.parametrize("wrong", [0.4, 1.0, 2.5])
def test_the_temperature_undoes_one_that_was_put_on(wrong):
    probability, label = drawn()
    # 20,000 draws tell a temperature to about 2 per cent (1 / sqrt(n) times a factor near 3 for this scale).
    assert temperature(tempered(probability, wrong), label) == pytest.approx(1 / wrong, rel=0.04)


def test_it_is_the_lowest_of_a_grid():
    probability, label = drawn(n=300, seed=3)
    probability = tempered(probability, 0.3)
    found = temperature(probability, label)
    grid = np.geomspace(*RANGE, 2000)
    losses = [log_loss(tempered(probability, t), label) for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.005)  # the grid's own step is 0.3 per cent
    assert log_loss(tempered(probability, found), label) <= min(losses) + 1e-9


def test_two_predictions_by_hand():
    """p = 0.9 twice, once right: the best is p = 1/2, which no finite T reaches: the end of the range."""
    probability = np.array([[0.9, 0.1], [0.9, 0.1]])
    assert temperature(probability, np.array([0, 1])) == pytest.approx(RANGE[1], rel=1e-3)
    # Nine of ten right with p = 0.99: softmax(log p / T) = 0.9 where log(99) / T = log(9).
    probability = np.tile([0.99, 0.01], (10, 1))
    label = np.array([0] * 9 + [1])
    assert temperature(probability, label) == pytest.approx(np.log(99) / np.log(9), rel=1e-4)


def test_tempering_keeps_order_and_sums_and_one_changes_nothing():
    probability, _ = drawn(n=50)
    np.testing.assert_allclose(tempered(probability, 1.0), probability, atol=1e-12)
    for t in (0.1, 7.0):
        changed = tempered(probability, t)
        np.testing.assert_allclose(changed.sum(1), 1, atol=1e-12)
        np.testing.assert_array_equal(changed.argsort(1), probability.argsort(1))
    assert np.isfinite(tempered(np.array([[1.0, 0.0]]), 3.0)).all()


def test_reliability_and_error_by_hand():
    probability = np.array([[0.62, 0.38], [0.68, 0.32], [0.05, 0.95], [0.0, 1.0]])
    bins = reliability(probability, np.array([0, 1, 1, 0]))
    assert bins == [
        {"confidence": pytest.approx(0.65), "accuracy": 0.5, "n": 2},
        {"confidence": pytest.approx(0.975), "accuracy": 0.5, "n": 2},
    ]
    assert calibration_error(bins) == pytest.approx((2 * 0.15 + 2 * 0.475) / 4)
    assert calibration_error(reliability(*drawn())) < 0.01  # calibrated: what is left is noise, 1 / sqrt(n) a bin


def test_what_mends_a_subject_is_fitted_to_the_others():
    """One subject's labels are exchanged: its own temperature would be another than that of the others."""
    probability, label = drawn(n=3000)
    who = np.repeat(["a", "b", "c"], 1000)
    label = np.where(who == "c", (label + 1) % 3, label)
    found = calibrated(probability, label, who)
    own = tempered(probability[who == "c"], temperature(probability[who != "c"], label[who != "c"]))
    mended = np.concatenate([
        tempered(probability[who == s], temperature(probability[who != s], label[who != s])) for s in "ab"
    ] + [own])  # fmt: skip
    assert found["after"]["log_loss"] == pytest.approx(log_loss(mended, label))
    assert found["before"]["log_loss"] == pytest.approx(log_loss(probability, label))
    assert found["temperature"] == pytest.approx(temperature(probability, label))
    assert calibrated(probability, label, np.full(3000, "a"))["after"] is None
    assert sum(one["n"] for one in found["after"]["bins"]) == 3000
