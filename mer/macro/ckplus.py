"""CK+: posed expressions from neutral to the peak; labelled is the last frame of a sequence.

Read are the release (`cohn-kanade-images/S005/001/S005_001_00000011.png` with `Emotion/S005/001/*_emotion.txt`), its
cropped edition `CK+48/anger/S010_004_00000019.png` (the last three frames of each sequence) and `ckextended.csv`
(pixels as text). Only the first two tell who is shown.
"""

import re
from collections import defaultdict
from pathlib import Path

import pandas as pd

from mer.errors import MerError
from mer.macro import tables
from mer.macro.tables import load_image as load_image

# Codes of the release's *_emotion.txt, by its own readme.
CODES = dict(enumerate(("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")))
# Codes of ckextended.csv: those of fer2013.csv, and contempt behind them.
CSV_CODES = dict(enumerate(("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt")))

# Eight only with ckextended.csv, whose neutral faces are the first frames; the release labels no neutral sequence.
CLASSES = {
    3: tables.THREE,
    7: tables.one_each(*list(CODES.values())[1:]),
    8: tables.one_each(*CODES.values()),
}
_RELEASE, _CROPPED, _CSV = "cohn-kanade-images", "CK+48", "ckextended.csv"
_FRAME = re.compile(r"(?P<subject>S\d{3})_(?P<sequence>\d{3})_(?P<number>\d+)\.png")


def read_macro(root: str | Path, last: int = 1) -> pd.DataFrame:
    """Every labelled image of the set.

    Args:
        root: folder with one of the editions above.
        last: how many frames of a sequence are taken, counted back from the labelled one (the peak).

    Returns:
        DataFrame with the columns of mer.macro.tables.COLUMNS; sequences without a label are counted in
        `.attrs["excluded"]`, `.attrs["edition"]` names the edition.

    Raises:
        MerError: no edition or several, a label without its frames, an unknown code, fewer than `last` frames.
    """
    if last < 1:
        raise MerError(f"last is {last}: at least one frame of a sequence has to be taken; set 1 or more")
    root, edition = tables.open_root(root, {name: name for name in (_RELEASE, _CROPPED, _CSV)})
    if edition == _CSV:
        if last > 1:
            raise MerError(f"{root / _CSV}: has one frame a sequence, last is {last}; set it to 1")
        table = tables.make_table(root, tables.pixel_rows(root, root / _CSV, "ckplus", CSV_CODES))
    elif edition == _CROPPED:
        table = tables.make_table(root, _read_cropped(root, last))
    else:
        table = _read_release(root, last)
    table.attrs["edition"] = edition
    return table


def _read_release(root: Path, last: int) -> pd.DataFrame:
    images, labels = _sequences(root, _RELEASE), _sequences(root, "Emotion")
    rows, absent, labelled = [], [], set()
    for (subject, sequence), folder in labels.items():
        sheets = [p for p in tables.entries(folder, root) if p.name.endswith("_emotion.txt")]
        if not sheets:
            continue  # the release has empty folders for sequences without a label
        if len(sheets) > 1:
            raise MerError(f"{folder}: holds {len(sheets)} emotion files, a sequence has one label; keep the right one")
        labelled.add((subject, sequence))
        peak = f"{sheets[0].name.removesuffix('_emotion.txt')}.png"
        place = images.get((subject, sequence))
        frames = {p.name: p for p in tables.entries(place, root)} if place else {}
        if peak not in frames:
            absent.append(f"{subject}/{sequence}/{peak}")
            continue
        text = tables.read_text(sheets[0], "ascii", "unpack Emotion_labels.zip").strip()
        emotion = tables.emotion_of(text, CODES, str(sheets[0]))
        # Names have eight digits, so their order is that of time.
        upto = [p for name, p in sorted(frames.items()) if _of(name, subject, sequence) and name <= peak]
        rows += [_row(p, subject, emotion) for p in _last(upto, last, place)]
    tables.refuse_absent(root / _RELEASE, absent, "labelled frames are", "unpack cohn-kanade-images.zip there again")
    return tables.make_table(root, rows, {"no emotion label": len(set(images) - labelled)})


def _sequences(root: Path, name: str) -> dict[tuple[str, str], Path]:
    """(subject, sequence) -> folder, of one of the release's trees."""
    found = {}
    for subject in tables.entries(root / name, root):
        for sequence in tables.entries(subject, root) if subject.is_dir() else ():
            if not sequence.is_dir():
                continue
            if not (re.fullmatch(r"S\d{3}", subject.name) and re.fullmatch(r"\d{3}", sequence.name)):
                raise MerError(f"{sequence}: is not named like S005/001 (subject/sequence); unpack {name} there again")
            found[subject.name, sequence.name] = sequence
    return found


def _read_cropped(root: Path, last: int) -> list[dict]:
    sequences = defaultdict(list)
    for row in tables.folder_rows(root, root / _CROPPED, "ckplus", tables.EMOTIONS, {"": ""}):
        path = Path(row["image"])
        name = _FRAME.fullmatch(path.name)
        if name is None:
            raise MerError(f"{path}: is not named like S010_004_00000019.png; its subject cannot be told: remove it")
        sequences[name["subject"], name["sequence"], row["emotion"]].append(path)
    return [
        _row(path, subject, emotion)
        for (subject, sequence, emotion), paths in sequences.items()
        for path in _last(sorted(paths), last, f"{root / _CROPPED}: sequence {subject}_{sequence}")
    ]


def _of(name: str, subject: str, sequence: str) -> bool:
    frame = _FRAME.fullmatch(name)
    return frame is not None and (frame["subject"], frame["sequence"]) == (subject, sequence)


def _last(paths: list[Path], last: int, where: object) -> list[Path]:
    if len(paths) < last:
        raise MerError(f"{where}: has {len(paths)} frames up to the labelled one, last is {last}; set a smaller one")
    return paths[-last:]


def _row(path: Path, subject: str, emotion: str) -> dict:
    return {
        "id": f"ckplus/{path.stem}",
        "corpus": "ckplus",
        "subject": subject,
        "emotion": emotion,
        "split": "",
        "image": path.as_posix(),
    }
