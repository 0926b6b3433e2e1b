"""Measures the lines of docs/gpu.md on a GPU, as many parts as fit into the given minutes.

    python -m benchmarks.gpu                                 # all lines, 9 minutes; the same again goes on from there
    python -m benchmarks.gpu --line 3 --flow data/raw/megc2019_flow --out results
    python -m benchmarks.gpu --device cpu --tiny --out /tmp/tiny      # tries the code out in seconds, measures nothing

Writes <out>/line_N.json; a finished part is not measured again. Ends with 1 where a part or a check failed.
"""

import argparse
import sys
import time
from pathlib import Path

from benchmarks.gpu import STARTED  # isort: skip  (the clock starts before torch is imported)

import torch

from benchmarks.gpu import agreement, dcma, eulerian, flow, folds, magnet, micronbert, msmmt, tables, uamrn
from benchmarks.gpu._run import Line, Session
from mer.errors import MerError

# In this order: lines 4 and 8 train for as long as there is time.
LINES = {
    module.NUMBER: module
    for module in (agreement, flow, folds, msmmt, uamrn, dcma, eulerian, tables, micronbert, magnet)
}
RESULTS = Path(__file__).parent.parent / "results/gpu"


def main(arguments: list[str] | None = None, started: float | None = None) -> int:
    """started: by time.monotonic, when the minutes began; None: now."""
    started = time.monotonic() if started is None else started
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog="python -m benchmarks.gpu")
    parser.add_argument("--line", type=int, nargs="+", help="numbers of docs/gpu.md; default: all")
    parser.add_argument("--minutes", type=float, default=9, help="stop before these are over; default 9")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes at which nothing is measured, to try the code out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results, checkpoints, predictions")
    parser.add_argument("--flow", type=Path, help="lines 3 and 5: folder of the MEGC 2019 flow release; needs pandas")
    parser.add_argument("--weights", type=Path, help="line 8: the public weights of MagNet")
    parser.add_argument("--images", type=Path, help="line 8: folder of portraits to train on; default: textures alone")
    parser.add_argument("--steps", type=int, default=20_000, help="line 8: of the training")
    args = parser.parse_args(arguments)
    try:
        return measure(args, started)
    except MerError as error:
        sys.exit(f"gpu: {error}")


def measure(args: argparse.Namespace, started: float) -> int:
    numbers = args.line or list(LINES)
    for number in numbers:
        if number not in LINES:
            raise MerError(f"line {number} is not built; valid: {', '.join(map(str, sorted(LINES)))}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise MerError("torch finds no CUDA here; --device cpu --tiny tries the code out")
    if args.tiny and args.out == RESULTS:
        raise MerError("--tiny measures nothing that belongs into the results; give another --out")
    for option in ("flow", "weights", "images"):
        path = getattr(args, option)
        if path is not None and not path.exists():
            raise MerError(f"--{option} {path}: is not there")
    session = Session(
        out=args.out, device=torch.device(args.device), tiny=args.tiny, minutes=args.minutes,
        deadline=started + 60 * args.minutes, flow=args.flow, weights=args.weights, images=args.images,
        steps=2 if args.tiny else args.steps,
    )  # fmt: skip
    sound = True
    for number in (n for n in LINES if n in numbers):
        module = LINES[number]
        settings = module.settings(session) if hasattr(module, "settings") else {}
        line = Line(session, number, module.TITLE, settings)
        line.summary = module.measure(line)
        line.save()
        sound &= not line.failed and line.summary.get("passed", True)
        state = "finished" if not line.left and not line.failed else "not finished"
        print(f"line {number} {state}: {line.summary}", flush=True)
        for what, names in (("left", line.left), ("failed", line.failed)):
            for name, reason in names.items():
                print(f"  {what}: {name}: {reason}", flush=True)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main(started=STARTED))
