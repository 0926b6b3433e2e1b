"""Rank pooling finds the minimum of MSMMT eq. 4, and the dynamic image shows it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ortho_group
from sklearn.svm import LinearSVC

from mer.errors import MerError
from mer.motion import dynamic_image as module
from mer.motion import rank_svm
from mer.motion.dynamic_image import SOLVERS, approximate_weights, dynamic_image, rank_pool
from tests.helpers.rank_pooling import bounded_dual, differences, energy, running_means, walk


def linear_svc(x, c):
    """The minimum of eq. 4 by scikit-learn: its C weighs the sum of the losses against |d|^2 / 2."""
    z = differences(x)
    sign = np.where(np.arange(len(z)) % 2, 1.0, -1.0)  # it wants two classes
    svm = LinearSVC(
        loss="hinge", dual=True, fit_intercept=False, C=1 / (c * len(z)), tol=1e-8, max_iter=200_000, random_state=0
    )
    return energy(svm.fit(z * sign[:, None], sign).coef_[0], x, c)


def moving(frames=12, size=16, channels=3, seed=3):
    """(T, H, W, 3) uint8: a blob that drifts to the right over a textured ground, with a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    ground = rng.uniform(40, 120, (size, size, channels))
    blobs = [np.exp(-((x - 4 - 6 * t / frames) ** 2 + (y - size / 2) ** 2) / 8) for t in range(frames)]
    clip = ground + 100 * np.stack(blobs)[..., None] * np.linspace(1, 0.5, channels)
    return np.rint(clip + rng.normal(size=clip.shape)).clip(0, 255).astype(np.uint8)


# ---- the minimum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", [bounded_dual, linear_svc])
@pytest.mark.parametrize("c", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize(("frames", "values"), [(3, 1), (3, 5), (5, 2), (6, 12), (8, 3), (8, 40)])
def test_the_minimum_is_that_of_an_independent_solver(frames, values, c, peer):
    x = walk(frames, values)
    ours, theirs = energy(rank_pool(x, c), x, c), peer(x, c)
    assert -1e-3 * theirs < ours - theirs < 1e-6 * theirs


@pytest.mark.parametrize("c", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize(("frames", "values"), [(3, 1), (3, 5), (5, 2), (6, 12), (8, 3), (8, 40)])
def test_the_minimum_of_the_method_for_long_clips_is_that_of_an_independent_solver(frames, values, c, monkeypatch):
    monkeypatch.setattr(rank_svm, "SHORT", 0)
    x = walk(frames, values)
    ours, theirs = energy(rank_pool(x, c), x, c), bounded_dual(x, c)
    assert -1e-3 * theirs < ours - theirs < 1e-6 * theirs


@pytest.mark.parametrize("high", [2, 256])
def test_the_products_of_uint8_frames_are_exact(high):
    """Float32 holds the sums of slow motion; where it does not, as between black and white, float64 takes them."""
    x = np.random.default_rng(0).integers(0, high, (5, 5000)).astype(np.uint8)
    x[1:3] *= 255 // (high - 1)
    less = x.astype(np.int64) - x[0]
    assert np.array_equal(module._gram(x), less @ less.T)
    assert np.square(less[:, : module.COLUMNS]).sum(1).max() > 2**24


def test_a_picture_of_a_longer_clip():
    """The two methods stop at other points within the tolerance: a grey level apart at most."""
    clip = np.repeat(moving(frames=80), 2, axis=0)[1:]  # every frame twice but the first
    noisy = np.clip(clip + np.random.default_rng(1).integers(-2, 3, clip.shape), 0, 255).astype(np.uint8)
    for frames in (clip, noisy):
        assert len(frames) > rank_svm.SHORT
        long = dynamic_image(frames).astype(int)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rank_svm, "SHORT", len(frames))
            short = dynamic_image(frames).astype(int)
        assert np.abs(long - short).max() <= 1


@pytest.mark.parametrize("c", [1e-4, 0.5, 2.0, 100.0])
def test_two_frames_have_a_closed_form(c):
    x = walk(2, 5)
    step = (x[1] - x[0]) / 2
    expected = min(1 / c, 1 / (step @ step)) * step
    assert rank_pool(x, c, tol=1e-9) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("frames", [2, 7, 30])
def test_where_every_pair_violates_the_exact_weights_are_the_approximate_ones(frames):
    x = walk(frames, 9)
    c = 1e4
    pairs = frames * (frames - 1) / 2
    assert (differences(x) @ rank_pool(x, c)).max() < 1
    assert rank_pool(x, c, tol=1e-12) == pytest.approx(approximate_weights(frames) @ x / (c * pairs), rel=1e-6)


def test_later_frames_score_higher_in_a_smooth_motion():
    x = moving().reshape(12, -1)
    assert (np.diff(running_means(x) @ rank_pool(x)) > 0).all()
    assert (np.diff(running_means(x[::-1]) @ rank_pool(x)) < 0).any()


def test_a_rotation_of_the_features_rotates_the_result():
    x, turn = walk(9, 6), ortho_group(6, seed=2).rvs()
    assert rank_pool(x @ turn, 0.1, tol=1e-10) == pytest.approx(rank_pool(x, 0.1, tol=1e-10) @ turn, rel=1e-4)


def test_larger_features_with_c_by_the_square_give_a_smaller_result():
    x = walk(9, 6)
    assert 7 * rank_pool(7 * x, 0.1 * 49, tol=1e-10) == pytest.approx(rank_pool(x, 0.1, tol=1e-10), rel=1e-4)


def test_a_shift_of_the_features_changes_nothing():
    x = np.random.default_rng(0).integers(0, 50, (9, 300)).astype(np.uint8)
    assert np.array_equal(rank_pool(x), rank_pool(x + np.uint8(200)))


def test_the_block_size_changes_nothing(monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (9, 300)).astype(np.uint8)
    whole = rank_pool(x)
    monkeypatch.setattr(module, "COLUMNS", 7)
    assert rank_pool(x) == pytest.approx(whole, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 5))))
def test_no_clip_has_a_result_worse_than_zero_or_than_its_neighbours(x):
    d = rank_pool(x)
    least = energy(d, x, 1.0) if len(x) > 1 else 0
    for other in (0 * d, 0.99 * d, 1.01 * d, d + 1e-3, d - 1e-3):
        assert len(x) == 1 or least <= energy(other, x, 1.0) * (1 + 1e-6)


def test_equal_frames_and_a_single_frame_have_no_order():
    x = walk(1, 5)
    assert not rank_pool(x).any()
    assert not rank_pool(np.repeat(x, 6, axis=0)).any()


@pytest.mark.parametrize("frames", [1, 2, 3, 10])
def test_approximate_weights_are_the_sum_over_pairs(frames):
    later_less_earlier = differences(np.eye(frames)).sum(axis=0) if frames > 1 else 0
    assert approximate_weights(frames) == pytest.approx(later_less_earlier, abs=1e-12)


# ---- the picture ----------------------------------------------------------------------------------------------


def test_the_picture_is_the_result_over_its_whole_range():
    clip = moving()
    d = rank_pool(clip.reshape(12, -1))
    image = dynamic_image(clip)
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8
    assert (image.min(), image.max()) == (0, 255)
    assert np.array_equal(image.ravel(), np.rint((d - d.min()) / (d.max() - d.min()) * 255))


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_motion_is_bright_where_it_goes_and_dark_where_it_comes_from(solver):
    image = dynamic_image(moving(), solver=solver).astype(float)
    assert image[8, 9].mean() > 200
    assert image[8, 3].mean() < 100


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_clip_without_order_is_grey(solver, count, dtype):
    clip = np.repeat(moving(frames=1), count, axis=0)
    clip = clip if dtype == np.uint8 else (clip / 255).astype(dtype)
    assert (dynamic_image(clip, solver=solver) == 128).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_clip_that_only_gets_brighter_is_grey(solver):
    """Its d is the same in each pixel; rounding must not be stretched over the range."""
    clip = moving(frames=1) / 255 * 0.5 + np.linspace(0, 0.3, 7)[:, None, None, None]
    assert (dynamic_image(clip, solver=solver) == 128).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_frames_give_their_difference(solver):
    clip = moving()[[0, -1]]
    change = clip[1].astype(float) - clip[0]
    expected = np.rint((change - change.min()) / np.ptp(change) * 255)
    assert np.abs(dynamic_image(clip, solver=solver) - expected).max() <= 1  # a level, where the rounding is at a half


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("c", [1.0, 1e4])
def test_grey_is_colour_with_equal_channels(solver, c):
    grey = moving(channels=1)[..., 0]
    image = dynamic_image(grey, solver=solver, c=c)
    colour = dynamic_image(np.repeat(grey[..., None], 3, axis=-1), solver=solver, c=c)
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - colour).max() <= 1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [1.0, 1e4])
def test_float_frames_give_the_picture_of_uint8_frames(solver, dtype, c):
    clip = moving()
    image = dynamic_image((clip / 255).astype(dtype), solver=solver, c=c)
    assert np.abs(image.astype(int) - dynamic_image(clip, solver=solver, c=c)).max() <= 1


def test_the_same_clip_gives_the_same_picture():
    clip = moving()
    before = clip.copy()
    assert np.array_equal(dynamic_image(clip), dynamic_image(clip))
    assert np.array_equal(clip, before)


def test_s10_the_default_and_the_alternative():
    """Fidelity S-10: lambda 1.0 and `ranksvm_pairs` by default; `approximate` is another picture."""
    clip = moving()
    pictures = {solver: dynamic_image(clip, solver=solver).astype(int) for solver in ("ranksvm_pairs", "approximate")}
    assert set(pictures) == set(SOLVERS)
    assert np.array_equal(dynamic_image(clip), pictures["ranksvm_pairs"])
    assert np.array_equal(dynamic_image(clip), dynamic_image(clip, c=1.0))
    assert np.abs(pictures["ranksvm_pairs"] - pictures["approximate"]).mean() > 2  # grey levels
    assert np.corrcoef(pictures["ranksvm_pairs"].ravel(), pictures["approximate"].ravel())[0, 1] > 0.5


def test_c_decides_how_much_the_exact_picture_differs_from_the_approximate_one():
    clip = moving()
    apart = [
        np.abs(dynamic_image(clip, c=c).astype(int) - dynamic_image(clip, solver="approximate")).mean()
        for c in (1.0, 1e4, 1e7)
    ]
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] < 0.01


# ---- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (4, 8, 8, 4), (4, 8, 8, 1), (8, 8), (4, 0, 8), (2, 4, 8, 8, 3)])
def test_no_clip(shape):
    with pytest.raises(MerError, match="needed is"):
        dynamic_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_single_picture_is_no_clip_of_its_rows(channels, solver):
    with pytest.raises(MerError, match=rf"clip is .16, 20, {channels}.: one picture; needed is .T, H, W, 3. or"):
        dynamic_image(np.zeros((16, 20, channels), np.uint8), solver=solver)


@pytest.mark.parametrize("dtype", [np.int16, bool, complex])
def test_another_dtype(dtype):
    with pytest.raises(MerError, match="needed is uint8 or float"):
        dynamic_image(np.zeros((4, 8, 8, 3), dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 255.0])
def test_floats_out_of_range(value):
    clip = np.zeros((4, 8, 8, 3))
    clip[2, 3, 4, 1] = value
    with pytest.raises(MerError, match=r"needed is 0\.\.1"):
        dynamic_image(clip)


def test_an_unknown_solver():
    with pytest.raises(MerError, match="'ranksvm_pair'; did you mean 'ranksvm_pairs'"):
        dynamic_image(moving(), solver="ranksvm_pair")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("c", [0, -1.0, np.nan, np.inf, "1.0", None])
def test_c_must_be_positive(solver, c):
    with pytest.raises(MerError, match="it must be a number > 0"):
        dynamic_image(moving(), solver=solver, c=c)
    with pytest.raises(MerError, match="it must be a number > 0"):
        rank_pool(walk(3, 3), c)


def test_no_features():
    for shape in [(0, 3), (3, 0), (3,), (3, 3, 3)]:
        with pytest.raises(MerError, match="needed is"):
            rank_pool(np.zeros(shape))
    with pytest.raises(MerError, match="needed is uint8 or float"):
        rank_pool(np.zeros((3, 3), int))
    for value in (np.nan, np.inf, 1e200):
        with pytest.raises(MerError, match="not finite"):
            rank_pool(np.array([[0.0], [value]]))
    with pytest.raises(MerError, match="0 frames"):
        approximate_weights(0)
