"""Processes of a project, and waiting for what they do."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def living(folder: Path) -> list[psutil.Process]:
    """Every process that works in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile, or somebody else's
    return found


def wait(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Until the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)
