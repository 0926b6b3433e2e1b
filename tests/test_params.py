"""Parameters: their types, and refusals in one line that names the parameter and the remedy."""

import pytest
from ruamel.yaml import YAML

from mer import params
from mer.errors import MerError
from tests.helpers.refusals import refused
from tests.helpers.trees import BOMB, change, without
from tools import preset

LINEAR, STSTNET = "experiments/synthetic-linear", "experiments/synthetic-ststnet"


@pytest.fixture(autouse=True)
def _in_project(root, monkeypatch):
    monkeypatch.chdir(root)


@pytest.fixture(scope="module")
def raw(root) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return YAML(typ="safe").load(preset.compose("demo"))


def check_refused(raw, path, value, message) -> None:
    with pytest.raises(MerError) as error:
        params.parse(change(raw, path, value))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("params.yaml: ")


# ---- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("flow/thetta", 0.3, "flow.thetta is unknown; did you mean 'theta'?"),
        ("algin", {}, "section 'algin' is unknown; did you mean 'align'?"),
        ("synthesize/runs/synthetic/clip", 3, "synthesize.runs.synthetic.clip is unknown; did you mean 'clips'?"),
        (f"{LINEAR}/modle", "x", "experiments.synthetic-linear.modle is unknown; did you mean 'model'?"),
        ("corpora/synthetic/clases", 5, "corpora.synthetic.clases is unknown; did you mean 'classes'?"),
        ("corpora/synthetic/expect", {"clip": 3}, "corpora.synthetic.expect.clip is unknown; did you mean 'clips'?"),
        ("pretrain/runs/resnet18/step", 3, "pretrain.runs.resnet18.step is unknown; did you mean 'steps'?"),
        ("magnify_eulerian/recipes/msmmt/alfa", 1, "recipes.msmmt.alfa is unknown; did you mean 'alpha'?"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(raw, path, value, message):
    check_refused(raw, path, value, message)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("flow/theta", -1.0, "flow.theta is -1.0: input should be greater than 0"),
        ("flow/theta", float("inf"), "flow.theta is inf: input should be a finite number"),
        ("flow/theta", float("nan"), "flow.theta is nan: input should be a finite number"),
        ("flow", None, "flow is None"),
        ("train/seed", "0", "train.seed is '0': input should be a valid integer"),
        ("train/selection", "best_test", "train.selection is 'best_test'"),
        ("train/folds_in_parallel", 0, "train.folds_in_parallel"),
        ("train/held_out", 1.0, "train.held_out is 1.0"),
        ("runtime/device", "gpu", "runtime.device is 'gpu': input should be 'cpu', 'cuda' or 'auto'"),
        ("synthesize/runs/synthetic/clips", 20, "clips is 20, but every one of the 8 subjects needs at least 3"),
        ("magnify_eulerian/recipes/dcma/low", 0.5, "low is 0.5, high 0.4; a band needs low below high"),
        ("magnify_eulerian/recipes/dcma/fps", 0.5, "high is 0.4 Hz, above fps/2 = 0.25 Hz"),
        ("pretrain/runs/magnet/size", 30, "pretrain.runs.magnet.size is 30: input should be a multiple of 4"),
        (
            "pretrain/runs/resnet18/task",
            "macros",
            "resnet18.task is 'macros'; valid: 'moving_layers', 'macro', 'macro_sets', 'frame_pairs', "
            "'simulated_flow', 'fetch'",
        ),
        ("pretrain/runs/resnet18/first", "linear", "pretrain.runs.resnet18.first is 'linear'"),
        ("corpora/synthetic/classes", 6, "corpora.synthetic.classes is 6: input should be 3, 4, 5, 7 or 8"),
        ("corpora/synthetic/raw", "", "corpora.synthetic.raw is '': string should have at least 1 character"),
        ("corpora", None, "corpora is None: input should be a valid dictionary"),
        ("experiments", [1], "experiments is [1]: input should be a valid dictionary"),
        ("experiments/x", None, "experiments.x is None: input should be a valid dictionary"),
        (f"{LINEAR}/knobs", "none", "experiments.synthetic-linear.knobs is 'none': input should be a valid dictionary"),
        (f"{LINEAR}/selection", "best_test", "experiments.synthetic-linear.selection is 'best_test'"),
        (f"{LINEAR}/held_out", 0.0, "experiments.synthetic-linear.held_out is 0.0: input should be greater than 0"),
        (f"{LINEAR}/seeds", [-1], "experiments.synthetic-linear.seeds.0 is -1"),
        (f"{LINEAR}/audit", "yes", "experiments.synthetic-linear.audit is 'yes': input should be a valid boolean"),
        ("explain/drawn", ["x"], "explain.drawn is ['x']: input should be a valid dictionary"),
        ("linear", 5, "linear is no section; valid names: align"),
    ],
)
def test_a_value_of_another_type_or_outside_its_range_is_refused(raw, path, value, message):
    check_refused(raw, path, value, message)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{LINEAR}/corpus", "synthetik", "experiments.synthetic-linear.corpus is 'synthetik'; did you mean 'synthet"),
        ("explain/drawn", {"synthetic-uamrm": ""},
         "explain.drawn.synthetic-uamrm is no experiment; did you mean 'synthetic-uamrn'?"),
        ("pretrain/runs/magnet/pool", "synthetik",
         "pretrain.runs.magnet.pool is 'synthetik'; did you mean 'synthetic'? (synthesize.runs)"),
        ("corpora/both", {"parts": ["synthetic", "synthetik"], "classes": 3},
         "corpora.both.parts: 'synthetik' is no corpus; did you mean 'synthetic'?"),
        ("corpora/both", {"parts": ["synthetic", "synthetic"], "classes": 3},
         "corpora.both.parts names a corpus twice; name each once"),
        ("corpora/both", {"parts": ["synthetic"], "classes": 3}, "corpora.both.parts is ['synthetic']: list should"),
        ("corpora/both", {"parts": ["synthetic", "x"], "raw": "y", "classes": 3},
         "corpora.both: has parts, so raw belongs to them; remove it"),
        ("curves/x", {"experiments": ["synthetic-lin", "synthetic-ststnet"], "knob": "c"},
         "curves.x.experiments: 'synthetic-lin' matches none; did you mean 'synthetic-linear'?"),
        ("curves/x", {"experiments": ["casme2-*"], "knob": "c"},
         "curves.x.experiments: 'casme2-*' matches none; valid names: more-c1, more-c2, synthetic-dcma"),
        ("curves/x", {"experiments": ["*-linear"], "knob": "c"},
         "curves.x.experiments: synthetic-linear alone is no curve; name two at least"),
        ("curves/x", {"experiments": ["synthetic-*"], "knob": "c"},
         "curves.x.experiments: synthetic-linear and synthetic-ststnet differ in model; leave one of them out"),
        ("curves/x", {"experiments": ["more-c*"], "knob": "c", "baseline": "synthetic-linaer"},
         "curves.x.baseline: 'synthetic-linaer' is no experiment; did you mean 'synthetic-linear'?"),
        ("curves/x", {"experiments": ["more-c*"], "knob": "c", "baseline": "synthetic-linear"},
         "curves.x.baseline: more-c1 and synthetic-linear differ in classes; leave one of them out"),
        ("curves/x", {"experiments": ["more-c1", "theirs"], "knob": "c"},
         "curves.x.experiments: more-c1 and theirs differ in classes, corpus, seeds; leave one of them out"),
        ("curves/x", {"experiments": [], "knob": "c"}, "curves.x.experiments is []: list should have at least 1 item"),
        ("curves/x", {"experiments": ["a; touch X"], "knob": "c"},
         "curves.x.experiments.0 is 'a; touch X': string should match pattern"),
        ("curves/x", {"experiments": ["more-c*"]}, "curves.x.knob is missing"),
        ("curves/x", {"experiments": ["more-c*"], "nob": "c"}, "curves.x.nob is unknown; did you mean 'knob'?"),
        ("curves/A b", {"experiments": ["more-c*"], "knob": "c"}, "curves: the name 'A b' must begin with a-z or 0-9"),
        ("heatmaps", {"x": {"experiments": ["more-c1", "more-c"], "clips": 1}},
         "heatmaps.x.experiments: 'more-c' is no experiment; did you mean 'more-c2'?"),
        ("heatmaps", {"x": {"experiments": ["more-c1", "more-c2", "more-c1"], "clips": 1}},
         "heatmaps.x.experiments names an experiment twice; name each once"),
        ("heatmaps", {"x": {"experiments": ["more-c1", "theirs"], "clips": 1}},
         "heatmaps.x.experiments: more-c1 and theirs differ in classes, corpus; leave one of them out"),
        ("heatmaps", {"x": {"experiments": ["more-c1"], "clips": 1}},
         "heatmaps.x.experiments is ['more-c1']: list should have at least 2 items"),
        ("heatmaps", {"x": {"experiments": ["more-c1", "more-c2"]}}, "heatmaps.x.clips is missing"),
        ("heatmaps", {"x": {"experiments": ["more-c1", "more-c2"], "clips": 0}}, "heatmaps.x.clips"),
        ("heatmaps", {"x": {"experiments": ["more-c1", "more-c2"], "clips": []}}, "heatmaps.x.clips"),
        ("heatmaps", {"x": {"experiments": ["more-c1", "more-c2"], "clips": 1, "clip": 1}},
         "heatmaps.x.clip is unknown; did you mean 'clips'?"),
        ("motion_maps", {"x": {"experiment": "more-c", "clips": 1}},
         "motion_maps.x.experiment: 'more-c' is no experiment; did you mean 'more-c2'?"),
        ("motion_maps", {"x": {"experiment": "more-c1", "clips": 1, "factors": "arange_10_11"}},
         "motion_maps.x: factors: 'arange_10_11' is no range of factors; write linspace"),
        ("motion_maps", {"x": {"experiment": "more-c1", "clips": 1, "factors": "arange_11_10_1"}},
         "motion_maps.x: factors: 'arange_11_10_1' gives []; needed are factors above 0 that ascend"),
        ("motion_maps", {"x": {"experiment": "more-c1"}}, "motion_maps.x.clips is missing"),
        ("motion_maps", {"x": {"clips": 1}}, "motion_maps.x.experiment is missing"),
        ("motion_maps", {"x": {"experiment": "more-c1", "clips": 25}}, "motion_maps.x.clips"),
        ("figures/macro", "ckplsu", "figures.macro is 'ckplsu': input should be 'ckplus', 'rafdb' or 'fer2013'"),
    ],
)  # fmt: skip
def test_names_that_do_not_meet_are_refused(raw, path, value, message):
    if path.startswith(("curves", "heatmaps", "motion_maps")):
        raw = with_more_experiments(raw)
    check_refused(raw, path, value, message)


def with_more_experiments(raw) -> dict:
    """Two that differ in c, and one of another corpus."""
    more = {"corpora/theirs": {"reader": "casme2", "classes": 5}, "curves": {}}
    for i in (1, 2):
        own = {"classes": 5, "knobs": {"c": i / 10}}
        more[f"experiments/more-c{i}"] = {"corpus": "synthetic", "model": "linear", **own}
    more["experiments/theirs"] = {"corpus": "theirs", "model": "linear", "seeds": [1], "audit": True}
    for path, value in more.items():
        raw = change(raw, path, value)
    return raw


def test_the_experiments_of_a_curve_are_those_that_it_names_in_the_order_of_the_parameters(raw):
    raw = with_more_experiments(raw)
    entry = {"experiments": ["more-c2", "m*c1"], "knob": "c"}
    found = params.parse(change(raw, "curves", {"x": entry, "y": {**entry, "experiments": ["more-c*"]}}))
    assert [found.members_of(curve) for curve in found.curves.values()] == [["more-c1", "more-c2"]] * 2


def test_a_composite_of_a_composite_is_refused(raw):
    both = {"parts": ["synthetic", "casme2"], "classes": 3}
    raw = change(change(raw, "corpora/casme2", {"classes": 3}), "corpora/both", both)
    params.parse(raw)
    check_refused(raw, "corpora/all", {"parts": ["both", "casme2"], "classes": 3},
                  "corpora.all.parts: 'both' is a composite itself; name its parts")  # fmt: skip


@pytest.mark.parametrize("value", ["../x", "a/b", "A", "", "a b", "x; touch y"])
@pytest.mark.parametrize(
    "path", [f"{LINEAR}/corpus", f"{LINEAR}/model", f"{LINEAR}/labels", "corpora/synthetic/reader",
             "corpora/synthetic/labels", "pretrain/runs/resnet18/network", "pretrain/runs/magnet/pool"],
)  # fmt: skip
def test_a_name_as_a_value_is_held_to_the_same_letters_as_a_key(raw, path, value):
    """It becomes part of paths and commands; keys: tests/test_plan.py."""
    check_refused(raw, path, value, f"{path.replace('/', '.')} is {value!r}: string should match pattern")


@pytest.mark.parametrize("key", ["../x", "a/b", "Bad.Name", "", "-rf", "a_b"])
@pytest.mark.parametrize("path", ["experiments", "explain/drawn"])
def test_a_key_that_could_leave_its_folder_is_refused(raw, path, key):
    value = {"experiments": {"corpus": "synthetic", "model": "linear"}, "explain/drawn": ""}[path]
    check_refused(raw, path, {key: value}, f"{path.replace('/', '.')}: the name {key!r} must begin with a-z or 0-9")


# ---- names of older versions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("align/runs", "align.runs is gone: the stages follow from corpora and experiments"),
        ("figures/runs", "figures.runs is gone: the stages follow from corpora and experiments"),
        ("explain/runs", "explain.runs is gone: the stages follow from corpora and experiments"),
        (f"{LINEAR}/inputs", "experiments.synthetic-linear.inputs is gone: a model declares what it reads"),
        (f"{LINEAR}/index", "experiments.synthetic-linear.index is gone: the index follows from the corpus"),
        (f"{STSTNET}/overrides", "experiments.synthetic-ststnet.overrides is gone: it is called knobs"),
        ("train/folds_together", "train.folds_together is gone: it is called folds_in_parallel"),
        ("magnify_learned/factors", "magnify_learned.factors is gone: it is a knob of the model that reads the frames"),
    ],
)
def test_a_name_of_an_older_version_is_refused_with_what_has_taken_its_place(raw, path, hint):
    check_refused(raw, path, {}, hint)
    check_refused(raw, path, {}, "(CHANGELOG.md); write params.yaml anew with make preset")


def test_a_section_of_an_older_version_is_refused_with_what_has_taken_its_place(raw):
    check_refused(
        raw, "pretrain_macro", {"runs": {}}, "section pretrain_macro is gone: it is an entry of pretrain.runs"
    )
    check_refused(raw, "join", {"runs": {}}, "section join is gone: a composite is a corpus with parts (CHANGELOG.md)")


def test_a_removed_name_is_named_before_what_misses_for_it(raw):
    old = {"corpus": "synthetic", "inputs": ["data/cache/synthetic/box224/flow.h5"] * 3}
    check_refused(raw, "experiments/x", old, "experiments.x.inputs is gone: a model declares what it reads")
    check_refused(raw, "experiments/x", {"corpus": "synthetic"}, "experiments.x.model is missing")


# ---- what is missing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["flow", "flow/warps", "corpora/synthetic/classes", f"{LINEAR}/model", "pretrain/runs/magnet/steps"]
)
def test_a_missing_section_and_a_missing_key_are_named(raw, path):
    name = path.replace("/", ".")
    refused(f"^params.yaml: {name} is missing; copy it from conf/base.yaml", params.parse, without(raw, path))


def test_what_a_corpus_and_an_experiment_do_not_say_is_left_to_others(raw):
    found = params.parse(raw)
    corpus, experiment = found.corpora["synthetic"], found.experiments["synthetic-linear"]
    assert (corpus.reader, corpus.raw, corpus.watch, corpus.labels, corpus.parts) == (None,) * 5
    assert corpus.expect.model_dump() == {"clips": None, "subjects": None}
    assert found.train.of(experiment) == found.train
    assert found.knobs_of(experiment) == found.knobs["linear"]


def test_what_an_experiment_says_comes_before_what_holds_for_all(raw):
    own = {"corpus": "synthetic", "model": "ststnet", "selection": "inner_val", "held_out": 0.1, "seeds": [],
           "audit": False, "knobs": {"dropout": 0.25}}  # fmt: skip
    raw = change(change(raw, "train/audit", True), "train/seeds", [1, 2])
    found = params.parse(change(raw, "experiments/mine", own))
    settings = found.train.of(found.experiments["mine"])
    expected = {"selection": "inner_val", "held_out": 0.1, "seeds": [], "audit": False}
    assert settings.model_dump() == found.train.model_dump() | expected
    assert found.train.of(found.experiments["synthetic-ststnet"]) == found.train
    assert found.knobs_of(found.experiments["mine"]) == {"dropout": 0.25}
    assert found.knobs_of(found.experiments["synthetic-ststnet"]) == {"dropout": 0.5}


# ---- the file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file here; run from the project's root, or make preset P=demo"),
        (b"a: [1\n", "is not valid YAML"),
        (b"a: 1\na: 2\n", "is not valid YAML"),
        (b"preset: \xff\n", "is not UTF-8 text"),
        (b"", "is not a mapping of sections; write it anew with make preset P=demo"),
        (b"- 1\n", "is not a mapping of sections"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    assert refused(message, params.load, path).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 5000 + "]" * 5000, "is nested too deeply"),
        ("a: " + "9" * 5000, "has a value that cannot be read"),
        (f"runtime: {{workers: {BOMB}}}", "with its aliases (*name) written out it has more than 1,000,000 characters"),
        (f"preset: {BOMB}", "with its aliases (*name) written out it has more than 1,000,000 characters"),
    ],
    ids=["nested", "digits", "aliases", "aliases of a name"],
)
def test_yaml_beyond_the_parsers_limits_is_one_line(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(MerError) as error:
        params.load(tmp_path / "params.yaml")
    assert message in str(error.value)
    assert len(str(error.value)) < 400
