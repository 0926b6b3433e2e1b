"""CASME II: its label sheet and its frames, as `sub01/EP02_01f/img46.jpg` below the corpus folder."""

import re
from pathlib import Path

import pandas as pd

from mer.errors import MerError, listed

FPS = 200.0
# Sadness and fear (7 and 2 clips) are in no selection (fidelity 0.1, D-15).
CLASSES = {
    3: {"negative": {"disgust", "repression"}, "positive": {"happiness"}, "surprise": {"surprise"}},
    5: {name: {name} for name in ("happiness", "disgust", "repression", "surprise", "others")},
}
_COLUMNS = {
    "subject": "Subject",
    "clip": "Filename",
    "onset": "OnsetFrame",
    "apex": "ApexFrame",
    "offset": "OffsetFrame",
    "aus": "Action Units",
    "emotion": "Estimated Emotion",
}
_FRAME = re.compile(r"^img(\d+)\.jpg$")


def read_annotations(path: str | Path) -> pd.DataFrame:
    """Every row of the label sheet.

    Args:
        path: the xlsx as it ships.

    Returns:
        DataFrame[subject ("sub01"), clip, onset, apex, offset (frame numbers), emotion (lower case), aus, apex_source].
        An apex that the annotators left out ("/") is the middle frame, with apex_source `middle`.

    Raises:
        MerError: no such file, other columns, a cell that is no number, or onset <= apex <= offset violated.
    """
    path = Path(path)
    try:
        sheet = pd.read_excel(path, dtype=str)
    except FileNotFoundError:
        raise MerError(f"{path}: the label sheet is missing; put the corpus's xlsx there") from None
    except Exception as error:  # openpyxl and zipfile raise a dozen kinds for a damaged file
        raise MerError(f"{path}: cannot be read as xlsx ({error}); get the label sheet again") from error
    sheet.columns = [str(c).strip() for c in sheet.columns]
    missing = [c for c in _COLUMNS.values() if c not in sheet]
    if missing:
        raise MerError(f"{path}: columns {listed(missing)} are missing; found {listed(sheet.columns, 12)}")
    sheet = sheet[list(_COLUMNS.values())].dropna(how="all")
    table = pd.DataFrame({name: sheet[column].fillna("").str.strip() for name, column in _COLUMNS.items()})
    rows = [_row(path, line) for line in table.to_dict("records")]
    return pd.DataFrame(rows, columns=["subject", "clip", "onset", "apex", "offset", "emotion", "aus", "apex_source"])


def _row(path: Path, line: dict) -> dict:
    clip = f"subject {line['subject']} clip {line['clip']}"

    def number(name: str) -> int:
        if not re.fullmatch(r"\d+(\.0+)?", line[name]):  # spreadsheets write 46 as 46.0
            raise MerError(f"{path}: {clip}: {_COLUMNS[name]} is {line[name]!r}, needed is a frame number")
        return int(float(line[name]))

    # "1", "01" and "sub01" are one subject; any other text is the name of its folder.
    plain = re.fullmatch(r"(?:sub)?(\d+)(?:\.0+)?", line["subject"])
    subject = f"sub{int(plain[1]):02d}" if plain else line["subject"]
    if not subject or not line["clip"]:
        raise MerError(f"{path}: a row has no subject or no file name ({clip}); complete the row")
    onset, offset = number("onset"), number("offset")
    annotated = line["apex"] not in ("/", "")
    apex = number("apex") if annotated else (onset + offset) // 2
    if not onset <= apex <= offset:
        raise MerError(f"{path}: {clip}: onset {onset}, apex {apex}, offset {offset} are out of order; correct the row")
    return {
        "subject": subject,
        "clip": line["clip"],
        "onset": onset,
        "apex": apex,
        "offset": offset,
        "emotion": line["emotion"].lower(),
        "aus": line["aus"],
        "apex_source": "annotated" if annotated else "middle",
    }


def read_corpus(root: str | Path, corpus: str = "casme2") -> pd.DataFrame:
    """The index of a corpus in this layout: its annotations, each checked against the frames on disk.

    Args:
        root: folder with one label sheet (`*.xlsx`) and the frames, `sub01/EP02_01f/img46.jpg`.
        corpus: the name that ids begin with.

    Returns:
        DataFrame with the columns of mer.clips.COLUMNS, every row of the sheet.

    Raises:
        MerError: no sheet or several, a clip without folder, an annotation outside the clip, a missing frame.
    """
    root = Path(root)
    if not root.is_dir():
        raise MerError(f"{root}: there is no such folder; unpack the corpus there or correct index.runs.{corpus}.raw")
    sheets = sorted(p for p in root.glob("*.xlsx") if not p.name.startswith("~"))
    if len(sheets) != 1:
        found = listed(p.name for p in sheets) or "none"
        raise MerError(f"{root}: needs exactly one label sheet (*.xlsx), found {found}")
    table = read_annotations(sheets[0])
    absent = [f"{r.subject}/{r.clip}" for r in table.itertuples() if not (root / r.subject / r.clip).is_dir()]
    if absent:
        raise MerError(f"{root}: {len(absent)} clips of {sheets[0].name} have no folder: {listed(absent)}; unpack them")
    for row in table.itertuples():
        _check_frames(root / row.subject / row.clip, row)
    return table.assign(
        id=corpus + "/" + table["subject"] + "/" + table["clip"],
        corpus=corpus,
        fps=FPS,
        frame=[(root / r.subject / r.clip / "img{}.jpg").as_posix() for r in table.itertuples()],
    )


def _check_frames(folder: Path, row) -> None:
    numbers = {int(m[1]) for p in folder.iterdir() if (m := _FRAME.match(p.name))}
    if not numbers:
        raise MerError(f"{folder}: has no frame named img<number>.jpg; unpack the clip again")
    first, last = min(numbers), max(numbers)
    if row.onset < first or row.offset > last:
        raise MerError(
            f"{folder}: the label sheet says frames {row.onset} to {row.offset}, on disk are {first} to {last}; "
            "the annotation points outside the clip: correct the row or unpack the whole clip"
        )
    missing = [n for n in range(row.onset, row.offset + 1) if n not in numbers]
    if missing:
        raise MerError(
            f"{folder}/img{missing[0]}.jpg: frame is missing ({len(missing)} of {row.offset - row.onset + 1} are); "
            "unpack the clip again"
        )
