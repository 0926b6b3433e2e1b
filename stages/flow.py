"""TV-L1 flow from onset to apex with optical strain; writes data/cache/<corpus>/<chain>/flow.h5.

    python -m stages.flow synthetic-box224

One flow image a clip: (3, H, W) float32, u and v in pixels of the crop, strain without unit.
"""

import functools
import hashlib

import numpy as np

from mer.cache import ClipCache, available, build_product, digest
from mer.clips import Clip, clips, read_index
from mer.motion.strain import flow_image
from mer.motion.tvl1 import tvl1
from stages._run import run


def pair(clip: Clip, frames: ClipCache, apex: ClipCache) -> tuple[np.ndarray, np.ndarray]:
    """Onset and apex, grey."""
    import cv2

    both = (frames.frame(clip.id, t) for t in (0, clip.position(int(apex[clip.id]))))
    return tuple(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in both)


def compute(clip: Clip, *, frames: ClipCache, apex: ClipCache, **tvl1_params) -> dict:
    return {"data": flow_image(tvl1(*pair(clip, frames, apex), **tvl1_params))}


def fingerprint(clip: Clip, *, frames: ClipCache, apex: ClipCache) -> str:
    return digest([hashlib.sha256(image).hexdigest() for image in pair(clip, frames, apex)])


def main(stage):
    corpus, chain = stage.item.corpus, stage.item.chain
    index = f"data/index/{corpus}.csv"
    inputs = {kind: ClipCache(f"data/cache/{corpus}/{chain}/{kind}.h5", kind) for kind in ("frames", "apex")}
    rows, excluded = available(clips(read_index(index)), index, *inputs.values())
    params = {n: getattr(stage.section, n) for n in ("attachment", "tightness", "warps")}
    build_product(
        f"data/cache/{corpus}/{chain}/flow.h5", rows, functools.partial(compute, **inputs, **params),
        functools.partial(fingerprint, **inputs), kind="flow", ragged=False, params=params,
        code=stage.code(), spool=stage.spool, engine=stage.engine, excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("flow", main)
