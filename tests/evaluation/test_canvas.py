"""The colour wheel by its definition."""

import numpy as np
import pytest

from mer.evaluation import canvas


@pytest.mark.parametrize(
    ("u", "v", "rgb"), [(1, 0, (255, 0, 0)), (-1, 0, (0, 255, 255)), (0, 0, (255, 255, 255)), (0.5, 0, (255, 128, 128))]
)
def test_colours_of_directions(u, v, rgb):
    flow = np.array([u, v], np.float32)[:, None, None] * np.ones((2, 4, 4), np.float32)
    assert np.abs(canvas.flow_colours(flow, largest=1.0)[0, 0].astype(int) - rgb).max() <= 1


def test_down_and_up_are_opposite_hues():
    down, up = (
        canvas.flow_colours(np.array([0, s], np.float32)[:, None, None] * np.ones((2, 1, 1)), 1.0) for s in (1, -1)
    )
    assert np.abs(down.astype(int) + up - 255).max() <= 1  # opposite hues at full saturation are complements


def test_still_flow_is_white():
    assert (canvas.flow_colours(np.zeros((2, 5, 5), np.float32)) == 255).all()


@pytest.mark.parametrize("name", ["c/s1/a$_$b", "$\\frac$", "$x^$", "a $ b"])
def test_a_name_is_no_formula(tmp_path, name):
    with canvas.grid(1, 1) as (figure, axes):
        axes[0][0].set_title(name)
        axes[0][0].set_xlabel(name)
        canvas.heading(figure, name)
    canvas.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
