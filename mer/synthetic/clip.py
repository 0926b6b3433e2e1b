"""One clip of the synthetic corpus: who moves, what moves, and the frames a camera would have kept.

Lengths in pixels hold on a face 224 px wide (`crop_side`) where that is said, otherwise in the frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from mer.errors import MerError
from mer.synthetic import FPS
from mer.synthetic.face import CENTRE_FRAME, OVERSAMPLE, Identity, crop_side, draw_identity
from mer.synthetic.motion import (
    UNITS,
    Bumps,
    Wander,
    apply,
    backward_map,
    envelope,
    expression,
    pixels,
    read_units,
    render,
    rigid,
)

# The five classes with their counts in CASME II (246 clips); other sizes keep the proportions.
COUNTS = {"happiness": 32, "disgust": 63, "repression": 27, "surprise": 25, "others": 99}
# Action units of each emotion with relative frequencies. Classes share units, as in CASME II.
RECIPES = {
    "happiness": {"6+12": 4, "12": 3, "L12": 1, "R12": 1, "6+12+25": 1, "12+14": 1},
    "disgust": {"4+9": 3, "4+10": 2, "4+L10": 1, "4+R10": 1, "4+7": 1, "4+7+9": 2, "9": 2, "10": 1},
    "repression": {"15": 3, "17": 3, "15+17": 2, "14": 2, "14+24": 1, "12+15": 1},
    "surprise": {"1+2": 4, "1+2+25": 2, "L1+L2": 1, "R1+R2": 1, "2": 1, "25+26": 1, "1+2+5": 1},
    "others": {"4": 7, "4+7": 4, "7": 1, "14": 1, "24": 1, "L4": 1, "R4": 1},
}
PEAK = (0.3, 1.5)  # px: largest displacement of the expression alone, on a face 224 px wide
# Typical drift: right, down (px), turn (rad), zoom. Over the 75 ms to an apex about half of it happens.
HEAD = (0.5, 0.5, 0.001, 0.001)
NOISE = (1.0, 1.5)  # sensor noise, grey levels
QUALITY = 95  # of the JPEGs
# Purposes of a random stream; each is the second word of a seed, so that no two purposes share numbers.
PLAN, CLIP, RENDER, IDENTITY, STYLE, POOL = range(6)


def stream(seed: int, purpose: int, *keys: int) -> np.random.Generator:
    """The generator of one purpose for one subject, clip, ... Different keys give independent streams."""
    return np.random.default_rng([seed, purpose, *keys])


def draw_units(rng: np.random.Generator, emotion: str) -> str:
    """The action units of one clip, such as "4+L10"."""
    recipes = RECIPES[emotion]
    weights = np.array(list(recipes.values()), dtype=float)
    return list(recipes)[rng.choice(len(recipes), p=weights / weights.sum())]


def strength(seed: int, subject: int) -> float:
    """How expressive a person is: a factor around 1 on every peak."""
    return float(np.exp(0.2 * stream(seed, STYLE, subject, 0).standard_normal()))


def style(seed: int, subject: int) -> dict[int, tuple[float, float]]:
    """How a person does each action unit: (turn in rad, gain)."""
    rng = stream(seed, STYLE, subject, 1)
    return {unit: (0.25 * rng.standard_normal(), float(np.exp(0.25 * rng.standard_normal()))) for unit in range(1, 30)}


@lru_cache(maxsize=2)  # clips come sorted by subject; one identity holds 13 MB
def identity(seed: int, subject: int, attempt: int, oversample: int = OVERSAMPLE) -> Identity:
    """The `attempt`-th drawing of a person."""
    return draw_identity(stream(seed, IDENTITY, subject, attempt), oversample)


def choose_identity(
    seed: int, subject: int, accept: Callable | None, attempts: int = 20, oversample: int = OVERSAMPLE
) -> int:
    """The first attempt that `accept(image (H, W, 3) uint8, landmarks (68, 2) float32) -> bool` takes."""
    if accept is None:
        return 0
    for attempt in range(attempts):
        person = identity(seed, subject, attempt, oversample)
        image = render(person, np.eye(2, 3), pixels())
        if accept(to_bytes(image), person.landmarks.astype(np.float32)):
            return attempt
    raise MerError(
        f"synthesize: sub{subject:02d} was refused {attempts} times by the acceptance check; "
        "loosen the check or change synthesize.seed"
    )


@dataclass(frozen=True)
class Motion:
    """How one clip moves. `bumps` has peak 1; `amplitude` is px in the frame; landmarks are those of the onset."""

    pose: np.ndarray
    landmarks: np.ndarray
    bumps: Bumps
    amplitude: float
    head: Wander
    light: Wander
    sharpness: float
    rest: float

    def drift(self, seconds: float) -> np.ndarray:
        """The head's rigid movement since the onset, (2, 3)."""
        dx, dy, angle, zoom = self.head.at(seconds)
        return rigid(dx, dy, angle, zoom, CENTRE_FRAME)


def draw_motion(rng: np.random.Generator, person: Identity, aus: str, peak: float, how: dict) -> Motion:
    """Pose, asymmetry, a companion movement, drift of head and light of one clip. `peak` in px at a 224 px face."""
    dx, dy = rng.normal(0, 2.5, 2)
    pose = rigid(dx, dy, rng.normal(0, 0.02), rng.normal(0, 0.01), CENTRE_FRAME)
    landmarks = apply(pose, person.landmarks)
    units = []
    for unit, left, right in read_units(aus):
        gain = np.exp(0.25 * rng.standard_normal())
        lean = np.clip(0.2 * rng.standard_normal(), -0.6, 0.6)
        units.append((unit, left * gain * (1 - lean), right * gain * (1 + lean)))
    # Faces rarely move one muscle alone: something weak and unlabelled comes along.
    extra = int(rng.choice(sorted(UNITS)))
    weak = rng.uniform(0.1, 0.4)
    units.append((extra, weak, weak))
    return Motion(
        pose=pose,
        landmarks=landmarks,
        bumps=expression(landmarks, units, how),
        amplitude=peak * crop_side(landmarks) / 224,
        head=Wander.draw(rng, HEAD),
        light=Wander.draw(rng, (0.02,)),
        sharpness=rng.uniform(0.8, 1.3),
        rest=rng.uniform(0.0, 0.15),
    )


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """An RGB image (H, W, 3), any float or integer, as JPEG."""
    bgr = np.ascontiguousarray(to_bytes(image)[..., ::-1])
    path.write_bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())


def noisy(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return image + sigma * rng.standard_normal(image.shape, dtype=np.float32)


def render_clip(person: Identity, motion: Motion, row: dict, rng: np.random.Generator) -> Iterator:
    """Yield (frame number, image (H, W, 3) float32 with light drift and noise) for first..last."""
    sigma = rng.uniform(*NOISE)
    field = motion.bumps.grid()
    for number in range(row["first"], row["last"] + 1):
        seconds = (number - row["onset"]) / FPS
        level = envelope(number, row["onset"], row["apex"], row["offset"], motion.sharpness, motion.rest)
        where = backward_map(field, level * motion.amplitude, motion.drift(seconds))
        image = render(person, motion.pose, where) * np.float32(1 + motion.light.at(seconds)[0])
        yield number, noisy(image, sigma, rng)
