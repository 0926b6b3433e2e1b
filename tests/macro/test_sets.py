"""The macro sets, on fictional mini-sets in each layout that circulates."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.corpora import select
from mer.errors import MerError
from mer.macro import ckplus, fer2013, rafdb
from mer.macro import tables as macro

READERS = {"ckplus": ckplus, "rafdb": rafdb, "fer2013": fer2013}
FACE = " ".join(str(n % 256) for n in range(48 * 48))


def draw(path, value=0, size=(6, 5), grey=False):
    """An image whose first pixel is (value, 10, 20) RGB, or `value` when grey."""
    image = np.full((*size, 3), (20, 10, value), np.uint8)  # BGR
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, 2] if grey else image)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def images(table):
    return [macro.load_image(row) for row in table.itertuples()]


def refused(message, reader, *args, **kwargs):
    with pytest.raises(MerError, match=message) as error:
        reader(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- CK+ ------------------------------------------------------------------------------------------------------------

SEQUENCES = {  # subject/sequence -> frames, code or None
    "S005/001": (3, 3), "S010/001": (4, 7), "S010/002": (3, None), "S010/003": (2, 5), "S011/001": (2, 1),
}  # fmt: skip


@pytest.fixture
def ck(tmp_path):
    for place, (frames, code) in SEQUENCES.items():
        stem = place.replace("/", "_")
        for n in range(1, frames + 1):
            draw(tmp_path / f"cohn-kanade-images/{place}/{stem}_{n:08d}.png", n, grey=place == "S005/001")
        if code is None:
            (tmp_path / "Emotion" / place).mkdir(parents=True)
        else:
            put(tmp_path / f"Emotion/{place}/{stem}_{frames:08d}_emotion.txt", f"   {code:.7e}\n")
    put(tmp_path / "cohn-kanade-images/S010/.DS_Store", "x")
    put(tmp_path / "cohn-kanade-images/S010/001/.DS_Store", "x")
    return tmp_path


def test_ckplus_release(ck):
    table = ckplus.read_macro(ck)
    assert list(table.columns) == list(macro.COLUMNS)
    assert table.iloc[0].to_dict() == {
        "id": "ckplus/S005_001_00000003", "corpus": "ckplus", "subject": "S005", "emotion": "disgust", "split": "",
        "image": (ck / "cohn-kanade-images/S005/001/S005_001_00000003.png").as_posix(),
    }  # fmt: skip
    assert table["emotion"].tolist() == ["disgust", "surprise", "happiness", "anger"]
    grey, colour = images(table)[:2]
    assert grey.shape == (6, 5, 3)
    assert grey.dtype == np.uint8
    assert grey[0, 0].tolist() == [3, 3, 3]
    assert colour[0, 0].tolist() == [4, 10, 20]
    assert macro.summary(table) == {
        "images": 4, "subjects": 3, "emotions": {"anger": 1, "disgust": 1, "happiness": 1, "surprise": 1},
        "splits": {"none": 4}, "excluded": {"no emotion label": 1},
    }  # fmt: skip


def test_ckplus_last_frames_end_at_the_labelled_one(ck):
    draw(ck / "cohn-kanade-images/S005/001/S005_001_00000004.png")  # behind the peak
    draw(ck / "cohn-kanade-images/S005/001/S005_002_00000001.png")  # of another sequence
    table = ckplus.read_macro(ck, last=2)
    assert len(table) == 8
    assert table["id"].tolist()[:2] == ["ckplus/S005_001_00000002", "ckplus/S005_001_00000003"]
    refused(r"S010/003: has 2 frames up to the labelled one, last is 3", ckplus.read_macro, ck, last=3)
    refused("last is 0: at least one", ckplus.read_macro, ck, last=0)


def test_ckplus_cropped(tmp_path):
    for n in (15, 16, 17):
        draw(tmp_path / f"CK+48/happy/S010_004_000000{n}.png")
        draw(tmp_path / f"CK+48/contempt/S138_008_000000{n}.png")
    table = ckplus.read_macro(tmp_path, last=2)
    assert table[["subject", "emotion"]].drop_duplicates().to_numpy().tolist() == [
        ["S010", "happiness"], ["S138", "contempt"],
    ]  # fmt: skip
    assert [i[-2:] for i in table["id"]] == ["16", "17", "16", "17"]
    draw(tmp_path / "CK+48/happy/face.png")
    refused("happy/face.png: is not named like", ckplus.read_macro, tmp_path)


def test_ckplus_csv_has_its_own_codes(tmp_path):
    put(tmp_path / "ckextended.csv", csv_text([(6, "Training"), (7, "PublicTest"), (0, "PrivateTest")]))
    table = ckplus.read_macro(tmp_path)
    assert table["emotion"].tolist() == ["neutral", "contempt", "anger"]
    assert table["split"].tolist() == ["train", "val", "test"]
    refused("one frame a sequence, last is 2", ckplus.read_macro, tmp_path, last=2)


def test_ckplus_bad_input(ck):
    sheet = ck / "Emotion/S005/001/S005_001_00000003_emotion.txt"
    for text in ("9", "1.5", "", "happy", "nan", "inf"):
        put(sheet, text)
        refused(f"00000003_emotion.txt: emotion is '{text}', which is no code of this set", ckplus.read_macro, ck)
    sheet.write_bytes(b"\xff\xfe3")
    refused("is no text; unpack Emotion_labels.zip", ckplus.read_macro, ck)
    put(sheet, "3")
    put(ck / "Emotion/S005/001/S005_001_00000002_emotion.txt", "3")
    refused("S005/001: holds 2 emotion files", ckplus.read_macro, ck)
    (ck / "Emotion/S005/001/S005_001_00000002_emotion.txt").unlink()
    for n in range(7):
        put(ck / f"Emotion/S02{n}/001/S02{n}_001_00000009_emotion.txt", "1")
    text = refused(
        "7 labelled frames are missing: S020/001/S020_001_00000009.png, .* and 2 more", ckplus.read_macro, ck
    )
    assert "S024" in text
    assert "S025" not in text
    (ck / "Emotion/S010/extra").mkdir()
    refused("S010/extra: is not named like S005/001", ckplus.read_macro, ck)


# ---- RAF-DB ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def raf(tmp_path):
    lines = []
    for n, code in enumerate((1, 2, 3, 4, 5, 6, 7), start=1):
        stem = f"{'test' if n == 7 else 'train'}_{n:05d}"
        draw(tmp_path / f"basic/Image/aligned/{stem}_aligned.jpg")
        draw(tmp_path / f"basic/Image/original/{stem}.jpg", size=(9, 8))
        lines.append(f"{stem}.jpg {code}\n")
    put(tmp_path / "basic/EmoLabel/list_patition_label.txt", "".join(lines))
    return tmp_path


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


# ---- FER-2013 -------------------------------------------------------------------------------------------------------


def csv_text(rows, face=FACE, columns="emotion,pixels,Usage"):
    return columns + "\n" + "".join(f"{code},{face},{usage}\n" for code, usage in rows)


FER = [(0, "Training"), (3, "Training"), (6, "Training"), (5, "PublicTest"), (4, "PrivateTest"), (1, "PrivateTest")]
# Row 1 shows no face and has no name; the names of the others count it. The real file counts some such rows only.
PLUS = """Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF
Training,fer0000000.png,1,0,0,1,6,2,0,0,0,0
Training,,0,0,0,0,0,0,0,0,0,10
Training,fer0000002.png,4,0,0,4,1,0,0,0,1,0
PublicTest,fer0000003.png,0,0,7,0,0,0,1,0,2,0
PrivateTest,fer0000004.png,0,1,0,0,0,0,0,2,7,0
PrivateTest,fer0000005.png,1,0,0,0,0,2,0,7,0,0
"""


@pytest.fixture
def fer(tmp_path):
    put(tmp_path / "fer2013.csv", csv_text(FER))
    put(tmp_path / "fer2013new.csv", PLUS)
    return tmp_path


def test_fer2013(fer):
    table = fer2013.read_macro(fer)
    assert list(table.columns) == list(macro.COLUMNS)
    assert table["emotion"].tolist() == ["anger", "happiness", "neutral", "surprise", "sadness", "disgust"]
    assert table["split"].tolist() == ["train"] * 3 + ["val", "test", "test"]
    assert table["id"].iloc[4] == "fer2013/row000004"
    assert table["image"].iloc[4] == f"{(fer / 'fer2013.csv').as_posix()}#4"
    image = macro.load_image(table.iloc[4])
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    assert image[1, 2].tolist() == [50, 50, 50]


@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
def test_a_row_is_found_by_its_number(tmp_path, name):
    """Columns in the other edition's order and spelling, a byte order mark, CRLF, a quoted cell, a blank line."""
    faces = [f"{n} " * 2304 for n in range(5)]
    lines = ["emotion, Usage, pixels", *(f'{n},Training,"{f.strip()}"' for n, f in enumerate(faces))]
    lines.insert(3, "")
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    table = fer2013.read_macro(tmp_path)
    assert [i[0, 0, 0] for i in images(table)] == [0, 1, 2, 3, 4]
    assert macro.load_image(dict(table.iloc[3]))[47, 47].tolist() == [3, 3, 3]


def test_a_replaced_file_is_read_anew(fer):
    row = fer2013.read_macro(fer).iloc[5]
    assert macro.load_image(row)[0, 1, 0] == 1
    put(fer / "fer2013.csv", csv_text(FER[::-1] * 2, " ".join(["77"] * 2304)))
    assert macro.load_image(row)[0, 1, 0] == 77
    put(fer / "fer2013.csv", csv_text(FER[:2]))
    refused("has no row 5, only 2 rows", macro.load_image, row)
    (fer / "fer2013.csv").unlink()
    refused("fer2013.csv: the file is missing", macro.load_image, row)


def test_fer2013_folders(tmp_path):
    draw(tmp_path / "train/angry/Training_1.jpg", grey=True)
    draw(tmp_path / "test/happy/PrivateTest_2.jpg", grey=True)
    table = fer2013.read_macro(tmp_path)
    assert table[["id", "emotion", "split"]].to_numpy().tolist() == [
        ["fer2013/test/happy/PrivateTest_2", "happiness", "test"],
        ["fer2013/train/angry/Training_1", "anger", "train"],
    ]
    refused("FER[+] belongs to the rows of fer2013.csv", fer2013.read_macro, tmp_path, labels="ferplus")
    (tmp_path / "train/hapy").mkdir()
    refused("train/hapy: is the folder of no emotion; did you mean 'happy'", fer2013.read_macro, tmp_path)


def test_ferplus(fer):
    table = fer2013.read_macro(fer, labels="ferplus")
    assert table[["id", "emotion"]].to_numpy().tolist() == [
        ["fer2013/row000000", "anger"], ["fer2013/row000003", "surprise"], ["fer2013/row000005", "contempt"],
    ]  # fmt: skip
    assert table.attrs["excluded"] == {"NF": 1, "no majority": 1, "unknown": 1}
    assert table["vote_surprise"].tolist() == [0.0, 7 / 8, 0.0]
    assert table[[f"vote_{e}" for e in fer2013.VOTED]].sum(axis=1).tolist() == pytest.approx([1, 1, 1])
    refused("labels is 'fer[+]'; set it to fer or ferplus", fer2013.read_macro, fer, labels="fer+")


def test_ferplus_names_may_skip_numbers(fer):
    """As in the real file, where row 60 is named fer0000059: a name never says which row it is."""
    put(fer / "fer2013new.csv", PLUS.replace("0003.png", "0002.png").replace("0002.png", "0001.png", 1))
    assert fer2013.read_macro(fer, labels="ferplus")["id"].iloc[1] == "fer2013/row000003"


def test_ferplus_without_a_name(fer):
    put(fer / "fer2013new.csv", PLUS.replace("fer0000003.png", ""))
    assert fer2013.read_macro(fer, labels="ferplus").attrs["excluded"]["no image name"] == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("PublicTest,fer0000003", "Training,fer0000003", "row 3 .line 5.: Usage is 'Training', .* the one of val"),
        ("fer0000003.png", "fer0000001.png", "row 3 .line 5.: Image name 'fer0000001.png' is out of order"),
        ("fer0000003.png", "fer0000009.png", "row 3 .line 5.: Image name 'fer0000009.png' is out of order"),
        ("fer0000003.png", "face.png", "Image name 'face.png' is out of order"),
        ("0,0,7,0,0,0,1,0,2,0", "0,0,x,0,0,0,1,0,2,0", "row 3 .line 5.: votes are '0 0 x 0"),
        ("0,0,7,0,0,0,1,0,2,0", "0,0,-7,0,0,0,1,0,2,0", "row 3 .line 5.: votes are"),
        ("0,0,7,0,0,0,1,0,2,0", "0,0,0,0,0,0,0,0,0,0", "needed are ten counts"),
        ("PublicTest,fer0000003.png,0,0,7,0,0,0,1,0,2,0\n", "", "Usage is 'PrivateTest'"),
        ("PrivateTest,fer0000005.png,1,0,0,0,0,2,0,7,0,0\n", "", "has 5 rows, the pixels 6"),
        (",contempt,", ",scorn,", "columns contempt are missing; found usage, image name, neutral"),
        (PLUS, PLUS + PLUS.splitlines()[-1] + "\n", "has 7 rows, the pixels 6"),
        (PLUS, "", "fer2013new.csv: is empty"),
    ],
)
def test_ferplus_of_other_rows(fer, old, new, message):
    assert old in PLUS
    put(fer / "fer2013new.csv", PLUS.replace(old, new))
    refused(message, fer2013.read_macro, fer, labels="ferplus")


def test_ferplus_that_is_not_there(fer):
    (fer / "fer2013new.csv").unlink()
    refused("fer2013new.csv: the file is missing; put it there", fer2013.read_macro, fer, labels="ferplus")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (csv_text(FER[:2]) + "0,1 2 3,Training\n", "row 2 .line 4.: pixels holds 3 numbers, needed are 2304 .48x48."),
        (csv_text(FER[:1], FACE[:-1] + "x"), "row 0 .line 2.: pixel '.*x' is no number from 0 to 255"),
        (csv_text([(7, "Training")]), "row 0 .line 2.: emotion is '7', which is no code of this set .0 anger, .*6 neu"),
        (csv_text([("", "Training")]), "emotion is ''"),
        (csv_text([(1, "Trainng")]), "Usage is 'Trainng'; did you mean 'training'"),
        (csv_text(FER[:1]) + "0,1\n", "row 1 .line 3.: has 2 cells, the header 3"),
        (csv_text(FER[:1], columns="emotion,pixel,Usage"), "columns pixels are missing; found emotion, pixel, usage"),
        (csv_text([]), "holds no labelled image"),
        ("", "fer2013.csv: is empty"),
    ],
)
def test_fer2013_bad_rows(tmp_path, text, message):
    put(tmp_path / "fer2013.csv", text)
    refused(message, fer2013.read_macro, tmp_path)


def test_a_pixel_above_255_is_named_when_it_is_loaded(tmp_path):
    put(tmp_path / "fer2013.csv", csv_text(FER[:1], "256 " + FACE[2:]))
    refused(r"row 0 \(line 2\): pixel 256 is above 255", macro.load_image, fer2013.read_macro(tmp_path).iloc[0])


# ---- all of them ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("votes", "half", "most"),
    [
        ((5, 1, 1, 1, 1, 1, 0, 0, 0, 0), "neutral", "neutral"),  # lone votes are outliers, 5 of 5
        ((5, 3, 2, 0, 0, 0, 0, 0, 0, 0), "no majority", "neutral"),  # 5 of 10 is not more than half
        ((4, 0, 0, 4, 1, 0, 0, 0, 1, 0), "no majority", "no majority"),
        ((0, 2, 1, 0, 0, 0, 0, 0, 7, 0), "unknown", "unknown"),
        ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), "no majority", "no majority"),
        ((0, 0, 0, 0, 0, 0, 0, 0, 0, 10), "NF", "NF"),
    ],
)
def test_majorities_written_out(votes, half, most):
    assert fer2013.majority_label(votes) == half
    assert fer2013.majority_label(votes, "most") == most


VOTES = st.lists(st.integers(0, 10), min_size=10, max_size=10).filter(any)


@settings(max_examples=100, deadline=None)
@given(VOTES)
def test_majorities(votes):
    """`most`: more than every other. `half`: more than all others together, lone votes aside, so it implies `most`."""
    names = [*fer2013.VOTED, "unknown", "NF"]
    most, half = (fer2013.majority_label(votes, m) for m in ("most", "half"))
    winners = [n for n, v in zip(names, votes, strict=True) if v == max(votes)]
    assert most == (winners[0] if len(winners) == 1 else "no majority")
    heard = [v for v in votes if v > 1]
    if heard and 2 * max(heard) > sum(heard):
        assert half == most
    else:
        assert half == "no majority"


@settings(max_examples=20, deadline=None)
@given(st.lists(VOTES, min_size=1, max_size=6), st.sampled_from(fer2013.MAJORITIES))
def test_every_vote_row_is_kept_or_counted(tmp_path_factory, votes, majority):
    root = tmp_path_factory.mktemp("fer")
    put(root / "fer2013.csv", csv_text([(0, "Training")] * len(votes) + [(1, "PrivateTest")]))
    lines = [f"Training,fer{n:07d}.png,{','.join(map(str, v))}" for n, v in enumerate(votes)]
    sure = f"PrivateTest,fer{len(votes):07d}.png,0,10,0,0,0,0,0,0,0,0"
    put(root / "fer2013new.csv", "\n".join([PLUS.splitlines()[0], *lines, sure]))
    table = fer2013.read_macro(root, labels="ferplus", majority=majority)
    assert len(table) + sum(table.attrs["excluded"].values()) == len(votes) + 1
    assert table[[f"vote_{e}" for e in fer2013.VOTED]].sum(axis=1).to_numpy() == pytest.approx(1)
    for row in table.itertuples():
        assert getattr(row, f"vote_{row.emotion}") == max(row[len(macro.COLUMNS) + 1 :])
