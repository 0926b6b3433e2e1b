"""Faces for fictional corpora: people of mer.synthetic, who move a little in a clip and a lot in a still image.

Everything is a function of the seed, the person and the clip: equal input gives equal pictures.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mer.fictional.layouts import Take
from mer.synthetic import clip as make
from mer.synthetic.face import Identity, crop_side
from mer.synthetic.motion import backward_map, envelope, render, slope
from mer.synthetic.pool import STEEPEST, STILL

# Action units by the words of all label sheets.
UNITS = {
    "happiness": "6+12", "disgust": "4+9", "repression": "15+17", "surprise": "1+2", "others": "4", "other": "4",
    "anger": "4+7+24", "contempt": "L14", "fear": "1+2+5", "sadness": "1+15", "happy": "6+12", "sad": "1+15",
    "negative": "4+9", "positive": "6+12", "neutral": "4",
}  # fmt: skip
PEAK = 2.0  # px at a 224 px face, of a clip's apex: easily seen, so that nothing that is made of it is flat
LARGE = 8.0  # px at a 224 px face, of a still image
FPS = 200.0  # of the clock of head and light, whatever the corpus's own rate
REACH = 3  # frames before the onset and after the offset that a clip may be asked for
Accept = Callable[[np.ndarray, np.ndarray], bool]  # (image, landmarks), as for mer.synthetic.corpus.synthesize


class Cast:
    """People by number; `seed` is that of a corpus, so that each has people of its own.

    accept: judges every new face; refused ones are drawn anew. Raises MerError after 20 refused faces.
    """

    def __init__(self, seed: int, accept: Accept | None = None):
        self.seed, self.accept = seed, accept
        self.attempts: dict[int, int] = {}

    def person(self, number: int) -> Identity:
        if number not in self.attempts:
            self.attempts[number] = make.choose_identity(self.seed, number, self.accept, oversample=1)
        return make.identity(self.seed, number, self.attempts[number], 1)

    def frames(self, takes: Sequence[Take]) -> Callable[[int, int], np.ndarray]:
        """`picture(subject, number)` for a maker of mer.fictional.layouts, (320, 320, 3) uint8 RGB.

        The frames of a subject's clips must have different numbers: they tell the clips apart. Raises KeyError for one
        that belongs to no clip.
        """
        place: dict[tuple[int, int], tuple[int, Take]] = {}
        for index, take in enumerate(takes):
            for number in range(take.onset - REACH, take.offset + REACH + 1):
                assert (take.subject, number) not in place, f"two clips of subject {take.subject} have frame {number}"
                place[take.subject, number] = index, take
        drawn: dict[int, tuple[make.Motion, np.ndarray]] = {}

        def picture(subject: int, number: int) -> np.ndarray:
            index, take = place[subject, number]
            person = self.person(subject)
            if index not in drawn:
                rng = make.stream(self.seed, make.CLIP, index)
                how = make.style(self.seed, subject)
                motion = make.draw_motion(rng, person, UNITS[take.emotion.lower()], PEAK, how)
                drawn[index] = motion, motion.bumps.grid()
            motion, field = drawn[index]
            apex = take.apex if isinstance(take.apex, int) else (take.onset + take.offset) // 2
            level = envelope(number, take.onset, apex, take.offset, motion.sharpness, motion.rest)
            seconds = (number - take.onset) / FPS
            image = render(person, motion.pose, backward_map(field, level * motion.amplitude, motion.drift(seconds)))
            rng = make.stream(self.seed, make.RENDER, subject, number)
            return make.to_bytes(make.noisy(image * np.float32(1 + motion.light.at(seconds)[0]), 1.0, rng))

        return picture

    def still(self, number: int, emotion: str) -> np.ndarray:
        """A large expression, (320, 320, 3) uint8 RGB; neutral: none."""
        person, place = self.person(number), list(UNITS).index(emotion)
        rng = make.stream(self.seed, make.POOL, number, place)
        motion = make.draw_motion(rng, person, UNITS[emotion], 1.0, make.style(self.seed, number))
        field = motion.bumps.grid()
        peak = 0.0 if emotion == "neutral" else min(LARGE * crop_side(motion.landmarks) / 224, STEEPEST / slope(field))
        image = render(person, motion.pose, backward_map(field, peak, STILL))
        return make.to_bytes(make.noisy(image, 1.0, rng))
