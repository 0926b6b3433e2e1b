"""Maps of motion: the face's own true motion, its crop, means over places, and the numbers by slow loops."""

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata

from mer.evaluation import motion_maps
from mer.faces.alignment import apply, crop_transform, invert
from mer.synthetic import clip as synthetic_clip
from mer.synthetic.motion import forward_flow, pixels, rigid
from tests.helpers.refusals import refused

# ---- the face's own motion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "subject"), [("4+L10", 1), ("12+25", 2), ("17+26", 3)])
def test_the_heads_movement_is_taken_out_of_the_true_flow(units, subject):
    """As the corpus draws and keeps a clip; 17+26 moves the chin, the nearest to the border of the frame."""
    person = synthetic_clip.identity(3, subject, 0)
    rng = synthetic_clip.stream(3, synthetic_clip.RENDER, subject, 0)
    motion = synthetic_clip.draw_motion(rng, person, units, 1.0, synthetic_clip.style(3, subject))
    expression, drift = motion.amplitude * motion.bumps.grid(), motion.drift(0.1)
    flow = forward_flow(motion.bumps.grid(), motion.amplitude, drift).astype(np.float16)
    assert np.abs(flow - expression).max() > 0.1  # px, the head's part
    # Half precision keeps flow below 4 px to 0.002 px; the bumps reach the border with less than 0.01 px.
    np.testing.assert_allclose(motion_maps.own_motion(flow), expression, atol=0.01)


def test_a_turn_a_zoom_and_a_shift_alone_are_no_motion_of_the_face():
    drift = rigid(1.5, -0.7, 0.02, 0.01, (20, 16))
    here = pixels(40).astype(np.float64)
    flow = (apply(drift, here.reshape(-1, 2)).reshape(here.shape) - here).transpose(2, 0, 1)
    np.testing.assert_allclose(motion_maps.own_motion(flow), 0, atol=1e-9)  # rounding of least squares


def test_motion_that_reaches_one_side_of_the_border_does_not_count_as_the_heads():
    flow = np.zeros((2, 40, 40))
    flow[0], flow[1] = 0.5, -0.25
    flow[0, 30:, 10:30] += 2
    own = motion_maps.own_motion(flow)
    np.testing.assert_allclose(own[0, 30:, 10:30], 2, atol=1e-9)  # rounding of least squares
    np.testing.assert_allclose(own[0, :30], 0, atol=1e-9)


TURNED = np.array([[0.6, -0.2, 30.0], [0.2, 0.6, -20.0]])


@pytest.mark.parametrize(
    ("shape", "transform"),
    [((320, 320), None), ((240, 320), None), ((320, 320), TURNED)],
    ids=["whole", "stretched", "turned"],
)
def test_a_planted_motion_is_where_the_crop_has_it_and_as_large(shape, transform):
    """A Gaussian of known centre, and a head that drifts; each pixel of the crop is compared with the closed form."""
    transform = crop_transform(None, "none224", shape=shape) if transform is None else transform
    centre, width, peak = np.array([150.0, 130.0]), 12.0, np.array([2.0, -1.0])

    def moved(points):
        return np.exp(-0.5 * ((points - centre) ** 2).sum(-1, keepdims=True) / width**2) * peak

    y, x = np.mgrid[: shape[0], : shape[1]]
    here = np.stack([x, y], -1).astype(np.float64)
    drift = rigid(0.8, 0.3, 0.003, 0.002, (160, 120))
    flow = (apply(drift, (here + moved(here)).reshape(-1, 2)).reshape(here.shape) - here).transpose(2, 0, 1)
    found = motion_maps.true_motion(flow, transform, 224)
    places = apply(invert(transform), pixels(224).reshape(-1, 2).astype(np.float64)).reshape(224, 224, 2)
    expected = np.hypot(*(moved(places) @ transform[:, :2].T).transpose(2, 0, 1))
    # Interpolation and OpenCV's steps of 1/32 px; half a pixel beside the place would be wrong by 0.02 and more.
    np.testing.assert_allclose(found, expected, atol=0.006)
    assert expected.max() > 1
    where = motion_maps.region(found)
    assert where[tuple(np.round(apply(transform, centre[None])[0]).astype(int)[::-1])]
    # A quarter of the largest is reached within sqrt(2 ln 4) widths: an ellipse, whose border of 1 px may differ.
    area = np.pi * 2 * np.log(4) * width**2 * abs(np.linalg.det(transform[:, :2]))
    assert where.sum() == pytest.approx(area, rel=0.05)


def test_where_nothing_moves_there_is_no_region():
    assert not motion_maps.region(np.zeros((4, 4))).any()


# ---- means over places ----------------------------------------------------------------------------------------------


def slow_means(image, places):
    """Pixel by pixel: how much of its area lies in the place."""
    height, width = image.shape
    found = np.zeros(places)
    for row, column in itertools.product(*map(range, places)):
        y0, y1 = row * height / places[0], (row + 1) * height / places[0]
        x0, x1 = column * width / places[1], (column + 1) * width / places[1]
        total = 0.0
        for y, x in itertools.product(range(height), range(width)):
            tall, wide = min(y + 1, y1) - max(y, y0), min(x + 1, x1) - max(x, x0)
            total += image[y, x] * max(tall, 0) * max(wide, 0)
        found[row, column] = total / ((y1 - y0) * (x1 - x0))
    return found


@pytest.mark.parametrize(("shape", "places"), [((12, 12), (4, 4)), ((10, 7), (4, 3)), ((3, 3), (4, 5))])
def test_each_place_has_the_mean_over_its_area(shape, places):
    image = np.random.default_rng(0).uniform(size=shape)
    found = motion_maps.area_means(image, places)
    np.testing.assert_allclose(found, slow_means(image, places), rtol=1e-12)  # another order of the same sums
    assert found.mean() == pytest.approx(image.mean(), rel=1e-12)


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_the_share_of_a_map_inside_a_region():
    fraction = np.array([[0, 0.5], [1, 0]])
    assert motion_maps.share_inside(np.full((2, 2), 3.0), fraction) == fraction.mean()
    assert motion_maps.share_inside(np.array([[0, 0], [0.2, 0]]), fraction) == 1
    assert motion_maps.share_inside(np.array([[1.0, 0], [0, 7]]), fraction) == 0
    assert motion_maps.share_inside(np.array([[1.0, 2], [1, 0]]), fraction) == (0.5 * 2 + 1) / 4
    assert motion_maps.share_inside(np.zeros((2, 2)), fraction) is None
    assert motion_maps.share_inside(np.array([[1.0, -0.1], [0, 0]]), fraction) is None


def test_the_rank_correlation_is_that_of_the_ranks():
    rng = np.random.default_rng(1)
    one, other = rng.uniform(size=(4, 3)), rng.integers(0, 4, (4, 3))
    expected = np.corrcoef(rankdata(one), rankdata(other))[0, 1]
    assert motion_maps.rank_correlation(one, other) == pytest.approx(expected, rel=1e-12)
    assert motion_maps.rank_correlation(one, one**3) == pytest.approx(1, rel=1e-12)
    assert motion_maps.rank_correlation(one, np.ones((4, 3))) is None
    assert motion_maps.rank_correlation(one, np.ones((4, 3)) + 1e-12 * one) is None  # rounding is no order
    assert motion_maps.rank_correlation(np.zeros((4, 3)), one) is None


def test_the_interval_is_over_subjects_and_not_over_clips():
    # Of two people a mean is that of one, of the other, or of both; a quarter of the draws each has one alone.
    assert motion_maps.subject_interval([0.2, 0.2, 0.6, 0.6], list("aabb")) == pytest.approx([0.2, 0.6])
    assert motion_maps.subject_interval([0.3] * 6, list("aabbcc")) == pytest.approx([0.3, 0.3])
    assert motion_maps.subject_interval([0.2, 0.6, None], list("abc")) == pytest.approx([0.2, 0.6])
    assert motion_maps.subject_interval([0.2, None, 0.6], list("aba")) is None
    assert motion_maps.subject_interval([], []) is None


def test_the_interval_is_that_of_a_slow_loop():
    rng = np.random.default_rng(4)
    values, subjects = rng.uniform(size=20).tolist(), [f"s{i}" for i in rng.integers(0, 5, 20)]
    names = sorted(set(subjects))
    draws = np.random.default_rng(motion_maps.SEED).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=motion_maps.REPLICATES
    )
    means = []
    for draw in draws:
        drawn = [
            v for name, k in zip(names, draw, strict=True) for v, who in zip(values, subjects, strict=True)
            if who == name for _ in range(k)
        ]  # fmt: skip
        means.append(np.mean(drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    # The same numbers, summed in another order.
    assert motion_maps.subject_interval(values, subjects) == pytest.approx([low, high], rel=1e-12)


def test_the_truth_needs_the_crop():
    refused("motion_maps: the truth is cropped as the frames are; give both", motion_maps.Products, 0, 0, truth=0)
