"""Mini-corpora in every layout that circulates, and everything that can be wrong with a folder of frames."""

import errno
import os
import shutil
import unicodedata

import cv2
import numpy as np
import pandas as pd
import pytest

from mer import clips
from mer.clips import read_clip, read_frame
from mer.corpora import casme2, casme3, samm, select, smic
from mer.errors import MerError
from tests.helpers import mini
from tests.helpers.refusals import refused

LAYOUTS = {
    "casme2 raw": (casme2, lambda root: mini.casme2(root, "raw")),
    "casme2 cropped": (casme2, lambda root: mini.casme2(root, "cropped")),
    "casme2 bare": (casme2, lambda root: mini.casme2(root, "bare", sheet="csv")),
    "casme2 xls": (casme2, lambda root: mini.casme2(root, "bare", sheet="xls")),
    "samm": (samm, mini.samm),
    "samm bare, preface": (samm, lambda root: mini.samm(root, "bare", preface=True)),
    "samm png, csv": (samm, lambda root: mini.samm(root, preface=True, sheet="csv", ending="PNG")),
    "casme3 videos": (casme3, mini.casme3),
    "casme3 clips": (casme3, lambda root: mini.casme3(root, "clips")),
    "smic cropped": (smic, mini.smic),
    "smic raw": (smic, lambda root: mini.smic(root, "raw")),
    "smic raw, apexes": (smic, lambda root: mini.smic(root, "raw", apexes=True)),
    "smic long, apexes": (smic, lambda root: mini.smic(root, "long", apexes=True)),
}
TAKES = {casme2: mini.CASME2, samm: mini.SAMM, casme3: mini.CASME3, smic: mini.SMIC}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read(tmp_path, name):
    corpus, make = LAYOUTS[name]
    root = make(tmp_path / "raw {0} folder")  # braces must not be taken for the number's place
    table = corpus.read_corpus(root, "mine")
    takes = TAKES[corpus]
    assert [c for c in clips.COLUMNS if c not in ("digest", *table.columns)] == []
    assert table["id"].is_unique
    assert table["id"].str.startswith("mine/").all()
    assert table.attrs["excluded"] == []
    by_onset = table.set_index(["onset", "emotion"])
    for take in takes:
        row = by_onset.loc[(take.onset, take.emotion.lower())]
        assert row["offset"] == take.offset
        middle = (take.onset + take.offset) // 2
        annotated = corpus is not smic or "apexes" in name
        assert row["apex"] == (take.apex if annotated and take.apex != "/" else middle)
        assert row["apex_source"] == ("annotated" if annotated and take.apex != "/" else "middle")
        for number in range(take.onset, take.offset + 1):
            frame = read_frame(row["frame"].format(number))
            assert frame.shape == (4, 6, 3)  # grey, repeated
            assert abs(int(frame.mean()) - mini.tiny(take.subject, number).mean()) <= 2  # what JPEG does to a flat grey
    assert len(table) == len(takes)
    assert (table["fps"] == corpus.FPS).all()
    table["digest"] = ""
    clips.write_index(tmp_path / "index.csv", table)
    again = clips.clips(clips.read_index(tmp_path / "index.csv"))
    assert read_clip(again[0]).shape[1:] == (4, 6, 3)
    assert [c.subject for c in again] == sorted(table["subject"])


def test_names_are_those_of_the_corpora(tmp_path):
    found = {c: c.read_corpus(m(tmp_path / c.__name__), "x") for c, m in
             ((casme2, mini.casme2), (samm, mini.samm), (casme3, mini.casme3), (smic, mini.smic))}  # fmt: skip
    assert found[casme2].loc[0, "id"] == "x/sub01/EP01_01"
    assert found[samm].loc[0, "id"] == "x/006/006_1_2"
    assert found[samm].loc[0, "frame"].endswith("SAMM/006/006_1_2/006_{:05d}.jpg")
    assert sorted(found[casme3]["id"])[:3] == ["x/spNO.1/a_12", "x/spNO.1/a_5", "x/spNO.14/J_3"]
    assert sorted(found[smic]["id"])[:2] == ["x/s01/s1_ne_01", "x/s01/s1_po_01"]
    assert found[samm].loc[1, "aus"] == "12+15"


def test_a_corpus_far_below_its_folder_is_found(tmp_path):
    mini.casme2(tmp_path / "a/b/c", "bare")
    shutil.move(tmp_path / "a/b/c/CASME2-coding-20140508.xlsx", tmp_path)
    assert len(casme2.read_corpus(tmp_path)) == 6
    (tmp_path / "a/d").mkdir()
    shutil.move(tmp_path / "a/b", tmp_path / "a/d/b")  # now four levels
    refused("6 clips of CASME2-coding-20140508.xlsx have no folder", casme2.read_corpus, tmp_path)


def test_subject_folders_may_be_spelt_as_the_sheet_spells_them(tmp_path):
    root = mini.casme2(tmp_path, "bare")
    (root / "sub01").rename(root / "1")
    (root / "sub02").rename(root / "Sub2")
    assert len(casme2.read_corpus(root)) == 6
    shutil.copytree(root / "1", root / "01")
    refused("folders 01 and 1 are one name; keep one", casme2.read_corpus, root)


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    return mini.casme2(tmp_path / "casme2", "raw")


def clip(root, name="EP01_01"):
    return next(root.glob(f"**/{name}"))


def test_absent_folders_are_named_and_counted(root):
    for name in ("EP01_01", "EP01_02f", "EP02_01", "EP02_02", "EP03_01", "EP03_02"):
        shutil.rmtree(clip(root, name))
    refused("6 clips of CASME2-coding-20140508.xlsx have no folder: sub01/EP01_01, sub01/EP01_02f, sub02/EP02_01, "
            "sub02/EP02_02, sub03/EP03_01 and 1 more; unpack them", casme2.read_corpus, root)  # fmt: skip
    refused("every clip was left out", casme2.read_corpus, root, on_error="exclude")


def test_faulty_clips_are_left_out_and_listed_on_request(root):
    shutil.rmtree(clip(root, "EP01_01"))
    (clip(root, "EP02_01") / "img7.jpg").unlink()
    (clip(root, "EP03_01") / "img26.jpg").rename(clip(root, "EP03_01") / "img027.jpg")
    for number in range(120, 125):
        (clip(root, "EP02_02") / f"img{number}.jpg").unlink()
    table = casme2.read_corpus(root, "mine", on_error="exclude")
    reasons = dict(table.attrs["excluded"])
    assert set(reasons) == {"mine/sub01/EP01_01", "mine/sub02/EP02_01", "mine/sub02/EP02_02", "mine/sub03/EP03_01"}
    assert "has no folder" in reasons["mine/sub01/EP01_01"]
    assert "img7.jpg: frame is missing (1 of 5 are)" in reasons["mine/sub02/EP02_01"]
    assert "img120.jpg: frame is missing (5 of 5 are)" in reasons["mine/sub02/EP02_02"]
    assert "padded to several widths" in reasons["mine/sub03/EP03_01"]
    assert sorted(table["clip"]) == ["EP01_02f", "EP03_02"]
    with pytest.raises(MerError, match="on_error is 'skip'"):
        casme2.read_corpus(root, on_error="skip")


def test_an_annotation_outside_the_clip(root):
    for number in (46, 45):
        (clip(root) / f"img{number}.jpg").unlink()
    (clip(root) / "img44.jpg").unlink()
    refused("the label sheet says frames 46 to 52, on disk are 47 to 54; the annotation points outside the clip",
            casme2.read_corpus, root)  # fmt: skip


def test_a_folder_without_frames_or_with_two_kinds(root):
    other = [p for p in clip(root).iterdir() if p.name != "img46.jpg"]
    for path in other:
        path.unlink()
    (clip(root) / "img46.jpg").rename(clip(root) / "x.txt")
    (clip(root) / ".img46.jpg").write_bytes(b"")  # what a Mac leaves behind
    refused("has no frame named img<number>.jpg", casme2.read_corpus, root)
    folder = clip(root, "EP01_02f")
    shutil.rmtree(clip(root))
    shutil.copytree(folder, clip(root, "sub01") / "EP01_01")
    for path in list(folder.iterdir()):
        shutil.copyfile(path, path.with_name(f"reg_{path.name}"))
    reasons = dict(casme2.read_corpus(root, on_error="exclude").attrs["excluded"])
    assert "holds frames of several kinds: img" in reasons["casme2/sub01/EP01_02f"]


def test_stray_pictures_do_not_matter(root):
    mini.draw(clip(root) / "thumbnail_1.png", mini.tiny(1, 1))
    (clip(root) / "Thumbs.db").write_bytes(b"")
    assert len(casme2.read_corpus(root)) == 6


def test_raw_and_cropped_side_by_side(root):
    mini.casme2(root, "cropped")
    refused("frames lie in 2 places: .*CASME2_RAW_selected, .*Cropped; leave one there", casme2.read_corpus, root)


def test_no_sheet_or_several(root):
    shutil.copyfile(root / "CASME2-coding-20140508.xlsx", root / "copy.xlsx")
    refused(r"needs exactly one label sheet \(\*.xlsx\), found CASME2-coding-20140508.xlsx, copy.xlsx",
            casme2.read_corpus, root)  # fmt: skip
    (root / "copy.xlsx").rename(root / "~$copy.xlsx")  # a spreadsheet program has it open
    assert len(casme2.read_corpus(root)) == 6
    for path in root.glob("CASME2*.xlsx"):
        path.unlink()
    refused(r"needs exactly one label sheet \(\*.xlsx\), found none", casme2.read_corpus, root)
    refused("there is no such folder; .* correct corpora.x.raw", casme2.read_corpus, root / "nowhere", "x")


def test_a_name_that_is_a_path_is_refused_even_when_excluding(root, tmp_path):
    shutil.copytree(clip(root), tmp_path / "outside")
    sheet = root / "CASME2-coding-20140508.xlsx"
    cells = pd.read_excel(sheet, dtype=str, keep_default_na=False)
    cells.loc[0, ["Subject", "Filename"]] = ["..", "outside"]
    cells.to_excel(sheet, index=False)
    for on_error in ("stop", "exclude"):
        refused("subject '..' leads out of the corpus folder", casme2.read_corpus, root, on_error=on_error)


def test_a_clip_that_is_a_link_out_of_the_corpus(root, tmp_path):
    shutil.move(clip(root), tmp_path / "elsewhere")
    (next(root.glob("**/sub01")) / "EP01_01").symlink_to(tmp_path / "elsewhere")
    refused("EP01_01: is a link out of .*; copy the clip there", casme2.read_corpus, root)
    (tmp_path / "whole").symlink_to(root)  # the corpus on another disk is fine
    assert len(casme2.read_corpus(tmp_path / "whole", on_error="exclude")) == 5


def test_a_frame_that_is_a_link_out_of_the_corpus(root, tmp_path):
    frame = clip(root) / "img48.jpg"
    frame.rename(tmp_path / "elsewhere.jpg")
    frame.symlink_to(tmp_path / "elsewhere.jpg")
    refused("EP01_01/img48.jpg: is a link out of .*casme2; copy the frame there", casme2.read_corpus, root)
    excluded = casme2.read_corpus(root, on_error="exclude").attrs["excluded"]
    assert [name for name, _ in excluded] == ["casme2/sub01/EP01_01"]
    frame.unlink()
    frame.symlink_to("img47.jpg")  # inside, it is as good as a file
    assert len(casme2.read_corpus(root)) == 6


def test_a_sheet_that_is_a_link_out_of_the_corpus(root, tmp_path):
    (root / "CASME2-coding-20140508.xlsx").rename(tmp_path / "sheet.xlsx")
    (root / "CASME2-coding-20140508.xlsx").symlink_to(tmp_path / "sheet.xlsx")
    refused("20140508.xlsx: is a link out of .*; copy the label sheet there", casme2.read_corpus, root)


@pytest.mark.parametrize("kind", ["pipe", "folder", "dead link", "link to itself"])
def test_a_frame_that_is_no_file(root, kind):
    frame = clip(root) / "img48.jpg"
    frame.unlink()
    {"pipe": lambda: os.mkfifo(frame), "folder": frame.mkdir, "dead link": lambda: frame.symlink_to("none.jpg"),
     "link to itself": lambda: frame.symlink_to("img48.jpg")}[kind]()  # fmt: skip
    refused("EP01_01/img48.jpg: is no file, but a folder, a pipe or a dead link; put the frame there",
            casme2.read_corpus, root)  # fmt: skip


def test_numbers_that_no_frame_has(root):
    (clip(root) / "img48.jpg").rename(clip(root) / f"img{'4' * 16}.jpg")
    refused("a frame's number has 15 digits at most; rename the frames", casme2.read_corpus, root)


def test_a_clip_of_a_billion_frames_is_refused_at_once(root):
    """Its numbers are counted, not listed."""
    sheet = root / "CASME2-coding-20140508.xlsx"
    cells = pd.read_excel(sheet, dtype=str, keep_default_na=False)
    cells.loc[0, ["OnsetFrame", "ApexFrame", "OffsetFrame"]] = ["44", "45", "999999999999999"]
    cells.to_excel(sheet, index=False)
    mini.draw(clip(root) / "img999999999999999.jpg", mini.tiny(1, 1))
    refused("img55.jpg: frame is missing .999999999999944 of 999999999999956 are.", casme2.read_corpus, root)


def test_a_path_of_thousands_of_characters(tmp_path):
    refused("there is no such folder; unpack the corpus there", casme2.read_corpus, tmp_path / ("x" * 5000))


# ---- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("in_sheet", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_the_same_in_both_forms_of_unicode(tmp_path, in_sheet, on_disk):
    name, subject = "Jürgen_é1", "Müller"
    root = mini.casme2(tmp_path, "bare")
    (root / "sub03").rename(root / unicodedata.normalize(on_disk, subject))
    folder = root / unicodedata.normalize(on_disk, subject)
    (folder / "EP03_01").rename(folder / unicodedata.normalize(on_disk, name))
    sheet = root / "CASME2-coding-20140508.xlsx"
    cells = pd.read_excel(sheet, dtype=str, keep_default_na=False)
    cells["Subject"] = cells["Subject"].replace("3", unicodedata.normalize(in_sheet, subject))
    cells["Filename"] = cells["Filename"].replace("EP03_01", unicodedata.normalize(in_sheet, name))
    cells.to_excel(sheet, index=False)
    table = casme2.read_corpus(root, "mine")
    assert f"mine/{subject}/{name}" in set(table["id"])  # composed, whatever the sheet has
    row = table[table["clip"] == name].iloc[0]
    assert read_frame(row["frame"].format(row["onset"])).shape == (4, 6, 3)


def test_two_folders_that_are_one_name_in_composed_form(tmp_path):
    root = mini.casme2(tmp_path, "bare")
    for form in ("NFC", "NFD"):
        shutil.copytree(root / "sub03", root / unicodedata.normalize(form, "Müller"))
    refused("are one name; keep one of them", casme2.read_corpus, root)


def test_rows_of_one_folder_are_refused(tmp_path):
    """`1` and `01` mean the same folder, although they are two names."""
    takes = (mini.Take(1, "1", 3, 4, 5, "happiness"), mini.Take(1, "01", 3, 4, 5, "disgust"))
    root = mini.casme2(tmp_path, "bare", takes=takes)
    shutil.rmtree(root / "sub01/01")
    for on_error in ("stop", "exclude"):
        refused("clips sub01/1 and sub01/01 of CASME2-coding-20140508.xlsx have one folder, .*sub01/1; delete one",
                casme2.read_corpus, root, on_error=on_error)  # fmt: skip


@pytest.mark.parametrize(("make", "read"), [(mini.casme2, casme2), (mini.samm, samm), (mini.casme3, casme3),
                                            (mini.smic, smic)])  # fmt: skip
def test_what_archives_of_macs_and_windows_leave_behind(tmp_path, make, read):
    """`__MACOSX` beside the corpus, with `._` files in a copy of its tree, and such files beside every frame."""
    root = make(tmp_path)
    expected = read.read_corpus(root)
    for path in [p for p in root.rglob("*") if p.is_file()]:
        below = path.relative_to(root)
        for ghost in (path.with_name(f"._{path.name}"), root / "__MACOSX" / below.parent / f"._{path.name}",
                      path.with_name("Thumbs.db"), path.with_name("desktop.ini"), path.with_name(".DS_Store"),
                      root / below.parent / "__MACOSX" / path.name):  # fmt: skip
            ghost.parent.mkdir(parents=True, exist_ok=True)
            ghost.write_bytes(b"\x00\x05\x16\x07")
    pd.testing.assert_frame_equal(read.read_corpus(root), expected)


# ---- frames that the owners' own recordings lack ------------------------------------------------------------------

LONG = mini.Take(7, "c", 5, 12, 40, "happy")


@pytest.fixture(params=["videos", "clips"])
def lossy(tmp_path, request):
    root = mini.casme3(tmp_path, request.param, takes=(LONG, *mini.CASME3))

    def lose(*numbers, **kwargs):
        folder = next(p for p in root.glob("**/*7*c*") if p.is_dir() and "depth" not in str(p)) if (
            request.param == "clips") else root / "part_A/data/part_A/spNO.7/c/color"  # fmt: skip
        for number in numbers:
            (folder / f"{number}.jpg").unlink(missing_ok=True)
        table = casme3.read_corpus(root, **kwargs)
        return table.attrs, table.set_index("id").loc["casme3/spNO.7/c_5"] if len(table) == 7 else None

    return lose


def test_a_few_lacking_frames_are_known_of_casme3(lossy):
    attrs, row = lossy(8, 9, 20, 30, 31)
    assert row["absent"] == "8 9 20 30 31"
    assert (row["onset"], row["apex"], row["offset"]) == (5, 12, 40)
    assert not [c for c in attrs["corrected"] if c[0] == "spNO.7/c_5"]


def test_an_onset_that_the_recording_lacks_moves_and_is_listed(lossy):
    attrs, row = lossy(*range(9))  # the recording begins at 9
    assert (row["onset"], row["apex"], row["offset"], row["absent"]) == (9, 12, 40, "")
    assert [c for c in attrs["corrected"] if c[0] == "spNO.7/c_5"] == [
        ("spNO.7/c_5", "onset", "5", "9", "no such frame, the nearest one")
    ]


def test_apex_and_offset_move_as_well(lossy):
    attrs, row = lossy(12, 39, 40, 41, 42)
    assert (row["onset"], row["apex"], row["offset"], row["absent"]) == (5, 11, 38, "12")
    assert [c[1:4] for c in attrs["corrected"] if c[0] == "spNO.7/c_5"] == [
        ("apex", "12", "11"), ("offset", "40", "38"),
    ]  # fmt: skip


def test_more_is_refused(lossy):
    refused(r"frame is missing \(9 of 36 are\) \(this corpus is known to lack up to 8\); unpack the clip again",
            lossy, *range(20, 29))  # fmt: skip
    attrs, _ = lossy(on_error="exclude")
    assert [clip_id for clip_id, _ in attrs["excluded"]] == ["casme3/spNO.7/c_5"]


def test_a_third_of_a_clip_is_too_much(tmp_path):
    root = mini.casme3(tmp_path, takes=(mini.Take(7, "c", 5, 8, 10, "happy"),))
    folder = root / "part_A/data/part_A/spNO.7/c/color"
    for number in (6, 7):
        (folder / f"{number}.jpg").unlink()
    assert casme3.read_corpus(root).loc[0, "absent"] == "6 7"  # two of six
    (folder / "9.jpg").unlink()
    refused(r"6.jpg: frame is missing \(3 of 6 are\)", casme3.read_corpus, root)


def test_an_onset_must_not_reach_its_apex(tmp_path):
    """Between them would be no motion."""
    root = mini.casme3(tmp_path, takes=(mini.Take(7, "c", 5, 8, 30, "happy"), mini.Take(7, "d", 5, 5, 30, "happy")))
    for video in "cd":
        for number in range(9):
            (root / f"part_A/data/part_A/spNO.7/{video}/color/{number}.jpg").unlink(missing_ok=True)
    refused("spNO.7/c/color: the frames from onset 5 to apex 8 are missing; unpack the clip again",
            casme3.read_corpus, root)  # fmt: skip
    table = casme3.read_corpus(root, on_error="exclude")
    assert table[["clip", "onset", "apex"]].to_numpy().tolist() == [["d_5", 9, 9]]  # there the sheet has them equal


@pytest.mark.parametrize(("make", "read", "name"), [(mini.casme2, casme2, "EP01_01"), (mini.samm, samm, "006_1_2")])
def test_other_corpora_lack_none(tmp_path, make, read, name):
    root = make(tmp_path)
    frames = sorted(next(root.glob(f"**/{name}")).iterdir())
    frames[4].unlink()
    refused(r"frame is missing \(1 of \d are\); unpack the clip again", read.read_corpus, root)


# ---- the owners' cropped frames of CASME II -------------------------------------------------------------------------


@pytest.mark.parametrize(("style", "offset"), [("cropped", 96), ("raw", 110)])
def test_the_clip_cut_short_in_the_cropped_frames(tmp_path, style, offset):
    take = mini.Take(16, "EP01_08", 73, 94, 110, "repression")
    root = mini.casme2(tmp_path, style, takes=(take,))
    if style == "cropped":
        for number in range(97, 111):
            (clip(root, "EP01_08") / f"reg_img{number}.jpg").unlink()
    table = casme2.read_corpus(root)
    assert table.loc[0, "offset"] == offset
    assert len(table.attrs["corrected"]) == (style == "cropped")


# ---- what is read ---------------------------------------------------------------------------------------------


def test_selections_of_the_mini_corpora(tmp_path):
    table = samm.read_corpus(mini.samm(tmp_path))
    assert select(table, "samm", 3)["label"].tolist() == [0, 1, 0, 2, 0]
    with pytest.raises(MerError, match=r"classes is 7: corpus samm has selections of \[3, 5\] classes"):
        select(table, "samm", 7)


def test_colour_frames_stay_colour(tmp_path):
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 255
    root = mini.casme3(tmp_path, "clips", picture=lambda subject, number: red)
    table = casme3.read_corpus(root)
    assert read_frame(table.loc[0, "frame"].format(table.loc[0, "onset"]))[0, 0, 0] > 200
    assert cv2.imread(table.loc[0, "frame"].format(table.loc[0, "onset"]))[0, 0, 2] > 200


def test_a_corpus_folder_that_the_system_does_not_hand_out_is_not_called_empty(tmp_path, monkeypatch):
    root, scandir = mini.casme2(tmp_path / "c"), os.scandir

    def fail(path="."):
        if str(path) == str(root):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", fail)
    refused("/c: permission denied; give yourself the right to it", casme2.read_corpus, root)


def test_folders_that_link_to_each_other_are_walked_once(root):
    """Sixty links to the folder itself make 13 million paths of four folders."""
    expected = casme2.read_corpus(root)
    for number in range(60):
        (root / f"more{number}").symlink_to(".")
    pd.testing.assert_frame_equal(casme2.read_corpus(root), expected)
