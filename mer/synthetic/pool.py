"""People of the synthetic corpus who are never evaluated: material for pretraining.

pool/macro/<emotion>/sub101_1.jpg, pool/macro/labels.csv      the same action units, large
pool/clips/sub101/clip01/img1.jpg                             micro-expressions without labels
pool/pairs/sub101_01_a.jpg, _b.jpg, _m.jpg, pool/pairs/pairs.csv
    a, b: the same face displaced by less than a pixel; m: a displaced by `factor` times as much

Both lists are tables of mer.storage.tables, whose rows are sealed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mer.parallel import SERIAL, Engine, map_clips
from mer.storage.tables import write_table
from mer.synthetic import clip as make
from mer.synthetic.face import SIZE, Identity, crop_side
from mer.synthetic.motion import backward_map, forward_flow, pixels, render, slope

FIRST_POOL_SUBJECT = 101  # the corpus has at most 99 subjects
# Images of expressions are half as large as frames: they are learned from at 112 px a face and less.
MACRO_SIZE = 160
MACRO_PEAK = (1.5, 12.0)  # px at a 224 px face; as many weak ones as strong ones
GAPS = {25: (0.4, 0.9), 26: (0.9, 1.5), 27: (1.6, 2.4)}  # px between the lips for each px of the peak
STRONG = 5.0  # px at a 224 px face; from there on a dropped jaw is a stretched mouth, and some surprised jaws drop
SURPRISED = 0.3
PAIR_PEAK = (0.1, 0.9)  # px of the expression between a and b; the head adds its drift
FACTOR = (2.0, 20.0)
# A field steeper than 1 folds the face over itself (lids and lips move towards each other); stay well below.
STEEPEST = 0.6
STILL = np.eye(2, 3)


@dataclass(frozen=True)
class _Job:
    subject: int
    attempt: int
    seed: int
    macro: int
    clips: int
    pairs: int
    length: tuple[int, int]
    folder: Path


def write_pool(
    folder: Path,
    *,
    subjects: dict[int, int],
    seed: int,
    macro: int,
    clips: int,
    pairs: int,
    length: tuple[int, int],
    engine: Engine = SERIAL,
) -> None:
    """Write the pool of `subjects` (number -> attempt of its identity).

    Per subject: `macro` images of every emotion, `clips` clips of `length` (least, most) frames, `pairs` triplets.
    """
    folder.mkdir(parents=True)
    for emotion in make.COUNTS:
        (folder / "macro" / emotion).mkdir(parents=True)
    (folder / "pairs").mkdir()
    (folder / "clips").mkdir()
    jobs = [_Job(s, a, seed, macro, clips, pairs, (length[0], length[1]), folder) for s, a in subjects.items()]
    done = map_clips(_write_subject, jobs, engine, label="synthetic pool")
    for name, columns, part in (
        ("macro/labels.csv", ["file", "subject", "emotion", "aus", "peak"], 0),
        ("pairs/pairs.csv", ["a", "b", "magnified", "subject", "factor", "peak"], 1),
    ):
        rows = [row for result in done for row in result[part]]
        write_table(folder / name, pd.DataFrame(rows, columns=columns))


def _write_subject(job: _Job) -> tuple[list, list]:
    labels = [_macro(job, emotion, k) for emotion in make.COUNTS for k in range(job.macro)]
    for number in range(job.clips):
        _clip(job, number)
    return labels, [_pair(job, number) for number in range(job.pairs)]


def _drawn(job: _Job, kind: int, number: int) -> tuple[Identity, make.Motion, np.random.Generator]:
    """Person, motion and the stream of one item."""
    rng = make.stream(job.seed, make.POOL, job.subject, kind, number)
    person = make.identity(job.seed, job.subject, job.attempt)
    aus = make.draw_units(rng, list(make.COUNTS)[rng.integers(len(make.COUNTS))])
    return person, make.draw_motion(rng, person, aus, 1.0, make.style(job.seed, job.subject)), rng


def _macro(job: _Job, emotion: str, k: int) -> tuple:
    rng = make.stream(job.seed, make.POOL, job.subject, 0, list(make.COUNTS).index(emotion) * 1000 + k)
    person = make.identity(job.seed, job.subject, job.attempt, oversample=1)
    units = make.draw_units(rng, emotion).split("+")
    strength = float(np.exp(rng.uniform(*np.log(MACRO_PEAK))))
    if strength > STRONG:
        surprised = emotion == "surprise" and rng.random() < SURPRISED
        units = ["27" if unit == "26" else unit for unit in units] + ["27"] * (surprised and "26" not in units)
    gap = sum(strength * rng.uniform(*GAPS[unit]) for unit in (25, 26, 27) if str(unit) in units)
    # Lips that part are no smooth field: the opening does what AU 25 does to a micro-expression.
    moving = [unit.replace("27", "26") for unit in units if unit != "25"]
    motion = make.draw_motion(rng, person, "+".join(moving), 1.0, make.style(job.seed, job.subject))
    unit, small = crop_side(motion.landmarks) / 224, MACRO_SIZE / SIZE
    field = motion.bumps.resized(small).grid(MACRO_SIZE)
    peak = min(strength * unit, STEEPEST / slope(field) / small)
    where = (backward_map(field, peak * small, STILL) + 0.5) / small - 0.5
    image = render(person, motion.pose, where, gap * unit)
    name = f"{emotion}/sub{job.subject}_{k + 1}.jpg"
    make.write_jpeg(job.folder / "macro" / name, make.noisy(image, rng.uniform(*make.NOISE), rng))
    return name, f"sub{job.subject}", emotion, "+".join(units), round(peak / unit, 3)


def _clip(job: _Job, number: int) -> None:
    person, motion, rng = _drawn(job, 1, number)
    frames = int(rng.integers(job.length[0], job.length[1] + 1))
    row = {"first": 1, "onset": 1, "apex": 1 + frames // 2, "offset": frames, "last": frames}
    folder = job.folder / "clips" / f"sub{job.subject}" / f"clip{number + 1:02d}"
    folder.mkdir(parents=True)
    for index, image in make.render_clip(person, motion, row, rng):
        make.write_jpeg(folder / f"img{index}.jpg", image)


def _pair(job: _Job, number: int) -> tuple:
    person, motion, rng = _drawn(job, 2, number)
    unit = crop_side(motion.landmarks) / 224
    drift = motion.drift(rng.uniform(0.01, 0.1))
    flow = forward_flow(motion.bumps.grid(), rng.uniform(*PAIR_PEAK) * unit, drift)
    peak = float(np.hypot(*flow).max())
    factor = float(np.exp(rng.uniform(*np.log(FACTOR))))
    factor = min(factor, 10.0 / peak, STEEPEST / slope(flow))
    sigma = rng.uniform(*make.NOISE)
    stem = f"sub{job.subject}_{number + 1:02d}"
    # The target carries no noise: a network that magnifies must not learn to magnify that.
    for letter, amplitude, noise in (("a", 0.0, sigma), ("b", 1.0, sigma), ("m", factor, 0.0)):
        where = backward_map(flow, amplitude, STILL) if amplitude else pixels()
        image = render(person, motion.pose, where)
        make.write_jpeg(job.folder / "pairs" / f"{stem}_{letter}.jpg", make.noisy(image, noise, rng))
    names = [f"{stem}_{letter}.jpg" for letter in "abm"]
    return *names, f"sub{job.subject}", round(factor, 4), round(peak / unit, 4)
