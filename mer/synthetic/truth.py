"""What no real corpus has: the true motion and landmarks of every clip of the synthetic corpus, in its truth.h5.

The file is a product (mer.storage.cache): its data are the flow, the rest stands beside each clip. So damage is refused
as it is elsewhere. This module imports nothing of the renderer, so that a stage that only reads the file does not
depend on it.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mer.errors import MerError

KIND = "truth"
FRAMES = ("onset", "apex", "offset")
BESIDE = (*FRAMES, "peak", "landmarks_onset", "landmarks_apex")


def write_truth(path: Path, clips: Iterable[tuple[str, dict]]) -> None:
    """Write `truth.h5`: (name, what `read_truth` returns) of every clip; the flow is kept in half precision."""
    from mer.storage.cache import CacheWriter

    with CacheWriter(path, kind=KIND, ragged=False, params={}) as file:
        for clip, truth in clips:
            file.append(clip, truth["flow"].astype(np.float16), **{name: truth[name] for name in BESIDE})


def read_truth(path: Path, clip: str) -> dict:
    """The true motion of one clip of `truth.h5`; `clip` is "sub01/EP01_01".

    flow (2, H, W) float32: displacement onset -> apex in px, head drift included; landmarks_onset and landmarks_apex
    (68, 2) float32; onset, apex, offset: frame numbers; peak: px of the expression alone, on a 224 px face.
    Raises MerError where the file is missing or another than was written, and for a clip that it does not hold.
    """
    from mer.storage.cache import ClipCache

    file = ClipCache(path, KIND)
    if clip not in file:
        raise MerError(f"{path}: holds no clip {clip!r}; names look like 'sub01/EP01_01'")
    beside = file.extras(clip)
    numbers = {name: int(beside[name]) for name in FRAMES} | {"peak": float(beside["peak"])}
    return beside | numbers | {"flow": file[clip].astype(np.float32)}
