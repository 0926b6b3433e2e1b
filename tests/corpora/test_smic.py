"""SMIC-HS: labels from folders, apexes from the public sheet, where it lies."""

import errno
import os
import shutil

import pandas as pd
import pytest

from mer.corpora import select, smic
from mer.corpora.facts import check_facts
from tests.helpers import mini
from tests.helpers.refusals import refused


@pytest.fixture(scope="module")
def table(reference):
    return smic.read_annotations(reference / "annotations/smic_apex.xlsx")


def test_counts_of_the_sheet_of_apexes(table):
    """fidelity 0.1"""
    assert len(table) == 164
    assert table["subject"].nunique() == 16
    rows = select(table, "smic", 3)
    assert rows.attrs["class_names"] == ["negative", "positive", "surprise"]
    assert rows["label"].value_counts().sort_index().tolist() == [70, 51, 43]
    assert (table["apex_source"] == "annotated").all()
    assert set(table["subject"].str[1:].astype(int)) == {1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20}
    check_facts(table, "smic")


def test_lacking_offsets_are_estimated_and_listed(table):
    filled = {item[0]: int(item[3]) for item in table.attrs["corrected"]}
    assert len(filled) == 7
    rows = table.assign(key=table["subject"] + "/" + table["clip"]).set_index("key").loc[list(filled)]
    assert (rows["offset"] == list(filled.values())).all()
    assert (rows["offset"] - rows["apex"] == rows["apex"] - rows["onset"]).all()
    rest = table[~(table["subject"] + "/" + table["clip"]).isin(filled)]
    length = rest["offset"] - rest["onset"] + 1
    assert (length.min(), length.max(), round(length.mean())) == (16, 58, 34)


def test_annotations_of_a_folder(tmp_path):
    root = mini.smic(tmp_path)
    table = smic.read_annotations(root)
    assert table.loc[table["clip"] == "s1_po_01"].to_dict("records") == [
        {"subject": "s01", "clip": "s1_po_01", "onset": 61250, "apex": 61253, "offset": 61256, "emotion": "positive",
         "aus": "", "apex_source": "middle"}
    ]  # fmt: skip


def test_a_lacking_offset_is_the_last_frame_on_disk(tmp_path):
    take = mini.Take(1, "s1_ne_02", 563854, 563884, 563890, "negative")
    root = mini.smic(tmp_path, takes=(take,))
    rows = [
        ["subject", "clip", "label", "onset_frame", "apex_frame", "offset_frame"],
        [1, take.name, 0, 563854, 563884],
    ]
    mini.write_sheet(root / "smic_apex.csv", rows)
    assert smic.read_annotations(root / "smic_apex.csv").loc[0, "offset"] == 563914
    table = smic.read_corpus(root)
    assert (table.loc[0, "apex"], table.loc[0, "offset"]) == (563884, 563890)


def test_a_few_lacking_frames_are_known_of_the_corpus(tmp_path):
    root = mini.smic(tmp_path, absent={"s3_ne_16": (409049, 409050)})
    row = smic.read_corpus(root).set_index("clip").loc["s3_ne_16"]
    assert row["absent"] == "409049 409050"
    assert row["apex"] == 409048  # the middle one is not there
    (next(root.glob("**/s3_ne_16")) / "reg_image409047.jpg").unlink()
    refused(r"reg_image409047.jpg: frame is missing \(3 of 7 are\)", smic.read_corpus, root)


def test_the_onset_itself_may_not_lack(tmp_path):
    root = mini.smic(tmp_path, "long", apexes=True, absent={"s3_ne_16": (409046,)})
    refused(r"image409046.jpg: frame is missing \(1 of 7", smic.read_corpus, root)


def test_what_does_not_fit_is_refused(tmp_path):
    root = mini.smic(tmp_path / "a")
    micro = next(root.glob("*/HS/s1/micro"))
    mini.smic(root, "raw")
    refused("clip s.* lies in .* and .*; leave the raw or the cropped", smic.read_corpus, root)
    shutil.rmtree(root / "SMIC_all_raw")
    (micro / "negative/s1_ne_01").rename(micro / "positive/s1_ne_01")
    refused("s1_ne_01: lies in a folder of another class or subject", smic.read_corpus, root)
    (micro / "positive/s1_ne_01").rename(micro / "negative/s2_ne_01")
    refused("s2_ne_01: lies in a folder of another class or subject", smic.read_corpus, root)
    (tmp_path / "empty").mkdir()
    refused("has no clip folder named as s1_ne_01", smic.read_corpus, tmp_path / "empty")
    refused("4 clips lie in no folder negative, positive or surprise .* put smic_apex.xlsx", smic.read_corpus,
            mini.smic(tmp_path / "long", "long"))  # fmt: skip


def test_sheet_and_folders_must_agree(tmp_path):
    root = mini.smic(tmp_path, apexes=True)
    shutil.rmtree(next(root.glob("**/s3_ne_16")))
    refused("1 clips of smic_apex.xlsx have no folder: s03/s3_ne_16", smic.read_corpus, root)
    table = smic.read_corpus(root, "mine", on_error="exclude")
    assert [c for c, _ in table.attrs["excluded"]] == ["mine/s03/s3_ne_16"]
    mini.draw(root / "SMIC_all_cropped/HS/s1/micro/negative/s1_ne_09/reg_image000001.jpg", mini.tiny(1, 1))
    refused("smic_apex.xlsx: lacks 1 clips that lie there: s1_ne_09", smic.read_corpus, root)


@pytest.mark.parametrize(
    ("cell", "value", "message"),
    [
        ("subject", 3, "row 2 says subject s03, negative, the clip's name subject s01, negative; correct the row"),
        ("label", 1, "row 2 says subject s01, positive, the clip's name subject s01, negative; correct the row"),
    ],
)
def test_a_row_that_says_another_than_the_clips_name_is_refused(tmp_path, cell, value, message):
    """Exchanged classes leave all counts as they are."""
    root = mini.smic(tmp_path, apexes=True)
    rows = pd.read_excel(root / "smic_apex.xlsx")
    rows.loc[0, cell] = value
    rows.to_csv(root / "smic_apex.csv", index=False)
    (root / "smic_apex.xlsx").unlink()
    for read, argument in ((smic.read_corpus, root), (smic.read_annotations, root / "smic_apex.csv")):
        refused(message, read, argument)
    table = smic.read_corpus(root, "mine", on_error="exclude")
    assert len(table) == len(rows) - 1
    assert message in table.attrs["excluded"][0][1]


def test_what_programs_leave_beside_a_sheet_is_no_sheet(tmp_path):
    root = mini.smic(tmp_path, apexes=True)
    expected = smic.read_corpus(root)
    for name in ("._smic_apex.xlsx", "~$smic_apex.xlsx"):
        (root / name).write_bytes(b"\x00\x05\x16\x07")
    pd.testing.assert_frame_equal(smic.read_corpus(root), expected)


def test_a_sheet_outside_of_the_corpus_is_refused(tmp_path):
    root = mini.smic(tmp_path / "smic", apexes=True)
    (root / "smic_apex.xlsx").rename(tmp_path / "elsewhere.xlsx")
    (root / "smic_apex.xlsx").symlink_to(tmp_path / "elsewhere.xlsx")
    refused("smic_apex.xlsx: is a link out of .*; copy the sheet of apexes there", smic.read_corpus, root)


def test_a_folder_that_the_system_does_not_hand_out_is_not_left_out(tmp_path, monkeypatch):
    root, scandir = mini.smic(tmp_path), os.scandir

    def fail(path):
        if str(path).endswith("positive"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", fail)
    refused("positive: input/output error; the disk", smic.read_corpus, root)
