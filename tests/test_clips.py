"""Clips whose corpus lacks single frames."""

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.clips import COLUMNS, Clip, clips, read_frames, read_index, write_index
from mer.errors import MerError


def clip(folder, absent=""):
    return Clip("c/s/1", "c", "s", "1", "x", "", 10, 12, 14, "annotated", 200.0, f"{folder}/img{{}}.png", absent, "")


def test_gaps_shift_positions():
    whole, gap = clip("f"), clip("f", "12 13")
    assert whole.numbers == [10, 11, 12, 13, 14]
    assert [whole.position(n) for n in whole.numbers] == [0, 1, 2, 3, 4]
    assert gap.numbers == [10, 11, 14]
    assert [gap.position(n) for n in (10, 11, 12, 13, 14)] == [0, 1, 1, 1, 2]


def test_frames_are_read_in_order_without_the_gaps(tmp_path):
    for n in (10, 11, 14):
        cv2.imwrite(str(tmp_path / f"img{n}.png"), np.full((6, 5, 3), n, np.uint8))
    frames = list(read_frames(clip(tmp_path, "12 13")))
    assert [f[0, 0, 0] for f in frames] == [10, 11, 14]
    with pytest.raises(MerError, match=r"img12.png: frame is missing"):
        list(read_frames(clip(tmp_path)))


def test_frames_of_two_sizes_are_refused(tmp_path):
    for n in range(10, 15):
        cv2.imwrite(str(tmp_path / f"img{n}.png"), np.zeros((6, 5 + (n == 13), 3), np.uint8))
    with pytest.raises(MerError, match=r"img13.png: is 6x6, the clip's first frame 5x6"):
        list(read_frames(clip(tmp_path)))


def test_grey_frames_become_rgb(tmp_path):
    """SAMM's frames (fidelity 0.3, D-25)."""
    for n in range(10, 15):
        cv2.imwrite(str(tmp_path / f"img{n}.png"), np.full((6, 5), n, np.uint8))
    frame = next(read_frames(clip(tmp_path)))
    assert frame.shape == (6, 5, 3)
    assert (frame == 10).all()


def test_an_index_whose_clips_all_lack_one_frame(tmp_path):
    """One number in every row of `absent` is still text, not a column of integers."""
    row = dict.fromkeys(COLUMNS, "x") | {"onset": 1, "apex": 2, "offset": 4, "fps": 100.0, "absent": "3", "id": "c/s/1"}
    write_index(tmp_path / "c.csv", pd.DataFrame([row, row | {"id": "c/s/2"}]))
    assert [clip.numbers for clip in clips(read_index(tmp_path / "c.csv"))] == [[1, 2, 4]] * 2
