"""Stage pretrain: the weights of every task and what their file says of them.

The stage's `main` runs in this process, on runs that mer.params has checked; tests/stages/test_graph.py runs the whole
command. The pool's faces are rendered.
"""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch
from safetensors.torch import load_file

from mer.errors import MerError
from mer.magnification.magnet import MagNet, load_magnet
from mer.networks.resnet import ResNet18, needed
from mer.parallel import SERIAL
from mer.params import Pretrain
from mer.pretraining import loop
from mer.storage.weights import digest_of, provenance, subjects_seen, weights_about
from mer.synthetic.pool import write_pool
from stages.pretrain import main
from tests.helpers.macro_sets import FER, PLUS, csv_text, draw, put

pytestmark = pytest.mark.usefixtures("one_thread")

RESNET, MAGNET = "data/weights/resnet18.safetensors", "data/weights/magnet.safetensors"
POOL = "2 steps on the synthetic macro pool (10 images, 2 people), from random weights"
RUNS = {
    "resnet18": {
        "task": "macro", "network": "resnet18", "user_weights": "data/raw/resnet18", "reader": "fer2013",
        "options": {"labels": "ferplus"}, "raw": "data/raw/fer2013", "watch": "data/raw/fer2013", "crop": "none",
        "pool": "people", "first": "random", "size": 32, "steps": 2, "batch_size": 2, "lr": 1e-3, "weight_decay": 1e-4,
    },
    "magnet": {
        "task": "moving_layers", "network": "magnet", "user_weights": "data/raw/magnet", "pool": "people", "steps": 2,
        "batch_size": 2, "size": 32, "lr": 1e-3, "regularisation": 0.1, "first": "linear", "skin": 0.5,
    },
    "official": {
        "task": "fetch", "network": "resnet18", "user_weights": None, "source": "data/raw/official", "revision": "main",
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread_inside(monkeypatch):
    monkeypatch.setattr(loop, "THREADS", 1)  # a second would wait for a core that other tests use


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """The pool of two people, one image of each emotion."""
    folder = tmp_path_factory.mktemp("people") / "pool"
    write_pool(folder, subjects={101: 0, 102: 0}, seed=0, macro=1, clips=0, pairs=0, length=(8, 8))
    return folder


@pytest.fixture
def project(people, tmp_path, monkeypatch):
    """A folder with the pool and nothing of a user; it is the current one."""
    shutil.copytree(people, tmp_path / "data/raw/people/pool")
    for name in ("resnet18", "magnet", "fer2013"):
        put(tmp_path / f"data/raw/{name}/README.md", "What belongs here.")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path / "data/weights", ignore_errors=True)  # each holds 45 MB
    shutil.rmtree(tmp_path / "data/.partial", ignore_errors=True)


def pretrain(name="resnet18", seed=0, code="x", key=None, **changes) -> None:
    """The stage in the current folder, with the run `name` changed and called `key`."""
    key = key or name
    section = Pretrain.model_validate({"runs": {key: RUNS[name] | changes}, "seed": seed})
    main(
        SimpleNamespace(
            key=key, params=SimpleNamespace(pretrain=section, runtime=SimpleNamespace(launcher="")), device="cpu",
            engine=SERIAL, spool=Path("data/.partial") / f"pretrain@{key}", code=lambda: code,
        )
    )  # fmt: skip


def refused(message: str, **arguments) -> None:
    with pytest.raises(MerError, match=re.escape(message)) as caught:
        pretrain(**arguments)
    assert "\n" not in str(caught.value)
    assert not Path("data/weights").exists()


def tensors(path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in load_file(path).items() if not name.endswith("num_batches_tracked")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def drawn(seed: int) -> ResNet18:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet18()


# ---- macro-expressions ----------------------------------------------------------------------------------------------


def test_the_pool_is_learned_where_nobody_brought_a_set_and_the_file_says_so(project):
    pretrain()
    about = weights_about(RESNET)
    assert about["weights"] == provenance(RESNET) == POOL
    assert re.fullmatch(r"[01]\.\d{3} of 5 held-out images, 5 emotions", about["accuracy"])  # one of the two people
    assert set(about) == {"weights", "accuracy", "device"}
    assert subjects_seen(RESNET) == set()
    assert not same(tensors(RESNET), needed(drawn(0)))


@pytest.mark.parametrize(("name", "path"), [("resnet18", RESNET), ("magnet", MAGNET)])
def test_it_repeats_to_the_byte_also_when_it_goes_on_from_a_checkpoint(project, monkeypatch, name, path):
    pretrain(name, steps=3)
    first = Path(path).read_bytes()
    shutil.rmtree("data/.partial")
    Path(path).unlink()
    train, keep = loop.train, loop.keep

    def killed(*args):
        keep(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "keep", killed)
        patch.setattr(loop, "train", lambda *args, **options: train(*args, **options | {"every": 1}))
        with pytest.raises(KeyboardInterrupt):
            pretrain(name, steps=3)
    assert torch.load(f"data/.partial/pretrain@{name}/checkpoint.pt", weights_only=True)["step"] == 1
    assert not Path(path).exists()
    pretrain(name, steps=3)
    assert Path(path).read_bytes() == first


def test_a_set_is_learned_instead_of_the_pool(project):
    put(project / "data/raw/fer2013/fer2013.csv", csv_text(FER))
    put(project / "data/raw/fer2013/fer2013new.csv", PLUS)
    pretrain()
    about = weights_about(RESNET)
    what = "fer2013, fer2013.csv with fer2013new.csv, majority half, labels ferplus (3 images)"
    assert about["weights"] == f"2 steps on {what}, from random weights"
    assert about["accuracy"].endswith(" of 2 held-out images, 7 emotions")  # val and test; who got a vote is a class
    pretrain(options={}, steps=0)
    assert weights_about(RESNET) == {
        "weights": "0 steps on fer2013, fer2013.csv (6 images), from random weights",
        "device": "cpu",
    }
    assert same(tensors(RESNET), needed(drawn(0)))


def ckplus(folder: Path) -> tuple[dict, str, str]:
    """The pool's people at their peak, and one who cannot be seen; (changes to a run, set, accuracy)."""
    for code, emotion in ((3, "disgust"), (5, "happiness"), (7, "surprise")):
        for person in ("101", "102"):
            stem = f"S{person}_00{code}_00000009"
            shown = folder.parent / f"people/pool/macro/{emotion}/sub{person}_1.jpg"
            put(folder / f"Emotion/S{person}/00{code}/{stem}_emotion.txt", f"   {code}.0000000e+00\n")
            image = folder / f"cohn-kanade-images/S{person}/00{code}/{stem}.png"
            image.parent.mkdir(parents=True)
            assert cv2.imwrite(str(image), cv2.imread(str(shown), cv2.IMREAD_GRAYSCALE))
    put(folder / "Emotion/S103/001/S103_001_00000002_emotion.txt", "1")
    draw(folder / "cohn-kanade-images/S103/001/S103_001_00000002.png", size=(320, 320))
    options = {"reader": "ckplus", "options": {"last": 1}, "crop": "box224"}
    what = "ckplus, cohn-kanade-images, last 1 (7 images), 1 of them without a face"
    return options, what, "of 3 held-out images, 3 emotions"


def rafdb(folder: Path) -> tuple[dict, str, str]:
    lines = []
    for code in range(1, 8):
        stem = f"{'test' if code == 7 else 'train'}_{code:05d}"
        draw(folder / f"basic/Image/aligned/{stem}_aligned.jpg", 30 * code, size=(100, 100))
        lines.append(f"{stem}.jpg {code}\n")
    put(folder / "basic/EmoLabel/list_patition_label.txt", "".join(lines))
    what = "rafdb, list_patition_label.txt, aligned (7 images)"
    return {"reader": "rafdb", "options": {}, "crop": "none"}, what, "of 1 held-out images, 7 emotions"


@pytest.mark.parametrize("unpack", [ckplus, rafdb])
def test_another_set_is_one_entry(project, unpack):
    name = unpack.__name__
    changes, what, accuracy = unpack(project / f"data/raw/{name}")
    pretrain(**changes, key=name, raw=f"data/raw/{name}")
    about = weights_about(f"data/weights/{name}.safetensors")
    assert about["weights"] == f"2 steps on {what}, from random weights"
    assert about["accuracy"].endswith(accuracy)


def test_images_without_any_face_are_refused(project):
    draw(project / "data/raw/ckplus/CK+48/happy/S010_004_00000017.png", size=(64, 64))
    refused(
        "no face was found in any image of ckplus, CK+48 (1 images); set pretrain.runs.resnet18.crop to none",
        reader="ckplus", options={}, raw="data/raw/ckplus", crop="box224",
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_without_set_and_pool_the_initial_weights_are_the_weights(project, seed):
    pretrain(seed=seed, pool=None)
    assert weights_about(RESNET) == {"weights": "random weights", "device": "cpu"}
    assert same(tensors(RESNET), needed(drawn(seed)))


@pytest.fixture(scope="module")
def official():
    from transformers import ResNetConfig, ResNetModel

    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
        return ResNetModel(ResNetConfig(**sizes))


def test_imagenet_is_the_beginning_where_it_can_be_had(project, official, monkeypatch):
    from transformers import ResNetModel

    report = {"missing_keys": [], "mismatched_keys": []}
    monkeypatch.setattr(ResNetModel, "from_pretrained", lambda *args, **options: (official, report))
    pretrain(first="imagenet", pool=None)
    assert weights_about(RESNET) == {"weights": "ImageNet weights", "device": "cpu"}
    first = "embedder.embedder.convolution.weight"
    assert torch.equal(load_file(RESNET)["conv1.weight"], official.state_dict()[first])
    assert not torch.equal(drawn(0).conv1.weight, official.state_dict()[first])
    pretrain(first="auto")
    assert weights_about(RESNET)["weights"] == POOL.replace("random", "ImageNet")


def test_without_a_net_imagenet_is_refused_and_auto_says_what_it_takes(project, monkeypatch, capsys):
    from transformers import ResNetModel

    def offline(*args, **options):
        raise OSError("We couldn't connect to the hub.\nmore")

    monkeypatch.setattr(ResNetModel, "from_pretrained", offline)
    reason = "microsoft/resnet-18: the official weights of ResNet-18 cannot be had (We couldn't connect to the hub.)"
    refused(reason, first="imagenet", pool=None)
    pretrain(first="auto", pool=None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(reason)
    assert line.endswith("so it begins with random weights")
    assert weights_about(RESNET) == {"weights": "random weights", "device": "cpu"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"label": "ferplus"}},
         "params.yaml: pretrain.runs.resnet18.options.label is unknown; did you mean 'labels'?"),
        ({"reader": "ckplus", "options": {"last": "2"}},
         "pretrain.runs.resnet18.options.last is '2'; needed is a value of type int"),
        ({"raw": "data/raw/fer"},
         "data/raw/fer: there is no such folder; make it, or correct pretrain.runs.resnet18.raw"),
        ({"raw": "data/raw/people/pool"}, "data/raw/people/pool: holds none of fer2013.csv, icml_face_data.csv"),
        ({"pool": "others"}, "data/raw/others/pool/macro/labels.csv: there is no such file; run dvc repro synthesize"),
        ({"network": "magnet"}, "pretrain.runs.resnet18.network is 'magnet', which makes no features of faces"),
    ],
)  # fmt: skip
def test_runs_that_cannot_work(project, changes, message):
    """The first two where there is a set to read."""
    if "options" in changes:
        put(project / "data/raw/fer2013/fer2013.csv", csv_text(FER))
    refused(message, **changes)


# ---- moving layers --------------------------------------------------------------------------------------------------


def test_magnet_is_trained_on_the_pools_portraits(project):
    pretrain("magnet")
    assert weights_about(MAGNET) == {"weights": "trained here, 2 steps", "device": "cpu"}
    with_portraits = load_magnet(MAGNET).state_dict()
    pretrain("magnet", pool=None)
    assert weights_about(MAGNET) == {"weights": "trained here, 2 steps", "device": "cpu"}
    assert not same(with_portraits, load_magnet(MAGNET).state_dict())


def test_a_pool_that_has_not_been_made_is_refused(project):
    refused(
        "data/raw/others/pool/macro/labels.csv: there is no such file; run dvc repro synthesize",
        name="magnet", pool="others",
    )  # fmt: skip


# ---- the user's own, and official weights ---------------------------------------------------------------------------


def test_ones_own_weights_are_taken_as_they_are_and_two_files_refused(project):
    """Even where there is a set: nothing is trained on top of them."""
    own, folder = drawn(5), project / "data/raw/resnet18"
    put(project / "data/raw/fer2013/fer2013.csv", csv_text(FER))
    (folder / "another.bin").write_bytes(b"")
    (folder / "ferplus.pth").write_bytes(b"")
    refused("data/raw/resnet18: holds another.bin, ferplus.pth; leave one file of weights there")
    (folder / "another.bin").unlink()
    torch.save({"state_dict": needed(own) | {"fc.weight": torch.zeros(8, 512)}}, folder / "ferplus.pth")
    pretrain()
    assert weights_about(RESNET) == {"weights": "given: ferplus.pth", "sha256": digest_of(folder / "ferplus.pth")}
    assert same(tensors(RESNET), needed(own))


def test_weights_that_are_none_are_refused(project):
    path = project / "data/raw/resnet18/resnet18.pth"
    path.write_bytes(b"PK")
    refused("data/raw/resnet18/resnet18.pth: is not a torch file of weights")
    torch.save(needed(drawn(0)) | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, path)
    refused("not the weights of ResNet-18 (100 tensors): 1 of another shape: layer1.0.conv1.weight is (64, 64, 1")
    path.rename(path.with_suffix(".safetensors"))
    refused("resnet18.safetensors: is not a safetensors file of weights")
    state = {"encoder.cba_1.conv2d.weight": torch.zeros(16, 3, 7, 7), "head.weight": torch.zeros(3)}
    torch.save(state, "data/raw/magnet/a.pth")
    refused(
        "data/raw/magnet/a.pth: not the weights of MagNet (42 tensors): 41 missing: decoder.cba_1.conv2d.weight",
        name="magnet",
    )


def test_a_magnet_in_place_is_taken_and_left_alone_without_a_folder(project):
    torch.manual_seed(0)
    own = MagNet()
    torch.save(own.state_dict(), "data/raw/magnet/own.pth")
    pretrain("magnet")
    assert weights_about(MAGNET) == {"weights": "given: own.pth", "sha256": digest_of("data/raw/magnet/own.pth")}
    assert same(load_magnet(MAGNET).state_dict(), own.state_dict())
    pretrain("magnet", user_weights=None)
    assert provenance(MAGNET) == "trained here, 2 steps"


def test_the_public_magnet_is_the_one_that_is_released(project, reference):
    source = reference / "magnet/magnet_epoch12_loss7.28e-02.pth"
    shutil.copyfile(source, project / f"data/raw/magnet/{source.name}")
    pretrain("magnet")
    assert provenance(MAGNET) == f"given: {source.name}"
    assert same(load_magnet(MAGNET).state_dict(), load_magnet(source).state_dict())


def test_official_weights_are_fetched(project, official):
    official.save_pretrained("data/raw/official")
    pretrain("official")
    path = "data/weights/official.safetensors"
    assert weights_about(path) == {"weights": "official: data/raw/official"}
    assert torch.equal(load_file(path)["conv1.weight"], official.state_dict()["embedder.embedder.convolution.weight"])
