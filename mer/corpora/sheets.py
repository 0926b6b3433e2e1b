"""Label sheets: xlsx, xls or csv, as the owners ship them and as spreadsheet programs leave them.

A sheet is read by its headings, wherever they stand: title rows and a preface above them, unnamed and further columns,
blank rows, another letter case, spaces in headings and cells, and numbers kept as text change nothing. What does change
the meaning is refused: a missing column, a second row for one clip, a cell that is no frame number, an unknown emotion.
Faults of the published sheets are corrected by `corrections/<corpus>.csv` and nowhere else.
"""

import csv
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import pandas as pd

from mer.errors import MerError, listed, suggestion

ANNOTATIONS = ["subject", "clip", "onset", "apex", "offset", "emotion", "aus", "apex_source"]
ENDINGS = (".xlsx", ".xls", ".csv")
NO_APEX = {"", "/", "\\", "-", "nan", "none"}  # what annotators write where they saw no apex; CASME II: "/"
OUTSIDE = "outside"  # in a correction's `old`: any apex outside onset..offset


@dataclass(frozen=True)
class SheetFormat:
    """How a corpus writes its sheet.

    Attributes:
        corpus: names `corrections/<corpus>.csv`.
        headings: our name -> heading as shipped; letter case, spaces and underscores in it do not matter.
        emotions: every word of the emotion column, lower case.
        subject: a cell of the subject column -> the name used in ids, equal for `1`, `01` and `sub01`.
        clip: a row's (file name, onset) -> the clip's name; needed where one file holds several clips.
        emotion: a cell of the emotion column -> the word in `emotions`; for sheets that number their classes.
    """

    corpus: str
    headings: dict[str, str]
    emotions: frozenset[str]
    subject: Callable[[str], str]
    clip: Callable[[str, str], str] = lambda name, onset: name
    emotion: Callable[[str], str] = str.lower


@dataclass
class RowErrors:
    """What is wrong with single clips: raised at once (`stop`), or gathered as (clip id, reason) (`exclude`)."""

    on_error: str = "stop"
    corpus: str = ""
    excluded: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "exclude"):
            raise MerError(f"on_error is {self.on_error!r}; {suggestion(self.on_error, ['stop', 'exclude'])}")

    def add(self, subject: str, clip: str, error: MerError) -> None:
        if self.on_error == "stop":
            raise error
        self.excluded.append((f"{self.corpus}/{subject}/{clip}", str(error)))


def numbered(pattern: str, name_format: str) -> Callable[[str], str]:
    """Names that hold one number: `numbered("(?:sub)?", "sub{:02d}")` takes `1`, `01`, `1.0` and `Sub01` to `sub01`.

    Other names stay as they are: they may be folders that a user named.
    """
    whole = re.compile(rf"{pattern}(\d+)(?:\.0+)?", re.IGNORECASE)  # spreadsheets write 1 as 1.0

    def name(text: str) -> str:
        found = whole.fullmatch(text.strip())
        return name_format.format(int(found[1])) if found else text.strip()

    return name


def normal(heading: object) -> str:
    """A heading without letter case, spaces, underscores and the like: `Onset Frame`, `OnsetFrame` -> `onsetframe`."""
    return re.sub(r"[\W_]+", "", str(heading)).lower()


# ---- files ------------------------------------------------------------------------------------------------------


def grids(path: str | Path) -> dict[str, pd.DataFrame]:
    """Every worksheet as a table of stripped text, empty cells "", nothing taken for a heading.

    A csv does not name the separator of its cells: it gives one table for each separator; one of them has the headings.

    Raises MerError when the file is missing, damaged, or neither xlsx, xls nor csv.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        raise MerError(f"{path}: is no label sheet; needed is one of {', '.join(ENDINGS)}")
    try:
        if kind == ".csv":
            text = _csv_text(path.read_bytes())
            raw = {f"separator {s!r}": pd.DataFrame(_csv_rows(text, s)) for s in ",;\t"}
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # openpyxl's, about styles and extensions that hold no cell
                raw = pd.read_excel(path, sheet_name=None, header=None, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise MerError(f"{path}: the label sheet is missing; put the corpus's {kind[1:]} there") from None
    except Exception as error:  # openpyxl, xlrd, zipfile and csv raise a dozen kinds for a damaged file
        raise MerError(f"{path}: cannot be read as {kind[1:]} ({error}); get the label sheet again") from error
    return {name: grid.fillna("").astype(str).map(str.strip) for name, grid in raw.items()}


def _csv_text(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # older spreadsheets; what is read here is ASCII, notes may look odd


def _csv_rows(text: str, separator: str) -> list[list[str]]:
    """Rows of a csv, padded to one length."""
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    width = max(map(len, rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows]


def _header(grid: pd.DataFrame, headings: dict[str, str]) -> tuple[int, int]:
    """(row with the most of the headings, how many they are)."""
    wanted = {normal(h) for h in headings.values()}
    best = (0, -1)
    for row, cells in enumerate(grid.itertuples(index=False, name=None)):
        hits = len(wanted & {normal(c) for c in cells if c})
        if hits > best[1]:
            best = (row, hits)
    return best


def read_cells(path: str | Path, headings: dict[str, str]) -> pd.DataFrame:
    """The wanted columns of a sheet as stripped text; blank rows are left out.

    Args:
        path: xlsx, xls or csv. Of several worksheets the one with all headings is taken.
        headings: our name -> heading.

    Returns:
        DataFrame with our names as columns; its index is the row number that a spreadsheet program shows.

    Raises:
        MerError: unreadable file, missing columns (with those found), a heading twice, two worksheets that fit.
    """
    path = Path(path)
    sheets = {name: grid for name, grid in grids(path).items() if (grid != "").any(axis=None)}
    if not sheets:
        raise MerError(f"{path}: holds no cell; get the label sheet again")
    headers = {name: _header(grid, headings) for name, grid in sheets.items()}
    most = max(hits for _, hits in headers.values())
    fitting = [name for name, (_, hits) in headers.items() if hits == most]
    if most == len(headings) and len(fitting) > 1:
        raise MerError(f"{path}: worksheets {listed(fitting)} all hold the columns; keep the one that counts")
    grid, row = sheets[fitting[0]], headers[fitting[0]][0]
    found = [c for c in grid.iloc[row] if c]
    place: dict[str, list[int]] = {}
    for column, cell in enumerate(grid.iloc[row]):
        place.setdefault(normal(cell), []).append(column)
    missing = [h for h in headings.values() if normal(h) not in place]
    if missing:
        raise MerError(f"{path}: columns {listed(missing)} are missing; found {listed(found, 12)}")
    twice = [h for h in headings.values() if len(place[normal(h)]) > 1]
    if twice:
        raise MerError(f"{path}: columns {listed(twice)} stand there twice; keep the one that counts")
    cells = grid.iloc[row + 1 :, [place[normal(h)][0] for h in headings.values()]]
    cells.columns = list(headings)
    cells.index = cells.index + 1
    return cells[(cells != "").any(axis=1)]


def fits(path: str | Path, headings: dict[str, str]) -> bool:
    """Whether a file can be read and has all the columns."""
    try:
        read_cells(path, headings)
    except MerError:
        return False
    return True


# ---- corrections ------------------------------------------------------------------------------------------------


def corrections(corpus: str) -> pd.DataFrame:
    """The reviewed table of a corpus: subject, clip, column, old, new, when, reason; all text.

    `when` is empty, or the frames to which the correction is limited (`cropped`): such a row corrects no sheet, it
    lists what the owners' cropped frames leave out.
    """
    text = resources.files("mer.corpora").joinpath("corrections", f"{corpus}.csv").read_text(encoding="utf-8")
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _same(cell: str, value: str) -> bool:
    """Equal as text, or as frame numbers (`0`, `0.0`)."""
    one, other = (re.fullmatch(r"(\d+)(?:\.0+)?", text) for text in (cell, value))
    return cell == value or bool(one and other and int(one[1]) == int(other[1]))


def _correct(path: Path, corpus: str, line: dict, table: pd.DataFrame) -> list[tuple]:
    """Apply to one row, in place, the corrections written for its clip; returns what was changed."""
    done = []
    for item in table.to_dict("records"):
        column, cell = item["column"], line[item["column"]]
        if _same(cell, item["new"]):
            continue  # a copy of the sheet that has the correction already
        if item["old"] == OUTSIDE:
            ends = [line["onset"], cell, line["offset"]]
            if all(c.isdigit() for c in ends) and int(ends[0]) <= int(ends[1]) <= int(ends[2]):
                continue  # a copy of the sheet without this fault
        elif not _same(cell, item["old"]):
            raise MerError(
                f"{path}: subject {line['subject']} clip {line['clip']}: {column} is {cell!r}, "
                f"mer/corpora/corrections/{corpus}.csv has {item['old']!r}, corrected to {item['new']!r}: this is "
                "another version of the sheet; compare the row and adapt that file"
            )
        line[column] = item["new"]
        done.append((f"{line['subject']}/{line['clip']}", column, cell, item["new"], item["reason"]))
    return done


# ---- rows -------------------------------------------------------------------------------------------------------


def check_name(path: Path, row: int, what: str, name: str) -> None:
    """Refuse a subject or file name that would lead out of the corpus folder."""
    if name in (".", "..") or any(c in name for c in "/\\\0"):
        raise MerError(
            f"{path}: row {row}: {what} {name!r} leads out of the corpus folder; correct the cell to a folder's name"
        )


def read_sheet(path: str | Path, sheet_format: SheetFormat, errors: RowErrors | None = None) -> pd.DataFrame:
    """Every row of a label sheet, corrected.

    Args:
        path: xlsx, xls or csv.
        sheet_format: how the corpus writes it.
        errors: where rows with a fault go; without it the first one raises.

    Returns:
        DataFrame[subject, clip, onset, apex, offset (frame numbers), emotion (lower case), aus, apex_source], and
        `video`, the file name of the sheet. An apex that the annotators left out is the middle frame, with
        apex_source `middle`. `.attrs["corrected"]`: (subject/clip, column, old, new, reason) of every correction.

    Raises:
        MerError: what `read_cells` refuses, a row without name, a name that is a path, a clip in two rows; a cell that
            is no number, an unknown emotion, or onset <= apex <= offset violated.
    """
    path = Path(path)
    errors = errors or RowErrors()
    cells = read_cells(path, sheet_format.headings)
    known = corrections(sheet_format.corpus)
    known = known[known["when"] == ""]
    seen: dict[tuple[str, str], int] = {}
    rows, corrected = [], []
    for number, line in zip(cells.index, cells.to_dict("records"), strict=True):
        if not line["subject"] or not line["clip"]:
            raise MerError(f"{path}: row {number} has no subject or no file name ({listed(line.values(), 9)}); "
                           "complete the row")  # fmt: skip
        line["subject"] = sheet_format.subject(line["subject"])
        check_name(path, number, "subject", line["subject"])
        check_name(path, number, "file name", line["clip"])
        line["video"] = line["clip"]
        line["clip"] = sheet_format.clip(line["clip"], line["onset"])
        key = (line["subject"], line["clip"])
        if key in seen:
            raise MerError(
                f"{path}: subject {key[0]} clip {key[1]} stands in rows {seen[key]} and {number}; delete one of them"
            )
        seen[key] = number
        try:
            corrected += _correct(
                path, sheet_format.corpus, line, known[(known["subject"] == key[0]) & (known["clip"] == key[1])]
            )
            rows.append(_row(path, sheet_format, line))
        except MerError as error:
            errors.add(*key, error)
    if not seen:
        raise MerError(f"{path}: has headings and no row; get the label sheet again")
    table = pd.DataFrame(rows, columns=[*ANNOTATIONS, "video"])
    table.attrs["corrected"] = corrected
    return table


def _row(path: Path, sheet_format: SheetFormat, line: dict) -> dict:
    where = f"{path}: subject {line['subject']} clip {line['clip']}"

    def number(name: str) -> int:
        found = re.fullmatch(r"(\d+)(?:\.0+)?", line[name], re.ASCII)  # spreadsheets write 46 as 46.0
        if not found:
            raise MerError(
                f"{where}: {sheet_format.headings[name]} is {line[name]!r}, needed is a frame number; correct the cell"
            )
        return int(found[1])

    onset, offset = number("onset"), number("offset")
    annotated = line.get("apex", "").lower() not in NO_APEX
    apex = number("apex") if annotated else (onset + offset) // 2
    if not onset <= apex <= offset:
        raise MerError(f"{where}: onset {onset}, apex {apex}, offset {offset} are out of order; correct the row")
    emotion = sheet_format.emotion(line["emotion"])
    if emotion not in sheet_format.emotions:
        raise MerError(
            f"{where}: {sheet_format.headings['emotion']} {line['emotion']!r} is unknown; "
            f"{suggestion(emotion, sheet_format.emotions)}"
        )
    return {
        "subject": line["subject"],
        "clip": line["clip"],
        "onset": onset,
        "apex": apex,
        "offset": offset,
        "emotion": emotion,
        "aus": line.get("aus", ""),
        "apex_source": "annotated" if annotated else "middle",
        "video": line["video"],
    }
