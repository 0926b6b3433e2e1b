"""FER-2013: 48x48 grey faces from the web, with the competition's labels or FER+'s ten votes an image.

Read are `fer2013.csv` (or the same rows as `icml_face_data.csv`) and the edition that sorts the faces into folders,
`train/angry/xxx.jpg`. FER+ is `fer2013new.csv`, beside the csv.

FER+ belongs to the csv row by row, as its authors use it. The number in its column `Image name` is **not** the
row: names count some of the rows without a face and not others, so row 60 is fer0000059.png and the distance grows. So
rows are paired in order, and the pairing is checked against both files: the number of rows, Usage in every row,
and names that rise and are never ahead of their row.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mer.errors import MerError
from mer.macro import tables
from mer.macro.tables import load_image as load_image

# Codes of fer2013.csv, by the competition's own readme.
CODES = dict(enumerate(("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")))
# FER+'s columns, in its order; after them `unknown` and `NF` (no face).
VOTED = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
_COLUMNS = (*VOTED, "unknown", "nf")

CLASSES = {3: tables.THREE, 7: tables.one_each(*CODES.values()), 8: tables.one_each(*VOTED)}  # eight only with FER+
LABELS = ("fer", "ferplus")
MAJORITIES = ("half", "most")
_FERPLUS = "fer2013new.csv"
_NAME = re.compile(r"fer(\d{1,9})\.png")


def read_macro(root: str | Path, labels: str = "fer", majority: str = "half") -> pd.DataFrame:
    """Every image of the set that has a label.

    Args:
        root: folder with one of the editions above.
        labels: `fer` (the competition's, which DCMA's counts are of) or `ferplus` (FER+'s votes).
        majority: which emotion ten votes make, see `majority_label`.

    Returns:
        DataFrame with the columns of mer.macro.tables.COLUMNS; the subjects are unknown. With `ferplus` also
        `vote_<emotion>` for its eight emotions: shares of the votes that name one of them, sum 1. Images without a
        majority, or whose majority is unknown or NF, are counted in `.attrs["excluded"]`; `.attrs["edition"]` names
        the edition.

    Raises:
        MerError: no edition or several, a damaged row, an unknown code, or votes that belong to other rows.
    """
    for name, value, valid in (("labels", labels, LABELS), ("majority", majority, MAJORITIES)):
        if value not in valid:
            # No suggestion: of "fer+" it would make "fer".
            raise MerError(f"{name} is {value!r}; set it to {' or '.join(valid)}")
    files = ("fer2013.csv", "icml_face_data.csv")
    root, edition = tables.open_root(root, {**{name: name for name in files}, "train": "folders"})
    if edition == "folders":
        if labels == "ferplus":
            raise MerError(f"{root}: FER+ belongs to the rows of fer2013.csv; put that there instead of the folders")
        table = tables.make_table(root, _read_folders(root))
    else:
        rows = tables.pixel_rows(root, root / edition, "fer2013", CODES)
        table = tables.make_table(root, rows) if labels == "fer" else _with_votes(root, list(rows), majority)
    table.attrs["edition"] = edition if labels == "fer" else f"{edition} with {_FERPLUS}, majority {majority}"
    return table


def _read_folders(root: Path) -> Iterator[dict]:
    emotions = {word: name for word, name in tables.EMOTIONS.items() if name in CODES.values()}
    splits = {"train": "train", "validation": "val", "val": "val", "test": "test"}
    return tables.folder_rows(root, root, "fer2013", emotions, splits)


def majority_label(votes: np.ndarray, majority: str = "half") -> str:
    """The label that votes over FER+'s ten columns give.

    Args:
        votes: ten counts, in the order of the file: eight emotions, unknown, NF.
        majority: `half` is FER+'s authors' rule: a vote that stands alone in its column counts as an outlier and is
            dropped, and the winner needs more than half of the rest. `most`: the winner has more votes than any other.

    Returns:
        an emotion, or why there is none: `unknown`, `NF`, `no majority`.
    """
    votes = np.asarray(votes)
    if majority == "half":
        votes = np.where(votes > 1, votes, 0)
        won = 2 * votes.max() > votes.sum()
    else:
        won = (votes == votes.max()).sum() == 1
    return (*VOTED, "unknown", "NF")[int(votes.argmax())] if won else "no majority"


def _with_votes(root: Path, rows: list[dict], majority: str) -> pd.DataFrame:
    path = root / _FERPLUS
    tables.check_inside(path, root)
    excluded: Counter[str] = Counter()
    kept, last_name, count = [], -1, 0
    for record in tables.read_csv(path, ("usage", "image name", *_COLUMNS)):
        count += 1
        if count > len(rows):
            continue  # counted on for the message below
        row = rows[record.row]
        usage = record.cells["usage"].strip()
        if tables.SPLITS.get(usage.lower()) != row["split"]:
            raise MerError(
                f"{record.where}: Usage is {usage[:60]!r}, in {row['image']} it is the one of {row['split']}; "
                "FER+ is matched row by row: use both files as they were published"
            )
        name = record.cells["image name"].strip()
        if name:
            found = _NAME.fullmatch(name)
            number = int(found[1]) if found else -1
            if not last_name < number <= record.row:
                raise MerError(
                    f"{record.where}: Image name {name[:60]!r} is out of order; use {_FERPLUS} as it was published"
                )
            last_name = number
        votes = _votes(record)
        label = majority_label(votes, majority)
        if label not in VOTED:
            excluded[label] += 1
        elif not name:
            excluded["no image name"] += 1  # FER+'s authors leave these out, whatever the votes
        else:
            shares = votes[: len(VOTED)] / votes[: len(VOTED)].sum()
            columns = {f"vote_{emotion}": float(s) for emotion, s in zip(VOTED, shares, strict=True)}
            kept.append({**row, "emotion": label, **columns})
    if count != len(rows):
        raise MerError(
            f"{path}: has {count} rows, the pixels {len(rows)}; FER+ is matched row by row: "
            "use both files as they were published"
        )
    return tables.make_table(root, kept, excluded)


def _votes(record: tables.Record) -> np.ndarray:
    words = [record.cells[column].strip() for column in _COLUMNS]
    # Ten people voted; three digits leave room and keep every sum small.
    if not all(re.fullmatch(r"[0-9]{1,3}", w) for w in words) or not any(int(w) for w in words):
        raise MerError(f"{record.where}: votes are {' '.join(words)[:60]!r}, needed are ten counts; replace the file")
    return np.array([int(w) for w in words])
