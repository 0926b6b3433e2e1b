"""Macro-expression sets, for pretraining: one row an image, whatever edition of the set it comes from.

`mer.macro.{ckplus,rafdb,fer2013}.read_macro(root)` return the table described at `COLUMNS`; `load_image(row)` reads
any of its rows, `summary(table)` counts. Nothing is known beforehand about how many images a set has: papers and
editions disagree (fidelity D-16), so everything is counted from what lies on disk. docs/macro.md shows the folders.
"""

import contextlib
import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd

from mer.clips import COLUMNS as INDEX_COLUMNS
from mer.clips import read_frame
from mer.errors import MerError, listed, suggestion
from mer.storage.files import unreadable

# id: `<corpus>/<image>`; subject: "" where the set does not tell; emotion: a name of EMOTIONS; split: train, val, test,
# or "" where the set has none; image: a path, or `<path of a csv>#<row>` where the pixels are text (row 0 is the first
# below the header). Sets with votes have a column `vote_<emotion>` for each emotion besides.
COLUMNS = ("id", "corpus", "subject", "emotion", "split", "image")

# One word for each emotion, whatever an edition writes.
EMOTIONS = {
    "neutral": "neutral",
    **dict.fromkeys(("anger", "angry"), "anger"),
    "contempt": "contempt",
    "disgust": "disgust",
    "fear": "fear",
    **dict.fromkeys(("happiness", "happy"), "happiness"),
    **dict.fromkeys(("sadness", "sad"), "sadness"),
    "surprise": "surprise",
}
# DCMA, Table 2: neutral is in no class (fidelity 4.1).
THREE = {
    "negative": {"anger", "contempt", "disgust", "fear", "sadness"},
    "positive": {"happiness"},
    "surprise": {"surprise"},
}

SIDE = 48  # pixels; fer2013.csv and ckextended.csv both hold 48x48 grey faces as text
SPLITS = {"training": "train", "publictest": "val", "privatetest": "test"}  # column Usage of both, in lower case
IMAGES = {".png", ".jpg", ".jpeg", ".bmp"}
MAX_TEXT = 2**24  # bytes of a list; RAF-DB's has 400,000
MAX_LINE = 2**20  # bytes of one line of a csv; a face of 48x48 numbers has 9,215 at most
JUNK = {"__macosx"}  # what Macs put into archives: a copy of the tree that holds no picture
_IN_CSV = re.compile(r"(?P<path>.+\.csv)#(?P<row>\d+)")


def one_each(*emotions: str) -> dict[str, set[str]]:
    """The class list in which every emotion is a class."""
    return {name: {name} for name in emotions}


def make_table(root: Path, rows: Iterable[dict], excluded: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Rows as a table in the order of `id`; what was left out, as a count per reason, in `.attrs["excluded"]`."""
    table = pd.DataFrame(list(rows))
    if table.empty:
        raise MerError(f"{root}: holds no labelled image; unpack the set there as docs/macro.md shows")
    repeated = table["id"][table["id"].duplicated()]
    if len(repeated):
        raise MerError(f"{root}: {len(repeated)} images occur twice: {listed(repeated)}; keep one of each")
    votes = [c for c in table if c.startswith("vote_")]
    table = table.sort_values("id", ignore_index=True)[[*COLUMNS, *votes]]
    table.attrs["excluded"] = {reason: n for reason, n in (excluded or {}).items() if n}
    return table


def index_table(table: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """A set as an index, for landmarks and crops: every image a clip of one frame.

    Args:
        table: as `read_macro` returns it.
        corpus: the first part of the ids.

    Returns:
        DataFrame with the columns of mer.clips.COLUMNS but `digest`, and with `edition`, which files the labels are
        from; `clip` is the image's name in the set, `subject` is empty where the set does not tell. What `read_macro`
        left out has no name of its own and is not listed; its counts are in the attributes of `table`.

    Raises:
        MerError: the set holds pixels as text, not image files.
    """
    text = [image for image in table["image"] if _IN_CSV.fullmatch(image)]
    if text:
        raise MerError(
            f"{text[0]}: faces that are kept as text are {SIDE} px wide and need neither landmarks nor crop; leave the "
            "set out of corpora, or unpack its edition in folders"
        )
    rows = pd.DataFrame({"id": [f"{corpus}/{i.split('/', 1)[1]}" for i in table["id"]], "corpus": corpus})
    rows["subject"], rows["clip"] = table["subject"], [i.split("/", 1)[1] for i in table["id"]]
    rows["emotion"], rows["aus"] = table["emotion"], ""
    rows["onset"] = rows["apex"] = rows["offset"] = 0
    rows["apex_source"], rows["fps"], rows["absent"] = "annotated", 0.0, ""
    rows["frame"] = [image.replace("{", "{{").replace("}", "}}") for image in table["image"]]
    rows["edition"] = edition = table.attrs.get("edition", "")
    rows.attrs |= {"excluded": [], "corrected": [], "edition": edition}
    return rows[list(dict.fromkeys(c for c in (*INDEX_COLUMNS, "edition") if c != "digest"))]


def summary(table: pd.DataFrame) -> dict:
    """What a table holds: images, subjects (None where unknown), images per emotion and split, excluded per reason."""
    known = table.loc[table["subject"] != "", ["corpus", "subject"]]
    return {
        "images": len(table),
        "subjects": len(known.drop_duplicates()) or None,
        "emotions": {name: int(n) for name, n in table["emotion"].value_counts().sort_index().items()},
        "splits": {name or "none": int(n) for name, n in table["split"].value_counts().sort_index().items()},
        "excluded": dict(table.attrs.get("excluded", {})),
    }


def load_image(row: Any) -> np.ndarray:
    """The image of one row of a table, (H, W, 3) uint8 RGB; grey is repeated over the channels.

    Args:
        row: of `itertuples` or `iterrows`, or a dict; only `image` is used.

    Raises:
        MerError: the image is missing, damaged, or its pixels are no 48x48 numbers from 0 to 255.
    """
    image = row["image"] if isinstance(row, Mapping) else row.image
    inside_csv = _IN_CSV.fullmatch(image)
    if inside_csv is None:
        return read_frame(Path(image))
    path, number = Path(inside_csv["path"]), int(inside_csv["row"])
    with _opened(path) as file:
        stat = os.fstat(file.fileno())
        columns, offsets, lines = _layout(path, stat.st_size, stat.st_mtime_ns)
        if number >= len(offsets):
            raise MerError(f"{path}: has no row {number}, only {len(offsets)} rows; put the whole file there again")
        file.seek(int(offsets[number]))
        record = _record(path, columns, number, int(lines[number]), file.readline(MAX_LINE))
    grey = parse_pixels(record.cells.get("pixels", ""), record.where)
    return np.repeat(grey[:, :, None], 3, axis=2)


# ---- folders --------------------------------------------------------------------------------------------------------


def open_root(root: str | Path, layouts: Mapping[str, str]) -> tuple[Path, str]:
    """The folder of a set and the name of the layout in it.

    Args:
        root: the set's folder.
        layouts: path below `root` by which a layout is known -> its name.

    Raises:
        MerError: no such folder, none of the layouts, or several.
    """
    root = Path(root)
    if not os.path.isdir(root):  # unlike Path's, False also for a path that is too long
        raise MerError(f"{root}: there is no such folder; unpack the set there as docs/macro.md shows")
    found = [path for path in layouts if (root / path).exists()]
    if not found:
        raise MerError(f"{root}: holds none of {listed(layouts, 9)}; unpack the set there as docs/macro.md shows")
    if len(found) > 1:
        raise MerError(f"{root}: holds several editions of the set ({listed(found)}); keep one of them there")
    check_inside(root / found[0], root)
    return root, layouts[found[0]]


def check_inside(path: Path, root: Path) -> None:
    """Raise MerError when a path leads out of the raw folder; `root` itself may be a link to another disk."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # links in a circle; which of the two depends on Python
        raise MerError(f"{path}: is a link that leads back to itself; put the files themselves there") from None
    if not target.is_relative_to(root.resolve()):
        raise MerError(f"{path}: leads out of {root}, to {target}; put the files themselves there instead of the link")


def check_file(path: Path) -> None:
    """Raise MerError for what is there and no file: a pipe would be waited for without end."""
    if path.exists() and not path.is_file():
        raise MerError(f"{path}: is no file, but a folder or a pipe; put the set's file there")


def read_text(path: Path, encoding: str, source: str) -> str:
    """A text of the set. Raises MerError as a csv does, and, naming its `source`, for what is no text or too long."""
    with _opened(path) as file:
        content = file.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise MerError(f"{path}: has over {MAX_TEXT} bytes, and is no list of this set; {source} there again")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise MerError(f"{path}: is no text; {source} there again") from None


def entries(folder: Path, root: Path) -> list[Path]:
    """What lies in a folder, in the order of the names, without hidden files and JUNK. A link must stay in `root`."""
    check_inside(folder, root)
    try:
        with os.scandir(folder) as found:
            shown = sorted(
                (e.name, e.is_symlink()) for e in found if not e.name.startswith(".") and e.name.lower() not in JUNK
            )
    except FileNotFoundError:
        raise MerError(f"{folder}: there is no such folder; unpack the set there as docs/macro.md shows") from None
    except NotADirectoryError:
        raise MerError(f"{folder}: is no folder; unpack the set there as docs/macro.md shows") from None
    paths = [folder / name for name, _ in shown]
    for path, (_, link) in zip(paths, shown, strict=True):
        if link:
            check_inside(path, root)
    return paths


def folder_rows(
    root: Path, base: Path, corpus: str, emotions: Mapping[str, str], splits: Mapping[str, str]
) -> Iterator[dict]:
    """Rows of an edition that sorts its images into folders, `<base>/<split>/<emotion>/<image>`.

    Args:
        root: the set's folder; ids name the images relative to `base`, which lies in it.
        base: folder of the split folders.
        corpus: the name that ids begin with.
        emotions: emotion folder in lower case -> emotion.
        splits: split folder -> split; the key "" is `base` itself, for an edition without splits.

    Raises:
        MerError: a folder that is no emotion, a link that leaves `root`.
    """
    for folder, split in splits.items():
        if not (base / folder).is_dir():
            continue
        for place in entries(base / folder, root):
            if not place.is_dir():
                continue
            emotion = emotions.get(place.name.lower())
            if emotion is None:
                raise MerError(f"{place}: is the folder of no emotion; {suggestion(place.name.lower(), emotions)}")
            for path in entries(place, root):
                if path.suffix.lower() not in IMAGES:
                    continue
                yield {
                    "id": f"{corpus}/{path.relative_to(base).with_suffix('').as_posix()}",
                    "corpus": corpus,
                    "subject": "",
                    "emotion": emotion,
                    "split": split,
                    "image": path.as_posix(),
                }


def refuse_absent(where: Path, absent: list[str], what: str, remedy: str) -> None:
    """Raise MerError when labelled images are not on disk: how many, and the first five."""
    if absent:
        raise MerError(f"{where}: {len(absent)} {what} missing: {listed(absent)}; {remedy}")


def emotion_of(text: str, codes: Mapping[int, str], where: str) -> str:
    """The emotion of a numeric code; sheets also write it as 3.0 or 3.0000000e+00."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value.is_integer() or int(value) not in codes:
        known = listed((f"{code} {name}" for code, name in codes.items()), len(codes))
        raise MerError(f"{where}: emotion is {text.strip()[:60]!r}, which is no code of this set ({known}); correct it")
    return codes[int(value)]


# ---- pixels as text -------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """One row of a csv file: its number (0 below the header), how messages call it, its cells by column."""

    row: int
    where: str
    cells: dict[str, str]


def read_csv(path: Path, columns: Iterable[str]) -> Iterator[Record]:
    """The rows of a csv file one after another, so that 300 MB of pixels are never held.

    Column names lose case and outer blanks (an edition writes ` pixels`); blank lines are no rows.

    Raises:
        MerError: no such file, columns missing (with those found) or there twice, a row of another length, no text, a
            line of more than MAX_LINE bytes.
    """
    header = None
    row = 0
    for number, _, line in _lines(path):
        if header is None:
            header = _header(path, line)
            missing = [c for c in columns if c not in header]
            if missing:
                found = listed((name[:60] for name in header), 12)
                raise MerError(f"{path}: columns {listed(missing)} are missing; found {found}")
            twice = [c for c in columns if header.count(c) > 1]
            if twice:
                raise MerError(f"{path}: columns {listed(twice)} stand there twice; keep the one that counts")
            continue
        yield _record(path, header, row, number, line)
        row += 1
    if header is None:
        raise MerError(f"{path}: is empty; put the set's file there again")


def pixel_rows(root: Path, path: Path, corpus: str, codes: Mapping[int, str]) -> Iterator[dict]:
    """Rows of an edition whose pixels stand in a csv file with the columns emotion, pixels, Usage.

    Raises:
        MerError: besides `read_csv`'s, an unknown code or Usage, or pixels that are not 48x48 numbers.
    """
    check_inside(path, root)
    for record in read_csv(path, ("emotion", "pixels", "usage")):
        usage = record.cells["usage"].strip()
        if usage.lower() not in SPLITS:
            raise MerError(f"{record.where}: Usage is {usage[:60]!r}; {suggestion(usage.lower()[:60], SPLITS)}")
        _count_pixels(record.cells["pixels"], record.where)
        yield {
            "id": f"{corpus}/row{record.row:06d}",  # six digits keep the order of numbers up to a million rows
            "corpus": corpus,
            "subject": "",
            "emotion": emotion_of(record.cells["emotion"], codes, record.where),
            "split": SPLITS[usage.lower()],
            "image": f"{path.as_posix()}#{record.row}",
        }


def parse_pixels(text: str, where: str) -> np.ndarray:
    """48x48 grey values, row by row and apart by blanks, as (48, 48) uint8. Raises MerError, naming `where`."""
    words = _count_pixels(text, where)
    wrong = [w for w in words if len(w) > 3 or int(w) > 255]  # 255 is the largest uint8, and has three digits
    if wrong:
        raise MerError(f"{where}: pixel {wrong[0][:9]} is above 255; put the file there again")
    return np.array(words, dtype="S3").astype(np.uint8).reshape(SIDE, SIDE)


def _count_pixels(text: str, where: str) -> list[str]:
    words = text.split()
    if len(words) != SIDE * SIDE:
        raise MerError(
            f"{where}: pixels holds {len(words)} numbers, needed are {SIDE * SIDE} ({SIDE}x{SIDE}); "
            "the file is damaged: put it there again"
        )
    digits = "".join(words)
    if not (digits.isascii() and digits.isdecimal()):
        wrong = next(w for w in words if not (w.isascii() and w.isdecimal()))
        raise MerError(f"{where}: pixel {wrong[:9]!r} is no number from 0 to 255; put the file there again")
    return words


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, offset in bytes, line) of every line that is not blank."""
    offset = 0
    with _opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
            if len(line) > MAX_LINE:
                raise MerError(f"{path}: line {number} has over {MAX_LINE} bytes; put the set's file there again")
            if line.strip():
                yield number, offset, line
            offset += len(line)


def _cells(where: str, line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8-sig").strip("\r\n")]))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MerError(f"{where}: is no csv text ({error}); put the file there again") from None


def _header(path: Path, line: bytes) -> tuple[str, ...]:
    return tuple(name.strip().lower() for name in _cells(f"{path}: the header", line))


def _record(path: Path, columns: tuple[str, ...], row: int, number: int, line: bytes) -> Record:
    where = f"{path}: row {row} (line {number})"
    cells = _cells(where, line)
    if len(cells) != len(columns):
        raise MerError(f"{where}: has {len(cells)} cells, the header {len(columns)}; the file is damaged: replace it")
    return Record(row, where, dict(zip(columns, cells, strict=True)))


@lru_cache(maxsize=4)  # the two sets that come as csv, each with a changed version
def _layout(path: Path, size: int, mtime: int) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Columns, offset and line number of every row: one pass, then any row is found by seeking.

    `size` and `mtime` are there for the cache: a replaced file is read anew.
    """
    found = _lines(path)
    header = next(found, None)
    if header is None:
        raise MerError(f"{path}: is empty; put the set's file there again")
    places = np.array([(offset, number) for number, offset, _ in found], dtype=np.int64).reshape(-1, 2)
    return _header(path, header[2]), places[:, 0], places[:, 1]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file of the set. Raises MerError where it is missing or no file, FileError where it is not handed out."""
    check_file(path)
    try:
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise MerError(f"{path}: the file is missing; put it there as docs/macro.md shows") from None
    except OSError as error:
        raise unreadable(path, error) from None
