"""68 facial landmarks, iBUG order, (x, y) in pixels, found by a cascade of attempts.

The attempts, each only when those before it found nothing:

    full         the frame as it is
    upsampled    doubled once, twice ... `upsample` times, for small faces
    padded       half its longer side added all round, for corpora whose frames are cut at the face; again up to
                 `upsample` times doubled
    dlib         backend `haar` only (fidelity D-04): dlib's detector; the box is then that of the landmarks
    hint         only with `hint`, the face in a neighbouring frame: the best weak candidate there, else the hint itself

A candidate is a face from the score `min_score` on. More than one: refused, unless a hint says which.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mer.errors import MerError
from mer.faces import backends

ATTEMPTS = ("full", "upsampled", "padded", "dlib", "hint")
PADDING = 0.5  # of the longer side
OVERLAP = 0.3  # intersection over union from which on two boxes mean one face


@dataclass(frozen=True)
class Face:
    """One face: landmarks (68, 2) float32 and box (4,) float32 x0, y0, x1, y1, both in px of the frame.

    `score` is the detector's (comparable within one backend only; a low score means that the crop may be wrong),
    `attempt` one of ATTEMPTS.
    """

    landmarks: np.ndarray
    box: np.ndarray
    score: float
    attempt: str


class NoFaceError(MerError):
    """No attempt found a face (rather than several)."""


def detect_landmarks(image: np.ndarray, backend: str = "dlib", *, upsample: int = 1, **options: Any) -> np.ndarray:
    """The landmarks of the one face in an image, (68, 2) float32, (x, y) px; see find_face."""
    return find_face(image, backend, upsample=upsample, **options).landmarks


def find_face(
    image: np.ndarray,
    backend: str = "dlib",
    *,
    upsample: int = 1,
    padded: bool = True,
    min_score: float | None = None,
    hint: "Face | np.ndarray | None" = None,
    weights: str | Path | None = None,
    device: str = "cpu",
) -> Face:
    """The one face in an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        backend: `dlib` (MSMMT's), `face_alignment` (UAMRN's), `haar` (DCMA's box, dlib's landmarks).
        upsample: how often the image is doubled when no face is found; dlib finds faces from 80 px, doubled from 40.
        padded: try with the border widened.
        min_score: the least score of a face; None = the backend's own.
        hint: the face in a neighbouring frame of the clip: a Face, (68, 2) landmarks or a (4,) box.
        weights: folder with the two weight files of face_alignment; None = its own download.
        device: torch device of face_alignment.

    Raises:
        MerError: no face, or more than one.
    """
    image = check_image("detect_landmarks", image)
    tool = backends.backend(backend, None if weights is None else str(weights), device)
    least = tool.min_score if min_score is None else min_score
    hinted = None if hint is None else _as_box(hint)
    face, best = _cascade(tool, image, upsample, padded, least, hinted)
    if face is None and backend == "haar":
        other = backends.backend("dlib")
        face, _ = _cascade(other, image, upsample, padded, other.min_score, hinted)
        if face is not None:
            face = Face(face.landmarks, _as_box(face.landmarks).astype(np.float32), face.score, "dlib")
    if face is None and hinted is not None:
        face = _at_hint(tool, image, hinted)
    if face is None:
        seen = f"; the likeliest place scores {best:.2f}, a face {least:g}" if np.isfinite(best) else ""
        raise NoFaceError(
            f"no face found in a {image.shape[1]}x{image.shape[0]} image{seen}; look at the frame, raise "
            "landmarks.upsample or lower landmarks.min_score"
        )
    return face


def find_onset_face(frames: Iterable[np.ndarray], backend: str = "dlib", **options: Any) -> Face:
    """The face in the first of `frames`; where it has none, the next frame that has one gives the hint.

    `frames` is read no further than needed: give as many as may be looked through. Options as for find_face. Raises
    MerError when none of the frames has a face, or one has several.
    """
    first, failure = None, None
    for image in frames:
        try:
            face = find_face(image, backend, **options)
        except NoFaceError as error:
            first, failure = (image, error) if failure is None else (first, failure)
            continue
        return face if first is None else find_face(first, backend, **options | {"hint": face})
    raise failure or MerError("find_onset_face: there is no frame to look at; correct the label sheet")


def face_box(
    image: np.ndarray, landmarks: np.ndarray, backend: str = "haar", *, top_margin: float = 0.2
) -> np.ndarray | None:
    """The detection box, (4,) float32, about landmarks that are already known; None when the detector has none there.

    For `box112` on landmarks of another backend (D-04: the Haar box, or the landmark box when it fails). The landmarks
    say which candidate is the face, so no score is asked for.
    """
    image = check_image("face_box", image)
    tool = backends.backend(backend)
    boxes, _ = tool.detect(image, 0, -np.inf if backend == "haar" else 0.0)
    overlap = _overlap(boxes, _as_box(landmarks, top_margin))
    return boxes[overlap.argmax()].astype(np.float32) if (overlap >= OVERLAP).any() else None


def check_image(who: str, image: np.ndarray) -> np.ndarray:
    """The image, contiguous. Raises MerError unless it is one RGB picture; `who` begins the message."""
    image = np.ascontiguousarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < 8:
        raise MerError(f"{who}: image is {image.shape} {image.dtype}; needed is (H, W, 3) uint8 RGB, 8 px at least")
    return image


def _cascade(
    tool: backends.Backend, image: np.ndarray, upsample: int, padded: bool, least: float, hinted: np.ndarray | None
) -> tuple[Face | None, float]:
    """(the face or None, the best score seen below `least`)."""
    best = -np.inf
    for attempt, times, pad in _attempts(image, upsample, padded):
        canvas = _pad(image, pad)
        # From 0 on as dlib itself does; what is below `least` only serves the message.
        boxes, scores = tool.detect(canvas, times, min(least, 0.0))
        best = max(best, scores.max(initial=-np.inf))
        boxes, scores = boxes[scores >= least], scores[scores >= least]
        if len(boxes) > 1 and hinted is not None:
            near = _overlap(boxes - pad, hinted) >= OVERLAP
            if near.sum() == 1:
                boxes, scores = boxes[near], scores[near]
        if len(boxes) > 1:
            raise MerError(
                f"{len(boxes)} faces found in a {image.shape[1]}x{image.shape[0]} image; crop the frame to one face, "
                f"or raise landmarks.min_score above {np.sort(scores)[-2]:.2f} if only one is real"
            )
        if len(boxes):
            points = tool.landmarks(canvas, boxes[0]) - np.float32(pad)
            return Face(points, (boxes[0] - pad).astype(np.float32), float(scores[0]), attempt), best
    return None, best


def _attempts(image: np.ndarray, upsample: int, padded: bool) -> Iterator[tuple[str, int, int]]:
    """(name, doublings, padding in px), cheapest first."""
    yield "full", 0, 0
    for times in range(1, upsample + 1):
        yield "upsampled", times, 0
    if padded:
        for times in range(upsample + 1):
            yield "padded", times, round(PADDING * max(image.shape[:2]))


def _pad(image: np.ndarray, pad: int) -> np.ndarray:
    """The border repeated outwards: mirrored it would show further faces, black it is found less often."""
    return np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge") if pad else image


def _at_hint(tool: backends.Backend, image: np.ndarray, hinted: np.ndarray) -> Face:
    """The best candidate near the hint, however weak; the hint itself, with the backend's lowest score, if none."""
    boxes, scores = tool.detect(image, 0, tool.lowest)
    near = _overlap(boxes, hinted) >= OVERLAP
    if near.any():
        k = np.flatnonzero(near)[scores[near].argmax()]
        box, score = boxes[k], float(scores[k])
    else:
        box, score = hinted, tool.lowest
    return Face(tool.landmarks(image, box), box.astype(np.float32), score, "hint")


def _as_box(hint: Face | np.ndarray, top_margin: float = 0.0) -> np.ndarray:
    """(4,) float64 box of a Face, of landmarks, or as given."""
    box = np.asarray(hint.box if isinstance(hint, Face) else hint, dtype=np.float64)
    if box.shape == (68, 2):
        low, high = box.min(0), box.max(0)
        box = np.array([low[0], low[1] - top_margin * (high[1] - low[1]), *high])
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise MerError(f"hint: {box.shape} is neither (68, 2) landmarks nor a (4,) box x0, y0, x1, y1")
    return box


def _overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of boxes (N, 4) with one."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    shared = np.clip(high - low, 0, None).prod(1)
    return shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared)
