"""Clips per second from frames on disk to cropped product, against a plain loop of the same library calls.

    python -m benchmarks.align --clips 600
    python -m benchmarks.align --memory

Prints one JSON line. Both read every frame of a clip, find 68 landmarks on its onset frame, crop all frames to 224 px
and write them. mer: what the stages `landmarks` and `align` compute, as two resumable products, on `--workers`
processes. Peer: one process, dlib + OpenCV + np.save, one file a clip, everything at its defaults. Both write the same
pixels (checked).
The clips are the synthetic corpus's at CASME II's frame size, listed again under other ids when more are asked for than
are rendered.
`--memory` compares the peak memory at 100 and at 2,000 clips, of 4 frames each.
"""

import argparse
import dataclasses
import functools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._report import add_options, report
from mer.clips import Clip
from mer.errors import MerError
from mer.faces import crop_size, crop_transform
from mer.parallel import Engine
from mer.storage.build import build_product
from mer.storage.cache import ClipCache
from stages import align, landmarks

CROP = "box224"
RENDERED = 60  # clips made; more are listed by reference
SIZE = (640, 480)  # px; the frames of CASME II, SMIC-HS and SAMM (960 x 650) are of that order
CLIPS = 250  # as many as CASME II has


# ---- mer ------------------------------------------------------------------------------------------------------


def run_mer(clips: list[Clip], folder: Path, workers: int) -> Path:
    """Two products, as the stages `landmarks` and `align` make them; returns the crops'."""
    common = {"params": {"crop": CROP}, "code": "benchmark", "engine": Engine(workers=workers)}
    build_product(
        folder / "landmarks.h5", clips, functools.partial(landmarks.compute, backend="dlib"), landmarks.fingerprint,
        kind="landmarks", ragged=False, spool=folder / "s1", **common,
    )  # fmt: skip
    found = ClipCache(folder / "landmarks.h5")
    build_product(
        folder / "frames.h5", clips, functools.partial(align.compute, landmarks=found, crop=CROP),
        functools.partial(align.fingerprint, landmarks=found), kind="frames", ragged=True, spool=folder / "s2",
        **common,
    )  # fmt: skip
    return folder / "frames.h5"


# ---- peer -----------------------------------------------------------------------------------------------------


def run_plain(clips: list[Clip], folder: Path) -> Path:
    """What a script does: one process, the libraries' own defaults; returns the folder of crops."""
    import importlib.util

    import cv2
    import dlib

    detector = dlib.get_frontal_face_detector()
    package = Path(importlib.util.find_spec("face_recognition_models").origin).parent
    predictor = dlib.shape_predictor(str(package / "models" / "shape_predictor_68_face_landmarks.dat"))
    for number, clip in enumerate(clips):
        frames = np.stack([cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in clip.paths()])
        parts = predictor(frames[0], detector(frames[0])[0]).parts()
        transform = crop_transform(np.array([(p.x, p.y) for p in parts], dtype=np.float32), CROP)
        sigma = 0.5 * np.sqrt(max(0.0, 1 / transform[0, 0] ** 2 - 1))
        size = crop_size(CROP)
        out = []
        for frame in frames:
            smooth = cv2.GaussianBlur(frame, (0, 0), sigma) if sigma > 0.2 else frame
            out.append(
                cv2.warpAffine(smooth, transform, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            )
        np.save(folder / f"{number:05d}.npy", np.stack(out))
    return folder


# ---- clips ----------------------------------------------------------------------------------------------------


def make_clips(folder: Path, count: int, frames: int | None = None, size: tuple[int, int] = SIZE) -> list[Clip]:
    """`count` clips of the synthetic corpus, rendered once in `folder`; with `frames`, only so many frames of each."""
    from mer.corpora import casme2
    from mer.synthetic import corpus as synthetic

    if not (folder / "corpus").exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            synthetic.synthesize(Path(scratch), clips=RENDERED, pool_subjects=0, engine=Engine(workers=0))
            for path in (Path(scratch) / "corpus").rglob("*.jpg"):
                _enlarge(path, size)
            folder.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / "corpus").rename(folder / "corpus")
    table = casme2.read_corpus(folder / "corpus", "synthetic")
    # The digest of a frame's bytes is the index's work, not ours; a name is as good here.
    table["digest"] = [f"{row.id}" for row in table.itertuples()]
    names = [f.name for f in dataclasses.fields(Clip)]
    rendered = [Clip(**{n: row[n] for n in names}) for row in table.to_dict("records")]
    if frames:
        rendered = [dataclasses.replace(c, offset=c.onset + frames - 1) for c in rendered]
    return [
        dataclasses.replace(rendered[k % len(rendered)], id=f"{rendered[k % len(rendered)].id}-{k}")
        for k in range(count)
    ]


def _enlarge(path: Path, size: tuple[int, int]) -> None:
    """The square frame as high as `size` (width, height), its border repeated to both sides."""
    import cv2

    image = cv2.resize(cv2.imread(str(path)), (size[1], size[1]), interpolation=cv2.INTER_CUBIC)
    left = (size[0] - size[1]) // 2
    image = cv2.copyMakeBorder(image, 0, 0, left, size[0] - size[1] - left, cv2.BORDER_REPLICATE)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


# ---- measuring ------------------------------------------------------------------------------------------------


def speed(folder: Path, count: int, repeats: int, workers: int, size: tuple[int, int]) -> dict:
    clips = make_clips(folder / "x".join(map(str, size)), count, size=size)
    n_frames = sum(c.n_frames for c in clips)
    seconds: dict[str, list[float]] = {"mer": [], "plain": []}
    for _ in range(repeats):
        for name, work in (("plain", run_plain), ("mer", functools.partial(run_mer, workers=workers))):
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                start = time.perf_counter()
                made = work(clips, Path(scratch))
                seconds[name].append(time.perf_counter() - start)
                if name == "plain":
                    expected = np.load(made / "00000.npy")
                elif not np.array_equal(ClipCache(made)[clips[0].id], expected):
                    raise MerError("mer and the plain loop do not make the same pixels; the comparison is void")
    mer, plain = statistics.median(seconds["mer"]), statistics.median(seconds["plain"])
    return {
        "clips": count,
        "frames": n_frames,
        "frame_size": size,
        "workers": workers,
        "repeats": repeats,
        "mer_clips_per_s": round(count / mer, 2),
        "mer_frames_per_s": round(n_frames / mer, 1),
        "plain_clips_per_s": round(count / plain, 2),
        "plain_frames_per_s": round(n_frames / plain, 1),
        "ratio": round(plain / mer, 2),
        "seconds": {name: [round(s, 2) for s in values] for name, values in seconds.items()},
    }


def memory(folder: Path, workers: int, counts=(100, 2000)) -> dict:
    """Peak resident memory in MB, each count in a process of its own: of the process, and of its largest worker."""
    result = {}
    make_clips(folder / "memory", 1)
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.align", "--peak", str(count), "--workers", str(workers)]
        done = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise MerError(f"the run of {count} clips failed: {done.stderr.strip()[-300:]}")
        result[str(count)] = json.loads(done.stdout)
    few, many = (result[str(count)] for count in counts)
    result["growth"] = {name: round(many[name] / few[name], 2) for name in few if name.endswith("_mb")}
    return {"workers": workers, "peak": result}


def peak(folder: Path, count: int, workers: int) -> dict:
    clips = make_clips(folder / "memory", count, frames=4)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run_mer(clips, Path(scratch), workers)
    mb = {who: resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)}
    return {
        "main_mb": round(mb[resource.RUSAGE_SELF], 1),
        "worker_mb": round(mb[resource.RUSAGE_CHILDREN], 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", default="x".join(map(str, SIZE)), help="of the frames: WIDTHxHEIGHT in px")
    parser.add_argument("--folder", type=Path, help="keep the rendered clips here; default: a temporary folder")
    parser.add_argument("--memory", action="store_true", help="peak memory at 100 and 2,000 clips instead of speed")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    add_options(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mer-align-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if args.peak:
                result = peak(folder, args.peak, args.workers)
            elif args.memory:
                result = memory(folder, args.workers)
            else:
                size = tuple(int(v) for v in args.size.split("x"))
                result = speed(folder, args.clips, args.repeats, args.workers, size)
        except MerError as error:
            sys.exit(f"align: {error}")
    if args.peak:
        print(json.dumps(result))
    else:
        name = "align_memory" if args.memory else f"align_{args.size}"
        report(name, result, ("dlib-bin", "h5py", "joblib", "numpy", "opencv-python"), args.save)


if __name__ == "__main__":
    main()
