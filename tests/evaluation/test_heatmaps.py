"""Heat maps: numbers by closed forms, which clips are chosen, and what is drawn over a picture."""

import itertools

import numpy as np
import pytest

from mer.evaluation import canvas, heatmaps, maps

# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [3, 7, 14])
def test_even_heat(side):
    even = np.full((side, side), 0.3)
    assert maps.concentration(even) == pytest.approx(maps.PART)
    assert maps.concentration(even, 0.37) == pytest.approx(0.37)
    assert maps.centre(even) == pytest.approx((0.5, 0.5))


def test_all_heat_in_one_place():
    one = np.zeros((7, 7))
    one[6, 1] = 2
    assert maps.concentration(one) == 1
    assert maps.centre(one) == pytest.approx((6.5 / 7, 1.5 / 7))
    one[6, 1], one[0, 5] = 1, 1
    assert maps.centre(one) == pytest.approx((0.5, 0.5))


def test_the_place_at_the_border_of_the_part_counts_with_its_share():
    heat = np.array([[4.0, 3], [2, 1]])
    assert maps.concentration(heat, 0.25) == pytest.approx(0.4)
    assert maps.concentration(heat, 0.5) == pytest.approx(0.7)
    assert maps.concentration(heat, 0.375) == pytest.approx(0.55)
    assert maps.concentration(heat, 0.1) == pytest.approx(0.16)  # 0.4 of the first place
    assert maps.concentration(heat, 1) == pytest.approx(1)


def test_of_no_heat_nothing_is_known():
    nothing = np.zeros((4, 4))
    assert maps.concentration(nothing) is maps.centre(nothing) is None
    every = np.stack([nothing, np.ones((4, 4)), np.ones((4, 4))])
    found = maps.summary(every, np.array([0, 1, 1]), 3)
    assert found["without_heat"] == 1
    assert found["concentration"] == {"mean": pytest.approx(0.1), "by_class": [None, pytest.approx(0.1), None]}
    assert found["row"] == {"mean": pytest.approx(0.5), "by_class": [None, pytest.approx(0.5), None]}
    assert found["between_classes"] is found["by_chance"] is None  # equal clips of one class


def test_summary_is_the_mean_of_the_clips():
    every, labels = np.random.default_rng(0).uniform(size=(9, 7, 7)), np.arange(9) % 3
    found = maps.summary(every, labels, 3)
    own = [maps.concentration(m) for m in every]
    assert found["concentration"]["mean"] == pytest.approx(np.mean(own))
    assert found["concentration"]["by_class"][1] == pytest.approx(np.mean(own[1::3]))
    assert found["column"]["by_class"][2] == pytest.approx(np.mean([maps.centre(m)[1] for m in every[2::3]]))
    assert (found["between_classes"], found["by_chance"]) == maps.between_classes(every, labels)
    assert found["places"] == [7, 7]


# ---- which clips ----------------------------------------------------------------------------------------------------


def corpus(people: int = 4, classes: int = 3, each: int = 2):
    rows = [(f"c/s{s}/{label}{i}", label, f"s{s}")
            for s, label, i in itertools.product(range(people), range(classes), range(each))]  # fmt: skip
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("number", [1, 3, 4, 7, 12])
def test_clips_are_spread_over_classes_and_people(number):
    ids, labels, subjects = corpus()
    found = heatmaps.spread(ids, labels, subjects, number)
    assert len(set(found)) == number
    label, who = dict(zip(ids, labels, strict=True)), dict(zip(ids, subjects, strict=True))
    for of in (label, who):
        counts = [[of[c] for c in found].count(value) for value in set(of.values())]
        assert max(counts) - min(counts) <= 1
    assert [label[c] for c in found] == sorted(label[c] for c in found)


def test_the_same_clips_are_chosen_in_any_order_and_all_where_there_are_no_more():
    ids, labels, subjects = corpus()
    order = np.random.default_rng(0).permutation(len(ids))
    mixed = [[column[i] for i in order] for column in (ids, labels, subjects)]
    assert heatmaps.spread(*mixed, 5) == heatmaps.spread(ids, labels, subjects, 5)
    assert sorted(heatmaps.spread(ids, labels, subjects, 99)) == sorted(ids)
    assert heatmaps.spread(["b", "a"], [2, 2], ["s", "s"], 1) == ["a"]  # classes without clips


# ---- what is drawn --------------------------------------------------------------------------------------------------


def test_a_map_is_enlarged_so_that_each_place_stands_for_its_part_of_the_picture():
    """Linear maps stay linear but at the border; nothing is below 0 or above the maximum.

    OpenCV's cubic kernel is Keys' with a = -0.75, which bends lines by 0.05 of the step from place to place; a place
    that is half a pixel off would be wrong by 1/32 everywhere to one side, so the mean is held closer.
    """
    rows = np.repeat(np.arange(7.0)[:, None], 7, axis=1)
    large = heatmaps.enlarged(rows, 112, 84)
    assert large.shape == (112, 84)
    places = (np.arange(112) + 0.5) / 16 - 0.5  # of the map, at the middle of each pixel
    np.testing.assert_allclose(large[32:80, 5], places[32:80], atol=0.05)
    assert (large[32:80, 5] - places[32:80]).mean() == pytest.approx(0, abs=1e-5)  # float32
    one = np.zeros((7, 7))
    one[2, 5] = 1
    large = heatmaps.enlarged(one, 112, 112)
    assert (large.min(), large.max() <= 1) == (0, True)
    assert maps.centre(large) == pytest.approx((2.5 / 7, 5.5 / 7), abs=2e-3)  # the negative lobes of the cubic are cut


@pytest.mark.parametrize("face", [np.zeros((20, 20, 3), np.uint8), np.arange(1200).reshape(20, 20, 3) % 256])
def test_the_picture_lies_in_grey_below_the_heat_and_a_line_is_at_half_of_it(face):
    figure = canvas.blank(3, 3)
    a = figure.subplots()
    heat = np.random.default_rng(0).uniform(size=(5, 5))
    heatmaps.over(a, face, heat)
    below, above = a.get_images()
    np.testing.assert_allclose(np.asarray(below.get_array()), face.mean(-1))
    np.testing.assert_allclose(np.asarray(above.get_array()), heatmaps.enlarged(heat, 20, 20))
    assert above.get_clim() == (0, 1)
    levels = {level for line in a.collections for level in line.levels}
    assert levels == {heatmaps.enlarged(heat, 20, 20).max() / 2}


@pytest.mark.parametrize("heat", [np.zeros((4, 4)), np.ones((4, 4))])
def test_an_even_map_has_no_line(heat):
    a = canvas.blank(3, 3).subplots()
    heatmaps.over(a, np.full((9, 9, 3), 7, np.uint8), heat)
    assert not a.collections


def test_little_heat_is_clear_and_much_is_dark():
    """In print, too: the more heat, the darker."""
    from matplotlib.colors import rgb_to_hsv

    values = heatmaps.colours()(np.linspace(0, 1, 256))
    assert values[0, 3] == 0
    assert values[-1, 3] == pytest.approx(heatmaps.OPAQUE)
    over_light_grey = values[:, :3] * values[:, 3:] + 0.8 * (1 - values[:, 3:])
    luminance = over_light_grey @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance[60:]) < 0).all()
    assert rgb_to_hsv(values[-1, :3])[1] > 0.9
    both = heatmaps.colours("PuOr_r", diverging=True)(np.linspace(0, 1, 256))
    assert both[127, 3] < 0.1
    assert both[0, 3] == both[-1, 3] == pytest.approx(heatmaps.OPAQUE)
