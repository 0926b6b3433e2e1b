"""Line 2: TV-L1, pairs a second at 224 x 224 px in batches, and its error against known motion.

Pairs are textures under smooth motion of 1.5 px at most with noise of 0, 1 and 2 grey levels. `resident`: images and
flow stay on the device; `moved`: uint8 from NumPy, float32 back to NumPy. The error is the mean endpoint error in px
without a border of 16 px; that of the CPU is tvl1's on CPU tensors, of the same pairs.
"""

import functools
import inspect
import time
import types

import torch

from benchmarks.gpu import _data
from benchmarks.gpu._run import Line, Session, peak_memory, rounded, synchronize, timed
from mer.motion import tvl1_torch
from mer.motion.tvl1 import solve, tvl1

NUMBER, TITLE = 2, "TV-L1"
GOAL = 2000  # pairs/s
TOLERANCE = 1e-3  # px
BATCHES, TINY = (1, 8, 32, 64, 128, 256, 512), (1, 2)


def pairs(session: Session, count: int):
    """Up to 16 different ones, repeated."""
    prev, following, truth = _data.known_pairs(min(count, session.pick(16, 2)), session.pick(224, 40))
    again = [k % len(prev) for k in range(count)]
    return prev[again], following[again], truth[again]


def error(session: Session) -> dict:
    prev, following, truth = pairs(session, session.pick(16, 2))
    found = {}
    for name, device in (("device", session.device), ("cpu", "cpu")):
        flow = tvl1(torch.from_numpy(prev).to(device), torch.from_numpy(following).to(device)).cpu().numpy()
        apart = ((flow - truth) ** 2).sum(1) ** 0.5
        found[name] = float(apart[:, _data.BORDER : -_data.BORDER, _data.BORDER : -_data.BORDER].mean())
    difference = abs(found["device"] - found["cpu"])
    return {
        "error_px": {name: rounded(value, 5) for name, value in found.items()},
        "difference_px": rounded(difference, 3),
        "tolerance_px": TOLERANCE,
        "passed": difference <= TOLERANCE,
    }


def speed(session: Session, count: int) -> dict:
    prev, following, _ = pairs(session, count)
    a, b = (torch.from_numpy(x).to(session.device) for x in (prev, following))

    def moved():
        return tvl1(*(torch.from_numpy(x).to(session.device) for x in (prev, following))).cpu().numpy()

    result = {"batch": count}
    try:
        with peak_memory(session.device, result):
            result["pairs_per_s"] = {
                "resident": rounded(count / timed(session, lambda: tvl1(a, b))),
                "moved": rounded(count / timed(session, moved)),
            }
    except torch.cuda.OutOfMemoryError:
        return result | {"not_possible": "does not fit into the memory"}
    return result


def shares(session: Session, count: int) -> dict:
    """Where the time goes: milliseconds a pair of each operation, with a wait after each, and how often it runs."""
    prev, following, _ = pairs(session, count)
    a, b = (torch.from_numpy(x).to(session.device).float() for x in (prev, following))
    spent: dict[str, list[float]] = {}

    def watched(name: str, operation):
        @functools.wraps(operation)
        def run(*arguments):
            synchronize(session.device)
            start = time.perf_counter()
            out = operation(*arguments)
            synchronize(session.device)
            spent.setdefault(name, []).append(time.perf_counter() - start)
            return out

        return run

    names = ("smooth", "halve", "double", "gradient", "warp", "match", "trust", "iterate", "median", "equal",
             "zeros_like", "dual_like")  # fmt: skip
    ops = types.SimpleNamespace(**{name: watched(name, getattr(tvl1_torch, name)) for name in names})
    parameters = inspect.signature(tvl1).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    with torch.no_grad():
        for _ in range(2):  # the first warms up
            spent.clear()
            solve(a, b, ops, **defaults)
    return {
        name: {"ms_a_pair": rounded(1e3 * sum(took) / count), "calls": len(took)}
        for name, took in sorted(spent.items(), key=lambda item: -sum(item[1]))
    }


def measure(line: Line) -> dict:
    session = line.session
    agreed = line.part("error", functools.partial(error, session))
    found = [
        line.part(f"batches of {count}", functools.partial(speed, session, count), needs=session.pick(20, 1))
        for count in session.pick(BATCHES, TINY)
    ]
    found = [f for f in found if f is not None and "pairs_per_s" in f]
    count = session.pick(128, 2)
    line.part("where the time goes", functools.partial(shares, session, count), needs=session.pick(20, 1))
    best = max((f["pairs_per_s"]["resident"] for f in found), default=None)
    summary = {"pairs_per_s": best, "goal": GOAL, "reached": best is not None and best >= GOAL}
    if agreed is not None:
        summary |= {"error_px": agreed["error_px"], "passed": agreed["passed"]}
    return summary
