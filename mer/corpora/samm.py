"""SAMM: its label sheet, with or without the preface rows, and its grey frames, as `006/006_1_2/006_05562.jpg`.

See docs/corpora.md.
"""

from pathlib import Path

import pandas as pd

from mer.corpora.layout import Layout, read_with_sheet
from mer.corpora.sheets import ANNOTATIONS, SheetFormat, numbered, read_sheet

FPS = 200.0
# Five classes as in UAMRN 4.1; three as in MEGC2019, where sadness is negative (fidelity 0.1, D-15).
CLASSES = {
    3: {
        "negative": {"anger", "contempt", "disgust", "fear", "sadness"},
        "positive": {"happiness"},
        "surprise": {"surprise"},
    },
    5: {name: {name} for name in ("anger", "happiness", "contempt", "surprise", "other")},
}
# Counted from the label sheet (fidelity 0.1).
FACTS = {
    "clips": 159,
    "subjects": 29,
    "selections": {
        3: {"subjects": 28, "counts": {"negative": 92, "positive": 26, "surprise": 15}},
        5: {"subjects": 27, "counts": {"anger": 57, "happiness": 26, "contempt": 12, "surprise": 15, "other": 26}},
    },
}
_subject = numbered("", "{:03d}")
SHEET_FORMAT = SheetFormat(
    corpus="samm",
    headings={
        "subject": "Subject",
        "clip": "Filename",
        "onset": "Onset Frame",
        "apex": "Apex Frame",
        "offset": "Offset Frame",
        "aus": "Action Units",
        "emotion": "Estimated Emotion",
    },
    emotions=frozenset({"anger", "contempt", "disgust", "fear", "happiness", "other", "sadness", "surprise"}),
    subject=_subject,
    emotion=lambda text: {"others": "other"}.get(text.lower(), text.lower()),  # as in its long-video sheet
    editions={"166aa264c1d3": "Micro_FACS_Codes_v2, a public copy"},
    rows=159,
)
LAYOUT = Layout(
    fps=FPS,
    folders=lambda subject, video, clip: [(subject, video)],
    normalise_folder=lambda name: _subject(name).lower(),
    prefer=r"\d+_",
    example="006_<number>.jpg",
)


def read_annotations(path: str | Path) -> pd.DataFrame:
    """Every row of the label sheet; its preface rows, where it has them, are passed over.

    Args:
        path: the xlsx as it ships, or the same as xls or csv.

    Returns:
        DataFrame[subject ("006"), clip ("006_1_2"), onset, apex, offset (frame numbers), emotion (lower case), aus,
        apex_source].

    Raises:
        MerError: as in `casme2.read_annotations`.
    """
    return read_sheet(path, SHEET_FORMAT)[ANNOTATIONS]


def read_corpus(root: str | Path, corpus: str = "samm", on_error: str = "stop") -> pd.DataFrame:
    """The index of SAMM: its annotations, each checked against the frames on disk.

    Args:
        root: folder with one label sheet and the frames, `006/006_1_2/006_05562.jpg`, wrapped in up to three folders.
        corpus, on_error: as in `casme2.read_corpus`.

    Returns, Raises: as in `casme2.read_corpus`.
    """
    return read_with_sheet(root, corpus, SHEET_FORMAT, LAYOUT, on_error)
