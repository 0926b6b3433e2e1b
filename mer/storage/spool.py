"""Unfinished work: a locked folder outside the graph that holds whatever a killed run had finished.

    <key>.block      the arrays of one finished item, from a worker: a JSON line (key, types, shapes, sums), then bytes
    <n>.part         a product's data as they are appended, each clip already where it belongs in the finished file
    <n>.rows         its journal: one JSON line a clip with its key, its place in the part and its small values
    lock             held by the process that writes

A block goes as soon as its data stand in the part, so a product that grows is on disk once, and most blocks never
reach it.
Arrays and lines carry checksums: a killed process cannot tear a file that is renamed into place, a machine that stops
can. Whatever is damaged counts as absent: its item is computed again.
"""

import base64
import fcntl
import json
import mmap
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from mer.errors import MerError


class Spool:
    """The folder, locked while it is entered. `key in spool`, `get`, `put`; workers use a pickled copy.

    The lock ends with the process that holds it, however that ends. A second writer waits `patience` seconds and then
    raises MerError naming the first.
    """

    def __init__(self, folder: str | Path, patience: float = 5.0):
        self.folder = Path(folder)
        self.patience = patience
        self._rows: dict[str, tuple[Path, dict]] = {}  # what earlier runs have put into parts

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "a+", encoding="utf-8", errors="replace")  # held until __exit__
        deadline = time.monotonic() + self.patience
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._lock.seek(0)
                    owner = self._lock.read(100).strip() or "another process"
                    self._lock.close()
                    raise MerError(
                        f"{self.folder}: is being written by {owner}; wait for it, or stop it and run dvc repro"
                    ) from None
                time.sleep(0.2)
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(f"process {os.getpid()}")
        self._lock.flush()
        for half in self.folder.glob("*.tmp"):  # half-written blocks of a killed run
            half.unlink()
        self._adopt_parts()
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()

    def __getstate__(self) -> dict[str, Any]:  # workers read and write blocks, they do not hold the lock
        return {"folder": self.folder, "patience": self.patience, "_rows": self._rows}

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.block"

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Write a block so that it is there whole or not at all."""
        arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        half = self.folder / f"{key}.{os.getpid()}.tmp"
        try:
            with open(half, "wb") as file:
                forms = {name: _form(array) for name, array in arrays.items()}
                file.write(summed_line({"key": key, "arrays": forms}))
                for array in arrays.values():
                    file.write(array.data)
        except BaseException:
            half.unlink(missing_ok=True)  # a full disk needs the room
            raise
        half.replace(self.path(key))

    def get(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of an item that is there, unchecked."""
        return {name: array for name, (array, _) in self._read(key)}

    def __contains__(self, key: str) -> bool:
        """Whether the item is there and whole; a damaged one counts as absent."""
        try:
            return all(checksum(array) == expected for _, (array, expected) in self._read(key))
        except (FileNotFoundError, ValueError):
            return False

    def drop(self, key: str) -> None:
        """Remove the block; the item has found its place."""
        self.path(key).unlink(missing_ok=True)

    def clear(self, but: Iterable[str] = ()) -> None:
        """Remove all unfinished work, or all but the blocks of these keys."""
        kept = {self.path(key) for key in but}
        for pattern in ("*.block", "*.part", "*.rows"):
            for path in self.folder.glob(pattern):
                if path not in kept:
                    path.unlink()
        self._rows = {}

    def new_part(self) -> "Part":
        taken = [int(path.stem) for path in self.folder.glob("*.part") if path.stem.isdecimal()]
        return Part(self.folder / f"{max(taken, default=0) + 1}.part", journal=True)

    def _read(self, key: str) -> Iterator[tuple[str, tuple[np.ndarray, int]]]:
        """(name, (array, checksum)) of an item, from its block or from a part of an earlier run.

        Raises FileNotFoundError where there is neither, ValueError for a line or a size that does not fit.
        """
        try:
            with open(self.path(key), "rb") as file:
                head = content_of(file.readline(LONGEST_LINE))
                place = file.tell()
                # Mapped, not read: the data go straight from there into the part. All pages at once, where the system
                # can: one by one, they cost the one process that writes more than the writing.
                content = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | ALL_PAGES, prot=mmap.PROT_READ)
            if head["key"] != key:
                raise ValueError(f"{self.path(key)} holds another item")
            for name, (kind, shape, expected) in head["arrays"].items():
                array = _array(content, place, kind, shape)
                place += array.nbytes
                yield name, (array, expected)
            if place != len(content):
                raise ValueError(f"{self.path(key)} is longer than it says")
            return
        except FileNotFoundError:
            if key not in self._rows:
                raise
        path, row = self._rows[key]
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        kind, shape, expected = row["data"]
        yield "data", (_array(content, row["at"], kind, shape), expected)
        for name, (kind, shape, expected, text) in row["extras"].items():
            yield name, (_array(base64.b64decode(text), 0, kind, shape), expected)

    def _adopt_parts(self) -> None:
        """Take up what earlier runs left in parts; a part that adds nothing whole to the others goes."""
        journals = {path: _read_journal(path.with_suffix(".rows")) for path in self.folder.glob("*.part")}
        self._rows = {}
        for path, rows in sorted(journals.items(), key=lambda item: -len(item[1])):
            # What stands twice is looked into: the longer part may be the damaged one.
            fresh = {key: (path, row) for key, row in rows.items() if key not in self._rows or key not in self}
            if not fresh:
                path.unlink()
                path.with_suffix(".rows").unlink(missing_ok=True)
            self._rows |= fresh


class Part:
    """The data of a product while it is written: `begin`, `append` in order, then `finish`.

    With `journal`, a line about each clip is written after its data, and `abandon` keeps both for the next run.
    """

    def __init__(self, path: Path, journal: bool = False):
        self.path = path
        self.end = 0
        # Both open until `finish` or `abandon`.
        self._journal = open(path.with_suffix(".rows"), "wb") if journal else None  # noqa: SIM115
        self._file = open(path, "wb")  # noqa: SIM115

    def begin(self, start: int) -> None:
        """Leave `start` bytes free for what stands before the data."""
        self._file.seek(start)
        self.end = start

    def append(self, key: str, data: np.ndarray, extras: dict[str, np.ndarray]) -> None:
        data = np.asarray(data, order="C")
        self._file.write(data.data)
        if self._journal:
            self._file.flush()
            small = {}
            for name, array in extras.items():
                array = np.asarray(array, order="C")
                small[name] = [*_form(array), base64.b64encode(array.tobytes()).decode()]
            self._journal.write(summed_line({"key": key, "at": self.end, "data": _form(data), "extras": small}))
            self._journal.flush()
        self.end += data.nbytes

    def finish(self, head: bytes, tail: bytes) -> None:
        """Put what stands after the data and before them; the file is complete then."""
        self._file.write(tail)
        self._file.seek(0)
        self._file.write(head)
        self._close()

    def abandon(self) -> None:
        self._close()
        if not self._journal:
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        try:
            self._file.close()  # may find the disk full
        finally:
            if self._journal:
                self._journal.close()


def _form(array: np.ndarray) -> list:
    return [array.dtype.str, array.shape, checksum(array)]


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes: finds changed bits, pages that never reached a disk, pages that changed places."""
    return zlib.crc32(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)


ALL_PAGES = getattr(mmap, "MAP_POPULATE", 0)  # Linux alone has it
LONGEST_LINE = 1 << 20  # bytes; a head or a row has some hundred


def summed_line(content: dict[str, Any]) -> bytes:
    """One line of JSON; the last entry, `sum`, is the CRC-32 of the text before it."""
    text = json.dumps(content).encode()[:-1]
    return text + _ending(text)


def content_of(line: bytes) -> dict[str, Any]:
    """What `summed_line` was made of, and its sum. Raises ValueError where a byte is another, or the end is missing."""
    text = line[: -len(_ending(b""))]
    if line != text + _ending(text):
        raise ValueError("a line whose sum does not fit")
    return json.loads(line)


def _ending(text: bytes) -> bytes:
    return b', "sum": "%08x"}\n' % zlib.crc32(text)


def _array(content: bytes | mmap.mmap, place: int, kind: str, shape: list[int]) -> np.ndarray:
    """A read-only view of a buffer. Raises ValueError where the buffer ends too soon."""
    count = int(np.prod(shape))
    return np.frombuffer(content, np.dtype(kind), count, place).reshape(shape) if count else np.empty(shape, kind)


def _read_journal(path: Path) -> dict[str, dict]:
    """The rows of a journal by key. Lines that are damaged, as the last of a killed run may be, are left out."""
    rows = {}
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            row = content_of(line)
        except ValueError:
            continue
        rows[row["key"]] = row
    return rows
