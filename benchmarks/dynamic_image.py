"""Seconds for the dynamic image of a clip, and against scikit-learn's LinearSVC on the explicit pairs.

    python -m benchmarks.dynamic_image --repeats 3
    python -m benchmarks.dynamic_image --gigabytes 1 --long 3000

Prints one JSON line. Both minimise MSMMT eq. 4 with c = 1 on raw uint8 RGB frames of 224 x 224 px. mer: `rank_pool`,
from the frames. Peer: LinearSVC with the hinge loss on one row per pair, float64, all other options at their defaults;
only its `fit` is timed, making the rows is not. It gets as many frames of the clip as have pairs that fit in
`--gigabytes`; it holds them three times (itself, and a copy with an index per value), so 4 needs 12 GB of memory.
The clip is a photograph that moves to the right and back by 1.5 px, with noise of one grey level. `--long` are the
frames of further clips of this kind, each of which is made into a picture once; there the time of the processor counts,
all threads together. 3000 take 0.5 GB, and making them some minutes.
"""

import argparse
import statistics
import time
import tracemalloc
import warnings

import numpy as np

from benchmarks._report import add_options, report
from mer.motion.dynamic_image import dynamic_image, rank_pool

FRAMES, SIZE = 141, 224  # the longest clip of CASME II; the models' input


def make_clip(frames: int = FRAMES, size: int = SIZE) -> np.ndarray:
    """(frames, size, size, 3) uint8."""
    import cv2
    import skimage.data

    photo = skimage.data.astronaut()[:, 80:400]
    rng = np.random.default_rng(0)
    clip = np.empty((frames, size, size, 3), dtype=np.uint8)
    for t in range(frames):
        move = np.array([[1, 0, 1.5 * np.sin(np.pi * t / frames) - 20], [0, 1, -20]])
        frame = cv2.warpAffine(photo, move, (size, size), flags=cv2.INTER_CUBIC)
        clip[t] = np.rint(frame + rng.normal(size=frame.shape)).clip(0, 255)
    return clip


def energy(d: np.ndarray, x: np.ndarray) -> float:
    """MSMMT eq. 4 with c = 1 at d (D,) for frames x (T, D) uint8."""
    scores = np.cumsum([np.dot(row.astype(float), d) for row in x]) / np.arange(1, len(x) + 1)
    t, later = np.triu_indices(len(x), 1)
    return float(d @ d / 2 + np.maximum(0, 1 - scores[later] + scores[t]).mean())


def timed(work) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def speed(clip: np.ndarray, repeats: int) -> dict:
    """The whole of `dynamic_image`; the memory is what it takes beside the clip."""
    dynamic_image(clip[:10])  # BLAS starts its threads
    result = {"frames": len(clip), "size": clip.shape[1]}
    for solver in ("ranksvm_pairs", "approximate"):
        seconds = [timed(lambda solver=solver: dynamic_image(clip, solver=solver))[0] for _ in range(repeats)]
        tracemalloc.start()
        dynamic_image(clip, solver=solver)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        result[solver] = {
            "seconds": [round(s, 3) for s in seconds],
            "median_s": round(statistics.median(seconds), 3),
            "peak_mb": round(peak / 1e6, 1),
        }
    return result


def long_clip(frames: int) -> dict:
    clip = make_clip(frames)
    dynamic_image(clip[:10])
    start = time.process_time()
    seconds, _ = timed(lambda: dynamic_image(clip))
    processor = time.process_time() - start
    tracemalloc.start()
    dynamic_image(clip)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "frames": frames,
        "seconds": round(seconds, 2),
        "processor_s": round(processor, 2),
        "peak_mb": round(peak / 1e6, 1),
    }


def against_linear_svc(clip: np.ndarray, gigabytes: float, repeats: int) -> dict:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    values = clip[0].size
    frames = len(clip)
    while frames * (frames - 1) / 2 * values * 8 > gigabytes * 1e9:
        frames -= 1
    x = clip[:frames].reshape(frames, values)
    count = frames * (frames - 1) // 2

    # Before the rows exist: the time the machine takes to find memory for them is not that of mer.
    rank_pool(x[:10])
    seconds: dict[str, list[float]] = {"mer": [], "linear_svc": []}
    for _ in range(repeats):
        took, d = timed(lambda: rank_pool(x))
        seconds["mer"].append(took)

    phi = np.cumsum(x, axis=0, dtype=np.float64) / np.arange(1, frames + 1)[:, None]
    rows = np.empty((count, values))
    sign = np.where(np.arange(count) % 2, 1, -1)  # it wants two classes; a pair turned round is the same condition
    for row, t, later, side in zip(rows, *np.triu_indices(frames, 1), sign, strict=True):
        np.subtract(phi[later], phi[t], out=row)
        row *= side
    del phi
    # Its objective is |d|^2 / 2 + C sum of the losses.
    svm = LinearSVC(loss="hinge", dual=True, fit_intercept=False, C=1 / count, random_state=0)
    for _ in range(repeats):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said in the result
            seconds["linear_svc"].append(timed(lambda: svm.fit(rows, sign))[0])
    mer, peer = (statistics.median(values) for values in seconds.values())
    ours, theirs = energy(d, x), energy(svm.coef_[0], x)
    return {
        "frames": frames,
        "pairs": count,
        "values": values,
        "pairs_gb": round(rows.nbytes / 1e9, 2),
        "repeats": repeats,
        "seconds": {name: [round(s, 3) for s in values] for name, values in seconds.items()},
        "mer_s": round(mer, 3),
        "linear_svc_s": round(peer, 2),
        "ratio": round(peer / mer, 1),
        "linear_svc_iterations": int(svm.n_iter_),
        "linear_svc_converged": bool(svm.n_iter_ < svm.max_iter),
        "mer_objective": ours,
        "linear_svc_objective": theirs,
        "relative_gap": (ours - theirs) / theirs,  # negative: mer is lower
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of explicit pairs for LinearSVC at most")
    parser.add_argument("--long", type=int, nargs="*", default=[250, 1000], help="frames of longer clips")
    add_options(parser)
    args = parser.parse_args()
    clip = make_clip()
    result = {
        "clip": speed(clip, args.repeats),
        "long": [long_clip(frames) for frames in args.long],
        "against_linear_svc": against_linear_svc(clip, args.gigabytes, args.repeats),
    }
    report("dynamic_image", result, ("numpy", "opencv-python", "scikit-image", "scikit-learn"), args.save)


if __name__ == "__main__":
    main()
