"""TV-L1 flow with optical strain; writes data/cache/<corpus>/<chain>/{flow,flow_offset,flows}.h5.

    python -m stages.flow synthetic-box224

Product `flow`: from onset to apex, one flow image a clip, (3, H, W) float32: u and v in pixels of the crop, strain
without unit. Product `flow_offset`: the same from apex to offset. Product `flows`: from each frame to the next, (T - 1,
3, H, W). The chain's frames may be aligned or magnified ones.
"""

import functools
import hashlib

import numpy as np

from mer.clips import Clip, clips, read_index
from mer.errors import MerError
from mer.motion.strain import flow_image
from mer.motion.tvl1 import tvl1
from mer.storage.build import available, build_product
from mer.storage.cache import ClipCache
from mer.storage.files import digest
from stages._run import run

PARAMETERS = ("tau", "lambda_", "theta", "scales", "warps", "iterations", "sigma", "brightness", "noise")


def grey_frames(clip: Clip, product: str, frames: ClipCache, apex: ClipCache) -> np.ndarray:
    """The frames that the product is made of, (2 or T, H, W) uint8."""
    import cv2

    if clip.n_frames < 2:
        raise MerError(
            f"{clip.id}: has one frame, flow needs two; correct the label sheet, or set flow.on_error: exclude"
        )
    if product == "flow":
        images = [frames.frame(clip.id, t) for t in (0, int(apex[clip.id]))]
    elif product == "flow_offset":
        images = [frames.frame(clip.id, t) for t in (int(apex[clip.id]), clip.n_frames - 1)]
    else:
        images = frames[clip.id]
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images])


def compute(clip: Clip, *, product: str, frames: ClipCache, apex: ClipCache, **parameters) -> dict:
    grey = grey_frames(clip, product, frames, apex)
    flow = flow_image(tvl1(grey[:-1], grey[1:], **parameters))
    return {"data": flow if product == "flows" else flow[0]}


def fingerprint(clip: Clip, *, product: str, frames: ClipCache, apex: ClipCache) -> str:
    return digest([hashlib.sha256(image).hexdigest() for image in grey_frames(clip, product, frames, apex)])


def main(stage, *, index: str, frames: str, apex: str, product: str, out: str):
    inputs = {"frames": ClipCache(frames, "frames"), "apex": ClipCache(apex, "apex")}
    rows, excluded = available(clips(read_index(index)), index, *inputs.values())
    params = {name: getattr(stage.section, name) for name in PARAMETERS}
    build_product(
        out, rows, functools.partial(compute, product=product, **inputs, **params),
        functools.partial(fingerprint, product=product, **inputs), kind=product, ragged=product == "flows",
        params=params, code=stage.code(), spool=stage.spool, engine=stage.engine,
        on_error=stage.section.on_error, excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("flow", main)
