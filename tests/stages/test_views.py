"""Experiments with several views and candidates, from params.yaml to the folder of predictions, without DVC.

Two releases of flow of the same clips, made here: 4 subjects of two corpora, 6 clips each, of 28x28 px.
"""

import inspect
import json

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from mer import params as mer_params
from mer import validation
from mer.clips import COLUMNS, read_index, write_index
from mer.errors import MerError
from mer.evaluation.explained import read_explained
from mer.evaluation.predictions import read_predictions
from mer.plan import derive
from mer.storage.cache import CacheWriter
from stages import fit
from tests.helpers.in_process import command
from tests.helpers.refusals import refused
from tools import plan, preset

NESTED = {
    "corpus": "megc2019_flow", "model": "au_linear", "selection": "nested",
    "knobs": {"second": "causalnet_flow", "units": False},
    "candidates": {"one": {"knobs": {"second": "none"}}, "both": {}, "all": {"knobs": {"offset": True}}},
}  # fmt: skip


def raw(root, **experiments) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        content = YAML(typ="safe").load(preset.compose("megc2019_views"))
    content["experiments"], content["runtime"]["workers"] = experiments, 1
    return content


def clips() -> pd.DataFrame:
    emotions, rows = ("negative", "positive", "surprise"), []
    for s in range(4):
        for k in range(6):
            corpus = ("casme2", "smic")[s % 2]
            row = {"id": f"{corpus}/s{s}/{k}", "corpus": corpus, "subject": f"s{s}", "clip": str(k),
                   "emotion": emotions[k % 3], "aus": "", "onset": 0, "apex": 0, "offset": 0,
                   "apex_source": "released", "fps": 200.0, "frame": "", "absent": "", "edition": "made here",
                   "digest": ""}  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows)[list(COLUMNS)]


def release(folder, name, kinds, table, seed, excluded=None):
    """Maps in which a class moves one third of the face, more or less clearly."""
    write_index(folder / f"data/index/{name}.csv", table)
    rng, label = np.random.default_rng(seed), table["emotion"].map({"negative": 0, "positive": 1, "surprise": 2})
    for kind in kinds:
        path = folder / f"data/cache/{name}/released/{kind}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with CacheWriter(path, kind=kind, ragged=False, params={"source": name}, excluded=excluded) as writer:
            for clip, which in sorted(zip(table["id"], label, strict=True)):
                data = rng.normal(size=(3, 28, 28)).astype(np.float32)
                data[1, 9 * which : 9 * which + 9] += 1
                writer.append(clip, data)


@pytest.fixture
def project(root, tmp_path):
    for name in ("mer", "stages", "dvc.yaml"):  # whose bytes are in the keys of what is kept
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "data/index").mkdir(parents=True)
    table = clips()
    release(tmp_path, "megc2019_flow", ["flow"], table, 0)
    release(tmp_path, "causalnet_flow", ["flow", "flow_offset"], table, 1)

    def made(**experiments):
        content = raw(root, **experiments)
        YAML().dump(content, tmp_path / "params.yaml")
        plan.write(plan.derived(mer_params.parse(content)), tmp_path / "plan.yaml")
        return tmp_path

    return made


def train(folder, key) -> tuple[int, list[str]]:
    args = YAML(typ="safe").load((folder / "plan.yaml").read_text())["plan"]["train"][key]["args"]
    words = [w for n, v in args.items() for w in (f"--{n}", *(v if isinstance(v, list) else [str(v)]))]
    return command(folder, "train", key, *words)


def test_the_candidates_read_their_own_views_and_the_choice_is_kept(project):
    folder = project(nested=NESTED, plain={"corpus": "megc2019_flow", "model": "au_linear", "knobs": {"units": False}})
    for key in ("nested", "plain"):
        code, lines = train(folder, key)
        assert code == 0, lines
    found, info = read_predictions(folder / "data/predictions/nested")
    assert set(found["selection"]) == {"nested"}
    assert len(found) == 24
    protocol = info["protocol"]
    assert (protocol["selection"], protocol["inner"], protocol["leaky"]) == ("nested", 0, False)
    assert {name: one["knobs"]["second"] for name, one in protocol["candidates"].items()} == {
        "one": "none", "both": "causalnet_flow", "all": "causalnet_flow"
    }  # fmt: skip
    choices = pd.read_csv(folder / "data/predictions/nested/choices.csv")
    assert choices.groupby("fold")["chosen"].sum().eq(1).all()
    assert set(choices["candidate"]) == {"one", "both", "all"}
    files = json.loads((folder / "data/predictions/nested/run.json").read_text())["files"]
    assert files["choices.csv"]["rows"] == 12
    # Where `one` is chosen, the predictions are those of the experiment with its knobs.
    plain, _ = read_predictions(folder / "data/predictions/plain")
    same = choices.query("candidate == 'one' and chosen == 1")["fold"]
    rows = found["fold"].isin(same).to_numpy()
    assert found.loc[rows, "p0"].tolist() == plain.loc[rows, "p0"].tolist()
    with pytest.raises(MerError, match=r"nothing is explained with selection nested; set another, or remove here"):
        read_explained(folder / "data/predictions/nested", "here")


def test_the_mean_of_the_candidates(project):
    folder = project(mean={**NESTED, "selection": "mean"})
    code, lines = train(folder, "mean")
    assert code == 0, lines
    found, info = read_predictions(folder / "data/predictions/mean")
    assert set(found["selection"]) == {"mean"}
    assert set(info["protocol"]["candidates"]) == {"one", "both", "all"}
    assert "inner" not in info["protocol"]
    assert not (folder / "data/predictions/mean/choices.csv").exists()
    with pytest.raises(MerError, match=r"nothing is explained with selection mean; set another, or remove here"):
        read_explained(folder / "data/predictions/mean", "here")


def test_a_clip_that_a_view_does_not_have_is_left_out_and_listed(project):
    folder = project(nested=NESTED)
    view = folder, "causalnet_flow", ["flow", "flow_offset"], clips().iloc[1:], 1
    release(*view)
    code, lines = train(folder, "nested")
    assert code == 2
    assert "1 of the 24 clips of data/index/megc2019_flow.csv are missing: casme2/s0/0" in lines[0]
    release(*view, excluded={"casme2/s0/0": "a single frame"})
    code, lines = train(folder, "nested")
    assert code == 0, lines
    found, info = read_predictions(folder / "data/predictions/nested")
    assert len(found) == 23
    assert info["protocol"]["excluded"] == {"casme2/s0/0": "a single frame"}


def test_views_of_different_clips(project):
    folder = project(nested=NESTED)
    others = clips().assign(id="x/" + clips()["subject"] + "/" + clips()["clip"], corpus="x")
    release(folder, "causalnet_flow", ["flow", "flow_offset"], others, 1)
    code, lines = train(folder, "nested")
    assert code == 2
    assert len(lines) == 1, lines
    assert "causalnet_flow/released/flow.h5" in lines[0]


def test_corpora_are_left_out(project):
    knobs = {"second": "causalnet_flow", "units": False}
    folder = project(out={"corpus": "megc2019_flow", "model": "au_linear", "knobs": knobs, "leave_out": "corpus"})
    code, lines = train(folder, "out")
    assert code == 0, lines
    found, info = read_predictions(folder / "data/predictions/out")
    assert dict(zip(found["corpus"], found["fold"], strict=True)) == {"casme2": "casme2", "smic": "smic"}
    assert info["protocol"]["evaluation"] == "leave-one-database-out"


ORIGIN = {"corpus": "both", "model": "au_linear", "knobs": {"units": False}, "leave_out": "origin"}


def with_simulated(root, **experiments) -> dict:
    content = raw(root, **experiments)
    content["corpora"] = {
        "megc2019_flow": {"classes": 3}, "simulated": {"classes": 3, "reader": "simulated_flow"},
        "both": {"classes": 3, "labels": "simulated_flow", "parts": ["megc2019_flow", "simulated"]},
    }  # fmt: skip
    content["simulate"]["runs"] = {"simulated": {"subjects": 3, "clips": 3}}
    return content


def test_recorded_clips_are_tested_by_what_simulated_ones_teach(root, project):
    """From the parameters to the metrics: stages simulate, compose, join, train and evaluate."""
    folder = project()
    content = with_simulated(root, origin=ORIGIN, whole={**ORIGIN, "leave_out": "subject"})
    YAML().dump(content, folder / "params.yaml")
    plan.write(plan.derived(mer_params.parse(content)), folder / "plan.yaml")
    stages = YAML(typ="safe").load((folder / "plan.yaml").read_text())["plan"]
    first = (("simulate", "simulated"), ("compose", "both"), ("join", "both-box224-flow"))
    for stage, key in (*first, *((stage, key) for key in ("origin", "whole") for stage in ("train", "evaluate"))):
        args = stages[stage][key]["args"]
        words = [w for n, v in args.items() for w in (f"--{n}", *map(str, v if isinstance(v, list) else [v]))]
        code, lines = command(folder, stage, key, *words)
        assert code == 0, lines
    found, info = read_predictions(folder / "data/predictions/origin")
    assert len(found) == 24 + 9
    assert {(corpus, fold) for corpus, fold in zip(found["corpus"], found["fold"], strict=True)} == {
        ("casme2", "recorded"), ("smic", "recorded"), ("simulated", "simulated"),
    }  # fmt: skip
    assert info["protocol"]["evaluation"] == "recorded-against-simulated"
    parts = json.loads((folder / "metrics/origin.json").read_text())["parts"]
    assert set(parts) == {"recorded", "simulated"}
    assert set(json.loads((folder / "metrics/whole.json").read_text())["parts"]) == {"casme2", "simulated", "smic"}
    # The recorded clips have no part in what tests them: other labels of theirs change nothing in their predictions.
    index = folder / "data/index/both.csv"
    table = read_index(index)
    recorded = table["corpus"] != "simulated"
    table.loc[recorded, "emotion"] = table.loc[recorded, "emotion"].to_numpy()[::-1]
    write_index(index, table)
    args = stages["train"]["origin"]["args"]
    words = [w for n, v in args.items() for w in (f"--{n}", *map(str, v if isinstance(v, list) else [v]))]
    assert command(folder, "train", "origin", *words)[0] == 0
    again, _ = read_predictions(folder / "data/predictions/origin")
    same = (again[["p0", "p1", "p2"]] == found[["p0", "p1", "p2"]]).all(axis=1)
    assert same[found["fold"] == "recorded"].all()
    assert not same[found["fold"] == "simulated"].any()


# ---- what is refused before anything runs ---------------------------------------------------------------------------


def checked(root, **change):
    content = raw(root, nested={**NESTED, **change})
    found = mer_params.parse(content)
    validation.check(found)
    return derive(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": {}}, r"nested.candidates: selection nested needs two or more; add some"),
        ({"candidates": {"one": {}}}, r"nested.candidates: selection nested needs two or more"),
        ({"selection": "last_epoch"}, r"nested.candidates: selection last_epoch has none; set nested or mean"),
        ({"candidates": {"a": {}, "b": {"knobs": {"grid": 7}}}}, r"candidates: a and b differ in nothing; change one"),
        ({"candidates": {"a": {}, "b": {"knobs": {"gird": 4}}}}, r"candidates.b.knobs.gird is unknown; did you mean"),
        ({"candidates": {"a": {}, "b": {"recipe": {"epochs": 4}}}}, r"candidates.b.recipe: model au_linear is no net"),
        ({"selection": "mean", "candidates": {"a": {}}}, r"nested.candidates: selection mean needs two or more"),
        ({"selection": "mean", "audit": True}, r"nested.audit: with selection mean nothing is chosen that an audit"),
        ({"inner": 1}, r"nested.inner is 1: one group leaves nothing to train on; take 0 or 2 and more"),
        ({"knobs": {"second": "causalnet"}}, r"reads flow of corpus 'causalnet'; did you mean 'causalnet_flow'"),
        ({"knobs": {"second": "megc2019_flow"}}, r"reads flow of megc2019_flow twice; name another corpus"),
        ({"knobs": {"offset": True}, "candidates": {"a": {}, "b": {"knobs": {"grid": 4}}}},
         r"reads flow_offset of box224, and corpus megc2019_flow was released as flow without its frames"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_from_or_read(root, change, message):
    refused(message, lambda: checked(root, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpora": {"simulated": {"classes": 3}}},
         r"corpora.simulated.reader: corpus 'simulated' has no class lists; did you mean 'simulated_flow'"),
        ({"corpora": {"more": {"classes": 3, "reader": "simulated_flow"}}},
         r"corpora.more.reader is simulated_flow, and simulate.runs has no 'more'; valid names: simulated"),
        ({"corpora": {"simulated": {"classes": 3, "reader": "simulated_flow", "raw": "data/raw/x"}}},
         r"corpora.simulated.raw: simulated is simulated from nothing; remove it"),
        ({"corpora": {"simulated": {"classes": 3, "reader": "megc2019_flow"}}},
         r"simulate.runs.simulated: corpora.simulated is read by megc2019_flow; set its reader to simulated_flow"),
        ({"experiments": {"origin": {**ORIGIN, "corpus": "megc2019_flow"}}},
         r"experiments.origin.leave_out is origin: megc2019_flow has no recorded and simulated parts; take"),
        ({"corpora": {"causalnet_flow": {"classes": 3},
                      "both": {"classes": 3, "labels": "megc2019_flow", "parts": ["megc2019_flow", "causalnet_flow"]}}},
         r"both.parts: megc2019_flow and causalnet_flow are releases of the same recordings, .* leave one out, or let"),
        ({"corpora": {"more": {"classes": 3, "reader": "simulated_flow"},
                      "both": {"classes": 3, "labels": "simulated_flow", "parts": ["simulated", "more"]}},
          "simulate": {"runs": {"more": {"subjects": 3, "clips": 3}, "simulated": {"subjects": 3, "clips": 3}}}},
         r"parts: simulated and more are simulated on the same faces, .* make one of them, with more subjects$"),
        ({"experiments": {"units": {**ORIGIN, "knobs": {"units": True}}}},
         r"experiments.units: model au_linear reads weights action_units, which were learned on the faces that simul"),
        ({"experiments": {"begun": {"corpus": "simulated", "model": "au_cnn",
                                    "knobs": {"start": "pretrained", "width": 32}}}},
         r"experiments.begun: model au_cnn reads weights action_units, which were learned on the faces that simulated"),
        ({"fit": {"experiments": ["origin"]}},
         r"fit.experiments: origin: with leave_out origin its metric is not that of subjects left out, which the"),
        ({"simulate": {"runs": {"simulated": {"subjects": 600, "clips": 3}}}},
         r"simulate.runs.simulated.subjects is 600: input should be less than or equal to 512"),
        ({"simulate": {"runs": {"simulated": {"subjects": 3, "clips": 1000}}}},
         r"simulate.runs.simulated.clips is 1000: input should be less than or equal to 999"),
        ({"corpora": {"synthetic": {"classes": 5, "sheets": {"casme2": "x.xlsx"}}}},
         r"corpora.synthetic.sheets: it is no release, and its own label sheet has action units; remove it"),
        ({"corpora": {"megc2019_flow": {"classes": 3, "sheets": {"casme": "x.xlsx"}}}},
         r"corpora.megc2019_flow.sheets: corpus 'casme' has no class lists; did you mean 'casme3'"),
        ({"corpora": {"megc2019_flow": {"classes": 3, "sheets": {"causalnet_flow": "x.xlsx"}}}},
         r"corpora.megc2019_flow.sheets: mer.corpora.causalnet_flow reads no label sheet; name a corpus that has one"),
        ({"corpora": {"both": {"classes": 3, "parts": ["megc2019_flow", "simulated"], "sheets": {"casme2": "x"}}}},
         r"corpora.both: has parts, so sheets belongs to them; remove it"),
    ],
)  # fmt: skip
def test_what_cannot_be_simulated_or_coded(root, change, message):
    content = with_simulated(root, origin=ORIGIN)
    for section, values in change.items():
        content[section] = {**content[section], **values}
    refused(message, lambda: derive(mer_params.parse(content)))


def test_a_recogniser_of_recorded_and_simulated_clips_is_called_with_what_it_takes(root):
    content = with_simulated(root, whole={**ORIGIN, "leave_out": "subject"}, alone={**ORIGIN, "corpus": "simulated"})
    content["experiments"]["alone"]["leave_out"] = "subject"
    content["fit"] = {"experiments": ["alone"]}
    stages, _ = derive(mer_params.parse(content))
    assert stages["fit"]["alone"]["args"]["data"] == "simulated"
    content["corpora"] = {
        "synthetic": {"classes": 3}, "casme2": {"classes": 3},
        "both": {"classes": 3, "labels": "casme2", "parts": ["casme2", "synthetic"]},
    }  # fmt: skip
    content["simulate"]["runs"] = {}
    content["experiments"] = {"whole": {"corpus": "both", "model": "linear"}}
    content["fit"] = {"experiments": ["whole"]}
    stages, _ = derive(mer_params.parse(content))
    assert stages["train"]["whole"]["args"]["made"] == ["synthetic"]
    assert set(stages["fit"]["whole"]["args"]) <= set(inspect.signature(fit.main).parameters)


def test_a_sheet_that_is_not_there_is_missed_before_anything_runs(root, tmp_path, monkeypatch):
    content = raw(root, one={"corpus": "megc2019_flow", "model": "linear"})
    content["corpora"] = {"megc2019_flow": {"classes": 3, "sheets": {"casme2": "data/raw/casme2/sheet.xlsx"}}}
    found = mer_params.parse(content)
    stages, _ = derive(found)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/raw/megc2019_flow").mkdir(parents=True)
    refused(r"data/raw/casme2/sheet.xlsx: is missing; put the label sheet there .*, or correct "
            r"corpora.megc2019_flow.sheets.casme2", validation.check_raw, found, stages)  # fmt: skip
    entry = stages["import_flow"]["megc2019_flow"]
    assert entry["brought"][:2] == ["data/raw/megc2019_flow", "data/raw/casme2/sheet.xlsx"]
    assert entry["args"]["sheets"] == ["casme2=data/raw/casme2/sheet.xlsx"]
    assert {"mer/corpora/casme2.py", "mer/corpora/corrections/casme2.csv"} <= set(entry["code"])


def test_no_recogniser_of_views_that_no_new_clip_has(root):
    for name, experiment, message in (
        ("nested", NESTED, r"fit.experiments: nested: it has several candidates, and a recogniser is one model"),
        ("two", {**NESTED, "selection": "last_epoch", "candidates": {}}, r"reads flow of causalnet_flow, which no new"),
        ("units", {"corpus": "megc2019_flow", "model": "au_linear"}, r"a network makes its inputs, which a recogniser"),
    ):
        content = raw(root, **{name: experiment})
        content["fit"] = {"experiments": [name]}
        refused(message, derive, mer_params.parse(content))
