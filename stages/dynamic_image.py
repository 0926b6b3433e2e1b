"""A clip as one picture by rank pooling; writes data/cache/<corpus>/<chain>/dynamic_image.h5, (H, W, 3) uint8 a clip.

    python -m stages.dynamic_image synthetic-box224

The chain's frames may be aligned or magnified ones.
"""

import functools
import hashlib

import numpy as np

from mer.clips import Clip, clips, read_index
from mer.errors import FileError, MerError
from mer.motion.dynamic_image import dynamic_image
from mer.storage.build import available, build_product
from mer.storage.cache import ClipCache
from mer.storage.files import digest
from stages._run import run


def pooled(clip: Clip, which: str, frames: ClipCache, apex: ClipCache) -> np.ndarray:
    """The frames that are pooled, (T, H, W, 3): the whole clip, or onset to apex (S-11)."""
    last = int(apex[clip.id]) if which == "onset_apex" else None
    return frames[clip.id][: None if last is None else last + 1]


def compute(clip: Clip, *, which: str, solver: str, c: float, frames: ClipCache, apex: ClipCache) -> dict:
    try:
        return {"data": dynamic_image(pooled(clip, which, frames, apex), solver=solver, c=c)}
    except FileError:
        raise
    except MerError as error:
        raise MerError(f"{clip.id}: {error}") from None


def fingerprint(clip: Clip, *, which: str, frames: ClipCache, apex: ClipCache) -> str:
    return digest(hashlib.sha256(pooled(clip, which, frames, apex)).hexdigest())


def main(stage, *, index: str, frames: str, apex: str, out: str):
    section = stage.section
    inputs = {"frames": ClipCache(frames, "frames"), "apex": ClipCache(apex, "apex")}
    rows, excluded = available(clips(read_index(index)), index, *inputs.values())
    params = {"solver": section.solver, "c": section.c}
    build_product(
        out, rows, functools.partial(compute, which=section.frames, **params, **inputs),
        functools.partial(fingerprint, which=section.frames, **inputs), kind="dynamic_image", ragged=False,
        params=params | {"frames": section.frames}, code=stage.code(), spool=stage.spool, engine=stage.engine,
        excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("dynamic_image", main)
