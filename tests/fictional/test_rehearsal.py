"""What a rehearsal has: every class of every class list, in files that the readers read; and faces that move."""

import numpy as np
import pytest
from ruamel.yaml import YAML

from mer import corpora
from mer.corpora import megc2019, select
from mer.faces import detect_landmarks
from mer.fictional import rehearsal
from mer.fictional.faces import UNITS, Cast
from mer.fictional.layouts import Take
from mer.macro import ckplus, fer2013, rafdb, tables
from stages.synthesize import face_is_found
from tests.helpers.macro_sets import flat
from tests.helpers.mini import tiny

LISTS = [(corpus, classes) for corpus in rehearsal.TAKES for classes in corpora.load(corpus).CLASSES]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """All that is written, with a few grey pixels for every face."""
    folder = tmp_path_factory.mktemp("raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Cast, "frames", lambda self, takes: lambda subject, number: np.dstack([tiny(subject, number)] * 3)
        )
        patch.setattr(Cast, "still", lambda self, number, emotion: flat(10 * number, (320, 320)))
        rehearsal.write(folder)
    return folder


@pytest.fixture(scope="module")
def read(raw):
    return {corpus: corpora.load(corpus).read_corpus(raw / corpus) for corpus in rehearsal.TAKES}


# ---- corpora --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("corpus", "classes"), LISTS)
def test_every_class_occurs_in_three_people_at_least(read, corpus, classes):
    rows = select(read[corpus], corpus, classes)
    people = rows.groupby("label")["subject"].nunique()
    assert list(people.index) == list(range(classes))
    assert people.min() >= 3


def test_the_composite_has_all_three_classes_in_each_part(read):
    for corpus in ("casme2", "samm", "smic"):
        kept = read[corpus][megc2019.keep(read[corpus])]
        assert select(kept, "composite", 3).groupby("label")["subject"].nunique().min() >= 3


def test_a_corpus_has_the_clips_that_were_taken(read):
    for corpus, takes in rehearsal.TAKES.items():
        table = read[corpus]
        assert len(table) == len(takes)
        assert table["subject"].nunique() == rehearsal.PEOPLE
        found = table["offset"] - table["onset"] + 1
        assert set(found) == {rehearsal.FRAMES}
        assert not table.attrs["corrected"]
        assert not table.attrs["excluded"]


def test_the_clip_of_figure_4_is_there(root, read):
    drawn = YAML(typ="safe").load((root / "conf/uamrn.yaml").read_text())["explain"]["drawn"]["casme2-uamrn"]
    assert drawn in set(read["casme2"]["id"])


def test_the_preset_expects_what_is_there(root, read):
    expected = YAML(typ="safe").load((root / "conf/rehearsal.yaml").read_text())["corpora"]
    for corpus, table in read.items():
        assert expected[corpus]["expect"] == {"clips": len(table), "subjects": table["subject"].nunique()}
    parts = [select(t[megc2019.keep(t)], "composite", 3) for c, t in read.items() if c in ("casme2", "samm", "smic")]
    counts = {"clips": sum(map(len, parts)), "subjects": sum(part["subject"].nunique() for part in parts)}
    assert expected["composite"]["expect"] == counts


# ---- macro sets and weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read_macro", "name", "options", "emotions"),
    [(ckplus.read_macro, "ckplus", {}, 7), (rafdb.read_macro, "rafdb", {}, 7),
     (rafdb.read_macro, "rafdb", {"images": "original"}, 7), (fer2013.read_macro, "fer2013", {}, 7),
     (fer2013.read_macro, "fer2013", {"labels": "ferplus"}, 7)],
)  # fmt: skip
def test_every_emotion_of_a_set_occurs_as_often_as_there_are_people(raw, read_macro, name, options, emotions):
    counts = tables.summary(read_macro(raw / name, **options))["emotions"]
    assert counts == dict.fromkeys(counts, rehearsal.MACRO_PEOPLE)
    assert len(counts) == emotions


def test_votes_of_fer_plus_name_the_emotion_of_their_row(raw):
    plain, voted = fer2013.read_macro(raw / "fer2013"), fer2013.read_macro(raw / "fer2013", labels="ferplus")
    assert list(plain["emotion"]) == list(voted["emotion"])
    assert set(voted["split"]) == {"train", "val", "test"}


def test_a_sequence_without_a_label_is_counted(raw):
    assert tables.summary(ckplus.read_macro(raw / "ckplus"))["excluded"] == {"no emotion label": 1}


def test_the_network_is_read_as_an_official_one(raw):
    from mer.networks.vit import build_pretrained, load_official

    network = load_official(build_pretrained(8, 1, 1), str(raw / "vit_official"), "main")
    sizes = rehearsal.VIT
    assert (network.width, len(network.blocks), network.n_h) == (sizes["width"], sizes["layers"], sizes["heads"])
    assert len(network.pos_embed) == 1 + (sizes["side"] // 16) ** 2


# ---- faces ----------------------------------------------------------------------------------------------------------

TAKES = [Take(1, "a", 10, 14, 18, "Happiness"), Take(1, "b", 60, 64, 68, "disgust")]


@pytest.fixture(scope="module")
def cast():
    return Cast(3, face_is_found)


def test_dlib_finds_a_face_in_every_frame_and_it_moves_to_the_apex(cast):
    picture = cast.frames(TAKES)
    for take in TAKES:
        onset, apex, offset = (picture(1, number) for number in (take.onset, take.apex, take.offset))
        assert onset.shape == (320, 320, 3)
        assert onset.dtype == np.uint8
        for image in (onset, apex, offset):
            detect_landmarks(image)
        # The noise is 1 grey level: a difference of two frames without motion has a mean of 1.1.
        change = np.abs(apex.astype(float) - onset).mean(2)
        assert np.sort(change.ravel())[-2000:].mean() > 8
        assert np.abs(picture(1, take.onset).astype(float) - picture(1, take.onset - 1)).mean() < 1.6


def test_equal_input_gives_equal_pictures_and_other_seeds_other_people(cast):
    one, other = Cast(3), Cast(4)
    one.attempts = dict(cast.attempts)
    np.testing.assert_array_equal(one.frames(TAKES)(1, 12), cast.frames(TAKES)(1, 12))
    assert np.abs(other.frames(TAKES)(1, 12).astype(float) - cast.frames(TAKES)(1, 12)).mean() > 5


def test_a_frame_of_no_clip_and_clips_that_share_frames_are_errors(cast):
    picture = cast.frames(TAKES)
    with pytest.raises(KeyError):
        picture(1, 40)
    with pytest.raises(AssertionError, match="two clips of subject 1 have frame"):
        cast.frames([*TAKES, Take(1, "c", 12, 13, 15, "disgust")])


def test_a_still_image_shows_its_emotion(cast):
    neutral, happy = cast.still(1, "neutral"), cast.still(1, "happiness")
    detect_landmarks(happy)
    assert np.sort(np.abs(happy.astype(float) - neutral).mean(2).ravel())[-2000:].mean() > 15
    np.testing.assert_array_equal(happy, cast.still(1, "happiness"))


def test_every_word_of_every_label_sheet_has_action_units():
    words = {word for corpus in rehearsal.TAKES for classes in corpora.load(corpus).CLASSES.values()
             for emotions in classes.values() for word in emotions}  # fmt: skip
    assert words | set(tables.EMOTIONS.values()) <= set(UNITS)
