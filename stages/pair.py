"""Onset and apex of every clip; writes data/cache/<corpus>/<chain>/pair.h5, (2, size, size, 3) uint8 a clip.

python -m stages.pair synthetic-box224
"""

import functools
import hashlib

import numpy as np

from mer.clips import Clip, clips, read_index
from mer.storage.build import available, build_product
from mer.storage.cache import ClipCache
from mer.storage.files import digest
from stages._run import run


def compute(clip: Clip, *, frames: ClipCache, apex: ClipCache) -> dict:
    return {"data": np.stack([frames.frame(clip.id, t) for t in (0, int(apex[clip.id]))])}


def fingerprint(clip: Clip, **inputs) -> str:
    return digest(hashlib.sha256(compute(clip, **inputs)["data"]).hexdigest())


def main(stage, *, index: str, frames: str, apex: str, out: str):
    inputs = {"frames": ClipCache(frames, "frames"), "apex": ClipCache(apex, "apex")}
    rows, excluded = available(clips(read_index(index)), index, *inputs.values())
    build_product(
        out, rows, functools.partial(compute, **inputs), functools.partial(fingerprint, **inputs), kind="pair",
        ragged=False, params={"frames": inputs["frames"].params, "apex": inputs["apex"].params}, code=stage.code(),
        spool=stage.spool, engine=stage.engine, excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("pair", main)
