"""The derived plan: the wiring of every preset, what makes it stale, and what it refuses."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mer import models, plan, plan_file
from mer import params as mer_params
from mer.errors import MerError
from mer.products import (
    Weights,
    apex,
    apex_frame,
    dynamic_image,
    embedding,
    eulerian,
    flow,
    flows,
    frames,
    landmarks,
    magnet,
    pair,
    recording,
)
from tests.helpers.graph import wiring
from tests.helpers.refusals import refused
from tests.helpers.trees import BOMB
from tools import plan as tool
from tools import preset

load = models.load
WIRING = Path(__file__).parent / "data/wiring"


@pytest.fixture(autouse=True)
def _in_project(root, monkeypatch):
    monkeypatch.chdir(root)


def composed(name: str, corpora: str = "") -> mer_params.Params:
    return mer_params.parse(YAML(typ="safe").load(preset.compose(name, corpora)))


@pytest.mark.parametrize("path", sorted(WIRING.glob("*.txt")), ids=lambda path: path.stem)
def test_the_wiring_of_presets_is_as_written_down(path):
    """What a stage reads and writes; those of the first eight presets were written from the hand-made graph."""
    name, _, corpus = path.stem.partition(".")
    stages, _ = plan.derive(composed(name, corpus))
    assert sorted(wiring(stages)) == path.read_text().splitlines()


# ---- what a declaration may say -------------------------------------------------------------------------------------


def spec(reads, **declared):
    """A model that reads this; `linear` otherwise."""
    known = models.load("linear")
    return dataclasses.replace(known, reads=reads if callable(reads) else lambda knobs: reads, **declared)


def derived(monkeypatch, reads, corpus: str = "synthetic", **declared):
    """The plan of one experiment with such a model."""
    raw = YAML(typ="safe").load(preset.compose("demo"))
    raw["experiments"] = {f"{corpus}-linear".replace("_", "-"): {"corpus": corpus, "model": "linear"}}
    raw["explain"], raw["motion_maps"], raw["fit"] = {"drawn": {}}, {}, {"experiments": []}
    released = {"classes": 3}
    composite = {"parts": ["casme2", "samm"], "labels": "megc2019", "classes": 3}
    others = {"megc2019_flow": released, "casme2": {"classes": 5}, "samm": {"classes": 5}, "both": composite}
    raw["corpora"] = raw["corpora"] if corpus == "synthetic" else others
    model = spec(reads, **declared)
    monkeypatch.setattr(models, "load", lambda name: model)
    return plan.derive(mer_params.parse(raw))[0]


def test_equal_expressions_of_two_models_are_one_stage(monkeypatch):
    clip = eulerian(frames("box224"), "msmmt")
    stages = derived(monkeypatch, (flow(clip), dynamic_image(clip), pair(clip), flows(clip)))
    assert set(stages["magnify_eulerian"]) >= {"synthetic-box224-msmmt"}
    assert set(stages["flow"]) == {"synthetic-box224", "synthetic-box224-msmmt", "synthetic-box224-msmmt-flows"}
    assert set(stages["pair"]) == {"synthetic-box224-msmmt"}
    assert stages["train"]["synthetic-linear"]["args"]["reads"] == [
        f"data/cache/synthetic/box224-msmmt/{kind}.h5" for kind in ("flow", "dynamic_image", "pair", "flows")
    ]


def test_the_order_of_crop_and_magnification_is_two_products(monkeypatch):
    before = eulerian(frames("box112"), "dcma")
    after = frames("box112", eulerian(recording(), "dcma"))
    stages = derived(monkeypatch, (apex_frame(before), apex_frame(after), after))
    assert {
        key: (entry["args"]["source"], entry["args"]["out"])
        for key, entry in stages["magnify_eulerian"].items()
        if "dcma" in key
    } == {
        "synthetic-box112-dcma-apex": ("data/cache/synthetic/box112/frames.h5",
                                       "data/cache/synthetic/box112-dcma/apex_frame.h5"),
        "synthetic-dcma-box112-apex": ("data/cache/synthetic/landmarks.h5",
                                       "data/cache/synthetic/dcma-box112/apex_frame.h5"),
        "synthetic-dcma-box112": ("data/cache/synthetic/landmarks.h5", "data/cache/synthetic/dcma-box112/frames.h5"),
    }  # fmt: skip


def test_a_composite_joins_whatever_its_model_reads(monkeypatch):
    sequence = magnet(frames("box224"), factors="arange_2_14_1")
    reads = (
        embedding(sequence, by="networks.resnet", weights="resnet18", tap="layer2", grid=4),
        pair(frames("box224")),
    )
    stages = derived(monkeypatch, reads, "both")
    chain = "box224-magnet-arange_2_14_1-resnet18-layer2-4"
    assert set(stages["join"]) == {f"both-{chain}-embedding", "both-box224-pair"}
    assert stages["join"][f"both-{chain}-embedding"]["args"]["parts"] == [
        f"data/cache/{part}/{chain}/embedding.h5" for part in ("casme2", "samm")
    ]
    assert stages["compose"]["both"]["args"]["parts"] == ["data/index/casme2.csv", "data/index/samm.csv"]
    assert "both" not in stages["figures"]


def test_two_sets_of_weights_and_two_lengths_stand_beside_each_other(monkeypatch):
    reads = tuple(
        embedding(magnet(frames("box224"), factors=factors), by="networks.resnet", weights=weights, tap=tap, grid=2)
        for factors, weights, tap in (
            ("linspace_2_13_32", "resnet18", "layer2"), ("arange_2_14_1", "resnet18", "layer2"),
            ("arange_2_14_1", "magnet", "layer2"), ("arange_2_14_1", "magnet", "layer3"),
        )
    )  # fmt: skip
    stages = derived(monkeypatch, reads)
    assert len(stages["embed"]) == 4
    assert len({entry["args"]["out"] for entry in stages["embed"].values()}) == 4
    assert len(stages["magnify_learned"]) == 2


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        (lambda knobs: (flow(frames("box225")),), "frames('box225'): there is no such crop; did you mean 'box224'?"),
        (lambda knobs: (flow(eulerian(frames("box224"), "MSMMT")),), "a recipe's name has letters a-z, digits and _"),
        (lambda knobs: (flow(landmarks()),), "flow(landmarks): needed is a clip"),
        (lambda knobs: (flow(eulerian(recording(), "dcma")),), "needed is a clip, as frames("),
        (
            lambda knobs: (apex_frame(frames("box112")),),
            "needed is a clip of eulerian(…); the apex of others is in pair",
        ),
        (lambda knobs: (apex(landmarks()),), "the apex is looked for in a crop"),
        (lambda knobs: (frames("box112", frames("box224")),), "is cropped already; take eulerian(recording(), …)"),
        (lambda knobs: (magnet(frames("box224"), factors="two"),), "factors: 'two' is no range of factors"),
        ((flow(eulerian(frames("box224"), "msmt")),), "magnify_eulerian.recipes has no 'msmt'; did you mean 'msmmt'?"),
        ((recording(),), "reads recording, which is no file; crop it"),
        ((), "READS must hold products of mer.products, at least one"),
        (("flow",), "READS must hold products of mer.products, at least one"),
        ((flow(frames("box224")), Weights("resnet")), "READS names weights, but there is no load_weights; declare it"),
    ],
)
def test_a_declaration_that_cannot_be(monkeypatch, reads, message):
    with pytest.raises(MerError) as error:
        derived(monkeypatch, reads)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_nobody_makes(monkeypatch):
    with pytest.raises(MerError, match=r"reads weights 'resnet', which are no entry of pretrain.runs; did you mean"):
        derived(monkeypatch, (flow(frames("box224")), Weights("resnet")), load_weights=lambda network, path: network)


@pytest.mark.parametrize(
    "product", [frames("box224"), pair(frames("box224")), flow(eulerian(frames("box224"), "msmmt")), landmarks()]
)
def test_a_release_of_flow_has_no_frames(monkeypatch, product):
    message = r"experiments.megc2019-flow-linear: model linear reads .*released as flow without its frames; choose"
    raw_flow = derived(monkeypatch, (flow(frames("none224")),), "megc2019_flow")
    assert raw_flow["train"]["megc2019-flow-linear"]["args"]["reads"] == ["data/cache/megc2019_flow/released/flow.h5"]
    with pytest.raises(MerError, match=message):
        derived(monkeypatch, (product,), "megc2019_flow")


@pytest.mark.parametrize(
    ("corpora", "message"),
    [
        ({"mine": {"classes": 5}}, "corpora.mine.reader: corpus 'mine' has no class lists"),
        ({"mine": {"reader": "megc2019", "classes": 3}}, "reads no layout; say with reader which module"),
        ({"megc2019_flow": {"classes": 3, "watch": "x"}}, "a release is watched itself; remove it"),
    ],
)
def test_a_corpus_that_nobody_reads(corpora, message):
    raw = YAML(typ="safe").load(preset.compose("demo"))
    raw["corpora"] |= corpora
    with pytest.raises(MerError) as error:
        plan.derive(mer_params.parse(raw))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("corpora", "message"),
    [
        ({"casme2": {}, "casme2-cropped": {"reader": "casme2"}},
         "casme2 and casme2-cropped have one reader, casme2, so the same person would be in training and test; leave"),
        ({"casme2": {}, "mine": {"reader": "casme2"}}, "casme2 and mine have one reader, casme2"),
        ({"casme2": {}, "mine": {"reader": "samm", "raw": "data/raw/casme2"}},
         "lie in one folder (data/raw/casme2, data/raw/casme2)"),
        ({"casme2": {}, "mine": {"reader": "samm", "raw": "data/raw/casme2/../casme2/samm"}}, "lie in one folder"),
        ({"synthetic": {}, "mine": {"reader": "samm", "raw": "data/raw/synthetic/corpus"}}, "lie in one folder"),
        ({"synthetic": {}, "more": {"reader": "casme2"}}, "are rendered from one seed"),
        ({"casme2": {}, "samm": {}, "smic": {}}, ""),
        ({"synthetic": {}, "casme2": {}}, ""),  # who is rendered is no person of a corpus
    ],
)  # fmt: skip
def test_parts_of_a_composite_with_the_same_people_are_refused(corpora, message):
    raw = YAML(typ="safe").load(preset.compose("demo"))
    if "more" in corpora:
        raw["synthesize"]["runs"]["more"] = raw["synthesize"]["runs"]["synthetic"]
    raw["corpora"] |= {name: {"classes": 3, **entry} for name, entry in corpora.items()}
    raw["corpora"]["both"] = {"parts": list(corpora), "labels": "megc2019", "classes": 3}
    if not message:
        assert "both" in plan.derive(mer_params.parse(raw))[0]["compose"]
        return
    assert message in refused("^corpora.both.parts: ", plan.derive, mer_params.parse(raw))
    raw["corpora"]["both"]["parts"].reverse()
    refused("^corpora.both.parts: ", plan.derive, mer_params.parse(raw))


@pytest.mark.parametrize(
    "key",
    ["../x", "/x", "a/b", "z; touch X; #", "$(touch X)", "`touch X`", "x' ; touch X; '", 'x" ; touch X; "', "x&&X",
     "-rf", "A", "", "x" * 65, "a\nb", "a b", "~"],
)  # fmt: skip
@pytest.mark.parametrize("section", ["experiments", "corpora", "synthesize/runs", "pretrain/runs",
                                     "magnify_eulerian/recipes"])  # fmt: skip
def test_a_name_that_could_leave_its_folder_or_reach_a_shell(section, key):
    raw = YAML(typ="safe").load(preset.compose("demo"))
    entries = raw
    for part in section.split("/"):
        entries = entries[part]
    entries[key] = next(iter(entries.values()))
    with pytest.raises(MerError) as error:
        mer_params.parse(raw)
    assert section.replace("/", ".") in str(error.value)


# ---- curves ---------------------------------------------------------------------------------------------------------


def with_curve(knobs, curve=None, model="linear", **others) -> mer_params.Params:
    """The demo with an experiment e0, e1, … for each entry of `knobs`, and a curve of them."""
    raw = YAML(typ="safe").load(preset.compose("demo"))
    for i, own in enumerate(knobs):
        raw["experiments"][f"e{i}"] = {"corpus": "synthetic", "model": model, "knobs": own}
    raw["curves"] = {"mine": {"experiments": ["e*"], "knob": "c"} | (curve or {})}
    return mer_params.parse(raw | others)


def test_a_curve_is_a_stage_of_its_experiments_in_the_order_of_the_knob():
    """What an experiment does not say is the section's, and what no section says the model's default."""
    params = with_curve([{"c": 0.1}, {}, {"c": 0.001}], {"baseline": "synthetic-ststnet"})
    entry = plan.derive(params)[0]["curve"]["mine"]
    assert entry["args"] == {
        "corpus": "synthetic", "model": "linear", "knob": "c", "points": ["e2=0.001", "e1=0.01", "e0=0.1"],
        "baseline": "synthetic-ststnet",
    }  # fmt: skip
    read = [f"metrics/details/{name}.json" for name in ("e0", "e1", "e2", "synthetic-ststnet")]
    assert entry["scores"] == read + read[:1] * (plan.PLACES["scores"] - 4)
    params = with_curve([{"c": 0.1}, {}, {"c": 0.001}], linear={"c": 0.5})
    assert plan.derive(params)[0]["curve"]["mine"]["args"]["points"] == ["e2=0.001", "e0=0.1", "e1=0.5"]
    default = models.load("linear").all_knobs({})["c"]
    points = plan.derive(with_curve([{"c": 0.3}, {}], linear={}))[0]["curve"]["mine"]["args"]["points"]
    assert f"e1={default}" in points


@pytest.mark.parametrize(
    ("knobs", "curve", "message"),
    [
        ([{"c": 0.1}, {}], {"knob": "cc"}, "curves.mine.knob: model linear has no knob 'cc'; did you mean 'c'?"),
        ([{}, {}], {}, "curves.mine.experiments: e0 and e1 have the same c, 0.01; leave one of them out"),
        ([{"c": 1}, {"c": 2}, {"c": 1.0}], {}, "e0 and e2 have the same c, 1.0; leave one of them out"),
        ([{"c": 0.1}, {"c": 0.2, "grid": 14}], {}, "e0 and e1 differ in grid beside c; leave one of them out"),
        ([{}, {"evm": "msmmt"}], {"knob": "evm"}, "curves.mine.knob: evm of e0 is 'none'; needed is a number"),
        ([{"c": i / 100} for i in range(1, 24)], {}, "23 dependencies (metrics/details/e0.json, "),
    ],
)
def test_what_is_no_curve_is_refused(knobs, curve, message):
    with pytest.raises(MerError) as error:
        plan.derive(with_curve(knobs, curve))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_curve_has_places_for_21_experiments_and_a_baseline():
    params = with_curve([{"c": i / 100} for i in range(1, 22)], {"baseline": "synthetic-ststnet"})
    assert len(set(plan.derive(params)[0]["curve"]["mine"]["scores"])) == plan.PLACES["scores"] == 22


def test_the_value_of_a_curves_knob_decides_the_plan(tmp_path):
    params, path = with_curve([{"c": 0.1}, {}]), tmp_path / "plan.yaml"
    tool.write(tool.derived(params), path)
    plan_file.check(params, path)
    plan_file.check(with_curve([{"c": 0.1}, {}], flow=params.flow.model_dump() | {"lambda_": 0.3}), path)
    of_the_section = with_curve([{"c": 0.1}, {}], linear=params.knobs["linear"] | {"c": 0.5})
    of_the_curve = [with_curve([{"c": 0.1}, {}], curve) for curve in ({"knob": "grid"}, {"baseline": "e0"})]
    for other in (with_curve([{"c": 0.2}, {}]), of_the_section, *of_the_curve):
        with pytest.raises(MerError, match=r"older than params.yaml: curves.mine differs; run make plan"):
            plan_file.check(other, path)


# ---- heat maps ------------------------------------------------------------------------------------------------------


def with_heat_maps(entry=None, models_of=("dcma", "dcma"), **others) -> mer_params.Params:
    """The demo with an experiment e0, e1, … of each model, and heat maps of them."""
    raw = YAML(typ="safe").load(preset.compose("demo"))
    for i, model in enumerate(models_of):
        knobs = {"start": "random", "classifier": "new"} if model == "dcma" else {}
        raw["experiments"][f"e{i}"] = {"corpus": "synthetic", "model": model, "knobs": knobs}
    experiments = [f"e{i}" for i in reversed(range(len(models_of)))]
    raw["heatmaps"] = {"mine": {"experiments": experiments, "clips": 4} | (entry or {})}
    return mer_params.parse(raw | others)


def test_heat_maps_are_a_stage_of_their_experiments_in_the_order_of_the_columns():
    entry = plan.derive(with_heat_maps())[0]["heatmaps"]["mine"]
    assert entry["args"] == {"maps": "Grad-CAM", "experiments": ["e1", "e0"], "number": 4}
    read = ["data/predictions/e1", "data/predictions/e0"]
    assert entry["explained"] == read + read[:1] * (plan.PLACES["explained"] - 2)
    chosen = ["synthetic/sub01/EP01_01", "synthetic/sub02/EP01_02"]
    assert plan.derive(with_heat_maps({"clips": chosen}))[0]["heatmaps"]["mine"]["args"]["clips"] == chosen
    assert plan.derive(composed("demo"))[0]["heatmaps"] == {}


def test_heat_maps_have_places_for_as_many_experiments_as_an_entry_may_name():
    params = with_heat_maps(models_of=["dcma"] * 8)
    assert len(set(plan.derive(params)[0]["heatmaps"]["mine"]["explained"])) == plan.PLACES["explained"] == 8
    refused("heatmaps.mine.experiments is .*: list should have at most 8", with_heat_maps, models_of=["dcma"] * 9)


@pytest.mark.parametrize("model", ["linear", "uamrn", "msmmt"])
def test_models_that_explain_no_maps_are_refused(model):
    """linear explains nothing, the others something else."""
    message = rf"^heatmaps.mine.experiments: e1: model {model} explains no maps over its pictures; leave it out"
    refused(message, plan.derive, with_heat_maps(models_of=("dcma", model)))


def test_maps_of_two_kinds_are_refused(monkeypatch):
    from mer.evaluation.explained import msmmt

    monkeypatch.setattr(msmmt, "MAPS", "weights", raising=False)
    message = "heatmaps.mine.experiments: e1 explains weights, e0 Grad-CAM; leave one of them out"
    refused(message, plan.derive, with_heat_maps(models_of=("dcma", "msmmt")))


def test_what_heat_maps_are_of_decides_the_plan(tmp_path):
    params, path = with_heat_maps(), tmp_path / "plan.yaml"
    tool.write(tool.derived(params), path)
    plan_file.check(params, path)
    for other in (with_heat_maps({"clips": 5}), with_heat_maps({"experiments": ["e0", "e1"]})):
        refused("older than params.yaml: heatmaps.mine differs; run make plan", plan_file.check, other, path)


# ---- maps of motion -------------------------------------------------------------------------------------------------


def with_motion_maps(entry=None, model="micronbert", knobs=None, corpus="synthetic", **others) -> mer_params.Params:
    """The demo with an experiment e0 of a model, and maps of motion of it."""
    raw = YAML(typ="safe").load(preset.compose("demo"))
    knobs = knobs if knobs is not None else {"start": "random"}
    raw["experiments"]["e0"] = {"corpus": corpus, "model": model, "knobs": knobs}
    raw["motion_maps"] = {"mine": {"experiment": "e0", "clips": 4} | (entry or {})}
    corpora = others.pop("corpora", {})
    raw["corpora"] = raw["corpora"] | corpora
    return mer_params.parse(raw | others)


def test_maps_of_motion_read_what_is_made_of_the_same_frames_and_the_truth():
    stages, _ = plan.derive(with_motion_maps())
    entry, cache = stages["motion_maps"]["mine"], "data/cache/synthetic"
    paths = {
        "pair": f"{cache}/none224/pair.h5", "flow": f"{cache}/none224/flow.h5",
        "magnet": f"{cache}/none224-magnet-arange_10_11_1/magnet.h5", "frames": f"{cache}/none224/frames.h5",
        "truth": "data/raw/synthetic/truth.h5",
    }  # fmt: skip
    assert entry["args"] == {"maps": "what differs", "experiment": "e0", "number": 4, **paths}
    assert entry["compared"] == ["data/predictions/e0", *paths.values()]
    assert {"synthetic-none224"} <= set(stages["pair"]) & set(stages["flow"]) & set(stages["align"])
    assert stages["magnify_learned"]["synthetic-none224-magnet-arange_10_11_1"]["args"]["factors"] == "arange_10_11_1"
    assert plan.derive(composed("demo"))[0]["motion_maps"].keys() == {"synthetic-micronbert"}


def test_maps_of_motion_change_no_pictures_of_a_corpus():
    """Which show the sequence that a model reads, or none."""
    for name in ("synthetic-uamrn", None):
        raw = YAML(typ="safe").load(preset.compose("demo"))
        raw["experiments"] = {n: e for n, e in raw["experiments"].items() if n in (name, "synthetic-linear")}
        raw["explain"], raw["heatmaps"], raw["motion_maps"] = {"drawn": {}}, {}, {}
        raw["fit"] = {"experiments": []}
        figures = plan.derive(mer_params.parse(raw))[0]["figures"]
        raw["experiments"]["e0"] = {"corpus": "synthetic", "model": "micronbert", "knobs": {"start": "random"}}
        raw["motion_maps"] = {"mine": {"experiment": "e0", "clips": 4}}
        assert plan.derive(mer_params.parse(raw))[0]["figures"] == figures


def test_maps_of_motion_without_magnification_of_named_clips_and_of_another_crop():
    chosen = ["synthetic/sub01/EP01_01", "synthetic/sub02/EP01_02"]
    params = with_motion_maps({"factors": None, "clips": chosen}, knobs={"start": "random", "crop": "box224"})
    entry = plan.derive(params)[0]["motion_maps"]["mine"]
    assert entry["args"]["clips"] == chosen
    assert "magnet" not in entry["args"]
    assert entry["args"]["frames"] == "data/cache/synthetic/box224/frames.h5"
    assert entry["compared"][-1] == entry["compared"][0] == "data/predictions/e0"


@pytest.mark.parametrize(
    ("name", "corpora"),
    [
        ("casme2", {"casme2": {"classes": 5}}),  # is recorded
        ("composite", {"composite": {"parts": ["synthetic", "casme2"], "classes": 3}, "casme2": {"classes": 5}}),
        ("synthetic", {"synthetic": {"classes": 5, "raw": "data/raw/elsewhere"}}),  # has no truth beside it
    ],
    ids=["recorded", "composite", "elsewhere"],
)
def test_other_corpora_have_no_true_motion(name, corpora):
    args = plan.derive(with_motion_maps(corpus=name, corpora=corpora))[0]["motion_maps"]["mine"]["args"]
    assert not {"truth", "frames"} & set(args)
    assert args["magnet"] == f"data/cache/{name}/none224-magnet-arange_10_11_1/magnet.h5"


def test_a_magnified_clip_has_no_true_motion(monkeypatch):
    spec_of = dataclasses.replace(models.load("micronbert"), reads=lambda knobs: [pair(magnified)])
    magnified = eulerian(frames("box224"), "msmmt")
    monkeypatch.setattr(models, "load", lambda name: spec_of if name == "micronbert" else load(name))
    args = plan.derive(with_motion_maps())[0]["motion_maps"]["mine"]["args"]
    assert args["pair"] == "data/cache/synthetic/box224-msmmt/pair.h5"
    assert not {"truth", "frames"} & set(args)


def test_models_that_explain_no_maps_or_read_no_pair_are_refused(monkeypatch):
    where = "^motion_maps.mine.experiment: e0: model"
    for model in ("linear", "uamrn"):
        message = rf"{where} {model} explains no maps over its pictures; name an experiment whose model does"
        refused(message, plan.derive, with_motion_maps(model=model, knobs={}))
    for number, read in (("no", [flow(frames("box224"))]), ("2", [pair(frames("box224")), pair(frames("none224"))])):
        spec_of = dataclasses.replace(models.load("micronbert"), reads=lambda knobs, read=read: read)
        with monkeypatch.context() as patch:
            patch.setattr(models, "load", lambda name, one=spec_of: one if name == "micronbert" else load(name))
            message = rf"{where} micronbert reads {number} pairs of onset and apex, needed is one; name an experiment"
            refused(message, plan.derive, with_motion_maps())


def test_a_corpus_without_frames_and_one_without_weights_are_refused():
    released = {"megc2019_flow": {"classes": 3}}
    refused("^experiments.e0: model micronbert reads pair of none224, and corpus megc2019_flow was released",
            plan.derive, with_motion_maps(corpus="megc2019_flow", corpora=released))  # fmt: skip
    pretrain = YAML(typ="safe").load(preset.compose("demo"))["pretrain"]
    runs = {name: run for name, run in pretrain["runs"].items() if name != "magnet"}
    others = {"pretrain": pretrain | {"runs": runs}, "explain": {"drawn": {}}, "fit": {"experiments": []}}
    only = with_motion_maps(**others).model_copy(update={"experiments": {"e0": with_motion_maps().experiments["e0"]}})
    refused("^motion_maps.mine reads weights 'magnet', which are no entry of pretrain.runs", plan.derive, only)


def test_what_maps_of_motion_are_of_decides_the_plan(tmp_path):
    params, path = with_motion_maps(), tmp_path / "plan.yaml"
    tool.write(tool.derived(params), path)
    plan_file.check(params, path)
    for entry in ({"clips": 5}, {"factors": None}, {"experiment": "synthetic-linear"}):
        message = "older than params.yaml: motion_maps.mine differs; run make plan"
        refused(message, plan_file.check, with_motion_maps(entry), path)


# ---- bundled weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["magnet", "resnet18", "dcma"])
def test_bundled_weights_are_a_dependency_and_the_pool_is_none(name):
    """What is bundled comes before the pool, which then need not be made; a set of the user still comes first."""

    def reads(bundled):
        raw = YAML(typ="safe").load(preset.compose("demo"))
        raw["pretrain"]["runs"][name]["bundled"] = bundled
        return plan.derive(mer_params.parse(raw))[0]["pretrain"][name]

    pool = "pool/macro"
    here, bundled = str(reads(None)), str(reads("assets/weights/x.safetensors"))
    assert pool in here
    assert "assets" not in here
    assert pool not in bundled
    assert "assets/weights/x.safetensors" in bundled
    assert f"data/raw/{'fer2013' if name == 'resnet18' else name}" in bundled


def test_bundled_weights_of_frame_pairs_need_frames_only_to_be_judged():
    raw = YAML(typ="safe").load(preset.compose("demo"))
    raw["pretrain"]["runs"]["micronbert_mb1"]["bundled"] = "assets/weights/x.safetensors"
    stages = plan.derive(mer_params.parse(raw))[0]
    assert "data/frames/people-pool-56" not in str(stages["pretrain"]["micronbert_mb1"])
    assert "data/frames/people-pool-56" in str(stages["restore"]["micronbert_mb1"])
    raw["pretrain"]["runs"]["micronbert_mb1"]["corpora"] = ["synthetic"]
    assert "data/frames/" in str(plan.derive(mer_params.parse(raw))[0]["pretrain"]["micronbert_mb1"])


# ---- pictures of a corpus -------------------------------------------------------------------------------------------


def macro_of(corpora=None, macro=None, pool_subjects=6):
    """What the pictures of each corpus read of macro-expressions: (reader, folder)."""
    raw = YAML(typ="safe").load(preset.compose("demo"))
    raw["corpora"] |= corpora or {}
    raw["figures"]["macro"] = macro
    raw["synthesize"]["runs"]["synthetic"]["pool_subjects"] = pool_subjects
    if not pool_subjects:
        raw["pretrain"]["runs"] = {n: run | {"pool": None} for n, run in raw["pretrain"]["runs"].items()
                                   if "pool" in run}  # fmt: skip
        raw["experiments"] = {"synthetic-linear": raw["experiments"]["synthetic-linear"]}
        raw["explain"]["drawn"], raw["motion_maps"], raw["fit"] = {}, {}, {"experiments": []}
    params = mer_params.parse(raw)
    found = {}
    for name, entry in plan.derive(params)[0]["figures"].items():
        found[name] = (entry["args"].get("macro_reader"), entry["args"].get("macro"))
        if found[name][1] is not None:
            assert found[name][1] in entry["drawn"]
            assert f"mer/macro/{found[name][0]}.py" in entry["code"]
    return found


def test_macro_expressions_are_those_of_the_pool_or_of_the_set_that_is_named():
    others = {"casme2": {"classes": 5}, "megc2019_flow": {"classes": 3}}
    pool = ("pool", "data/raw/synthetic/pool/macro")
    nothing = (None, None)
    assert macro_of(others) == {"synthetic": pool, "casme2": nothing, "megc2019_flow": nothing}
    chosen = ("ckplus", "data/raw/ckplus")
    # A release of flow has no faces to set them beside.
    assert macro_of(others, "ckplus") == {"synthetic": chosen, "casme2": chosen, "megc2019_flow": nothing}
    assert macro_of(pool_subjects=0) == {"synthetic": nothing}


def test_the_set_of_macro_expressions_and_an_empty_pool_decide_the_plan(written):
    with_set = changed(lambda raw: raw["figures"].update(macro="rafdb"))
    refused("older than params.yaml: figures.macro is not in it; run make plan", plan_file.check, with_set, written[1])
    empty = changed(lambda raw: raw["synthesize"]["runs"]["people"].update(pool_subjects=0))
    refused(
        "older than params.yaml: synthesize.runs without a pool differs; run make plan",
        plan_file.check,
        empty,
        written[1],
    )


# ---- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    """The demo's parameters and their plan in a file."""
    params = composed("demo")
    path = tmp_path / "plan.yaml"
    assert tool.write(tool.derived(params), path) == ["plan.yaml is new: 55 stages"]
    return params, path


def changed(change) -> mer_params.Params:
    raw = YAML(typ="safe").load(preset.compose("demo"))
    change(raw)
    return mer_params.parse(raw)


def test_a_plan_fits_the_parameters_that_it_was_made_from(written):
    params, path = written
    plan_file.check(params, path)
    assert tool.write(tool.derived(params), path) == ["plan.yaml is up to date: 55 stages"]


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["flow"].update(lambda_=0.3),
        lambda raw: raw["uamrn"].update(samples=7, mask="full"),
        lambda raw: raw["experiments"]["synthetic-uamrn"].update(recipe={"epochs": 3}, seeds=[1, 2]),
        lambda raw: raw["experiments"]["synthetic-uamrn"].update(knobs={"blocks": 1}),
        lambda raw: raw["pretrain"]["runs"]["magnet"].update(steps=7),
        lambda raw: raw["magnify_eulerian"]["recipes"]["msmmt"].update(alpha=5),
        lambda raw: raw["synthesize"]["runs"]["synthetic"].update(clips=50),
        lambda raw: raw["runtime"].update(workers=1),
    ],
)
def test_a_knob_that_decides_no_stage_needs_no_new_plan(written, change):
    plan_file.check(changed(change), written[1])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (
            lambda raw: raw["experiments"].update(x={"corpus": "synthetic", "model": "linear"}),
            "experiments.x is not in",
        ),
        (lambda raw: raw["experiments"].pop("synthetic-linear-three"), "experiments.synthetic-linear-three is gone"),
        (lambda raw: raw["experiments"]["synthetic-linear"].update(model="ststnet"), "synthetic-linear differs"),
        (lambda raw: raw["experiments"]["synthetic-linear"].update(classes=3), "synthetic-linear differs"),
        (lambda raw: raw["uamrn"].update(factors="arange_2_14_1"), "experiments.synthetic-uamrn differs"),
        (lambda raw: raw["experiments"]["synthetic-uamrn"].update(knobs={"tap": "layer3"}), "synthetic-uamrn differs"),
        (lambda raw: raw["corpora"]["synthetic"].update(classes=3), "corpora.synthetic differs"),
        (lambda raw: raw["corpora"]["synthetic"].update(raw="data/raw/x"), "corpora.synthetic differs"),
        (lambda raw: raw["pretrain"]["runs"]["resnet18"].update(raw="data/raw/x"), "pretrain.runs.resnet18 differs"),
        (lambda raw: raw["explain"].update(drawn={}), "explain.drawn differs"),
    ],
)
def test_a_change_that_decides_stages_needs_a_new_plan_and_is_named(written, change, name):
    with pytest.raises(MerError) as error:
        plan_file.check(changed(change), written[1])
    assert name in str(error.value)
    assert "run make plan" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda text: text.replace("box112", "box113", 1),
            "was edited; change params.yaml instead, then run make plan",
        ),
        (lambda text: text + "    x: 1\n", "was edited"),
        (lambda text: text.replace('"version": 1', '"version": 0'), "has version 0, this code makes 1; run make plan"),
        (
            lambda text: f"<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n",
            "holds a merge conflict; merge params.yaml",
        ),
        (lambda text: "plan: {}\n", "was not made by make plan; run make plan"),
        (lambda text: "", "was not made by make plan"),
        (lambda text: "\x00\x01", "was not made by make plan"),
        (None, "is missing; run make plan"),
    ],
)
def test_a_file_that_is_not_the_plans_own_is_refused_and_made_anew(written, damage, message):
    params, path = written
    good = path.read_text()
    path.unlink() if damage is None else path.write_text(damage(good))
    with pytest.raises(MerError) as error:
        plan_file.check(params, path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    tool.write(tool.derived(params), path)
    assert path.read_text() == good


def test_what_a_new_plan_adds_and_removes_is_said(written):
    _, path = written
    more = changed(lambda raw: raw["experiments"].update(x={"corpus": "synthetic", "model": "linear"}))
    assert tool.write(tool.derived(more), path) == ["2 stages more: train@x, evaluate@x"]
    less = changed(lambda raw: raw["experiments"].pop("synthetic-linear-three"))
    assert tool.write(tool.derived(less), path) == [
        "4 stages less: train@synthetic-linear-three, train@x, evaluate@synthetic-linear-three, evaluate@x"
    ]


def test_a_plan_needs_no_model_to_be_compared(written, tmp_path):
    """Importing a model brings torch, which takes seconds; a stage compares before every run."""
    path = written[1]
    code = (
        "import sys; from pathlib import Path; from mer import params, plan_file; "
        f"plan_file.check(params.load('params.yaml'), Path({str(path)!r})); "
        "sys.exit('torch' in sys.modules or 'mer.models.linear' in sys.modules)"
    )
    (tmp_path / "params.yaml").write_text(preset.compose("demo"))
    done = subprocess.run([sys.executable, "-c", code.replace("'params.yaml'", repr(str(tmp_path / "params.yaml")))],
                          check=False)  # fmt: skip
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            f"plan:\n  a: {BOMB}\n",
            "with its aliases .* it has more than 10,000,000 characters; correct it, or run make",
        ),
        (f"plan: {'[' * 5000}", "is nested too deeply; correct it, or run make plan"),
        ("plan: [1]\n", "holds no stages; run make plan"),
        ("plan: {align: 1}\n", "holds no stages; run make plan"),
        ("[]\n", "holds no stages; run make plan"),
        ("plan: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
    ],
)
def test_a_body_with_a_right_digest_that_no_plan_has(tmp_path, body, message):
    head = {"version": 1, "wiring": {}, "made_from": {}, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    (tmp_path / "plan.yaml").write_text(f"# x\n# {json.dumps(head)}\n{body}")
    refused(message, plan_file.stages_of, tmp_path / "plan.yaml")


def test_a_head_that_is_nested_too_deeply(tmp_path):
    (tmp_path / "plan.yaml").write_text(f"# x\n# {'[' * 100_000}\nplan: {{}}\n")
    refused("was not made by make plan", plan_file.stages_of, tmp_path / "plan.yaml")
