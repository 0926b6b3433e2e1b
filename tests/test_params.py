"""Parameters: every preset composes, and what cannot work is refused in one line that names the remedy."""

import copy
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mer import params
from mer.errors import MerError
from tools import preset, validate


@pytest.fixture(autouse=True)
def _in_project(root, monkeypatch):
    monkeypatch.chdir(root)


@pytest.fixture
def raw() -> dict:
    return YAML(typ="safe").load(preset.compose("demo"))


def test_there_are_presets():
    assert {"demo", "synthetic_full", "megc2019_flow"} <= set(preset.presets())


@pytest.mark.parametrize("name", preset.presets())
def test_every_preset_composes_and_validates(name):
    parsed = params.parse(YAML(typ="safe").load(preset.compose(name)))
    assert parsed.preset == name
    validate.check(parsed)


def test_the_committed_parameters_are_the_demos(tmp_path, monkeypatch):
    """As committed: a user may have another preset in the working tree."""

    def committed(name):
        shown = subprocess.run(["git", "show", f"HEAD:{name}"], capture_output=True, text=True, check=False)
        if shown.returncode:
            pytest.skip("no git checkout")
        return shown.stdout

    (tmp_path / "conf").mkdir()
    for name in ("conf/base.yaml", "conf/demo.yaml"):
        (tmp_path / name).write_text(committed(name))
    monkeypatch.setattr(preset, "CONF", tmp_path / "conf")
    assert committed("params.yaml") == preset.compose("demo")


@pytest.mark.parametrize("name", preset.presets())
def test_a_preset_keeps_every_comment_of_the_base(name):
    def comments(text):
        return {line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line}

    assert comments(Path("conf/base.yaml").read_text()) <= comments(preset.compose(name))


def change(raw: dict, path: str, value) -> dict:
    raw = copy.deepcopy(raw)
    *parents, last = path.split("/")
    node = raw
    for part in parents:
        node = node[part]
    node[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("flow/thetta", 0.3, "flow.thetta is unknown; did you mean 'theta'?"),
        ("algin", {}, "section 'algin' is unknown; did you mean 'align'?"),
        ("synthesize/runs/synthetic/clip", 3, "synthesize.runs.synthetic.clip is unknown; did you mean 'clips'?"),
        (
            "experiments/synthetic-linear/modle",
            "x",
            "experiments.synthetic-linear.modle is unknown; did you mean 'model'?",
        ),
        ("experiments/synthetic-linear/knobs", "liner", "'liner' is no section; did you mean 'linear'?"),
        ("flow/theta", -1.0, "flow.theta is -1.0: input should be greater than 0"),
        ("train/seed", "0", "train.seed is '0': input should be a valid integer"),
        ("train/selection", "best_test", "train.selection is 'best_test'"),
        ("train/folds_together", 0, "train.folds_together"),
        ("train/held_out", 1.0, "train.held_out is 1.0"),
        ("synthesize/runs/synthetic/clips", 20, "needs at least 3"),
        ("align/runs/synthetic-box224/corpus", "synthetik", "has no index; did you mean 'synthetic'?"),
        ("flow/runs/synthetic-box224/chain", "box112", "must be named synthetic-box112"),
        ("flow/runs/synthetic-box224/crop", "box112", "crop is 'box112', but chain box224 is made of another one"),
        ("magnify_eulerian/runs/synthetic-box224-msmmt/recipe", "mssmt", "must be named synthetic-box224-mssmt"),
        ("magnify_eulerian/runs/synthetic-box224-msmmt/reads", "box112/frames", "must be landmarks, or box224/frames"),
        ("magnify_eulerian/recipes/dcma/low", 0.5, "low is 0.5, high 0.4; a band needs low below high"),
        ("magnify_eulerian/recipes/dcma/fps", 0.5, "high is 0.4 Hz, above fps/2 = 0.25 Hz"),
        ("magnify_learned/runs/synthetic-box224/weights", "magnt", "did you mean 'magnet'?"),
        (
            "experiments/synthetic-linear/index",
            "data/index/x.csv",
            "the index of its corpus is data/index/synthetic.csv",
        ),
        (
            "experiments/synthetic-linear/inputs",
            ["data/cache/synthetic/box224/flwo.h5"] * 3,
            "no stage makes data/cache/synthetic/box224/flwo.h5; did you mean 'data/cache/synthetic/box224/flow.h5'?",
        ),
        ("experiments/Bad.Name", {}, "Bad.Name"),
        ("experiments", [1], "experiments is [1]: input should be a valid dictionary"),
        ("experiments/synthetic-linear/knobs", ["a"], "experiments.synthetic-linear.knobs is ['a']"),
        ("flow/theta", float("inf"), "flow.theta is inf: input should be a finite number"),
        ("align/runs", None, "align.runs is None: input should be a valid dictionary"),
        ("flow", None, "flow is None"),
    ],
)
def test_the_impossible_is_refused_in_one_line(raw, path, value, message):
    with pytest.raises(MerError) as error:
        params.parse(change(raw, path, value))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("params.yaml: ")


def test_a_missing_section_and_a_missing_key_are_named(raw):
    for path, name in (("flow", "flow"), ("flow/warps", "flow.warps")):
        broken = copy.deepcopy(raw)
        *parents, last = path.split("/")
        node = broken
        for part in parents:
            node = node[part]
        del node[last]
        with pytest.raises(MerError, match=rf"{name} is missing; copy it from conf/base.yaml"):
            params.parse(broken)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("linear/gird", 7, "linear.gird is unknown; did you mean 'grid'?"),
        ("linear/grid", 7.5, "linear.grid is 7.5; valid: 4, 7, 14, 28"),
        ("linear/c", -1.0, "linear.c is -1.0; it must be above 0"),
        ("ststnet/dropout", 5.0, "model ststnet cannot be built"),
        ("ststnt", {"dropout": 0.1}, "section 'ststnt' is unknown; did you mean 'ststnet'?"),
        ("figures/runs/synthetic/classes", 7, "figures.runs.synthetic: classes is 7"),
        ("figures/runs/synthetic/labels", "casm2", "did you mean 'casme2'?"),
        ("experiments/synthetic-linear/inputs", ["data/cache/synthetic/landmarks.h5"] * 3, "also reads flow"),
        ("experiments/synthetic-ststnet/recipe", {"weight_decay": -1.0}, "recipe.weight_decay is -1.0"),
        ("experiments/synthetic-ststnet/recipe", {"lr": float("nan")}, "recipe.lr is nan"),
        (
            "experiments/synthetic-ststnet/overrides",
            {"dropuot": 0.1},
            "overrides.dropuot is unknown; did you mean 'dropout'?",
        ),
        ("experiments/synthetic-ststnet/recipe", {"epoch": 3}, "recipe.epoch is unknown; did you mean 'epochs'?"),
        ("experiments/synthetic-ststnet/recipe", {"optimizer": "sgd"}, "recipe.optimizer is 'sgd'; valid: adam, adamw"),
        ("experiments/synthetic-linear/recipe", {"epochs": 3}, "model linear is no network"),
        ("experiments/synthetic-linear/model", "liner", "model 'liner' is unknown; did you mean 'linear'?"),
        ("experiments/synthetic-linear/classes", 7, "corpus casme2 has selections of [3, 5] classes"),
        ("uamrn/length", 9, "uamrn.length is 9, magnify_learned.factors linspace_2_13_8 are 8; make them agree"),
        ("magnify_learned/factors", "linspace_2_13_9", "linspace_2_13_9 are 9; make them agree"),
        ("uamrn/freeze", False, "uamrn.features leaves no ResNet to train; set features: false"),
        (
            "experiments/synthetic-uamrn/overrides",
            {"position": "factor", "last_factor": 12.0},
            "uamrn.first_factor and last_factor do not make the factors linspace_2_13_8",
        ),
        (
            "experiments/synthetic-linear/inputs",
            [*["data/cache/synthetic/box224/flow.h5"] * 2, "data/weights/resnet18.safetensors"],
            "inputs name weights data/weights/resnet18.safetensors, but model linear takes none",
        ),
        (
            "experiments/synthetic-uamrn/inputs",
            ["data/cache/synthetic/box224/embedding.h5", "data/weights/magnet.safetensors",
             "data/weights/resnet18.safetensors"],
            "a model takes one file",
        ),
        ("experiments/synthetic-uamrn/overrides", {"features": False}, "model uamrn also reads magnet; add"),
    ],
)  # fmt: skip
def test_knobs_recipes_and_classes_are_checked_before_anything_runs(raw, path, value, message):
    with pytest.raises(MerError) as error:
        validate.check(params.parse(change(raw, path, value)))
    assert message in str(error.value)


def test_a_missing_corpus_is_named_with_the_commands_that_bring_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preset, "CONF", Path(params.__file__).parent.parent / "conf")
    parsed = params.parse(YAML(typ="safe").load(preset.compose("megc2019_flow")))
    with pytest.raises(MerError, match=r"data/raw/megc2019_flow: is missing; .*dvc get --rev 91cf4bda"):
        validate.check_raw(parsed)


def test_unknown_preset():
    with pytest.raises(MerError, match="did you mean 'demo'"):
        preset.compose("dmeo")


def test_broken_yaml(tmp_path):
    (tmp_path / "params.yaml").write_text("a: [1\n")
    with pytest.raises(MerError, match="is not valid YAML"):
        params.load(tmp_path / "params.yaml")


def test_a_file_that_is_not_utf8(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"preset: \xff\n")
    with pytest.raises(MerError, match="is not UTF-8 text"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(("text", "message"), [("", "is not a mapping"), ("a: [1", "is not valid YAML")])
def test_a_broken_overlay(tmp_path, monkeypatch, text, message):
    (tmp_path / "base.yaml").write_text(Path("conf/base.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(preset, "CONF", tmp_path)
    with pytest.raises(MerError, match=f"conf/mine.yaml: {message}"):
        preset.compose("mine")


def test_a_preset_leaves_no_predictions_of_another_behind(tmp_path):
    for name in ("synthetic-linear", "megc2019-linear"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    (tmp_path / ".gitkeep").touch()
    preset.clear_predictions({"synthetic-linear": {}}, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".gitkeep", "synthetic-linear"]
