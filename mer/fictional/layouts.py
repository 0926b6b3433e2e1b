"""Writes a corpus as its owners ship it: the label sheet and the frames of fictional clips.

Every maker writes below `root` and returns the folder that a reader is pointed at. `picture(subject, number)` draws a
frame as (H, W) or (H, W, 3) uint8, grey or RGB.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openpyxl
import pandas as pd

from mer.errors import MerError

Picture = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Take:
    """One clip: subject number, file name, frames, the sheet's word for the emotion, action units."""

    subject: int
    name: str
    onset: int
    apex: int | str
    offset: int
    emotion: str
    aus: str = "4"


PREFACE = (
    ["Spontaneous micro-movements"],
    [],
    ["Please cite:", "", "Someone et al."],
    ["Action units: L left, R right"],
    ["Subject numbers are those of the videos"],
    *([[]] * 7),
    ["Micro-expressions"],
)  # fmt: skip  (13 rows, as many as SAMM's sheet has)


def draw(path: Path, image: np.ndarray) -> None:
    """Write a picture, grey or RGB, in the format that its name ends with. Raises MerError where it cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image):
        raise MerError(f"{path}: cannot be written; make room on the disk, or name another folder")


def write_sheet(path: Path, rows: list[list[Any]], worksheet: str = "Sheet1") -> Path:
    """Rows of cells as xlsx (with an empty second worksheet, as real ones have), xls or csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        width = max(map(len, rows))
        padded = [[*row, *[""] * (width - len(row))] for row in rows]
        pd.DataFrame(padded).to_csv(path, header=False, index=False)
    elif path.suffix == ".xls":
        path.write_bytes(_biff2(rows))
    else:
        book = openpyxl.Workbook()
        book.active.title = worksheet
        for r, row in enumerate(rows, start=1):
            for c, cell in enumerate(row, start=1):
                if cell != "":
                    book.active.cell(r, c, cell)
            if len(row) == 1:  # a title, merged over the columns
                book.active.merge_cells(start_row=r, end_row=r, start_column=1, end_column=7)
        book.create_sheet("empty")
        book.save(path)
    return path


def _biff2(rows: list[list[Any]]) -> bytes:
    """The oldest xls there is, every cell a text: no installed package writes a newer one."""
    records = [struct.pack("<HHHH", 0x0009, 4, 7, 0x10)]  # beginning of a worksheet
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            if cell not in ("", None):
                text = str(cell).encode("latin-1")
                records.append(struct.pack("<HHHH3xB", 0x0004, 8 + len(text), r, c, len(text)) + text)
    return b"".join([*records, struct.pack("<HH", 0x000A, 0)])


def _frames(folder: Path, take: Take, name: str, picture: Picture, pad: int = 2, skip: tuple[int, ...] = ()) -> None:
    """Frames from `pad` before the onset to `pad` after the offset, called `name.format(number)`."""
    for number in range(max(0, take.onset - pad), take.offset + pad + 1):
        if number not in skip:
            draw(folder / name.format(number), picture(take.subject, number))


def casme2(root: Path, style: str = "raw", *, takes: Iterable[Take], picture: Picture, sheet: str = "xlsx") -> Path:
    """`style`: raw | cropped (in the owners' wrapping folders) | bare (subjects directly below root)."""
    base = root / {"raw": "CASME2_RAW_selected", "cropped": "Cropped", "bare": "."}[style]
    for take in takes:
        name = "reg_img{}.jpg" if style == "cropped" else "img{}.jpg"
        # The cropped frames are those from onset to offset, the raw ones begin earlier.
        _frames(base / f"sub{take.subject:02d}" / take.name, take, name, picture, 0 if style == "cropped" else 2)
    # With the unnamed columns of the sheet as it ships.
    rows: list[list[Any]] = [["Subject", "Filename", "", "OnsetFrame", "ApexFrame", "OffsetFrame", "", "Action Units",
             "Estimated Emotion"]]  # fmt: skip
    rows += [[t.subject, t.name, "", t.onset, t.apex, t.offset, "", t.aus, t.emotion] for t in takes]
    write_sheet(root / f"CASME2-coding-20140508.{sheet}", rows)
    # Shipped beside it: another sheet, which is no label sheet.
    write_sheet(root / "CASME2-ObjectiveClasses.xlsx", [["Subject", "Filename", "Objective Class"], [1, "EP01_01", 3]])
    return root


def samm(
    root: Path, style: str = "wrapped", *, preface: bool = False, takes: Iterable[Take], picture: Picture,
    sheet: str = "xlsx", ending: str = "jpg",
) -> Path:  # fmt: skip
    """`style`: wrapped (SAMM/006/...) | bare."""
    base = root / "SAMM" if style == "wrapped" else root
    for take in takes:
        name = f"{take.subject:03d}_{{:05d}}.{ending}"
        _frames(base / f"{take.subject:03d}" / take.name, take, name, picture)
    rows: list[list[Any]] = [list(row) for row in PREFACE] if preface else []
    rows += [["Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Duration",
              "Micro", "Action Units", "Estimated Emotion", "Objective Classes", "Notes"]]  # fmt: skip
    rows += [
        [f"{t.subject:03d}", t.name, 1, t.onset, t.apex, t.offset, t.offset - t.onset + 1, "Micro - 1/2", t.aus,
         t.emotion, 3, "" if t.subject % 2 else "While blinking"]
        for t in takes
    ]  # fmt: skip
    write_sheet(root / f"SAMM_Micro_FACS_Codes_v2.{sheet}", rows, "MICRO_ONLY")
    return root


def casme3(
    root: Path, style: str = "videos", *, takes: Iterable[Take], picture: Picture, depth: Picture | None = None,
    sheet: str = "xlsx",
) -> Path:  # fmt: skip
    """`style`: videos (part_A/data/part_A/spNO.1/a/color) | clips (Part_A_ME_clip/frame/spNo.1_a_355).

    depth: draws the depth maps beside the colour frames, which no reader takes; None: `picture`.
    """
    depth = depth or picture
    for take in takes:
        video = take.name.lower()  # whatever the sheet says
        if style == "videos":
            base = root / "part_A/data/part_A" / f"spNO.{take.subject}" / video
            _frames(base / "color", take, "{}.jpg", picture)
            _frames(base / "depth", take, "{}.png", depth)
        else:
            clip = f"spNo.{take.subject}_{video}_{take.onset}"
            _frames(root / "Part_A_ME_clip/frame" / clip, take, "{}.jpg", picture, 0)
            _frames(root / "Part_A_ME_clip/depth" / clip, take, "{}.png", depth, 0)
    rows = [["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"]]
    rows += [
        [f"spNO.{t.subject}", t.name, str(t.onset), str(t.apex), str(t.offset), t.aus, "VII", t.emotion] for t in takes
    ]
    folder = root / "part_A/annotation" if style == "videos" else root
    write_sheet(folder / f"cas(me)3_part_A_ME_label_JpgIndex_v2.{sheet}", rows, "label")
    return root


def smic(
    root: Path, style: str = "cropped", *, apexes: bool = False, takes: Iterable[Take], picture: Picture,
    absent: dict[str, tuple[int, ...]] | None = None,
) -> Path:  # fmt: skip
    """`style`: cropped | raw | long (SMIC-E: longer clips, no class folders). `absent`: clip -> frames left out."""
    for take in takes:
        if style == "cropped":
            folder = root / f"SMIC_all_cropped/HS/s{take.subject}/micro/{take.emotion}" / take.name
        elif style == "raw":
            folder = root / f"SMIC_all_raw/HS/s{take.subject:02d}/micro/{take.emotion}" / take.name
        else:
            folder = root / f"HS_long/SMIC_HS_E/s{take.subject:02d}" / take.name
        name = ("reg_image{:06d}" if style == "cropped" else "image{:06d}") + (".bmp" if style == "raw" else ".jpg")
        _frames(folder, take, name, picture, 3 if style == "long" else 0, (absent or {}).get(take.name, ()))
    if style != "long":  # what else lies there: clips without expression, and another camera
        flat = np.full((4, 6), 38, np.uint8)
        draw(next(root.glob("*/HS/s*1/")) / "non_micro/s1_non_01/image1.jpg", flat)
        draw(next(root.glob("SMIC_all_*")) / "NIR/s1/micro/negative/s1_ne_01/image1.jpg", flat)
    if apexes:
        number = {"negative": 0, "positive": 1, "surprise": 2}
        rows: list[list[Any]] = [["data", "subject", "clip", "label", "onset_frame", "apex_frame", "offset_frame"]]
        rows += [["smic", t.subject, t.name, number[t.emotion], t.onset, t.apex, t.offset] for t in takes]
        write_sheet(root / "smic_apex.xlsx", rows)
    return root
