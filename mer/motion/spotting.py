"""Where a clip is at its apex, when nobody annotated it."""

import numpy as np

from mer.errors import MerError
from mer.motion.tvl1 import tvl1


def spot_apex(grey: np.ndarray, *, stride: int = 1) -> int:
    """The frame whose mean flow magnitude from the first frame is largest.

    Args:
        grey: (T, H, W) uint8, onset to offset.
        stride: only every `stride`-th frame is tried; the last one always is.

    Returns:
        0..T-1; the middle frame when nothing moves at all.

    Raises:
        MerError: no frame, or not (T, H, W).
    """
    if grey.ndim != 3 or not len(grey):
        raise MerError(f"spot_apex: clip is {grey.shape}; needed is (T, H, W) with T > 0")
    tried = sorted({*range(0, len(grey), stride), len(grey) - 1})
    motion = [float(np.hypot(*tvl1(grey[0], grey[t])).mean()) for t in tried]
    return tried[int(np.argmax(motion))] if max(motion) > 0 else (len(grey) - 1) // 2
