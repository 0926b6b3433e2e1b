"""Experiments with several views and candidates, from params.yaml to the folder of predictions, without DVC.

Two releases of flow of the same clips, made here: 4 subjects of two corpora, 6 clips each, of 28x28 px.
"""

import json

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from mer import params as mer_params
from mer import validation
from mer.clips import COLUMNS, write_index
from mer.errors import MerError
from mer.evaluation.explained import read_explained
from mer.evaluation.predictions import read_predictions
from mer.plan import derive
from mer.storage.cache import CacheWriter
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
    content["experiments"] = experiments
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


def test_no_recogniser_of_views_that_no_new_clip_has(root):
    for name, experiment, message in (
        ("nested", NESTED, r"fit.experiments: nested: it has several candidates, and a recogniser is one model"),
        ("two", {**NESTED, "selection": "last_epoch", "candidates": {}}, r"reads flow of causalnet_flow, which no new"),
        ("units", {"corpus": "megc2019_flow", "model": "au_linear"}, r"a network makes its inputs, which a recogniser"),
    ):
        content = raw(root, **{name: experiment})
        content["fit"] = {"experiments": [name]}
        refused(message, derive, mer_params.parse(content))
