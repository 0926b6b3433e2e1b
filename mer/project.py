"""What DVC and Python need of the project's folder, checked before the work instead of after it."""

import codecs
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mer.errors import MerError
from mer.storage.yaml_files import read_yaml

GRAPH = "dvc.yaml"
WRITTEN = ("outs", "metrics", "plots")  # the lists of a stage that name what it writes


def check_folders(plan: dict[str, dict[str, dict]], root: Path = Path()) -> None:
    """Raise MerError for an output of the plan that lies outside the project: DVC would refuse it once it is computed.

    A link that leads out may stand in the place of any folder above an output. Links to raw corpora, which are no
    outputs, are as good as folders.
    """
    whole, seen = os.path.realpath(root), set()
    for output in outputs(plan, root):
        for folder in reversed(PurePosixPath(output).parents):
            if folder in seen:
                continue
            seen.add(folder)
            place = os.path.realpath(root / folder)
            if not Path(place).is_relative_to(whole):
                raise MerError(
                    f"{folder}: is a link to {place}, outside the project, where DVC keeps no outputs; make it a "
                    "folder of the project again, and move DVC's own cache to that disk: dvc cache dir <folder>"
                )


def outputs(plan: dict[str, dict[str, dict]], root: Path = Path()) -> Iterator[str]:
    """The path of everything that the stages of a plan write. Raises MerError where dvc.yaml does not fit the plan."""
    path = root / GRAPH
    back = f"bring it back: git checkout {GRAPH}"
    try:
        for name, stage in read_yaml(path, otherwise=back)["stages"].items():
            body = stage.get("do", stage)
            for key, entry in plan[name].items() if "foreach" in stage else [("", {})]:
                for what in WRITTEN:
                    yield from expanded(body, what, key, entry)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise MerError(f"{path}: does not fit plan.yaml ({error!r}); run make plan, or {back}") from None


def expanded(body: dict, what: str, key: str = "", entry: dict | None = None) -> list[str]:
    """A list of a stage of dvc.yaml (deps, outs, …) with ${key} and ${item…} filled in, as DVC does it.

    Args:
        body: the stage; of one with foreach what its `do` holds.
        entry: of the plan.
    """

    def fill(match: re.Match) -> str:
        if match[1] == "key":
            return key
        value: Any = entry
        for name, place in re.findall(r"\.(\w+)|\[(\d+)\]", match[1].removeprefix("item")):
            value = value[name] if name else value[int(place)]
        return str(value)

    names = [next(iter(one)) if isinstance(one, dict) else one for one in body.get(what, [])]
    return [re.sub(r"\$\{(.*?)\}", fill, name) for name in names]


def check_git(root: Path = Path()) -> None:
    """Raise MerError where there is no git repository, as in a downloaded archive: DVC does not start without one."""
    whole = root.resolve()
    if not any((folder / ".git").exists() for folder in (whole, *whole.parents)):
        raise MerError("this folder is no git repository, which DVC needs; make it one: git init && git add -A")


def check_encoding() -> None:
    """Raise MerError where names of files are no UTF-8 to Python: it would find none that has other letters."""
    found = sys.getfilesystemencoding()
    if codecs.lookup(found).name != "utf-8":
        raise MerError(f"names of files are {found} in this locale, and needed is UTF-8; set LC_ALL=C.UTF-8")
