"""UAMRN against its equations, written out; its hashing against theory; every knob that stands for an open question."""

import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mer import models, products
from mer.errors import MerError
from mer.loso.loop import train_folds
from mer.loso.optim import Schedule
from mer.loso.recipe import Recipe
from mer.loso.stacked_folds import vmap_obstacle
from mer.loso.task import Task, TrainingPlan
from mer.models import uamrn
from mer.networks import random_layers
from mer.networks.resnet import ResNet18
from mer.storage.weights import save_weights

pytestmark = pytest.mark.usefixtures("one_thread")


KNOBS = models.load("uamrn").knobs
# L 6, features 64 wide
SMALL = {"features": True, "tap": "layer1", "grid": 1, "factors": "linspace_2_13_6", "d_model": 16, "blocks": 2}


def small(seed=0, classes=3, **knobs):
    torch.manual_seed(seed)
    return models.build("uamrn", classes, **{**SMALL, **knobs})


def clips(count=4, length=6, width=64, seed=1):
    return torch.randn(count, length, width, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 2, 1, 0])
ROW_WEIGHT = torch.full((4,), 0.25)


def training_loss(network, x=None, row_weight=ROW_WEIGHT):
    random_layers.begin(network)
    return uamrn.loss(network.train(), clips() if x is None else x, LABELS, row_weight)


def heads(length, d_k=8, n_t=4, n_p=3, batch=2, n_h=2, seed=0, dtype=torch.float32):
    """q, k, v (B, h, L, d_k) and the tags of q and k."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, n_h, length, d_k, generator=g, dtype=dtype) for _ in range(3))
    planes = torch.randn(n_h, n_t, n_p, d_k, generator=g, dtype=dtype)
    return q, k, v, uamrn.tags(q, planes), uamrn.tags(k, planes)


# ---- hashing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_p", [1, 3])
@pytest.mark.parametrize("angle", [0.1, 0.8, 1.9, 3.0])
def test_vectors_at_an_angle_collide_as_often_as_theory_says(angle, n_p):
    """(1 - angle / pi)**n_p in one table; 1 - (1 - that)**n_t in their union."""
    draws, n_t = 4000, 4
    q = torch.randn(1, 1, 1, 20, generator=torch.Generator().manual_seed(3))
    other = torch.randn(20, generator=torch.Generator().manual_seed(4))
    other -= (other @ q.flatten()) / q.square().sum() * q.flatten()
    k = math.cos(angle) * q / q.norm() + math.sin(angle) * other / other.norm()
    # Every head is a draw of its own.
    planes = random_layers.Normal()(draws, n_t, n_p, 20)
    tag_q, tag_k = (uamrn.tags((5 * x).expand(1, draws, 1, 20), planes) for x in (q, k))
    p = (1 - angle / math.pi) ** n_p
    for found, expected, count in (
        ((tag_q == tag_k).float().mean(), p, draws * n_t),
        (uamrn.same_bucket(tag_q, tag_k).float().mean(), 1 - (1 - p) ** n_t, draws),
    ):
        assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_tags_are_the_sides_of_the_planes():
    """The paper's example, three planes; by its text a positive product is 0 (U-08)."""
    planes = torch.eye(3)[None, None]
    x = torch.tensor([[-1.0, -1, 1], [1, 1, 1], [-2, -0.1, 7], [1, -1, 1]])[None, None]
    assert uamrn.tags(x, planes).flatten().tolist() == [0b011, 0, 0b011, 0b010]
    assert uamrn.tags(x, planes.repeat(1, 5, 1, 1)).shape == (1, 1, 5, 4)


# ---- attention ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["pre_softmax", "post_softmax", "full"])
def test_attention_is_equation_6_written_out(mask):
    q, k, v, tag_q, tag_k = heads(9, n_t=2, dtype=torch.float64)
    out, weights = uamrn.attention(q, k, v, tag_q, tag_k, mask)
    alone = 0
    for b, h, i in np.ndindex(2, 2, 9):
        omega = [j for j in range(9) if any(tag_q[b, h, t, i] == tag_k[b, h, t, j] for t in range(2))]
        score = [math.exp(float(q[b, h, i] @ k[b, h, j]) / math.sqrt(8)) for j in range(9)]
        below = sum(score) if mask != "pre_softmax" else sum(score[j] for j in omega)
        row = [score[j] / below if mask == "full" or j in omega else 0.0 for j in range(9)]
        np.testing.assert_allclose(weights[b, h, i].tolist(), row, atol=1e-12)
        np.testing.assert_allclose(out[b, h, i].tolist(), sum(w * v[b, h, j] for j, w in enumerate(row)).tolist())
        alone += not omega
    assert alone > 0  # rows without a partner were among them


def test_full_attention_is_torchs():
    q, k, v, *tags = heads(20)
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(uamrn.attention(q, k, v, *tags, "full")[0], expected, rtol=1e-5, atol=1e-6)
    # one bucket: the sparse ones are the full one
    for mask in ("pre_softmax", "post_softmax"):
        same = [torch.zeros_like(tag) for tag in tags]
        torch.testing.assert_close(uamrn.attention(q, k, v, *same, mask)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("knobs", [{}, {"mask": "post_softmax"}, {"share_qk": True}, {"form": "bucketed"}])
def test_positions_permuted_permute_the_output(knobs):
    torch.manual_seed(0)
    module = uamrn.SparseSelfAttention(16, **knobs).eval()
    x, order = clips(3, 12, 16), torch.randperm(12)
    out, weights = module(x)
    random_layers.begin(module)
    moved, of_moved = module(x[:, order])
    torch.testing.assert_close(moved, out[:, order], rtol=1e-5, atol=1e-6)
    if weights is not None:
        torch.testing.assert_close(of_moved, weights[:, :, order][..., order], rtol=1e-5, atol=1e-6)
        assert 0 < (weights == 0).float().mean() < 1


@pytest.mark.parametrize(
    ("length", "n_p", "n_t", "size"),
    [(1, 3, 4, 1), (7, 1, 1, 1), (33, 3, 4, 1), (64, 6, 2, 1), (40, 4, 5, 30), (9, 40, 3, 1)],
)
def test_bucketed_equals_masked(length, n_p, n_t, size):
    """Also their gradients; scores of thousands (size 30), where an exponential without its maximum would overflow."""
    q, k, v, tag_q, tag_k = heads(length, n_t=n_t, n_p=n_p, seed=length)
    q, k, v = ((size * x).requires_grad_() for x in (q, k, v / size))
    masked, _ = uamrn.attention(q, k, v, tag_q, tag_k, "pre_softmax")
    bucketed = uamrn.bucketed_attention(q, k, v, tag_q, tag_k)
    # A score is rounded to eps of itself, and the exponential turns that into a relative error of a weight.
    largest = (q @ k.transpose(-1, -2)).abs().max().item() / math.sqrt(q.shape[-1])
    near = max(1e-5, 4 * torch.finfo(torch.float32).eps * largest)
    torch.testing.assert_close(bucketed, masked, rtol=near, atol=near)
    weight = torch.randn_like(masked)
    if bucketed.requires_grad:  # there are pairs
        pairs = [torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (masked, bucketed)]
        for a, b in zip(*pairs, strict=True):
            assert torch.isfinite(a).all()
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    empty = ~uamrn.same_bucket(tag_q, tag_k).any(-1)
    assert not masked[empty].any()
    assert not bucketed[empty].any()


def test_long_sequences_form_fewer_products_in_buckets_than_there_are_pairs():
    """n_t / 2**n_p of them for vectors that no bucket prefers: half at the paper's 3 planes and 4 tables."""
    for length in (512, 2048):
        *_, tag_q, tag_k = heads(length, d_k=64, batch=1)
        formed = (tag_q[..., :, None] == tag_k[..., None, :]).sum() / (2 * length**2)
        assert 0.4 < formed < 0.6


def test_some_of_those_rows_were_empty_and_some_pairs_in_several_tables():
    *_, tag_q, tag_k = heads(64, n_t=2, n_p=6, seed=64)
    assert not uamrn.same_bucket(tag_q, tag_k).any(-1).all()
    *_, tag_q, tag_k = heads(33, seed=33)
    found = (tag_q[..., :, None] == tag_k[..., None, :]).sum(2)
    assert {2, 3} <= set(found.unique().tolist())


@pytest.mark.parametrize("mask", ["post_softmax", "full"])
def test_the_bucketed_form_is_refused_where_all_products_are_needed(mask):
    with pytest.raises(MerError, match=f"uamrn.form is bucketed, but mask: {mask} needs the products of all pairs"):
        small(form="bucketed", mask=mask)


def test_one_matrix_for_queries_and_keys_puts_every_frame_into_its_own_bucket():
    own = {}
    for share in (False, True):
        net = small(share_qk=share, n_p=5, n_t=1)
        own[share] = (uamrn.explain(net, clips())["data"].diagonal(dim1=-2, dim2=-1) > 0).float().mean()
    assert own[True] == 1
    assert own[False] < 0.5


@pytest.mark.parametrize("form", ["masked", "bucketed"])
def test_buckets_that_are_all_empty_warn_once_and_give_zeros(form):
    uamrn._warn_of_empty_buckets.cache_clear()
    net = small(n_p=62, n_t=1, form=form)
    with pytest.warns(UserWarning, match=r"uamrn.n_p is 62: no query shares a bucket with any key"):
        assert torch.isfinite(training_loss(net))
    # and never again, in this network or another; warnings are errors here
    assert torch.isfinite(training_loss(net))
    small(n_p=62, n_t=1)(clips())
    assert not uamrn.explain(net, clips())["data"].any()


# ---- frames and places --------------------------------------------------------------------------------------------


def test_the_position_code_is_its_formula():
    code = uamrn.positions(torch.tensor([0.0, 1, 2.5, 31]), 12)
    for row, pos in enumerate((0, 1, 2.5, 31)):
        for d in range(6):
            assert code[row, 2 * d] == pytest.approx(math.sin(pos / 10000 ** (2 * d / 12)), abs=1e-6)
            assert code[row, 2 * d + 1] == pytest.approx(math.cos(pos / 10000 ** (2 * d / 12)), abs=1e-6)


def test_a_sequence_goes_through_whole_and_mirrored():
    x = np.random.default_rng(0).integers(0, 256, (2, 6, 32, 32, 3), dtype=np.uint8)
    assert uamrn.prepare(x) is x
    net = small(features=False).eval()
    out = net(torch.from_numpy(x))
    assert out.shape == (2, 3)
    assert torch.equal(uamrn.mirror(torch.from_numpy(x)), torch.from_numpy(x[:, :, :, ::-1].copy()))
    # The frozen features are a product of their own: the same network on them
    features = net.backbone(torch.from_numpy(x).flatten(0, 1)).unflatten(0, (2, 6))
    later = small(features=True).eval()
    later.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith("backbone.")})
    torch.testing.assert_close(later(torch.from_numpy(uamrn.prepare(features.numpy()))), out)


# ---- uncertainty --------------------------------------------------------------------------------------------------


def how(**knobs):
    return uamrn.Uncertainty(
        **{"output": "logit", "reduce": "mean", "aleatoric": "none", "detach": True, "normalise": "none", **knobs}
    )


def test_gamma_and_loss_are_equations_8_and_9_written_out():
    g = torch.Generator().manual_seed(0)
    mean, log_variance, noise = torch.randn(3, 5, 4, 3, generator=g, dtype=torch.float64)
    loss = 0.0
    for n in range(4):
        gamma = 0.0
        for c in range(3):
            y = [float(mean[m, n, c]) for m in range(5)]
            gamma += sum(a * a for a in y) / 5 - (sum(y) / 5) ** 2
            gamma += sum(math.exp(log_variance[m, n, c]) for m in range(5)) / 5
        y = mean[:, n].mean(0)
        loss -= gamma / 3 * float(y[LABELS[n]] - y.exp().sum().log()) / 4
    row_weight = ROW_WEIGHT.double()
    assert float(how().loss(mean, log_variance, None, LABELS, row_weight)) == pytest.approx(loss, rel=1e-12)
    # sampled: the probability is the mean of those of the noisy logits
    p = (mean + log_variance.exp().sqrt() * noise).softmax(-1).mean(0)
    gamma = how().gamma(mean, log_variance, LABELS)
    expected = -(gamma * p[range(4), LABELS].log()).mean()
    torch.testing.assert_close(how().loss(mean, log_variance, noise, LABELS, row_weight), expected)


def test_the_variance_of_a_probability_is_that_of_noisy_logits_to_first_order():
    mean = torch.tensor([[[0.3, -1.0, 1.2]]])
    log_variance = torch.tensor([[[0.02, 0.01, 0.03]]]).square().log()
    _, aleatoric = how(output="probability").parts(mean, log_variance)
    noisy = mean + (log_variance / 2).exp() * torch.randn(200_000, 1, 3, generator=torch.Generator().manual_seed(0))
    # 200,000 draws know a variance to 0.3 %, and the second order adds about the square of 0.03.
    torch.testing.assert_close(aleatoric, noisy.softmax(-1).var(0), rtol=0.02, atol=0)


def test_without_anything_random_gamma_is_the_aleatoric_part():
    found = uamrn.explain(small(dropout=0.0, mask="full"), clips())
    assert found["epistemic"].abs().max() < 1e-10
    torch.testing.assert_close(found["gamma"], found["aleatoric"].mean(1))
    # either of dropout and hashing makes the passes differ
    for knobs in ({"dropout": 0.0}, {"mask": "full"}):
        assert uamrn.explain(small(**knobs), clips())["epistemic"].min() > 0


def test_a_deterministic_network_trains_by_plain_cross_entropy():
    net = small(uncertainty=False, resample="per_init")
    assert net.log_variance is None
    loss = training_loss(net)
    random_layers.begin(net)
    torch.testing.assert_close(loss, F.cross_entropy(net(clips()).mean[0], LABELS))
    found = uamrn.explain(net, clips())
    assert found["gamma"].tolist() == [1, 1, 1, 1]
    assert "aleatoric" not in found
    assert net.training


def gradients(network):
    loss = training_loss(network)
    network.zero_grad()
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize(
    ("aleatoric", "detach", "learns"),
    [("sampled_logits", True, True), ("none", True, False), ("none", False, True), ("sampled_logits", False, True)],
)
def test_gradients_reach_what_they_should(aleatoric, detach, learns):
    """U-15: with gamma cut off, the variance head learns from noisy logits alone; everything else always learns."""
    found = gradients(small(aleatoric=aleatoric, detach=detach))
    for name, gradient in found.items():
        moves = gradient is not None and bool(gradient.any())
        assert moves == (learns or not name.startswith("log_variance")), name


def test_a_gamma_that_is_cut_off_is_a_constant():
    found = gradients(small(aleatoric="none"))
    net = small(aleatoric="none")
    random_layers.begin(net)
    passes = net.train()(clips())
    with torch.no_grad():
        gamma = how().gamma(passes.mean, passes.log_variance, LABELS)
    (gamma * F.cross_entropy(passes.mean.mean(0), LABELS, reduction="none")).mean().backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, found[name])
    # and one that is not changes them
    free = gradients(small(aleatoric="none", detach=False))
    assert not torch.allclose(free["mean.weight"], found["mean.weight"])


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_backbone_does_not_learn(freeze):
    net = small(features=False, freeze=freeze, factors="linspace_2_13_2", samples=1)
    x = torch.randint(0, 256, (4, 2, 16, 16, 3), dtype=torch.uint8)
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    training_loss(net, x).backward()
    assert all((p.grad is None) == freeze for p in net.backbone.parameters())
    same = all(torch.equal(value, before[name]) for name, value in net.backbone.state_dict().items())
    assert same == freeze  # statistics of batch norm


def test_a_rare_and_noisy_class_weighs_more():
    """Two classes of 28 clear clips, one of 8 whose labels are as often another: what section 3.3 promises."""
    kind = torch.tensor([0] * 28 + [1] * 28 + [2] * 8)
    labels = kind.clone()
    labels[kind == 2] = torch.tensor([0, 2] * 4)
    for seed in (0, 1):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(3, 1, 64, generator=g)[kind] + 0.1 * torch.randn(64, 4, 64, generator=g)
        net = small(seed, factors="linspace_2_13_4", blocks=1).train()
        adam = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(60):
            adam.zero_grad()
            uamrn.loss(net, x, labels, torch.full((64,), 1 / 64)).backward()
            adam.step()
        gamma = uamrn.explain(net, x)["gamma"]
        assert gamma[kind == 2].mean() > 1.4 * max(gamma[kind == 0].mean(), gamma[kind == 1].mean())
        assert net(x).mean.mean(0)[kind < 2].argmax(1).eq(kind[kind < 2]).float().mean() > 0.95


# ---- open questions, each a knob ----------------------------------------------------------------------------------

# id, knob, default, alternatives; `where` the change shows: in training's loss or its gradient, in evaluation, or in
# the random numbers.
TABLE = [
    ("U-06", "mask", "pre_softmax", ["post_softmax", "full"], "evaluation"),
    ("U-09", "resample", "per_forward", ["per_init", "per_epoch"], "draws"),
    ("U-10", "per_head", True, [False], "evaluation"),
    ("U-11", "share_qk", False, [True], "evaluation"),
    ("U-13", "output", "logit", ["probability"], "loss"),
    ("U-13", "variance", "vector", ["scalar"], "loss"),
    ("U-14", "reduce", "mean", ["sum", "true_class", "max"], "loss"),
    ("U-15", "aleatoric", "sampled_logits", ["none"], "loss"),
    ("U-15", "detach", True, [False], "gradient"),
    ("U-15", "normalise", "none", ["batch_mean"], "loss"),
    ("U-16", "samples", 5, [1, 20], "loss"),
    ("U-16", "dropout", 0.1, [0.0, 0.5], "evaluation"),
    ("U-16", "evaluation", "mc", ["single"], "evaluation"),
    ("U-20", "tap", "layer2", ["layer1", "layer3"], "evaluation"),
    ("U-20", "grid", 4, [2], "evaluation"),
    ("U-20", "project", True, [False], "evaluation"),
    ("U-21", "freeze", True, [False], "loss"),
    ("U-22", "layout", "post_norm", ["attention"], "evaluation"),
    ("U-22", "pool", "mean", ["last", "cls"], "evaluation"),
    ("U-27", "position", "rank", ["factor"], "evaluation"),
]


@pytest.mark.parametrize(("id_", "knob", "default", "alternatives", "where"), TABLE, ids=[r[1] for r in TABLE])
def test_every_open_question_is_a_knob_that_changes_something(id_, knob, default, alternatives, where):
    assert id_ in inspect.getdoc(uamrn.build)
    assert KNOBS[knob].default == default
    frames = knob in ("tap", "grid", "project", "freeze")
    x = clips()
    if frames:
        x = torch.randint(0, 256, (4, 6, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    size = {"features": not frames, "tap": "layer1", "grid": 1, "d_model": 64 if knob == "project" else 16}
    weights = small(**{**size, knob: default}).state_dict()

    def outcome(value):
        """With the weights of the default, where there are such."""
        net = small(**{**size, knob: value})
        fitting = {n: weights[n] for n, w in net.state_dict().items() if n in weights and weights[n].shape == w.shape}
        net.load_state_dict(fitting, strict=False)
        if where == "draws":
            net.train()
            net.blocks[0].attention.source.calls = 7
            return net.blocks[0].attention.planes()
        if where == "gradient":
            return gradients(net)["mean.weight"]
        return training_loss(net, x).detach() if where == "loss" else net.eval()(x).detach()

    found = [outcome(value) for value in (default, *alternatives)]
    assert torch.equal(found[0], outcome(default))
    for a in range(len(found)):
        for b in range(a):
            assert found[a].shape == found[b].shape
            assert not torch.allclose(found[a], found[b], rtol=1e-4), (knob, a, b)


def test_the_table_has_every_question_that_names_a_key_of_the_model():
    """U-01 to U-05, U-17, U-18, U-23, U-25 and U-26 are about data, names and scores. U-07 and U-08 are no choice: all
    positions are used, and which side is called 0 changes no bucket. U-12 is about counting operations, in
    benchmarks/ssa.py. U-19 is what `loss` does. U-24 is the recipe, below."""
    text = (Path(__file__).parent.parent.parent / "conf/base.yaml").read_text()
    section = text[text.index("\nuamrn:") :].partition("\n\n")[0]
    assert {row[0] for row in TABLE} | {"U-01", "U-12"} == set(re.findall(r"U-\d\d", section))


def test_the_recipe_is_the_papers():
    recipe = Recipe.of(uamrn.RECIPE, {})
    assert (recipe.optimizer, recipe.batch_size, recipe.weight_decay, recipe.epochs) == ("adam", 16, 0.0, 40)  # U-24
    rates = [recipe.rates().rate(epoch) for epoch in (0, 9, 10, 29, 39)]
    np.testing.assert_allclose(rates, [2e-4, 2e-4, 2e-5, 2e-6, 2e-7])


def test_the_defaults_have_the_printed_size():
    defaults = models.load("uamrn").all_knobs({})
    printed = {"n_p": 3, "n_t": 4, "n_h": 2, "d_model": 1024, "blocks": 3}
    assert printed.items() <= defaults.items()
    assert len(products.named_factors(defaults["factors"])) == 32
    # two layouts that need no projection, as wide as d_model (U-20)
    for tap, grid in (("layer1", 4), ("layer3", 2)):
        net = models.build("uamrn", 5, tap=tap, grid=grid, project=False, blocks=1)
        assert isinstance(net.project, torch.nn.Identity)


def test_shared_planes_are_those_of_every_head():
    torch.manual_seed(0)
    module = uamrn.SparseSelfAttention(16, per_head=False)
    planes = module.planes()
    assert planes.shape == (1, 4, 3, 8)
    x = torch.randn(1, 1, 5, 8).expand(-1, 2, -1, -1)
    a, b = uamrn.tags(x, planes).unbind(1)
    assert torch.equal(a, b)
    a, b = uamrn.tags(x, uamrn.SparseSelfAttention(16).planes()).unbind(1)
    assert not torch.equal(a, b)


def test_planes_come_anew_as_often_as_they_should():
    """In training; in evaluation the draws are the same in every forward pass of the network, whatever went before."""
    for resample, same in (("per_forward", False), ("per_epoch", True), ("per_init", True)):
        net = small(resample=resample)
        source = net.blocks[1].attention
        net.train()
        assert torch.equal(source.planes(), source.planes()) == same, resample
        net.eval()
        first, again = net(clips()), net(clips())
        assert torch.equal(first, again)
    assert "blocks.0.attention.kept_planes" in net.state_dict()  # per_init


# ---- evaluation, and folds in parallel ----------------------------------------------------------------------------


@pytest.mark.parametrize("evaluation", ["mc", "single"])
def test_the_prediction_of_a_clip_does_not_depend_on_other_clips(evaluation):
    net = small(evaluation=evaluation).double().eval()
    x = clips(7).double()
    whole = net(x)
    torch.testing.assert_close(torch.cat([net(x[4:]), net(x[:4])]), whole.roll(3, 0), rtol=1e-12, atol=1e-12)
    training_loss(net, x[:4], ROW_WEIGHT.double())
    torch.testing.assert_close(net.eval()(x), whole, rtol=0, atol=0)


def test_evaluation_gives_the_mean_of_passes():
    net = small().eval()
    z = net.embed(clips())
    net.begin_evaluation(sampling=True)
    mean, _ = net.passes(z, 5)
    torch.testing.assert_close(net(clips()), mean.mean(0))
    assert mean.var(0).min() > 0
    net = small(output="probability").eval()
    net.begin_evaluation(sampling=True)
    mean, _ = net.passes(net.embed(clips()), 5)
    torch.testing.assert_close(net(clips()).softmax(1), mean.softmax(-1).mean(0))


def test_an_explanation_agrees_with_the_prediction_and_changes_nothing():
    net = small(form="bucketed", pool="cls").eval()
    before = net(clips())
    found = uamrn.explain(net, clips())
    assert found["data"].shape == (4, 2, 2, 7, 7)  # six frames behind the learned position
    torch.testing.assert_close(found["logits"], before)
    torch.testing.assert_close(net(clips()), before)
    torch.testing.assert_close(found["gamma"], (found["epistemic"] + found["aleatoric"]).mean(1))
    sums = found["data"].sum(-1)
    assert (((sums - 1).abs() < 1e-5) | (sums == 0)).all()
    net = small(reduce="true_class").eval()
    total = sum(uamrn.explain(net, clips())[part] for part in ("epistemic", "aleatoric"))
    guess = net(clips()).argmax(1)
    torch.testing.assert_close(uamrn.explain(net, clips())["gamma"], total[range(4), guess])
    torch.testing.assert_close(weight_of(net), total[range(4), LABELS])
    assert not torch.equal(guess, LABELS)


def weight_of(network):
    (name, weight), *others = uamrn.explain_training(network, clips(), LABELS).items()
    assert (name, others) == ("weight", [])
    return weight


def test_the_weight_of_a_training_clip_is_gamma_or_1_without_uncertainty():
    net = small().train()
    assert torch.equal(weight_of(net), uamrn.explain(net, clips())["gamma"])
    assert net.training
    assert weight_of(small(uncertainty=False)).tolist() == [1] * 4


def test_it_takes_weights_where_it_reads_frames(tmp_path):
    torch.manual_seed(5)
    deep = ResNet18()
    save_weights(deep, tmp_path / "resnet18.safetensors")
    net = small(features=False)
    assert uamrn.load_weights(net, tmp_path / "resnet18.safetensors") is net
    assert torch.equal(net.backbone.layer1[1].conv2.weight, deep.layer1[1].conv2.weight)
    with pytest.raises(MerError, match=r"uamrn.features is true, so there is no ResNet to take it"):
        uamrn.load_weights(small(), tmp_path / "resnet18.safetensors")


def test_it_reads_frames_and_weights_or_the_features_of_frames():
    spec = models.load("uamrn")
    sequence = products.magnet(products.frames("box224"), weights="magnet", factors="arange_2_14_1")
    knobs = spec.all_knobs({"factors": "arange_2_14_1", "tap": "layer3", "grid": 2})
    assert spec.reads(knobs) == (sequence, products.weights("resnet18"))
    features = products.embedding(sequence, by="networks.resnet", weights="resnet18", tap="layer3", grid=2)
    assert spec.reads(knobs | {"features": True}) == (features,)


def test_the_position_code_takes_the_factors_by_rank_or_as_they_are():
    rank, factor = (small(factors="arange_2_8_2", position=p).position for p in ("rank", "factor"))
    torch.testing.assert_close(rank, uamrn.positions(torch.arange(3.0), 16))
    torch.testing.assert_close(factor, uamrn.positions(torch.tensor([2.0, 4.0, 6.0]), 16))


@pytest.mark.parametrize(
    "knobs",
    [{}, {"resample": "per_epoch", "normalise": "batch_mean", "detach": False, "share_qk": True, "pool": "cls"},
     {"resample": "per_init", "uncertainty": False, "mask": "post_softmax"}],
)  # fmt: skip
def test_folds_in_parallel_are_folds_alone(knobs):
    """In float64, where no rounding moves a vector over a plane; numbers of clips differ, so batches are padded."""
    x, y = clips(15).double(), torch.arange(15) % 3
    x = x + y[:, None, None]
    test = [np.arange(4), np.arange(4, 9)]
    tasks = [Task(f"s{k}", 50 + k, np.setdiff1d(np.arange(15), t), t) for k, t in enumerate(test)]
    plan = TrainingPlan(schedule=Schedule(lr=1e-2, epochs=2), batch_size=6, loss=uamrn.loss)

    def build():
        return models.build("uamrn", 3, **{**SMALL, "samples": 2, **knobs}).double()

    parallel, single = (
        train_folds(tasks, x, y, build, plan, ids=[""] * 15, in_parallel=in_parallel) for in_parallel in (True, False)
    )
    for a, b in zip(parallel, single, strict=True):
        np.testing.assert_allclose(a.probability, b.probability, atol=1e-9)
    assert vmap_obstacle(build, x, plan) is None


def test_frames_can_be_stacked_and_buckets_cannot():
    x = torch.randint(0, 256, (8, 6, 16, 16, 3), dtype=torch.uint8)
    plan = TrainingPlan(schedule=Schedule(lr=1e-3, epochs=1), batch_size=4, loss=uamrn.loss)
    for freeze in (True, False):
        assert vmap_obstacle(lambda freeze=freeze: small(features=False, freeze=freeze), x, plan) is None
    assert "dynamic shape" in vmap_obstacle(lambda: small(form="bucketed"), clips(), plan)


# ---- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"d_model": 15}, "uamrn.d_model is 15; it must be even and a multiple of uamrn.n_h, 2"),
        ({"d_model": 16, "n_h": 3}, "a multiple of uamrn.n_h, 3"),
        ({"n_h": 0}, "uamrn.n_h is 0; it must be 1 at least"),
        ({"samples": 0}, "uamrn.samples is 0; it must be 1 at least"),
        ({"n_p": 63}, "uamrn.n_p is 63; a bucket's number has 62 bits"),
        ({"dropout": 1.0}, "uamrn.dropout is 1.0; it must be 0 or above and below 1"),
        ({"project": False}, "uamrn.project is false, but layer1 on 1x1 cells is 64 wide, d_model 16; set project"),
        ({"mask": "presoftmax"}, "uamrn.mask is 'presoftmax'; valid: pre_softmax, post_softmax, full"),
    ],
)
def test_knobs_that_cannot_be(knobs, message):
    with pytest.raises(MerError, match=message):
        small(**knobs)


def test_sequences_of_another_length_or_kind_are_refused():
    with pytest.raises(
        MerError, match=r"reads \(clips, 6, 64\), the product gives \(4, 5, 64\); uamrn.factors say how"
    ):
        small()(clips(length=5))
    with pytest.raises(MerError, match=r"reads \(clips, 6, 64\), the product gives \(4, 6, 65\)"):
        small()(clips(width=65))
    frames = torch.zeros(2, 12, 16, 16, 3, dtype=torch.uint8)
    with pytest.raises(MerError, match=r"reads \(clips, 6, height, width, 3\), the product gives \(2, 12, 16, 16, 3\)"):
        small(features=False)(frames)
    with pytest.raises(MerError, match=r"uamrn.features whether frames"):
        small(features=False)(clips())
    with pytest.raises(MerError, match=r"not \(2, 3, 8, 8\) float64"):
        uamrn.prepare(np.zeros((2, 3, 8, 8)))


def test_frames_are_mirrored_and_features_are_not():
    spec = models.load("uamrn")
    for features, mirror in ((False, False), (False, True), (True, False)):
        assert Recipe.of_model(spec, {"mirror": mirror}, {"features": features}).mirror == mirror
    with pytest.raises(
        MerError, match=r"^recipe.mirror is true, but uamrn.features makes .* or uamrn.features to false"
    ):
        Recipe.of_model(spec, {"mirror": True}, {"features": True})


# ---- printed size -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_step_at_the_printed_size():
    """224 px, L 32, d_model 1024, M 5, four clips: every parameter that learns moves, and the loss is finite."""
    torch.manual_seed(0)
    net = models.build("uamrn", 5).train()
    x = torch.randint(0, 256, (4, 32, 224, 224, 3), dtype=torch.uint8)
    adam = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=2e-4)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    loss = training_loss(net, x)
    loss.backward()
    adam.step()
    assert torch.isfinite(loss)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("backbone."), name
    assert torch.isfinite(net.eval()(x[:1])).all()
