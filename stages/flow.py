"""TV-L1 flow from onset to apex with optical strain; writes data/cache/<corpus>/<chain>/flow.h5.

    python -m stages.flow synthetic-box224

One flow image a clip: (3, H, W) float32, u and v in pixels of the crop, strain without unit.
"""

import functools

import numpy as np

from mer.cache import ClipCache, build_product, check_same_clips, digest
from mer.clips import Clip, clips, read_index
from mer.motion.strain import flow_image
from mer.motion.tvl1 import tvl1
from stages._run import run


def pair(clip: Clip, frames: ClipCache) -> tuple[np.ndarray, np.ndarray]:
    """Onset and apex, grey."""
    import cv2

    onset, apex = (frames.frame(clip.id, t) for t in (0, clip.apex - clip.onset))
    return cv2.cvtColor(onset, cv2.COLOR_RGB2GRAY), cv2.cvtColor(apex, cv2.COLOR_RGB2GRAY)


def compute(clip: Clip, *, frames: ClipCache, **tvl1_params) -> dict:
    return {"data": flow_image(tvl1(*pair(clip, frames), **tvl1_params))}


def fingerprint(clip: Clip, *, frames: ClipCache) -> str:
    import hashlib

    return digest([hashlib.sha256(image).hexdigest() for image in pair(clip, frames)])


def main(stage):
    corpus, chain = stage.item.corpus, stage.item.chain
    index = f"data/index/{corpus}.csv"
    rows = clips(read_index(index))
    frames = ClipCache(f"data/cache/{corpus}/{chain}/frames.h5", "frames")
    check_same_clips([c.id for c in rows], frames, index)
    params = {n: getattr(stage.section, n) for n in ("attachment", "tightness", "warps")}
    build_product(
        f"data/cache/{corpus}/{chain}/flow.h5", rows, functools.partial(compute, frames=frames, **params),
        functools.partial(fingerprint, frames=frames), kind="flow", ragged=False, params=params,
        code=stage.code(), spool=stage.spool, engine=stage.engine,
    )  # fmt: skip


if __name__ == "__main__":
    run("flow", main)
