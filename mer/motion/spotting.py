"""Where in a clip its apex is, as a position: 0 is the onset, T - 1 the offset."""

import bisect
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mer.errors import MerError, suggestion
from mer.motion.head import without_head_motion
from mer.motion.tvl1 import tvl1
from mer.shapes import MOST_CHANNELS

MISSING = ("middle", "spotted")  # what to do where the annotators left the apex out
PART = 32  # pairs of frames whose flow is computed in one call: 13 MB of 224 px
HEAD = ("removed", "kept")  # what to do with the motion of the head as a whole where the apex is spotted


def is_spotted(apex_source: str, missing: str) -> bool:
    """Whether `settled_apex` looks at the frames of the clip."""
    if missing not in MISSING:
        raise MerError(f"spot.missing is {missing!r}; {suggestion(missing, MISSING)}")
    return missing == "spotted" and apex_source == "middle"


def settled_apex(
    numbers: Sequence[int], apex: int, apex_source: str, frames: Callable[[], np.ndarray], *, missing: str, stride: int,
    head: str = "removed",
) -> int:  # fmt: skip
    """The position of the apex in a clip.

    An annotated apex stays. One that the annotators left out is the middle of onset and offset (`middle`), or the frame
    whose flow from the onset is largest (`spotted`).

    Args:
        numbers: of the frames that there are from onset to offset, ascending; with gaps where the corpus lacks frames.
        apex: frame number; where `numbers` lacks it, the last one before it counts.
        apex_source: of the index: `annotated`, or `middle` where the annotators left the apex out.
        frames: returns the clip, (T, H, W, 3) uint8 RGB, one frame for each of `numbers`; called only to spot.
        missing: one of MISSING.
        stride, head: see `spot_apex`.

    Returns:
        0..T-1.

    Raises:
        MerError: `missing` is unknown, or as `spot_apex`.
    """
    if not is_spotted(apex_source, missing):
        return max(0, bisect.bisect_right(numbers, apex) - 1)
    import cv2

    return spot_apex(
        np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames()]), stride=stride, head=head
    )


def flows_between(before: np.ndarray, after: np.ndarray) -> Iterator[np.ndarray]:
    """Yield `tvl1` of each pair of frames, (2, H, W) px; before, after: (N, H, W). Pairs of a part share the cores."""
    for first in range(0, len(before), PART):
        yield from tvl1(before[first : first + PART], after[first : first + PART])


def spot_apex(grey: np.ndarray, *, stride: int = 1, head: str = "removed") -> int:
    """The frame whose mean flow magnitude from the first frame is largest.

    With the head's motion kept, a head that drifts makes the last frame the apex of most clips (docs/motion.md).

    Args:
        grey: (T, H, W) uint8, onset to offset.
        stride: only every `stride`-th frame is tried; the last one always is.
        head: `removed`: what a shift, a rotation and a scaling of the whole face explain does not count; `kept`: it
        does.

    Returns:
        0..T-1; the middle frame when nothing moves at all.

    Raises:
        MerError: no frame, or not (T, H, W): a picture with its channels last is no clip of its rows. A stride below 1.
        An
            unknown `head`.
    """
    if grey.ndim == 3 and 0 < grey.shape[-1] <= MOST_CHANNELS:
        raise MerError(f"spot_apex: clip is {grey.shape}: one picture; needed is (T, H, W), grey")
    if grey.ndim != 3 or not len(grey):
        raise MerError(f"spot_apex: clip is {grey.shape}; needed is (T, H, W) with T > 0")
    if stride < 1:
        raise MerError(f"spot_apex: stride is {stride}; needed is 1 at least")
    tried = sorted({*range(0, len(grey), stride), len(grey) - 1})
    if head not in HEAD:
        raise MerError(f"spot.head is {head!r}; {suggestion(head, HEAD)}")
    flows = flows_between(np.broadcast_to(grey[0], (len(tried), *grey.shape[1:])), grey[tried])
    motion = [float(np.hypot(*(without_head_motion(one) if head == "removed" else one)).mean()) for one in flows]
    return tried[int(np.argmax(motion))] if max(motion) > 0 else (len(grey) - 1) // 2
