"""Clips whose corpus lacks single frames; the index, which is read as it was written or not at all."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.clips import COLUMNS, Clip, clips, read_excluded, read_frames, read_index, write_excluded, write_index
from mer.errors import MerError
from mer.storage.tables import write_table
from tests.helpers.refusals import refused


def clip(folder, absent=""):
    return Clip("c/s/1", "c", "s", "1", "x", "", 10, 12, 14, "annotated", 200.0, f"{folder}/img{{}}.png", absent, "")


def test_gaps_shift_positions():
    whole, gap = clip("f"), clip("f", "12 13")
    assert whole.numbers == [10, 11, 12, 13, 14]
    assert [whole.position(n) for n in whole.numbers] == [0, 1, 2, 3, 4]
    assert gap.numbers == [10, 11, 14]
    assert [gap.position(n) for n in (10, 11, 12, 13, 14)] == [0, 1, 1, 1, 2]


def test_frames_are_read_in_order_without_the_gaps(tmp_path):
    for n in (10, 11, 14):
        cv2.imwrite(str(tmp_path / f"img{n}.png"), np.full((6, 5, 3), n, np.uint8))
    frames = list(read_frames(clip(tmp_path, "12 13")))
    assert [f[0, 0, 0] for f in frames] == [10, 11, 14]
    with pytest.raises(MerError, match=r"img12.png: frame is missing"):
        list(read_frames(clip(tmp_path)))


def test_frames_of_two_sizes_are_refused(tmp_path):
    for n in range(10, 15):
        cv2.imwrite(str(tmp_path / f"img{n}.png"), np.zeros((6, 5 + (n == 13), 3), np.uint8))
    with pytest.raises(MerError, match=r"img13.png: is 6x6, the clip's first frame 5x6"):
        list(read_frames(clip(tmp_path)))


def test_grey_frames_become_rgb(tmp_path):
    """SAMM's frames (fidelity 0.3, D-25)."""
    for n in range(10, 15):
        cv2.imwrite(str(tmp_path / f"img{n}.png"), np.full((6, 5), n, np.uint8))
    frame = next(read_frames(clip(tmp_path)))
    assert frame.shape == (6, 5, 3)
    assert (frame == 10).all()


def test_an_index_whose_clips_all_lack_one_frame(tmp_path):
    """One number in every row of `absent` is still text, not a column of integers."""
    row = dict.fromkeys(COLUMNS, "x") | {"onset": 1, "apex": 2, "offset": 4, "fps": 100.0, "absent": "3", "id": "c/s/1"}
    write_index(tmp_path / "c.csv", pd.DataFrame([row, row | {"id": "c/s/2"}]))
    assert [clip.numbers for clip in clips(read_index(tmp_path / "c.csv"))] == [[1, 2, 4]] * 2


# ---- the index ------------------------------------------------------------------------------------------------------


def rows(*ids: str, **changes) -> pd.DataFrame:
    row = dict.fromkeys(COLUMNS, "x") | {"onset": 1, "apex": 2, "offset": 4, "fps": 100.0, "absent": ""} | changes
    return pd.DataFrame([row | {"id": clip_id} for clip_id in ids])


@pytest.fixture
def index(tmp_path):
    write_index(tmp_path / "c.csv", rows("c/s/3", "c/s/1", "c/s/2"))
    return tmp_path / "c.csv"


@pytest.mark.parametrize("name", ["NA", "nan", "null", "None", "007", "1e5", "TRUE", "1.0", "-", " a ", ""])
def test_text_stays_text(tmp_path, name):
    """A subject named NA is one, and 007 is another than 7."""
    columns = [column for column in COLUMNS if column not in ("id", "onset", "apex", "offset", "fps")]
    text = dict.fromkeys(columns, name)
    write_index(tmp_path / "c.csv", rows("c/s/1", **text))
    table = read_index(tmp_path / "c.csv")
    assert {c: table.loc[0, c] for c in text} == text
    write_index(tmp_path / "d.csv", table)
    assert (tmp_path / "c.csv").read_bytes() == (tmp_path / "d.csv").read_bytes()
    write_excluded(tmp_path / "e.csv", [(name, name)])
    assert read_excluded(tmp_path / "e.csv") == {name: name}


def test_numbers_are_numbers(index):
    table = read_index(index)
    assert table["id"].tolist() == ["c/s/1", "c/s/2", "c/s/3"]
    assert [str(table[c].dtype) for c in ("onset", "apex", "offset", "fps")] == ["int64"] * 3 + ["float64"]


def test_ids_that_differ_in_the_case_of_letters_or_their_composition(tmp_path):
    for pair in (("c/s/A", "c/s/a"), ("c/s/1", "c/s/1"), ("c/M\u00fcller/1", "c/Mu\u0308ller/1")):
        refused(f"c.csv: clip ids occur twice: {pair[1]}; a label sheet must name every clip once", write_index,
                tmp_path / "c.csv", rows(*pair))  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("offset", [0, 7 * 10**9, 10**15])
def test_a_clip_that_would_fill_the_memory(tmp_path, offset):
    refused(rf"c\.csv: clip c/s/1: has frames 1 to {offset}, needed are 1 to 1000000 of them; correct the row",
            write_index, tmp_path / "c.csv", rows("c/s/1", offset=offset))  # fmt: skip


def sealed(folder, table) -> Path:
    """An index that says something else, sealed as if it had been written so."""
    write_table(folder / "c.csv", table[list(COLUMNS)])
    return folder / "c.csv"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 7 * 10**9}, "clip c/s/1: has frames 1 to 7000000000"),
        ({"onset": "x"}, "is damaged: onset holds no number"),
        ({"onset": ""}, "is damaged: onset holds no number"),
        ({"apex": "9" * 5000}, "is damaged: apex holds no number"),
        ({"apex": "1.5"}, "is damaged: apex holds no number"),
        ({"fps": "fast"}, "is damaged: fps holds no number"),
    ],
)
def test_numbers_that_are_none(tmp_path, changes, message):
    refused(rf"c\.csv: {message}", read_index, sealed(tmp_path, rows("c/s/1", **changes)))


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (
            lambda text: text.rpartition("c/s/3")[0],
            r"line 3 \(c/s/2\) is another than was written, or one behind it is",
        ),
        (lambda text: text + text.splitlines(keepends=True)[-1], r"line 4 \(c/s/3\) is another"),
        (lambda text: text.replace("c/s/2,x,x,x,x,x,1,2,4", "c/s/2,x,x,x,x,x,1,2,3"), r"line 3 \(c/s/2\) is another"),
        (lambda text: text.replace("digest", "digets"), "columns digest are missing"),
        (lambda text: text.replace("seal", "seel"), "columns seal are missing"),
        (lambda text: text.partition("\n")[0] + "\n", "its rows are missing"),
        (lambda text: ",".join(COLUMNS) + "\n", "it has no clip"),
        (lambda text: "{}", "its last line is cut"),
        (lambda text: "", "it is empty"),
    ],
)
def test_an_index_that_is_another_than_was_written(index, edit, what):
    index.write_text(edit(index.read_text()))
    refused(rf"c\.csv: is damaged: {what}.*; run python -m tools\.repair \S*c\.csv, then dvc repro", read_index, index)


def test_another_digest_is_noticed(tmp_path):
    write_index(tmp_path / "c.csv", rows("c/s/1", "c/s/2", digest="5d41402abc4b2a76"))
    content = (tmp_path / "c.csv").read_text()
    place = content.index("5d41402a") + 3
    (tmp_path / "c.csv").write_text(content[:place] + "0" + content[place + 1 :])
    refused(r"line 2 \(c/s/1\) is another", read_index, tmp_path / "c.csv")


def test_a_missing_index(tmp_path):
    refused("c.csv: there is no such index; run dvc repro", read_index, tmp_path / "c.csv")


def test_exclusions(tmp_path):
    path = tmp_path / "c.excluded.csv"
    write_excluded(path, [])
    assert path.read_bytes() == b"id,reason\n"
    assert read_excluded(path) == {}
    write_excluded(path, [("c/s/2", 'f.jpg: "cut", 7 of 9'), ("c/s/1", "no folder")])
    assert read_excluded(path) == {"c/s/1": "no folder", "c/s/2": 'f.jpg: "cut", 7 of 9'}
    lines = path.read_text().splitlines(keepends=True)
    for left in (lines[:2], lines[:1], [lines[0], *lines[2:]], [*lines, lines[2]], [], ["{}\n"]):
        path.write_text("".join(left))
        refused(r"c\.excluded\.csv: is damaged: .*; run python -m tools\.repair", read_excluded, path)
    path.unlink()
    refused(r"c\.excluded\.csv: there is no such file; run dvc repro", read_excluded, path)
