"""Finds 68 landmarks on the onset frame of every clip; writes data/cache/<corpus>/landmarks.h5, (68, 2) px a clip.

python -m stages.landmarks synthetic
"""

import functools

from mer.cache import build_product
from mer.clips import Clip, clips, read_frame, read_index
from mer.errors import MerError
from mer.faces import detect_landmarks
from stages._run import run


def compute(clip: Clip, *, backend: str, upsample: int) -> dict:
    path = clip.path(clip.onset)
    try:
        return {"data": detect_landmarks(read_frame(path), backend, upsample=upsample)}
    except MerError as error:
        raise MerError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def fingerprint(clip: Clip) -> str:
    return clip.digest


def main(stage):
    params = {"backend": stage.section.backend, "upsample": stage.section.upsample}
    build_product(
        f"data/cache/{stage.key}/landmarks.h5", clips(read_index(f"data/index/{stage.key}.csv")),
        functools.partial(compute, **params), fingerprint, kind="landmarks", ragged=False, params=params,
        code=stage.code(), spool=stage.spool, engine=stage.engine,
    )  # fmt: skip


if __name__ == "__main__":
    run("landmarks", main)
