"""Removes what killed runs have left to go on from (data/.partial). Outputs and DVC's cache stay.

    python -m tools.clean

The next run of a stage then begins anew, and clips that did not change are computed again.
"""

from pathlib import Path

from mer.errors import MerError, listed
from mer.storage.unfinished import FOLDER, remove, unfinished
from tools._errors import one_line


def clean(folder: Path = FOLDER) -> tuple[int, int]:
    """Remove all unfinished work.

    Returns:
        Stages whose work is gone, and bytes that are free again.

    Raises:
        MerError: a stage runs; its work stays, that of the others is gone.
    """
    number, freed, running = 0, 0, []
    for one in unfinished(folder):
        if remove(one.stage, folder):
            number, freed = number + 1, freed + one.size
        else:
            running.append(one.stage)
    if running:
        raise MerError(f"{listed(running)} runs, so its work stays; that of {number} others is removed; end it first")
    return number, freed


def main() -> None:
    with one_line("clean"):
        number, freed = clean()
        print(f"unfinished work of {number} stages is removed, {freed / 1e9:.2f} GB; the next runs of them begin anew")


if __name__ == "__main__":
    main()
