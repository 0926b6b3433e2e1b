"""CAS(ME)3's real label sheets of part A, where they lie: the owners' own, and a public copy with three other rows."""

import re

import pandas as pd
import pytest

from mer.corpora import casme3, select
from mer.corpora.facts import check_facts
from tests.helpers import mini
from tests.helpers.refusals import refused

HEADINGS = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"]


@pytest.fixture(scope="module")
def table(reference):
    return casme3.read_annotations(reference / "annotations/casme3_table.xlsx")


@pytest.fixture(scope="module")
def owners(reference):
    return casme3.read_annotations(reference / "annotations/casme3_part_A_v2.xlsx")


def test_counts_of_the_sheet(table):
    """fidelity 0.1"""
    assert len(table) == 860
    assert table["subject"].nunique() == 94
    assert table["emotion"].value_counts().to_dict() == {
        "disgust": 250, "surprise": 187, "others": 161, "fear": 86, "anger": 64, "sad": 57, "happy": 55,
    }  # fmt: skip
    assert not table.duplicated(["subject", "clip"]).any()
    assert (table["onset"] <= table["apex"]).all()
    assert (table["apex"] <= table["offset"]).all()
    assert table.iloc[0].to_dict() == {
        "subject": "spNO.1", "clip": "a_355", "onset": 355, "apex": 359, "offset": 360, "emotion": "others",
        "aus": "5", "apex_source": "annotated",
    }  # fmt: skip
    check_facts(table, "casme3")


def test_what_was_corrected(table):
    assert sorted(item[:4] for item in table.attrs["corrected"]) == [
        ("spNO.168/a_4", "emotion", "Others", "others"),
        ("spNO.194/a_561", "emotion", "Others", "others"),
        ("spNO.194/a_7", "emotion", "Others", "others"),
        ("spNO.40/e_1812", "offset", "0", "1824"),
        ("spNO.40/e_2327", "offset", "0", "2363"),
    ]


def test_both_sheets_give_the_same_rows(table, owners):
    pd.testing.assert_frame_equal(owners, table, check_flags=False)
    check_facts(owners, "casme3")


def test_what_was_corrected_in_the_owners_sheet_alone(table, owners):
    changes = {item[:4]: item[4] for item in owners.attrs["corrected"]}
    extra = changes.keys() - {item[:4] for item in table.attrs["corrected"]}
    assert extra == {
        ("spNO.149/d_112", "apex", "83", "160"),
        ("spNO.216/d_3647", "onset", "3647", "2647"),
        ("spNO.216/e_0", "apex", "0", "17"),
    }
    for change in extra:
        assert "cannot be proved" in changes[change] or change[1] == "onset"


def test_the_edition_is_known_and_says_what_was_corrected(table, owners):
    assert table.attrs["edition"] == "part A, v2, 5 cells corrected"
    assert owners.attrs["edition"] == "part A, v2, 8 cells corrected"


def test_the_owners_rows_on_their_own(tmp_path):
    """As above, without the sheets: three rows as the owners have them."""
    path = mini.write_sheet(tmp_path / "s.csv", [
        HEADINGS,
        ["spNO.149", "d", 112, 83, 358, "T28+14", "VII", "fear"],
        ["spNO.216", "d", 3647, 2668, 2694, 38, "VII", "others"],
        ["spNO.216", "e", 0, 0, 25, 14, "VII", "others"],
    ])  # fmt: skip
    found = casme3.read_annotations(path)
    assert found[["clip", "onset", "apex", "offset"]].to_numpy().tolist() == [
        ["d_112", 112, 160, 358], ["d_2647", 2647, 2668, 2694], ["e_0", 0, 17, 25],
    ]  # fmt: skip


@pytest.mark.parametrize("sheet", [3647, 2647])
@pytest.mark.parametrize("folder", [3647, 2647])
def test_a_clip_that_a_correction_renames_is_found_under_both_names(tmp_path, sheet, folder):
    take = mini.Take(216, "d", folder, 2668, 2694, "others")
    frames = mini.Take(216, "d", 2647, 2668, 2694, "others")
    root = mini.casme3(tmp_path, "clips", takes=(frames,))
    next(root.glob("Part_A_ME_clip/frame/*")).rename(root / f"Part_A_ME_clip/frame/spNo.216_d_{take.onset}")
    mini.write_sheet(next(root.glob("*.xlsx")), [HEADINGS, ["spNO.216", "d", sheet, 2668, 2694, "38", "VII", "others"]])
    table = casme3.read_corpus(root)
    assert table["id"].tolist() == ["casme3/spNO.216/d_2647"]
    assert table[["onset", "apex", "offset"]].to_numpy().tolist() == [[2647, 2668, 2694]]
    assert table["frame"].tolist() == [f"{root.as_posix()}/Part_A_ME_clip/frame/spNo.216_d_{folder}/{{}}.jpg"]


def test_two_rows_that_a_correction_makes_one_are_refused(tmp_path):
    rows = [["spNO.216", "d", onset, 2668, 2694, 38, "VII", "others"] for onset in (2647, 3647)]
    refused("subject spNO.216 clip d_2647 stands in rows 2 and 3", casme3.read_annotations,
            mini.write_sheet(tmp_path / "s.csv", [HEADINGS, *rows]))  # fmt: skip


# ---- another edition ----------------------------------------------------------------------------------------------


def older(folder, rows=921):
    """A sheet of as many rows as the owners' v1."""
    lines = [[f"spNO.{n % 90 + 1}", "a", 10 + n, 12 + n, 14 + n, 4, "VII", "disgust"] for n in range(rows)]
    return mini.write_sheet(folder / "cas(me)3_part_A_ME_label_JpgIndex_v1.csv", [HEADINGS, *lines])


def test_too_many_rows_are_another_edition_and_no_incomplete_corpus(tmp_path):
    table = casme3.read_annotations(older(tmp_path))
    assert re.fullmatch(
        r"cas\(me\)3_part_A_ME_label_JpgIndex_v1.csv, 921 rows, [0-9a-f]{12} \(v1, the owners' older edition\)",
        table.attrs["edition"],
    )
    text = refused(
        r"has 921 clips, the whole casme3 has 860; this is v1, the owners' older edition or a changed sheet: take the "
        r"one of docs/corpora.md, or declare this one with its own counts: corpora.<name>.expect: \{clips: 921\}",
        check_facts, table, "casme3",
    )  # fmt: skip
    assert "complete the corpus" not in text
    assert "this is another edition or a changed sheet" in refused(
        "has 900 clips", check_facts, casme3.read_annotations(older(tmp_path, 900)), "casme3"
    )


def test_clips_of_another_edition_are_not_to_be_unpacked_without_a_word(tmp_path):
    mini.casme3(tmp_path)
    next(tmp_path.glob("**/*.xlsx")).unlink()
    older(tmp_path)
    refused(r"clips of .*v1.csv \(the sheet has 921 rows, the edition that is known 860: this is v1, the owners' older "
            r"edition; docs/corpora.md\) have no folder", casme3.read_corpus, tmp_path)  # fmt: skip


def test_a_fault_in_a_row_of_another_edition_says_so(tmp_path):
    path = older(tmp_path)
    path.write_text(path.read_text().replace("disgust", "scorn", 1))
    refused("emotion 'scorn' is unknown; .* this is v1, the owners' older edition", casme3.read_annotations, path)


@pytest.mark.parametrize(
    ("classes", "subjects", "counts"),
    [
        (7, 94, [55, 187, 64, 250, 86, 57, 161]),
        (4, 94, [457, 55, 187, 161]),
        (3, 88, [457, 55, 187]),
    ],
)
def test_counts_of_the_selections(table, classes, subjects, counts):
    """M-17; three classes are four without others"""
    rows = select(table, "casme3", classes)
    assert rows["label"].value_counts().sort_index().tolist() == counts
    assert len(rows) == sum(counts)
    assert rows["subject"].nunique() == subjects


def test_class_order():
    assert list(casme3.CLASSES[7]) == ["happy", "surprise", "anger", "disgust", "fear", "sad", "others"]
    assert list(casme3.CLASSES[4]) == ["negative", "positive", "surprise", "others"]
    assert list(casme3.CLASSES[3]) == ["negative", "positive", "surprise"]
