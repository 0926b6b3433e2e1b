"""RAF-DB, the single-label (basic) part: faces from the web with crowd-sourced labels.

Read are the release (`basic/EmoLabel/list_patition_label.txt` with `basic/Image/aligned` or `original`) and the
edition that sorts the aligned faces into folders, `DATASET/train/1/train_00001_aligned.jpg`.
"""

import re
from pathlib import Path

import pandas as pd

from mer.errors import MerError, suggestion
from mer.macro import tables
from mer.macro.tables import load_image as load_image

# Codes of list_patition_label.txt, by the release's own readme.
CODES = dict(enumerate(("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"), start=1))
CLASSES = {3: tables.THREE, 7: tables.one_each(*CODES.values())}

_SHEET = "EmoLabel/list_patition_label.txt"  # the release's own spelling
_NAMES = {"aligned": "{}_aligned.jpg", "original": "{}.jpg"}
_LINE = re.compile(r"(?P<stem>(?P<split>train|test)_\d+)\.jpg\s+(?P<code>\S+)")


def read_macro(root: str | Path, images: str = "aligned") -> pd.DataFrame:
    """Every labelled image of the basic part.

    Args:
        root: folder with one of the editions above.
        images: `aligned` (100x100 faces) or `original` (the photographs), as far as the edition has it.

    Returns:
        DataFrame with the columns of mer.macro.tables.COLUMNS; the subjects are unknown. Images on disk that the
        list does not name are counted in `.attrs["excluded"]`, `.attrs["edition"]` names the edition.

    Raises:
        MerError: no edition or several, a line of the sheet that cannot be read, an unknown code, images missing.
    """
    if images not in _NAMES:
        raise MerError(f"images is {images!r}; {suggestion(images, _NAMES)}")
    layouts = {f"basic/{_SHEET}": "basic", _SHEET: ".", "DATASET/train": "DATASET", "train": "folders"}
    root, edition = tables.open_root(root, layouts)
    if edition in ("basic", "."):
        table = _read_release(root, root / edition, images)
        table.attrs["edition"] = f"{Path(_SHEET).name}, {images}"
        return table
    if images != "aligned":
        raise MerError(f"{root}: this edition has aligned faces only, images is {images!r}; use the release or aligned")
    base = root / "DATASET" if edition == "DATASET" else root
    emotions = {str(code): name for code, name in CODES.items()}
    rows = tables.folder_rows(root, base, "rafdb", emotions, {"train": "train", "test": "test"})
    table = tables.make_table(root, rows)
    table.attrs["edition"] = "folders"
    return table


def _read_release(root: Path, base: Path, images: str) -> pd.DataFrame:
    sheet, folder = base / _SHEET, base / "Image" / images
    if not folder.is_dir():
        raise MerError(f"{folder}: there is no such folder; unpack Image/{images}.zip there")
    tables.check_inside(sheet, root)
    on_disk = {p.name: p for p in tables.entries(folder, root) if p.suffix.lower() in tables.IMAGES}
    rows, absent = [], []
    text = tables.read_text(sheet, "utf-8-sig", "put the release's file")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{sheet}: line {number}"
        label = _LINE.fullmatch(line.strip())
        # The pattern knows no separator, so no line leads out of the folder.
        if label is None:
            raise MerError(f"{where}: is {line.strip()[:60]!r}, needed is like 'train_00001.jpg 5'; correct the line")
        emotion = tables.emotion_of(label["code"], CODES, where)
        path = on_disk.get(_NAMES[images].format(label["stem"]))
        if path is None:
            absent.append(_NAMES[images].format(label["stem"]))
            continue
        rows.append(
            {
                "id": f"rafdb/{label['stem']}",
                "corpus": "rafdb",
                "subject": "",
                "emotion": emotion,
                "split": label["split"],
                "image": path.as_posix(),
            }
        )
    tables.refuse_absent(folder, absent, f"images of {sheet.name} are", f"unpack Image/{images}.zip there again")
    return tables.make_table(root, rows, {"not in the label list": len(on_disk) - len(rows)})
