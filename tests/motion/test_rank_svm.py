"""The RankSVM solver: the gap that it reports is true, and it closes."""

import numpy as np
import pytest

from mer.errors import MerError
from mer.motion.rank_svm import solve_rank_svm
from tests.helpers.rank_pooling import bounded_dual, energy, gram_of, running_means, walk


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
@pytest.mark.parametrize(
    "x",
    [
        walk(40, 2),
        walk(40, 400) * 100,
        np.repeat(walk(10, 30), 4, axis=0),
        np.concatenate([walk(20, 60), walk(20, 60)]),
        np.linspace(0, 1, 40)[:, None] * walk(1, 50),
        -(np.linspace(0, 1, 40)[:, None] ** np.arange(1, 4)),
    ],
    ids=["few values", "many values", "repeated frames", "motion twice", "straight motion", "three curves"],
)
def test_the_gap_closes_on_awkward_clips(x, c):
    svm = solve_rank_svm(gram_of(x), c)
    assert svm.gap <= 1e-6
    assert 0 < svm.objective <= 1
    # The Gram matrix of running means of a low rank is exact to some 1e-16 |phi|^2 / c of eq. 4.
    if c >= 1e-5:
        assert svm.objective == pytest.approx(energy(svm.beta @ running_means(x), x, c), rel=1e-5)


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
