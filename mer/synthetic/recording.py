"""A whole recording of one rendered face: several movements, quick and slow, while the head wanders.

For what looks for movements in recordings (mer.motion.candidates); the corpus itself has clips alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mer.synthetic.clip import HEAD, NOISE, noisy, to_bytes
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
