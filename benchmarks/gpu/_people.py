"""Line 4's people: the movements of the synthetic corpus (mer.synthetic), on textures in place of faces.

Its faces are made of a portrait that scikit-image brings, which a GPU machine lacks. Action units, drift of head and
light, and noise are those of the corpus; frames are the 224 px about the face, RGB uint8, reduced to `size` px.
"""

import contextlib
from pathlib import Path

import cv2
import joblib
import numpy as np

from benchmarks.gpu import _data
from mer.storage.cache import CacheWriter
from mer.storage.shards import KIND
from mer.synthetic import FPS
from mer.synthetic import clip as make
from mer.synthetic.face import (
    CENTRE_FRAME,
    CENTRE_SOURCE,
    MARGIN,
    OVERSAMPLE,
    PORTRAIT_LANDMARKS,
    SCALE,
    SIZE,
    Identity,
)

EMOTIONS = tuple(make.COUNTS)
FIRST = 100  # number of the first person who is seen without labels; lower ones have labels
FACE = 224  # px
RISE = 15  # frames from onset to apex of labelled clips: 75 ms
SEED = 0


@contextlib.contextmanager
def one_thread():
    """Of OpenCV: the processes fill the machine."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def person(number: int) -> Identity:
    """A texture with details of 3 to 40 px, and the points of a face that differ a little from person to person."""
    rng = np.random.default_rng([SEED, number])
    texture = _data.texture(SIZE + 2 * MARGIN, rng, channels=3).astype(np.float32)
    canvas = cv2.resize(texture, None, fx=OVERSAMPLE, fy=OVERSAMPLE, interpolation=cv2.INTER_CUBIC)
    landmarks = (PORTRAIT_LANDMARKS - CENTRE_SOURCE) * SCALE + CENTRE_FRAME
    landmarks = landmarks + 0.5 * rng.standard_normal(landmarks.shape)
    return Identity(canvas.clip(2, 252), landmarks, landmarks, np.ones(3))


def motion(one: Identity, number: int, emotion: str, rng: np.random.Generator) -> make.Motion:
    peak = np.clip(make.strength(SEED, number) * np.exp(0.3 * rng.standard_normal()), *make.PEAK)
    return make.draw_motion(rng, one, make.draw_units(rng, emotion), float(peak), make.style(SEED, number))


def picture(image: np.ndarray, size: int) -> np.ndarray:
    left, top = (round(c - FACE / 2) for c in CENTRE_FRAME)
    face = image[top : top + FACE, left : left + FACE]
    return make.to_bytes(face if size == FACE else cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA))


# ---- without labels -------------------------------------------------------------------------------------------------


def write_shards(folder: Path, *, people: int, clips: int, frames: int, size: int, workers: int) -> list[str]:
    """A shard for each person, with `clips` clips of `frames` frames; those that are there stay. Their names as in
    `mer.storage.shards.Shards.subjects`. workers: processes; -1: one a core."""
    numbers = range(FIRST, FIRST + people)
    work = joblib.delayed(_write_shard)
    joblib.Parallel(n_jobs=workers)(work(folder, n, clips, frames, size) for n in numbers)
    return [f"textures/{n}" for n in numbers]


@one_thread()
def _write_shard(folder: Path, number: int, clips: int, frames: int, size: int) -> None:
    path = folder / f"{number}.h5"
    if path.is_file():
        return
    one = person(number)
    row = {"first": 1, "onset": 1, "apex": 1 + frames // 2, "offset": frames, "last": frames}
    with CacheWriter(path, kind=KIND, ragged=True, params={}) as shard:
        for k in range(clips):
            rng = make.stream(SEED, make.POOL, number, k)
            moving = motion(one, number, EMOTIONS[rng.integers(len(EMOTIONS))], rng)
            images = [picture(image, size) for _, image in make.render_clip(one, moving, row, rng)]
            shard.append(f"textures/{number}/{k:02d}", np.stack(images), fps=np.float64(FPS))


# ---- with labels ----------------------------------------------------------------------------------------------------


def labelled(clips: int, people: int, size: int, workers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Onset and apex (clips, 2, size, size, 3), classes (clips,) of EMOTIONS in CASME II's proportions, and who it is
    (clips,) int, ascending; people have uneven numbers of clips."""
    rng = np.random.default_rng(SEED)
    who = np.sort(np.concatenate([np.arange(people), rng.integers(0, people, clips - people)]))
    labels = np.resize(rng.permutation(np.repeat(np.arange(len(EMOTIONS)), list(make.COUNTS.values()))), clips)
    work = joblib.delayed(_pairs)
    made = joblib.Parallel(n_jobs=workers)(work(n, labels[who == n], size) for n in range(people))
    return np.concatenate(made), labels, who


@one_thread()
def _pairs(number: int, labels: np.ndarray, size: int) -> np.ndarray:
    """(n, 2, size, size, 3)"""
    one, found = person(number), []
    row = {"onset": 1, "apex": 1 + RISE, "offset": 1 + 2 * RISE}
    for k, label in enumerate(labels):
        rng = make.stream(SEED, make.RENDER, number, k)
        moving = motion(one, number, EMOTIONS[label], rng)
        for t in (row["onset"], row["apex"]):
            ((_, image),) = make.render_clip(one, moving, row | {"first": t, "last": t}, rng)
            found.append(picture(image, size))
    return np.stack(found).reshape(-1, 2, size, size, 3)
