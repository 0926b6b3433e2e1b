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
