"""What holds for every macro-expression set: folders, class lists, pixels as text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.corpora import select
from mer.errors import MerError
from mer.macro import ckplus, fer2013, rafdb
from mer.macro import tables as macro
from tests.helpers.macro_sets import put
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
