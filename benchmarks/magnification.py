"""Frames per second of Eulerian magnification against a plain per-frame float64 program, and the memory it takes.

    python -m benchmarks.magnification --repeats 3
    python -m benchmarks.magnification --save

Prints one JSON line. mer: `magnify`, with all cores. Peer: `benchmarks._naive_evm`, written from the paper with NumPy,
SciPy and OpenCV; like mer it filters only the bands that have a weight. Both get the same clip, in turns: 67 frames
(the mean length in CASME II) of 224 x 224 px, uint8 RGB, at 200 fps; times are medians. The clip is a photograph that
moves to the right and back by 1.5 px, with noise of one grey level. `iir` and `butterworth` run with the recipes' own
bands. Such a clip has its first bin at 3 Hz, so `ideal` gets 2.5 to 12.5 Hz, which holds four. Where the outputs differ
by more than `TOLERANCE`, nothing is reported.

Memory is the peak of what NumPy holds beside the input, the output included, in a run that is not timed. It counts as
bounded when what is held beside input and output is less than one clip, for 67 frames and for 300.
"""

import argparse
import statistics
import sys
import time
import tracemalloc

import numpy as np

from benchmarks import _naive_evm
from benchmarks._report import add_options, report
from benchmarks.dynamic_image import make_clip
from mer.errors import MerError
from mer.magnification.eulerian import FILTERS, RECIPES, magnify

FPS, FRAMES, LONG, SIZE = 200, 67, 300, 224  # of CASME II: its rate and mean length; the models' input
IDEAL = {"low": 2.5, "high": 12.5}  # Hz
GOAL = 5  # times faster than the peer, with the default filter
TOLERANCE = {"largest": 1, "mean": 0.001}  # grey levels: float32 against float64 may round to the neighbour


def settings(recipe: str, filter: str) -> dict:
    return {**RECIPES[recipe], "filter": filter, "fps": FPS, **(IDEAL if filter == "ideal" else {})}


def timed(work) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def difference(ours: np.ndarray, peer: np.ndarray, name: str) -> dict:
    """Grey levels; refused beyond the tolerance."""
    apart = np.abs(ours.astype(np.int16) - peer)
    found = {"largest": int(apart.max()), "mean": float(f"{apart.mean():.3g}")}
    if any(found[key] > most for key, most in TOLERANCE.items()):
        raise MerError(
            f"{name}: the outputs of mer and its peer differ by {found} grey levels, more "
            f"than {TOLERANCE}; speeds of two different results are not compared: check mer/magnification/eulerian.py"
        )
    return found


def speed(clip: np.ndarray, recipe: str, filter: str, repeats: int) -> dict:
    """Frames per second of both, in turns on the same clip."""
    options = settings(recipe, filter)
    seconds: dict[str, list[float]] = {"mer": [], "peer": []}
    for _ in range(repeats):
        took, ours = timed(lambda: magnify(clip, **options))
        seconds["mer"].append(took)
        took, peer = timed(lambda: _naive_evm.magnify(clip, **options))
        seconds["peer"].append(took)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "frames_per_s": {name: round(len(clip) / value, 1) for name, value in median.items()},
        "times_faster": round(median["peer"] / median["mer"], 1),
        "difference_grey_levels": difference(ours, peer, f"{recipe}, {filter}"),
        "moved_grey_levels": round(float(np.abs(ours.astype(np.int16) - clip).mean()), 2),
    }


def memory(clip: np.ndarray, recipe: str, filter: str) -> dict:
    """MB of `magnify` beside its input."""
    tracemalloc.start()
    out = magnify(clip, **settings(recipe, filter))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "clip_mb": round(clip.nbytes / 1e6, 1),
        "peak_mb": round(peak / 1e6, 1),
        "beside_output_mb": round((peak - out.nbytes) / 1e6, 1),
        "bounded": peak - out.nbytes < clip.nbytes,
    }


def eulerian(repeats: int) -> dict:
    clip, recording = make_clip(FRAMES, SIZE), make_clip(LONG, SIZE)
    for work in (magnify, _naive_evm.magnify):  # libraries load, threads start, memory is found
        work(clip, **settings("msmmt", "iir"))
    found = {recipe: {filter: speed(clip, recipe, filter, repeats) for filter in FILTERS} for recipe in RECIPES}
    return {
        "frames": FRAMES,
        "size": SIZE,
        "fps": FPS,
        "repeats": repeats,
        "goal_iir": {"times_faster": GOAL, "reached": all(r["iir"]["times_faster"] >= GOAL for r in found.values())},
        "tolerance_grey_levels": TOLERANCE,
        **found,
        "memory": {filter: {str(len(c)): memory(c, "msmmt", filter) for c in (clip, recording)} for filter in FILTERS},
    }


PARTS = {"eulerian": eulerian}  # name -> what measures it, given the number of repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs of every program; the median counts")
    add_options(parser)
    args = parser.parse_args()
    try:
        result = {name: part(args.repeats) for name, part in PARTS.items()}
    except MerError as error:
        sys.exit(f"magnification: {error}")
    report("magnification", result, ("numpy", "opencv-python", "scipy"), args.save)


if __name__ == "__main__":
    main()
