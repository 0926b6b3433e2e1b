"""What coders wrote into label sheets, as action units."""

import re

import numpy as np
import pytest

from mer.corpora import casme2, casme3, samm
from mer.facs import UNITS, coded_units


@pytest.mark.parametrize(
    ("text", "seen", "unknown"),
    [
        ("4", {4}, set()),
        ("4+7", {4, 7}, set()),
        ("R1+R2", {1, 2}, set()),
        ("L12A+25", {12, 25}, set()),
        ("AU6+AU12", {6, 12}, set()),
        ("ref(7B)+43", {7}, set()),
        ("10A/B", {10}, set()),
        ("A/L12", {12}, set()),
        ("(R6 or R12)+R15", {15}, {6, 12}),
        ("R14A or 17A or 24A", set(), {14, 17, 24}),
        ("4?+7", {7}, {4}),
        ("12/14", set(), {12, 14}),
        ("12+(12 or 14)", {12}, {14}),
        ("(12 or 14)+12", {12}, {14}),
        ("R14+17+soft focus", {14, 17}, set()),
        ("38", set(), set()),  # none of ours, but coded
        ("412", set(), set()),
    ],
)
def test_codes(text, seen, unknown):
    (row,) = coded_units([text])
    assert {u for u, value in zip(UNITS, row, strict=True) if value == 1} == seen
    assert {u for u, value in zip(UNITS, row, strict=True) if np.isnan(value)} == unknown


def test_what_nobody_coded_is_unknown():
    found = coded_units(["", "?", "none", "4"])
    assert found.shape == (4, len(UNITS))
    assert found.dtype == np.float32
    assert np.isnan(found[:3]).all()
    assert np.isfinite(found[3]).all()
    assert coded_units([]).shape == (0, len(UNITS))


@pytest.mark.parametrize(
    ("module", "sheet", "left_open"),
    [(casme2, "CASME2-coding-20140508.xlsx", 5), (samm, "SAMM.xlsx", 5), (casme3, "casme3_part_A_v2.xlsx", 0)],
)
def test_the_sheets_as_they_are(reference, module, sheet, left_open):
    """Beside rows in which the coders left something open, the units are the numbers that stand there."""
    texts = module.read_annotations(reference / "annotations" / sheet)["aus"].tolist()
    found, opened = coded_units(texts), 0
    for text, row in zip(texts, found, strict=True):
        if np.isnan(row).any():
            assert "or" in text or "?" in text
            opened += 1
            continue
        numbers = {int(number) for number in re.findall(r"\d+", text)}
        assert {u for u, value in zip(UNITS, row, strict=True) if value == 1} == numbers & set(UNITS)
    assert opened == left_open
