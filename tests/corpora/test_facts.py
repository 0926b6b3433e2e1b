"""Counts of a corpus against the published ones, and a part of a corpus that is declared as one."""

from types import SimpleNamespace

import pandas as pd
import pytest

from mer import clips
from mer.corpora import casme2, load
from mer.corpora.facts import check_facts, is_whole_corpus
from mer.parallel import SERIAL
from stages import index
from tests.helpers import mini
from tests.helpers.refusals import refused


def test_a_part_of_a_corpus_is_no_whole_corpus(tmp_path):
    table = casme2.read_corpus(mini.casme2(tmp_path))
    refused(r"raw/x: has 6 clips, the whole casme2 has 255; .* corpora.<name>.expect: \{clips: 6\}",
            check_facts, table, "casme2", "raw/x")  # fmt: skip
    assert is_whole_corpus("casme2", "casme2")
    assert is_whole_corpus("casme2-cropped", "casme2")
    assert not is_whole_corpus("synthetic", "casme2")
    assert not is_whole_corpus("casme2x", "casme2")


@pytest.mark.parametrize(
    ("reader", "make"), [("casme2", mini.casme2), ("samm", mini.samm), ("casme3", mini.casme3), ("smic", mini.smic)]
)
def test_the_stage_takes_a_part_only_when_it_is_declared(tmp_path, monkeypatch, reader, make):
    make(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    n = len(load(reader).read_corpus("raw"))

    def stage(key, expected=None):
        this = SimpleNamespace(key=key, section=SimpleNamespace(on_error="stop"), engine=SERIAL)
        index.main(this, reader=reader, raw="raw", out=f"{key}.csv", clips=expected)
        return clips.read_index(f"{key}.csv")

    refused(f"has {n} clips, the whole {reader} has", stage, reader)
    refused(f"has {n} clips, the whole {reader} has", stage, f"{reader}-raw")
    refused(f"has {n} clips, corpora.{reader}.expect.clips says {n + 1}", stage, reader, n + 1)
    assert len(stage(reader, n)) == n
    table = stage("mine")  # another name claims nothing
    assert table["digest"].is_unique


def test_every_count_is_held(reference):
    table = casme2.read_annotations(reference / "annotations/CASME2-coding-20140508.xlsx")
    check_facts(table, "casme2")
    wrong = table.copy()
    wrong.loc[wrong["emotion"].eq("disgust").idxmax(), "emotion"] = "others"
    refused("has 62 clips of disgust in the 5-class selection|has 89 clips of negative in the 3-class selection",
            check_facts, wrong, "casme2")  # fmt: skip
    refused("has 251 clips", check_facts, table[table["subject"] != "sub14"], "casme2")
    merged = table.assign(subject=table["subject"].replace("sub14", "sub15"))
    refused("has 25 subjects, the whole casme2 has 26", check_facts, merged, "casme2")
    check_facts(table.iloc[2:], "casme2", excluded=2)
    refused("has 255 clips", check_facts, table, "samm")


def test_the_cause_of_other_counts(reference):
    """Fewer clips: incomplete. As many with other labels, or more: another edition, and nothing to complete."""
    table = casme2.read_annotations(reference / "annotations/CASME2-coding-20140508.xlsx")
    fewer = refused("has 254 clips", check_facts, table.iloc[1:], "casme2")
    assert "complete the corpus" in fewer
    labels = table.assign(emotion=table["emotion"].replace("disgust", "others"))
    more = pd.concat([table, table.iloc[:1]])
    for other, count in ((labels, "has .* clips of"), (more, "has 256 clips")):
        text = refused(count, check_facts, other, "casme2")
        assert "this is another edition or a changed sheet" in text
        assert "complete" not in text


# ---- editions -----------------------------------------------------------------------------------------------------


def test_an_edition_is_known_whatever_file_it_is_in(reference, tmp_path):
    """Saved as csv, with its rows in another order; and with the "/" of the sheet as it ships."""
    cells = pd.read_excel(reference / "annotations/CASME2-coding-20140508.xlsx", dtype=str, keep_default_na=False)
    filled = "20140508 with apex 300 filled in for sub04/EP12_01f"
    cells.iloc[::-1].to_csv(tmp_path / "a.csv", index=False, sep=";")
    assert casme2.read_annotations(tmp_path / "a.csv").attrs["edition"] == filled
    row = (cells["Filename"] == "EP12_01f") & (cells["Subject"] == "04")
    cells.loc[row, "ApexFrame"] = "/"
    cells.to_csv(tmp_path / "b.csv", index=False)
    assert casme2.read_annotations(tmp_path / "b.csv").attrs["edition"] == "20140508"
    cells.loc[row, "Estimated Emotion"] = "fear"
    cells.to_csv(tmp_path / "c.csv", index=False)
    edition = casme2.read_annotations(tmp_path / "c.csv").attrs["edition"]
    assert edition.startswith("c.csv, 255 rows, ")
    assert edition.endswith(" (not a known edition)")


@pytest.mark.parametrize(
    ("reader", "sheet", "edition"),
    [
        ("samm", "SAMM.xlsx", "Micro_FACS_Codes_v2, a public copy"),
        ("smic", "smic_apex.xlsx", "the public sheet of apexes, 7 cells corrected"),
    ],
)
def test_the_editions_of_the_other_corpora(reference, reader, sheet, edition):
    assert load(reader).read_annotations(reference / "annotations" / sheet).attrs["edition"] == edition


@pytest.mark.parametrize("reader", ["casme2", "samm", "smic", "casme3"])
def test_the_known_edition_is_the_one_of_the_facts(reader):
    module = load(reader)
    assert module.SHEET_FORMAT.rows == module.FACTS["clips"]


def test_every_clip_of_an_index_tells_its_edition(tmp_path):
    table = casme2.read_corpus(mini.casme2(tmp_path / "a"))
    assert table["edition"].unique().tolist() == [table.attrs["edition"]]
    assert table.attrs["edition"].startswith("CASME2-coding-20140508.xlsx, 6 rows, ")
    folders = load("smic").read_corpus(mini.smic(tmp_path / "b"))
    assert folders["edition"].unique().tolist() == [folders.attrs["edition"]]
    assert folders.attrs["edition"].startswith("names of folders, 4 rows, ")
