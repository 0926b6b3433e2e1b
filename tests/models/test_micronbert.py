"""Micron-BERT: swapping, attention between frames, patches of interest, what it reads, and its open questions."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from mer import models, products
from mer.errors import MerError
from mer.loso.recipe import Recipe
from mer.models import micronbert
from mer.pretraining.frame_pairs import agreement_loss
from mer.storage.weights import save_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"size": 32, "start": "random", "width": 16, "layers": 2, "heads": 2, "widen": 2}


def small(classes: int = 3, seed: int = 0, **knobs) -> micronbert.MicronBERT:
    torch.manual_seed(seed)
    return models.build("micronbert", classes, **{**SMALL, **knobs}).eval()


def autoencoder(seed: int = 0, **knobs) -> micronbert.Autoencoder:
    torch.manual_seed(seed)
    return micronbert.build_pretrained(**{**SMALL, **knobs})


def pairs(count: int = 4, size: int = 32, seed: int = 0) -> torch.Tensor:
    shape = (count, 2, size, size, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def uniform(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.rand(count, 4, generator=generator)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# ---- Algorithm 1 ----------------------------------------------------------------------------------------------------


def slow_swapping(draws, side, ratio, min_block, min_aspect, literal):
    """Algorithm 1 as it is printed, one image, one patch after another; with M-14's defaults where it is silent."""
    swapped, c = set(), 0.0
    while True:
        u = next(draws)
        area = min_block + u[0] * (max(min_block, ratio * side**2 - c) - min_block)
        aspect = min_aspect + u[1] * (1 / min_aspect - min_aspect)
        m, n = (min(side, max(1, round(math.sqrt(x)))) for x in (area * aspect, area / aspect))
        p, q = (min(side - length, math.floor(v * (side - length + 1))) for v, length in ((u[2], m), (u[3], n)))
        for i in range(p, p + m):
            for j in range(q, q + n):
                swapped.add(i * side + j)
        c = c + m * n if literal else len(swapped)
        if (c > ratio * side**2) if literal else (c >= ratio * side**2):
            return swapped


@pytest.mark.parametrize("count", ["once", "literal"])
def test_swapping_is_algorithm_1_on_every_image_of_the_batch(count):
    drawn = [torch.rand(20, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in range(60)]
    rounds = iter(drawn)
    cells = micronbert.swapped_cells(lambda: next(rounds), 28, count=count)
    for b in range(20):
        expected = slow_swapping(iter([d[b].tolist() for d in drawn]), 28, 0.5, 16, 0.3, count == "literal")
        assert set(cells[b].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize(("side", "ratio"), [(28, 0.5), (14, 0.3), (8, 0.75)])
def test_at_least_the_ratio_is_swapped_and_no_more_than_the_last_block_adds(side, ratio):
    cells = micronbert.swapped_cells(uniform(500), side, ratio=ratio, min_block=4)
    covered = cells.float().mean(1)
    assert (covered >= ratio).all()
    # Before the last block less than the ratio was covered, and no block is larger than what was missing, but for
    # rounding of its sides by half a patch each, and the least block.
    assert (covered * side**2 <= ratio * side**2 + max(4, side)).all()
    assert covered.std() > 0


def test_as_many_rounds_as_recognition_makes_cover_the_ratio():
    cells = micronbert.swapped_cells(uniform(2000), 28, rounds=micronbert.ROUNDS)
    assert (cells.float().mean(1) >= 0.5).all()


def test_blocks_lie_uniformly_where_they_fit():
    """Chi square of the upper left corner of 20,000 blocks of one form; p is below 1e-4 once in 10,000 seeds, and the
    seed is fixed."""
    u = torch.rand(20000, 4, generator=torch.Generator().manual_seed(3))
    u[:, 0], u[:, 1] = 0.0, (1 - 0.3) / (1 / 0.3 - 0.3)  # 16 patches, aspect 1: blocks of 4 x 4
    top, left, height, width = micronbert.rectangles(u, 28, torch.full((20000,), 100.0), 16, 0.3)
    assert (height == 4).all()
    assert (width == 4).all()
    assert int(top.max()) == int(left.max()) == 24
    assert int(top.min()) == int(left.min()) == 0
    counts = torch.bincount((top * 25 + left).long(), minlength=625)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_areas_and_aspects_are_those_that_were_asked_for():
    u = torch.rand(5000, 4, generator=torch.Generator().manual_seed(0))
    _, _, height, width = micronbert.rectangles(u, 100, torch.full((5000,), 2000.0), 200, 0.3)
    area, aspect = height * width, height / width
    assert 170 < area.min() < 260  # sides are rounded
    assert 1900 < area.max() < 2100
    assert 0.25 < aspect.min() < 0.33
    assert 3 < aspect.max() < 3.7


def test_swapped_patches_are_the_other_frames_and_the_rest_is_untouched():
    first, other = torch.randn(2, 3, 3, 32, 32)
    cells = micronbert.swapped_cells(uniform(3), 4, min_block=2)
    swapped = micronbert.patches_of(micronbert.swap(first, other, cells, 8), 8)
    assert torch.equal(swapped[cells], micronbert.patches_of(other, 8)[cells])
    assert torch.equal(swapped[~cells], micronbert.patches_of(first, 8)[~cells])


def test_equal_seeds_swap_equal_patches():
    one, two, three = (micronbert.swapped_cells(uniform(8, seed), 28) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


# ---- patches, positions, encoder ------------------------------------------------------------------------------------


def test_patches_are_eq_1_and_come_back_by_eq_6():
    images = torch.arange(2 * 3 * 16 * 24, dtype=torch.float32).view(2, 3, 16, 24)[..., :16]
    found = micronbert.patches_of(images, 8)
    assert found.shape == (2, 4, 192)
    assert torch.equal(found[1, 2].view(8, 8, 3), images[1, :, 8:, :8].permute(1, 2, 0))
    assert torch.equal(micronbert.image_of(found, 8), images)


def test_positions_are_vaswanis_of_row_and_column():
    codes = micronbert.sine_cosine(5, 16)
    row, column, rate = 3, 1, 10000 ** -(2 / 4)
    code = codes[row * 5 + column]
    assert code[2] == pytest.approx(math.sin(row * rate), abs=1e-6)
    assert code[4 + 2] == pytest.approx(math.cos(row * rate), abs=1e-6)
    assert code[8 + 2] == pytest.approx(math.sin(column * rate), abs=1e-6)
    assert len({tuple(c.tolist()) for c in codes}) == 25


def test_scores_are_the_contextual_tokens_row_of_the_last_attention():
    net = autoencoder().backbone.eval()
    tokens = torch.randn(2, 16, 16)
    x = torch.cat([net.context.expand(2, -1, -1), tokens], 1)
    x = net.blocks[0](x, [17])[0]
    y = net.blocks[1].norm1(x)
    q, k, _ = net.blocks[1].qkv(y).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    row = (q @ k.mT / math.sqrt(8)).softmax(-1).mean(1)[:, 0, 1:]
    encoded, scores = net.encode(tokens, scores=True)
    torch.testing.assert_close(scores, row / row.sum(1, keepdim=True))
    torch.testing.assert_close(scores.sum(1), torch.ones(2))
    torch.testing.assert_close(encoded, net.norm(net.blocks[1](x, [17])[0]))
    net.own_entry = "kept"
    torch.testing.assert_close(net.encode(tokens, scores=True)[1], row)


# ---- attention between frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_diagonal_is_that_of_the_full_attention(axis, factor):
    q, k = torch.randn(2, 3, 20, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)
    full = (q @ k.mT * factor).softmax(axis)
    found = micronbert.diagonal(q, k, factor, axis)
    # float32 of numbers that are rounded at exp's argument, up to 20 here.
    torch.testing.assert_close(found.double(), full.diagonal(dim1=1, dim2=2), rtol=2e-5, atol=1e-9)


def test_eqs_9_and_12_written_out():
    net = autoencoder(poi=True).backbone.eval()
    swapped, other, scores = torch.randn(2, 16, 16), torch.randn(2, 16, 16), torch.rand(2, 16)
    net.weight = "literal"
    full = (net.query(other) @ net.key(swapped).mT / 4).softmax(-1)
    for given in (None, scores):
        found = net.changes(swapped, other, given)
        for i in range(16):
            w = full[:, i, i] * (1 if given is None else given[:, i])
            torch.testing.assert_close(found.features[:, i], w[:, None] * net.value(swapped[:, i]))
    net.weight = "mean_one"
    torch.testing.assert_close(net.changes(swapped, other, scores).weights.mean(1), torch.ones(2))


def test_the_product_of_attention_and_values_is_never_formed():
    """The only product of N x N x d is that of queries and keys: 2 N^2 d operations, where attention has twice."""
    from torch.utils.flop_counter import FlopCounterMode

    q, k = torch.randn(2, 1, 64, 16).unbind(0)
    with FlopCounterMode(display=False) as counter:
        micronbert.diagonal(q, k, 1.0)
    assert counter.get_total_flops() == 2 * 64**2 * 16


def test_roles_of_the_paper_and_of_the_released_code():
    net = autoencoder(poi=False).backbone.eval()
    swapped, other = torch.randn(2, 1, 16, 16).unbind(0)
    net.roles = "code"
    full = (net.query(swapped) @ net.key(other).mT / 4).softmax(-1)
    torch.testing.assert_close(net.changes(swapped, other, None).diagonal, full.diagonal(dim1=1, dim2=2))


# ---- the autoencoder and its losses ---------------------------------------------------------------------------------


def test_mb1_decodes_the_swapped_frame_and_mb3_what_differs():
    first, other = torch.randn(2, 2, 3, 32, 32)
    cells = micronbert.swapped_cells(uniform(2), 4, min_block=2)
    mb1 = autoencoder(dma=False, poi=False).eval()
    swapped = micronbert.swap(first, other, cells, 8)
    expected = mb1.decode(mb1.backbone.encode(mb1.backbone.tokens(swapped))[0][:, 1:])
    torch.testing.assert_close(mb1(first, other, cells).patches, expected)
    assert mb1(first, other, cells).contexts is None
    mb3 = autoencoder().eval()
    net = mb3.backbone
    encoded, scores = net.encode(net.tokens(other), scores=True)
    found = net.changes(net.encode(net.tokens(swapped))[0][:, 1:], encoded[:, 1:], scores)
    restored = mb3(first, other, cells, other)
    torch.testing.assert_close(restored.patches, mb3.decode(found.features))
    torch.testing.assert_close(restored.contexts[0], restored.contexts[1])  # the crop was the frame itself
    torch.testing.assert_close(restored.diagonal, found.diagonal)


def test_a_masked_autoencoder_sees_no_masked_patch():
    net, first = autoencoder(pretext="mask", dma=False, poi=False).eval(), torch.randn(2, 3, 32, 32)
    cells = torch.rand(2, 16).argsort(1) < 12
    changed = micronbert.swap(first, torch.randn_like(first), cells, 8)
    assert torch.equal(net(first, first, cells).patches, net(changed, first, cells).patches)
    other = micronbert.swap(first, torch.randn_like(first), ~cells, 8)
    assert not torch.equal(net(first, first, cells).patches, net(other, first, cells).patches)


def test_eq_14_and_its_targets():
    frame = micronbert.normalised(pairs(2)[:, 0])
    wanted, cells = micronbert.patches_of(frame, 8), torch.arange(16).expand(2, -1) < 4
    options = {"pretext": "swap", "target": "imagenet", "patch": 8}
    guess = wanted + 0.5
    assert float(micronbert.restoration_loss(guess, frame, cells, **options)) == pytest.approx(0.25, rel=1e-5)
    guess = torch.where(cells[..., None], wanted + 1, wanted)
    assert float(micronbert.restoration_loss(guess, frame, cells, **options)) == pytest.approx(0.25, rel=1e-5)
    masked = micronbert.restoration_loss(guess, frame, cells, **{**options, "pretext": "mask"})
    assert float(masked) == pytest.approx(1, rel=1e-5)
    unit = micronbert.patches_of(pairs(2)[:, 0].float().permute(0, 3, 1, 2) / 255, 8)
    assert float(micronbert.restoration_loss(unit, frame, cells, **{**options, "target": "unit"})) < 1e-10
    each = (wanted - wanted.mean(-1, keepdim=True)) / wanted.std(-1, keepdim=True)
    assert float(micronbert.restoration_loss(each, frame, cells, **{**options, "target": "patch"})) < 1e-8


def test_eq_15_and_its_stopped_gradient():
    whole, crop = torch.randn(2, 4, 8).unbind(0)
    loss = agreement_loss(whole, crop)
    assert float(loss) == pytest.approx(float((whole - crop).square().mean()))
    a, b = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    agreement_loss(a, b, stopped=True).backward()
    assert a.grad is None
    assert b.grad is not None


# ---- sizes, knobs, weights ------------------------------------------------------------------------------------------


def test_parameters_of_the_printed_size():
    """4 + 4 blocks of 12 d^2 + 13 d, d = 512; embedding, attention between frames, norms, the last layer, one token."""
    d = 512
    block, patch = 12 * d**2 + 13 * d, 192
    backbone = 4 * block + (patch + 1) * d + d + 2 * d + 3 * (d * d + d)
    assert parameters(micronbert.build_pretrained()) == backbone + 4 * block + 2 * d + (d + 1) * patch == 26206912
    assert parameters(models.build("micronbert", 5)) == backbone + 2 * d + (d + 1) * 5


@pytest.mark.parametrize(
    ("knobs", "line"),
    [
        ({"size": 100}, "micronbert.size is 100; it must be a multiple of patch (8 px), such as 96"),
        ({"patch": 0}, "micronbert.patch is 0; it must be at least 1"),
        ({"width": 30, "heads": 4}, "micronbert.width is 30; it must be a multiple of heads (4) and of 4"),
        ({"pretext": "mask"}, "micronbert.pretext is mask, which has a single frame; set dma: false and poi: false"),
        ({"dma": False}, "micronbert.poi weights what dma finds; set dma: true, or poi: false"),
        ({"swap_input": "random", "dma": False, "poi": False}, "blends the frames that only dma compares"),
    ],
)
def test_values_that_cannot_be_are_refused(knobs, line):
    with pytest.raises(MerError, match=re.escape(line)):
        models.build("micronbert", 3, **knobs)


def test_what_it_reads_depends_on_its_knobs():
    spec = models.load("micronbert")

    def read(**knobs):
        return spec.reads(spec.all_knobs(knobs))

    plain = products.pair(products.frames("none224"))
    assert read() == (plain, products.weights("micronbert"))
    assert read(poi=False)[1].name == "micronbert_mb2"
    assert read(poi=False, dma=False)[1].name == "micronbert_mb1"
    assert read(poi=False, dma=False, pretext="mask")[1].name == "micronbert_mae"
    assert read(start="random", crop="box224") == (products.pair(products.frames("box224")),)


def test_weights_of_the_pretraining_start_the_backbone_and_no_other_is_taken(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(autoencoder(seed=1), path)
    network, fresh = small(seed=2), small(seed=2)
    micronbert.load_weights(network, path)
    for name, value in autoencoder(seed=1).backbone.state_dict().items():
        assert torch.equal(network.backbone.state_dict()[name], value)
    assert torch.equal(network.fc[0].weight, fresh.fc[0].weight)
    with pytest.raises(MerError, match=r"weights.safetensors.*backbone"):
        micronbert.load_weights(small(width=32), path)  # another shape
    save_weights(autoencoder(poi=False), path)
    line = r"was pretrained as pretext swap, dma True, poi False, heads 2; needed is pretext swap, dma True, poi True"
    with pytest.raises(MerError, match=line):
        micronbert.load_weights(small(), path)
    with pytest.raises(MerError, match=r"heads 2; needed is .* heads 4"):
        micronbert.load_user_weights(path, **{**SMALL, "poi": False, "heads": 4})
    assert micronbert.load_user_weights(path, **{**SMALL, "poi": False}).backbone.dma


@pytest.mark.parametrize("knobs", [
    {"roles": "code"}, {"softmax_axis": "queries"}, {"scale": False}, {"weight": "literal"}, {"own_entry": "kept"},
])  # fmt: skip
def test_weights_that_were_pretrained_with_another_attention_are_refused(tmp_path, knobs):
    """No weight has another shape then."""
    path, made = tmp_path / "weights.safetensors", autoencoder()
    save_weights(made, path, made.about)
    with pytest.raises(
        MerError, match=r"was pretrained with softmax_axis keys, scaled, roles paper, .*; needed is softm"
    ):
        micronbert.load_weights(small(**knobs), path)
    micronbert.load_weights(small(invert=True), path)  # M-08 is of recognition


def test_other_sizes_of_frames_have_the_same_weights():
    large, state = small(size=64), small().state_dict()
    large.load_state_dict(state)
    assert large(pairs(2, 64)).shape == (2, 3)


# id, knob, default, alternatives: fidelity 3.6
TABLE = [
    ("M-04", "softmax_axis", "keys", ["queries"]),
    ("M-05", "scale", True, [False]),
    ("M-06", "roles", "paper", ["code"]),
    ("M-07", "swap_input", "onset", ["apex", "random"]),
    ("M-08", "invert", False, [True]),
    ("M-09", "weight", "mean_one", ["literal"]),
    ("M-10", "own_entry", "dropped", ["kept"]),
    ("M-11", "heads", 4, [8]),
    ("M-11", "widen", 4, [2]),
    ("M-16", "head", "linear", ["mlp"]),
    ("M-16", "pool", "mean", ["flat"]),
]


@pytest.mark.parametrize(("question", "knob", "default", "alternatives"), TABLE)
def test_every_open_question_is_a_knob_with_the_default_and_alternatives_of_the_notes(
    question, knob, default, alternatives
):
    spec = models.load("micronbert")
    assert spec.knobs[knob].default == default
    assert question in Path("conf/base.yaml").read_text(encoding="utf-8")

    def outcome(value) -> str:
        net = small(**{"heads": 4, "widen": 4, "own_entry": "dropped", "weight": "literal", knob: value})
        net.norm = nn.Identity()  # it would take scales out
        with torch.no_grad():
            net.backbone.query.weight *= 40  # attention that is far from uniform
            return str((net(pairs(2)) * 1e6).tolist())

    found = [outcome(value) for value in (default, *alternatives)]
    assert len(set(found)) == len(found)


def test_frozen_networks_train_their_classifier_alone():
    """M-16"""
    net = small(freeze=True)
    assert [n for n, p in net.named_parameters() if p.requires_grad] == [
        "norm.weight",
        "norm.bias",
        "fc.0.weight",
        "fc.0.bias",
    ]


def test_a_flat_head_knows_where_a_patch_was_and_the_mean_does_not(monkeypatch):
    """M-16"""
    features = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    for pool, same in (("mean", True), ("flat", False)):
        net = small(pool=pool)
        monkeypatch.setattr(net, "features", lambda x: (x, None, None))
        moved = features.roll(1, 1)
        assert torch.allclose(net(features), net(moved), atol=1e-5) == same, pool


# Where the other questions of the notes are decided: parameters of pretraining, of the engine, or slips of the text.
ELSEWHERE = {f"M-{n:02d}" for n in (1, 2, 3, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23)}


def test_the_table_has_every_question_that_names_a_key_of_the_model():
    notes = Path("../shared/fidelity.md")
    if not notes.is_file():
        pytest.skip("the reading notes are not here")
    section = notes.read_text(encoding="utf-8").partition("### 3.6")[2].partition("### 3.7")[0]
    assert {row[0] for row in TABLE} | ELSEWHERE == set(re.findall(r"M-\d\d", section))


def test_a_clips_result_does_not_depend_on_other_clips():
    net = small(swap_input="random")
    with torch.no_grad():
        together, alone = net(pairs(4)), torch.cat([net(one[None]) for one in pairs(4)])
    torch.testing.assert_close(together, alone)
    net.train()
    assert not torch.allclose(net(pairs(4)), together)  # drawn anew for each clip


def test_the_recipe_is_that_of_the_notes():
    """M-16"""
    recipe = Recipe.of(micronbert.RECIPE, {})
    assert (recipe.optimizer, recipe.lr, recipe.epochs, recipe.batch_size) == ("adamw", 1e-4, 50, 16)


@pytest.mark.parametrize("change", [{"shape": (2, 32, 32, 3)}, {"dtype": np.float32}, {"shape": (2, 3, 32, 32, 3)}])
def test_other_pictures_are_refused(change):
    given = np.zeros(**{"shape": (2, 2, 32, 32, 3), "dtype": np.uint8} | change)
    with pytest.raises(MerError, match="micronbert reads pairs of onset and apex"):
        micronbert.prepare(given, size=32)


def test_frames_are_averaged_down():
    given = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4), np.ones((2, 2), np.uint8))[None, None, :, :, None]
    found = micronbert.prepare(np.repeat(np.repeat(given, 2, 1), 3, 4), size=4)
    assert np.array_equal(found[0, 1, :, :, 0], np.arange(16).reshape(4, 4))


def test_explanations_are_maps_of_each_clip():
    found = micronbert.explain(small(), pairs(3))
    assert found["data"].shape == found["scores"].shape == found["diagonal"].shape == (3, 4, 4)
    assert torch.equal(found["data"].amax((1, 2)), torch.ones(3))
    assert torch.equal(torch.stack([found["onset"], found["picture"]], 1), pairs(3))
    expected = (1 - found["diagonal"] / found["diagonal"].amax((1, 2), keepdim=True)) * found["scores"]
    torch.testing.assert_close(found["data"], expected / expected.amax((1, 2), keepdim=True))
    assert "scores" not in micronbert.explain(small(dma=False, poi=False), pairs(3))


@pytest.mark.slow
def test_one_step_at_printed_size():
    torch.manual_seed(0)
    network = micronbert.build_pretrained(checkpointing=True).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    frames = micronbert.normalised(pairs(2, 224))
    cells = micronbert.swapped_cells(uniform(2), 28)
    losses = []
    for _ in range(2):
        found = network(frames[:, 0], frames[:, 1], cells, frames[:, 1].flip(-1))
        loss = micronbert.restoration_loss(
            found.patches, frames[:, 0], cells, pretext="swap", target="imagenet", patch=8
        ) + agreement_loss(*found.contexts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in network.parameters())
    assert losses[1] < losses[0]
