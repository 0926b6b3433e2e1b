"""ViT against transformers' own: whole, at other sizes, and with weights under three kinds of names."""

import re

import pytest
import torch
import transformers
from torch.nn import functional as F

from mer.errors import MerError
from mer.networks import vit
from mer.networks.vit import ViT, as_ours, attention_with_map, load_official, load_user_weights, load_vit, mean_map
from mer.storage.weights import save_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
OURS = {"width": 32, "layers": 3, "heads": 4, "widen": 3}


@pytest.fixture(scope="module")
def official():
    """Transformers' network, 64 px, with weights large enough that every part of it shows in the output."""
    torch.manual_seed(0)
    network = transformers.ViTModel(transformers.ViTConfig(image_size=64, **SHAPE)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def ours(official, **changes) -> ViT:
    network = ViT(**OURS, grid=4, **changes).eval()
    state = as_ours(official.state_dict(), 4)
    return network.read({name: state[name] for name in network.needed()})  # without the pooler


def hidden(network: ViT, images: torch.Tensor, **how) -> torch.Tensor:
    x = network.embed(images)
    for block in network.blocks:
        x, _ = block(x, [x.shape[1]], **how)
    return network.norm(x)


def qkv(batch=3, heads=2, length=7, width=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, length, width, generator=g, dtype=dtype, requires_grad=True) for _ in range(3)]


# ---- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maps", ["none", "mean", "detached"])
@pytest.mark.parametrize("side", [32, 64, 112])
@torch.no_grad()
def test_it_is_transformers_vit_at_every_size(official, side, maps):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    expected = official(images, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(hidden(ours(official), images, maps=maps), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_of_faces_in_grey_levels_it_gives_the_class_token(official):
    """What task macro trains; grey levels 0..255 are -1..1, as transformers' image processor has it for ViT."""
    faces = torch.randint(0, 256, (2, 64, 64, 3), generator=torch.Generator().manual_seed(0))
    images = faces.permute(0, 3, 1, 2) / 127.5 - 1
    expected = official(images, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    torch.testing.assert_close(ours(official)(faces), expected, rtol=1e-5, atol=1e-5)


def test_a_small_one_is_built_and_read_by_the_same_knobs(tmp_path):
    from mer.networks.vit import build_pretrained
    from mer.storage.weights import save_weights

    knobs = {"width": 12, "layers": 2, "heads": 3, "widen": 2, "grid": 4}
    network = build_pretrained(**knobs)
    save_weights(network, tmp_path / "own.safetensors")
    found = load_user_weights(tmp_path / "own.safetensors", **knobs).state_dict()
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())
    with pytest.raises(MerError, match="3 heads, needed is one with 4"):
        load_user_weights(tmp_path / "own.safetensors", **knobs | {"heads": 4})


@pytest.mark.parametrize("side", [2, 4, 5, 9])
def test_positions_are_interpolated_as_transformers_does_it(official, side):
    grid = torch.zeros(1, 1 + side**2, 32)
    expected = official.embeddings.interpolate_pos_encoding(grid, side * 16, side * 16)[0]
    torch.testing.assert_close(ours(official).positions(side), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_images_of_several_sizes_in_one_row_do_not_see_each_other(official):
    network, g = ours(official), torch.Generator().manual_seed(1)
    images = [torch.randn(2, 3, side, side, generator=g) for side in (64, 32)]
    rows = [network.embed(image) for image in images]
    x, parts = torch.cat(rows, 1), [row.shape[1] for row in rows]
    for block in network.blocks:
        x, maps = block(x, parts, "mean")
        assert [m.shape for m in maps] == [(2, 17, 17), (2, 5, 5)]
    for found, image in zip(network.norm(x).split(parts, 1), images, strict=True):
        torch.testing.assert_close(found, hidden(network, image), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_last_layers_class_tokens_alone_are_those_of_the_whole_layer(official):
    network, g = ours(official), torch.Generator().manual_seed(1)
    x, parts, block = torch.randn(2, 22, 32, generator=g), [17, 5], ours(official).blocks[1]
    whole, _ = network.blocks[1].attend(x, parts, "none")
    torch.testing.assert_close(block.attend_first(x, parts), whole[:, [0, 17]], rtol=1e-5, atol=1e-5)


def test_what_the_backward_pass_forms_again_changes_no_gradient(official):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for lean in (False, True):
        network = ours(official)
        hidden(network, images, lean=lean).square().sum().backward()
        found.append([p.grad for p in network.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_each_class_token_begins_as_the_official_one_and_is_its_own(official):
    network = ours(official, tokens=3)
    assert torch.equal(network.cls_token, official.embeddings.cls_token[0].expand(3, -1))
    with torch.no_grad():
        network.cls_token[1] += 1
    first, second, third = (network.embed(torch.zeros(1, 3, 64, 64), i)[0, 0] for i in range(3))
    assert torch.equal(first, third)
    torch.testing.assert_close(second - first, torch.ones(32))


# ---- attention with its map -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 2**22])  # a clip at a time, and all together
def test_attention_and_its_map_are_those_that_are_kept(monkeypatch, at_once):
    monkeypatch.setattr(vit, "AT_ONCE", at_once)
    q, k, v = qkv()
    kept = (q @ k.transpose(-1, -2) / 5**0.5).softmax(-1)
    out, mean = attention_with_map(q, k, v)
    # The map is float32 also where its inputs are not.
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mean.double(), kept.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mean_map(q, k), mean)
    # One of many functions of both, whose gradient reaches q and k by both ways.
    g = torch.Generator().manual_seed(9)
    of_out, of_mean = (torch.randn(x.shape, generator=g, dtype=x.dtype) for x in (out, mean))
    found = torch.autograd.grad((out * of_out).sum() + (mean * of_mean).sum(), (q, k, v))
    expected = torch.autograd.grad((kept @ v * of_out).sum() + (kept.mean(1) * of_mean).sum(), (q, k, v))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_map_keeps_its_digits_in_bfloat16():
    q, k, v = (x.detach().bfloat16() for x in qkv(length=64))
    out, mean = attention_with_map(q, k, v)
    assert (out.dtype, mean.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(mean.sum(-1), torch.ones(3, 64), rtol=1e-6, atol=1e-6)


# ---- weights --------------------------------------------------------------------------------------------------------


def as_timm(state: dict) -> dict:
    names = {"cls_token": "cls_token", "pos_embed": "pos_embed", "patch": "patch_embed.proj", "qkv": "attn.qkv",
             "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}  # fmt: skip
    return {
        re.sub(r"\b(patch|qkv|proj|fc1|fc2)\b", lambda m: names[m[1]], name): value for name, value in state.items()
    }


def as_the_hub_has_them(state: dict) -> dict:
    """The names of transformers' files, which its network of today no longer has."""
    names = (("layers.", "encoder.layer."), (".q_proj.", ".attention.query."), (".k_proj.", ".attention.key."),
             (".v_proj.", ".attention.value."), (".o_proj.", ".output.dense."), (".mlp.fc1.", ".intermediate.dense."),
             (".mlp.fc2.", ".output.dense."))  # fmt: skip
    for ours, theirs in names:
        state = {name.replace(ours, theirs): value for name, value in state.items()}
    return state


@pytest.mark.parametrize("prefix", ["", "vit.", "module.vit."])
@pytest.mark.parametrize("names", ["transformers", "hub", "timm"])
def test_files_are_understood_under_the_names_of_transformers_and_timm(official, tmp_path, names, prefix):
    network = ViT(**OURS, grid=4).eval()
    state = {"transformers": official.state_dict(), "hub": as_the_hub_has_them(official.state_dict())}.get(names)
    if state is None:
        mine = ours(official).state_dict()
        state = as_timm({name: value for name, value in mine.items() if name != "heads"})
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].unflatten(1, (3, 16, 16))
        state |= {name: state[name][None] for name in ("cls_token", "pos_embed")}
        state["cls_token"] = state["cls_token"].view(1, 1, -1)
    file = {prefix + name: value for name, value in state.items()} | {prefix + "heads": torch.tensor(4)}
    file["classifier.weight"] = torch.zeros(1000, 32)
    torch.save(file, tmp_path / "vit.pth")
    load_vit(network, tmp_path / "vit.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(hidden(network, images), official(images).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_official_weights_come_from_a_folder_of_transformers_with_their_own_size(official, tmp_path, capfd):
    official.save_pretrained(tmp_path)
    capfd.readouterr()
    found = load_official(ViT(16, 1, 1), str(tmp_path), "main")
    assert capfd.readouterr().err == ""
    expected = ours(official).state_dict()
    assert {name: tuple(v.shape) for name, v in found.state_dict().items()} == {
        name: tuple(v.shape) for name, v in expected.items()
    }
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    save_weights(found, tmp_path / "vit.safetensors")
    again = load_vit(ViT(**OURS, grid=4), tmp_path / "vit.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def test_the_default_network_has_the_tensors_of_vit_b_16():
    with torch.device("meta"):
        mine, theirs = vit.build_pretrained(), transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
    assert sum(p.numel() for p in mine.parameters()) == sum(p.numel() for p in theirs.parameters()) == 85_798_656


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"patch_size": 8}, "is a ViT with patch_size 8; needed is one like ViT-B/16: patch_size 16"),
        ({"hidden_act": "relu"}, "is a ViT with hidden_act relu; needed is"),
        ({"intermediate_size": 70}, "is a ViT with an odd width of its feed-forward layer; needed is"),
    ],
)
def test_another_kind_of_vit_is_refused(tmp_path, change, line):
    transformers.ViTModel(transformers.ViTConfig(image_size=64, **SHAPE | change)).save_pretrained(tmp_path)
    with pytest.raises(MerError, match=re.escape(f"{tmp_path}: {line}")):
        load_official(vit.ViT(16, 1, 1), str(tmp_path), "main")


def test_weights_of_another_vit_are_refused_by_name(official, tmp_path):
    path = tmp_path / "vit.safetensors"
    save_weights(ours(official), path)
    for network, line in (
        (ViT(**OURS | {"layers": 4}, grid=4), "12 missing: blocks.3.fc1.bias"),
        (ViT(**OURS | {"widen": 4}, grid=4), "blocks.0.fc1.bias is (96,), needed is (128,)"),
        (ViT(**OURS), "pos_embed is (17, 32), needed is (197, 32)"),
        (ViT(**OURS | {"heads": 8}, grid=4), "are of a ViT with 4 heads, needed is one with 8; bring such weights"),
    ):
        with pytest.raises(MerError, match=re.escape(str(path)) + ".*" + re.escape(line)):
            load_vit(network, path)
    with pytest.raises(MerError, match="bring a ViT-B/16 with transformers' or timm's names"):
        load_user_weights(path)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(MerError, match="width is 30 and heads is 4"):
        ViT(30, 2, 4)
