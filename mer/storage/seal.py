"""The seal of a product: what guards all of its bytes but the data, and is compared before HDF5 sees the file."""

import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from mer.errors import FileError
from mer.storage.files import REPAIR, damaged, unreadable

SCHEMA = 2
SEALED = 512  # bytes of the user block, which HDF5 leaves alone


@dataclass(frozen=True)
class Seal:
    """The first line of a product. start, end: where its data stand, in bytes; size: of the file; sha256: of this line
    without it, of what stands between this block and the data, and of what stands behind the data.
    """

    start: int
    end: int
    size: int
    sha256: str = ""

    def signed(self, parts: Iterable[bytes]) -> "Seal":
        """With the digest of all that stands around the data."""
        digest = hashlib.sha256(json.dumps(self._form()).encode())
        for part in parts:
            digest.update(part)
        return replace(self, sha256=digest.hexdigest())

    def block(self) -> bytes:
        """The user block."""
        return (json.dumps({**self._form(), "sha256": self.sha256}) + "\n").encode().ljust(SEALED, b"\0")

    def _form(self) -> dict[str, Any]:
        return {"product": "mer", "schema": SCHEMA, "data": [self.start, self.end], "size": self.size}


def sealed(head: bytes, end: int, tail: bytes) -> bytes:
    """`head`, what stands in front of the data, with its seal; end: of the data, in bytes; tail: what follows them."""
    rest = head[SEALED:]
    return Seal(len(head), end, end + len(tail)).signed([rest, tail]).block() + rest


def read_seal(path: Path) -> Seal:
    """The seal of a product, after it was compared with the file. Takes no longer than reading all but the data.

    Raises FileError where the file cannot be read, is no product of this schema, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            size, block = os.fstat(file.fileno()).st_size, file.read(SEALED)
            if block.startswith(b"\x89HDF"):
                raise FileError(
                    f"{path}: is no product of schema {SCHEMA}, but of an older version of this project or of another "
                    f"program; run {REPAIR} {shlex.quote(str(path))}, then dvc repro"
                )
            seal = _parsed(block)
            if seal is None:
                raise damaged(path, "it does not begin as a product does" if size else "it is empty")
            if seal.size != size:
                raise damaged(path, f"it has {size} bytes, and {seal.size} were written")
            around = (_pieces(file, *place) for place in ((SEALED, seal.start), (seal.end, size)))
            found = seal.signed(itertools.chain.from_iterable(around))
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such product; run dvc repro") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if found != seal:
        raise damaged(path, "what describes its data has changed")
    return seal


def _parsed(block: bytes) -> Seal | None:
    """The seal that a block holds, if it holds one."""
    try:
        found = json.loads(block.partition(b"\n")[0])
        start, end = found["data"]
        seal = Seal(start, end, found["size"], found["sha256"])
    except (ValueError, TypeError, KeyError):
        return None
    numbers = (seal.start, seal.end, seal.size)
    fits = all(type(n) is int for n in numbers) and SEALED <= seal.start <= seal.end <= seal.size
    return seal if fits and seal.block() == block else None


def _pieces(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    for place in range(start, end, 1 << 20):
        yield file.read(min(1 << 20, end - place))
