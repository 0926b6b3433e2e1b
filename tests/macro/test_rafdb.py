"""RAF-DB in each edition that circulates, on fictional mini-sets."""

import pytest

from mer.macro import rafdb
from mer.macro import tables as macro
from tests.helpers.macro_sets import draw, images, put
from tests.helpers.refusals import refused


def test_rafdb_release(raf):
    draw(raf / "basic/Image/aligned/train_99999_aligned.jpg")
    table = rafdb.read_macro(raf)
    assert table["emotion"].tolist() == [
        "neutral", "surprise", "fear", "disgust", "happiness", "sadness", "anger",
    ]  # fmt: skip
    assert table["id"].tolist()[:2] == ["rafdb/test_00007", "rafdb/train_00001"]
    assert table["split"].tolist() == ["test"] + ["train"] * 6
    assert table["image"].iloc[0].endswith("aligned/test_00007_aligned.jpg")
    assert macro.summary(table)["subjects"] is None
    assert macro.summary(table)["excluded"] == {"not in the label list": 1}
    assert images(rafdb.read_macro(raf, images="original"))[0].shape == (9, 8, 3)
    refused("did you mean 'aligned'", rafdb.read_macro, raf, images="alignd")
    # basic/ unpacked without its folder
    assert len(rafdb.read_macro(raf / "basic")) == 7


@pytest.mark.parametrize("base", ["DATASET", "."])
def test_rafdb_folders(tmp_path, base):
    draw(tmp_path / base / "train/1/train_00001_aligned.jpg")
    draw(tmp_path / base / "test/7/test_0002_aligned.jpg")
    put(tmp_path / base / "train/train_labels.csv", "")
    table = rafdb.read_macro(tmp_path)
    assert table[["id", "emotion", "split"]].to_numpy().tolist() == [
        ["rafdb/test/7/test_0002_aligned", "neutral", "test"],
        ["rafdb/train/1/train_00001_aligned", "surprise", "train"],
    ]
    refused("has aligned faces only", rafdb.read_macro, tmp_path, images="original")
    (tmp_path / base / "train/8").mkdir()
    refused("train/8: is the folder of no emotion", rafdb.read_macro, tmp_path)


def test_rafdb_bad_input(raf):
    sheet = raf / "basic/EmoLabel/list_patition_label.txt"
    good = sheet.read_text()
    for line, message in {
        "train_00001.jpg 8": "line 8: emotion is '8'",
        "train_00001.jpg": "line 8: is 'train_00001.jpg', needed is like",
        "../../etc/train_00001.jpg 5": "line 8: is '../../etc/train_00001.jpg 5', needed is like",
        "train_00001.jpg 1": "1 images occur twice: rafdb/train_00001",
    }.items():
        put(sheet, f"{good}{line}\n")
        refused(message, rafdb.read_macro, raf)
    put(sheet, good + "".join(f"train_1000{n}.jpg 1\n" for n in range(6)))
    refused(
        r"6 images of list_patition_label.txt are missing: train_10000_aligned.jpg, .*10004_aligned.jpg and 1 more; "
        r"unpack Image/aligned.zip",
        rafdb.read_macro,
        raf,
    )
    sheet.write_bytes(b"\xff")
    refused("list_patition_label.txt: is no text", rafdb.read_macro, raf)
    put(sheet, "\n")
    refused("holds no labelled image", rafdb.read_macro, raf)
    (raf / "basic/Image/aligned").rename(raf / "basic/Image/gone")
    refused("Image/aligned: there is no such folder; unpack Image/aligned.zip", rafdb.read_macro, raf)


def test_no_link_leads_out(raf, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    draw(outside / "face.jpg")
    link = raf / "basic/Image/aligned/train_00001_aligned.jpg"
    link.unlink()
    link.symlink_to(outside / "face.jpg")
    refused("train_00001_aligned.jpg: leads out of .*put the files themselves there", rafdb.read_macro, raf)
    link.unlink()
    link.symlink_to(link)
    refused("train_00001_aligned.jpg: is a link that leads back to itself", rafdb.read_macro, raf)
    link.unlink()
    draw(link)
    (raf / "basic/Image/aligned").rename(outside / "aligned")
    (raf / "basic/Image/aligned").symlink_to(outside / "aligned")
    refused("Image/aligned: leads out of", rafdb.read_macro, raf)


def test_the_set_may_lie_on_another_disk(raf, tmp_path_factory):
    link = tmp_path_factory.mktemp("project") / "rafdb"
    link.symlink_to(raf)
    assert len(rafdb.read_macro(link)) == 7


def test_a_list_of_gigabytes_is_refused_before_it_is_read(raf):
    with (raf / "basic/EmoLabel/list_patition_label.txt").open("wb") as file:
        file.truncate(3 << 30)
    refused("has over 16777216 bytes, and is no list of this set; put the release's file there", rafdb.read_macro, raf)
