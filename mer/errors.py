"""The one exception a user is meant to read."""

import difflib
import errno
import os
import reprlib
import shutil
import tempfile
from collections.abc import Iterable


class MerError(Exception):
    """Bad input. The message is one line: what is wrong, with which file, clip or parameter, and what to do.

    It quotes names of files and cells that others wrote, so it is made fit for a terminal: see `one_line`.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


class FileError(MerError):
    """A file of this project that is damaged or does not fit, or any file that the system does not hand out.

    It is no fault of a clip: no clip is left out for it, whatever `on_error` says.
    """


LONGEST = 10_000  # characters of a message; a name inside of a file may have millions


def one_line(text: str) -> str:
    """Text as one line in which no character steers a terminal, hides or turns the others: these as escapes (`\\x1b`).

    Of more than LONGEST characters the middle is left out, for the remedy stands at the end.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} […] {text[-LONGEST // 2 :]}"
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def listed(names: Iterable[object], most: int = 5) -> str:
    """`a, b, c and 4 more` - for messages about many clips or files."""
    texts = [str(n) for n in names]
    shown = ", ".join(texts[:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most} more"


_REPR = reprlib.Repr()  # looks at a few of many entries, however large the value is
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 3


def short(value: object) -> str:
    """Its repr, 100 characters at most, for a message about a value that may be of any size."""
    text = _REPR.repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def suggestion(name: object, valid: Iterable[object]) -> str:
    """`; did you mean 'x'?` for a misspelt name, otherwise the valid names."""
    names = [str(v) for v in valid]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"valid names: {', '.join(sorted(names))}" if names else "nothing may stand here"


# What to do about an error of the operating system. "Delete it" is no remedy for any of them: the file may be sound.
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota, or ask for more",
    errno.EACCES: "give yourself the right to it (chmod, chown)",
    errno.EPERM: "give yourself the right to it (chmod, chown, chattr)",
    errno.EROFS: "the disk is mounted read-only: mount it for writing, or move the project",
    errno.EIO: "the disk or the network behind it fails: check it (dmesg), then run again",
    errno.ESTALE: "the network disk is gone: mount it again",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower runtime.workers",
    errno.ENFILE: "the system has too many open files: close other programs",
    errno.ENAMETOOLONG: "shorten the name, or move the project to a shorter path",
    errno.ENOMEM: "free some memory, or lower runtime.workers",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away",
    errno.EISDIR: "a folder stands where a file is needed: move it away",
    errno.EXDEV: "two places that must lie on one disk do not: see docs/conventions.md",
    errno.ELOOP: "links point at each other: remove one",
    errno.ETXTBSY: "the file is in use: wait for it",
    errno.EBUSY: "the file is in use: wait for it",
}


def explained(error: BaseException) -> str | None:
    """An error of the operating system, or short memory, as one line with what is short or the path, and a remedy.

    None for an error that is none of the system's.
    """
    if isinstance(error, OSError):
        return _of_the_system(error)
    text = one_line(str(error))
    if "CUDA out of memory" in text:
        return "the GPU's memory is short; lower a batch_size or train.folds_in_parallel, or set runtime.device: cpu"
    # torch and OpenCV have errors of their own for it.
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "Insufficient memory" in text:
        reason = f" ({text[:200]})" if text else ""
        return f"memory is short{reason}; free some, or lower runtime.workers, train.folds_in_parallel or a batch_size"
    return None


def _of_the_system(error: OSError) -> str | None:
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    path = next((os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None), None)
    if path is None:
        path = _fullest() if error.errno == errno.ENOSPC else "a file"
    return one_line(f"{path}: {os.strerror(error.errno or 0).lower()}; {remedy}")


def _fullest() -> str:
    """The folder with the least free space among those that are written to; a write names no file."""
    places = ("data/.partial", "data/cache", "data/predictions", "data/raw", ".dvc", ".", tempfile.gettempdir())
    folders = [folder for folder in places if os.path.isdir(folder)]
    return min(folders, key=lambda folder: shutil.disk_usage(folder).free)
