"""FER-2013 with the labels of the competition and of FER+, on fictional mini-sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.macro import fer2013
from mer.macro import tables as macro
from tests.helpers.macro_sets import FACE, FER, PLUS, csv_text, draw, images, put
from tests.helpers.refusals import refused


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


# ---- majorities -----------------------------------------------------------------------------------------------------


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
