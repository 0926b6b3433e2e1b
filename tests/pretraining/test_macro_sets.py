"""Pretraining on several macro-expression sets: classes, what is held out, balance, that it learns, killed runs."""

import itertools
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

from mer import pretraining
from mer.macro import ckplus
from mer.macro.pool import COLUMNS
from mer.macro.tables import THREE
from mer.models import dcma
from mer.params import MacroSetsRun
from mer.pretraining import Context, macro_sets
from mer.pretraining.macro_sets import (
    CLASSES,
    POOL_CLASSES,
    POOL_EMOTIONS,
    hold_out,
    labelled,
    run,
)
from mer.storage.tables import write_table
from mer.storage.weights import save_weights
from mer.synthetic.pool import write_pool
from tests.helpers.macro_sets import put
from tests.helpers.pretraining import KNOBS, face, network, scripted, states_equal
from tests.helpers.refusals import refused

pytestmark = pytest.mark.usefixtures("one_thread", "one_thread_of_the_loop")


ENTRY = {
    "task": "macro_sets", "network": "dcma", "knobs": KNOBS, "user_weights": None, "missing": "refuse",
    "balance": "undersample", "held_out": 0.2, "optimizer": "adam", "lr": 0.01, "factor": 0.1, "patience": 10,
    "stop": 20, "epochs": 2, "batch_size": 8, "size": 32, "mirror": True,
}  # fmt: skip

WHERE = "pretrain.runs.dcma"


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


# ---- fabricated sets -------------------------------------------------------------------------------------------------


def write_ckplus(root: Path) -> None:
    """Ten people with a sequence of each class, one of them with a neutral one besides."""
    for kind, emotion in enumerate(("contempt", "happy", "surprise")):
        for person in range(10):
            write_image(root / f"CK+48/{emotion}/S{person:03d}_00{kind}_00000009.png", face(kind, person))
    write_image(root / "CK+48/neutral/S000_003_00000001.png", face(3, 0))


def write_rafdb(root: Path) -> None:
    for kind, code in enumerate((5, 4, 1, 7)):  # sadness, happiness, surprise, neutral
        for number in range((10, 20, 5, 3)[kind]):
            write_image(root / f"DATASET/train/{code}/train_{kind}{number:04d}_aligned.jpg", face(kind, number, 40))


def write_fer2013(root: Path) -> None:
    lines = ["emotion,pixels,Usage"]
    for kind, code in enumerate((2, 3, 5, 6)):  # fear, happiness, surprise, neutral
        for number in range((10, 10, 5, 2)[kind]):
            lines.append(f"{code},{' '.join(map(str, face(kind, 100 + number)[..., 0].ravel()))},Training")
    put(root / "fer2013.csv", "\n".join(lines) + "\n")


WRITERS = {"ckplus": write_ckplus, "rafdb": write_rafdb, "fer2013": write_fer2013}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for name, write in WRITERS.items():
        write(root / name)
    return root


def sets_of(root: Path, *there: str) -> dict:
    """The three sets of the entry; those that are not `there` have empty folders."""
    (root / "empty").mkdir(exist_ok=True)
    places = {name: root / name if name in there else root / "empty" for name in WRITERS}
    return {n: {"raw": str(p), "watch": str(p), "options": {}, "crop": "none"} for n, p in places.items()}


def made(raw, *there, pool=None, changes=None, **context):
    entry = ENTRY | {"sets": sets_of(raw, *there)} | (changes or {})
    return run(entry, Context(where=WHERE, pool=pool, **context))


# ---- classes ---------------------------------------------------------------------------------------------------------


def table_of(*emotions: str) -> pd.DataFrame:
    return pd.DataFrame({"emotion": emotions, "id": range(len(emotions))})


def test_the_emotions_of_the_sets_are_the_three_classes_and_neutral_is_left_out():
    names = ["surprise", "neutral", "anger", "contempt", "happiness", "disgust", "fear", "neutral", "sadness"]
    rows, left_out = labelled(table_of(*names), THREE, {"neutral"}, "x")
    assert CLASSES == ("negative", "positive", "surprise") == dcma.PRETRAINED
    assert rows["label"].tolist() == [2, 0, 0, 1, 0, 0, 0]
    assert rows["id"].tolist() == [0, 2, 3, 4, 5, 6, 8]
    assert left_out == 2


def test_the_pool_has_casme_2s_classes():
    names = ["others", "repression", "happiness", "surprise", "disgust", "others"]
    rows, left_out = labelled(table_of(*names), POOL_CLASSES, POOL_EMOTIONS, "the pool")
    assert tuple(POOL_CLASSES) == CLASSES
    assert rows["label"].tolist() == [0, 1, 2, 0]
    assert left_out == 2


def test_an_emotion_that_the_mapping_does_not_know_is_refused_with_the_mapping():
    table = table_of("boredom", "fear", "anger", "boredom", "awe")
    text = refused("fer2013: ", labelled, table, THREE, {"neutral"}, "fer2013")
    assert text == (
        "fer2013: emotions that the mapping does not know: awe (1 images), boredom (2 images); correct the labels; the "
        "mapping is negative: anger, contempt, disgust, fear, sadness; positive: happiness; surprise: surprise; in no "
        "class: neutral"
    )
    text = refused("the pool: ", labelled, table_of("neutral"), POOL_CLASSES, POOL_EMOTIONS, "the pool")
    assert text.startswith("the pool: emotions that the mapping does not know: neutral (1 images); ")
    assert text.endswith("in no class: fear, others, sadness")
    refused(
        r"x: none of 2 images is in a class \(negative: .*\); name another set", labelled,
        table_of("neutral", "neutral"), THREE, {"neutral"}, "x",
    )  # fmt: skip


# ---- what is held out ------------------------------------------------------------------------------------------------


def people(**images: int) -> np.ndarray:
    return np.array([name for name, n in images.items() for _ in range(n)], dtype=object)


@pytest.mark.parametrize("seed", range(20))
def test_subjects_are_held_out_whole_and_about_their_share(seed):
    subjects = np.random.default_rng(9).permutation(people(**{f"s{k}": 1 + k % 4 for k in range(40)}))
    held = hold_out(np.arange(100) % 3, subjects, share=0.2, seed=seed)
    assert not set(subjects[held]) & set(subjects[~held])
    assert abs(held.sum() - 20) <= 4  # no more than the images of one person
    assert np.array_equal(held, hold_out(np.arange(100) % 3, subjects, share=0.2, seed=seed))


def test_another_seed_holds_out_other_subjects():
    subjects = people(**{f"s{k}": 2 for k in range(10)})
    found = {tuple(np.unique(subjects[hold_out(np.zeros(20, int), subjects, share=0.2, seed=s)])) for s in range(20)}
    assert all(len(names) == 2 for names in found)
    assert len(found) > 10


@pytest.mark.parametrize(
    ("subjects", "share", "held"),
    [
        (people(a=3, b=3), 0.01, 1),  # one at least
        (people(a=3, b=3), 0.99, 1),  # never all
        (people(a=3, b=3, c=3), 0.99, 2),
        (people(a=3), 0.5, 0),
    ],
)
def test_one_subject_at_least_and_never_all(subjects, share, held):
    mask = hold_out(np.zeros(len(subjects), int), subjects, share=share, seed=0)
    assert len(set(subjects[mask])) == held


def test_without_subjects_each_class_gives_its_share_of_images():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 20, 10]))
    masks = [hold_out(labels, people(**{"": 80}), share=0.2, seed=seed) for seed in range(2)]
    for mask in masks:
        assert np.bincount(labels[mask]).tolist() == [10, 4, 2]
    assert not np.array_equal(*masks)
    few = np.array([0, 1, 1, 2, 2, 2])  # an only image is learned; of two or three one at least is held out
    assert np.bincount(few[hold_out(few, people(**{"": 6}), share=0.01, seed=0)], minlength=3).tolist() == [0, 1, 1]
    assert np.bincount(few[hold_out(few, people(**{"": 6}), share=0.99, seed=0)], minlength=3).tolist() == [0, 1, 2]


def test_subjects_of_which_some_are_unknown():
    subjects = people(a=10, b=10, c=10, **{"": 20})
    labels = np.arange(50) % 2
    held = hold_out(labels, subjects, share=0.3, seed=0)
    assert len(set(subjects[held]) - {""}) == 1
    assert np.bincount(labels[held & (subjects == "")]).tolist() == [3, 3]


# ---- the task --------------------------------------------------------------------------------------------------------

# id, key, default, alternatives
OPEN = [
    ("D-10", "patience", 10, [20, 0]),
    ("D-12", "optimizer", "adam", ["adamw"]),
    ("D-12", "lr", 0.01, [0.001]),
    ("D-13", "balance", "undersample", ["oversample", "weights"]),
]


@pytest.mark.parametrize(("question", "key", "default", "alternatives"), OPEN)
def test_every_open_question_of_the_pretraining_is_a_parameter(question, key, default, alternatives, raw, root):
    """The default of conf/base.yaml is that of the notes; the others are accepted, and change what is learned. D-10
    changes nothing in so few epochs: the tests of plateau and stop hold it."""
    base = (root / "conf/base.yaml").read_text(encoding="utf-8")
    entry = YAML(typ="safe").load(base)["pretrain"]["runs"]["dcma"]
    assert entry[key] == default
    assert re.search(rf"^      {key}:.*{question}", base, re.MULTILINE)
    MacroSetsRun.model_validate(entry)
    found = [made(raw, "ckplus", "rafdb", "fer2013", changes={key: default, "epochs": 3}).network]
    for value in alternatives:
        MacroSetsRun.model_validate(entry | {key: value})
        found.append(made(raw, "ckplus", "rafdb", "fer2013", changes={key: value, "epochs": 3}).network)
    if question != "D-10":
        assert not any(states_equal(a, b) for a, b in itertools.combinations(found, 2))


def test_it_learns_three_sets_and_says_so(raw):
    done = made(raw, *WRITERS, changes={"epochs": 6, "lr": 0.003})
    note = r"(\S+) \(UAR (\S+)\) of 18 held-out images, 3 classes, at epoch (\d) of 6"
    score = re.fullmatch(note, done.about["accuracy"])
    assert float(score[1]) > 0.8
    assert float(score[2]) > 0.8
    assert done.about["weights"] == (
        "6 epochs on ckplus (CK+48, 30 images, 1 in no class), rafdb (folders, 35 images, 3 in no class), fer2013 "
        f"(fer2013.csv, 25 images, 2 in no class), balanced by undersampling, best validation epoch {score[3]}, from "
        "random weights"
    )
    assert done.about.keys() == {"weights", "accuracy"}  # nobody of an evaluated corpus was seen
    assert not any(module.training for module in done.network.modules())
    assert sum(p.numel() for p in done.network.parameters()) == sum(p.numel() for p in network().parameters())


def test_what_is_learned_and_held_out_of_each_set(raw, monkeypatch):
    given = {}
    monkeypatch.setattr(macro_sets, "pretrain", lambda *args, **kwargs: given.update(args=args, **kwargs) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(raw, *WRITERS, seed=4)
    # CK+: two of ten people with an image of each class; RAF-DB: 2, 4 and 1; FER-2013: 2, 2 and 1.
    assert np.bincount(given["held_labels"]).tolist() == [6, 8, 4]
    assert np.bincount(given["args"][1]).tolist() == [24, 32, 16]
    assert {f.shape[0] for f in given["args"][0]} == {32}
    for images, labels in ((given["args"][0], given["args"][1]), (given["held_faces"], given["held_labels"])):
        for image, label in zip(images, labels, strict=True):  # the right label with each image
            assert np.argmax([image[k * 11 + 2 : k * 11 + 9].mean() for k in range(3)]) == label
    assert given["seed"] == 4
    for name in ("balance", "epochs", "batch_size", "size", "optimizer", "lr", "factor", "patience", "stop", "mirror"):
        assert given[name] == ENTRY[name]


def test_people_of_ckplus_are_on_one_side_only(raw):
    entry = ENTRY | {"sets": sets_of(raw, "ckplus")}
    part = macro_sets.read_set("ckplus", entry, Context(where=WHERE, seed=1))
    table = ckplus.read_macro(raw / "ckplus")
    names = table["subject"][table["emotion"] != "neutral"].to_numpy()
    held = set(names[part.held])
    assert len(held) == 2
    assert not held & set(names[~part.held])


def test_what_is_held_out_of_a_set_does_not_depend_on_the_others(raw):
    entry = ENTRY | {"sets": sets_of(raw, *WRITERS)}
    alone = entry | {"sets": {"rafdb": entry["sets"]["rafdb"]}}
    masks = [macro_sets.read_set("rafdb", e, Context(where=WHERE)).held for e in (entry, alone)]
    assert np.array_equal(*masks)


def test_the_initial_weights_are_of_the_seed_and_of_nothing_else(raw):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = (macro_sets.initial_network(ENTRY, Context(where=WHERE, seed=seed)) for seed in (0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert states_equal(one, network(0))
    assert states_equal(other, network(1))


def test_a_stopped_training_says_of_how_many_epochs(raw, monkeypatch):
    scripted(monkeypatch, [(2, 3), (1, 3), (1, 3), (1, 3)])
    done = made(raw, "rafdb", changes={"epochs": 4, "stop": 1, "missing": "leave_out", "balance": "weights"})
    assert done.about["weights"].startswith("2 of 4 epochs on rafdb (folders, 35 images, 3 in no class), without ")
    assert done.about["weights"].endswith("balanced by class weights, best validation epoch 1, from random weights")
    assert done.about["accuracy"] == "1.000 (UAR 1.000) of 7 held-out images, 3 classes, at epoch 1 of 2"


# ---- sets that are missing -------------------------------------------------------------------------------------------


def test_missing_sets_are_listed_with_where_they_were_looked_for(raw):
    text = refused("missing: ", made, raw, "rafdb")
    assert text == (
        f"{WHERE}.sets: missing: ckplus (looked for in {raw}/empty), fer2013 (looked for in {raw}/empty); in place: "
        "rafdb; put what is missing there as docs/macro.md shows, or, to go on without it, set "
        f"{WHERE}.missing: leave_out"
    )


def test_missing_sets_may_be_left_out_and_the_note_says_so(raw):
    done = made(raw, "ckplus", "fer2013", changes={"missing": "leave_out", "epochs": 1, "balance": "oversample"})
    assert done.about["weights"] == (
        "1 epochs on ckplus (CK+48, 30 images, 1 in no class), fer2013 (fer2013.csv, 25 images, 2 in no class), "
        "without rafdb (missing), balanced by oversampling, best validation epoch 1, from random weights"
    )


@pytest.mark.parametrize("missing", ["refuse", "leave_out"])
def test_without_sets_and_pool_the_weights_are_random(raw, missing):
    done = made(raw, changes={"missing": missing})
    assert done.about == {"weights": "random weights"}
    assert states_equal(done.network, network())


def write_labelled_pool(root: Path, rows: list[tuple[str, str, np.ndarray]]) -> None:
    """Images of a pool: person, emotion, image."""
    lines = []
    for person, emotion, image in rows:
        name = f"{emotion}/{person}_{len(lines)}.png"
        write_image(root / "macro" / name, image)
        lines.append([name, person, emotion, "6+12", 4.1])
    write_table(root / "macro/labels.csv", pd.DataFrame(lines, columns=COLUMNS))


def test_without_sets_the_pool_is_learned(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(macro_sets, "POOL_CROP", "none")  # these are no faces
    kinds = {"repression": 0, "happiness": 1, "surprise": 2, "others": 3}
    rows = [(f"sub10{n}", emotion, face(kind, n)) for n in range(1, 6) for emotion, kind in kinds.items()]
    write_labelled_pool(tmp_path, rows)
    done = made(raw, pool=tmp_path, changes={"epochs": 1, "batch_size": 4})
    assert done.about["weights"] == (
        "1 epochs on the synthetic macro pool (5 people, 15 images, 5 in no class), balanced by undersampling, best "
        "validation epoch 1, from random weights"
    )
    assert "of 3 held-out images" in done.about["accuracy"]  # those of one person


def test_the_faces_of_a_rendered_pool_are_found(raw, tmp_path):
    write_pool(tmp_path / "pool", subjects={101: 0, 102: 0}, seed=0, macro=1, clips=0, pairs=0, length=(8, 8))
    done = made(raw, pool=tmp_path / "pool", changes={"epochs": 1, "batch_size": 2})
    what = "1 epochs on the synthetic macro pool (2 people, 8 images, 2 in no class), "
    assert done.about["weights"].startswith(what)


def test_images_without_a_face_are_left_out_and_counted(raw, tmp_path, monkeypatch):
    sets = sets_of(raw, "rafdb")
    sets["rafdb"]["crop"] = "box224"
    some = [face(k % 3, k, 32) if k % 5 else None for k in range(35)]
    monkeypatch.setattr(macro_sets, "faces", lambda table, size, crop, engine: some)
    done = made(raw, changes={"sets": sets, "missing": "leave_out", "epochs": 1})
    assert "rafdb (folders, 28 images, 3 in no class, 7 without a face)" in done.about["weights"]
    monkeypatch.setattr(macro_sets, "faces", lambda table, size, crop, engine: [None] * 35)
    message = rf"no face was found in any image of rafdb \(35 in a class\); set {WHERE}\.sets\.rafdb\.crop to none"
    refused(message, made, raw, changes={"sets": sets, "missing": "leave_out"})


def test_knobs_reach_the_network_of_a_users_own_file(tmp_path):
    own = network(seed=7)
    save_weights(own, tmp_path / "own.safetensors")
    entry = ENTRY | {"user_weights": str(tmp_path)}
    done = pretraining.run(entry, Context(where=WHERE))
    assert done.about["weights"] == "given: own.safetensors"
    assert states_equal(done.network, own)
    refused("not the weights of DCMA", pretraining.run, entry | {"knobs": {}}, Context(where=WHERE))


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_refused(raw):
    sets = sets_of(raw, *WRITERS)
    sets["rafdb"]["raw"] = f"{raw}/ravdb"
    message = rf"ravdb: there is no such folder; make it, or correct {WHERE}\.sets\.rafdb\.raw"
    refused(message, made, raw, changes={"sets": sets})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet18"}, rf"{WHERE}\.network is 'resnet18', which does not tell negative, positive, surprise"),
        (
            {"knobs": {"stems": 4}},
            rf"{WHERE}\.knobs: dcma cannot be built with \{{'stems': 4\}} \(.*'stems'\); correct",
        ),
        ({"knobs": {"stem": "4"}}, rf"{WHERE}\.knobs: dcma cannot be built with \{{'stem': '4'\}} \("),
        ({"knobs": KNOBS | {"blocks": 6}}, r"dcma\.size is 32, of which 6 blocks leave nothing"),
        ({"knobs": KNOBS | {"blocks": 5}, "size": 16}, r"the network cannot take faces of 16 px \(.*\); raise size"),
        ({"size": 8}, "size is 8; needed is 16 px at least"),
        (
            {"batch_size": 64},
            r"an epoch has 48 images \(balance undersample, of 24 negative, 32 positive, 16 surprise\), fewer than a "
            r"batch; lower batch_size, which is 64, or name a larger set",
        ),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused(raw, changes, message):
    refused(message, made, raw, *WRITERS, changes=changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "fer"}, rf"params\.yaml: {WHERE}\.sets\.fer2013\.options\.label is unknown; did you mean 'labels'"),
        ({"labels": 3}, rf"{WHERE}\.sets\.fer2013\.options\.labels is 3; needed is a value of type str"),
        ({"labels": "ferplus"}, r"fer2013new\.csv: the file is missing"),
    ],
)
def test_options_of_a_set_are_checked(raw, options, message):
    sets = sets_of(raw, *WRITERS)
    sets["fer2013"]["options"] = options
    refused(message, made, raw, changes={"sets": sets})


def test_options_stand_in_the_note(raw):
    sets = sets_of(raw, "ckplus")
    sets["ckplus"]["options"] = {"last": 1}
    done = made(raw, changes={"sets": sets, "missing": "leave_out", "epochs": 1})
    assert "ckplus (CK+48, last 1, 30 images, 1 in no class)" in done.about["weights"]


def test_an_image_that_cannot_be_read_is_named_with_its_remedy(tmp_path):
    write_rafdb(tmp_path / "rafdb")
    path = tmp_path / "rafdb/DATASET/train/4/train_10003_aligned.jpg"
    path.write_bytes(path.read_bytes()[:200])
    changes = {"missing": "leave_out"}
    text = refused(r"train_10003_aligned\.jpg: .*; replace the file", made, tmp_path, "rafdb", changes=changes)
    assert text.startswith(str(path))
    path.write_bytes(b"")
    refused(r"train_10003_aligned\.jpg: ", made, tmp_path, "rafdb", changes=changes)


def test_a_set_that_cannot_be_read_is_refused(tmp_path):
    put(tmp_path / "rafdb/notes.txt", "")
    refused("rafdb: holds none of ", made, tmp_path, "rafdb", changes={"missing": "leave_out"})


def test_a_pool_with_an_emotion_that_nobody_knows(raw, tmp_path):
    write_labelled_pool(tmp_path, [("sub101", "boredom", face(0, 0)), ("sub101", "happiness", face(1, 0))])
    message = r"the synthetic macro pool: emotions that the mapping does not know: boredom \(1 images\); "
    refused(message, made, raw, pool=tmp_path)
