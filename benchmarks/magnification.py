"""Magnification against plain programs that make the same frames: how much faster, and the memory it takes.

    python -m benchmarks.magnification --repeats 3
    python -m benchmarks.magnification --parts magnet --weights magnet_epoch12_loss7.28e-02.pth
    python -m benchmarks.magnification --save

Prints one JSON line. In every part, mer and its peer get the same input, in turns, with all cores and after a warm-up;
times are medians. Where the outputs differ by more than the tolerance, nothing is reported.

eulerian   Frames per second. mer: `magnify`. Peer: `benchmarks._naive_evm`, per frame and in float64, written from the
    paper with NumPy, SciPy and OpenCV; like mer it filters only the bands that have a weight. The clip has 67 frames
    (the mean length in CASME II) of 224 x 224 px, uint8 RGB, at 200 fps: a photograph that moves to the right and back
    by 1.5 px, with noise of one grey level. `iir` and `butterworth` run with the recipes' own bands. Such a clip has
    its first bin at 3 Hz, so `ideal` gets 2.5 to 12.5 Hz, which holds four.
    Memory is the peak of what NumPy holds beside the input, the output included, in a run that is not timed. It counts
    as bounded when what is held beside input and output is less than one clip, for 67 frames and for 300.
    `one_by_one_mb` is the peak of `magnify_frames`, which holds neither of them.

magnet   Pairs per second, 8 factors from 2 to 13 each. mer: `magnify_pair`, in float32 and, where the processor
    multiplies bfloat16, with bf16=True. Peer: `benchmarks._naive_magnet`, the whole network once a factor, in float32
    from torch's own layers, with the same weights. The pairs are frames of such a clip, of 112 x 112 px, that lie 0.3
    to 0.6 px apart. Weights: `--weights`, else the public ones where the reference data lies (MER_REFERENCE), else
    random ones; times do not depend on them, differences do.
    Memory is the growth of the peak resident memory over what the process held before its first pair, each time in a
    process of its own. It counts as bounded when 32 factors, 8 at a time, take less than twice what 8 factors take.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import _naive_evm, _naive_magnet
from benchmarks._report import add_options, report
from benchmarks.dynamic_image import make_clip
from mer.errors import MerError
from mer.magnification.eulerian import FILTERS, RECIPES, magnify, magnify_frames
from mer.magnification.magnet import MagNet, load_magnet, magnify_pair

ROOT = Path(__file__).parent.parent

FPS, FRAMES, LONG, SIZE = 200, 67, 300, 224  # of CASME II: its rate and mean length; the models' input
IDEAL = {"low": 2.5, "high": 12.5}  # Hz
GOAL = 5  # times faster than the peer, with the default filter
TOLERANCE = {"largest": 1, "mean": 0.001}  # grey levels: another order of sums may round to the neighbour

FACTORS, SIDE = np.linspace(2, 13, 8), 112
PAIRS = [(0, t) for t in range(5, 10)]  # frames of the clip, 0.3 to 0.6 px apart
GOALS = {"float32": 1.5, "bfloat16": 3}  # times faster than the peer, which is float32
BF16_TOLERANCE = {"largest": 3, "mean": 0.3}  # 8 bits of precision through 20 layers; `magnify_pair` has it off
BATCH, MANY = 8, 32  # how many factors are decoded at a time; UAMRN's number of factors


# ---- both parts -----------------------------------------------------------------------------------------------------


def in_turns(programs: dict[str, Callable], inputs: list[tuple], repeats: int) -> tuple[dict, dict]:
    """Median seconds of every program over inputs and repeats, and what it makes of every input."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    made: dict[str, list[np.ndarray]] = {}
    for _ in range(repeats):
        made = {name: [] for name in programs}
        for given in inputs:
            for name, program in programs.items():
                start = time.perf_counter()
                made[name].append(program(*given))
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(took) for name, took in seconds.items()}, made


def difference(ours: list, peer: list, name: str, tolerance: dict, code: str) -> dict:
    """Grey levels; refused beyond the tolerance."""
    apart = np.abs(np.stack(ours).astype(np.int16) - np.stack(peer))
    found = {"largest": int(apart.max()), "mean": float(f"{apart.mean():.3g}")}
    if any(found[key] > most for key, most in tolerance.items()):
        raise MerError(
            f"{name}: the outputs of mer and its peer differ by {found} grey levels, more than {tolerance}; speeds of "
            f"two different results are not compared: check {code}"
        )
    return found


# ---- eulerian -------------------------------------------------------------------------------------------------------


def settings(recipe: str, filter: str) -> dict:
    return {**RECIPES[recipe], "filter": filter, "fps": FPS, **(IDEAL if filter == "ideal" else {})}


def speed(clip: np.ndarray, recipe: str, filter: str, repeats: int) -> dict:
    """Frames per second of both."""
    options = settings(recipe, filter)
    programs = {
        "mer": lambda clip: magnify(clip, **options),
        "peer": lambda clip: _naive_evm.magnify(clip, **options),
    }
    median, made = in_turns(programs, [(clip,)], repeats)
    name, code = f"{recipe}, {filter}", "mer/magnification/eulerian.py"
    return {
        "frames_per_s": {name: round(len(clip) / value, 1) for name, value in median.items()},
        "times_faster": round(median["peer"] / median["mer"], 1),
        "difference_grey_levels": difference(made["mer"], made["peer"], name, TOLERANCE, code),
        "moved_grey_levels": round(float(np.abs(made["mer"][0].astype(np.int16) - clip).mean()), 2),
    }


def memory(clip: np.ndarray, recipe: str, filter: str) -> dict:
    """MB of `magnify` beside its input."""
    tracemalloc.start()
    out = magnify(clip, **settings(recipe, filter))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tracemalloc.start()
    for _ in magnify_frames(list(clip), len(clip), **settings(recipe, filter)):
        pass
    one_by_one = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "clip_mb": round(clip.nbytes / 1e6, 1),
        "peak_mb": round(peak / 1e6, 1),
        "one_by_one_mb": round(one_by_one / 1e6, 1),
        "beside_output_mb": round((peak - out.nbytes) / 1e6, 1),
        "bounded": peak - out.nbytes < clip.nbytes,
    }


def eulerian(repeats: int, _weights) -> dict:
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


# ---- magnet ---------------------------------------------------------------------------------------------------------


def networks(weights: Path | None) -> tuple[MagNet, _naive_magnet.Network, str]:
    """Ours and the peer's with the same weights, and which these are."""
    public = Path(os.environ.get("MER_REFERENCE", ROOT / "../shared/reference")) / "magnet"
    public /= "magnet_epoch12_loss7.28e-02.pth"
    if weights is None and public.is_file():
        weights = public
    if weights is None:
        model = MagNet().eval()
        generator = torch.Generator().manual_seed(0)
        for name, p in model.named_parameters():  # with torch's own, 36 layers fade; so, a picture is left
            size = 0.5 if "blk" in name or name.startswith("decoder.cba_2") else 1
            p.data = torch.randn(p.shape, generator=generator) * size / p[0].numel() ** 0.5
    else:
        model = load_magnet(weights)
    peer = _naive_magnet.Network().eval()
    peer.load_state_dict(model.state_dict())
    return model, peer, weights.name if weights else "random"


def bfloat16_is_fast() -> bool:
    """Without instructions of its own it is emulated, and slower than float32."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)  # the last: ARM


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    clip = make_clip(FRAMES, SIDE)
    return [(clip[onset], clip[apex]) for onset, apex in PAIRS]


def magnet(repeats: int, weights: Path | None) -> dict:
    model, network, name = networks(weights)
    programs = {
        "peer": lambda *pair: _naive_magnet.magnify(network, *pair, FACTORS),
        "float32": lambda *pair: magnify_pair(model, *pair, FACTORS, batch=BATCH),
    }
    if bfloat16_is_fast():
        programs["bfloat16"] = lambda *pair: magnify_pair(model, *pair, FACTORS, batch=BATCH, bf16=True)
    in_turns(programs, pairs()[:2], 1)  # libraries load, threads start, memory is found
    median, made = in_turns(programs, pairs(), repeats)
    faster = {kind: median["peer"] / median[kind] for kind in GOALS if kind in median}
    tolerance = {"float32": TOLERANCE, "bfloat16": BF16_TOLERANCE}
    apart = {
        kind: difference(made[kind], made["peer"], f"magnet, {kind}", tolerance[kind], "mer/magnification/magnet.py")
        for kind in faster
    }
    return {
        "factors": FACTORS.round(2).tolist(),
        "size": SIDE,
        "pairs": len(PAIRS),
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "weights": name,
        "pairs_per_s": {name: round(1 / took, 2) for name, took in median.items()},
        "times_faster": {kind: round(value, 2) for kind, value in faster.items()},
        "goal": {k: {"times_faster": GOALS[k], "reached": value >= GOALS[k]} for k, value in faster.items()},
        "bfloat16": "measured" if "bfloat16" in faster else "not measured: this processor does not multiply it",
        "tolerance_grey_levels": {kind: tolerance[kind] for kind in faster},
        "difference_grey_levels": apart,
        "memory": resident(weights),
    }


def resident(weights: Path | None) -> dict | str:
    """MB that `magnify_pair` takes for few factors and for many."""
    if not Path("/proc/self/status").is_file():
        return "not measured: the peak of a process is told by Linux"
    found = []
    for factors, batch in ((BATCH, BATCH), (MANY, BATCH), (MANY, MANY)):
        fresh = multiprocessing.get_context("spawn")  # memory that was freed is found again, and would not be seen
        with concurrent.futures.ProcessPoolExecutor(1, fresh) as process:
            mb = process.submit(growth, weights, factors, batch).result()
        found.append({"factors": factors, "batch": batch, "mb": mb})
    few, many = found[0]["mb"], found[1]["mb"]
    return {"runs": found, "bounded": many < 2 * few}


def growth(weights: Path | None, factors: int, batch: int) -> float:
    model, _, _ = networks(weights)
    pair = pairs()[0]
    before = status("VmRSS")
    magnify_pair(model, *pair, np.linspace(2, 13, factors), batch=batch)
    return round(status("VmHWM") - before, 1)


def status(name: str) -> float:
    """MB of this process; VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:"))


# ---- command line ---------------------------------------------------------------------------------------------------

PARTS = {"eulerian": eulerian, "magnet": magnet}  # name -> what measures it, given repeats and weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3, help="runs of every program; the median counts")
    parser.add_argument("--weights", type=Path, help="of MagNet; default: the public ones in the reference data")
    add_options(parser)
    args = parser.parse_args()
    parts = [name for name in PARTS if name in args.parts]
    try:
        result = {name: PARTS[name](args.repeats, args.weights) for name in parts}
    except MerError as error:
        sys.exit(f"magnification: {error}")
    # One part alone shall not take the place of all in the results.
    name = "magnification" if len(parts) == len(PARTS) else "_".join(["magnification", *parts])
    report(name, result, ("numpy", "opencv-python", "scipy", "torch"), args.save)


if __name__ == "__main__":
    main()
