"""What the tools know of DVC: the processes of it that work here, and the outputs that dvc.lock has."""

import re
from pathlib import Path

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mer.errors import MerError

LOCK = "dvc.lock"
COUNTS = ("size", "nfiles")  # of a file or a folder


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


def outputs(lock: Path) -> dict[str, str]:
    """Path -> MD5 of every output; that of a folder ends with `.dir`.

    Raises MerError where dvc.lock is missing, or is not whole: DVC writes it in place, so that a DVC which is killed
    leaves it empty or cut. A cut between two stages cannot be seen; DVC then finds the others in its cache.
    """
    try:
        text = lock.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MerError(
            f"{lock}: is not here, so DVC knows no outputs; run from the project's root, or run the stage again "
            "that made the file"
        ) from None
    except ValueError:
        text = ""  # no UTF-8: damaged
    return dict(output for stage in stages_of_lock(text, str(lock)).values() for output in _outputs_of(stage))


def stages_of_lock(text: str, where: str) -> dict[str, dict]:
    """The stages in the text of a dvc.lock, which messages call `where`. Raises MerError where it is not whole."""
    try:
        if re.search(r"^<<<<<<< ", text, re.MULTILINE):
            raise MerError(
                f"{where}: holds a merge conflict; take one side: git checkout --ours {LOCK}, then dvc repro"
            )
        content = YAML(typ="safe").load(text)
        if content["schema"] != "2.0":
            raise ValueError("another schema")
        for stage in content["stages"].values():
            _outputs_of(stage)
        return content["stages"]
    except (YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise MerError(
            f"{where}: is damaged, perhaps by a DVC that was killed; bring it back from git: git checkout {LOCK} "
            "(where git has none, remove it: DVC finds what is finished in its cache)"
        ) from None


def _outputs_of(stage: dict) -> list[tuple[str, str]]:
    """Raises ValueError, KeyError, TypeError or AttributeError for a stage that DVC would refuse."""
    if not stage["cmd"] or not all(isinstance(values, dict) for values in stage.get("params", {}).values()):
        raise ValueError("it is cut")
    for one in [*stage.get("deps", ()), *stage.get("outs", ())]:
        if not isinstance(one["path"], str) or not all(isinstance(one.get(count, 0), int) for count in COUNTS):
            raise ValueError("it is cut")
        check_md5(str(one["md5"]))
    return [(one["path"], str(one["md5"])) for one in stage.get("outs", ())]


def check_md5(md5: str) -> None:
    """Raise MerError for what is no MD5 of DVC's: it becomes part of a path."""
    if not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5):
        raise MerError(f"{LOCK}: {md5[:80]!r} is no MD5; bring the file back from git: git checkout {LOCK}")
