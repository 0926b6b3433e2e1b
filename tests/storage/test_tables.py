"""Tables of text: what is written is read, cell by cell; a row that is changed, doubled, moved or lost is named."""

import csv

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer.storage.tables import read_cells, read_table, write_table
from tests.helpers.refusals import refused

COLUMNS = ["id", "subject", "number"]
ROWS = [["c/1", "NA", "7"], ["c/2", "007", "8"], ["c/3", "1e5", "9"], ["c/4", 'a,"b"', ""], ["c/5", "nan", "null"]]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path, pd.DataFrame(ROWS, columns=COLUMNS))
    return path


def test_text_stays_text(table):
    assert read_table(table, COLUMNS) == ROWS
    # For other readers it is a csv like any other.
    assert pd.read_csv(table, dtype=str, keep_default_na=False)[COLUMNS].to_numpy().tolist() == ROWS


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=9), min_size=3,
                         max_size=3), max_size=6))  # fmt: skip
def test_any_text_stays_text(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write_table(path, pd.DataFrame(rows, columns=COLUMNS))
    assert read_table(path, COLUMNS) == rows


def test_a_table_without_rows(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path, pd.DataFrame([], columns=COLUMNS))
    assert path.read_bytes() == b"id,subject,number\n"
    assert read_table(path, COLUMNS) == []


LINES = slice(1, None)


def without(k):
    return lambda lines: [*lines[:k], *lines[k + 1 :]]


def swapped(lines):
    return [lines[0], lines[2], lines[1], *lines[3:]]


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (without(1), r"line 2 \(c/2\) is another than was written, or one behind it is"),
        (without(3), r"line 3 \(c/2\) is another"),
        (without(5), r"line 5 \(c/4\) is another"),  # cut at a row
        (lambda lines: lines[:3], r"line 3 \(c/2\) is another"),
        (lambda lines: lines[:1], "its rows are missing"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], r"line 3 \(c/2\) is another"),  # doubled
        (lambda lines: [*lines, lines[5]], r"line 6 \(c/5\) is another"),
        (swapped, r"line 2 \(c/2\) is another"),
        (lambda lines: [line.replace("007", "7") for line in lines], r"line 3 \(c/2\) is another"),
        (lambda lines: [line.replace(",8,", ",9,") for line in lines], r"line 3 \(c/2\) is another"),
        (lambda lines: [*lines[:2], lines[2] + ",x", *lines[3:]], "line 3 has 5 cells, the heading 4"),
        (lambda lines: [*lines[:2], "c/2", *lines[3:]], "line 3 has 1 cells, the heading 4"),
        (lambda lines: ["id,subject,seal", *lines[LINES]], "line 2 has 4 cells, the heading 3"),
        (lambda lines: [line.replace("number", "numbr") for line in lines], "columns number are missing"),
        (lambda lines: ["subject,id,number,seal", *lines[LINES]], "its columns are subject, id, number, seal"),
        (lambda lines: [line.rpartition(",")[0] for line in lines], "columns seal are missing"),
        (lambda lines: [line.replace("c/3", '"c/3') for line in lines], r"line \d is no csv|line \d has"),
        (lambda lines: [line.replace("c/3", "c/\x003") for line in lines], r"line 4 \('c/\\x003'\) is another"),
        (lambda lines: ["{}"], "columns id, subject, number are missing"),
        (lambda lines: ["", *lines], ""),
        (lambda lines: ["," * 100_000, *lines], ""),
    ],
)  # fmt: skip
def test_a_changed_row_is_named(table, edit, what):
    table.write_text("\n".join(edit(table.read_text().splitlines())) + "\n")
    refused(rf"t\.csv: is damaged: ({what}).*; run python -m tools\.repair", read_table, table, COLUMNS)


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "it is empty"), (b"id,subject", "its last line is cut"), (b"id,\xff\n", "byte 3 is no UTF-8"),
     (b"id,\xff\xfe", "byte 3 is no UTF-8"), (b"\x00\n", "")],
)  # fmt: skip
def test_content_that_is_no_table(table, content, what):
    table.write_bytes(content)
    refused(rf"t\.csv: is damaged: {what}", read_table, table, COLUMNS)


def test_any_cut_is_noticed(table):
    content = table.read_bytes()
    for end in range(len(content)):
        table.write_bytes(content[:end])
        refused("is damaged", read_table, table, COLUMNS)


def test_any_flipped_bit_is_noticed(table):
    content = table.read_bytes()
    for place in range(len(content)):
        table.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        refused("is damaged", read_table, table, COLUMNS)


def test_a_missing_file_and_one_that_is_a_folder(tmp_path):
    refused(r"t\.csv: there is no such file; run dvc repro", read_cells, tmp_path / "t.csv")
    said = refused("is a directory", read_cells, tmp_path)
    assert "repair" not in said


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\r\nb"])
def test_a_line_break_in_a_cell_is_refused(tmp_path, text):
    refused("a cell holds a line break; rename", write_table, tmp_path / "t.csv", pd.DataFrame({"id": [text]}))
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_text_is_refused(tmp_path):
    """As the system gives the name of a file whose bytes are no UTF-8."""
    refused(r"'x\\udcff' ends with a character that is no text", write_table, tmp_path / "t.csv",
            pd.DataFrame({"id": ["x\udcff"]}, dtype=object))  # fmt: skip


def test_a_cell_that_could_not_be_read_is_not_written(tmp_path):
    long = "1 " * (csv.field_size_limit() // 2)
    write_table(tmp_path / "t.csv", pd.DataFrame({"id": ["c/1", "c/2"], "absent": ["", long]}))
    assert read_table(tmp_path / "t.csv", ["id", "absent"]) == [["c/1", ""], ["c/2", long]]
    before = (tmp_path / "t.csv").read_bytes()
    refused(rf"t\.csv: line 3 \(c/2,.*…\) has a cell of more than {len(long)} characters; shorten it", write_table,
            tmp_path / "t.csv", pd.DataFrame({"id": ["c\u2028/1", "c/2"], "absent": ["", long + "x"]}))  # fmt: skip
    assert (tmp_path / "t.csv").read_bytes() == before
