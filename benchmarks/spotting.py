"""Spotting against what is known: the apex of clips, and quick movements in whole recordings of rendered faces.

    make repro
    python -m benchmarks.spotting --save

Prints one JSON line. `apex`: on every fifth annotated clip of the corpus, by how many frames the spotted apex is off,
with the head's motion removed and kept. `recordings`: people of three seeds whose faces move quickly and slowly while
the head wanders, on which the constants of mer.motion.candidates were not chosen; how many of the quick movements are
found (one of the lids alone is never drawn), how many candidates are none, how much the intervals overlap the true
ones. `smaller` is the peer: the smaller of the two magnitudes by itself, before and after, without asking whether the
motion is taken back.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks._report import add_options, report
from mer.clips import clips, read_index
from mer.faces.alignment import clip_transform, warp
from mer.faces.landmarks import detect_landmarks
from mer.motion import candidates
from mer.motion.head import without_head_motion
from mer.motion.spotting import HEAD, flows_between, spot_apex
from mer.recognise import recordings, sources
from mer.recognise.recogniser import Recogniser
from mer.storage.cache import ClipCache
from mer.synthetic import clip as make
from mer.synthetic.recording import Movement, draw_movements, render_recording

SEEDS, SECONDS, RATE = (11, 12, 13), 24.0, 50.0


def apexes(index: Path, frames: Path) -> dict:
    cache = ClipCache(frames)
    rows = [row for row in clips(read_index(index)) if row.apex_source == "annotated" and row.id in cache][::5]
    result: dict = {"clips": len(rows)}
    for head in HEAD:
        off = []
        for row in rows:
            grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in cache[row.id]])
            off.append(abs(row.numbers[spot_apex(grey, head=head)] - row.apex))
        result[head] = {"frames_off_mean": round(statistics.mean(off), 3), "frames_off_median": statistics.median(off)}
    return result


def smaller(pictures: list[np.ndarray]) -> list[float]:
    """Seconds at which the smaller of the two magnitudes peaks, in a crop of the first frame."""
    points = detect_landmarks(pictures[0])
    transform = clip_transform(pictures[0], points, "box224", top_margin=0.2, rotate=False)
    grey = np.stack([cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in warp(np.stack(pictures), transform, 224)])
    seen = recordings.beside_eyes(recordings.apply(transform, points), grey.shape[1:])
    reach = candidates.reach_of(RATE)
    flows = (without_head_motion(flow, seen) for flow in flows_between(grey[:-reach], grey[reach:]))
    size = np.array([np.hypot(*flow)[seen].mean() for flow in flows])
    strength = np.full(len(grey), np.nan)
    strength[reach:-reach] = np.minimum(size[:-reach], size[reach:])
    return [at / RATE for at, _ in candidates.peaks(strength, RATE)]


def counted(known: list[Movement], apexes: list[float]) -> tuple[int, int]:
    """How many of the movements have an apex in them, and how many apexes are in none."""
    found = sum(any(one.onset <= t <= one.offset for t in apexes) for one in known)
    return found, sum(not any(one.onset <= t <= one.offset for one in known) for t in apexes)


def recorded(folder: Path) -> dict:
    chain = Recogniser(folder).chain
    sums = np.zeros((2, 2), int)
    total, overlap = 0, []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        movements = draw_movements(rng, SECONDS)
        pictures = list(render_recording(make.identity(7, seed, 0), movements, SECONDS, RATE, rng))
        known = [one for one in movements if one.quick]
        with tempfile.TemporaryDirectory() as scratch:
            for n, picture in enumerate(pictures):
                cv2.imwrite(f"{scratch}/{n}.png", picture[..., ::-1])
            spotted = recordings.spot(sources.recording(scratch, fps=RATE), chain).candidates
        for onset, apex, offset, _ in spotted:
            for one in known:
                if one.onset <= apex <= one.offset:
                    both = min(offset, one.offset) - max(onset, one.onset)
                    overlap.append(both / (max(offset, one.offset) - min(onset, one.onset)))
        total += len(known)
        sums += [counted(known, [apex for _, apex, _, _ in spotted]), counted(known, smaller(pictures))]
    ours, peer = ({"found": int(found), "wrong": int(wrong)} for found, wrong in sums)
    overlaps = {"overlap_median": round(float(np.median(overlap)), 3), "overlap_least": round(min(overlap), 3)}
    return {
        "people": len(SEEDS),
        "seconds": SECONDS * len(SEEDS),
        "quick": total,
        "ours": ours | overlaps,
        "smaller": peer,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--index", type=Path, default=Path("data/index/synthetic.csv"))
    parser.add_argument("--frames", type=Path, default=Path("data/cache/synthetic/box224/frames.h5"))
    parser.add_argument("--recogniser", type=Path, default=Path("data/recognisers/synthetic-ststnet"))
    add_options(parser)
    found = parser.parse_args()
    result = {"apex": apexes(found.index, found.frames), "recordings": recorded(found.recogniser)}
    report("spotting", result, ("numba", "opencv-python", "dlib-bin"), save=found.save)


if __name__ == "__main__":
    main()
