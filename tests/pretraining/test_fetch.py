"""Official weights, out of a folder as transformers writes it; nothing here asks the net."""

import os
import subprocess
import sys

import pytest
import torch

from mer import models
from mer.errors import MerError
from mer.networks.resnet import ResNet18, as_torchvision, needed
from mer.pretraining import Context, run
from mer.products import Weights
from mer.storage.weights import save_weights

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXT = Context(where="pretrain.runs.official")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """(folder, the tensors in it): a ResNet-18 with its classifier, as on the hub."""
    from transformers import ResNetConfig, ResNetForImageClassification

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic", "num_labels": 3}
        network = ResNetForImageClassification(ResNetConfig(**sizes))
    folder = tmp_path_factory.mktemp("official")
    network.save_pretrained(folder)
    return folder, as_torchvision(network.state_dict())


def entry(source, network="resnet18", revision="main"):
    return {"task": "fetch", "network": network, "user_weights": None, "source": str(source), "revision": revision}


def test_a_folder_is_read_and_named(official):
    folder, state = official
    made = run(entry(folder), CONTEXT)
    assert made.about == {"weights": f"official: {folder}"}
    found = needed(made.network)
    assert found.keys() == needed(ResNet18()).keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_a_name_on_the_hub_is_asked_for_in_its_revision(official, monkeypatch):
    from transformers import ResNetModel

    read, asked = ResNetModel.from_pretrained, []

    def from_pretrained(source, revision, **options):
        asked.append((source, revision))
        return read(official[0], **options)

    monkeypatch.setattr(ResNetModel, "from_pretrained", from_pretrained)
    made = run(entry("someone/resnet", revision="0a1b2c3"), CONTEXT)
    assert asked == [("someone/resnet", "0a1b2c3")]
    assert made.about == {"weights": "official: someone/resnet, revision 0a1b2c3"}
    assert torch.equal(made.network.conv1.weight, official[1]["conv1.weight"])


def test_a_network_without_official_weights_is_refused():
    with pytest.raises(MerError) as caught:
        run(entry("someone/magnet", network="magnet"), CONTEXT)
    assert str(caught.value).startswith(
        "pretrain.runs.official.network is 'magnet', for which there are no official weights to fetch; put a file into "
        "its user_weights, train it, or take resnet18, vit"
    )


def test_a_tiny_vit_of_a_folder_goes_from_the_stage_into_msmmt(tmp_path):
    """The official weights' way from end to end: transformers' folder, file of weights, network."""
    import transformers

    folder = tmp_path / "tiny"
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=224
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    made = run(entry(folder, network="vit"), CONTEXT)
    assert made.about == {"weights": f"official: {folder}"}
    save_weights(made.network, tmp_path / "vit.safetensors", made.about)
    spec, small = models.load("msmmt"), {"size": 128, "width": 32, "layers": 3, "heads": 4}
    assert Weights("vit") in spec.reads(spec.all_knobs(small))
    network = spec.load_weights(models.build("msmmt", 3, **small), tmp_path / "vit.safetensors")
    for vit in network.vits.values():
        assert torch.equal(vit.pos_embed, made.network.pos_embed)
        assert torch.equal(vit.blocks[2].qkv.weight, made.network.blocks[2].qkv.weight)


def test_where_the_weights_cannot_be_had_the_folder_to_fill_is_named(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(MerError, match=f"or bring a file of your own into {own}$"):
        run(entry(tmp_path / "nothing", network="vit") | {"user_weights": str(own)}, CONTEXT)


OFFLINE = """
import sys
from mer.errors import MerError
from mer.pretraining import Context, run
runs = {
    "fetch": {"source": "microsoft/resnet-18", "revision": "main"},
    "macro": {"raw": sys.argv[1], "first": "imagenet"},
}
for task, entry in runs.items():
    try:
        run({"task": task, "network": "resnet18", "user_weights": None, **entry}, Context(where="pretrain.runs.x"))
    except MerError as error:
        print(error)
"""


@pytest.mark.slow
def test_without_a_net_one_line_says_what_to_do(tmp_path):
    """In a process of its own: that there is no net is known when the hub's library is loaded."""
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, remedy in zip(lines, ("", ", or take first: random"), strict=True):
        assert line.startswith("microsoft/resnet-18: the official weights of ResNet-18 cannot be had (")
        assert line.endswith(
            "; fetch them once where there is a net, name a folder that holds them, or bring a file of your own"
            + remedy
        )
