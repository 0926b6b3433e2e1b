"""CK+ in each edition that circulates, on fictional mini-sets."""

import numpy as np

from mer.macro import ckplus
from mer.macro import tables as macro
from tests.helpers.macro_sets import csv_text, draw, images, put
from tests.helpers.refusals import refused


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
