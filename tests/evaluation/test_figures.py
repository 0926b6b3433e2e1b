"""Pictures: the colour wheel by its definition, equal pictures equal bytes."""

import numpy as np
import pytest

from mer.evaluation import figures


@pytest.mark.parametrize(
    ("u", "v", "rgb"), [(1, 0, (255, 0, 0)), (-1, 0, (0, 255, 255)), (0, 0, (255, 255, 255)), (0.5, 0, (255, 128, 128))]
)
def test_colours_of_directions(u, v, rgb):
    flow = np.array([u, v], np.float32)[:, None, None] * np.ones((2, 4, 4), np.float32)
    assert np.abs(figures.flow_colours(flow, largest=1.0)[0, 0].astype(int) - rgb).max() <= 1


def test_down_and_up_are_opposite_hues():
    down, up = (
        figures.flow_colours(np.array([0, s], np.float32)[:, None, None] * np.ones((2, 1, 1)), 1.0) for s in (1, -1)
    )
    assert np.abs(down.astype(int) + up - 255).max() <= 1  # opposite hues at full saturation are complements


def test_still_flow_is_white():
    assert (figures.flow_colours(np.zeros((2, 5, 5), np.float32)) == 255).all()


def test_equal_galleries_are_equal_bytes(tmp_path):
    rng = np.random.default_rng(0)
    face = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    rows = [{"name": "a", "onset": face, "apex": face, "points": rng.uniform(0, 32, (68, 2)),
             "flow": rng.normal(size=(3, 32, 32)).astype(np.float32)}]  # fmt: skip
    for name in ("1.png", "2.png"):
        figures.gallery(rows, tmp_path / name, "title")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    channels = rng.uniform(size=(3, 32, 32))
    figures.flow_gallery([rows[0] | {"channels": channels}], tmp_path / "f.png", "title")
    frames = rng.integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    numbers = [1, 3, 5, 7, 9]
    dynamic = [{"name": "a", "frames": frames, "numbers": numbers, "dynamic": face}] * 2
    figures.dynamic_gallery(dynamic, tmp_path / "d.png", "title")
    assert (tmp_path / "f.png").stat().st_size > 5000
    assert (tmp_path / "d.png").stat().st_size > 5000
    figures.class_means({"a": rows[0]["flow"], "b": rows[0]["flow"]}, tmp_path / "m.png", "title")
    assert (tmp_path / "m.png").stat().st_size > 5000
