"""A recogniser on disk: what its card says, and that a damaged, edited, incomplete or alien one is refused."""

import copy as copying
import io
import json
import shutil
import zipfile

import pytest
import sklearn.svm
import skops.io

from mer import models
from mer.params import load
from mer.products import frames, magnet
from mer.recognise import bundle
from mer.recognise.recogniser import Recogniser
from mer.storage.weights import save_weights
from tests.helpers.in_process import command
from tests.helpers.project import edit
from tests.helpers.refusals import refused


@pytest.fixture
def copy(flows, tmp_path):
    return shutil.copytree(flows / "data/recognisers/synthetic-ststnet", tmp_path / "copy")


def rewrite(folder, change) -> None:
    """Change the card and seal it again, as this code would have written it."""
    path = folder / "card.json"
    card = json.loads(path.read_text())
    card.pop("sha256")
    change(card)
    path.write_text(json.dumps(card | {"sha256": bundle._digest(card)}))


@pytest.mark.parametrize("name", ["synthetic-linear", "synthetic-ststnet"])
def test_the_card_says_what_it_is_and_what_loso_scored(flows, name):
    card = bundle.read_card(flows / "data/recognisers" / name)
    metric = json.loads((flows / f"metrics/{name}.json").read_text())
    details = json.loads((flows / f"metrics/details/{name}.json").read_text())
    assert (card.loso.uf1, card.loso.acc, card.loso.n_subjects) == (metric["uf1"], metric["acc"], 3)
    assert list(card.loso.uf1_ci95) == details["ci95"]["uf1"]
    assert card.temperature == details["calibration"]["temperature"]
    assert (card.corpus, card.n_clips, len(card.subjects), len(card.classes)) == ("synthetic", 15, 3, 5)
    assert sum(card.class_counts.values()) == 15
    assert card.seen["fps"].low == card.seen["fps"].high == 200
    assert 100 < card.seen["face_px"].middle < 320
    assert 0 < card.seen["motion_px"].low < card.seen["motion_px"].high < 5
    assert "renders" in card.licence
    assert any("Judging a person" in line for line in card.not_for)
    assert "training" not in json.dumps(card.loso.model_dump())  # nothing is measured on clips that were trained on
    assert bundle.params_of(card).flow == load(flows / "params.yaml").flow


def test_it_opens_anywhere_and_runs_no_code(copy):
    assert sorted(path.name for path in copy.iterdir()) == ["card.json", "model.safetensors"]
    assert not Recogniser(copy).model.training


def test_what_is_no_recogniser(copy, tmp_path):
    refused("is no recogniser .it has no card.json.; dvc repro fit@<experiment>", Recogniser, tmp_path / "nowhere")
    (copy / "card.json").write_text("{")
    refused("card.json: is damaged", Recogniser, copy)
    (copy / "card.json").write_text("[]")
    refused("card.json: is damaged .it is no object", Recogniser, copy)


def test_a_card_that_was_edited_is_refused(copy):
    path = copy / "card.json"
    path.write_text(path.read_text().replace('"uf1": 0.', '"uf1": 0.9'))
    refused("card.json: was changed after it was written", Recogniser, copy)


def test_another_version_is_refused(copy):
    rewrite(copy, lambda card: card.update(schema=2))
    refused("is of version 2, this code reads 1; make the recogniser again", Recogniser, copy)
    rewrite(copy, lambda card: card.update(schema=1, temper=1.0))
    refused("card.json: temper: extra inputs", Recogniser, copy)


def test_parameters_that_this_code_does_not_have_are_refused(copy):
    rewrite(copy, lambda card: card["params"]["flow"].update(lambada=1))
    refused("recogniser synthetic-ststnet: parameter flow.lambada is another in this version", Recogniser, copy)
    rewrite(copy, lambda card: card["params"]["flow"].pop("lambada") and card["params"].update(flaw={}))
    refused("there is no section flaw; make it again", Recogniser, copy)


def test_a_model_that_this_code_does_not_have_is_refused(copy):
    rewrite(copy, lambda card: card.update(model="ststnett"))
    refused("did you mean 'ststnet'", Recogniser, copy)


def test_a_damaged_or_missing_file_is_refused(copy):
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused("model.safetensors: is damaged; copy the recogniser anew", Recogniser, copy)
    path.unlink()
    refused("model.safetensors missing; copy the folder whole", Recogniser, copy)


def test_a_network_of_another_size_is_refused(copy):
    save_weights(models.build("ststnet", 3), copy / "model.safetensors", {"weights": "of three classes"})
    rewrite(copy, lambda card: card["files"].update({"model.safetensors": bundle._sum(copy / "model.safetensors")}))
    refused("make the recogniser again with this code", Recogniser, copy)


def test_weights_that_a_product_wants_and_the_folder_lacks_are_refused(copy):
    """As one that reads magnified apexes would be whose MagNet its card does not list."""
    chain = Recogniser(copy).chain
    plan, _ = chain._plan((magnet(frames("box224")),))
    (entry,) = plan["magnify_learned"].values()
    said = "needs weights 'magnet', which it does not hold; copy its folder whole"
    refused(said, chain._located, entry["args"]["weights"], copy)


def test_an_estimator_of_alien_types_is_not_loaded(flows, tmp_path):
    copy = shutil.copytree(flows / "data/recognisers/synthetic-linear", tmp_path / "linear")
    assert sorted(path.name for path in copy.iterdir()) == ["card.json", "model.skops"]

    path = copy / "model.skops"
    path.write_bytes(skops.io.dumps(Alien()))
    rewrite(copy, lambda card: card["files"].update({"model.skops": bundle._sum(path)}))
    said = refused("which no model here is made of; refused", Recogniser, copy)
    assert "Alien" in said


def test_an_estimators_file_depends_on_the_model_alone(flows):
    """skops' own has addresses and times, so that the same model trained again would be another product."""
    folder = flows / "data/recognisers/synthetic-linear"
    model = bundle.read_model(folder, bundle.read_card(folder))
    elsewhere = copying.deepcopy(model)
    assert skops.io.dumps(model) != skops.io.dumps(elsewhere)
    content = (folder / "model.skops").read_bytes()
    assert bundle._same_for_same(skops.io.dumps(model)) == content
    assert bundle._same_for_same(skops.io.dumps(elsewhere)) == content
    assert {entry.date_time[0] for entry in zipfile.ZipFile(io.BytesIO(content)).infolist()} == {1980}

    elsewhere.model_[-1].coef_[0, 0] += 1
    assert bundle._same_for_same(skops.io.dumps(elsewhere)) != content


class Alien(sklearn.svm.SVC):
    """An estimator from elsewhere."""


def test_an_experiment_of_exchanged_labels_becomes_no_recogniser(flows, tmp_path):
    folder = shutil.copytree(flows, tmp_path / "p", symlinks=True)
    edit(folder, lambda p: p["fit"].update(experiments=["synthetic-lineal"]), planned=False)
    code, said = command(folder, "fit", "synthetic-linear")
    assert (code, len(said)) == (2, 1)
    assert "fit.experiments: 'synthetic-lineal' is no experiment; did you mean 'synthetic-linear'" in said[0]
    edit(folder, lambda p: p["fit"].update(experiments=["synthetic-linear"]), planned=False)

    def exchanged(params):
        params["experiments"]["synthetic-linear"]["shuffled"] = True

    said = refused("fit.experiments: synthetic-linear: its labels are exchanged at random", edit, folder, exchanged)
    assert "leave it out" in said
