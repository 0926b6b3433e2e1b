"""SAMM's real label sheet, where it lies."""

import pandas as pd
import pytest

from mer.corpora import samm, select
from mer.corpora.facts import check_facts
from tests.helpers import mini


@pytest.fixture(scope="module")
def table(reference):
    return samm.read_annotations(reference / "annotations/SAMM.xlsx")


def test_counts_of_the_sheet(table):
    """fidelity 0.1"""
    assert len(table) == 159
    assert table["subject"].nunique() == 29
    assert table["emotion"].value_counts().to_dict() == {
        "anger": 57, "other": 26, "happiness": 26, "surprise": 15, "contempt": 12, "disgust": 9, "fear": 8,
        "sadness": 6,
    }  # fmt: skip
    assert table.iloc[0].to_dict() == {
        "subject": "006", "clip": "006_1_2", "onset": 5562, "apex": 5588, "offset": 5632, "emotion": "anger",
        "aus": "4+7", "apex_source": "annotated",
    }  # fmt: skip
    length = table["offset"] - table["onset"] + 1
    assert (length.min(), length.max(), round(length.mean())) == (30, 101, 74)
    check_facts(table, "samm")


@pytest.mark.parametrize(("classes", "subjects", "counts"), [(5, 27, [57, 26, 12, 15, 26]), (3, 28, [92, 26, 15])])
def test_counts_of_the_selections(table, classes, subjects, counts):
    rows = select(table, "samm", classes)
    assert len(rows) == sum(counts)
    assert rows["subject"].nunique() == subjects
    assert rows["label"].value_counts().sort_index().tolist() == counts


def test_class_order():
    assert list(samm.CLASSES[5]) == ["anger", "happiness", "contempt", "surprise", "other"]
    assert list(samm.CLASSES[3]) == ["negative", "positive", "surprise"]


@pytest.mark.parametrize("kind", [".csv", ".xlsx"])
def test_the_preface_changes_nothing(table, reference, tmp_path, kind):
    cells = pd.read_excel(reference / "annotations/SAMM.xlsx", header=None, dtype=str, keep_default_na=False)
    path = mini.write_sheet(tmp_path / f"s{kind}", [list(r) for r in mini.PREFACE] + cells.to_numpy().tolist())
    pd.testing.assert_frame_equal(samm.read_annotations(path), table)
