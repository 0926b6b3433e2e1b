"""CAS(ME)3's real label sheet of part A, where it lies."""

import pytest

from mer.corpora import casme3, select
from mer.corpora.facts import check_facts


@pytest.fixture(scope="module")
def table(reference):
    return casme3.read_annotations(reference / "annotations/casme3_table.xlsx")


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
