"""What a pretrained network restores: numbers by hand, and pictures that show what they are given."""

import numpy as np
import pytest

from mer.evaluation import restored
from mer.evaluation.restored import Pictures, loss_figure, numbers, outline, pairs_figure, points_of


@pytest.fixture
def figures(monkeypatch):
    kept, save = [], restored.save
    monkeypatch.setattr(restored, "save", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def test_numbers_of_swapped_and_other_patches():
    cells = np.array([[True, False, False], [True, True, False]])
    errors, copied = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[7.0, 8, 9], [10, 11, 12]])
    one = np.array([[0.1, 0.5, 0.05], [0.2, 0.3, 0.4]])
    two = np.array([[0.2, 0.4, 0.06], [0.1, 0.3, 0.5]])
    contexts = np.array([[3.0, 1], [3, -1]])
    found = numbers(errors, copied, cells, (one, two), contexts)
    assert found["pairs"] == 2
    assert found["error"] == {"swapped": pytest.approx(10 / 3), "others": pytest.approx(11 / 3)}
    assert found["copied"] == {"swapped": pytest.approx(28 / 3), "others": pytest.approx(29 / 3)}
    assert found["given_back"] == pytest.approx(28 / 6)
    # Swapped and not: 0.1 < 0.2, 0.4 < 0.5, 0.06 > 0.05; 0.2 > 0.1, 0.3 = 0.3, 0.5 > 0.4.
    assert found["swapped_lower"] == pytest.approx(2.5 / 6)
    assert found["context_spread"] == pytest.approx(1 / 3)


def test_what_is_undefined_is_none():
    cells = np.ones((2, 4), bool)
    found = numbers(np.ones((2, 4)), np.ones((2, 4)), cells, None, np.zeros((2, 3)))
    assert found["error"] == {"swapped": 1.0, "others": None}
    assert found["swapped_lower"] is None
    assert found["context_spread"] is None


def test_the_curve_is_that_of_the_note():
    assert points_of(["50 0.5 0.25 0.125", "100 0.2 0.1 0"]).tolist() == [[50, 0.5, 0.25, 0.125], [100, 0.2, 0.1, 0]]
    assert points_of([]).shape == (0, 4)


def shown(count=2, maps=("diagonal", "scores")) -> Pictures:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for _ in range(4)]
    cells = np.zeros((count, 4, 4), bool)
    cells[:, 1:3, :2] = True
    return Pictures(*pictures, cells, {name: rng.random((count, 4, 4)) for name in maps}, ["one", "two"][:count])


def test_a_row_shows_both_frames_what_is_given_and_what_is_restored(tmp_path, figures):
    given = shown()
    pairs_figure(given, tmp_path / "pairs.png", "mine", "swapped")
    axes = np.array(figures[0].axes).reshape(2, 7)
    for i in range(2):
        for a, of in zip(axes[i, [0, 1, 3, 4]], given[:4], strict=True):
            np.testing.assert_array_equal(a.get_images()[0].get_array(), of[i])
        difference = np.abs(given.first[i].astype(int) - given.other[i]).mean(-1)
        np.testing.assert_allclose(axes[i, 2].get_images()[0].get_array(), difference * restored.CHANGE)
        assert axes[i, 2].get_xlabel() == f"mean {difference.mean():.2f} grey levels"
        assert (
            axes[i, 4].get_xlabel() == f"wrong by {np.abs(given.first[i].astype(int) - given.restored[i]).mean():.2f}"
        )
        np.testing.assert_array_equal(axes[i, 6].get_images()[0].get_array(), given.maps["scores"][i])
    titles = ["frame t", "frame t+δ", "difference x 4", "swapped (outlined)", "restored", "diagonal", "scores"]
    assert [a.get_title() for a in axes[0]] == titles
    pairs_figure(shown(1, maps=()), tmp_path / "masked.png", "mine", "masked")
    assert len(figures[1].axes) == 5


def test_lines_lie_on_the_borders_of_the_cells(figures):
    from matplotlib.figure import Figure

    a = Figure().subplots()
    cells = np.zeros((4, 4), bool)
    cells[1:3, :2] = True
    outline(a, cells, (32, 64))
    segments = a.collections[0].get_segments()
    # A rectangle of 2 x 2 cells, also where it touches the border of the picture: eight sides of a cell.
    assert len(segments) == 8
    ends = np.concatenate(segments)
    assert ends[:, 0].min() == 0
    assert ends[:, 0].max() == 32
    assert ends[:, 1].min() == 8
    assert ends[:, 1].max() == 24


def test_the_loss_curve_has_its_level(tmp_path, figures):
    points = np.array([[50, 0.6, 0.5, 0.1], [100, 0.3, 0.2, 0.1], [150, 0.2, 0.1, 0.1]])
    loss_figure(points, 0.01, tmp_path / "loss.png", "mine")
    loss_figure(points * [1, 1, 1, 0], None, tmp_path / "loss.png", "mine")
    both, one = (figure.axes[0] for figure in figures)
    assert [line.get_ydata()[0] for line in both.get_lines()] == [0.5, 0.1, 0.01]
    assert both.get_yscale() == "log"
    assert [line.get_ydata().tolist() for line in one.get_lines()] == [[0.5, 0.2, 0.1]]
