"""Writes data/raw/<corpus>.manifest.csv: path, size and mtime of every file of a raw corpus.

    python -m tools.manifest casme2            (make manifest C=casme2)

DVC would hash every byte of a folder that a stage depends on; it hashes this one small file instead, and a file that
was added, removed, replaced or touched still shows. Run it again after every change to the corpus.

- `path` is below the corpus folder, with `/`, in the order of its characters; `size` in bytes.
- `mtime` is in whole seconds: archives, FAT disks and many copying tools keep no more, so a corpus that was copied with
  its times intact has the same manifest.
- Left out: hidden files and folders (.DS_Store, ._img1.jpg), Thumbs.db, __MACOSX.
- The corpus folder may be a link to another disk. A link below it must stay inside it. A folder is listed through
  MOST_LINKS links at most: folders that link to each other have more paths than can be walked.

Rows are written while the folders are walked: held are the names of one folder at a time (and of those above it).
"""

import argparse
import csv
import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mer.errors import MerError, suggestion
from tools._errors import one_line

COLUMNS = ("path", "size", "mtime")
RAW = Path("data/raw")
MOST_LINKS = 16
_NANOSECONDS = 10**9  # a second's


class File(NamedTuple):
    path: str
    size: int
    mtime: int


def files(root: Path) -> Iterator[File]:
    """The files below a folder, by path, one at a time.

    Raises:
        MerError: a link that leaves `root`, leads nowhere or in a circle; a folder that more than MOST_LINKS links lead
            to; what is neither file nor folder.
    """
    root = Path(root)
    yield from _walk(root, "", root.resolve(), (root.resolve(),), Counter())


def _walk(folder: Path, prefix: str, root: Path, above: tuple[Path, ...], linked: Counter[Path]) -> Iterator[File]:
    """Walk a folder.

    Args:
        folder, prefix: as it is reached, and its part of the paths.
        root: the corpus's real path.
        above: real paths of the folders that lead here; a link to one of them would be followed for ever.
        linked: how often each folder was reached by a link so far, of the whole walk.
    """
    for name in _names(folder):
        path = folder / name.rstrip("/")
        if path.is_symlink():
            _check_link(path, root)
        if name.endswith("/"):
            real = path.resolve()
            if real in above:
                raise MerError(f"{path}: is a link to a folder it lies in; remove it")
            if path.is_symlink():
                linked[real] += 1
                if linked[real] > MOST_LINKS:
                    raise MerError(f"{path}: is one of more than {MOST_LINKS} ways by links to {real}; remove the "
                                   "links between the corpus's own folders")  # fmt: skip
            yield from _walk(path, f"{prefix}{name}", root, (*above, real), linked)
            continue
        try:
            found = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from None
        if not stat.S_ISREG(found.st_mode):
            raise MerError(f"{path}: is neither a file nor a folder; remove it from the corpus")
        yield File(f"{prefix}{name}", found.st_size, found.st_mtime_ns // _NANOSECONDS)


def _names(folder: Path) -> list[str]:
    """What lies in a folder, folders with a `/` at the end: so sorting here puts whole paths in order."""
    try:
        with os.scandir(folder) as found:
            return sorted(f"{e.name}/" if _is_folder(e) else e.name for e in found if not _hidden(e.name))
    except OSError as error:
        raise _unreadable(folder, error) from None


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle; `_check_link` says so, by their path
        return False


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in ("thumbs.db", "__macosx")


def _check_link(path: Path, root: Path) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # a circle is the one or the other, by Python's version
        raise MerError(f"{path}: is a link that leads nowhere; remove it, or unpack the corpus again") from None
    if not target.is_relative_to(root):
        raise MerError(f"{path}: is a link out of the raw folder, to {target}; put the files themselves there")


def _unreadable(path: Path, error: OSError) -> MerError:
    links = error.errno == errno.ELOOP
    remedy = "remove the links" if links else "correct its permissions or unpack the corpus again"
    return MerError(f"{path}: cannot be read ({error.strerror}); {remedy}")


def write(corpus: str, raw: Path = RAW) -> tuple[Path, int, int]:
    """Write the manifest of `raw/<corpus>` in one step.

    Returns:
        its path, the number of files, their bytes.

    Raises:
        MerError: no such folder (with the nearest name), no file in it, or what `files` refuses.
    """
    raw = Path(raw)
    if not re.fullmatch(r"\w[\w.+-]*", corpus):
        raise MerError(f"corpus is {corpus!r}: name one folder below {raw}, as in: make manifest C=casme2")
    root = raw / corpus
    if not root.is_dir():
        there = [p.name for p in raw.iterdir() if p.is_dir() and not _hidden(p.name)] if raw.is_dir() else []
        remedy = suggestion(corpus, there) if there else f"unpack the corpus there, {raw} holds none"
        raise MerError(f"{root}: there is no such folder; {remedy}")
    target = raw / f"{corpus}.manifest.csv"
    part = target.with_name(f"{target.name}.tmp")
    count = size = 0
    try:
        # surrogateescape: a name that is no UTF-8 keeps its bytes
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            lines = csv.writer(out, lineterminator="\n")
            lines.writerow(COLUMNS)
            for file in files(root):
                lines.writerow(file)
                count += 1
                size += file.size
        if not count:
            raise MerError(f"{root}: holds no file; unpack the corpus there")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target, count, size


def human(size: int) -> str:
    """Bytes as people read them: 1023 B, 1.5 GB (decimal, as disks are sold)."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:  # above, one decimal would print 1000.0
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="manifest", description="List a raw corpus for DVC.")
    parser.add_argument("corpus", help="folder below data/raw, e.g. casme2")
    parser.add_argument("--raw", type=Path, default=RAW, help="where the corpora lie (default: data/raw)")
    given = parser.parse_args(arguments)
    with one_line("manifest"):
        path, count, size = write(given.corpus, given.raw)
        print(f"{path}: {count} files, {human(size)}")


if __name__ == "__main__":
    main()
