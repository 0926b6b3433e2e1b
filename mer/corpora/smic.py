"""SMIC-HS: labels from its folders, `HS/s1/micro/negative/s1_ne_01/reg_image17581039.jpg`; apexes from a sheet, if any.

The corpus ships without a label sheet: subject, class and clip stand in the folder names, the first frame is the onset
(S-24), the last the offset, and the apex is the middle frame, as the papers take it. A public sheet of apexes
(`smic_apex.xlsx`, any name with "apex") lying in the corpus folder is used where it does. See docs/corpora.md.
"""

import os
import re
from pathlib import Path

import pandas as pd

from mer.corpora.layout import JUNK, Layout, check_inside, corpus_folder, index_table, read_frames, sheets_in
from mer.corpora.sheets import ANNOTATIONS, ENDINGS, RowErrors, SheetFormat, edition, numbered, read_sheet
from mer.errors import MerError, listed
from mer.storage.files import unreadable

FPS = 100.0
CLASSES = {3: {name: {name} for name in ("negative", "positive", "surprise")}}
# Counted from the released lists (fidelity 0.1).
FACTS = {
    "clips": 164,
    "subjects": 16,
    "selections": {3: {"subjects": 16, "counts": {"negative": 70, "positive": 51, "surprise": 43}}},
}
CODES = {"ne": "negative", "po": "positive", "sur": "surprise"}
_CLIP = re.compile(r"s(\d+)_(ne|po|sur)_(\d+)", re.IGNORECASE)
_SKIP = {"non_micro", "vis", "nir"}  # clips without expression, and the corpus's two slower cameras
_subject = numbered("s?", "s{:02d}")


def _told(clip: str) -> tuple[str, str] | None:
    """Subject and class by a clip's name."""
    match = _CLIP.fullmatch(clip)
    return (_subject(match[1]), CODES[match[2].lower()]) if match else None


SHEET_FORMAT = SheetFormat(
    corpus="smic",
    headings={
        "subject": "subject",
        "clip": "clip",
        "onset": "onset_frame",
        "apex": "apex_frame",
        "offset": "offset_frame",
        "emotion": "label",
    },
    emotions=frozenset(CLASSES[3]),
    subject=_subject,
    emotion=lambda text: {"0": "negative", "1": "positive", "2": "surprise"}.get(text, text.lower()),
    told=_told,
    editions={"009ffe3e3699": "the public sheet of apexes"},
    rows=164,
)
LAYOUT = Layout(
    fps=FPS,
    folders=lambda subject, video, clip: [],  # found by `_find_clips`
    normalise_folder=str.lower,
    prefer="(?:reg_)?image",
    example="image<number>.jpg",
    gaps=2,  # the owners' cropped frames lack one frame in three clips and two in s3_po_08; more is a damaged copy
)


def read_annotations(path: str | Path) -> pd.DataFrame:
    """Every clip of SMIC-HS, from the corpus folder or from a sheet of apexes.

    Args:
        path: the corpus folder, or the sheet (xlsx, xls, csv: subject, clip, label, onset_frame, apex_frame,
            offset_frame). The sheet lacks the offsets of seven clips: see corrections/smic.csv.

    Returns:
        DataFrame[subject ("s01"), clip ("s1_ne_01"), onset, apex, offset (frame numbers), emotion (negative, positive
        or surprise), aus (empty: SMIC has none), apex_source].

    Raises:
        MerError: no such folder or sheet, no clip, a clip in two places or in a folder of another class or subject; of
            a sheet what `casme2.read_annotations` refuses, and a row that says another than the clip's name.
    """
    path = Path(path)
    if path.suffix.lower() in ENDINGS:
        return read_sheet(path, SHEET_FORMAT)[ANNOTATIONS]
    return read_corpus(path)[ANNOTATIONS]


def read_corpus(root: str | Path, corpus: str = "smic", on_error: str = "stop") -> pd.DataFrame:
    """The index of SMIC-HS.

    Args:
        root: a folder with clip folders `s1_ne_01` anywhere below, raw or cropped, and perhaps a sheet of apexes.
        corpus, on_error: as in `casme2.read_corpus`.

    Returns:
        As `casme2.read_corpus`; `absent` names the frames that a clip lacks, two at most (the owners' copy has such
        clips). With a sheet, onset, apex and offset are its own, but a lacking offset is the last frame on disk.

    Raises:
        MerError: as `read_annotations`, or a missing frame.
    """
    errors = RowErrors(on_error, corpus)
    root = corpus_folder(root, corpus)
    clips = _find_clips(root)
    sheets = [p for p in sheets_in(root) if "apex" in p.name.lower()]
    if len(sheets) > 1:
        raise MerError(f"{root}: needs one sheet of apexes at most, found {listed(p.name for p in sheets)}; remove one")
    if sheets:
        check_inside(sheets[0], root, "sheet of apexes")
        table = read_sheet(sheets[0], SHEET_FORMAT, errors)
        known = {clip.lower() for clip in table["clip"]} | {i.split("/")[-1].lower() for i, _ in errors.excluded}
        unknown = sorted(clips.keys() - known)
        if unknown:
            raise MerError(f"{sheets[0]}: lacks {len(unknown)} clips that lie there: {listed(unknown)}; complete it")
    else:
        table = _from_folders(clips, root, errors)
    folders = [clips.get(clip.lower()) for clip in table["clip"]]
    if sheets:
        _real_offsets(table, folders, root)
    return index_table(table, folders, sheets[0].name if sheets else "the corpus", root, corpus, "smic", LAYOUT, errors)


def _find_clips(root: Path) -> dict[str, Path]:
    """Clip name in lower case -> its folder, in the order of names. Raises MerError as `read_annotations`."""
    found: dict[str, Path] = {}
    for folder, names, _ in os.walk(root, onerror=_refuse):  # which would leave a folder out without a word
        for name in names:
            match = _CLIP.fullmatch(name)
            if not match:
                continue
            path = Path(folder) / name
            above = [p.lower() for p in path.relative_to(root).parts[:-1]]
            classes = {p for p in above if p in CLASSES[3]}
            subjects = {int(p[1:]) for p in above if re.fullmatch(r"s\d+", p)}
            if classes - {CODES[match[2].lower()]} or subjects - {int(match[1])}:
                raise MerError(f"{path}: lies in a folder of another class or subject; move it where its name says")
            if name.lower() in found:
                raise MerError(
                    f"{root}: clip {name} lies in {found[name.lower()]} and {path}; leave the raw or the cropped "
                    "frames there, and make the other a corpus of its own"
                )
            found[name.lower()] = path
        skip = _SKIP | JUNK
        names[:] = sorted(n for n in names if not _CLIP.fullmatch(n) and n.lower() not in skip and n[0] != ".")
    if not found:
        raise MerError(
            f"{root}: has no clip folder named as s1_ne_01; unpack SMIC's HS folder there (HS/s1/micro/negative/...)"
        )
    return found


def _refuse(error: OSError) -> None:
    raise unreadable(error.filename, error) from None


def _from_folders(clips: dict[str, Path], root: Path, errors: RowErrors) -> pd.DataFrame:
    """Annotations from the names of the folders."""
    long = [path.name for path in clips.values() if path.parent.name.lower() not in CLASSES[3]]
    if long:
        raise MerError(
            f"{len(long)} clips lie in no folder negative, positive or surprise ({listed(long)}), as in SMIC-E, whose "
            "clips begin before the onset; put smic_apex.xlsx into the corpus folder, or use SMIC_all_cropped or _raw"
        )
    rows = []
    for path in clips.values():
        number, code, _ = path.name.split("_")  # `_find_clips` takes no other names
        subject = _subject(number[1:])
        try:
            numbers = read_frames(path, root, LAYOUT.prefer, LAYOUT.example).numbers
        except MerError as error:
            errors.add(subject, path.name, error)
            continue
        rows.append(
            {
                "subject": subject,
                "clip": path.name,
                "onset": numbers[0],
                "apex": (numbers[0] + numbers[-1]) // 2,
                "offset": numbers[-1],
                "emotion": CODES[code.lower()],
                "aus": "",
                "apex_source": "middle",
            }
        )
    table = pd.DataFrame(rows, columns=ANNOTATIONS)
    table.attrs["edition"] = edition(table, SHEET_FORMAT, "names of folders")
    return table


def _real_offsets(table: pd.DataFrame, folders: list[Path | None], root: Path) -> None:
    """Where the sheet had no offset, the last frame on disk, in place of the corrections' estimate."""
    filled = {clip for clip, column, *_ in table.attrs["corrected"] if column == "offset"}
    for place, (row, folder) in enumerate(zip(table.itertuples(), folders, strict=True)):
        if folder is not None and f"{row.subject}/{row.clip}" in filled:
            numbers = read_frames(folder, root, LAYOUT.prefer, LAYOUT.example).numbers
            table.loc[table.index[place], "offset"] = max(row.apex, numbers[-1])
