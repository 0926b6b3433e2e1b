"""Folds that are trained in parallel give what each of them gives alone."""

import copy
import gc
import shutil
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mer import models
from mer.errors import MerError
from mer.loso import loop
from mer.loso.augmentation import Augmentation
from mer.loso.loop import train_folds
from mer.loso.one_fold import SingleFold
from mer.loso.optim import Schedule
from mer.loso.stacked_folds import StackedFolds, vmap_obstacle
from mer.loso.task import LabelledClips, Task, TrainingPlan
from mer.models import ststnet
from mer.networks import norm, random_layers
from tests.helpers.refusals import refused

pytestmark = pytest.mark.usefixtures("one_thread")


SIZES = (1, 9, 14, 6)  # clips of the subjects; one has a single clip


class Small(nn.Module):
    """Convolution, batch norm and both kinds of dropout, before and after; one layer is used twice."""

    def __init__(self, classes=3):
        super().__init__()
        # Biases before batch norm have no gradient but rounding, of which Adam makes whole steps in float32.
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.channels = nn.Dropout2d(0.2)
        self.hidden = nn.Linear(24, 10, bias=False)
        self.norm2 = nn.BatchNorm1d(10)
        self.fc = nn.Linear(10, classes)

    def forward(self, x):
        x = F.avg_pool2d(self.channels(F.relu(self.norm(self.conv(x)))), 3)
        return self.fc(self.drop(self.norm2(F.relu(self.hidden(self.drop(x.flatten(1)))))))


def folds(sizes=SIZES, side=8, seed=0, dtype=torch.float32, held=0):
    """(tasks, inputs, labels): the clips of each subject are tested once; with `held`, the next subject is held out."""
    rng = np.random.default_rng(seed)
    who = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    y = rng.integers(0, 3, len(who))
    x = rng.normal(size=(len(who), 3, side, side)) + y[:, None, None, None] * 0.5
    tasks = []
    for k in range(len(sizes)):
        out = (who == (k + 1) % len(sizes)) & (held > 0)
        tasks.append(
            Task(f"c/s{k}", 1000 + k, np.flatnonzero((who != k) & ~out), np.flatnonzero(who == k), np.flatnonzero(out))
        )
    return tasks, torch.tensor(x, dtype=dtype), torch.tensor(y)


def plan(epochs=20, lr=1e-3, batch_size=8, **options):
    schedule = options.pop("schedule", None) or Schedule(lr=lr, epochs=epochs)
    return TrainingPlan(schedule=schedule, batch_size=batch_size, **options)


def small(dtype=torch.float32):
    return lambda: Small().to(dtype)


def stack(tasks, x, y, build, how):
    return StackedFolds(tasks, LabelledClips(x, y, [""] * len(y)), build, how)


def both(tasks, x, y, build, how):
    ids = [f"clip{i:02d}" for i in range(len(y))]
    parallel = train_folds(tasks, x, y, build, how, ids=ids)
    single = train_folds(tasks, x, y, build, how, ids=ids, in_parallel=False)
    return parallel, single


def furthest(a, b, what="probability"):
    return max(np.abs(getattr(p, what) - getattr(q, what)).max() for p, q in zip(a, b, strict=True))


def test_twenty_epochs_in_float32():
    tasks, x, y = folds()
    steps = {len(loop.batches(t.train, 8)) for t in tasks}
    assert len(steps) > 1  # numbers of steps differ
    parallel, single = both(tasks, x, y, small(), plan())
    assert furthest(parallel, single) < 1e-3
    start = train_folds(tasks, x, y, small(), plan(epochs=1, lr=1e-12), ids=[""] * len(y))
    assert furthest(parallel, start) > 0.05  # they have moved


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adamw", "weight_decay": 0.05},
        {"augment": Augmentation(lambda x: x.flip(-1), 10.0, 0.1, (0, 1))},
    ],
)
def test_three_folds_of_different_sizes_in_float64(options):
    tasks, x, y = folds((5, 9, 14), dtype=torch.float64)
    parallel, single = both(tasks, x, y, small(torch.float64), plan(**options))
    assert furthest(parallel, single) < 1e-9
    for a, b in zip(parallel, single, strict=True):
        np.testing.assert_allclose(a.train_losses, b.train_losses, rtol=1e-9)


def test_ststnet_in_both_precisions():
    for dtype, limit in ((torch.float32, 1e-3), (torch.float64, 1e-9)):
        tasks, x, y = folds((5, 9, 7), side=28, dtype=dtype)
        parallel, single = both(tasks, 100 * x, y, lambda dtype=dtype: models.build("ststnet", 3).to(dtype), plan())
        assert furthest(parallel, single) < limit


@pytest.mark.slow
def test_the_whole_recipe_of_ststnet_in_float64():
    recipe = ststnet.RECIPE
    tasks, x, y = folds((40, 150, 110), side=28, dtype=torch.float64)
    how = plan(recipe["epochs"], recipe["lr"], recipe["batch_size"])
    parallel, single = both(tasks, 100 * x, y, lambda: models.build("ststnet", 3).double(), how)
    assert furthest(parallel, single) < 1e-9


@pytest.mark.parametrize("in_parallel", [True, False])
def test_neither_the_others_nor_their_order_matter(in_parallel):
    tasks, x, y = folds(dtype=torch.float64)
    options = {"ids": [""] * len(y), "in_parallel": in_parallel}
    whole = train_folds(tasks, x, y, small(torch.float64), plan(4), **options)
    pair = train_folds([tasks[3], tasks[1]], x, y, small(torch.float64), plan(4), **options)
    assert furthest(pair, [whole[3], whole[1]]) < 1e-12
    torch.manual_seed(99)  # nor the global generator, which is left as it was
    before = torch.get_rng_state()
    again = train_folds(tasks, x, y, small(torch.float64), plan(4), **options)
    assert furthest(whole, again) == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_single_fold_is_the_plain_loop():
    """Ten lines of plain PyTorch with the same stream; one batch an epoch, dropout by the layer tested elsewhere."""
    tasks, x, y = folds()
    task = tasks[1]
    (ours,) = train_folds([task], x, y, small(), plan(5, batch_size=100), ids=[""] * len(y))
    torch.manual_seed(task.stream)
    net = Small()
    random_layers.attach(net)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    sampler = np.random.default_rng(task.stream)
    for step in range(5):
        rows = sampler.permutation(task.train)
        for drop, word in zip((net.drop, net.channels), random_layers.keys([task.stream], [step], 2)[0], strict=True):
            drop.calls, drop.key = 0, torch.from_numpy(word)
        adam.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        adam.step()
    expected = net.eval()(x[task.test]).softmax(1).detach().numpy()
    np.testing.assert_allclose(ours.probability, expected, atol=1e-5)
    assert (ours.epochs, ours.chosen, len(ours.train_losses)) == (5, 5, 5)


def test_initial_networks_are_those_of_a_single_fold():
    tasks, x, y = folds()
    stacked = stack(tasks, x, y, small(), plan())
    for k, task in enumerate(tasks):
        torch.manual_seed(task.stream)
        for name, value in Small().named_parameters():
            assert torch.equal(stacked.params()[name][k], value), name


def test_a_fold_without_a_batch_does_not_move():
    tasks, x, y = folds()
    stacked = stack(tasks, x, y, small(), plan())
    before = {name: value.clone() for name, value in stacked.state().items()}
    rows = [tasks[0].train[:4], None, tasks[2].train[:6], None]
    losses = stacked.losses(rows, [None] * 4)
    stacked.update(losses, [0.1] * 4, [r is not None for r in rows])
    for name, value in stacked.state().items():
        still = (value == before[name]).view(4, -1).all(1)
        assert still[[1, 3]].all(), name
        assert not still[[0, 2]].any(), name
    assert stacked.adam.steps.tolist() == [1, 0, 1, 0]


def test_the_audit_is_the_first_best_epoch_on_the_test_clips_and_changes_nothing():
    tasks, x, y = folds(dtype=torch.float64)
    plain = train_folds(tasks, x, y, small(torch.float64), plan(6), ids=[""] * len(y))
    parallel, single = both(tasks, x, y, small(torch.float64), plan(6, audit=True))
    assert furthest(plain, parallel) == 0
    assert furthest(single, parallel) < 1e-9
    assert furthest(single, parallel, "audit") < 1e-9
    after = [train_folds(tasks, x, y, small(torch.float64), plan(e), ids=[""] * len(y)) for e in range(1, 7)]
    for k, task in enumerate(tasks):
        accuracy = [(epoch[k].probability.argmax(1) == y[task.test].numpy()).mean() for epoch in after]
        best = int(np.argmax(accuracy))
        assert parallel[k].audit_epoch == single[k].audit_epoch == best + 1
        np.testing.assert_allclose(parallel[k].audit, after[best][k].probability, atol=1e-12)


def test_the_best_epoch_by_validation_is_tested():
    tasks, x, y = folds(dtype=torch.float64, held=1)
    parallel, single = both(tasks, x, y, small(torch.float64), plan(8, lr=0.02, best=True))
    assert furthest(parallel, single) < 1e-9
    after = [train_folds(tasks, x, y, small(torch.float64), plan(e, lr=0.02), ids=[""] * len(y)) for e in range(1, 9)]
    for k, outcome in enumerate(parallel):
        assert len(outcome.validation_losses) == 8
        assert outcome.chosen == single[k].chosen == np.argmin(outcome.validation_losses) + 1
        np.testing.assert_allclose(outcome.probability, after[outcome.chosen - 1][k].probability, atol=1e-9)
    assert len({outcome.chosen for outcome in parallel}) > 1


@pytest.mark.parametrize("best", [False, True])
def test_each_fold_stops_early_by_its_own_losses(best):
    tasks, x, y = folds(dtype=torch.float64, held=1)
    how = plan(25, lr=0.02, patience=2, best=best)
    parallel, single = both(tasks, x, y, small(torch.float64), how)
    epochs = [outcome.epochs for outcome in parallel]
    assert epochs == [outcome.epochs for outcome in single]
    assert len(set(epochs)) > 1
    assert min(epochs) < 25
    assert furthest(parallel, single) < 1e-9
    for outcome in parallel:
        if outcome.epochs < 25:
            assert np.argmin(outcome.validation_losses) + 1 == outcome.epochs - 2


@pytest.mark.parametrize("kind", ["step", "cosine", "plateau"])
def test_schedules_are_each_folds_own(kind):
    tasks, x, y = folds(dtype=torch.float64, held=1)
    options = {"lr": 0.02, "epochs": 10, "warmup": 2, "every": 3, "patience": 0}
    how = plan(schedule=Schedule(kind=kind, **options))
    parallel, single = both(tasks, x, y, small(torch.float64), how)
    assert furthest(parallel, single) < 1e-9
    constant = train_folds(tasks, x, y, small(torch.float64), plan(10, lr=0.02), ids=[""] * len(y))
    assert furthest(parallel, constant) > 1e-3


@pytest.mark.parametrize("in_parallel", [True, False])
def test_a_loss_that_is_not_finite_stops_before_the_update(in_parallel, monkeypatch):
    tasks, x, y = folds()
    x = x.clone()
    x[tasks[2].test[0]] = torch.nan  # every fold but the third trains on it
    updates = []
    for kind in (StackedFolds, SingleFold):
        monkeypatch.setattr(kind, "update", lambda *a, real=kind.update: (updates.append(1), real(*a)))
    ids = [f"clip{i:02d}" for i in range(len(y))]
    with pytest.raises(MerError, match=r"fold c/s0, epoch 1: loss is nan on clips clip.*; lower recipe.lr") as info:
        train_folds(tasks, x, y, small(), plan(batch_size=100), ids=ids, in_parallel=in_parallel)
    assert "29 more" in str(info.value) or "24 more" in str(info.value)
    assert not updates


def test_another_loss_takes_the_place_of_cross_entropy():
    """Two forward passes a step, whose masks differ, and a term of their own."""

    def two_views(network, inputs, labels, row_weight):
        a, b = network(inputs), network(inputs.flip(-1))
        return (((a - b).square().mean(1) + F.cross_entropy(a, labels, reduction="none")) * row_weight).sum()

    tasks, x, y = folds(dtype=torch.float64)
    parallel, single = both(tasks, x, y, small(torch.float64), plan(5, loss=two_views))
    assert furthest(parallel, single) < 1e-9
    ordinary = train_folds(tasks, x, y, small(torch.float64), plan(5), ids=[""] * len(y))
    assert furthest(parallel, ordinary) > 1e-3


def test_what_is_frozen_stays_each_folds_own_and_as_it_was():
    """Also with weight decay, which needs no gradient to move a weight."""

    def frozen():
        network = Small().double()
        network.conv.requires_grad_(False)
        return network

    tasks, x, y = folds(dtype=torch.float64)
    how = plan(4, weight_decay=0.5)
    parallel, single = both(tasks, x, y, frozen, how)
    assert furthest(parallel, single) < 1e-9
    stacked = stack(tasks, x, y, frozen, how)
    before = stacked.buffers["conv.weight"].clone()
    assert not torch.equal(before[0], before[1])
    stacked.update(stacked.losses([t.train[:4] for t in tasks], [None] * 4), [0.1] * 4, [True] * 4)
    assert torch.equal(stacked.buffers["conv.weight"], before)
    assert "conv.weight" not in stacked.params()


def test_validation_clips_are_demanded_where_they_are_needed():
    tasks, x, y = folds()
    for how in (plan(best=True), plan(patience=2), plan(schedule=Schedule(kind="plateau", lr=1e-3, epochs=3))):
        with pytest.raises(MerError, match="fold c/s0 holds out no clips"):
            train_folds(tasks, x, y, small(), how, ids=[""] * len(y))


class Draws(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 3)

    def forward(self, x):
        return self.fc(F.dropout(x.flatten(1), 0.5, self.training))


class Looks(Draws):
    def forward(self, x):
        out = self.fc(x.flatten(1))
        return out * 2 if out.sum() > 0 else out


class RowsSecond(Draws):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.fc(self.drop(x.flatten(1).t()).t())


def test_networks_that_cannot_be_stacked_are_found():
    _, x, _ = folds()
    assert vmap_obstacle(Small, x, plan()) is None
    assert vmap_obstacle(lambda: models.build("ststnet", 3), torch.zeros(5, 3, 28, 28), plan()) is None
    assert "random" in vmap_obstacle(Draws, x, plan())
    assert "control flow" in vmap_obstacle(Looks, x, plan())
    assert "with stacked folds and" in vmap_obstacle(RowsSecond, x, plan())


def test_random_numbers_outside_layers_are_refused():
    tasks, x, y = folds()
    with pytest.raises(MerError, match=r"fold c/s0: the network draws random numbers.*use nn.Dropout"):
        train_folds(tasks, x, y, Draws, plan(), ids=[""] * len(y), in_parallel=False)
    with pytest.raises(MerError, match="norm: batch norm without running"):
        train_folds(
            tasks, x, y, lambda: nn.ModuleDict({"norm": nn.BatchNorm2d(3, track_running_stats=False)}), plan(),
            ids=[""] * len(y), in_parallel=False,
        )  # fmt: skip


def test_bfloat16_comes_near():
    """8 bits of mantissa: a few thousandths of a probability after 6 epochs at 1e-3."""
    tasks, x, y = folds()
    exact = train_folds(tasks, x, y, small(), plan(6), ids=[""] * len(y))
    parallel, single = both(tasks, x, y, small(), plan(6, bf16=True))
    assert 0 < furthest(parallel, exact) < 0.01
    assert 0 < furthest(single, exact) < 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what torch.compile imports
@pytest.mark.parametrize("in_parallel", [True, False])
def test_compiled_is_the_same(in_parallel):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    tasks, x, y = folds()
    options = {"ids": [""] * len(y), "in_parallel": in_parallel}
    plain = train_folds(tasks[:2], x, y, small(), plan(6, batch_size=100), **options)
    compiled = train_folds(tasks[:2], x, y, small(), plan(6, batch_size=100, compiled=True), **options)
    assert furthest(plain, compiled) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what torch.compile imports
def test_without_a_compiler_what_is_compiled_is_refused_with_what_to_do():
    from torch._inductor import config

    tasks, x, y = folds()
    message = r"^recipe.compiled: torch.compile fails here \(.*C\+\+ compiler.*\); set it to false, or install a C\+\+"
    with config.patch({"cpp.cxx": (None, "/nonexistent/g++"), "fx_graph_cache": False}):
        for in_parallel in (True, False):
            torch._dynamo.reset()
            refused(message, train_folds, tasks[:2], x, y, small(), plan(1, compiled=True), ids=[""] * len(y),
                    in_parallel=in_parallel)  # fmt: skip
        torch._dynamo.reset()
        # It is no reason to train fold by fold, which would fail as well.
        refused(message, vmap_obstacle, small(), x, plan(1, compiled=True))
    torch._dynamo.reset()


def test_stacked_folds_free_their_memory_when_they_are_done():
    """Without the garbage collector, whose turn may come after the next group has asked for its memory."""
    tasks, x, y = folds()
    gc.collect()
    gc.disable()
    try:
        stacked = stack(tasks, x, y, small(), plan())
        loop._train(stacked, tasks, stacked.clips, plan(1))
        memory = weakref.ref(stacked.flat)
        del stacked
        assert memory() is None
    finally:
        gc.enable()


def test_evaluation_goes_in_batches():
    tasks, x, y = folds((3, 40))
    task = Task("c/s1", 5, tasks[1].test[:20], tasks[1].test[20:])
    a, b = (
        train_folds([task, task], x, y, small(), plan(1, lr=1e-9, batch_size=size), ids=[""] * len(y), in_parallel=True)
        for size in (7, 100)
    )
    assert a[0].probability.shape == (20, 3)
    np.testing.assert_allclose(a[0].probability.sum(1), 1, atol=1e-12)
    assert np.abs(a[0].probability - b[0].probability).max() < 0.5  # other batches, other running statistics


def test_a_last_batch_of_one_joins_its_neighbour():
    assert [len(b) for b in loop.batches(np.arange(17), 8)] == [8, 9]
    assert [len(b) for b in loop.batches(np.arange(18), 8)] == [8, 8, 2]
    assert [len(b) for b in loop.batches(np.arange(1), 8)] == [1]


def test_dropout_layers_and_norms_are_all_replaced():
    tasks, x, y = folds()
    stacked = stack(tasks, x, y, small(), plan())
    assert list(stacked.sources) == ["drop", "channels"]
    assert stacked.norms == ["norm", "norm2"]
    assert not any(type(m) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout) for m in stacked.base.modules())
    assert isinstance(stacked.base.norm, norm.MaskedBatchNorm)


# ---- explanations ---------------------------------------------------------------------------------------------------


def saliency(network, inputs):
    """|d top logit / d pixel| by torch.autograd.grad."""
    inputs = inputs.clone().requires_grad_()
    logits = network(inputs)
    (gradient,) = torch.autograd.grad(logits.amax(1).sum(), inputs)
    return {"data": gradient.abs(), "logits": logits}


def grad_cam(network, inputs):
    """By backward, which leaves gradients in the parameters."""
    maps = []
    hook = network.conv.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    logits = network(inputs)
    hook.remove()
    maps[0].retain_grad()
    logits.amax(1).sum().backward()
    weights = maps[0].grad.mean((2, 3), keepdim=True)
    return {"data": F.relu((weights * maps[0]).sum(1)), "logits": logits}


@pytest.mark.parametrize("in_parallel", [True, False])
@pytest.mark.parametrize("explain", [saliency, grad_cam])
def test_an_explanation_may_take_gradients(explain, in_parallel):
    tasks, x, y = folds(dtype=torch.float64)
    called = []

    def watched(network, inputs):
        assert not network.training
        assert all(p.grad is None for p in network.parameters())  # also of the clips before, and of the last step
        called.append((network, copy.deepcopy(network)))
        return explain(network, inputs)

    options = {"ids": [""] * len(y), "in_parallel": in_parallel}
    plain = train_folds(tasks, x, y, small(torch.float64), plan(3), **options)
    outcomes = train_folds(tasks, x, y, small(torch.float64), plan(3, explain=watched), **options)
    assert furthest(plain, outcomes) == 0
    assert len(called) == 6  # one a fold and batch of 8: 9 and 14 clips are two each
    for network, before in called:
        assert all(p.grad is None for p in network.parameters())
        for name, value in network.state_dict().items():
            assert torch.equal(value, before.state_dict()[name]), name
    networks = [called[i][1] for i in (0, 1, 3, 5)]
    for task, outcome, network in zip(tasks, outcomes, networks, strict=True):
        found, clips = outcome.explained, x[task.test]
        # explanations are float32
        likelihood = torch.from_numpy(found["logits"]).softmax(1).numpy()
        np.testing.assert_allclose(likelihood, outcome.probability, atol=1e-6)
        single = torch.cat([explain(network, clip[None])["data"] for clip in clips]).detach().numpy()
        np.testing.assert_allclose(found["data"], single, rtol=1e-5, atol=1e-9)
        if explain is saliency:  # against central differences; ReLU and pooling are linear around almost every point
            step = torch.zeros_like(clips)
            step[:, 1, 3, 4] = 1e-6
            up, down = (network(clips + sign * step).amax(1) for sign in (1, -1))
            slope = ((up - down).abs() / 2e-6).detach().numpy()
            np.testing.assert_allclose(found["data"][:, 1, 3, 4], slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("in_parallel", [True, False])
def test_training_clips_are_explained_by_the_network_that_is_tested(in_parallel):
    tasks, x, y = folds(dtype=torch.float64, held=1)
    networks = []

    def loss_and_slope(network, inputs, labels):
        networks.append(copy.deepcopy(network))
        inputs = inputs.clone().requires_grad_()
        losses = F.cross_entropy(network(inputs), labels, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), inputs)
        return {"loss": losses, "slope": gradient.flatten(1).norm(dim=1)}

    how = plan(6, lr=0.02, best=True, batch_size=100, explain_training=loss_and_slope)
    outcomes = train_folds(tasks, x, y, small(torch.float64), how, ids=[""] * len(y), in_parallel=in_parallel)
    assert any(outcome.chosen < 6 for outcome in outcomes)
    for task, outcome, network in zip(tasks, outcomes, networks, strict=True):
        np.testing.assert_allclose(network(x[task.test]).softmax(1).detach().numpy(), outcome.probability, atol=1e-9)
        expected = F.cross_entropy(network(x[task.train]), y[task.train], reduction="none").detach().numpy()
        np.testing.assert_allclose(outcome.explained_training["loss"], expected, rtol=1e-5)  # float32
        assert outcome.explained_training["slope"].shape == task.train.shape
        assert not outcome.explained


def test_an_explanation_without_a_row_for_each_clip_is_refused():
    tasks, x, y = folds()
    how = plan(1, explain=lambda network, inputs: {"data": inputs, "mean": inputs.mean(0)})
    with pytest.raises(MerError, match=r"explain returns 'mean' of shape \(3, 8, 8\) for 1 clips; needed is one row a"):
        train_folds(tasks, x, y, small(), how, ids=[""] * len(y))
