"""Crops every clip by its landmarks; writes data/cache/<corpus>/<crop>/frames.h5, (T, size, size, 3) uint8 a clip.

    python -m stages.align synthetic-box224

Frames before onset and after offset are left out. The transform of each crop is kept, so it can be drawn back.
"""

import functools

from mer.cache import ClipCache, build_product, check_same_clips, digest
from mer.clips import Clip, clips, read_clip, read_index
from mer.faces import align_clip, crop_transform
from stages._run import run


def compute(clip: Clip, *, landmarks: ClipCache, crop: str, top_margin: float) -> dict:
    points = landmarks[clip.id]
    return {
        "data": align_clip(read_clip(clip), points, crop, top_margin=top_margin),
        "transform": crop_transform(points, crop, top_margin=top_margin),
    }


def fingerprint(clip: Clip, *, landmarks: ClipCache) -> str:
    return digest(clip.digest, landmarks[clip.id].tolist())


def main(stage):
    corpus = stage.item.corpus
    index = f"data/index/{corpus}.csv"
    rows = clips(read_index(index))
    landmarks = ClipCache(f"data/cache/{corpus}/landmarks.h5", "landmarks")
    check_same_clips([c.id for c in rows], landmarks, index)
    params = {"crop": stage.item.crop, "top_margin": stage.section.top_margin}
    build_product(
        f"data/cache/{corpus}/{stage.item.crop}/frames.h5", rows,
        functools.partial(compute, landmarks=landmarks, **params), functools.partial(fingerprint, landmarks=landmarks),
        kind="frames", ragged=True, params=params, code=stage.code(), spool=stage.spool, engine=stage.engine,
    )  # fmt: skip


if __name__ == "__main__":
    run("align", main)
