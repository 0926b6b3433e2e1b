"""CASME II's real label sheet, where it lies."""

import pytest

from mer.corpora import casme2, select
from mer.errors import MerError


@pytest.fixture(scope="module")
def table(reference):
    return casme2.read_annotations(reference / "annotations/CASME2-coding-20140508.xlsx")


def test_counts_of_the_sheet(table):
    """fidelity 0.1"""
    assert len(table) == 255
    assert table["subject"].nunique() == 26
    assert table["emotion"].value_counts().to_dict() == {
        "others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25, "sadness": 7, "fear": 2,
    }  # fmt: skip
    assert list(table.columns[:7]) == ["subject", "clip", "onset", "apex", "offset", "emotion", "aus"]
    assert not table.duplicated(["subject", "clip"]).any()
    assert (table["onset"] <= table["apex"]).all()
    assert (table["apex"] <= table["offset"]).all()
    assert table.iloc[0].to_dict() == {
        "subject": "sub01", "clip": "EP02_01f", "onset": 46, "apex": 59, "offset": 86, "emotion": "happiness",
        "aus": "12", "apex_source": "annotated",
    }  # fmt: skip


@pytest.mark.parametrize(("classes", "clips", "subjects"), [(5, 246, 26), (3, 147, 24)])
def test_counts_of_the_selections(table, classes, clips, subjects):
    rows = select(table, "casme2", classes)
    assert len(rows) == clips
    assert rows["subject"].nunique() == subjects


def test_three_classes_are_negative_positive_surprise(table):
    rows = select(table, "casme2", 3)
    assert rows.attrs["class_names"] == ["negative", "positive", "surprise"]
    assert rows["label"].value_counts().sort_index().tolist() == [90, 32, 25]


def test_a_selection_that_does_not_exist(table):
    with pytest.raises(MerError, match=r"classes is 7: corpus casme2 has selections of \[3, 5\]"):
        select(table, "casme2", 7)
    with pytest.raises(MerError, match="did you mean 'casme2'"):
        select(table, "casme_2", 5)
    with pytest.raises(MerError, match="no clip of surprise"):
        select(table[table["emotion"] != "surprise"], "casme2", 5)
