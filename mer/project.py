"""What DVC needs of the project's folder, checked before the work instead of after it."""

from pathlib import Path

from mer.errors import MerError

# Folders in which the stages' outputs lie.
FOLDERS = ("data", "data/raw", "data/index", "data/cache", "data/weights", "data/predictions", "metrics")


def check_folders(root: Path = Path()) -> None:
    """Raise MerError for outputs that lie outside the project: DVC would refuse them after they are computed."""
    whole = root.resolve()
    for folder in FOLDERS:
        place = (root / folder).resolve()
        if not place.is_relative_to(whole):
            raise MerError(
                f"{folder}: is a link to {place}, outside the project, where DVC keeps no outputs; make it a folder of "
                "the project again, and move DVC's own cache to that disk: dvc cache dir <folder>"
            )


def check_git(root: Path = Path()) -> None:
    """Raise MerError where there is no git repository, as in a downloaded archive: DVC does not start without one."""
    whole = root.resolve()
    if not any((folder / ".git").exists() for folder in (whole, *whole.parents)):
        raise MerError("this folder is no git repository, which DVC needs; make it one: git init && git add -A")
