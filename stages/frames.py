"""Frames of recordings without labels, for pretraining on them; writes data/frames/<key>/<subject>.h5.

    python -m stages.frames casme3-224

One product a subject, its items the segments of mer.recordings, (T, size, size, 3) uint8 RGB: of a corpus every frame
of each recording that a clip of the index lies in, or the clips of a synthetic pool. Whole frames are stretched to a
square as crop `none224` does it, with the same function, so width and height shrink by different factors.
"""

import functools
from itertools import islice
from pathlib import Path

import numpy as np

from mer.clips import files_digest, read_index, read_paths
from mer.errors import MerError
from mer.faces.alignment import crop_transform, frame_warp
from mer.recordings import Segment, by_subject, of_corpus, of_pool
from mer.storage.build import build_product
from mer.storage.files import digest
from mer.synthetic import FPS
from stages._run import run


def compute(segment: Segment, *, size: int) -> dict:
    out = np.empty((segment.count, size, size, 3), dtype=np.uint8)
    # The recording's first frame comes first, as the other segments must have its size; then one frame at a time.
    frames = read_paths([segment.start_path, *segment.paths])
    for t, frame in enumerate(islice(frames, 1, None)):
        if t == 0:
            shape = frame.shape[:2]
            warp = frame_warp(crop_transform(None, "none224", size=size, shape=shape), size, shape)
        warp(frame, out[t])
    return {"data": out, "fps": np.float64(segment.fps)}


def fingerprint(segment: Segment) -> str:
    return digest(files_digest(segment.paths), segment.fps)


def main(
    stage, *, size: int, out: str, corpus: str | None = None, index: str | None = None, pool: str | None = None
):  # fmt: skip
    subjects = by_subject(segments_of(corpus, index, pool))
    for number, (subject, segments) in enumerate(subjects.items(), start=1):
        build_product(
            Path(out) / f"{subject}.h5", segments, functools.partial(compute, size=size), fingerprint,
            kind="recording_frames", ragged=True, params={"size": size}, code=stage.code(), spool=stage.spool / subject,
            engine=stage.engine, label=f"segments of subject {number} of {len(subjects)}",
        )  # fmt: skip
    for path in Path(out).glob("*.h5"):  # DVC removes the folder first, a run by hand does not
        if path.stem not in subjects:
            path.unlink()


def segments_of(corpus: str | None, index: str | None, pool: str | None) -> list[Segment]:
    """The segments of a corpus or of a pool. Raises MerError unless the arguments name one of the two."""
    if pool is not None and corpus is None and index is None:
        return of_pool(pool, FPS)
    if pool is not None or corpus is None or index is None:
        raise MerError("frames are those of --corpus with its --index, or those of a --pool; give the one or the other")
    table = read_index(Path(index))
    others = sorted(set(table["corpus"]) - {corpus})
    if others:
        raise MerError(f"{index}: has clips of {others[0]!r}, --corpus is {corpus!r}; give the index of that corpus")
    return of_corpus(table)


if __name__ == "__main__":
    run("frames", main)
