"""CASME II: its label sheet and its frames, as `sub01/EP02_01f/img46.jpg` below the corpus folder.

Raw (`CASME2_RAW_selected/sub01/EP02_01f/img46.jpg`) and cropped (`Cropped/sub01/EP02_01f/reg_img46.jpg`) frames are
read alike, with or without the wrapping folder. See docs/corpora.md.
"""

from pathlib import Path

import pandas as pd

from mer.corpora.layout import Layout, read_with_sheet
from mer.corpora.sheets import ANNOTATIONS, SheetFormat, numbered, read_sheet

FPS = 200.0
# Sadness and fear (7 and 2 clips) are in no selection (fidelity 0.1, D-15).
CLASSES = {
    3: {"negative": {"disgust", "repression"}, "positive": {"happiness"}, "surprise": {"surprise"}},
    5: {name: {name} for name in ("happiness", "disgust", "repression", "surprise", "others")},
}
# Counted from CASME2-coding-20140508.xlsx (fidelity 0.1).
FACTS = {
    "clips": 255,
    "subjects": 26,
    "selections": {
        3: {"subjects": 24, "counts": {"negative": 90, "positive": 32, "surprise": 25}},
        5: {
            "subjects": 26,
            "counts": {"happiness": 32, "disgust": 63, "repression": 27, "surprise": 25, "others": 99},
        },
    },
}
_subject = numbered("(?:sub)?", "sub{:02d}")
SHEET_FORMAT = SheetFormat(
    corpus="casme2",
    headings={
        "subject": "Subject",
        "clip": "Filename",
        "onset": "OnsetFrame",
        "apex": "ApexFrame",
        "offset": "OffsetFrame",
        "aus": "Action Units",
        "emotion": "Estimated Emotion",
    },
    emotions=frozenset({"happiness", "disgust", "repression", "surprise", "others", "sadness", "fear"}),
    subject=_subject,
    editions={"f9416d09a354": "20140508 with apex 300 filled in for sub04/EP12_01f", "315137adec7c": "20140508"},
    rows=255,
)
LAYOUT = Layout(
    fps=FPS,
    folders=lambda subject, video, clip: [(subject, video)],
    normalise_folder=lambda name: _subject(name).lower(),
    prefer="(?:reg_)?img",
    example="img<number>.jpg",
)


def read_annotations(path: str | Path) -> pd.DataFrame:
    """Every row of the label sheet.

    Args:
        path: the xlsx as it ships, or the same as xls or csv.

    Returns:
        DataFrame[subject ("sub01"), clip, onset, apex, offset (frame numbers), emotion (lower case), aus, apex_source].
        An apex that the annotators left out ("/") is the middle frame, with apex_source `middle`.

    Raises:
        MerError: no such file, other columns, a clip in two rows, a cell that is no number, an unknown emotion, or
            onset <= apex <= offset violated.
    """
    return read_sheet(path, SHEET_FORMAT)[ANNOTATIONS]


def read_corpus(root: str | Path, corpus: str = "casme2", on_error: str = "stop") -> pd.DataFrame:
    """The index of a corpus in this layout: its annotations, each checked against the frames on disk.

    Args:
        root: folder with one label sheet and the frames, `sub01/EP02_01f/img46.jpg`, wrapped in up to three folders.
        corpus: the name that ids begin with.
        on_error: `stop` at the first clip with a fault, or `exclude` and list every one.

    Returns:
        DataFrame with the columns of mer.clips.COLUMNS but `digest`, and `absent` (empty here), every row of the sheet;
        `.attrs["excluded"]` and `.attrs["corrected"]` as in `layout.index_table`.

    Raises:
        MerError: no sheet or several, a clip without folder, an annotation outside the clip, a missing frame.
    """
    return read_with_sheet(root, corpus, SHEET_FORMAT, LAYOUT, on_error)
