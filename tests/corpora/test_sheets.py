"""Label sheets with the oddities of spreadsheet programs: what changes nothing, and what is refused."""

import datetime
import errno
import os
import tempfile
import zipfile
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.corpora import casme2, casme3, load, names, samm, sheets, smic
from mer.errors import FileError, MerError
from tests.helpers import mini
from tests.helpers.reader import Reader
from tests.helpers.refusals import refused

HEADINGS = ["Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion"]
ROWS = [
    [1, "EP01_01", 46, 49, 52, "12", "happiness"],
    [1, "EP01_02f", 11, "/", 16, "4+L10", "disgust"],
    [2, "EP01_01", 5, 8, 9, "15", "repression"],
    [26, "EP18_51", 21, 64, 81, "4", "surprise"],
]


def sheet(folder, rows, name="sheet.csv"):
    return mini.write_sheet(folder / name, rows)


@pytest.fixture
def plain(tmp_path):
    return casme2.read_annotations(sheet(tmp_path, [HEADINGS, *ROWS], "plain.csv"))


def test_the_plain_sheet(plain):
    assert plain.to_dict("list") == {
        "subject": ["sub01", "sub01", "sub02", "sub26"],
        "clip": ["EP01_01", "EP01_02f", "EP01_01", "EP18_51"],
        "onset": [46, 11, 5, 21],
        "apex": [49, 13, 8, 64],
        "offset": [52, 16, 9, 81],
        "emotion": ["happiness", "disgust", "repression", "surprise"],
        "aus": ["12", "4+L10", "15", "4"],
        "apex_source": ["annotated", "middle", "annotated", "annotated"],
    }


@pytest.mark.parametrize("ending", [".csv", ".xlsx", ".xls"])
def test_every_kind_of_file(tmp_path, plain, ending):
    pd.testing.assert_frame_equal(casme2.read_annotations(sheet(tmp_path, [HEADINGS, *ROWS], f"s{ending}")), plain)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_every_kind_of_csv(tmp_path, plain, encoding, separator):
    path = tmp_path / "s.csv"
    lines = [[*HEADINGS, "Notes"], *([*row, "müde"] for row in ROWS)]
    path.write_bytes("\r\n".join(separator.join(map(str, line)) for line in lines).encode(encoding))
    pd.testing.assert_frame_equal(casme2.read_annotations(path), plain)


# ---- properties ---------------------------------------------------------------------------------------------------

SUBJECTS = {
    casme2: ["{}", "{:02d}", "sub{:02d}", "Sub{}", "{}.0"], samm: ["{}", "{:03d}", "{}.0"],
    smic: ["{}", "s{}", "s{:02d}", "S{}"], casme3: ["{}", "spNO.{}", "spNo.{}", "spno{}"],
}  # fmt: skip
SPACES = st.sampled_from(["", " ", "  ", "\u00a0"])
JUNK = st.text("abc 123,;", max_size=6)


@st.composite
def odd_number(draw, value):
    return draw(SPACES) + draw(st.sampled_from([f"{value}", f"{value}.0", f"{value:03d}"])) + draw(SPACES)


@st.composite
def odd_sheet(draw):
    """The sheet above as some program might have left it."""
    order = draw(st.permutations(range(len(HEADINGS))))
    titles = draw(st.lists(st.lists(JUNK, max_size=3), max_size=3))  # merged cells keep their first text, then blanks
    headings = [
        draw(SPACES) + draw(st.sampled_from([h, h.upper(), h.lower(), h.replace("F", " F"), h.replace(" ", "_")]))
        for h in HEADINGS
    ]
    rows = []
    for subject, name, onset, apex, offset, aus, emotion in ROWS:
        who = draw(st.sampled_from(SUBJECTS[casme2])).format(subject)
        rows.append([
            draw(SPACES) + who + draw(SPACES), f"{name}{draw(SPACES)}", draw(odd_number(onset)),
            "/ " if apex == "/" else draw(odd_number(apex)), draw(odd_number(offset)), f" {aus}",
            draw(SPACES) + draw(st.sampled_from([emotion, emotion.capitalize(), emotion.upper()])) + draw(SPACES),
        ])  # fmt: skip
    further = draw(st.integers(0, 2))  # columns without a name, with or without notes
    notes = [[draw(JUNK) for _ in range(further)] for _ in rows]
    grid = [[headings[i] for i in order] + [""] * further]
    for row, note in zip(rows, notes, strict=True):
        grid += [[""] * len(HEADINGS)] * draw(st.integers(0, 1))  # blank rows
        grid.append([row[i] for i in order] + note)
    return titles + grid + [[""]] * draw(st.integers(0, 2))


@settings(max_examples=60, deadline=None)
@given(odd_sheet(), st.sampled_from([".csv", ".csv", ".xlsx"]))
def test_oddities_change_nothing(grid, ending):
    with tempfile.TemporaryDirectory() as folder:
        expected = casme2.read_annotations(sheet(Path(folder), [HEADINGS, *ROWS], "plain.csv"))
        found = casme2.read_annotations(sheet(Path(folder), grid, f"odd{ending}"))
    pd.testing.assert_frame_equal(found, expected)


@settings(deadline=None)
@given(st.sampled_from(list(SUBJECTS)), st.integers(0, 999), st.data())
def test_every_spelling_of_a_subject_is_one_subject(corpus, number, data):
    one, other = (data.draw(st.sampled_from(SUBJECTS[corpus])).format(number) for _ in range(2))
    assert corpus.SHEET_FORMAT.subject(one) == corpus.SHEET_FORMAT.subject(other)
    assert corpus.SHEET_FORMAT.subject(one) != corpus.SHEET_FORMAT.subject(SUBJECTS[corpus][0].format(number + 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.sampled_from(["{}", "{:02d}", "sub{:02d}"]), st.integers(0, 2))
def test_a_clip_in_two_rows_is_refused_with_both(row, spelling, blank):
    twin = [spelling.format(ROWS[row][0]), *ROWS[row][1:]]
    with tempfile.TemporaryDirectory() as folder:
        path = sheet(Path(folder), [HEADINGS, *ROWS, *([[]] * blank), twin])
        subject = casme2.SHEET_FORMAT.subject(twin[0])
        refused(f"subject {subject} clip {twin[1]} stands in rows {row + 2} and {6 + blank}; delete one",
                casme2.read_annotations, path)  # fmt: skip


# ---- what is refused ----------------------------------------------------------------------------------------------


def changed(row, column, value):
    rows = [list(r) for r in ROWS]
    rows[row][HEADINGS.index(column)] = value
    return [HEADINGS, *rows]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("OnsetFrame", "x46", "clip EP01_01: OnsetFrame is 'x46', needed is a frame number"),
        ("OnsetFrame", "46.5", "OnsetFrame is '46.5'"),
        ("OffsetFrame", "", "OffsetFrame is ''"),
        ("OffsetFrame", "-3", "OffsetFrame is '-3'"),
        ("OffsetFrame", "\u0665", "OffsetFrame is '\u0665'"),  # a digit, but of no spreadsheet's numbers
        ("ApexFrame", "45", "onset 46, apex 45, offset 52 are out of order; correct the row"),
        ("ApexFrame", "53", "onset 46, apex 53, offset 52 are out of order"),
        ("OffsetFrame", "12", "out of order"),
        ("Estimated Emotion", "hapiness", "'hapiness' is unknown; did you mean 'happiness'"),
        ("Estimated Emotion", "", "Estimated Emotion '' is unknown; valid names: disgust, fear"),
        ("Subject", "", "row 2 has no subject or no file name .*; complete the row"),
        ("Filename", " ", "row 2 has no subject or no file name"),
        ("Subject", "..", "row 2: subject '..' leads out of the corpus folder"),
        ("Subject", "/etc", "leads out of the corpus folder"),
        ("Filename", "../../x", "row 2: file name '../../x' leads out of the corpus folder"),
        ("Filename", "a\\b", "leads out of the corpus folder"),
        ("Filename", "x" * 5000, "row 2: file name 'x{57}...' is longer than a folder's name can be .255 bytes."),
        ("Filename", "\u00fc" * 200, "is longer than a folder's name can be"),
        ("Subject", "x" * 5000, "row 2: subject 'x{57}...' is longer"),
        ("OnsetFrame", "4" * 5000, "OnsetFrame is '4{57}...', needed is a frame number"),  # int() refuses 4,300 digits
        ("OnsetFrame", "4" * 16, "OnsetFrame is '4{16}', needed is a frame number"),
        ("Estimated Emotion", "x" * 5000, "Estimated Emotion 'x{57}...' is unknown"),
    ],
)
def test_a_wrong_cell_is_refused_with_its_clip(tmp_path, column, value, message):
    refused(message, casme2.read_annotations, sheet(tmp_path, changed(0, column, value)))


def test_a_subject_of_thousands_of_digits_is_no_number(tmp_path):
    """int() refuses more than 4,300 digits; 200 of them are a name like any other."""
    table = casme2.read_annotations(sheet(tmp_path, changed(0, "Subject", "1" * 200)))
    assert table.loc[0, "subject"] == "1" * 200


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["1", "ep01_01", 46, 49, 52, "12", "happiness"],
         "subject sub01 clip ep01_01 stands in rows 2 and 6 .there as subject sub01 clip EP01_01: letter case makes"),
        (["1", "EP01_02F", 11, "/", 16, "4", "disgust"], "clip EP01_02F stands in rows 3 and 6 .there as"),
    ],
)  # fmt: skip
def test_rows_that_differ_in_letter_case_are_one_clip(tmp_path, row, message):
    refused(message, casme2.read_annotations, sheet(tmp_path, [HEADINGS, *ROWS, row]))


def test_subjects_that_differ_in_letter_case_or_unicode_form_are_one(tmp_path):
    for one, other in (("Ann", "ann"), ("M\u00fcller", "mu\u0308ller")):
        rows = [[name, "EP01_01", 46, 49, 52, "12", "happiness"] for name in (one, other)]
        refused("stands in rows 2 and 3 .there as .*; delete one", casme2.read_annotations,
                sheet(tmp_path, [HEADINGS, *rows]))  # fmt: skip


def test_other_columns_are_refused_with_those_found(tmp_path):
    headings = ["Subject", "Filename", "Onset", "Apex", "OffsetFrame", "Action Units", "Estimated Emotion"]
    refused("columns OnsetFrame, ApexFrame are missing; found Subject, Filename, Onset, Apex, OffsetFrame",
            casme2.read_annotations, sheet(tmp_path, [["Title"], headings, *ROWS]))  # fmt: skip
    refused("columns Filename stand there twice", casme2.read_annotations,
            sheet(tmp_path, [[*HEADINGS, "file name"], *ROWS]))  # fmt: skip


def test_what_is_no_sheet(tmp_path):
    refused("the label sheet is missing", casme2.read_annotations, tmp_path / "none.xlsx")
    for name in ("a.xlsx", "a.xls"):
        (tmp_path / name).write_bytes(b"PK")
        refused(f"{name}: cannot be read as {name[2:]}", casme2.read_annotations, tmp_path / name)
    (tmp_path / "a.csv").write_bytes(b"")
    refused("holds no cell", casme2.read_annotations, tmp_path / "a.csv")
    (tmp_path / "a.txt").write_bytes(b"")
    refused("is no label sheet; needed is one of .xlsx, .xls, .csv", casme2.read_annotations, tmp_path / "a.txt")
    refused("has headings and no row", casme2.read_annotations, sheet(tmp_path, [HEADINGS]))


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_an_error_of_the_system_is_no_fault_of_the_sheet(tmp_path, monkeypatch, code):
    path = sheet(tmp_path, [HEADINGS, *ROWS])

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "read_bytes", fail)
    for read in (casme2.read_annotations, lambda path: sheets.fits(path, {})):
        said = refused(f"{path.name}: (?i:{os.strerror(code)});", read, path)
        assert "again: " not in said
    with pytest.raises(FileError):
        sheets.RowErrors("exclude", "c").add("s", "1", FileError("x.csv: input/output error; check the disk"))


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.xlsx").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("folder.xlsx", "pipe.csv"):
        refused(f"{name}: is no file; put the corpus's", casme2.read_annotations, tmp_path / name)


# ---- limits -------------------------------------------------------------------------------------------------------


def workbook(path, change):
    """The sheet above as xlsx, and a change to its worksheet."""
    book = openpyxl.Workbook()
    for row in [HEADINGS, *ROWS]:
        book.active.append(row)
    change(book.active)
    book.save(path)
    return path


@pytest.mark.parametrize(
    ("row", "column", "place"),
    [(2**20, 2**14, "row 1048576, column 16384"), (10_001, 1, "row 10001, column 1"), (3, 257, "row 3, column 257")],
)
def test_a_stray_cell_far_away_is_refused_by_its_place(tmp_path, row, column, place):
    path = workbook(tmp_path / "s.xlsx", lambda cells: cells.cell(row, column, "x"))
    assert path.stat().st_size < 10_000
    refused(f"s.xlsx: sheet1.xml: {place} holds 'x'; a label sheet has at most 10000 rows and 256 columns: clear that",
            casme2.read_annotations, path)  # fmt: skip


def test_cells_at_the_limit_and_formats_beyond_it_do_not_matter(tmp_path, plain):
    def change(cells):
        cells.cell(3, 256, "note")
        for row, column in ((2**20, 2**14), (5, 2**14), (2**20, 1)):
            cells.cell(row, column).font = openpyxl.styles.Font(bold=True)

    pd.testing.assert_frame_equal(casme2.read_annotations(workbook(tmp_path / "s.xlsx", change)), plain)
    refused("no subject or no file name", casme2.read_annotations,
            workbook(tmp_path / "t.xlsx", lambda cells: cells.cell(10_000, 7, "x")))  # fmt: skip


def test_an_xlsx_that_unpacks_to_too_much(tmp_path):
    path = workbook(tmp_path / "s.xlsx", lambda cells: None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("xl/media/picture.bmp", bytes(sheets.MAX_UNPACKED))
    assert path.stat().st_size < 100_000
    refused(r"s.xlsx: unpacks to \d+ bytes, a label sheet to at most 33554432; save its cells alone",
            casme2.read_annotations, path)  # fmt: skip


def test_a_file_that_is_too_large(tmp_path):
    with (tmp_path / "s.csv").open("wb") as file:
        file.truncate(sheets.MAX_BYTES + 1)
    refused("s.csv: has 16777217 bytes, a label sheet at most 16777216", casme2.read_annotations, tmp_path / "s.csv")


def test_a_row_of_a_hundred_thousand_commas_is_a_short_row(tmp_path, plain):
    path = sheet(tmp_path, [HEADINGS, *ROWS])
    path.write_text(path.read_text() + "," * 100_000 + "\n")
    table = sheets.grids(path)
    assert max(grid.size for grid in table.values()) < 100
    pd.testing.assert_frame_equal(casme2.read_annotations(path), plain)
    path.write_text(path.read_text() + "," * 100_000 + "x\n")
    refused("separator ',': row 7, column 100001 holds 'x'; a label sheet has at most 10000 rows and 256 columns",
            casme2.read_annotations, path)  # fmt: skip


def test_headings_of_a_hundred_thousand_columns(tmp_path):
    path = sheet(tmp_path, [HEADINGS, *ROWS])
    path.write_text("x," * 100_000 + path.read_text())
    refused("separator ',': row 1, column 100007 holds", casme2.read_annotations, path)


def test_a_note_with_many_commas_in_a_csv_of_semicolons(tmp_path, plain):
    path = tmp_path / "s.csv"
    lines = [[*HEADINGS, "Notes"], *([*row, "a," * 300] for row in ROWS)]
    path.write_text("\n".join(";".join(map(str, line)) for line in lines))
    pd.testing.assert_frame_equal(casme2.read_annotations(path), plain)


def test_an_xls_with_a_stray_cell(tmp_path):
    rows = [HEADINGS, *ROWS, *([[]] * 12_000), ["x"]]
    refused("row 12006, column 1 holds 'x'; a label sheet has at most 10000 rows", casme2.read_annotations,
            sheet(tmp_path, rows, "s.xls"))  # fmt: skip


def test_cells_that_are_no_text(tmp_path):
    """Numbers, truth values, dates, failed formulas, in xlsx."""
    values = [46, 46.0, 46.5, True, datetime.datetime(2014, 5, 8), "#DIV/0!", None, " a ", 1e300, "=1/0"]
    path = workbook(tmp_path / "s.xlsx", lambda cells: cells.append(values))
    found = sheets.grids(path)["Sheet"].iloc[5].tolist()
    assert found[:5] == ["46", "46", "46.5", "True", "2014-05-08 00:00:00"]
    assert found[5:8] == ["", "", "a"]  # what openpyxl takes for the result of a formula has failed
    assert found[8] == str(int(1e300))
    old = pd.read_excel(path, header=None, dtype=str, keep_default_na=False).fillna("").iloc[5]
    assert found == [cell.strip() for cell in old][: len(found)]


def test_two_worksheets_that_fit(tmp_path):
    with pd.ExcelWriter(tmp_path / "s.xlsx") as book:
        for name in ("one", "two"):
            pd.DataFrame([HEADINGS, *ROWS]).to_excel(book, sheet_name=name, header=False, index=False)
    refused("worksheets one, two all hold the columns", casme2.read_annotations, tmp_path / "s.xlsx")


def test_faults_of_single_clips_are_gathered_on_request(tmp_path):
    errors = sheets.RowErrors("exclude", "mine")
    table = sheets.read_sheet(sheet(tmp_path, changed(1, "OnsetFrame", "?")), casme2.SHEET_FORMAT, errors)
    assert len(table) == 3
    ((clip, reason),) = errors.excluded
    assert clip == "mine/sub01/EP01_02f"
    assert "OnsetFrame is '?'" in reason
    with pytest.raises(MerError, match="did you mean 'stop'"):
        sheets.RowErrors("stopp")


# ---- corrections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corpus", ["casme2", "samm", "smic", "casme3"])
def test_the_tables_of_corrections_are_well_formed(corpus):
    table = sheets.corrections(corpus)
    assert list(table.columns) == ["subject", "clip", "column", "old", "new", "when", "reason"]
    assert not table.duplicated(["subject", "clip", "column"]).any()
    sheet_format = load(corpus).SHEET_FORMAT
    for row in table.itertuples():
        assert sheet_format.subject(row.subject) == row.subject
        assert row.column in sheet_format.headings
        assert row.column not in ("subject", "clip")
        assert row.when in ("", "cropped")
        assert len(row.reason) > 20
        assert row.old != row.new


def casme3_sheet(folder, offset):
    rows = [["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"],
            ["spNO.40", "e", "1812", "1824", offset, "18", "VII", "others"]]  # fmt: skip
    return sheet(folder, rows)


def test_a_correction_is_applied_where_the_old_value_stands(tmp_path):
    table = casme3.read_annotations(casme3_sheet(tmp_path, "0"))
    assert table.loc[0, "offset"] == 1824
    ((clip, column, old, new, reason),) = table.attrs["corrected"]
    assert (clip, column, old, new) == ("spNO.40/e_1812", "offset", "0", "1824")
    assert "0" in reason


def test_a_sheet_corrected_already_is_accepted(tmp_path):
    table = casme3.read_annotations(casme3_sheet(tmp_path, "1824.0"))
    assert table.loc[0, "offset"] == 1824
    assert table.attrs["corrected"] == []


def test_another_version_of_the_sheet_is_refused(tmp_path):
    message = (
        "offset is '1850', mer/corpora/corrections/casme3.csv has '0', corrected to '1824': this is another version"
    )
    refused(message, casme3.read_annotations, casme3_sheet(tmp_path, "1850"))


@pytest.mark.parametrize(("apex", "read"), [("999", 1124), ("1135", 1124), ("1124", 1124), ("1100", 1100)])
def test_an_apex_outside_its_clip_is_corrected_and_no_other(tmp_path, apex, read):
    rows = [["Subject", "Filename", "Onset Frame", "Apex Frame", "Offset Frame", "Action Units", "Estimated Emotion"],
            ["28", "028_4_1", 1071, apex, 1134, "A14C", "Contempt"]]  # fmt: skip
    table = samm.read_annotations(sheet(tmp_path, rows))
    assert table.loc[0, "apex"] == read
    assert len(table.attrs["corrected"]) == (apex in ("999", "1135"))


def test_helpers_are_no_corpora():
    assert {"casme2", "samm", "smic", "casme3", "megc2019", "megc2019_flow"} <= set(names())
    assert not {"sheets", "layout", "synthetic", "macro"} & set(names())
    for name in names():
        assert load(name).CLASSES


# ---- what is meant to harm ------------------------------------------------------------------------------------------

SHEET, SHARED = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
LAUGHS = b'<!DOCTYPE x [<!ENTITY a "' + b"ha" * 40_000 + b'"><!ENTITY b "' + b"&a;" * 50 + b'">]>'
OTHER_FILE = b'<!DOCTYPE x [<!ENTITY b SYSTEM "file:///etc/passwd">]>'


def with_part(path, name, change):
    """The xlsx with one part changed, or added."""
    with zipfile.ZipFile(path) as parts:
        content = {part: parts.read(part) for part in parts.namelist()}
    content[name] = change(content.get(name, b""))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
        for part, data in content.items():
            parts.writestr(part, data)
    return path


def declared(doctype, encoding="utf-8"):
    def change(xml):
        root = xml[xml.index(b"?>") + 2 :] if xml.startswith(b"<?xml") else xml
        text = doctype + root.replace(b"happiness", b"&b;")
        return text if encoding == "utf-8" else text.decode().encode(encoding)

    return change


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("part", [SHEET, "xl/workbook.xml", "[Content_Types].xml", "xl/_rels/workbook.xml.rels"])
@pytest.mark.parametrize("doctype", [LAUGHS, OTHER_FILE, b"<!DOCTYPE x>"], ids=["laughs", "another file", "alone"])
def test_a_part_that_declares_a_document_type_is_refused(tmp_path, doctype, part, encoding):
    path = with_part(workbook(tmp_path / "s.xlsx", lambda cells: None), part, declared(doctype, encoding))
    refused("s.xlsx: its part .* declares a document type, .*; save the sheet anew", casme2.read_annotations, path)


def test_a_document_type_behind_a_long_comment_is_refused(tmp_path):
    path = workbook(tmp_path / "s.xlsx", lambda cells: None)
    with_part(path, SHEET, declared(b"<!--" + b" " * 70_000 + b"-->" + LAUGHS))
    refused("declares a document type", casme2.read_annotations, path)


def test_a_text_that_a_hundred_thousand_cells_share_takes_no_memory(tmp_path):
    """An xlsx of 50 kB; each cell that is stripped would be a copy of 4 MB."""
    path = workbook(tmp_path / "s.xlsx", lambda cells: None)
    space = b'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    row = b"<row>" + b'<c t="s"><v>0</v></c>' * 250 + b"</row>"
    with_part(path, SHEET, lambda _: b"<worksheet %b><sheetData>%b</sheetData></worksheet>" % (space, row * 400))
    text = b'<t xml:space="preserve">%b </t>' % (b"x" * 2**22)
    with_part(path, SHARED, lambda _: b"<sst %b><si>%b</si></sst>" % (space, text))
    kind = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    with_part(path, "[Content_Types].xml", lambda xml: xml if b"sharedStrings" in xml else xml.replace(
        b"</Types>", b'<Override PartName="/%b" ContentType="%b"/></Types>' % (SHARED.encode(), kind)))  # fmt: skip
    assert path.stat().st_size < 100_000
    with Reader("sheet", roomy=1 << 32) as reader:
        assert "row 1: up to here the cells have 1048576250 characters" in reader.read(path)
        assert reader.grown < 100_000_000


@pytest.mark.parametrize("result", [b"", b"<v>46</v>"], ids=["without a result", "with a result"])
def test_a_formula_in_a_column_that_counts_is_refused(tmp_path, result):
    path = workbook(tmp_path / "s.xlsx", lambda cells: cells.cell(2, 3, "=40+6"))
    with_part(path, SHEET, lambda xml: xml.replace(b"<v />", result).replace(b"<v></v>", result))
    refused("s.xlsx: row 2: OnsetFrame is a formula .'=40.6'., which is not computed here; save the sheet with values",
            casme2.read_annotations, path)  # fmt: skip


def test_a_formula_in_another_column_does_not_matter(tmp_path, plain):
    """The public sheet of SAMM computes the durations of its clips."""
    path = workbook(tmp_path / "s.xlsx", lambda cells: cells.cell(2, 9, "=E2-C2+1"))
    pd.testing.assert_frame_equal(casme2.read_annotations(path), plain)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("EP\x1b[2J", r"file name 'EP\\x1b\[2J' has the character \\x1b, which is not seen; write the name anew"),
        ("EP\u202e01", r"has the character \\u202e"),
        ("EP\u200b01", r"has the character \\u200b"),
        ("EP\n01", r"has the character \\n"),
        ("EP\x0001", "leads out of the corpus folder"),
        ("=cmd|x", "file name '=cmd.x' begins as a formula, which a spreadsheet program would compute; correct"),
        ("@SUM(A1)", "begins as a formula"),
    ],
)
def test_a_name_that_deceives_is_refused(tmp_path, value, message):
    refused(f"row 2: .*{message}", casme2.read_annotations, sheet(tmp_path, changed(0, "Filename", value)))
