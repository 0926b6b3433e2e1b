"""ResNet-18 against transformers', its sizes, and the files that its weights may come in."""

import numpy as np
import pytest
import torch

from mer.errors import MerError
from mer.networks import resnet as backbones
from mer.networks.resnet import ResNet18, as_torchvision, load_official, load_resnet18, needed
from mer.storage.weights import save_weights, weights_about

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def official():
    """transformers' own ResNet-18 with random weights and random statistics."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
    network = ResNetModel(config)
    for name, value in network.state_dict().items():
        if "running" in name or ("normalization" in name and value.is_floating_point()):
            value.copy_(torch.rand_like(value) + 0.5)
    return network.eval()


def drawn(tap="layer4", seed=1, **options):
    torch.manual_seed(seed)
    return ResNet18(tap, **options)


def frames(count=2, side=64):
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("tap", "grid", "width", "parameters"),
    [("layer1", 4, 1024, 157_504), ("layer2", 4, 2048, 683_072), ("layer3", 2, 1024, 2_782_784),
     ("layer4", 1, 512, 11_176_512)],
)  # fmt: skip
def test_it_has_the_sizes_and_names_of_resnet_18(tap, grid, width, parameters):
    """Counts from the definition: 64 * 147 + 128, then per stage its convolutions of 9 weights and two a channel."""
    net = ResNet18(tap, grid, freeze=True).train()
    assert net(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape == (2, width) == (2, net.width)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert not any(module.training for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    names = set(net.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer1.1.bn2.bias"} <= names
    assert ("layer2.0.downsample.1.weight" in names) == (tap != "layer1")
    assert "layer1.0.downsample.0.weight" not in names


def test_frames_enter_as_imagenet_has_them_and_a_few_at_a_time(monkeypatch):
    net = ResNet18("layer2", 4).train()
    some = torch.randint(0, 256, (5, 32, 48, 3), dtype=torch.uint8)
    seen = []
    net.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(some)
    expected = (some.numpy() / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen[0].numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    whole = net.eval()(some)
    monkeypatch.setattr(backbones, "AT_ONCE", 2)
    torch.testing.assert_close(net(some), whole, rtol=1e-4, atol=1e-5)
    assert [len(part) for part in seen[2:]] == [2, 2, 1]


@pytest.mark.parametrize("tap", ["layer1", "layer2", "layer3", "layer4"])
def test_with_the_weights_of_transformers_it_is_transformers(official, tmp_path, tap):
    path = tmp_path / "pytorch_model.bin"
    torch.save({f"resnet.{name}": value for name, value in official.state_dict().items()}, path)
    ours = load_resnet18(drawn(tap, grid=2), path).eval()
    x = (frames().permute(0, 3, 1, 2) - ours.centre) / ours.spread
    with torch.no_grad():
        hidden = official(x, output_hidden_states=True).hidden_states[int(tap[-1])]
        expected = torch.nn.functional.adaptive_avg_pool2d(hidden, 2).flatten(1)
        torch.testing.assert_close(ours(frames()), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("wrap", ["plain", "module.", "backbone.", "nested", "safetensors"])
def test_files_in_torchvisions_names_are_understood(tmp_path, wrap):
    """Behind a prefix, inside a checkpoint, deeper than is needed, with a classifier, without counters."""
    deep, path = drawn("layer4"), tmp_path / ("w.safetensors" if wrap == "safetensors" else "w.pth")
    state = needed(deep) | {"fc.weight": torch.zeros(8, 512), "fc.bias": torch.zeros(8)}
    if wrap == "safetensors":
        save_weights(deep, path, {"weights": "drawn"})
        assert weights_about(path) == {"weights": "drawn"}
    elif wrap == "nested":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        torch.save({(wrap if wrap != "plain" else "") + name: value for name, value in state.items()}, path)
    shallow = load_resnet18(drawn("layer2", seed=5, grid=4), path)
    for name, value in needed(shallow).items():
        assert torch.equal(value, deep.state_dict()[name]), name


def test_weights_of_another_shape_are_refused(tmp_path):
    """A ResNet-50's first block begins with a convolution of one pixel."""
    path = tmp_path / "resnet50.pth"
    torch.save(needed(drawn()) | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, path)
    with pytest.raises(MerError) as caught:
        load_resnet18(drawn("layer2"), path)
    assert str(caught.value) == (
        f"{path}: not the weights of ResNet-18 (50 tensors): 1 of another shape: layer1.0.conv1.weight is "
        "(64, 64, 1, 1), needed is (64, 64, 3, 3); bring a ResNet-18 with torchvision's or transformers' names"
    )
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(MerError, match=r"missing: bn1\.bias"):
        load_resnet18(drawn("layer2"), path)


def test_names_that_are_not_a_resnets_stay():
    assert as_torchvision({"head.weight": 1}) == {"head.weight": 1}


def test_official_weights_come_from_a_folder_of_transformers(official, tmp_path, capfd):
    """Shown is nothing: what is not read, such as a classifier, is as it should be."""
    official.save_pretrained(tmp_path)
    capfd.readouterr()
    ours = load_official(drawn("layer1"), str(tmp_path))
    expected = official.state_dict()["encoder.stages.0.layers.1.layer.1.convolution.weight"]
    assert torch.equal(ours.layer1[1].conv2.weight, expected)
    assert capfd.readouterr() == ("", "")


def test_official_weights_are_imagenets_unless_another_source_is_named(official, monkeypatch):
    from transformers import ResNetModel

    asked = []

    def from_pretrained(source, revision, **options):
        asked.append((source, revision))
        return official, {"missing_keys": [], "mismatched_keys": []}

    monkeypatch.setattr(ResNetModel, "from_pretrained", from_pretrained)
    load_official(drawn("layer1"))
    load_official(drawn("layer1"), "someone/resnet", "v2")
    assert asked == [("microsoft/resnet-18", "main"), ("someone/resnet", "v2")]


def test_official_weights_that_cannot_be_had_or_are_others_are_refused(official, monkeypatch, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import ResNetConfig, ResNetModel

    def folder(name, network=official):
        network.save_pretrained(tmp_path / name)
        return tmp_path / name

    narrow = folder("narrow", ResNetModel(ResNetConfig(depths=[2] * 4, hidden_sizes=[8] * 4, layer_type="basic")))
    partial = folder("partial")
    state = load_file(partial / "model.safetensors")
    gone = "encoder.stages.0.layers.1.layer.1.convolution.weight"
    state[gone.replace("1.layer.1", "0.layer.1")] = torch.zeros(3, 3, 1, 1)
    save_file(
        {k: v.contiguous() for k, v in state.items() if k != gone}, partial / "model.safetensors", {"format": "pt"}
    )
    broken = folder("broken")
    (broken / "model.safetensors").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source, message in (
        (narrow, r"not the weights of ResNet-18 \(25 tensors\): 20 of another shape: layer1\.0\.bn1\.bias"),
        # Neither what misses nor what is of another shape than its own config says is left random.
        (partial, r"2 missing: layer1\.0\.conv2\.weight, layer1\.1\.conv2\.weight"),
        (broken, r"the official weights of ResNet-18 cannot be had \(.*header"),
        (tmp_path / "empty", r"cannot be had \(Error no file named model\.safetensors"),
        ("data/raw/none/there", r"cannot be had \("),
    ):
        with pytest.raises(MerError, match=f"{source}: .*{message}.*; fetch them once where there is a net") as caught:
            load_official(drawn("layer1"), str(source))
        assert "\n" not in str(caught.value)
