"""The spotted apex is where the motion is largest; a settled apex is a position, whatever the frame numbers are."""

import numpy as np
import pytest
import skimage.data
from scipy.ndimage import map_coordinates, shift

from mer.errors import MerError
from mer.motion.spotting import HEAD, settled_apex, spot_apex


@pytest.fixture(scope="module")
def clip():
    """A photograph that moves to the right and back, furthest in frame 6 of 0..9."""
    photo = skimage.data.camera()[100:164, 200:264].astype(float)
    way = [0, 0.2, 0.5, 0.8, 1.1, 1.4, 1.6, 1.2, 0.7, 0.2]
    return np.stack([shift(photo, (0, x), order=3, mode="nearest").round().clip(0, 255) for x in way]).astype(np.uint8)


@pytest.mark.parametrize(("stride", "apex"), [(1, 6), (2, 6), (3, 6), (4, 4), (5, 5)])
def test_peak_of_a_known_motion(clip, stride, apex):
    assert spot_apex(clip, stride=stride, head="kept") == apex  # the largest of the frames that are tried


def test_a_still_clip_has_its_apex_in_the_middle(clip):
    assert all(spot_apex(np.repeat(clip[:1], 7, axis=0), head=head) == 3 for head in HEAD)
    assert spot_apex(clip[:1]) == 0


def test_a_drifting_head_hides_the_apex_unless_its_motion_is_removed():
    """Something moves up and back, furthest in frame 4; meanwhile the head shifts, turns and comes nearer."""
    photo = skimage.data.camera()[100:196, 200:296].astype(float)
    y, x = np.mgrid[:96, :96].astype(float)
    near = np.exp(-((y - 60) ** 2 + (x - 40) ** 2) / (2 * 9**2))
    frames = []
    for t in range(10):
        up, share = 1.5 * max(0, 1 - abs(t - 4) / 3), t / 9
        dy, dx = y - 47.5, x - 47.5
        rows = y + up * near - share * (1.2 + 0.02 * dy + 0.02 * dx)
        columns = x - share * (-0.8 + 0.02 * dx - 0.02 * dy)
        frames.append(map_coordinates(photo, (rows, columns), order=3, mode="nearest").round().clip(0, 255))
    clip = np.stack(frames).astype(np.uint8)
    assert spot_apex(clip) == 4
    assert spot_apex(clip, head="kept") == 9


def test_an_unknown_way_with_the_head_is_refused(clip):
    with pytest.raises(MerError, match=r"spot\.head is 'remove'; did you mean 'removed'"):
        spot_apex(clip, head="remove")


@pytest.mark.parametrize("shape", [(0, 8, 8), (8, 8)])
def test_no_clip(shape):
    with pytest.raises(MerError, match="needed is"):
        spot_apex(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_single_picture_is_no_clip_of_its_rows(channels):
    with pytest.raises(MerError, match=rf"spot_apex: clip is .16, 20, {channels}.: one picture; needed is .T, H, W."):
        spot_apex(np.zeros((16, 20, channels), np.uint8))


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_that_is_none(clip, stride):
    with pytest.raises(MerError, match=f"spot_apex: stride is {stride}; needed is 1 at least"):
        spot_apex(clip, stride=stride)


# ---- settled ------------------------------------------------------------------------------------------------------

NUMBERS = [46, 47, 49, 50, 53]  # 48, 51 and 52 are absent


def no_frames():
    raise AssertionError("an apex that is known needs no frames")


@pytest.mark.parametrize(("apex", "position"), [(46, 0), (47, 1), (48, 1), (49, 2), (51, 3), (52, 3), (53, 4)])
@pytest.mark.parametrize(
    ("source", "missing"), [("annotated", "middle"), ("annotated", "spotted"), ("middle", "middle")]
)
def test_a_known_apex_becomes_a_position(apex, position, source, missing):
    """An absent one is the last frame before it."""
    assert settled_apex(NUMBERS, apex, source, no_frames, missing=missing, stride=1) == position


@pytest.mark.parametrize(("stride", "position"), [(1, 6), (4, 4)])
def test_a_spotted_apex_is_a_position_whatever_numbers_lack(clip, stride, position):
    colour = np.repeat(clip[..., None], 3, axis=-1)
    numbers = [7, 8, 9, 12, 13, 14, 15, 16, 17, 18]  # 10 and 11 are absent
    found = settled_apex(numbers, 12, "middle", lambda: colour, missing="spotted", stride=stride, head="kept")
    assert found == position
    assert numbers[found] == {6: 15, 4: 13}[position]


def test_an_unknown_way_to_settle_is_refused(clip):
    with pytest.raises(MerError, match=r"spot\.missing is 'spoted'; did you mean 'spotted'"):
        settled_apex(NUMBERS, 47, "middle", no_frames, missing="spoted", stride=1)
