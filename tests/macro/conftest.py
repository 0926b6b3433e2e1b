"""Fictional mini-sets that several test modules read."""

import pytest

from tests.helpers.macro_sets import FER, PLUS, csv_text, draw, put


@pytest.fixture
def raf(tmp_path):
    lines = []
    for n, code in enumerate((1, 2, 3, 4, 5, 6, 7), start=1):
        stem = f"{'test' if n == 7 else 'train'}_{n:05d}"
        draw(tmp_path / f"basic/Image/aligned/{stem}_aligned.jpg")
        draw(tmp_path / f"basic/Image/original/{stem}.jpg", size=(9, 8))
        lines.append(f"{stem}.jpg {code}\n")
    put(tmp_path / "basic/EmoLabel/list_patition_label.txt", "".join(lines))
    return tmp_path


@pytest.fixture
def fer(tmp_path):
    put(tmp_path / "fer2013.csv", csv_text(FER))
    put(tmp_path / "fer2013new.csv", PLUS)
    return tmp_path


SEQUENCES = {  # subject/sequence -> frames, code or None
    "S005/001": (3, 3), "S010/001": (4, 7), "S010/002": (3, None), "S010/003": (2, 5), "S011/001": (2, 1),
}  # fmt: skip


@pytest.fixture
def ck(tmp_path):
    for place, (frames, code) in SEQUENCES.items():
        stem = place.replace("/", "_")
        for n in range(1, frames + 1):
            draw(tmp_path / f"cohn-kanade-images/{place}/{stem}_{n:08d}.png", n, grey=place == "S005/001")
        if code is None:
            (tmp_path / "Emotion" / place).mkdir(parents=True)
        else:
            put(tmp_path / f"Emotion/{place}/{stem}_{frames:08d}_emotion.txt", f"   {code:.7e}\n")
    put(tmp_path / "cohn-kanade-images/S010/.DS_Store", "x")
    put(tmp_path / "cohn-kanade-images/S010/001/.DS_Store", "x")
    return tmp_path
