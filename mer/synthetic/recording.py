"""A whole recording of one rendered face: several movements, quick and slow, while the head wanders.

For what looks for movements in recordings (mer.motion.candidates); the corpus itself has clips alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mer.synthetic.clip import HEAD, NOISE, RECIPES, noisy, to_bytes
from mer.synthetic.face import CENTRE_FRAME, SIZE, Identity, crop_side
from mer.synthetic.motion import Wander, backward_map, envelope, expression, read_units, render, rigid


@dataclass(frozen=True)
class Movement:
    """aus: action units, as "4+L10"; onset, apex, offset: s; peak: px at a 224 px face."""

    aus: str
    onset: float
    apex: float
    offset: float
    peak: float

    @property
    def quick(self) -> bool:
        """Whether it lasts as long as a micro-expression does at most."""
        return self.offset - self.onset <= 0.5


LIDS = ("7",)  # action units that move the lids alone, as a blink does
SLOW = ("12", "4", "1+2")


def draw_movements(rng: np.random.Generator, seconds: float) -> list[Movement]:
    """Quick movements of all classes, 0.24 to 0.48 s and 0.5 to 1.5 px, and slow ones between them, of 4 px."""
    found, t = [], 0.8
    every = [aus for recipe in RECIPES.values() for aus in recipe if aus not in LIDS]
    while t < seconds - 2.6:
        if rng.random() < 0.3:
            length = rng.uniform(1.5, 2.0)
            found.append(Movement(str(rng.choice(SLOW)), t, t + length / 2, t + length, 4.0))
        else:
            length = rng.uniform(0.24, 0.48)
            apex = t + length * rng.uniform(0.35, 0.65)
            found.append(Movement(str(rng.choice(every)), t, apex, t + length, float(rng.uniform(0.5, 1.5))))
        t += length + rng.uniform(0.7, 1.5)
    return found


def render_recording(
    person: Identity, movements: Sequence[Movement], seconds: float, fps: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield (H, W, 3) uint8 RGB, `seconds * fps` frames; the face is neutral between movements."""
    fields = [expression(person.landmarks, read_units(one.aus), {}).grid() for one in movements]
    scale, head, sigma = crop_side(person.landmarks) / 224, Wander.draw(rng, HEAD), rng.uniform(*NOISE)
    times = [(round(one.onset * fps), round(one.apex * fps), round(one.offset * fps)) for one in movements]
    for number in range(round(seconds * fps)):
        field = np.zeros((2, SIZE, SIZE), np.float32)
        for one, time, grid in zip(movements, times, fields, strict=True):
            field += np.float32(envelope(number, *time, 1.0, 0.0) * one.peak * scale) * grid
        dx, dy, angle, zoom = head.at(number / fps)
        where = backward_map(field, 1.0, rigid(dx, dy, angle, zoom, CENTRE_FRAME))
        yield to_bytes(noisy(render(person, np.eye(2, 3), where), sigma, rng))
