"""Every file of the project: digests, replacing one in one step, and what is said of one that cannot be read."""

import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

from mer.errors import MerError, explained

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


def unreadable(path: str | Path, error: OSError) -> MerError:
    """For a file that the system does not hand out. It may be sound: its remedy is never to delete it."""
    if error.filename is None:
        error.filename = os.fspath(path)
    return MerError(explained(error) or f"{path}: cannot be read ({error.strerror}); check the path and the disk")


def damaged(path: str | Path, what: str) -> MerError:
    """For a file of this project whose content is not what was written.

    Outputs are links into DVC's cache, so the copy there is damaged, too, and `dvc repro` alone would bring it back.
    """
    return MerError(f"{path}: is damaged: {what}; run {REPAIR} {shlex.quote(str(path))}, then dvc repro")
