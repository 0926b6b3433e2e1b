"""Learned magnification; writes data/cache/<corpus>/<crop>/magnet.h5, (L, size, size, 3) uint8 a clip.

    python -m stages.magnify_learned synthetic-box224

The apex frame with its motion since the onset made larger, once for every factor, in the order of the factors.
"""

import functools
import hashlib

import cv2
import numpy as np

from mer.clips import Clip, clips, read_index
from mer.magnification.magnet import linear_abs, loaded_magnet, magnify_pair, named_factors
from mer.parallel import Engine
from mer.storage.cache import ClipCache, available, build_product, digest
from mer.storage.weights import digest_of, told_of
from stages._run import run


def pair(clip: Clip, size: int, frames: ClipCache, apex: ClipCache) -> tuple[np.ndarray, np.ndarray]:
    """Onset and apex, (size, size, 3) uint8."""
    images = [frames.frame(clip.id, t) for t in (0, clip.position(int(apex[clip.id])))]
    return tuple(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images)


def compute(
    clip: Clip, *, size: int, factors: str, convention: str, absolute: bool, weights: str, device: str, **inputs
) -> dict:
    onset, apex = pair(clip, size, **inputs)
    values = named_factors(factors)
    if absolute:  # U-03
        frames = linear_abs(onset, apex, values)
    else:
        frames = magnify_pair(loaded_magnet(weights, device), onset, apex, values, convention)
    return {"data": frames, "factors": values}


def fingerprint(clip: Clip, *, size: int, weights: str, device: str, **inputs) -> str:
    # The kind of device decides the last bits: a product never mixes two.
    return digest([hashlib.sha256(image).hexdigest() for image in pair(clip, size, **inputs)], weights, device)


def main(stage):
    item, section = stage.item, stage.section
    index = f"data/index/{item.corpus}.csv"
    inputs = {kind: ClipCache(f"data/cache/{item.corpus}/{item.crop}/{kind}.h5", kind) for kind in ("frames", "apex")}
    rows, excluded = available(clips(read_index(index)), index, *inputs.values())
    how = {name: getattr(section, name) for name in ("size", "factors", "convention", "absolute")}
    weights = f"data/weights/{item.weights}.safetensors"
    content = digest_of(weights)
    params = how | {"weights": content, "networks": {item.weights: told_of(weights)}}
    # A GPU is fed by one process.
    engine = stage.engine if stage.device == "cpu" else Engine(workers=1, progress=True)
    build_product(
        f"data/cache/{item.corpus}/{item.crop}/magnet.h5", rows,
        functools.partial(compute, weights=weights, device=stage.device, **how, **inputs),
        functools.partial(fingerprint, size=section.size, weights=content, device=stage.device, **inputs),
        kind="magnet", ragged=False,
        params=params, code=stage.code(), spool=stage.spool, engine=engine, excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("magnify_learned", main)
