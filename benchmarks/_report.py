"""What every benchmark's result carries: where, when and with which versions it was measured."""

import argparse
import datetime
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--save", action="store_true", help="also keep the result under benchmarks/results/")


def report(name: str, result: dict, packages: tuple[str, ...], save: bool = False) -> None:
    """Print the result as one JSON line; with `save`, keep it as benchmarks/results/<name>.json."""
    result = result | {"where": _where(packages)}
    print(json.dumps(result))
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")


def _where(packages: tuple[str, ...]) -> dict:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": [round(v, 2) for v in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def _commit() -> str:
    """The commit measured, with a + where the tree held more than it."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True, text=True, check=True, cwd=RESULTS.parent,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def resident(field: str) -> float:
    """MB of this process: VmRSS, now, or VmHWM, at most; getrusage's peak begins with the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
