"""Clips whose corpus lacks single frames; the index, which is read as it was written or not at all."""

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.clips import (
    COLUMNS,
    Clip,
    clips,
    files_digest,
    read_excluded,
    read_frames,
    read_index,
    write_excluded,
    write_index,
)
from mer.errors import FileError, MerError
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


def test_frames_that_are_not_those_that_were_indexed(tmp_path):
    """A bit that the disk has lost: the date stays, so DVC sees nothing, and the decoder may say nothing either."""
    where = tmp_path / "clip"
    where.mkdir()
    for n in range(10, 15):
        cv2.imwrite(str(where / f"img{n}.bmp"), np.full((6, 5, 3), n, np.uint8))
    one = replace(clip(where), frame=f"{where}/img{{}}.bmp")
    indexed = replace(one, digest=files_digest(one.paths()))
    assert len(list(read_frames(indexed))) == 5
    last = bytearray((where / "img14.bmp").read_bytes())
    last[-1] ^= 1
    (where / "img14.bmp").write_bytes(last)
    assert len(list(read_frames(one))) == 5
    remedy = r"bring the frames anew, or, if they were meant to change, run dvc repro -f index@c$"
    with pytest.raises(
        MerError, match=rf"{re.escape(str(where))}: holds the frames of c/s/1, which .* indexed; {remedy}"
    ):
        list(read_frames(indexed))
    (tmp_path / "truth.h5").touch()  # rendered: an output, for which there is a remedy, that of all its frames
    remedy = rf"run python -m tools\.repair {re.escape(str(where))}, then dvc repro$"
    with pytest.raises(FileError, match=rf"is damaged: it holds the frames of .*; {remedy}"):
        list(read_frames(indexed))


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
    columns = [column for column in COLUMNS if column not in ("id", "onset", "apex", "offset", "fps", "absent")]
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


@pytest.mark.parametrize("names", [("Anna", "anna"), ("M\u00fcller", "mu\u0308ller"), ("Strau\u00df", "STRAUSS")])
def test_subjects_that_differ_in_the_case_of_letters_or_their_composition(tmp_path, names):
    """Of other clips: their ids differ, and one person would be two folds, each trained on the other."""
    table = rows("c/x/1", "c/x/2").assign(subject=names)
    both = " and ".join(ascii(f"x/{name}") for name in names)
    message = rf"c\.csv: subjects {re.escape(both)} differ in letter case or Unicode form only.*; write them alike"
    refused(message, write_index, tmp_path / "c.csv", table)
    write_table(tmp_path / "c.csv", table[list(COLUMNS)])  # as an earlier version wrote it
    refused(message, read_index, tmp_path / "c.csv")
    write_index(tmp_path / "c.csv", table.assign(corpus=["c", "d"]))  # two corpora: two people
    assert len(read_index(tmp_path / "c.csv")) == 2


@pytest.mark.parametrize("offset", [0, 7 * 10**9, 10**15])
def test_a_clip_that_would_fill_the_memory(tmp_path, offset):
    refused(rf"c\.csv: clip c/s/1: has frames 1 to {offset}, needed are 1 to 1000000 of them; correct the row",
            write_index, tmp_path / "c.csv", rows("c/s/1", offset=offset))  # fmt: skip


class Number(np.int64):
    """A number that is no numpy type of its own."""


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.uint8, np.uint64, Number])
@pytest.mark.parametrize("rate", [200, 29.97, np.float32(29.97), np.float64(100), np.int16(30), 1e6])
def test_numbers_of_any_kind_are_numbers(tmp_path, kind, rate):
    """Also in a column of objects, and small ones whose differences would leave their range."""
    changes = {"onset": kind(250), "apex": kind(252), "offset": kind(253), "fps": rate, "subject": np.str_("007")}
    table = rows("c/s/1", "c/s/2", **changes)
    for given in (table, table.astype(object)):
        write_index(tmp_path / "c.csv", given)
        found = clips(read_index(tmp_path / "c.csv"))
        assert [(c.onset, c.apex, c.offset, c.fps, c.subject) for c in found] == [
            (250, 252, 253, float(rate), "007")] * 2  # fmt: skip


def test_a_still_has_no_rate(tmp_path):
    write_index(tmp_path / "c.csv", rows("c/s/1", onset=4, apex=4, offset=4, fps=0.0))
    assert read_index(tmp_path / "c.csv").loc[0, "fps"] == 0
    refused("clip c/s/1: fps is 0.0, needed is", write_index, tmp_path / "c.csv", rows("c/s/1", fps=0.0))
    refused("clip c/s/1: fps is nan, needed is", write_index, tmp_path / "c.csv",
            rows("c/s/1", onset=4, apex=4, offset=4, fps=np.nan))  # fmt: skip


RATE = "needed is a number of frames a second, above 0, no text"
FRAME = "needed is a frame number: a whole number from 0, no text"
TEXT = 'needed is text, "" for none'
WRONG = [
    *(("fps", value, RATE) for value in ("200 fps", "200", "", None, np.nan, np.inf, -np.inf, -30.0, 0, 0.0, True, 1e9,
                                         np.float32("nan"), np.float32(-1), 2j, [200], 10**400)),
    *((column, value, FRAME) for column in ("onset", "apex", "offset")
      for value in ("2", "2.0", "", 2.0, 2.5, np.float64(2), np.nan, np.inf, None, True, np.bool_(True), -1,
                    np.int64(-1), 2**63, [2])),
    *((column, value, TEXT) for column in COLUMNS if column not in ("onset", "apex", "offset", "fps", "id")
      for value in (None, np.nan, 7, 7.0, True, np.int64(7), b"a", ["a"])),
    ("frame", "img{n}.jpg", "needed is a path with {} for the frame number, and other braces doubled"),
    ("frame", "{}/img{}.jpg", "needed is a path with {} for the frame number"),
    ("frame", "img{.jpg", "needed is a path with {} for the frame number"),
    ("frame", "img{:s}.jpg", "needed is a path with {} for the frame number"),
    ("absent", "2,3", "needed are some of the frame numbers 1 to 4, separated by spaces"),
    ("absent", "02", "needed are some of the frame numbers 1 to 4"),
    ("absent", "9", "needed are some of the frame numbers 1 to 4"),
    ("absent", "1 2 3 4", "needed are some of the frame numbers 1 to 4"),
    ("subject", "s\x1b[2J", r"needed is a name whose characters can be seen, without \x1b"),
    ("subject", "s\u200b1", r"needed is a name whose characters can be seen, without \u200b"),
    ("clip", "a\nb", r"needed is a name whose characters can be seen, without \n"),
    ("corpus", "c\u202e", r"needed is a name whose characters can be seen, without \u202e"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value", "needed"), WRONG, ids=[f"{c} {v!r:.20}" for c, v, _ in WRONG])
def test_a_cell_that_no_index_holds_is_refused_with_its_clip(tmp_path, column, value, needed):
    """Before it is written: what is read back afterwards would be called damaged."""
    table = rows("c/s/1", "c/s/2").astype(object)
    table[column] = pd.Series([table.loc[0, column], value], dtype=object)
    shown = value.item() if isinstance(value, np.generic) else value
    refused(
        re.escape(f"c.csv: clip c/s/2: {column} is {shown!r:.60}, {needed}") + ".*; correct what the reader returns",
        write_index, tmp_path / "c.csv", table,
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [None, np.nan, 7, ""])
def test_a_clip_without_an_id_is_named_by_its_row(tmp_path, value):
    table = rows("c/s/1", "c/s/2", subject="s", clip="k").astype(object)
    table["id"] = pd.Series(["c/s/1", value], dtype=object)
    refused(rf"c\.csv: row 1 \(subject 's', clip 'k'\): id is {value!r}, needed is", write_index, tmp_path / "c.csv",
            table)  # fmt: skip


def test_an_id_that_steers_a_terminal_is_shown_as_an_escape(tmp_path):
    refused(r"clip c/s/\\x1b\[2J: id is 'c/s/\\x1b\[2J', needed is a name whose characters can be seen, without \\x1b",
            write_index, tmp_path / "c.csv", rows("c/s/\x1b[2J"))  # fmt: skip


def test_an_apex_outside_of_its_clip_a_missing_column_and_no_clip(tmp_path):
    for apex in (0, 5):
        refused(rf"c\.csv: clip c/s/1: apex {apex} is none of its frames 1 to 4; correct the row", write_index,
                tmp_path / "c.csv", rows("c/s/1", apex=apex))  # fmt: skip
        refused(rf"c\.csv: clip c/s/1: apex {apex} is none of its frames 1 to 4", read_index,
                sealed(tmp_path, rows("c/s/1", apex=apex)))  # fmt: skip
    for column in ("fps", "edition"):
        refused(rf"c\.csv: has no column {column}; correct what the reader returns", write_index, tmp_path / "c.csv",
                rows("c/s/1").drop(columns=column))  # fmt: skip
    refused(r"c\.csv: has no clip; correct what the reader returns", write_index, tmp_path / "c.csv", rows("c/s/1")[:0])


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
