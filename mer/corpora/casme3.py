"""CAS(ME)3, part A: the label sheet of its micro-expressions, and its colour frames.

Either the whole videos (`part_A/spNO.1/a/color/175.jpg`) or the cut clips (`Part_A_ME_clip/frame/spNo.1_a_355/355.jpg`)
are read. A video holds several micro-expressions, so a clip is named after its video and onset: `a_355`.
See docs/corpora.md, also for why the papers' 1,109 clips are not these 860.
"""

from pathlib import Path

import pandas as pd

from mer.corpora.layout import Layout, read_with_sheet
from mer.corpora.sheets import ANNOTATIONS, NUMBER, SheetFormat, numbered, read_sheet

FPS = 30.0  # of its colour camera
_NEGATIVE = {"anger", "disgust", "fear", "sad"}
# M-17: the papers print no class lists; three classes are four without `others`.
CLASSES = {
    3: {"negative": _NEGATIVE, "positive": {"happy"}, "surprise": {"surprise"}},
    4: {"negative": _NEGATIVE, "positive": {"happy"}, "surprise": {"surprise"}, "others": {"others"}},
    7: {name: {name} for name in ("happy", "surprise", "anger", "disgust", "fear", "sad", "others")},
}
# Counted from the label sheet of part A, v2 (fidelity 0.1).
FACTS = {
    "clips": 860,
    "subjects": 94,
    "selections": {
        3: {"subjects": 88, "counts": {"negative": 457, "positive": 55, "surprise": 187}},
        4: {"subjects": 94, "counts": {"negative": 457, "positive": 55, "surprise": 187, "others": 161}},
        7: {
            "subjects": 94,
            "counts": {
                "happy": 55,
                "surprise": 187,
                "anger": 64,
                "disgust": 250,
                "fear": 86,
                "sad": 57,
                "others": 161,
            },
        },
    },
}
_subject = numbered(r"(?:spno\.?)?", "spNO.{}")


def _clip(name: str, onset: str) -> str:
    number = NUMBER.fullmatch(onset)  # spreadsheets write 355 as 355.0
    return f"{name}_{int(number[1]) if number else onset}"


def _folders(subject: str, video: str, clip: str) -> list[tuple[str, ...]]:
    cut = f"{subject}_{clip}"
    return [(subject, video, "color"), (subject, video), (cut, "color"), (cut,)]


SHEET_FORMAT = SheetFormat(
    corpus="casme3",
    headings={
        "subject": "Subject",
        "clip": "Filename",
        "onset": "Onset",
        "apex": "Apex",
        "offset": "Offset",
        "aus": "AU",
        "emotion": "emotion",
    },
    emotions=frozenset(CLASSES[7]),
    subject=_subject,
    clip=_clip,
    editions={"9059118af697": "part A, v2"},
    other_editions={921: "v1, the owners' older edition"},
    rows=860,
)
LAYOUT = Layout(
    fps=FPS,
    folders=_folders,
    normalise_folder=lambda name: _subject(name).lower(),  # the sheet says spNO.14/J, the folders spNo.14/j
    prefer="",
    example="<number>.jpg",
    skip=frozenset({"depth", "video"}),  # the depth maps and films beside the colour frames
    # Its owners: about a tenth of the clips lack frames; recordings often lack their first 7 or 8, and a few later on.
    gaps=8,
    share=1 / 3,
    ends=True,
    shared=True,  # a video holds several clips
)


def read_annotations(path: str | Path) -> pd.DataFrame:
    """Every row of the label sheet of part A.

    Args:
        path: the xlsx as it ships, or the same as xls or csv.

    Returns:
        DataFrame[subject ("spNO.1"), clip ("a_355": video and onset), onset, apex, offset (frame numbers), emotion
        (lower case), aus, apex_source]. Impossible onsets, apexes and offsets are corrected, see
        corrections/casme3.csv; `.attrs["edition"]` names the edition.

    Raises:
        MerError: as in `casme2.read_annotations`.
    """
    return read_sheet(path, SHEET_FORMAT)[ANNOTATIONS]


def read_corpus(root: str | Path, corpus: str = "casme3", on_error: str = "stop") -> pd.DataFrame:
    """The index of part A: its annotations, each checked against the colour frames on disk.

    Args:
        root: folder with one label sheet and the frames, `spNO.1/a/color/175.jpg` or `spNo.1_a_355/355.jpg`, wrapped
            in up to three folders.
        corpus, on_error: as in `casme2.read_corpus`.

    Returns:
        As `casme2.read_corpus`; `absent` names the frames that a clip lacks: 8 at most, and a third of the clip (its
        owners say that about a tenth of the clips lack frames). An onset, apex or offset among them moves to the
        nearest frame inside the clip, which is listed in `.attrs["corrected"]`.

    Raises:
        MerError: as in `casme2.read_corpus`; more frames lack, or none is left to tell the apex from the onset.
    """
    return read_with_sheet(root, corpus, SHEET_FORMAT, LAYOUT, on_error)
