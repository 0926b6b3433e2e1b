"""The MEGC2019 composite from the real label sheets, where they lie."""

import pandas as pd
import pytest

from mer.corpora import casme2, load, megc2019, megc2019_flow, samm, select, smic
from mer.corpora.facts import check_facts
from mer.errors import MerError


@pytest.fixture(scope="module")
def joined(reference):
    sheets = {
        "casme2": (casme2, "CASME2-coding-20140508.xlsx"),
        "samm": (samm, "SAMM.xlsx"),
        "smic": (smic, "smic_apex.xlsx"),
    }
    return pd.concat(
        [r.read_annotations(reference / "annotations" / f).assign(corpus=name) for name, (r, f) in sheets.items()],
        ignore_index=True,
    )


def test_counts(joined):
    """fidelity 0.1"""
    rows = select(joined, "composite", 3)
    assert rows.attrs["class_names"] == ["negative", "positive", "surprise"]
    assert rows["label"].value_counts().sort_index().tolist() == [250, 109, 83]
    assert len(rows[["corpus", "subject"]].drop_duplicates()) == 68
    assert rows["corpus"].value_counts().to_dict() == megc2019.PARTS
    part = rows[rows["corpus"] == "casme2"]["label"].value_counts().sort_index().tolist()
    assert part == [88, 32, 25]
    check_facts(joined, "composite")


def test_the_two_clips_left_out(joined):
    rows = select(joined, "composite", 3)
    both = joined.merge(rows[["corpus", "subject", "clip"]], how="left", indicator=True)
    gone = both[(both["_merge"] == "left_only") & both["emotion"].isin(megc2019.KEPT["casme2"])]
    gone = gone[gone["corpus"] == "casme2"]
    assert set(zip(gone["subject"], gone["clip"], strict=True)) == {("sub04", "EP12_01f"), ("sub05", "EP09_05f")}


def test_it_is_the_clips_of_the_released_flow(joined, reference):
    """The same clips as in the release that every paper evaluates on, with the same labels."""
    released = pd.read_csv(reference / "megc2019_flow" / megc2019_flow.LABELS, dtype=str)
    rows = select(joined, "composite", 3)
    ours = {(r.corpus, r.subject, r.clip.replace("s0", "s")): r.label for r in rows.itertuples()}

    def clip(row):  # s01_ne_02 there, s1_ne_02 on disk; samm and casme2 as here
        name = row.filename_o
        return f"s{int(name.split('_')[0][1:])}_{name.split('_', 1)[1]}" if row.dataset == "smic" else name

    def subject(row):
        return {"casme2": "sub{:02d}", "samm": "{:03d}", "smic": "s{:02d}"}[row.dataset].format(
            int("".join(c for c in row.sub if c.isdigit()))
        )

    theirs = {(r.dataset, subject(r), clip(r)): int(r.label) for r in released.itertuples()}
    assert ours == theirs


def test_parts_agree_with_the_corpora_on_their_own():
    """The lists are written out in the module, so that it imports no other corpus."""
    for name in ("casme2", "samm", "smic"):
        own = load(name).CLASSES[3]
        assert megc2019.KEPT[name] == set().union(*own.values())
        for label, emotions in own.items():
            assert emotions <= megc2019.CLASSES[3][label]


def test_variants_of_a_corpus_and_what_is_refused(joined):
    renamed = joined.assign(corpus=joined["corpus"].replace({"casme2": "casme2-cropped"}))
    assert len(select(renamed, "composite", 3)) == 442
    with pytest.raises(MerError, match=r"255 clips occur twice: casme2-cropped/sub01/EP02_01f, .*; join one variant"):
        select(pd.concat([joined, renamed[renamed["corpus"] == "casme2-cropped"]]), "composite", 3)
    with pytest.raises(MerError, match="has rows of casme3; it is made of casme2, samm, smic"):
        select(joined.assign(corpus="casme3"), "composite", 3)
    with pytest.raises(MerError, match="columns corpus are missing; select from an index joined"):
        select(joined.drop(columns="corpus"), "composite", 3)
    with pytest.raises(MerError, match=r"has selections of \[3\]"):
        select(joined, "composite", 5)
    with pytest.raises(MerError, match="has 249 clips of negative in the 3-class selection, the whole composite"):
        check_facts(joined.drop(index=select(joined, "composite", 3).query("label == 0").index[0]), "composite")
