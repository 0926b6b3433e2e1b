"""Removes a damaged output and its copy in DVC's cache, so that `dvc repro` makes it again.

    python -m tools.repair data/cache/casme2/box224/frames.h5

Outputs are links into the cache, so what damages one damages both. `dvc repro` and `dvc checkout` alone would bring the
damaged copy back.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from mer.errors import MerError
from tools._dvc import LOCK, check_md5, dvc_processes, outputs
from tools._errors import one_line


def repair(target: str | Path, root: Path = Path(), cache: Path | None = None) -> list[str]:
    """Remove an output of a stage, or the output that a file lies in, and its copies.

    Args:
        target: below `root`.
        cache: DVC's; None: the one that DVC is set to.

    Returns:
        The paths that were removed, the output first.

    Raises:
        MerError: it is no output of a stage, or DVC is at work here.
    """
    path, known = os.path.relpath(os.path.abspath(target), root.absolute()), outputs(root / LOCK)
    owner = None if _within(path, "..") else next((out for out in known if _within(path, out)), None)
    if owner is None:
        raise MerError(
            f"{target}: is no output that {LOCK} knows, nothing was removed; if a stage that was called by itself made "
            "it, call that again"
        )
    running = dvc_processes(root)
    if running:
        raise MerError(f"DVC runs here (process {running[0]}); wait for it, or end it, then repair {target}")
    store = (cache or cache_folder(root)) / "files/md5"
    copies = _copies(store, known[owner], os.path.relpath(path, owner))
    removed = [root / owner, *(copy for copy in copies if os.path.lexists(copy))]
    for place in removed:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    return [str(place) for place in removed]


def cache_folder(root: Path) -> Path:
    """Where DVC keeps its copies: below .dvc, unless `dvc cache dir` has set another place."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode or not done.stdout.strip():
        raise MerError(f"dvc cache dir: {' '.join(done.stderr.split()) or 'says nothing'}; run from the project's root")
    return root / done.stdout.strip()


def _copies(store: Path, md5: str, inner: str) -> list[Path]:
    """The files of the cache that hold an output; of a folder its list, and what lies below `inner` in it."""
    own = _copy(store, md5)
    if not md5.endswith(".dir"):
        return [own]
    try:
        entries = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(own.read_bytes())}
    except (OSError, ValueError, KeyError, TypeError):  # the list itself is gone or damaged: DVC cannot use the rest
        entries = {}
    return [own, *(_copy(store, entry) for name, entry in entries.items() if inner == "." or _within(name, inner))]


def _within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def _copy(store: Path, md5: str) -> Path:
    check_md5(md5)
    return store / md5[:2] / md5[2:]


def main() -> None:
    with one_line("repair"):
        if len(sys.argv) != 2:
            raise MerError("name the damaged file: python -m tools.repair <file>")
        removed = repair(sys.argv[1])
        print(f"removed {removed[0]} and its copies in DVC's cache ({len(removed) - 1} files); now run dvc repro")


if __name__ == "__main__":
    main()
