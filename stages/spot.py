"""Settles the apex of every clip; writes data/cache/<corpus>/<crop>/apex.h5, its position in the clip, 0 = onset.

    python -m stages.spot synthetic-box224

An annotated apex stays. One that the annotators left out is the middle of onset and offset (`middle`), or the frame
whose flow from the onset is largest (`spotted`), with or without the motion of the head (`head`).
"""

import functools
import hashlib

import numpy as np

from mer.clips import Clip, clips, read_index
from mer.motion.spotting import is_spotted, settled_apex
from mer.storage.build import available, build_product
from mer.storage.cache import ClipCache
from stages._run import run


def compute(clip: Clip, *, frames: ClipCache, missing: str, stride: int, head: str) -> dict:
    position = settled_apex(
        clip.numbers, clip.apex, clip.apex_source, lambda: frames[clip.id], missing=missing, stride=stride, head=head
    )
    return {"data": np.int64(position)}


def fingerprint(clip: Clip, *, frames: ClipCache, missing: str) -> str:
    # The position of the apex depends on which frames there are, and their digest does not tell their numbers.
    known = f"{clip.digest} {clip.onset} {clip.apex} {clip.apex_source} {clip.absent}"
    if is_spotted(clip.apex_source, missing):  # what is looked at is the crop
        return f"{known} {hashlib.sha256(frames[clip.id]).hexdigest()}"
    return known


def main(stage, *, index: str, frames: str, out: str):
    crop = ClipCache(frames, "frames")
    rows, excluded = available(clips(read_index(index)), index, crop)
    params = {"missing": stage.section.missing, "stride": stage.section.stride, "head": stage.section.head}
    build_product(
        out, rows, functools.partial(compute, frames=crop, **params),
        functools.partial(fingerprint, frames=crop, missing=params["missing"]), kind="apex", ragged=False,
        params={**params, "frames": crop.params}, code=stage.code(), spool=stage.spool, engine=stage.engine,
        excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("spot", main)
