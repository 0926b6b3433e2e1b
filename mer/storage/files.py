"""Files of the project: digests, replacing a file or folder in one step, and what is said of an unreadable one."""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mer.errors import FileError, explained

REPAIR = "python -m tools.repair"  # removes an output and its copy in DVC's cache


def digest(*parts: Any) -> str:
    """SHA-256 of JSON-able parts, the same on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def replace_file(path: str | Path, data: bytes) -> None:
    """Put `data` at `path` by a rename: the old file may be a hard link into DVC's cache, which must stay as it is."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")
    part.write_bytes(data)
    part.replace(path)


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, so on its disk, which takes its place at the end of the `with`.

    An earlier folder stays until then; after an exception it stays for good, and the new one is removed. Killed between
    the two renames, it lies beside its place as `.<name>.old`, and the new one as `.<name>.new`.
    """
    fresh, old = (folder.with_name(f".{folder.name}.{name}") for name in ("new", "old"))
    _remove(fresh)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:
        _remove(fresh)
        raise
    if folder.exists():
        _remove(old)  # left by a killed run; with a folder in place nobody needs it
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    _remove(old)


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def unreadable(path: str | Path, error: OSError) -> FileError:
    """For a file that the system does not hand out. It may be sound: its remedy is never to delete it."""
    if error.filename is None:
        error.filename = os.fspath(path)
    return FileError(explained(error) or f"{path}: cannot be read ({error.strerror}); check the path and the disk")


def damaged(path: str | Path, what: str) -> FileError:
    """For a file of this project whose content is not what was written.

    Outputs are links into DVC's cache, so the copy there is damaged, too, and `dvc repro` alone would bring it back.
    """
    return FileError(f"{path}: is damaged: {what}; run {REPAIR} {shlex.quote(str(path))}, then dvc repro")
