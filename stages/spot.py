"""Settles the apex of every clip; writes data/cache/<corpus>/<chain>/apex.h5, a frame number a clip.

    python -m stages.spot synthetic-box224

An annotated apex stays. One that the annotators left out is the middle of onset and offset (`middle`), or the frame
whose flow from the onset is largest (`spotted`).
"""

import functools
import hashlib

import cv2
import numpy as np

from mer.clips import Clip, clips, read_index
from mer.motion.spotting import spot_apex
from mer.storage.cache import ClipCache, available, build_product
from stages._run import run


def compute(clip: Clip, *, frames: ClipCache, missing: str, stride: int) -> dict:
    apex = clip.apex
    if clip.apex_source == "middle" and missing == "spotted":
        grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames[clip.id]])
        apex = clip.numbers[spot_apex(grey, stride=stride)]
    return {"data": np.int64(apex)}


def fingerprint(clip: Clip, *, frames: ClipCache, missing: str) -> str:
    known = f"{clip.digest} {clip.onset} {clip.apex} {clip.apex_source}"
    if clip.apex_source == "middle" and missing == "spotted":  # what is looked at is the crop
        return f"{known} {hashlib.sha256(frames[clip.id]).hexdigest()}"
    return known


def main(stage):
    corpus, crop = stage.item.corpus, stage.item.crop
    index = f"data/index/{corpus}.csv"
    frames = ClipCache(f"data/cache/{corpus}/{crop}/frames.h5", "frames")
    rows, excluded = available(clips(read_index(index)), index, frames)
    params = {"missing": stage.section.missing, "stride": stage.section.stride}
    build_product(
        f"data/cache/{corpus}/{crop}/apex.h5", rows, functools.partial(compute, frames=frames, **params),
        functools.partial(fingerprint, frames=frames, missing=params["missing"]), kind="apex", ragged=False,
        params={**params, "frames": frames.params}, code=stage.code(), spool=stage.spool, engine=stage.engine,
        excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("spot", main)
