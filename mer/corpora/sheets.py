"""Label sheets: xlsx, xls or csv, as the owners ship them and as spreadsheet programs leave them.

A sheet is read by its headings, wherever they stand: title rows and a preface above them, unnamed and further columns,
blank rows, another letter case, spaces in headings and cells, and numbers kept as text change nothing. What does change
the meaning is refused: a missing column, a second row for one clip, a cell that is no frame number, an unknown emotion.
Faults of the published sheets are corrected by `corrections/<corpus>.csv` and nowhere else.

A sheet has at most MAX_ROWS rows, MAX_COLUMNS columns and MAX_BYTES bytes (an xlsx, unpacked, MAX_UNPACKED). That is
checked before its cells are read: in a sheet of 5 kB, one stray cell can stand in column 16,384 of row 1,048,576. Its
cells have MAX_TEXT characters together, each as often as it stands: in an xlsx, a million cells can share one text.

An xlsx that declares a document type is refused before its parts are read: no program writes one, and its entities
would make much of little, or name other files. So is a formula in a column that counts: what stands beside it as its
result is what some program has left there, and nothing here computes it.
"""

import contextlib
import csv
import functools
import hashlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree
from xml.parsers import expat

import pandas as pd

from mer.clips import composed, hidden, same_name
from mer.errors import FileError, MerError, listed, suggestion
from mer.storage.files import unreadable

ANNOTATIONS = ["subject", "clip", "onset", "apex", "offset", "emotion", "aus", "apex_source"]
ENDINGS = (".xlsx", ".xls", ".csv")
NO_APEX = {"", "/", "\\", "-", "nan", "none"}  # what annotators write where they saw no apex; CASME II: "/"
OUTSIDE = "outside"  # in a correction's `old`: any apex outside onset..offset
# The largest published sheet (CAS(ME)3) has 861 rows, 8 columns and 70 kB.
MAX_ROWS, MAX_COLUMNS, MAX_BYTES, MAX_UNPACKED, MAX_TEXT = 10_000, 256, 2**24, 2**25, 2**24
MAX_NAME = 255  # bytes of a file's name
MAX_DECLARATION = 2**16  # bytes, in which the first element of a part of an xlsx has begun
FORMULA = ("=", "+", "-", "@")  # what a cell begins with that a spreadsheet program computes
# Whole numbers as spreadsheets write them (46, 46.0), of up to 15 digits: more fit into no column of integers.
NUMBER = re.compile(r"(\d{1,15})(?:\.0+)?", re.ASCII)


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
        told: a clip's name -> the subject and emotion that it tells, as ids and `emotions` have them; None where it
            tells neither. A row that says another is refused.
        editions: digest of the rows (see `edition`) -> what that edition is called.
        other_editions: number of rows -> an edition that is known by nothing else.
        rows: of the edition whose counts stand in FACTS; None where there is no such edition.
    """

    corpus: str
    headings: dict[str, str]
    emotions: frozenset[str]
    subject: Callable[[str], str]
    clip: Callable[[str, str], str] = lambda name, onset: name
    emotion: Callable[[str], str] = str.lower
    told: Callable[[str], tuple[str, str] | None] = lambda clip: None
    editions: Mapping[str, str] = field(default_factory=dict)
    other_editions: Mapping[int, str] = field(default_factory=dict)
    rows: int | None = None

    def too_many(self, rows: int) -> str:
        """What to add to a message about a sheet with more rows than the known edition; else nothing."""
        if self.rows is None or rows <= self.rows:
            return ""
        name = self.other_editions.get(rows, "another edition of it")
        return f" (the sheet has {rows} rows, the edition that is known {self.rows}: this is {name}; docs/corpora.md)"


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
        if self.on_error == "stop" or isinstance(error, FileError):
            raise error
        self.excluded.append((f"{self.corpus}/{subject}/{clip}", str(error)))


def numbered(pattern: str, name_format: str) -> Callable[[str], str]:
    """Names that hold one number: `numbered("(?:sub)?", "sub{:02d}")` takes `1`, `01`, `1.0` and `Sub01` to `sub01`.

    Other names stay as they are: they may be folders that a user named.
    """
    whole = re.compile(rf"{pattern}(\d{{1,15}})(?:\.0+)?", re.IGNORECASE)  # spreadsheets write 1 as 1.0

    def name(text: str) -> str:
        found = whole.fullmatch(text.strip())
        return name_format.format(int(found[1])) if found else text.strip()

    return name


def short(text: str) -> str:
    """A cell for a message: its first 60 characters."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


@functools.lru_cache(maxsize=10_000)
def normal(heading: object) -> str:
    """A heading without letter case, spaces, underscores and the like: `Onset Frame`, `OnsetFrame` -> `onsetframe`."""
    return re.sub(r"[\W_]+", "", str(heading)).lower()


# ---- files ------------------------------------------------------------------------------------------------------


def grids(path: str | Path) -> dict[str, pd.DataFrame]:
    """Every worksheet as a table of stripped text, empty cells "", nothing taken for a heading.

    A csv does not name the separator of its cells: it gives one table for each separator; one of them has the headings.
    A separator that the file does not use can cut a note into very many cells; such a table ends there, and its
    `.attrs["error"]` says why.

    Raises MerError when the file is missing, damaged, too large, or neither xlsx, xls nor csv.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        raise MerError(f"{path}: is no label sheet; needed is one of {', '.join(ENDINGS)}")
    if path.exists() and not path.is_file():
        raise MerError(f"{path}: is no file; put the corpus's {kind[1:]} there")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MerError(f"{path}: has {path.stat().st_size} bytes, a label sheet at most {MAX_BYTES}; "
                           "save its cells alone, without pictures")  # fmt: skip
        read = {".csv": _csv_tables, ".xls": _xls_tables, ".xlsx": _xlsx_tables}[kind]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl's, about styles and extensions that hold no cell
            raw = read(path, path.read_bytes())
    except MerError:
        raise
    except FileNotFoundError:
        raise MerError(f"{path}: the label sheet is missing; put the corpus's {kind[1:]} there") from None
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # openpyxl, xlrd, zipfile and csv raise a dozen kinds for a damaged file
        what = short(str(error) or type(error).__name__)[1:-1]
        raise MerError(f"{path}: cannot be read as {kind[1:]} ({what}); get the label sheet again") from error
    return raw


def _table(rows: Iterable[list[str]]) -> pd.DataFrame:
    """Rows of stripped text, padded to one length."""
    rows = list(rows)
    width = max(map(len, rows), default=0)
    return pd.DataFrame([[*row, *[""] * (width - len(row))] for row in rows], dtype=str)


def _bounded(path: Path, part: str, rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """Rows, stripped, without the blank cells and rows at the end. Raises MerError at a cell beyond the limits."""
    blank = text = 0
    for number, row in enumerate(rows, start=1):
        text += sum(map(len, row))  # before they are stripped: that copies them
        if text > MAX_TEXT:
            raise MerError(f"{path}: {part}: row {number}: up to here the cells have {text} characters, those of a "
                           f"label sheet at most {MAX_TEXT}; clear the long cells")  # fmt: skip
        cells = [cell.strip() for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            blank += 1
            continue
        _check_place(path, part, number, len(cells), cells[-1])
        yield from ([] for _ in range(blank))
        blank = 0
        yield cells


def _check_place(path: Path, part: str, row: int, column: int, cell: str) -> None:
    if row > MAX_ROWS or column > MAX_COLUMNS:
        raise MerError(
            f"{path}: {part}: row {row}, column {column} holds {short(cell)}; a label sheet has at most {MAX_ROWS} "
            f"rows and {MAX_COLUMNS} columns: clear that cell"
        )


def _csv_tables(path: Path, data: bytes) -> dict[str, pd.DataFrame]:
    found = {}
    for separator in ",;\t":
        part, rows, error = f"separator {separator!r}", list[list[str]](), ""
        lines = csv.reader(io.StringIO(_csv_text(data), newline=""), delimiter=separator)
        try:
            for row in _bounded(path, part, lines):
                rows.append(row)
        except csv.Error as damage:
            error = f"{path}: {part}: cannot be read as csv ({damage}); get the label sheet again"
        except MerError as beyond:
            error = str(beyond)
        found[part] = _table(rows)
        found[part].attrs["error"] = error
    return found


def _csv_text(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # older spreadsheets; what is read here is ASCII, notes may look odd


def _xlsx_tables(path: Path, data: bytes) -> dict[str, pd.DataFrame]:
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        unpacked = sum(part.file_size for part in parts.infolist())
        if unpacked > MAX_UNPACKED:
            raise MerError(f"{path}: unpacks to {unpacked} bytes, a label sheet to at most {MAX_UNPACKED}; "
                           "save its cells alone, without formats and pictures")  # fmt: skip
        rows, columns, formulas = 1, 1, False
        for name in parts.namelist():
            with parts.open(name) as part:
                _check_declaration(path, name, part.read(MAX_DECLARATION))
            if "sheet" in name.lower() and name.lower().endswith(".xml"):
                with parts.open(name) as part:
                    for row, column, formula in _places(path, os.path.basename(name), part):
                        rows, columns, formulas = max(rows, row), max(columns, column), formulas or formula

    found = {}
    for title, lines in _worksheets(data, rows, columns, results=True):
        cells = ([_cell(c.value, c.data_type == "e") for c in line] for line in lines)
        found[title] = _table(_bounded(path, f"worksheet {title}", cells))
        found[title].attrs["formulas"] = formulas
    return found


def _worksheets(data: bytes, rows: int, columns: int, *, results: bool) -> Iterator[tuple[str, Iterator[Any]]]:
    """Title and rows of cells of every worksheet; results: of formulas what they gave, and not their text."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=results, keep_links=False)
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # what a sheet says of its own size can be wrong
        yield sheet.title, sheet.iter_rows(max_row=rows, max_col=columns)


def _refuse_formulas(path: Path, title: str, cells: pd.DataFrame, columns: Mapping[str, int]) -> None:
    """Raise MerError for a formula in one of the columns (heading -> place) of the rows that `read_cells` returns."""
    for name, lines in _worksheets(path.read_bytes(), int(cells.index[-1]), max(columns.values()) + 1, results=False):
        for number, line in enumerate(lines if name == title else (), start=1):
            for heading, column in columns.items() if number in cells.index else ():
                if column < len(line) and line[column].data_type == "f":
                    value = line[column].value
                    text = short(str(getattr(value, "text", value)))  # that of several cells is an object
                    raise MerError(f"{path}: row {number}: {heading} is a formula ({text}), which is not computed "
                                   "here; save the sheet with values in its place")  # fmt: skip


def _check_declaration(path: Path, part: str, begin: bytes) -> None:
    """Raise MerError where a part of an xlsx, whose first bytes these are, declares a document type."""

    def refuse(*_: object) -> None:
        raise MerError(f"{path}: its part {short(part)} declares a document type, as no spreadsheet program writes it; "
                       "save the sheet anew in one, or get it again")  # fmt: skip

    def enough(*_: object) -> None:
        raise StopIteration  # its first element: nothing is declared from here on

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler, parser.StartElementHandler = refuse, enough
    with contextlib.suppress(StopIteration, expat.ExpatError):  # a picture, or damaged, which its reader tells
        parser.Parse(begin, len(begin) < MAX_DECLARATION)
        if len(begin) == MAX_DECLARATION:
            refuse()  # so long a comment hides something


def _places(path: Path, part: str, xml: IO[bytes]) -> Iterator[tuple[int, int, bool]]:
    """(row, column, whether it is a formula) of every cell of a worksheet that holds something, not a format alone.

    Raises MerError for one beyond the limits.
    """
    row = column = 0
    every: ElementTree.Element | None = None
    for event, element in ElementTree.iterparse(xml, events=("start", "end")):
        tag = element.tag.rpartition("}")[2]
        if event == "start" and tag == "sheetData":
            every = element
        elif event == "start" and tag == "row":
            row, column = int(element.get("r") or row + 1), 0
        elif event == "start" and tag == "c":
            place = re.fullmatch(r"([A-Z]{1,3})\d{1,7}", element.get("r") or "")
            column = functools.reduce(lambda n, a: 26 * n + ord(a) - 64, place[1], 0) if place else column + 1
        elif event == "end" and tag == "c":
            held = "".join(element.itertext()).strip()
            if held:
                _check_place(path, part, row, column, held)
                yield row, column, any(child.tag.rpartition("}")[2] == "f" for child in element)
        elif event == "end" and tag == "row" and every is not None:
            every.clear()  # rows of formats alone can be many


def _xls_tables(path: Path, data: bytes) -> dict[str, pd.DataFrame]:
    import xlrd

    book = xlrd.open_workbook(file_contents=data, ragged_rows=True, logfile=io.StringIO())

    def cell(value: object, kind: int) -> str:
        if kind == xlrd.XL_CELL_DATE and isinstance(value, float):
            return _cell(xlrd.xldate.xldate_as_datetime(value, book.datemode))
        return _cell(bool(value) if kind == xlrd.XL_CELL_BOOLEAN else value, kind == xlrd.XL_CELL_ERROR)

    def rows(sheet: Any) -> Iterator[list[str]]:
        for row in range(sheet.nrows):
            yield [cell(*both) for both in zip(sheet.row_values(row), sheet.row_types(row), strict=True)]

    return {s.name: _table(_bounded(path, f"worksheet {s.name}", rows(s))) for s in book.sheets()}


def _cell(value: object, is_error: bool = False) -> str:
    """A cell as text: whole numbers without a fraction, empty cells and those of a failed formula as "" ."""
    if value is None or is_error:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


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
        MerError: unreadable file, missing columns (with those found), a heading twice, two worksheets that fit, a
            formula in one of the columns.
    """
    path = Path(path)
    every = grids(path)
    sheets = {name: grid for name, grid in every.items() if (grid != "").any(axis=None)}
    headers = {name: _header(grid, headings) for name, grid in sheets.items()}
    most = max((hits for _, hits in headers.values()), default=0)
    refused = [grid.attrs["error"] for grid in every.values() if grid.attrs.get("error")]
    if refused and not most:
        raise MerError(refused[0])
    if not sheets:
        raise MerError(f"{path}: holds no cell; get the label sheet again")
    fitting = [name for name, (_, hits) in headers.items() if hits == most]
    if most == len(headings) and len(fitting) > 1:
        raise MerError(f"{path}: worksheets {listed(fitting)} all hold the columns; keep the one that counts")
    grid, row = sheets[fitting[0]], headers[fitting[0]][0]
    if grid.attrs.get("error"):
        raise MerError(grid.attrs["error"])
    found = [c[:60] for c in grid.iloc[row] if c]
    place: dict[str, list[int]] = {}
    for column, cell in enumerate(grid.iloc[row]):
        place.setdefault(normal(cell), []).append(column)
    missing = [h for h in headings.values() if normal(h) not in place]
    if missing:
        raise MerError(f"{path}: columns {listed(missing)} are missing; found {listed(found, 12)}")
    twice = [h for h in headings.values() if len(place[normal(h)]) > 1]
    if twice:
        raise MerError(f"{path}: columns {listed(twice)} stand there twice; keep the one that counts")
    columns = {h: place[normal(h)][0] for h in headings.values()}
    cells = grid.iloc[row + 1 :, list(columns.values())]
    cells.columns = list(headings)
    cells.index = cells.index + 1
    cells = cells[(cells != "").any(axis=1)]
    if grid.attrs.get("formulas") and len(cells):
        _refuse_formulas(path, fitting[0], cells, columns)
    return cells


def fits(path: str | Path, headings: dict[str, str]) -> bool:
    """Whether a file is a sheet with all the columns. Raises FileError where the system does not hand it out."""
    try:
        read_cells(path, headings)
    except FileError:
        raise
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


def former_names(sheet_format: SheetFormat) -> dict[tuple[str, str], list[str]]:
    """(subject, clip) -> the names that the clip has in sheets without a correction of its onset.

    Only where clips are named after their onset. The owners' folders can bear the one name or the other.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for item in corrections(sheet_format.corpus).query("column == 'onset'").itertuples():
        if str(item.clip).endswith(f"_{item.old}"):
            video = str(item.clip).removesuffix(f"_{item.old}")
            found.setdefault((str(item.subject), sheet_format.clip(video, str(item.new))), []).append(str(item.clip))
    return found


def _same(cell: str, value: str) -> bool:
    """Equal as text, or as frame numbers (`0`, `0.0`)."""
    one, other = (NUMBER.fullmatch(text) for text in (cell, value))
    return cell == value or bool(one and other and int(one[1]) == int(other[1]))


def _correct(path: Path, corpus: str, line: dict, items: list[dict]) -> list[tuple]:
    """Apply to one row, in place, the corrections written for its clip; returns what was changed."""
    done = []
    for item in items:
        column, cell = item["column"], line[item["column"]]
        if _same(cell, item["new"]):
            continue  # a copy of the sheet that has the correction already
        if item["old"] == OUTSIDE:
            ends = [line["onset"], cell, line["offset"]]
            if all(c.isdigit() for c in ends) and int(ends[0]) <= int(ends[1]) <= int(ends[2]):
                continue  # a copy of the sheet without this fault
        elif not _same(cell, item["old"]):
            raise MerError(
                f"{path}: subject {line['subject']} clip {line['clip']}: {column} is {short(cell)}, "
                f"mer/corpora/corrections/{corpus}.csv has {item['old']!r}, corrected to {item['new']!r}: this is "
                "another version of the sheet; compare the row and adapt that file"
            )
        line[column] = item["new"]
        done.append((f"{line['subject']}/{line['clip']}", column, cell, item["new"], item["reason"]))
    return done


# ---- rows -------------------------------------------------------------------------------------------------------


def check_name(path: Path, row: int, what: str, name: str) -> None:
    """Refuse a subject or file name that leads out of the corpus folder, that no folder can have, or that deceives."""
    if name in (".", "..") or any(c in name for c in "/\\\0"):
        raise MerError(
            f"{path}: row {row}: {what} {short(name)} leads out of the corpus folder; correct the cell to a folder's "
            "name"
        )
    if hidden(name):
        raise MerError(f"{path}: row {row}: {what} {short(name)} has the character {hidden(name)}, which is not seen; "
                       "write the name anew")  # fmt: skip
    if name.startswith(FORMULA):  # ids stand in our own csv files
        raise MerError(f"{path}: row {row}: {what} {short(name)} begins as a formula, which a spreadsheet program "
                       "would compute; correct the cell to a folder's name")  # fmt: skip
    if len(name.encode(errors="surrogatepass")) > MAX_NAME:
        raise MerError(
            f"{path}: row {row}: {what} {short(name)} is longer than a folder's name can be ({MAX_NAME} bytes); "
            "correct the cell"
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
        apex_source `middle`. `.attrs["corrected"]`: (subject/clip, column, old, new, reason) of every correction;
        `.attrs["edition"]`: see `edition`.

    Raises:
        MerError: what `read_cells` refuses, a row without name, a name that is a path, a clip in two rows, also when
            they differ in letter case; a cell that is no number, an unknown emotion, onset <= apex <= offset violated,
            or another subject or emotion than the clip's name tells.
    """
    path = Path(path)
    errors = errors or RowErrors()
    cells = read_cells(path, sheet_format.headings)
    known: dict[tuple[str, str], list[dict]] = {}
    for item in corrections(sheet_format.corpus).to_dict("records"):
        if item["when"] == "":
            known.setdefault((item["subject"], item["clip"]), []).append(item)
    seen: dict[tuple[str, str], tuple[int, str]] = {}

    def note(subject: str, clip: str) -> None:
        """Remember a clip's row."""
        key, name = (same_name(subject), same_name(clip)), f"subject {subject} clip {clip}"
        row, earlier = seen.setdefault(key, (number, name))
        if row != number:
            case = "" if earlier == name else f" (there as {earlier}: letter case makes no other folder)"
            raise MerError(f"{path}: {name} stands in rows {row} and {number}{case}; delete one of them")

    rows, corrected = [], []
    for number, line in zip(cells.index, cells.to_dict("records"), strict=True):
        if not line["subject"] or not line["clip"]:
            raise MerError(f"{path}: row {number} has no subject or no file name "
                           f"({listed(map(short, line.values()), 9)}); complete the row")  # fmt: skip
        line["subject"] = sheet_format.subject(composed(line["subject"]))
        line["video"] = composed(line["clip"])
        check_name(path, number, "subject", line["subject"])
        check_name(path, number, "file name", line["video"])
        line["clip"] = sheet_format.clip(line["video"], line["onset"])
        note(line["subject"], line["clip"])
        try:
            done = _correct(path, sheet_format.corpus, line, known.get((line["subject"], line["clip"]), []))
            line["clip"] = sheet_format.clip(line["video"], line["onset"])
            note(line["subject"], line["clip"])
            rows.append(_row(path, number, sheet_format, line))
            corrected += done
        except MerError as error:
            errors.add(line["subject"], line["clip"], MerError(f"{error}{sheet_format.too_many(len(cells))}"))
    if not seen:
        raise MerError(f"{path}: has headings and no row; get the label sheet again")
    table = pd.DataFrame(rows, columns=[*ANNOTATIONS, "video"])
    table.attrs |= {"corrected": corrected, "edition": edition(table, sheet_format, path.name, len(corrected))}
    return table


def edition(table: pd.DataFrame, sheet_format: SheetFormat, name: str, corrected: int = 0) -> str:
    """Which edition of a corpus's annotations was read, as a short text.

    Known by the first 12 hexadecimal digits of a SHA-256: of what the rows say when they are corrected (subject, clip,
    onset, apex, offset, emotion and apex_source), in any order of the rows. So a sheet that was saved as csv is the
    same edition, and one that the corrections make equal differs in the number of corrected cells only. Annotations
    that are not known are called by the name of their source, their rows and that digest.
    """
    columns = ["subject", "clip", "onset", "apex", "offset", "emotion", "apex_source"]
    rows = sorted("\t".join(map(str, row)) for row in table[columns].itertuples(index=False))
    digest = hashlib.sha256("\n".join(rows).encode(errors="surrogatepass")).hexdigest()[:12]
    if digest in sheet_format.editions:
        known = sheet_format.editions[digest]
        return f"{known}, {corrected} cells corrected" if corrected else known
    other = sheet_format.other_editions.get(len(table), "not a known edition")
    return f"{name}, {len(table)} rows, {digest} ({other})"


def _row(path: Path, row: int, sheet_format: SheetFormat, line: dict) -> dict:
    where = f"{path}: subject {line['subject']} clip {line['clip']}"

    def number(name: str) -> int:
        found = NUMBER.fullmatch(line[name])
        if not found:
            raise MerError(
                f"{where}: {sheet_format.headings[name]} is {short(line[name])}, needed is a frame number; correct the "
                "cell"
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
            f"{where}: {sheet_format.headings['emotion']} {short(line['emotion'])} is unknown; "
            f"{suggestion(emotion[:60], sheet_format.emotions)}"
        )
    told = sheet_format.told(line["clip"]) or (line["subject"], emotion)
    if told != (line["subject"], emotion):
        raise MerError(
            f"{where}: row {row} says subject {line['subject']}, {emotion}, the clip's name subject {told[0]}, "
            f"{told[1]}; correct the row"
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
