"""Learned magnification; writes data/cache/<corpus>/<chain>/magnet.h5, (L, size, size, 3) uint8 a clip.

    python -m stages.magnify_learned synthetic-box224

The apex frame with its motion since the onset made larger, once for every factor, in the order of the factors.
"""

import functools
import hashlib
from pathlib import Path

import cv2
import numpy as np

from mer.clips import Clip, clips, read_index
from mer.magnification.magnet import linear_abs, loaded_magnet, magnify_pair
from mer.products import named_factors
from mer.storage.build import available, build_product
from mer.storage.cache import ClipCache
from mer.storage.files import digest
from mer.storage.weights import digest_of, provenance, stamp, subjects_seen
from stages._run import run


def pair(clip: Clip, size: int, frames: ClipCache, apex: ClipCache) -> tuple[np.ndarray, np.ndarray]:
    """Onset and apex, (size, size, 3) uint8."""
    images = [frames.frame(clip.id, t) for t in (0, int(apex[clip.id]))]
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


def main(stage, *, index: str, frames: str, apex: str, weights: str, factors: str, out: str):
    section = stage.section
    inputs = {"frames": ClipCache(frames, "frames"), "apex": ClipCache(apex, "apex")}
    rows, excluded = available(clips(read_index(index)), index, *inputs.values())
    how = {"size": section.size, "factors": factors, "convention": section.convention, "absolute": section.absolute}
    content = digest_of(weights)
    params = how | {"weights": content, "networks": {Path(weights).stem: provenance(weights)}}
    params |= stamp(subjects_seen(weights))
    build_product(
        out, rows, functools.partial(compute, weights=weights, device=stage.device, **how, **inputs),
        functools.partial(fingerprint, size=section.size, weights=content, device=stage.device, **inputs),
        kind="magnet", ragged=False, params=params, code=stage.code(), spool=stage.spool, engine=stage.one_process,
        excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("magnify_learned", main)
