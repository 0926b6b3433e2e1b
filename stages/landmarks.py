"""Finds 68 landmarks on the onset frame of every clip; writes data/cache/<corpus>/landmarks.h5, (68, 2) px a clip.

    python -m stages.landmarks synthetic

Beside them the face's box, the detector's score and the attempt that found it. Where the onset shows no face, the next
frames are looked at, and the first face there says where to look. Backend `truth` reads the synthetic corpus's own.
"""

import functools
from pathlib import Path

import numpy as np

from mer.clips import Clip, check_frames, clips, files_digest, read_excluded, read_frame, read_index
from mer.errors import FileError, MerError
from mer.faces.landmarks import ATTEMPTS, find_onset_face
from mer.storage.build import build_product
from stages._run import run

LOOK_AHEAD = 5  # frames after the onset: at 200 fps 25 ms, in which a face stays where it is


def compute(clip: Clip, *, backend: str, **options) -> dict:
    if backend == "truth":
        return truth(clip)
    paths = clip.paths()[: LOOK_AHEAD + 1]
    try:
        face = find_onset_face((read_frame(path) for path in paths), backend, **options)
    except FileError:
        raise
    except MerError as error:
        raise MerError(str(error) if str(paths[0].parent) in str(error) else f"{paths[0]}: {error}") from None
    check_frames(clip)
    attempt = np.int64(ATTEMPTS.index(face.attempt))
    return {"data": face.landmarks, "box": face.box, "score": np.float64(face.score), "attempt": attempt}


def truth(clip: Clip) -> dict:
    """What the synthetic corpus knows of itself: data/raw/<name>/truth.h5 beside its corpus folder."""
    from mer.synthetic.truth import read_truth  # brings scipy, which the other backends' workers need not wait for

    path = Path(clip.frame).parents[3] / "truth.h5"
    if not path.exists():
        raise MerError(f"{path}: is missing; landmarks.backend truth works on the synthetic corpus only: take dlib")
    points = read_truth(path, f"{clip.subject}/{clip.clip}")["landmarks_onset"].astype(np.float32)
    box = np.concatenate([points.min(0), points.max(0)])
    return {"data": points, "box": box, "score": np.float64(np.inf), "attempt": np.int64(0)}


def fingerprint(clip: Clip) -> str:
    return clip.digest


def main(stage, *, index: str, out: str):
    section = stage.section
    params = {name: getattr(section, name) for name in ("backend", "upsample", "padded", "min_score", "weights")}
    # What the weight files hold counts for reuse, not where they lie.
    files = sorted(path for path in Path(section.weights).glob("*") if path.is_file()) if section.weights else []
    key = params | {"weights": files_digest(files) if files else None}
    build_product(
        out, clips(read_index(index)), functools.partial(compute, **params), fingerprint, kind="landmarks",
        ragged=False, params=key, code=stage.code(), spool=stage.spool, engine=stage.engine, on_error=section.on_error,
        excluded=read_excluded(Path(index).with_suffix(".excluded.csv")),
    )  # fmt: skip


if __name__ == "__main__":
    run("landmarks", main)
