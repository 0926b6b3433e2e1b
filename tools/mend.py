"""Removes the lock that a killed DVC has left damaged, when no DVC runs here, and says where dvc.lock is damaged.

    python -m tools.mend

DVC writes .dvc/tmp/rwlock and dvc.lock in place: killed at that moment it leaves a part of one of them, and every later
run ends with "Unable to read RWLock-file" or an error of YAML. The first holds nothing that lasts; the second stands in
git, and what it has of this run DVC finds again in its cache. `make repro` calls this first.
"""

import json
from pathlib import Path

from mer.errors import MerError
from tools._dvc import LOCK, dvc_processes, outputs
from tools._errors import one_line

RWLOCK = Path(".dvc/tmp/rwlock")


def mend(root: Path = Path()) -> bool:
    """Whether a damaged lock was removed. Raises MerError while a DVC runs in this project: the lock may be its own."""
    lock = root / RWLOCK
    if not lock.is_file():
        return False
    try:
        json.loads(lock.read_text(encoding="utf-8"))
        return False
    except ValueError:  # JSON and decoding errors
        pass
    _check_that_dvc_is_idle(lock, root)
    lock.unlink()
    return True


def check_lock_file(root: Path = Path()) -> None:
    """Raise MerError for a dvc.lock that is not whole, with what brings it back; nothing is removed.

    Without one DVC has recorded nothing yet.
    """
    lock = root / LOCK
    if not lock.exists():
        return
    try:
        outputs(lock)
    except MerError:
        _check_that_dvc_is_idle(lock, root)
        raise


def _check_that_dvc_is_idle(lock: Path, root: Path) -> None:
    """Raise MerError while a DVC runs in this project: it may be writing what looks damaged."""
    running = dvc_processes(root)
    if running:
        raise MerError(f"{lock}: is damaged, and DVC runs here (process {running[0]}); wait for it, or end it")


def main() -> None:
    with one_line("mend"):
        if mend():
            print(f"{RWLOCK} was damaged by a killed DVC and is removed; nothing of the work is lost")
        check_lock_file()


if __name__ == "__main__":
    main()
