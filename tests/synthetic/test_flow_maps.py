"""The simulator of flow maps against closed forms: one unit alone, mirrored, doubled; strain; each nuisance."""

from dataclasses import fields, replace

import numpy as np
import pytest

from mer.errors import MerError
from mer.facs import CENTRAL, EMOTIONS, LATERAL, OF_CLASS, TARGETS
from mer.models.linear import mirror
from mer.motion.strain import optical_strain
from mer.stretch import stretched
from mer.synthetic import flow_maps, motion
from mer.synthetic.flow_maps import CROP, NONE, Nuisance, draw, faces, simulate

FINE = 112  # px: above 56 a map is computed at its own size


def alone(target, size=FINE, seed=0, **how):
    """The map of one unit of one person, and the points of the person, px of the map."""
    weights = np.zeros((1, len(TARGETS)), np.float32)
    weights[0, TARGETS.index(target)] = 1
    settings = replace(NONE, **how)
    points = faces(np.random.default_rng(seed), 1, settings)[0] * size - 0.5
    return simulate(np.random.default_rng(seed), weights, size=size, nuisance=settings)[0], points


def expected(target, points, size=FINE):
    """The same by the renderer's own sum of Gaussians, point by point; its largest displacement is 1."""
    unit = int(target.lstrip("LR"))
    if unit in CENTRAL:
        bumps = motion.expression(points, [(unit, 1.0, 1.0)])
    else:
        changed, motion.UNITS[unit] = motion.UNITS.get(unit), flow_maps.UNITS[unit]
        try:
            bumps = motion.expression(points, [(unit, float(target[0] == "L"), float(target[0] == "R"))])
        finally:
            if changed is None:
                del motion.UNITS[unit]
            else:
                motion.UNITS[unit] = changed
    field = bumps.at(motion.pixels(size).reshape(-1, 2)).T.reshape(2, size, size)
    return field / np.hypot(*field).max()


@pytest.mark.parametrize("target", [*TARGETS[::4], "L20", "R12", "17"])
def test_a_unit_alone_is_the_sum_of_its_gaussians(target):
    found, points = alone(target, peak=(1.0, 1.0))
    assert np.abs(found[:2] - expected(target, points)).max() < 2e-5  # float32


def test_twice_the_peak_is_twice_the_field():
    once, _ = alone("L12", peak=(0.5, 0.5))
    twice, _ = alone("L12", peak=(1.0, 1.0))
    assert np.abs(twice - 2 * once).max() < 1e-6
    assert np.hypot(*twice[:2]).max() == pytest.approx(1.0, abs=1e-6)


def test_the_other_half_is_the_mirrored_field(monkeypatch):
    """Of a face that is its own mirror image."""
    points = flow_maps._gallery()[0]
    even = (points + points[flow_maps.MIRROR] * (-1, 1) + (1, 0)) / 2
    monkeypatch.setattr(flow_maps, "_gallery", lambda: np.repeat(even[None], flow_maps.FACES, 0))
    for unit in LATERAL:
        left, _ = alone(f"L{unit}", peak=(1.0, 1.0))
        right, _ = alone(f"R{unit}", peak=(1.0, 1.0))
        assert np.abs(mirror(left[None])[0] - right).max() < 2e-5


def test_strain_is_that_of_the_field_in_px_of_the_crop():
    found, points = alone("R12", size=224, peak=(1.0, 1.0))
    field = expected("R12", points, 224)
    assert np.abs(found[2] - optical_strain(field)).max() < 1e-5
    small, _ = alone("R12", size=FINE, peak=(1.0, 1.0))
    # Half as many px: the slope of a px of the crop stays, to the error of central differences over twice the distance.
    assert small[2].max() == pytest.approx(found[2].max(), rel=0.02)


def test_28_px_are_the_mean_of_56():
    fine, _ = alone("L4", size=56 + 2, peak=(1.0, 1.0))
    assert fine.shape == (3, 58, 58)
    small, _ = alone("L4", size=28, peak=(1.0, 1.0))
    _, points = alone("L4", size=56, peak=(1.0, 1.0))
    field = expected("L4", points, 56).reshape(2, 28, 2, 28, 2).mean((2, 4))
    assert np.abs(small[:2] - field).max() < 2e-5


def test_what_is_stretched():
    maps = np.array([[[[0, 1], [2, 4]]] * 3], np.float32).repeat(14, 2).repeat(14, 3)
    maps[0, 1] = 7.0
    found = stretched(maps)
    assert found.shape == (1, 3, 28, 28)
    assert found[0, 0, ::14, ::14].tolist() == [[-127.5, -63.5], [0.5, 127.5]]
    assert (found[0, 1] == 0).all()  # without motion: the middle
    assert found[0, 2, ::14, ::14].tolist() == [[0, 64], [128, 255]]
    drawn = draw(np.random.default_rng(3), 20).flow
    forms = stretched(drawn)
    assert forms[:, :2].min() == -127.5
    assert forms[:, :2].max() == 127.5
    assert np.abs(stretched(mirror(drawn)) - mirror(forms)).max() <= 1  # a level, by rounding of halves


SWITCHES = [
    f.name for f in fields(Nuisance) if f.name not in ("peak", "zoom", "low", "style", "asymmetry", "one_sided")
]


@pytest.mark.parametrize("name", SWITCHES)
def test_each_nuisance_changes_the_map_and_nothing_else_of_it(name):
    """With the same random numbers; those that come later in the function are not drawn."""
    quiet, _ = alone("R12", peak=(1.0, 1.0))
    loud, _ = alone("R12", peak=(1.0, 1.0), **{name: 1.0})
    assert np.abs(loud - quiet).max() > 1e-3
    again, _ = alone("R12", peak=(1.0, 1.0), **{name: 0.0})
    assert np.array_equal(again, quiet)


def test_small_flow_is_flattened_and_large_flow_loses_as_much():
    quiet, _ = alone("R12", peak=(1.0, 1.0))
    flat, _ = alone("R12", peak=(1.0, 1.0), flatten=0.1)
    length, kept = np.hypot(*quiet[:2]), np.hypot(*flat[:2])
    assert kept[length < 0.09].max() < 0.02  # less the median of the map, which is not quite 0
    assert kept.max() == pytest.approx(0.9, abs=0.02)


def test_a_rigid_head_leaves_no_strain():
    maps = simulate(
        np.random.default_rng(0), np.zeros((4, len(TARGETS)), np.float32), nuisance=replace(NONE, head=2.0)
    )  # fmt: skip
    u, v = maps[:, 0], maps[:, 1]
    # A drift, a turn and a zoom: u and v are linear, with the slopes of a similarity.
    du, dv = np.gradient(u, axis=(1, 2)), np.gradient(v, axis=(1, 2))
    for slope in (*du, *dv):
        assert np.abs(slope - slope[:, :1, :1]).max() < 1e-4
    assert np.allclose(du[1][:, 0, 0], dv[0][:, 0, 0], atol=1e-4)
    assert np.allclose(du[0][:, 0, 0], -dv[1][:, 0, 0], atol=1e-4)
    assert np.abs(maps[:, :2]).max() > 1


def test_labels_are_those_of_the_emotions():
    maps = draw(np.random.default_rng(0), 3000)
    assert np.bincount(maps.label).min() > 900
    of_units = {emotion: {int(u.lstrip("L")) for v in variants for u in v} for emotion, variants in EMOTIONS.items()}
    for label, name in enumerate(OF_CLASS):
        shown = maps.units[maps.label == label].any(0)
        units = {int(t.lstrip("LR")) for t, there in zip(TARGETS, shown, strict=True) if there}
        assert units == set.union(*(of_units[e] for e in OF_CLASS[name]))
    sides = maps.units[:, : len(LATERAL)].mean(0), maps.units[:, len(LATERAL) : 2 * len(LATERAL)].mean(0)
    assert np.abs(sides[0] - sides[1]).max() < 0.03  # three standard errors of a share of 3000


def test_equal_seeds_are_equal_maps_and_others_are_not():
    one, other, third = (draw(np.random.default_rng(s), 5).flow for s in (1, 1, 2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)
    assert one.dtype == np.float32
    assert one.shape == (5, 3, 28, 28)
    assert draw(np.random.default_rng(0), 2, size=CROP).flow.shape == (2, 3, CROP, CROP)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peak": (0, 1)}, "peak is .*; needed are two numbers above 0"), ({"smooth": 1.5}, "smooth is 1.5; a share"),
        ({"noise": -1}, "noise is -1; needed is 0 or more"), ({"head": np.nan}, "head is nan; needed is 0 or more"),
    ],
)  # fmt: skip
def test_what_no_nuisance_is(changes, message):
    with pytest.raises(MerError, match=message):
        Nuisance(**changes)
    with pytest.raises(MerError, match=r"flow maps: 0 maps of 28 px; needed is 1 at least"):
        draw(np.random.default_rng(0), 0)
