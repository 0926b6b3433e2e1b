"""From a video to an answer: seconds a clip, and the share of each step.

    make repro                            # makes the recognisers
    python -m benchmarks.recognise --save

Prints one JSON line. A clip of the synthetic corpus is written as a video (motion JPEG) and recognised `--repeats`
times by each recogniser below data/recognisers, in this process, on all cores, after one run that loads everything. The
apex is not given, so each frame's flow from the onset is computed to spot it. `given` is the same with the apex given.
Medians.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from benchmarks._report import add_options, report
from mer.clips import clips, read_index
from mer.recognise import sources
from mer.recognise.recogniser import Recogniser
from stages.recognise import write_video

RECOGNISERS = Path("data/recognisers")
CLIPS = 5  # of different lengths


def measured(video: Path, folder: Path, repeats: int, apex: float | None) -> dict:
    steps: dict[str, list[float]] = defaultdict(list)
    clock = [0.0]

    def note(stage: str) -> None:
        now = time.perf_counter()
        steps[stage].append(now - clock[0])
        clock[0] = now

    one = Recogniser(folder, after_stage=note)
    total = []
    for number in range(repeats + 1):
        if number == 1:
            steps.clear()
        with tempfile.TemporaryDirectory() as scratch:
            start = clock[0] = time.perf_counter()
            source = sources.opened(video, Path(scratch) / "frames", apex=apex)
            note("decode")
            one.recognise(source)
            note("model")
            if number:
                total.append(time.perf_counter() - start)
    each = {step: sum(times) / repeats for step, times in steps.items()}
    return {"seconds": round(statistics.median(total), 3),
            "share": {step: round(t / sum(each.values()), 3) for step, t in each.items()}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--index", default="data/index/synthetic.csv")
    parser.add_argument("--repeats", type=int, default=5)
    add_options(parser)
    found = parser.parse_args()
    rows = [row for row in clips(read_index(found.index)) if row.apex_source == "annotated"]
    rows = sorted(rows, key=lambda row: len(row.numbers))[:: max(1, len(rows) // CLIPS)][:CLIPS]
    result: dict = {"clips": [len(row.numbers) for row in rows], "recognisers": {}}
    with tempfile.TemporaryDirectory() as scratch:
        videos = []
        for n, row in enumerate(rows):
            frames = np.stack([cv2.imread(row.frame.format(number))[..., ::-1] for number in row.numbers])
            videos.append(Path(scratch) / f"{n}.avi")
            write_video(videos[-1], frames, row.fps)
        for folder in sorted(RECOGNISERS.iterdir()):
            spotted = [measured(video, folder, found.repeats, None) for video in videos]
            given = [
                measured(video, folder, found.repeats, (row.apex - row.onset) / row.fps)
                for video, row in zip(videos, rows, strict=True)
            ]
            result["recognisers"][folder.name] = {
                "spotted_s": statistics.median(one["seconds"] for one in spotted),
                "spotted_longest_s": max(one["seconds"] for one in spotted),
                "given_s": statistics.median(one["seconds"] for one in given),
                "share": spotted[-1]["share"],
            }
    report("recognise", result, ("torch", "numba", "opencv-python", "dlib-bin"), save=found.save)


if __name__ == "__main__":
    main()
