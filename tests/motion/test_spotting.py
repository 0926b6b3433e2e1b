"""The spotted apex is where the motion is largest."""

import numpy as np
import pytest
import skimage.data
from scipy.ndimage import shift

from mer.errors import MerError
from mer.motion.spotting import spot_apex


@pytest.fixture(scope="module")
def clip():
    """A photograph that moves to the right and back, furthest in frame 6 of 0..9."""
    photo = skimage.data.camera()[100:164, 200:264].astype(float)
    way = [0, 0.2, 0.5, 0.8, 1.1, 1.4, 1.6, 1.2, 0.7, 0.2]
    return np.stack([shift(photo, (0, x), order=3, mode="nearest").round().clip(0, 255) for x in way]).astype(np.uint8)


@pytest.mark.parametrize(("stride", "apex"), [(1, 6), (2, 6), (3, 6), (4, 4), (5, 5)])
def test_peak_of_a_known_motion(clip, stride, apex):
    assert spot_apex(clip, stride=stride) == apex  # the largest of the frames that are tried


def test_a_still_clip_has_its_apex_in_the_middle(clip):
    assert spot_apex(np.repeat(clip[:1], 7, axis=0)) == 3
    assert spot_apex(clip[:1]) == 0


@pytest.mark.parametrize("shape", [(0, 8, 8), (8, 8)])
def test_no_clip(shape):
    with pytest.raises(MerError, match="needed is"):
        spot_apex(np.zeros(shape, np.uint8))
