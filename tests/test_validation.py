"""What `make plan` and `make repro` refuse beyond types: knobs, recipes, classes, and what the user has to bring."""

import dataclasses
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mer import models, params, validation
from mer.errors import MerError
from mer.plan import derive
from tests.helpers.refusals import refused
from tests.helpers.trees import change
from tools import preset

LINEAR, STSTNET, UAMRN = (f"experiments/synthetic-{model}" for model in ("linear", "ststnet", "uamrn"))


@pytest.fixture(scope="module")
def raw(root) -> dict:
    return composed(root, "demo")


def composed(root, name: str, corpora: str = "") -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return YAML(typ="safe").load(preset.compose(name, corpora))


def test_the_parameters_that_are_changed_below_are_valid(raw):
    validation.check(params.parse(raw))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # Sections and knobs.
        ("ststnt", {"dropout": 0.1}, "params.yaml: section 'ststnt' is unknown; did you mean 'ststnet'?"),
        ("embed", {"runs": {}}, "params.yaml: section embed is gone: the stage follows from what a model reads"),
        ("linear/gird", 7, "params.yaml: linear.gird is unknown; did you mean 'grid'?"),
        ("linear/grid", 7.5, "params.yaml: linear.grid is 7.5; valid: 4, 7, 14, 28"),
        ("linear/c", -1.0, "linear.c is -1.0; it must be above 0"),
        ("linear/c", True, "params.yaml: linear.c is True; needed is a value of type float"),
        ("ststnet/dropout", 5.0, "params.yaml: experiments.synthetic-ststnet: model ststnet cannot be built with"),
        (f"{STSTNET}/knobs", {"dropuot": 0.1},
         "params.yaml: experiments.synthetic-ststnet.knobs.dropuot is unknown; did you mean 'dropout'?"),
        (f"{UAMRN}/knobs", {"uncertainty": "no"},
         "params.yaml: experiments.synthetic-uamrn.knobs.uncertainty is 'no'; needed is a value of type bool"),
        ("uamrn/tap", "layer5", "params.yaml: uamrn.tap is 'layer5'; valid: layer1, layer2, layer3"),
        ("uamrn/grid", 0, "uamrn.grid is 0; it must be 1 at least"),
        ("uamrn/grid", 2.5, "params.yaml: uamrn.grid is 2.5; needed is a value of type int"),
        ("uamrn/freeze", False, "uamrn.features leaves no ResNet to train; set features: false"),
        # The factors are a knob now: one name in place of a length, a first and a last one.
        ("uamrn/length", 8, "params.yaml: uamrn.length is unknown"),
        ("uamrn/first_factor", 2.0, "params.yaml: uamrn.first_factor is unknown; did you mean 'factors'?"),
        ("uamrn/factors", "two", "factors: 'two' is no range of factors; write linspace_<first>_<last>_<how many>"),
        ("uamrn/factors", "linspace_13_2_8", "factors: 'linspace_13_2_8' gives [13.0"),
        ("uamrn/factors", "linspace_2_13_0", "needed are factors above 0 that ascend"),
        # Recipes.
        (f"{STSTNET}/recipe", {"epoch": 3}, "synthetic-ststnet.recipe.epoch is unknown; did you mean 'epochs'?"),
        (f"{STSTNET}/recipe", {"optimizer": "sgd"}, "recipe.optimizer is 'sgd'; valid: adam, adamw"),
        (f"{STSTNET}/recipe", {"weight_decay": -1.0}, "recipe.weight_decay is -1.0"),
        (f"{STSTNET}/recipe", {"lr": float("nan")}, "recipe.lr is nan"),
        (f"{STSTNET}/recipe", {"rotate": 5.0}, "mer/models/ststnet.py declares no VECTORS"),
        (f"{UAMRN}/recipe", {"mirror": True}, "params.yaml: experiments.synthetic-uamrn: recipe.mirror is true, but "
         "uamrn.features makes the inputs vectors of frames, which cannot be mirrored; set recipe.mirror or"),
        (f"{LINEAR}/recipe", {"epochs": 3}, "model linear is no network and has no recipe; remove it"),
        # Models and classes.
        (f"{LINEAR}/model", "liner", "model 'liner' is unknown; did you mean 'linear'?"),
        (f"{LINEAR}/classes", 7,
         "params.yaml: experiments.synthetic-linear: classes is 7: corpus casme2 has selections of [3, 5] classes"),
        (f"{LINEAR}/labels", "casm2", "params.yaml: experiments.synthetic-linear: corpus 'casm2' has no class lists; "
         "did you mean 'casme2'?"),
        (f"{LINEAR}/labels", "smic", "experiments.synthetic-linear: classes is 5: corpus smic has selections of [3]"),
        ("corpora/synthetic/classes", 7, "params.yaml: corpora.synthetic: classes is 7: corpus casme2 has selections"),
        ("corpora/synthetic/labels", "casm2", "params.yaml: corpora.synthetic: corpus 'casm2' has no class lists; did "
         "you mean 'casme2'?"),
        ("corpora/mine", {"classes": 5}, "params.yaml: corpora.mine: corpus 'mine' has no class lists"),
    ],
)  # fmt: skip
def test_knobs_recipes_and_classes_are_checked_before_anything_runs(raw, path, value, message):
    with pytest.raises(MerError) as error:
        validation.check(params.parse(change(raw, path, value)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_knob_of_the_section_is_refused_though_every_experiment_changes_it(raw):
    raw = change(raw, f"{STSTNET}/knobs", {"dropout": 0.1})
    refused(r"params.yaml: ststnet.dropout is 'x'", validation.check, params.parse(change(raw, "ststnet/dropout", "x")))


def test_an_experiments_own_classes_and_labels_come_before_its_corpus(raw):
    for changes in ({"classes": 3}, {"classes": 3, "labels": "smic"}):
        entry = {"corpus": "synthetic", "model": "linear", **changes}
        parsed = params.parse(change(raw, LINEAR, entry))
        validation.check(parsed)
        args = derive(parsed)[0]["train"]["synthetic-linear"]["args"]
        assert (args["classes"], args["labels"]) == (3, changes.get("labels", "casme2"))


def test_frames_may_be_mirrored_where_features_may_not(raw):
    mirrored = change(raw, f"{UAMRN}/recipe", {"mirror": True})
    validation.check(params.parse(change(mirrored, f"{UAMRN}/knobs", {"features": False})))
    refused("uamrn.features makes the inputs vectors", validation.check,
            params.parse(change(mirrored, f"{UAMRN}/knobs", {"features": True})))  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("AlphaDropout(0.5)", "0: AlphaDropout draws random numbers of its own; use nn.Dropout"),
        ("BatchNorm1d(3, track_running_stats=False)", "0: batch norm without running statistics would normalise"),
        ("InstanceNorm1d(3, track_running_stats=True)", "0: instance norm with running statistics is not supported"),
    ],
)
def test_a_layer_that_the_engine_cannot_control_is_refused_before_training(raw, monkeypatch, layer, message):
    from torch import nn

    def build(classes: int, *, dropout: float = 0.5):
        return nn.Sequential(eval(f"nn.{layer}", {"nn": nn}))

    theirs = dataclasses.replace(models.load("ststnet"), build=build)
    monkeypatch.setattr(models, "load", lambda name: theirs)
    parsed, name = params.parse(raw), "synthetic-ststnet"
    refused(f"params.yaml: experiments.{name}: mer/models/ststnet.py: {message}", validation.check_experiment, parsed,
            name, parsed.experiments[name])  # fmt: skip


def test_an_experiment_is_checked_by_itself_as_stage_train_does_it(raw):
    """An error in another experiment does not stop it."""
    parsed = params.parse(change(raw, f"{STSTNET}/recipe", {"epoch": 3}))
    for name, experiment in parsed.experiments.items():
        if name == "synthetic-ststnet":
            refused("recipe.epoch is unknown", validation.check_experiment, parsed, name, experiment)
        else:
            validation.check_experiment(parsed, name, experiment)


# ---- what the user brings -------------------------------------------------------------------------------------------


def check_raw(parsed) -> None:
    validation.check_raw(parsed, derive(parsed)[0])


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder without data, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_corpus_its_manifest_and_each_folder_are_asked_for_in_turn(root, empty):
    parsed = params.parse(composed(root, "uamrn", "casme2"))
    refused(r"data/raw/casme2: is missing; unpack the corpus there \(docs/corpora.md\), or correct corpora.casme2.raw",
            check_raw, parsed)  # fmt: skip
    Path("data/raw/casme2").mkdir(parents=True)
    refused("data/raw/casme2.manifest.csv: is missing; make it with: make manifest C=casme2", check_raw, parsed)
    Path("data/raw/casme2.manifest.csv").touch()
    Path("assets/weights").mkdir(parents=True)
    for name in ("magnet", "resnet18"):
        Path(f"assets/weights/{name}.safetensors").touch()
    for folder, field in (
        ("data/raw/magnet", "magnet.user_weights"),
        ("data/raw/resnet18", "resnet18.user_weights"),
        ("data/raw/fer2013", "resnet18.raw"),
    ):
        message = f"{folder}: is missing; make that folder, or correct pretrain.runs.{field}"
        refused(message, check_raw, parsed)
        Path(folder).mkdir()
    check_raw(parsed)


def test_a_bundled_file_that_a_partial_checkout_lacks_is_named_before_anything_runs(root, empty):
    made = composed(root, "demo")
    for folder in ("magnet", "resnet18", "dcma", "micronbert", "fer2013", "ckplus", "rafdb"):
        Path("data/raw", folder).mkdir(parents=True)
    message = (
        r"assets/weights/magnet.safetensors: is missing; it came with the repository: git checkout -- "
        r"assets/weights/magnet.safetensors, or train here: set pretrain.runs.magnet.bundled to null"
    )
    Path("assets/weights").mkdir(parents=True)
    for name in ("resnet18", "dcma", "micronbert_mb1"):
        Path(f"assets/weights/{name}.safetensors").touch()
    refused(message, check_raw, params.parse(made))


def test_what_no_stage_of_the_plan_reads_need_not_be_there(root, empty):
    """The baselines have no pretrained network; a synthetic corpus is made."""
    Path("data/raw/samm").mkdir(parents=True)
    Path("data/raw/samm.manifest.csv").touch()
    check_raw(params.parse(composed(root, "baselines", "samm")))
    made = composed(root, "demo")
    for name in ("uamrn", "msmmt", "dcma", "micronbert"):
        del made["experiments"][f"synthetic-{name}"]
    made["motion_maps"] = {}
    check_raw(params.parse(change(made, "explain/drawn", {})))


def test_the_set_of_macro_expressions_that_is_drawn_is_asked_for(root, empty):
    Path("data/raw/samm").mkdir(parents=True)
    Path("data/raw/samm.manifest.csv").touch()
    parsed = params.parse(change(composed(root, "baselines", "samm"), "figures/macro", "ckplus"))
    refused(r"data/raw/ckplus: is missing; unpack the set there \(docs/macro.md\), or set figures.macro to null",
            check_raw, parsed)  # fmt: skip
    Path("data/raw/ckplus").mkdir()
    check_raw(parsed)


def test_a_corpus_elsewhere_that_is_watched_itself(root, empty):
    entry = {"classes": 5, "raw": "theirs/CASME2", "watch": "theirs/CASME2"}
    parsed = params.parse(change(composed(root, "baselines", "casme2"), "corpora/casme2", entry))
    refused(r"theirs/CASME2: is missing; .* or correct corpora.casme2.raw", check_raw, parsed)
    Path("theirs/CASME2").mkdir(parents=True)
    check_raw(parsed)


def test_the_parts_of_a_composite_are_asked_for(root, empty):
    parsed = params.parse(composed(root, "baselines", "composite"))
    for name in ("casme2", "samm", "smic"):
        refused(f"data/raw/{name}: is missing", check_raw, parsed)
        Path(f"data/raw/{name}").mkdir(parents=True)
        Path(f"data/raw/{name}.manifest.csv").touch()
    check_raw(parsed)


def test_a_missing_release_is_named_with_the_commands_that_bring_it(root, empty):
    parsed = params.parse(composed(root, "megc2019_flow"))
    refused(r"data/raw/megc2019_flow: is missing; .*dvc get --rev 91cf4bda", check_raw, parsed)
    Path("data/raw/megc2019_flow").mkdir(parents=True)
    check_raw(parsed)


@pytest.mark.parametrize("raw", ["/disk 2/flow", "x; touch y", "it's $HOME", "data/raw/megc2019_flow"])
def test_commands_to_copy_hold_the_folder_as_one_word(root, empty, raw):
    parsed = params.parse(change(composed(root, "megc2019_flow"), "corpora/megc2019_flow/raw", raw))
    said = refused("is missing; bring the release with: mkdir -p", check_raw, parsed)
    make, *get = [shlex.split(command) for command in said.partition("bring the release with: ")[2].split(" && ")]
    assert make == ["mkdir", "-p", raw]
    assert [(line[:2], Path(line[-1]).parent, len(line)) for line in get] == [(["dvc", "get"], Path(raw), 8)] * 2


@pytest.mark.parametrize(("knobs", "message"), [
    ({"roles": "codes"}, "knobs.roles is 'codes'; valid: paper, code"),
    ({"layers": True}, "knobs.layers is True; needed is a value of type int"),
    ({"pretext": "masked"}, "knobs.pretext is 'masked'; valid: swap, mask"),
    ({"size": 64}, "knobs.size: the run has a size of its own; set that"),
])  # fmt: skip
def test_knobs_of_a_pretraining_are_checked_as_those_of_a_model_are(raw, knobs, message):
    raw["pretrain"]["runs"]["micronbert"]["knobs"] = knobs
    refused(f"params.yaml: pretrain.runs.micronbert.{message}", validation.check, params.parse(raw))


def test_a_gap_below_one_frame_is_refused(raw):
    raw["pretrain"]["runs"]["micronbert"]["gap"] = [0.2, 0.4]
    refused(r"gap is \[0.2, 0.4\] frames; the least is 1", params.parse, raw)
