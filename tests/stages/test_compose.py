"""The index of a composite: the rows of its parts, and the counts that its class list must find in them."""

from types import SimpleNamespace

import pandas as pd
import pytest

from mer.clips import COLUMNS, read_index, write_index
from stages.compose import main
from tests.helpers.refusals import refused

PARTS = {"casme2": ["happiness", "disgust", "others"], "smic": ["positive", "negative", "surprise"]}


@pytest.fixture
def parts(tmp_path):
    """Indices of two corpora, three clips of two subjects each; emotions as in their sheets."""
    paths = []
    for corpus, emotions in PARTS.items():
        rows = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(3))
        rows["corpus"], rows["subject"], rows["clip"] = corpus, ["s01", "s01", "s02"], ["b", "a", "a"]
        rows["id"] = rows["corpus"] + "/" + rows["subject"] + "/" + rows["clip"]
        rows["emotion"], rows["fps"], rows["digest"] = emotions, 200.0, f"of {corpus}"
        rows["onset"], rows["apex"], rows["offset"] = 1, 5, 9
        paths.append(str(tmp_path / f"{corpus}.csv"))
        write_index(tmp_path / f"{corpus}.csv", rows)
    return paths


def compose(parts, tmp_path, **changes) -> pd.DataFrame:
    out = tmp_path / "both.csv"
    main(SimpleNamespace(key="both"), parts=parts, labels="megc2019", classes=3, out=str(out), **changes)
    return read_index(out)


def test_a_composites_index_has_the_rows_of_its_parts(parts, tmp_path):
    """All of them, those of no class as well; in the order of ids, which begin with the corpus."""
    table = compose(parts, tmp_path)
    assert list(table["id"]) == [f"{c}/{rest}" for c in PARTS for rest in ("s01/a", "s01/b", "s02/a")]
    pd.testing.assert_frame_equal(table, pd.concat([read_index(path) for path in parts], ignore_index=True))
    assert compose(parts[::-1], tmp_path).equals(table)


def test_the_counts_are_those_of_the_class_list(parts, tmp_path):
    """`others` of CASME II is of no class. A subject has the same name in both corpora and counts twice."""
    compose(parts, tmp_path, clips=5, subjects=3)
    where = rf"{tmp_path}/both.csv, 3 classes: has"
    refused(rf"{where} 5 clips, corpora.both.expect.clips says 6;", compose, parts, tmp_path, clips=6)
    refused(rf"{where} 3 subjects, corpora.both.expect.subjects says 4;", compose, parts, tmp_path, subjects=4)


def test_an_index_is_not_written_where_a_count_is_wrong(parts, tmp_path):
    refused("corpora.both.expect.clips says 6", compose, parts, tmp_path, clips=6)
    assert not (tmp_path / "both.csv").exists()


def test_a_class_without_clips_is_refused(parts, tmp_path):
    table = read_index(parts[1])
    write_index(tmp_path / "smic.csv", table[table["emotion"] != "surprise"])
    refused("megc2019, 3 classes: no clip of surprise", compose, parts, tmp_path)


def test_a_part_without_an_index_is_refused(parts, tmp_path):
    refused(r"samm.csv: there is no such index; run dvc repro", compose, [*parts, str(tmp_path / "samm.csv")], tmp_path)
