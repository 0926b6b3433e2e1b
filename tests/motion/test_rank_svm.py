"""The RankSVM solvers: the gap that they report is true, and it closes."""

import tracemalloc

import numpy as np
import pytest

from mer.errors import MerError
from mer.motion import rank_svm
from mer.motion.rank_svm import solve_rank_svm
from tests.helpers.rank_pooling import bounded_dual, energy, gram_of, running_means, walk

AWKWARD = {
    "few values": lambda frames: walk(frames, 2),
    "many values": lambda frames: walk(frames, 400) * 100,
    "repeated frames": lambda frames: np.repeat(walk(frames // 4, 30), 4, axis=0),
    "motion twice": lambda frames: np.concatenate([walk(frames // 2, 60), walk(frames // 2, 60)]),
    "straight motion": lambda frames: np.linspace(0, 1, frames)[:, None] * walk(1, 50),
    "three curves": lambda frames: -(np.linspace(0, 1, frames)[:, None] ** np.arange(1, 4)),
    "still at first": lambda frames: walk(frames, 500)[np.maximum(np.arange(frames) - frames // 2, 0)],
    "a frame twice": lambda frames: walk(frames, 500)[np.abs(np.arange(frames) - 3)],
}


@pytest.fixture(params=["interior point", "newton"])
def either(request, monkeypatch):
    """Both methods, whatever the length of the clip."""
    monkeypatch.setattr(rank_svm, "SHORT", 10**6 if request.param == "interior point" else 0)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6, 1e-8])
@pytest.mark.parametrize("values", [2, 12])
def test_the_reported_gap_bounds_the_distance_to_the_minimum(values, tol):
    x = walk(6, values, seed=1)
    svm = solve_rank_svm(gram_of(x), 0.1, tol=tol)
    d = svm.beta @ running_means(x)
    assert svm.objective == pytest.approx(energy(d, x, 0.1), rel=1e-9)
    assert svm.gap <= tol
    assert svm.objective * (1 - svm.gap) <= bounded_dual(x, 0.1) * (1 + 1e-12)


@pytest.mark.parametrize("c", [1e-10, 1e-5, 1.0, 1e8])
@pytest.mark.parametrize("clip", AWKWARD.values(), ids=AWKWARD)
def test_the_gap_closes_on_awkward_clips(clip, c):
    x = clip(40)
    svm = solve_rank_svm(gram_of(x), c)
    assert svm.gap <= 1e-6
    assert 0 < svm.objective <= 1
    # The Gram matrix of running means of a low rank is exact to some 1e-16 |phi|^2 / c of eq. 4.
    if c >= 1e-5:
        assert svm.objective == pytest.approx(energy(svm.beta @ running_means(x), x, c), rel=1e-5)


@pytest.mark.parametrize("c", [1e-5, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("clip", AWKWARD.values(), ids=AWKWARD)
def test_both_methods_find_the_same_minimum_of_a_longer_clip(clip, c, monkeypatch):
    gram = gram_of(clip(160))
    assert len(gram) > rank_svm.SHORT
    newton = solve_rank_svm(gram, c)
    monkeypatch.setattr(rank_svm, "SHORT", len(gram))
    interior = solve_rank_svm(gram, c)
    assert max(newton.gap, interior.gap) <= 1e-6
    # Each lies above the minimum, by the tolerance at most; rounding adds as much, see above.
    assert newton.objective == pytest.approx(interior.objective, rel=3e-6)
    assert newton.beta.sum() == pytest.approx(0, abs=1e-12 * np.abs(newton.beta).sum())


def test_a_long_clip_takes_little_memory_and_no_more_steps():
    """Several numbers a pair were 1.6 GB for 3,000 frames, and the steps grew with the frames."""
    gram = gram_of(walk(800, 900))
    tracemalloc.start()
    svm = solve_rank_svm(gram)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert svm.gap <= 1e-6
    assert svm.iterations < 50  # 10 or so; the interior-point method takes some 90
    assert peak < 8 * gram.nbytes  # five matrices, and the blocks of pairs at work; the pairs alone were ten


def test_a_magnified_clip_on_which_a_plain_corrector_cycles():
    """Steps of the running mean of seven magnified frames, thousands: without the safeguard the gap stays at 2 %."""
    steps = 1e3 * np.array(
        [
            [68638, 18012, -2742, 17589, 8697, -21],
            [18012, 6541, -601, 4417, 2924, 116],
            [-2742, -601, 355, -768, -345, 141],
            [17589, 4417, -768, 4992, 2340, -105],
            [8697, 2924, -345, 2340, 1441, -4],
            [-21, 116, 141, -105, -4, 104],
        ]
    )
    from_steps = np.tril(np.ones((7, 7)))[:, 1:]
    svm = solve_rank_svm(from_steps @ steps @ from_steps.T)
    assert svm.gap <= 1e-6
    assert svm.iterations < 50


def test_no_gram_matrix():
    for shape in [(0, 0), (3, 2), (3,)]:
        with pytest.raises(MerError, match="needed is"):
            solve_rank_svm(np.zeros(shape))
    with pytest.raises(MerError, match="not finite"):
        solve_rank_svm(np.full((3, 3), np.nan))


def test_a_gap_that_is_not_reached():
    gram = gram_of(walk(6, 4))
    with pytest.raises(MerError, match=r"relative gap .* after 3 steps"):
        solve_rank_svm(gram, max_iter=3)
    with pytest.raises(MerError, match="tol is 0"):
        solve_rank_svm(gram, tol=0)
    with pytest.raises(MerError, match="too small"):
        solve_rank_svm(gram, 1e-30)


def test_equal_frames_and_a_single_frame_have_no_order():
    assert solve_rank_svm(np.ones((6, 6))).objective == 1  # every pair at its full loss
    assert solve_rank_svm(np.ones((1, 1))).objective == 0


@pytest.mark.parametrize("c", [0, -1.0, np.nan, np.inf])
def test_c_must_be_positive(c):
    with pytest.raises(MerError, match="it must be a number > 0"):
        solve_rank_svm(np.eye(3), c)
