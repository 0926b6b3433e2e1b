"""Equal pictures are equal bytes, and no picture is empty."""

import numpy as np

from mer.evaluation import galleries


def test_equal_galleries_are_equal_bytes(tmp_path):
    rng = np.random.default_rng(0)
    face = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    rows = [{"name": "a", "onset": face, "apex": face, "points": rng.uniform(0, 32, (68, 2)),
             "flow": rng.normal(size=(3, 32, 32)).astype(np.float32)}]  # fmt: skip
    for name in ("1.png", "2.png"):
        galleries.clip_gallery(rows, tmp_path / name, "title")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    channels = rng.uniform(size=(3, 32, 32))
    galleries.flow_gallery([rows[0] | {"channels": channels}], tmp_path / "f.png", "title")
    frames = rng.integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    numbers = [1, 3, 5, 7, 9]
    dynamic = [{"name": "a", "frames": frames, "numbers": numbers, "dynamic": face}] * 2
    galleries.dynamic_gallery(dynamic, tmp_path / "d.png", "title")
    assert (tmp_path / "f.png").stat().st_size > 5000
    assert (tmp_path / "d.png").stat().st_size > 5000
    galleries.class_means({"a": rows[0]["flow"], "b": rows[0]["flow"]}, tmp_path / "m.png", "title")
    assert (tmp_path / "m.png").stat().st_size > 5000
