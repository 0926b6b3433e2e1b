"""What killed runs have left to go on from, and its limit: the folders of data/.partial, one a stage."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mer.errors import MerError
from mer.storage.spool import Spool

FOLDER = Path("data/.partial")
LOCKS = "locks"  # in it, one a stage: held while the stage runs


@dataclass(frozen=True)
class Unfinished:
    """The work of one stage. size: bytes that removing it would free; changed: seconds since 1970."""

    stage: str
    size: int
    changed: float


def lock_of(stage: str, folder: Path = FOLDER) -> Spool:
    """Held while a stage runs; entering it waits a little, then raises MerError naming the process that holds it."""
    return Spool(folder / LOCKS / stage)


def unfinished(folder: Path = FOLDER) -> list[Unfinished]:
    """The work of every stage that has some, least recently changed first."""
    found = []
    for place in folder.iterdir() if folder.is_dir() else ():
        if place.name != LOCKS and place.is_dir():
            files = list(_files(place))
            # A finished product is linked there to reuse its clips: with other links, removing it frees nothing.
            size = sum(stat.st_size for stat in files if stat.st_nlink == 1)
            found.append(Unfinished(place.name, size, max((stat.st_mtime for stat in files), default=0.0)))
    return sorted(found, key=lambda one: (one.changed, one.stage))


def _files(place: Path) -> Iterator[os.stat_result]:
    for path in place.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                yield path.stat()
        except FileNotFoundError:  # its stage runs and has moved it
            continue


def remove(stage: str, folder: Path = FOLDER) -> bool:
    """Remove the unfinished work of a stage, unless it runs; whether it is gone."""
    try:
        with Spool(folder / LOCKS / stage, patience=0):
            shutil.rmtree(folder / stage)
    except MerError:  # it runs
        return False
    return True


def keep_within(limit: int, own: str, folder: Path = FOLDER) -> list[Unfinished]:
    """Remove unfinished work, least recently changed first, until that of all stages but `own` has `limit` bytes.

    What runs now is kept, whatever its size.

    Returns:
        What was removed.
    """
    others = [one for one in unfinished(folder) if one.stage != own]
    size, removed = sum(one.size for one in others), []
    for one in others:
        if size <= limit:
            break
        if one.size and remove(one.stage, folder):
            size -= one.size
            removed.append(one)
    return removed
