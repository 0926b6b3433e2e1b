"""UAMRN's stages, pretrain_macro, embed and explain, and train with it: what they write, what they refuse.

They run in this process, as `python -m` would run them: starting Python and torch anew takes longer than most of them.
What comes before them is written by hand, fifteen sequences in place of a corpus (tests/stages/test_graph.py runs the
whole way from frames); the pool's faces are rendered.
"""

import contextlib
import io
import json
import os
import re
import runpy
import shutil
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from mer.clips import COLUMNS, write_index
from mer.errors import MerError
from mer.networks.resnet import ResNet18, as_torchvision, frozen_resnet18, load_resnet18, needed
from mer.params import load, parse
from mer.pretraining import macro
from mer.products import named_factors
from mer.storage.cache import CacheWriter, ClipCache
from mer.storage.weights import digest_of, save_weights, weights_about
from mer.synthetic.pool import write_pool
from stages import embed
from stages._run import Stage
from tests.helpers.project import make_project
from tests.macro.test_sets import FER, PLUS, csv_text, draw, put
from tests.stages.test_stages import refused
from tests.test_params import change
from tools import validate

pytestmark = pytest.mark.usefixtures("one_thread")

CORPUS, NAME = "synthetic-box224", "synthetic-uamrn"
CROP = "data/cache/synthetic/box224"
MAGNET, EMBEDDING, FLOW = (f"{CROP}/{kind}.h5" for kind in ("magnet", "embedding", "flow"))
WEIGHTS = "data/weights/resnet18.safetensors"
MAGNIFIED = "2 steps, none of them made here"  # what the product written by hand says of MagNet
POOL = "2 steps on the synthetic macro pool (10 images, 2 people), from random weights"


def stage(folder: Path, name: str, key: str = NAME) -> tuple[int, list[str]]:
    """Exit code of `python -m stages.<name> <key>` and the lines on stderr, progress bars left out."""
    frozen_resnet18.cache_clear()  # a process of its own would not have it
    said, code = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), warnings.catch_warnings():
        patch.chdir(folder)
        patch.setattr(sys, "argv", [name, key])
        patch.setattr(macro, "THREADS", 1)  # a second would wait for a core that other tests use
        warnings.filterwarnings("ignore", "'stages", RuntimeWarning)  # another test has imported it
        try:
            runpy.run_module(f"stages.{name}", run_name="__main__")
        except SystemExit as end:
            code = end.code
    lines = said.getvalue().replace("\r", "\n").splitlines()
    return code, [line for line in lines if line.strip() and "%|" not in line]


def edit(folder: Path, change) -> None:
    params = written(folder)
    change(params)
    (folder / "params.yaml").write_text(json.dumps(params))  # which is YAML, too, and read in no time


def written(folder: Path) -> dict:
    return json.loads((folder / "params.yaml").read_text())


def pretrain(folder: Path, **changes) -> tuple[int, list[str]]:
    edit(folder, lambda p: p["pretrain_macro"]["runs"]["resnet18"].update(changes))
    return stage(folder, "pretrain_macro", "resnet18")


def train(folder: Path, **changes) -> tuple[int, list[str]]:
    edit(folder, lambda p: p["experiments"][NAME].update(changes))
    return stage(folder, "train")


def explain(folder: Path, **changes) -> tuple[int, list[str]]:
    edit(folder, lambda p: p["explain"]["runs"][NAME].update(changes))
    return stage(folder, "explain")


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in load_file(path).items() if not name.endswith("num_batches_tracked")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def drawn(seed: int) -> ResNet18:
    torch.manual_seed(seed)
    return ResNet18()


# ---- projects -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(root, tmp_path_factory):
    """A tiny project up to its magnified frames, of three people, and with the pool's faces."""
    folder = make_project(root, tmp_path_factory.mktemp("begun"))
    params = YAML(typ="safe").load(folder / "params.yaml")
    (folder / "params.yaml").write_text(json.dumps(params))
    edit(folder, lambda p: p["runtime"].update(workers=1, device="cpu"))
    edit(folder, lambda p: p["magnify_learned"].update(factors="linspace_2_13_8"))
    edit(folder, lambda p: p["uamrn"].update(length=8, tap="layer2", grid=4, n_h=2, samples=2))
    write_pool(
        folder / "data/raw/synthetic/pool", subjects={101: 0, 102: 0}, seed=0, macro=1, clips=0, pairs=0, length=(8, 8)
    )
    # Classes of different sizes, as gamma is held against them.
    emotions = ["others", "happiness", "disgust", "repression", "surprise"] * 3
    emotions[6] = "others"
    rows = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(15))
    rows["clip"] = [f"EP01_{k % 5 + 1:02d}" for k in range(15)]
    rows["corpus"], rows["subject"] = "synthetic", [f"sub{k // 5 + 1:02d}" for k in range(15)]
    rows["id"] = rows["corpus"] + "/" + rows["subject"] + "/" + rows["clip"]
    rows["emotion"], rows["fps"], rows["onset"], rows["apex"], rows["offset"] = emotions, 200.0, 1, 5, 9
    write_index(folder / "data/index/synthetic.csv", rows)
    write_magnified(folder, rows["id"])
    yield folder
    shutil.rmtree(folder)  # each holds 45 MB of weights


def write_magnified(folder: Path, ids, excluded=None) -> None:
    """Still textures and motions, grown by the factors; 32 px."""
    factors = named_factors(load(folder / "params.yaml").magnify_learned.factors)
    params = {"networks": {"magnet": MAGNIFIED}}
    with CacheWriter(folder / MAGNET, kind="magnet", ragged=False, params=params, excluded=excluded) as file:
        for clip_id in ids:
            rng = np.random.default_rng([ord(letter) for letter in clip_id])
            still, motion = rng.uniform(60, 200, (32, 32, 3)), rng.normal(0, 4, (32, 32, 3))
            frames = still + factors[:, None, None, None] * motion
            file.append(clip_id, frames.clip(0, 255).astype(np.uint8), factors=factors)


def copied(source: Path, target: Path) -> Path:
    """Code and faces are the source's own, results links: no stage writes into one that is there."""

    def faces(folder, names):
        return {"synthetic"} if Path(folder).name == "raw" else ()

    shutil.copytree(source / "data", target / "data", copy_function=os.link, ignore=faces)
    shutil.copyfile(source / "params.yaml", target / "params.yaml")
    for name in ("mer", "stages", "dvc.yaml", "data/raw/synthetic"):
        (target / name).symlink_to(source / name)
    return target


@pytest.fixture
def fresh(begun, tmp_path):
    yield copied(begun, tmp_path / "p")
    shutil.rmtree(tmp_path / "p")


@pytest.fixture(scope="module")
def embedded(begun, tmp_path_factory):
    """With the weights that the pool gives, and what they make of the magnified frames."""
    folder = copied(begun, tmp_path_factory.mktemp("embedded") / "p")
    assert pretrain(folder) == (0, [])
    assert stage(folder, "embed", CORPUS) == (0, [])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def project(embedded, tmp_path):
    yield copied(embedded, tmp_path / "p")
    shutil.rmtree(tmp_path / "p")


@pytest.fixture(scope="module")
def learned(embedded, tmp_path_factory):
    """With UAMRN's predictions and explanations."""
    folder = copied(embedded, tmp_path_factory.mktemp("learned") / "p")
    assert train(folder) == (0, [])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def trained(learned, tmp_path):
    yield copied(learned, tmp_path / "p")
    shutil.rmtree(tmp_path / "p")


def protocol(folder: Path) -> dict:
    return json.loads((folder / f"data/predictions/{NAME}/run.json").read_text())["protocol"]


def predictions(folder: Path) -> np.ndarray:
    return pd.read_csv(folder / f"data/predictions/{NAME}/predictions.csv").filter(regex=r"^p\d").to_numpy()


# ---- pretrain_macro -------------------------------------------------------------------------------------------------


def test_the_pool_is_learned_where_nobody_brought_a_set_and_the_file_says_so(embedded):
    about = weights_about(embedded / WEIGHTS)
    assert about["weights"] == POOL
    assert re.fullmatch(r"[01]\.\d{3} of 5 held-out images, 5 emotions", about["accuracy"])  # one of the two people
    assert set(about) == {"weights", "accuracy"}
    assert not same(tensors(embedded / WEIGHTS), needed(drawn(0)))


def test_pretraining_repeats_to_the_byte(fresh, embedded):
    """From the beginning: the checkpoint of the first run is not there."""
    assert not (fresh / "data/.partial/pretrain_macro@resnet18/checkpoint.pt").exists()
    assert pretrain(fresh) == (0, [])
    assert (fresh / WEIGHTS).read_bytes() == (embedded / WEIGHTS).read_bytes()


def test_ones_own_weights_are_taken_as_they_are_and_two_files_refused(fresh):
    """Even where there is a set: nothing is trained on top of them."""
    own, folder = drawn(5), fresh / "data/raw/resnet18"
    torch.save({"state_dict": needed(own) | {"fc.weight": torch.zeros(8, 512)}}, folder / "ferplus.pth")
    put(fresh / "data/raw/fer2013/fer2013.csv", csv_text(FER))
    assert pretrain(fresh) == (0, [])
    about = {"weights": "given: ferplus.pth", "sha256": digest_of(folder / "ferplus.pth")}
    assert weights_about(fresh / WEIGHTS) == about
    assert same(tensors(fresh / WEIGHTS), needed(own))
    (folder / "another.bin").write_bytes(b"")
    refused(pretrain(fresh), "pretrain_macro@resnet18: data/raw/resnet18: holds another.bin, ferplus.pth;",
            "leave one file of weights there")  # fmt: skip


def test_weights_that_are_none_are_refused(fresh):
    path = fresh / "data/raw/resnet18/resnet18.pth"
    path.write_bytes(b"PK")
    refused(pretrain(fresh), "data/raw/resnet18/resnet18.pth: is not a torch file of weights",
            "bring a ResNet-18 with torchvision's or transformers' names")  # fmt: skip
    torch.save(needed(drawn(0)) | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, path)
    refused(pretrain(fresh), "not the weights of ResNet-18", "1 of another shape: layer1.0.conv1.weight is (64, 64, 1")
    path.rename(path.with_suffix(".safetensors"))
    refused(pretrain(fresh), "resnet18.safetensors: is not a safetensors file of weights")
    assert not (fresh / WEIGHTS).exists()


def test_a_set_is_learned_instead_of_the_pool(fresh, embedded):
    put(fresh / "data/raw/fer2013/fer2013.csv", csv_text(FER))
    put(fresh / "data/raw/fer2013/fer2013new.csv", PLUS)
    assert pretrain(fresh) == (0, [])
    about = weights_about(fresh / WEIGHTS)
    assert about["weights"] == "2 steps on fer2013, labels ferplus (3 images), from random weights"
    assert about["accuracy"].endswith(" of 2 held-out images, 7 emotions")  # val and test; who got a vote is a class
    assert not same(tensors(fresh / WEIGHTS), tensors(embedded / WEIGHTS))
    assert pretrain(fresh, options={}, steps=0) == (0, [])
    assert weights_about(fresh / WEIGHTS) == {"weights": "0 steps on fer2013 (6 images), from random weights"}


def ckplus(folder: Path) -> tuple[dict, str, str]:
    """The pool's people at their peak, and one who cannot be seen; (changes to an entry, set, accuracy)."""
    for code, emotion in ((3, "disgust"), (5, "happiness"), (7, "surprise")):
        for person in ("101", "102"):
            stem = f"S{person}_00{code}_00000009"
            shown = folder.parent / f"synthetic/pool/macro/{emotion}/sub{person}_1.jpg"
            put(folder / f"Emotion/S{person}/00{code}/{stem}_emotion.txt", f"   {code}.0000000e+00\n")
            image = folder / f"cohn-kanade-images/S{person}/00{code}/{stem}.png"
            image.parent.mkdir(parents=True)
            assert cv2.imwrite(str(image), cv2.imread(str(shown), cv2.IMREAD_GRAYSCALE))
    put(folder / "Emotion/S103/001/S103_001_00000002_emotion.txt", "1")
    draw(folder / "cohn-kanade-images/S103/001/S103_001_00000002.png", size=(320, 320))
    options = {"reader": "ckplus", "options": {"last": 1}, "crop": "box224"}
    return options, "ckplus, last 1 (7 images), 1 of them without a face", "of 3 held-out images, 3 emotions"


def rafdb(folder: Path) -> tuple[dict, str, str]:
    lines = []
    for code in range(1, 8):
        stem = f"{'test' if code == 7 else 'train'}_{code:05d}"
        draw(folder / f"basic/Image/aligned/{stem}_aligned.jpg", 30 * code, size=(100, 100))
        lines.append(f"{stem}.jpg {code}\n")
    put(folder / "basic/EmoLabel/list_patition_label.txt", "".join(lines))
    return {"reader": "rafdb", "options": {}, "crop": "none"}, "rafdb (7 images)", "of 1 held-out images, 7 emotions"


@pytest.mark.parametrize("unpack", [ckplus, rafdb])
def test_another_set_is_one_entry(fresh, unpack):
    """And its weights serve the stages behind by their name, from where they are stamped into the product."""
    name = unpack.__name__
    changes, what, accuracy = unpack(fresh / f"data/raw/{name}")

    def add(params):
        entries = params["pretrain_macro"]["runs"]
        entries[name] = {**entries["resnet18"], **changes, "raw": f"data/raw/{name}"}
        params["embed"]["runs"]["synthetic-box224"]["weights"] = name

    edit(fresh, add)
    assert stage(fresh, "pretrain_macro", name) == (0, [])
    about = weights_about(fresh / f"data/weights/{name}.safetensors")
    assert about["weights"] == f"2 steps on {what}, from random weights"
    assert about["accuracy"].endswith(accuracy)
    assert stage(fresh, "embed", CORPUS) == (0, [])
    assert ClipCache(fresh / EMBEDDING).params["networks"] == {"magnet": MAGNIFIED, name: about["weights"]}


def test_images_without_any_face_are_refused(fresh):
    draw(fresh / "data/raw/ckplus/CK+48/happy/S010_004_00000017.png", size=(64, 64))
    result = pretrain(fresh, reader="ckplus", options={}, raw="data/raw/ckplus", crop="box224")
    refused(result, "no face was found in any image of ckplus (1 images); set pretrain_macro.runs.resnet18.crop to no")


def test_without_set_and_pool_the_first_weights_are_the_weights(fresh):
    for seed in (0, 1):
        edit(fresh, lambda p, seed=seed: p["pretrain_macro"].update(seed=seed))
        assert pretrain(fresh, pool="data/raw/resnet18") == (0, [])
        assert weights_about(fresh / WEIGHTS) == {"weights": "random weights"}
        assert same(tensors(fresh / WEIGHTS), needed(drawn(seed)))


def test_imagenet_is_the_beginning_where_it_can_be_had(fresh, monkeypatch):
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(1)
    sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
    official = ResNetModel(ResNetConfig(**sizes))
    monkeypatch.setattr(ResNetModel, "from_pretrained", lambda name: official)
    assert pretrain(fresh, first="imagenet", pool="data/raw/resnet18") == (0, [])
    assert weights_about(fresh / WEIGHTS) == {"weights": "ImageNet weights"}
    state = as_torchvision(official.state_dict())
    assert same(tensors(fresh / WEIGHTS), {name: state[name] for name in needed(ResNet18())})
    assert pretrain(fresh, first="auto", pool="data/raw/synthetic/pool/macro") == (0, [])
    assert weights_about(fresh / WEIGHTS)["weights"] == POOL.replace("random", "ImageNet")


def test_without_a_net_imagenet_is_refused_and_auto_says_what_it_takes(fresh, monkeypatch):
    from transformers import ResNetModel

    def offline(name):
        raise OSError("We couldn't connect to the hub.\nmore")

    monkeypatch.setattr(ResNetModel, "from_pretrained", offline)
    reason = "microsoft/resnet-18: the ImageNet weights cannot be had (We couldn't connect to the hub.)"
    refused(pretrain(fresh, first="imagenet"), reason, "take first: random")
    code, lines = pretrain(fresh, first="auto", pool="data/raw/resnet18")
    assert code == 0
    assert len(lines) == 1
    assert lines[0].startswith(reason)
    assert lines[0].endswith("so it begins with random weights")
    assert weights_about(fresh / WEIGHTS) == {"weights": "random weights"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"label": "ferplus"}},
         "params.yaml: pretrain_macro.runs.resnet18.options.label is unknown; did you mean 'labels'?"),
        ({"reader": "ckplus", "options": {"last": "2"}},
         "pretrain_macro.runs.resnet18.options.last is '2'; needed is a value of type int"),
        ({"raw": "data/raw/fer"},
         "data/raw/fer: there is no such folder; make it, or correct pretrain_macro.runs.resnet18"),
        ({"given": "data/raw/own"},
         "data/raw/own: there is no such folder; make it, or correct pretrain_macro.runs.resnet18"),
        ({"raw": "data/raw/synthetic/pool"}, "data/raw/synthetic/pool: holds none of fer2013.csv, icml_face_data.csv"),
    ],
)  # fmt: skip
def test_entries_that_cannot_work(fresh, changes, message):
    """The first two where there is a set to read."""
    if "options" in changes:
        put(fresh / "data/raw/fer2013/fer2013.csv", csv_text(FER))
    refused(pretrain(fresh, **changes), message)


# ---- embed ----------------------------------------------------------------------------------------------------------


def is_made_with(network: ResNet18, folder: Path) -> None:
    magnified, found = ClipCache(folder / MAGNET), ClipCache(folder / EMBEDDING)
    with torch.no_grad():
        expected = torch.stack([network.eval()(torch.from_numpy(magnified[clip_id])) for clip_id in found.ids]).numpy()
    np.testing.assert_allclose(found.load(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_product_is_what_the_resnet_makes_of_the_frames(embedded):
    magnified, found = ClipCache(embedded / MAGNET), ClipCache(embedded / EMBEDDING, "embedding")
    assert found.ids == magnified.ids
    assert found.dtype == np.float32
    assert not found.ragged
    assert found.shape == (15, 8, 128 * 4 * 4)
    is_made_with(load_resnet18(ResNet18("layer2", 4), embedded / WEIGHTS), embedded)
    for clip_id in found.ids:
        assert np.array_equal(found.extra("factors", clip_id), named_factors("linspace_2_13_8"))
    assert found.params == {
        "knobs": {"tap": "layer2", "grid": 4}, "weights": digest_of(embedded / WEIGHTS),
        "networks": {"magnet": MAGNIFIED, "resnet18": POOL},
    }  # fmt: skip


def test_tap_and_grid_decide_the_width(project):
    for changes, width in (({"grid": 2}, 128 * 4), ({"tap": "layer1"}, 64 * 4)):
        edit(project, lambda p, changes=changes: p["uamrn"].update(changes))
        assert stage(project, "embed", CORPUS) == (0, [])
        assert ClipCache(project / EMBEDDING).shape == (15, 8, width)


def test_no_other_knob_is_read(project, monkeypatch):
    """Each would cost the product its place in DVC's cache with every change of UAMRN."""
    read = set()

    class Noted(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

        def __iter__(self):
            raise AssertionError("read whole")

        get = items = values = keys = __iter__

    monkeypatch.chdir(project)
    params = load()
    params = params.model_copy(update={"knobs": {"uamrn": Noted(params.knobs["uamrn"])}})
    embed.main(Stage("embed", CORPUS, params))
    assert read == {"tap", "grid"}


def test_clips_are_embedded_again_for_other_weights_only(project):
    before = (project / EMBEDDING).read_bytes()
    assert stage(project, "embed", CORPUS) == (0, ["15 of 15 clips were finished earlier"])
    assert (project / EMBEDDING).read_bytes() == before
    save_weights(drawn(7), project / WEIGHTS, {"weights": "drawn"})
    assert stage(project, "embed", CORPUS) == (0, [])
    assert ClipCache(project / EMBEDDING).params["networks"]["resnet18"] == "drawn"
    is_made_with(load_resnet18(ResNet18("layer2", 4), project / WEIGHTS), project)


def test_what_magnification_left_out_is_listed_through_to_the_predictions(project):
    *rest, last = ClipCache(project / MAGNET).ids
    write_magnified(project, rest, {last: "a clip of 1 frame"})
    assert stage(project, "embed", CORPUS)[0] == 0
    assert ClipCache(project / EMBEDDING).excluded == {last: "a clip of 1 frame"}
    assert train(project, recipe={"epochs": 1})[0] == 0
    assert protocol(project)["excluded"] == {last: "a clip of 1 frame"}
    assert ClipCache(project / f"data/predictions/{NAME}/explain.h5").ids == rest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tap": "layer5"}, "params.yaml: uamrn.tap is 'layer5'; valid: layer1, layer2, layer3, layer4"),
        ({"grid": 0}, "params.yaml: uamrn.grid is 0; needed is a whole number from 1"),
        ({"grid": 2.5}, "params.yaml: uamrn.grid is 2.5; needed is a whole number from 1"),
    ],
)
def test_knobs_that_no_resnet_has(project, changes, message):
    edit(project, lambda p: p["uamrn"].update(changes))
    refused(stage(project, "embed", CORPUS), message)


def test_embedding_without_its_knobs(project):
    edit(project, lambda p: p["uamrn"].pop("tap"))
    refused(stage(project, "embed", CORPUS), "params.yaml: uamrn.tap is missing; copy it from conf/base.yaml")


def test_a_file_of_other_weights_is_no_resnet(project):
    (project / WEIGHTS).unlink()
    save_weights(torch.nn.Linear(2, 2), project / WEIGHTS, {"weights": "others"})
    refused(stage(project, "embed", CORPUS), f"{WEIGHTS}: not the weights of ResNet-18", "missing: bn1.bias")


# ---- train ----------------------------------------------------------------------------------------------------------


def test_every_clip_is_explained_by_attention_gamma_and_weight(learned):
    found = ClipCache(learned / f"data/predictions/{NAME}/explain.h5", "explain")
    assert found.ids == ClipCache(learned / MAGNET).ids
    assert found.shape == (15, 1, 2, 8, 8)  # blocks, heads, L, L
    rows = found.load().sum(-1)
    assert ((np.abs(rows - 1) < 1e-5) | (rows == 0)).all()  # a query without partner attends to nothing
    assert (rows != 0).any()
    kinds = [found.extras(clip_id) for clip_id in found.ids]
    gamma, weight = (np.array([extras[kind] for extras in kinds]) for kind in ("gamma", "weight"))
    assert gamma.shape == weight.shape == (15,)
    assert (gamma > 0).all()
    assert (weight > 0).all()
    assert len(set(gamma)) == len(set(weight)) == 15  # of the clip, not of the fold
    assert not np.allclose(gamma, weight)  # another network's


def test_every_network_that_had_a_part_is_named(learned):
    assert protocol(learned)["weights"] == {"uamrn": "random", "magnet": MAGNIFIED, "resnet18": POOL}


def test_a_sequence_of_another_length_is_refused(project):
    edit(project, lambda p: p["uamrn"].update(length=7))
    refused(train(project), "train@synthetic-uamrn: uamrn reads (clips, 7, 2048), the product gives",
            "uamrn.length must be the number of factors in magnify_learned.factors")  # fmt: skip


def test_a_backbone_that_is_trained_begins_with_the_weights_among_the_inputs(project):
    knobs = {"features": False, "freeze": False, "tap": "layer1", "grid": 1}
    found = {}
    for what, changes in (
        ("trained", {"overrides": knobs, "inputs": [MAGNET, WEIGHTS, MAGNET], "recipe": {"epochs": 1}}),
        ("random", {"inputs": [MAGNET] * 3}),
        ("frozen", {"overrides": {**knobs, "freeze": True}, "inputs": [MAGNET, WEIGHTS, MAGNET]}),
    ):
        assert train(project, **changes) == (0, [])
        stamped = {"uamrn": "random", "magnet": MAGNIFIED} | ({} if what == "random" else {"resnet18": POOL})
        assert protocol(project)["weights"] == stamped
        found[what] = predictions(project)
        assert np.isfinite(found[what]).all()
    assert not np.allclose(found["trained"], found["random"])
    assert not np.allclose(found["trained"], found["frozen"])


def write_flow(folder: Path) -> None:
    with CacheWriter(folder / FLOW, kind="flow", ragged=False, params={}) as file:
        for clip_id in ClipCache(folder / MAGNET).ids:
            file.append(clip_id, np.zeros((28, 28, 3), np.float32))


def test_weights_for_a_model_that_takes_none(project):
    write_flow(project)
    refused(train(project, model="linear", knobs="none", recipe={}, inputs=[FLOW, WEIGHTS, FLOW]),
            f"inputs name weights {WEIGHTS}, but model linear takes none; remove them")  # fmt: skip


@pytest.mark.parametrize(
    ("features", "inputs", "message"),
    [
        (True, [EMBEDDING, WEIGHTS, EMBEDDING], f"{WEIGHTS}: uamrn.features is true, so there is no ResNet to take it"),
        (False, [MAGNET, WEIGHTS, "data/weights/magnet.safetensors"],
         f"inputs name weights {WEIGHTS}, data/weights/magnet.safetensors; a model takes one file"),
        (False, [MAGNET, "data/weights/magnet.safetensors", MAGNET],
         "data/weights/magnet.safetensors: not the weights of ResNet-18"),
        (True, [MAGNET] * 3, "model uamrn reads embedding; inputs hold magnet: add embedding"),
        (False, [EMBEDDING, WEIGHTS, EMBEDDING], "model uamrn reads magnet; inputs hold embedding: add magnet"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_the_knobs(project, features, inputs, message):
    save_weights(torch.nn.Linear(2, 2), project / "data/weights/magnet.safetensors", {"weights": "others"})
    refused(train(project, overrides={"features": features}, inputs=inputs), message)


@pytest.mark.parametrize(("features", "given", "lacking"), [(True, MAGNET, "embedding"), (False, EMBEDDING, "magnet")])
def test_a_product_that_the_knobs_need_is_missed_before_anything_runs(begun, features, given, lacking):
    raw = change(written(begun), f"experiments/{NAME}/inputs", [given] * 3)
    raw["experiments"][NAME]["overrides"] = {"features": features}
    message = rf"experiments\.{NAME}\.inputs: model uamrn also reads {lacking}; add its product"
    with pytest.raises(MerError, match=message) as error:
        validate.check(parse(raw))
    assert "\n" not in str(error.value)


# ---- explain --------------------------------------------------------------------------------------------------------


def drawings(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / f"metrics/explained/{NAME}").iterdir()}


def test_what_is_explained_is_drawn_and_counted_and_the_same_each_time(trained):
    assert explain(trained) == (0, [])
    first = drawings(trained)
    assert set(first) == {"attention.png", "gamma.png", "gamma.json"}
    for name in ("attention.png", "gamma.png"):
        image = cv2.imdecode(np.frombuffer(first[name], np.uint8), cv2.IMREAD_GRAYSCALE)
        assert image.std() > 10  # grey levels; an empty canvas has none
    found = json.loads(first["gamma.json"])
    sizes = dict(zip(found["class_names"], found["test"]["sizes"], strict=True))
    assert sizes == {"happiness": 2, "disgust": 3, "repression": 3, "surprise": 3, "others": 4}
    cache = ClipCache(trained / f"data/predictions/{NAME}/explain.h5")
    happy = [f"synthetic/{clip}" for clip in ("sub01/EP01_02", "sub03/EP01_02")]
    for part, kind in (("test", "gamma"), ("training", "weight")):
        median = np.median([cache.extra(kind, clip_id) for clip_id in happy])
        assert found[part]["medians"][0] == pytest.approx(median)
    shutil.rmtree(trained / f"metrics/explained/{NAME}")
    assert explain(trained, clip=cache.ids[0]) == (0, [])  # who is drawn where nobody is named
    assert drawings(trained) == first
    assert explain(trained, clip="synthetic/sub03/EP01_05") == (0, [])
    changed = {name for name, content in drawings(trained).items() if content != first[name]}
    assert changed == {"attention.png"}


def test_a_deterministic_network_has_gamma_1(project):
    """The ablation of Table 5: all clips weigh the same, and there is nothing to hold against their classes."""
    assert train(project, overrides={"uncertainty": False}) == (0, [])
    assert explain(project) == (0, [])
    found = json.loads(drawings(project)["gamma.json"])
    for part in ("test", "training"):
        assert found[part]["medians"] == [1.0] * 5
        assert found[part]["undefined"]["spearman"] == "all classes have the same median"


def test_a_clip_that_is_not_there_names_the_nearest(trained):
    refused(explain(trained, clip="synthetic/sub01/EP01_01b"),
            "explain@synthetic-uamrn: params.yaml: explain.runs.synthetic-uamrn.clip is 'synthetic/sub01/EP01_01b'",
            "did you mean 'synthetic/sub01/EP01_01'?")  # fmt: skip


def test_a_sequence_without_factors_is_refused(trained):
    write_flow(trained)
    refused(explain(trained, sequence=FLOW),
            f"{FLOW}: holds 'flow', no frames magnified by growing factors;",
            "set explain.runs.synthetic-uamrn.sequence to the product that the model reads")  # fmt: skip


def test_a_model_without_explanations_is_refused(trained):
    (trained / f"data/predictions/{NAME}/explain.h5").unlink()
    refused(explain(trained), f"data/predictions/{NAME}: model uamrn has explained nothing; remove explain.runs.{NAME}")
    path = trained / f"data/predictions/{NAME}/run.json"
    run_info = json.loads(path.read_text())
    run_info["protocol"]["leaky"] = True
    path.write_text(json.dumps(run_info))
    refused(explain(trained), "nothing is explained with train.selection test_best; set another")


# ---- parameters, and what is no run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pretrain_macro", "embed", "explain"])
def test_an_unknown_run_names_the_nearest(fresh, name):
    (known,) = written(fresh)[name]["runs"]
    refused(stage(fresh, name, known[:-1]), f"{name}@{known[:-1]}: params.yaml: {name}.runs has no '{known[:-1]}'",
            f"did you mean '{known}'?")  # fmt: skip


def test_the_parameters_that_are_changed_below_are_valid(begun):
    validate.check(parse(written(begun)))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"explain/runs/{NAME}s", {"clip": "", "sequence": EMBEDDING},
         f"explain.runs.{NAME}s is no experiment; did you mean '{NAME}'?"),
        (f"explain/runs/{NAME}/sequence", EMBEDDING.replace("embedding", "embeddings"),
         f"explain.runs.{NAME}.sequence: no stage makes"),
        ("embed/runs/synthetic-box224/weights", "resnet", "embed.runs.synthetic-box224.weights 'resnet' is no entry of "
         "pretrain_macro.runs; did you mean 'resnet18'?"),
        ("embed/runs/synthetic-box224/weights", "magnet", "weights 'magnet' is no entry of pretrain_macro.runs"),
        ("train_magnet/runs/resnet18", "magnet",
         "train_magnet.runs and pretrain_macro.runs both write weights 'resnet18'; rename one"),
        ("embed/runs", {"synthetic": {"corpus": "synthetic", "crop": "box224", "weights": "resnet18"}},
         "embed.runs.synthetic must be named synthetic-box224 after its corpus and what it reads"),
        ("embed/runs/synthetic-box112", {"corpus": "synthetic", "crop": "box112", "weights": "resnet18"},
         "embed.runs.synthetic-box112: no stage makes data/cache/synthetic/box112/magnet.h5; did you mean"),
        ("embed/runs", {}, f"experiments.{NAME}.inputs: no stage makes {EMBEDDING}"),
    ],
)  # fmt: skip
def test_runs_that_do_not_fit_together(begun, path, value, message):
    raw = written(begun)
    if path.startswith("train_magnet"):
        value = raw["train_magnet"]["runs"][value]
    with pytest.raises(MerError) as error:
        parse(change(raw, path, value))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
