"""Removes the lock that a killed DVC has left damaged, when no DVC runs here.

    python -m tools.mend

DVC writes .dvc/tmp/rwlock in place: killed at that moment it leaves a part of it, and every later run ends with
"Unable to read RWLock-file". `make repro` calls this first.
"""

import json
from pathlib import Path

import psutil

from mer.errors import MerError
from tools._errors import one_line

LOCK = Path(".dvc/tmp/rwlock")


def mend(root: Path = Path()) -> bool:
    """Whether a damaged lock was removed. Raises MerError while a DVC runs in this project: the lock may be its own."""
    lock = root / LOCK
    if not lock.is_file():
        return False
    try:
        json.loads(lock.read_text(encoding="utf-8"))
        return False
    except ValueError:  # JSON and decoding errors
        pass
    running = dvc_processes(root)
    if running:
        raise MerError(f"{lock}: is damaged, and DVC runs here (process {running[0]}); wait for it, or end it")
    lock.unlink()
    return True


def dvc_processes(root: Path) -> list[int]:
    """Numbers of the processes of DVC that work in this project."""
    found = []
    for process in psutil.process_iter():
        try:
            is_dvc = any(Path(part).name == "dvc" for part in process.cmdline()[:3])
            if is_dvc and Path(process.cwd()).is_relative_to(root.resolve()):
                found.append(process.pid)
        except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
            continue
    return found


def main() -> None:
    with one_line("mend"):
        if mend():
            print(f"{LOCK} was damaged by a killed DVC and is removed; nothing of the work is lost")


if __name__ == "__main__":
    main()
