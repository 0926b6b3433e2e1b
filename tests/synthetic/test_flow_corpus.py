"""A corpus of simulated flow: who is in it, what moves, and that the form is that of the releases."""

import numpy as np
import pytest

from mer import corpora
from mer.clips import check_subjects, checked
from mer.facs import LATERAL, TARGETS, coded_units
from mer.stretch import stretched
from mer.synthetic import flow_corpus, flow_maps
from mer.synthetic.flow_maps import NONE, faces, simulate


@pytest.fixture(scope="module")
def made():
    return flow_corpus.made("simulated", subjects=10, clips=6, seed=0)


def test_its_index_is_an_index_and_each_person_shows_each_class(made):
    table, flow = made
    checked(table, "here")
    check_subjects(zip(table["corpus"], table["subject"], strict=True), "here")
    assert table["id"].is_monotonic_increasing
    assert table["id"].is_unique
    assert table["id"].iloc[0] == "simulated/s001/m001"
    assert flow.shape == (60, 3, 28, 28)
    counts = corpora.select(table, "simulated_flow", 3).groupby(["subject", "label"]).size()
    assert counts.tolist() == [2] * 30


def test_its_maps_have_the_form_of_a_release(made):
    _, flow = made
    assert flow[:, :2].min() == -127.5
    assert flow[:, :2].max() == 127.5
    assert (flow.min((2, 3)) == np.array([-127.5, -127.5, 0])).all()
    assert (flow[:, 2].max((1, 2)) == 255).all()
    grey = flow.copy()
    grey[:, :2] += 127.5
    assert (grey == np.round(grey)).all()


def test_the_codes_are_those_of_the_units_that_move(made):
    """Whichever half moves; what moves alone bears a letter."""
    table, _ = made
    rng = np.random.default_rng([0, 4])
    label = np.tile(np.arange(6) % 3, 10)
    moves = flow_maps.unit_weights(rng, label, flow_maps.Nuisance()) > 0
    lateral = moves[:, : len(LATERAL)] | moves[:, len(LATERAL) : 2 * len(LATERAL)]
    expected = np.concatenate([lateral, moves[:, 2 * len(LATERAL) :]], axis=1)
    assert np.array_equal(coded_units(table["aus"].tolist()), expected.astype(np.float32))

    alone = (moves[:, : len(LATERAL)] != moves[:, len(LATERAL) : 2 * len(LATERAL)]).any(1)
    assert [("L" in text or "R" in text) for text in table["aus"]] == alone.tolist()
    assert 0 < alone.sum() < 60


def test_left_is_the_persons_left():
    """The half of the picture on the right; TARGETS name the halves of the picture."""
    moves = np.zeros(len(TARGETS), bool)
    moves[TARGETS.index("R12")] = True
    moves[[TARGETS.index("L4"), TARGETS.index("R4"), TARGETS.index("17")]] = True
    assert flow_corpus._text(moves) == "4+L12+17"


def test_a_subject_is_one_face_in_one_crop_and_no_face_comes_twice():
    """Without anything else in the maps the same units move the same face alike: its maps are equal."""
    weights = np.zeros((4, len(TARGETS)), np.float32)
    weights[:, [TARGETS.index("L12"), TARGETS.index("R12")]] = 1
    who = np.array([0, 1, 0, 1])
    found = simulate(np.random.default_rng(3), weights, nuisance=NONE, subject=who)
    form = stretched(found)
    assert np.abs(form[0] - form[2]).max() <= 1  # the peak differs, which the stretch takes out; one level of rounding
    assert np.abs(form[0] - form[1]).max() > 20
    people = faces(np.random.default_rng(0), flow_maps.FACES, NONE, twice=False)
    assert len(np.unique(_in_its_own_frame(people), axis=0)) == flow_maps.FACES
    again = faces(np.random.default_rng(0), flow_maps.FACES, NONE)
    assert len(np.unique(_in_its_own_frame(again), axis=0)) < flow_maps.FACES


def _in_its_own_frame(people: np.ndarray) -> np.ndarray:
    """Points (N, 68, 2) so that a face and its mirrored copy are equal."""
    turned = people[:, flow_maps.MIRROR] * (-1, 1) + (1, 0)
    first = np.round(people.reshape(len(people), -1), 6)
    other = np.round(turned.reshape(len(people), -1), 6)
    return np.where((first[:, :1] <= other[:, :1]), first, other)


def test_equal_seeds_are_equal_corpora(made):
    again = flow_corpus.made("simulated", subjects=10, clips=6, seed=0)
    other = flow_corpus.made("simulated", subjects=10, clips=6, seed=1)
    assert again[0].equals(made[0])
    assert np.array_equal(again[1], made[1])
    assert not np.array_equal(other[1], made[1])
