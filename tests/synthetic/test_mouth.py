"""The mouth of a synthetic face: closed at rest, and parted by as much as was asked."""

import numpy as np
import pytest

from mer.synthetic import clip, mouth
from mer.synthetic.face import PORTRAIT_LANDMARKS, draw_identity
from mer.synthetic.motion import pixels, render

AT_REST = np.concatenate([PORTRAIT_LANDMARKS[:48], mouth.CLOSED])
LEFT, RIGHT = AT_REST[60, 0], AT_REST[64, 0]


@pytest.fixture(scope="module")
def people():
    return [draw_identity(np.random.default_rng(seed), oversample=1) for seed in range(6)]


def line_at(landmarks, x):
    """The height of the line between the lips, from its five points by straight lines."""
    upper, lower = landmarks[[60, 61, 62, 63, 64]], landmarks[[60, 67, 66, 65, 64]]
    return np.interp(x, upper[:, 0], (upper[:, 1] + lower[:, 1]) / 2)


def between_lips(person, gap):
    """Colours (N, 3) of the column in the mouth's middle, complexion taken out, a fifth of its width up and down."""
    image = render(person, np.eye(2, 3), pixels(), gap) / person.gain
    x = round(person.drawn[[60, 64], 0].mean())
    y, reach = round(float(line_at(person.drawn, x))), round(np.ptp(person.drawn[[60, 64], 0]) / 5)
    return image[y - reach : y + reach + 1, x - 8 : x + 9].mean(1)


def whiteness(colours):
    """Blue by red of the whitest bright place: lips and skin are redder than teeth."""
    return (colours[:, 2] / colours[:, 0])[colours[:, 0] > 120].max()


# ---- at rest --------------------------------------------------------------------------------------------------------


def test_a_neutral_face_shows_no_teeth_and_an_open_mouth_does(people):
    """Lips and skin have 0.82 at most where light is on them, the drawn teeth 0.88."""
    for person in people:
        assert whiteness(between_lips(person, 0)) < 0.85 < whiteness(between_lips(person, 12))


def test_the_line_between_the_lips_is_the_darkest(people):
    for person in people:
        middle = between_lips(person, 0).mean(1)
        # The points are drawn with a scatter of half a pixel, and the shadow is one or two pixels wide.
        assert abs(int(middle.argmin()) - len(middle) // 2) <= 2


def test_lips_are_read_from_their_own_sides():
    """Above the line nothing below the parted upper lip is read, and below it nothing above the lower one."""
    apart = AT_REST.copy()
    apart[[61, 62, 63], 1] -= 2
    apart[[65, 66, 67], 1] += 3
    x, y = np.arange(190.0, 256.0), np.arange(130.0, 166.0, 0.25)
    rows, shade = mouth.close(x, y, AT_REST, apart)
    outside = (x <= AT_REST[48, 0]) | (x >= AT_REST[54, 0])
    assert np.array_equal(rows[:, outside], np.repeat(y[:, None], outside.sum(), 1))
    assert not shade[:, outside].any()
    column = int(np.abs(x - 223).argmin())
    jump = np.diff(rows[:, column])
    line = line_at(AT_REST, x[column])
    assert y[jump.argmax()] <= line + 0.25 <= y[jump.argmax() + 1] + 0.5
    # In a column the step is what lies between the parted edges, 2 + 3 px; the curves bend by less than half a pixel.
    assert jump.max() == pytest.approx(5 + 0.8, abs=0.8)
    assert (jump > 0).all()
    assert shade[:, column].argmax() == pytest.approx(np.abs(y - line).argmin(), abs=2)


def test_dlib_and_the_drawing_agree_but_for_its_known_habit(people):
    for person in people:
        apart = np.hypot(*(person.landmarks - person.drawn).T)
        assert 0.1 < apart.mean() < 3


# ---- parted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [2.0, 6.0, 12.0])
def test_the_lips_lie_as_far_apart_as_asked(gap):
    x = (LEFT + RIGHT) / 2
    column = np.stack([np.full(4000, x), np.linspace(110, 200, 4000)], 1)
    parted = mouth.part(column, AT_REST, gap)
    step = column[1, 1] - column[0, 1]
    # Between the edges the cover falls to a half at each of them: its sum is the gap.
    assert parted.cover.sum() * step == pytest.approx(gap, rel=0.02)
    open_ = column[parted.cover > 0.5, 1]
    line = line_at(AT_REST, x)
    assert open_.min() == pytest.approx(line - mouth.UPWARDS * gap, abs=0.5)
    assert open_.max() == pytest.approx(line + (1 - mouth.UPWARDS) * gap, abs=0.5)


def test_what_is_seen_of_the_face_stays_in_order_and_far_places_stay():
    column = np.stack([np.full(2000, 222.0), np.linspace(60, 300, 2000)], 1)
    parted = mouth.part(column, AT_REST, 10.0)
    seen = parted.points[parted.cover == 0, 1]
    assert (np.diff(seen) > 0).all()  # nothing folds
    for y in (62.0, 290.0):
        row = np.abs(column[:, 1] - y).argmin()
        assert parted.points[row, 1] == pytest.approx(column[row, 1], abs=0.05)
    sides = mouth.part(np.array([[LEFT - 1, 150.0], [RIGHT + 1, 150.0]]), AT_REST, 10.0)
    assert np.allclose(sides.points[:, 1], 150.0)
    assert not sides.cover.any()


def test_a_gap_of_nothing_is_the_closed_mouth(people):
    closed = render(people[0], np.eye(2, 3), pixels())
    assert np.abs(render(people[0], np.eye(2, 3), pixels(), 1e-6) - closed).max() < 0.5


def test_open_mouths_are_of_units_25_to_27_alone(tmp_path):
    """In the pool; there, a jaw that drops far is AU 27."""
    from mer.synthetic import pool

    job = pool._Job(101, 0, 0, 1, 0, 0, (8, 9), tmp_path)
    asked = []
    drawn = pool.render
    rows = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "render", lambda p, pose, where, gap=0.0: asked.append(gap) or drawn(p, pose, where, gap))
        for emotion in clip.COUNTS:
            (tmp_path / "macro" / emotion).mkdir(parents=True)
            rows += [pool._macro(job, emotion, k) for k in range(60 if emotion == "surprise" else 10)]
    opening = [{"25", "26", "27"} & set(row[3].split("+")) != set() for row in rows]
    assert [gap > 0 for gap in asked] == opening
    assert 5 <= sum(opening) < len(rows) / 2
    assert any("27" in row[3].split("+") for row in rows)
