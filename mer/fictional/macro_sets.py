"""Writes macro-expression sets as their owners ship them (docs/macro.md), of fictional images.

Every maker writes below `root` and returns it. Pictures are (H, W, 3) uint8 RGB or (H, W) uint8 grey.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mer.fictional.layouts import draw
from mer.macro.fer2013 import VOTED

VOTES = 8  # of FER+'s ten, for the emotion that a row shows; the other two are for neutral or happiness


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def ckplus(
    root: Path, sequences: Mapping[str, tuple[int, int | None]], picture: Callable[[str, int], np.ndarray]
) -> Path:
    """The release. sequences: `S005/001` -> frames and the code of the last, or None for a sequence without a label.

    picture: of a sequence and the number of a frame, from 1.
    """
    for place, (frames, code) in sequences.items():
        stem = place.replace("/", "_")
        for number in range(1, frames + 1):
            draw(root / f"cohn-kanade-images/{place}/{stem}_{number:08d}.png", picture(place, number))
        if code is None:
            (root / "Emotion" / place).mkdir(parents=True)
        else:
            put(root / f"Emotion/{place}/{stem}_{frames:08d}_emotion.txt", f"   {code:.7e}\n")
    return root


def rafdb(root: Path, codes: Mapping[str, int], picture: Callable[[str, str], np.ndarray]) -> Path:
    """The release, aligned and original. codes: `train_00001` -> code; picture: of it, and of aligned or original."""
    for stem in codes:
        draw(root / f"basic/Image/aligned/{stem}_aligned.jpg", picture(stem, "aligned"))
        draw(root / f"basic/Image/original/{stem}.jpg", picture(stem, "original"))
    put(
        root / "basic/EmoLabel/list_patition_label.txt", "".join(f"{stem}.jpg {code}\n" for stem, code in codes.items())
    )
    return root


def pixels_csv(rows: Iterable[tuple[int, str, str]], columns: str = "emotion,pixels,Usage") -> str:
    """A csv of faces as text; rows: code, pixels, Usage."""
    return columns + "\n" + "".join(f"{code},{pixels},{usage}\n" for code, pixels, usage in rows)


def fer2013(root: Path, rows: Sequence[tuple[int, str, np.ndarray]], emotions: Sequence[str]) -> Path:
    """fer2013.csv and FER+'s fer2013new.csv. rows: code, Usage, face (48, 48) uint8; emotions: what FER+ calls each."""
    put(root / "fer2013.csv", pixels_csv((code, " ".join(map(str, face.ravel())), usage) for code, usage, face in rows))
    lines = ["Usage,Image name," + ",".join([*VOTED, "unknown", "NF"])]
    for number, ((_, usage, _), emotion) in enumerate(zip(rows, emotions, strict=True)):
        votes = dict.fromkeys([*VOTED, "unknown", "NF"], 0) | {emotion: VOTES}
        votes["happiness" if emotion == "neutral" else "neutral"] += 10 - VOTES
        lines.append(f"{usage},fer{number:07d}.png," + ",".join(str(n) for n in votes.values()))
    put(root / "fer2013new.csv", "\n".join(lines) + "\n")
    return root
