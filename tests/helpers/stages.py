"""A stage run as DVC runs it, as a process of its own, and what its refusal must look like."""

import json
import os
import subprocess
import sys
from pathlib import Path


def stage(folder: Path, name: str, *args: str) -> tuple[int, list[str]]:
    """Run `python -m stages.<name> <args>` in a project; exit code and the lines on stderr, without progress bars."""
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *args], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]
    return done.returncode, lines


def refused(result: tuple[int, list[str]], *parts: str) -> None:
    """Exit code 2 and one line that has all parts."""
    code, lines = result
    assert code == 2, lines
    assert len(lines) == 1, lines
    for part in parts:
        assert part in lines[0], lines[0]


def finished(folder: Path, stage: str) -> int:
    """Clips or folds that a run of the stage has finished: as blocks of their own, or already in the product's part."""
    spool = folder / "data/.partial" / stage
    lines = [line for path in spool.glob("*.rows") for line in path.read_bytes().splitlines(keepends=True)]
    return len(
        {path.stem for path in spool.glob("*.block")} | {json.loads(x)["key"] for x in lines if x.endswith(b"\n")}
    )
