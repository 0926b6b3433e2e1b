"""Mini-corpora in every layout that circulates, and everything that can be wrong with a folder of frames."""

import shutil

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
    red[..., 2] = 255
    root = mini.casme3(tmp_path, "clips", picture=lambda subject, number: red)
    table = casme3.read_corpus(root)
    assert read_frame(table.loc[0, "frame"].format(table.loc[0, "onset"]))[0, 0, 0] > 200
    assert cv2.imread(table.loc[0, "frame"].format(table.loc[0, "onset"]))[0, 0, 2] > 200
