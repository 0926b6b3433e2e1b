"""What holds for every macro-expression set: folders, class lists, pixels as text."""

import errno
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.corpora import select
from mer.errors import MerError
from mer.macro import ckplus, fer2013, rafdb
from mer.macro import tables as macro
from tests.helpers.macro_sets import FER, csv_text, put
from tests.helpers.refusals import refused

READERS = {"ckplus": ckplus, "rafdb": rafdb, "fer2013": fer2013}


def test_a_folder_without_the_set_or_with_two(tmp_path):
    for reader in READERS.values():
        refused("none: there is no such folder; unpack the set there", reader.read_macro, tmp_path / "none")
        refused(r"holds none of .*docs/macro.md", reader.read_macro, tmp_path)
    put(tmp_path / "fer2013.csv", "")
    (tmp_path / "train").mkdir()
    refused(r"several editions of the set \(fer2013.csv, train\)", fer2013.read_macro, tmp_path)


def test_a_damaged_image(raf):
    table = rafdb.read_macro(raf)
    put(raf / "basic/Image/aligned/test_00007_aligned.jpg", "no image")
    refused("test_00007_aligned.jpg: cannot be read as an image", macro.load_image, table.iloc[0])


def test_what_is_no_file(tmp_path, raf, ck):
    """A pipe in place of a file would be waited for without end."""
    (tmp_path / "fer").mkdir()
    os.mkfifo(tmp_path / "fer/fer2013.csv")
    refused("fer2013.csv: is no file, but a folder or a pipe", fer2013.read_macro, tmp_path / "fer")
    refused("fer2013.csv: is no file", macro.load_image, {"image": f"{tmp_path}/fer/fer2013.csv#0"})
    sheet = raf / "basic/EmoLabel/list_patition_label.txt"
    sheet.unlink()
    os.mkfifo(sheet)
    refused("list_patition_label.txt: is no file", rafdb.read_macro, raf)
    sheet = ck / "Emotion/S005/001/S005_001_00000003_emotion.txt"
    sheet.unlink()
    os.mkfifo(sheet)
    refused("00000003_emotion.txt: is no file", ckplus.read_macro, ck)


def test_a_path_of_thousands_of_characters(tmp_path):
    refused("there is no such folder; unpack the set there", fer2013.read_macro, tmp_path / ("x" * 5000))


def test_a_line_without_end(tmp_path):
    put(tmp_path / "fer2013.csv", csv_text(FER[:1]) + "0," + "1 " * 2**20)
    refused("fer2013.csv: line 3 has over 1048576 bytes", fer2013.read_macro, tmp_path)
    put(tmp_path / "fer2013.csv", "," * 1_000_000 + "\n")
    assert len(refused("columns emotion, pixels, usage are missing", fer2013.read_macro, tmp_path)) < 1000


def test_a_column_twice_is_refused(tmp_path):
    """A table of names keeps the last of them, and says nothing."""
    put(tmp_path / "fer2013.csv", csv_text(FER[:2], columns="emotion,pixels,Usage,emotion"))
    refused("columns emotion stand there twice; keep the one that counts", fer2013.read_macro, tmp_path)


def test_what_archives_of_macs_leave_behind(raf, ck):
    for root, reader in ((raf, rafdb), (ck, ckplus)):
        expected = reader.read_macro(root)
        for path in [p for p in root.rglob("*") if p.is_file() and p.name[0] != "."]:
            for ghost in (path.with_name(f"._{path.name}"), path.parent / "__MACOSX" / f"._{path.name}",
                          path.parent.parent / "__MACOSX/x" / path.name, path.with_name("Thumbs.db"),
                          root / "__MACOSX" / path.name):  # fmt: skip
                ghost.parent.mkdir(parents=True, exist_ok=True)
                ghost.write_bytes(b"\x00\x05\x16\x07")
        pd.testing.assert_frame_equal(reader.read_macro(root), expected)


def test_every_image_of_an_index_tells_its_edition(raf, ck, fer):
    assert rafdb.read_macro(raf).attrs["edition"] == "list_patition_label.txt, aligned"
    assert fer2013.read_macro(fer).attrs["edition"] == "fer2013.csv"
    votes = fer2013.read_macro(fer, labels="ferplus")
    assert votes.attrs["edition"] == "fer2013.csv with fer2013new.csv, majority half"
    table = macro.index_table(ckplus.read_macro(ck), "mine")
    assert table["edition"].unique().tolist() == ["cohn-kanade-images"]


def every_emotion(name):
    return macro.make_table("x", [
        {"id": f"{name}/{e}", "corpus": name, "subject": "", "emotion": e, "split": "", "image": e}
        for e in sorted(set(macro.EMOTIONS.values()))
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("name", "classes"), [("ckplus", {3, 7, 8}), ("rafdb", {3, 7}), ("fer2013", {3, 7, 8})]
)  # fmt: skip
def test_class_lists(name, classes):
    module, table = READERS[name], every_emotion(name)
    assert set(module.CLASSES) == classes
    three = select(table, name, 3)
    assert three.attrs["class_names"] == ["negative", "positive", "surprise"]
    assert dict(zip(three["emotion"], three["label"], strict=True)) == {
        "anger": 0, "contempt": 0, "disgust": 0, "fear": 0, "sadness": 0, "happiness": 1, "surprise": 2,
    }  # fmt: skip
    for n in classes - {3}:
        assert len(select(table, name, n).attrs["class_names"]) == n
        assert set().union(*module.CLASSES[n].values()) <= set(macro.EMOTIONS.values())


def test_labels_of_the_full_lists_are_the_sets_own_codes():
    assert list(rafdb.CLASSES[7])[:2] == ["surprise", "fear"]  # 1, 2 in its list
    assert list(fer2013.CLASSES[7]) == list(fer2013.CODES.values())
    assert list(fer2013.CLASSES[8]) == list(fer2013.VOTED)
    assert list(ckplus.CLASSES[8]) == list(ckplus.CODES.values())


def test_counts_of_what_was_left_out_survive_the_selection(fer):
    table = fer2013.read_macro(fer, labels="ferplus").assign(emotion=["fear", "surprise", "happiness"])
    rows = select(table, "fer2013", 3)
    assert macro.summary(rows)["excluded"] == {"NF": 1, "no majority": 1, "unknown": 1}


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=2304, max_size=2304), st.sampled_from([" ", "  ", " \t"]))
def test_any_face_survives_as_text(values, blank):
    grey = np.frombuffer(values, np.uint8).reshape(48, 48)
    text = f" {blank.join(str(v) for v in grey.ravel())} "
    np.testing.assert_array_equal(macro.parse_pixels(text, "here"), grey)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2303), st.sampled_from(["256", "-1", "1.0", "1e2", "", "٣", "1_0", "0x1", "9" * 5000]))
def test_one_bad_pixel_is_refused(place, word):
    words = ["7"] * 2304
    words[place] = word
    with pytest.raises(MerError, match=r"^here: pixel"):
        macro.parse_pixels(" ".join(words), "here")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_an_error_of_the_system_is_no_fault_of_the_set(tmp_path, raf, ck, monkeypatch, code):
    put(tmp_path / "fer/fer2013.csv", csv_text(FER[:2]))
    opened = open

    def fail(file, *args, **kwargs):
        if str(file).endswith((".csv", ".txt")):
            raise OSError(code, os.strerror(code))
        return opened(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", fail)
    for name, read, argument in (
        ("fer2013.csv", fer2013.read_macro, tmp_path / "fer"),
        ("fer2013.csv", macro.load_image, {"image": f"{tmp_path}/fer/fer2013.csv#0"}),
        ("list_patition_label.txt", rafdb.read_macro, raf),
        ("_emotion.txt", ckplus.read_macro, ck),
    ):
        said = refused(f"{name}: (?i:{os.strerror(code)});", read, argument)
        assert "there again" not in said
