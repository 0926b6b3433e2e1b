"""Crops every clip by its landmarks; writes data/cache/<corpus>/<crop>/frames.h5, (T, size, size, 3) uint8 a clip.

    python -m stages.align synthetic-box224

Frames before onset and after offset are left out. The transform of each crop is kept, so it can be drawn back.
"""

import functools

import numpy as np

from mer.clips import Clip, clips, read_frames, read_index
from mer.errors import FileError, MerError
from mer.faces.alignment import clip_transform, crop_options, crop_size, frame_warp
from mer.storage.build import available, build_product
from mer.storage.cache import ClipCache
from mer.storage.files import digest
from stages._run import run


def compute(clip: Clip, *, landmarks: ClipCache, crop: str, **options) -> dict:
    size = crop_size(crop)
    out = np.empty((len(clip.numbers), size, size, 3), dtype=np.uint8)
    for t, frame in enumerate(read_frames(clip)):  # one at a time: a clip of a minute does not fit into memory whole
        if t == 0:
            try:
                transform = clip_transform(frame, landmarks[clip.id], crop, **options)
            except FileError:
                raise
            except MerError as error:
                raise MerError(f"{clip.id}: {error}") from None
            warp = frame_warp(transform, size, frame.shape[:2])
        warp(frame, out[t])
    return {"data": out, "transform": transform}


def fingerprint(clip: Clip, *, landmarks: ClipCache) -> str:
    return digest(clip.digest, landmarks[clip.id].tolist())


def main(stage, *, index: str, landmarks: str, crop: str, out: str):
    points, section = ClipCache(landmarks, "landmarks"), stage.section
    rows, excluded = available(clips(read_index(index)), index, points)
    params = crop_options(crop, top_margin=section.top_margin, rotate=section.rotate, box=section.box)
    build_product(
        out, rows, functools.partial(compute, landmarks=points, **params),
        functools.partial(fingerprint, landmarks=points), kind="frames", ragged=True, params=params, code=stage.code(),
        spool=stage.spool, engine=stage.engine, on_error=section.on_error, excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("align", main)
