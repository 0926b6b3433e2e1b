"""Tables of text: csv files whose rows carry a seal, so that a changed, doubled, moved or lost one is noticed."""

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mer.errors import MerError, listed
from mer.storage.files import damaged, digest, replace_file, unreadable

if TYPE_CHECKING:
    import pandas as pd


def read_cells(path: str | Path) -> list[list[str]]:
    """The lines of a csv file of this project, the heading first. Every cell is text: a subject may be named NA or 007.

    Raises MerError where it cannot be read, is no csv, or a line has not as many cells as the heading.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise MerError(f"{path}: there is no such file; run dvc repro, or correct the path") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise damaged(path, f"byte {error.start} is no UTF-8") from None
    if not text.endswith("\n"):
        raise damaged(path, "its last line is cut" if text else "it is empty")
    lines: list[list[str]] = []
    try:
        for line in csv.reader(io.StringIO(text, newline=""), strict=True):
            lines.append(line)
            if len(line) != len(lines[0]):
                raise damaged(path, f"line {len(lines)} has {len(line)} cells, the heading {len(lines[0])}")
    except csv.Error as error:
        raise damaged(path, f"line {len(lines) + 1} is no csv ({error})") from None
    return lines


def write_table(path: str | Path, table: "pd.DataFrame") -> None:
    """Write a table as csv with one more column, `seal`: a digest of the row, its number and the seal of the next row.

    So `read_table` finds a row that was changed, doubled, moved or lost. A table without rows has no `seal`. Raises
    MerError for a cell with a line break or with more characters than are read, and for what is no text.
    """
    text = table.to_csv(index=False, lineterminator="\n")
    if "\r" in text or text.count("\n") != len(table) + 1:
        raise MerError(f"{path}: a cell holds a line break; rename what it comes from")
    heading, *rows = _split(path, text)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*heading, "seal"] if rows else heading)
    writer.writerows([*row, seal] for row, seal in zip(rows, _seals(rows), strict=True))
    try:
        content = out.getvalue().encode("utf-8")
    except UnicodeEncodeError as error:
        line = ascii(error.object[: error.start + 1].rpartition("\n")[2])
        raise MerError(f"{path}: {line} ends with a character that is no text; rename what it comes from") from None
    replace_file(path, content)


def _split(path: str | Path, text: str) -> list[list[str]]:
    """The cells of a csv text. Raises MerError for a cell that `read_cells` would not read."""
    lines: list[list[str]] = []
    try:
        for line in csv.reader(io.StringIO(text, newline="")):
            lines.append(line)
    except csv.Error:
        start = printable(text.split("\n")[len(lines)])
        raise MerError(
            f"{path}: line {len(lines) + 1} ({start}…) has a cell of more than {csv.field_size_limit()} characters; "
            "shorten it, or leave that row out"
        ) from None
    return lines


def printable(text: str, most: int = 80) -> str:
    """A cell for a message: a damaged one may hold what steers a terminal."""
    return text[:most] if text[:most].isprintable() else ascii(text[:most])


def read_table(path: str | Path, columns: Sequence[str]) -> list[list[str]]:
    """The rows of `write_table`, with these columns, without their seals. Raises MerError for any other content."""
    heading, *rows = read_cells(path)
    expected = [*columns, "seal"] if rows or "seal" in heading else [*columns]
    missing = [column for column in expected if column not in heading]
    if missing or heading != expected:
        what = f"columns {listed(missing)} are missing" if missing else f"its columns are {listed(heading, 20)}"
        raise damaged(path, what)
    if "seal" in heading and not rows:
        raise damaged(path, "its rows are missing")
    for number, (row, following) in enumerate(itertools.pairwise([*rows, [""]])):
        if row[-1] != _seal(number, row[:-1], following[-1]):
            raise damaged(
                path, f"line {number + 2} ({printable(row[0])}) is another than was written, or one behind it is"
            )
    return [row[:-1] for row in rows]


def _seals(rows: list[list[str]]) -> list[str]:
    seals = [""]
    for number, row in reversed(list(enumerate(rows))):
        seals.append(_seal(number, row, seals[-1]))
    return seals[:0:-1]


def _seal(number: int, row: list[str], next_seal: str) -> str:
    return digest(number, row, next_seal)[:16]
