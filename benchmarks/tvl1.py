"""TV-L1 against OpenCV-contrib's DualTVL1 and scikit-image: milliseconds a pair and error against known motion.

    make bench-peers                     # once: OpenCV-contrib into .venv-peers
    python -m benchmarks.tvl1 --save

Prints one JSON line. All solvers run at their defaults, with all cores, on the same pairs in the same run, in turns;
times are medians over pairs and repeats. `mer_batched` hands all pairs over in one call, which takes them side by side
on all cores, as the pipeline's workers take clips. Errors are mean endpoint errors in px without a 16 px border, on
three sets:

    reference     the eight pairs of the reference data, where they lie (MER_REFERENCE)
    photographs   scikit-image's photographs, other regions, under nine kinds of motion, noise of 0, 1 and 3 grey levels
    faces         rendered clips of the synthetic corpus, onset to apex, on the face only
"""

import argparse
import functools
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import scipy.ndimage
import skimage.data
from skimage.registration import optical_flow_tvl1

from benchmarks._report import add_options, report
from mer.motion.tvl1 import tvl1
from mer.parallel import Engine

ROOT = Path(__file__).parent.parent
VERSIONS: dict[str, str] = {}  # of peers in environments of their own
PEERS = ROOT / ".venv-peers/bin/python"
SIDE, BORDER = 224, 16
PHOTOGRAPHS = ("brick", "camera", "chelsea", "clock", "coffee", "grass", "gravel", "moon")
MOTIONS = ("smooth 1.5", "smooth 4", "shift 0.3", "shift 1.3", "shift 6", "turn", "zoom", "patches", "disc")


# ---- pairs with known motion ------------------------------------------------------------------------------------


def motion(kind: str, rng: np.random.Generator) -> np.ndarray:
    """(2, 224, 224) px."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    name, _, size = kind.partition(" ")
    if name == "smooth":
        field = rng.normal(size=(2, SIDE + 160, SIDE + 160))
        field = scipy.ndimage.gaussian_filter(field, (0, 30, 30))[:, 80:-80, 80:-80]
        return field / np.hypot(*field).max() * float(size)
    if name == "shift":
        angle = rng.uniform(0, 2 * np.pi)
        return float(size) * np.stack([np.full_like(x, np.cos(angle)), np.full_like(x, np.sin(angle))])
    if name == "turn":
        angle = np.deg2rad(0.8)
        return np.stack([(np.cos(angle) - 1) * x - np.sin(angle) * y, np.sin(angle) * x + (np.cos(angle) - 1) * y])
    if name == "zoom":
        return 0.012 * np.stack([x, y])
    if name == "patches":  # as a face moves: a few places, the rest at rest
        field = np.zeros((2, SIDE, SIDE))
        for _ in range(4):
            (px, py), spread = rng.uniform(-70, 70, 2), rng.uniform(10, 22)
            angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.6)
            bump = size * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * spread**2))
            field += bump * np.array([np.cos(angle), np.sin(angle)])[:, None, None]
        return field
    return np.where(x**2 + y**2 < 60**2, 1.0, 0.0) * np.array([1.2, -0.8])[:, None, None]  # disc


def photographs(noises=(0.0, 1.0, 3.0), seed: int = 1) -> dict[str, list]:
    """Kind of motion -> (prev, next, truth), prev(x) = next(x + truth(x)) by a spline of order 5."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    pairs: dict[str, list] = {kind: [] for kind in MOTIONS}
    for number, name in enumerate(PHOTOGRAPHS):
        image = np.asarray(getattr(skimage.data, name)(), dtype=float)
        if image.ndim == 3:
            image = image @ np.array([0.299, 0.587, 0.114])
        top, left = (image.shape[0] - SIDE) // 3, (image.shape[1] - SIDE) // 3
        for kind in MOTIONS:
            truth = motion(kind, rng)
            prev = scipy.ndimage.map_coordinates(image, [top + y + truth[1], left + x + truth[0]], order=5)
            noise = noises[(number + MOTIONS.index(kind)) % len(noises)]
            eight_bit = [
                np.clip(np.rint(i + noise * rng.normal(size=i.shape)), 0, 255).astype(np.uint8)
                for i in (prev, image[top : top + SIDE, left : left + SIDE])
            ]
            pairs[kind].append((*eight_bit, truth))
    return pairs


def reference() -> list:
    path = Path(os.environ.get("MER_REFERENCE", ROOT / "../shared/reference")) / "tvl1" / "tvl1_pairs.npz"
    if not path.exists():
        return []
    with np.load(path) as pairs:
        return list(zip(pairs["prev"], pairs["next"], pairs["flow"].astype(np.float32), strict=True))


def faces(folder: Path) -> list:
    """Onset and apex of rendered clips, the face's own square, with the motion they were rendered with."""
    from mer.synthetic import corpus as synthetic

    synthetic.synthesize(folder, subjects=3, clips=15, pool_subjects=0, engine=Engine(workers=0))
    pairs = []
    for clip in sorted((folder / "corpus").glob("sub*/EP*")):
        truth = synthetic.read_truth(folder / "truth.h5", f"{clip.parent.name}/{clip.name}")
        onset, apex = (cv2.imread(str(clip / f"img{truth[k]}.jpg"), cv2.IMREAD_GRAYSCALE) for k in ("onset", "apex"))
        square = np.s_[..., 48 : 48 + SIDE, 48 : 48 + SIDE]
        pairs.append((onset[square], apex[square], truth["flow"][square]))
    return pairs


# ---- solvers: (N, H, W) twice -> flow, seconds a pair -----------------------------------------------------------


def one_by_one(solver, prev, following):
    flow, seconds = [], []
    for a, b in zip(prev, following, strict=True):
        start = time.perf_counter()
        flow.append(solver(a, b))
        seconds.append(time.perf_counter() - start)
    return np.stack(flow), seconds


def batched(prev, following):
    start = time.perf_counter()
    flow = tvl1(prev, following)
    return flow, [(time.perf_counter() - start) / len(prev)]


def scikit_image(a, b):
    v, u = optical_flow_tvl1(a / np.float32(255), b / np.float32(255), dtype=np.float32)
    return np.stack([u, v])


def opencv(prev, following):
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "pairs.npz", prev=prev, next=following)
        command = [PEERS, ROOT / "benchmarks/_opencv_tvl1.py", f"{folder}/pairs.npz", f"{folder}/flow.npz"]
        subprocess.run([str(part) for part in command], check=True)
        with np.load(f"{folder}/flow.npz") as found:
            VERSIONS["opencv-contrib"] = str(found["version"])
            return found["flow"], list(found["seconds"])


def solvers() -> dict:
    found = {
        "mer": functools.partial(one_by_one, tvl1),
        "mer_batched": batched,
        "scikit_image": functools.partial(one_by_one, scikit_image),
    }
    if PEERS.exists():
        found["opencv"] = opencv
    return found


# ---- measuring --------------------------------------------------------------------------------------------------


def error(flow, truth) -> float:
    return float(np.hypot(*(flow - truth))[BORDER:-BORDER, BORDER:-BORDER].mean())


def errors(pairs: list, seconds: dict[str, list]) -> dict[str, float]:
    """Mean endpoint error of every solver on a set; the times go to `seconds`."""
    prev, following = (np.stack([pair[k] for pair in pairs]) for k in (0, 1))
    result = {}
    for name, solver in solvers().items():
        flow, took = solver(prev, following)
        seconds[name] += took
        if name != "mer_batched":
            result[name] = round(statistics.mean(error(f, p[2]) for f, p in zip(flow, pairs, strict=True)), 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="of the timed set")
    add_options(parser)
    args = parser.parse_args()
    tvl1(np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8))  # compiled before anything is timed
    with tempfile.TemporaryDirectory() as folder:
        sets = {"reference": reference(), "faces": faces(Path(folder))}
    sets |= {f"photographs, {kind}": pairs for kind, pairs in photographs().items()}
    seconds: dict[str, list] = {name: [] for name in solvers()}
    found = {name: errors(pairs, seconds) for name, pairs in sets.items() if pairs}
    timed = sets["reference"] or sets["photographs, smooth 1.5"]
    seconds = {name: [] for name in seconds}
    for _ in range(args.repeats):
        errors(timed, seconds)
    ms = {name: round(1e3 * statistics.median(values), 2) for name, values in seconds.items()}
    result = {
        "side": SIDE,
        "ms_a_pair": ms,
        "times_faster": {
            peer: {ours: round(ms[peer] / ms[ours], 1) for ours in ("mer", "mer_batched")}
            for peer in ms
            if not peer.startswith("mer")
        },
        "error_px": found,
        "pairs": {name: len(pairs) for name, pairs in sets.items()},
    }
    result["peers"] = VERSIONS
    if "opencv" not in ms:
        result["opencv"] = "not measured: make bench-peers installs it"
    report("tvl1", result, ("numba", "numpy", "opencv-python", "scikit-image"), args.save)


if __name__ == "__main__":
    main()
