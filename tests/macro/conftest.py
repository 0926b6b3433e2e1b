"""Fictional mini-sets that several test modules read."""

import pytest

from mer.fictional import macro_sets
from tests.helpers.macro_sets import FER, PLUS, csv_text, flat, put


@pytest.fixture
def raf(tmp_path):
    codes = {f"{'test' if n == 7 else 'train'}_{n:05d}": n for n in range(1, 8)}
    return macro_sets.rafdb(tmp_path, codes, lambda _, edition: flat(size=(6, 5) if edition == "aligned" else (9, 8)))


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
    macro_sets.ckplus(tmp_path, SEQUENCES, lambda place, number: flat(number, grey=place == "S005/001"))
    put(tmp_path / "cohn-kanade-images/S010/.DS_Store", "x")
    put(tmp_path / "cohn-kanade-images/S010/001/.DS_Store", "x")
    return tmp_path
