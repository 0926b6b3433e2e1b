"""Counts of a corpus against the published ones, and a part of a corpus that is declared as one."""

from types import SimpleNamespace

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
