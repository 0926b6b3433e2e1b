"""The training of task `macro_sets`: balanced epochs, the validation, plateau, stop, the kept epoch, kills."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mer.pretraining import macro_sets
from mer.pretraining.macro import WHOLE, cut, look
from mer.pretraining.macro_sets import (
    Validation,
    class_weights,
    epoch_size,
    order,
    pretrain,
)
from tests.helpers.pretraining import face, network, scripted, states_equal
from tests.helpers.refusals import refused

pytestmark = pytest.mark.usefixtures("one_thread", "one_thread_of_the_loop")


# ---- balance ---------------------------------------------------------------------------------------------------------

LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])  # five, three, two


def shown(balance: str, epochs: int) -> np.ndarray:
    """(epochs, N) how often each image is shown."""
    return np.stack([np.bincount(order(LABELS, balance, 0, epoch), minlength=10) for epoch in range(epochs)])


def test_undersampling_shows_the_smallest_class_whole_and_draws_the_others_anew():
    found = shown("undersample", 30)
    assert epoch_size(LABELS, "undersample") == 6
    assert found.max() == 1
    assert (found[:, :5].sum(1) == 2).all()
    assert (found[:, 5:8].sum(1) == 2).all()
    assert (found[:, 8:] == 1).all()
    assert len({tuple(row) for row in found}) > 10
    assert (found.sum(0) > 0).all()


def test_oversampling_shows_every_class_as_often_as_the_largest():
    found = shown("oversample", 30)
    assert epoch_size(LABELS, "oversample") == 15
    assert (found[:, :5] == 1).all()
    assert {tuple(sorted(row)) for row in found[:, 5:8]} == {(1, 2, 2)}
    assert {tuple(sorted(row)) for row in found[:, 8:]} == {(2, 3)}
    assert len({tuple(row) for row in found}) == 6  # three by two choices of who is shown once more


def test_weights_show_every_image_once_and_count_each_class_the_same():
    assert epoch_size(LABELS, "weights") == 10
    assert (shown("weights", 5) == 1).all()
    weights = class_weights(LABELS)
    np.testing.assert_allclose(weights, [10 / 15, 10 / 9, 10 / 6], rtol=1e-6)
    np.testing.assert_allclose(weights[LABELS].mean(), 1, rtol=1e-6)
    np.testing.assert_allclose(np.bincount(LABELS, weights=weights[LABELS]), [10 / 3] * 3, rtol=1e-6)


@pytest.mark.parametrize("balance", ["undersample", "oversample", "weights"])
def test_classes_are_mixed_within_an_epoch_and_each_epoch_has_an_order_of_its_own(balance):
    orders = [order(LABELS, balance, 0, epoch) for epoch in range(4)]
    assert len({tuple(LABELS[rows]) for rows in orders}) > 1
    assert np.array_equal(orders[1], order(LABELS, balance, 0, 1))
    assert not np.array_equal(orders[1], order(LABELS, balance, 1, 1))


# ---- training --------------------------------------------------------------------------------------------------------

KINDS = np.repeat([0, 1, 2], [9, 7, 5])

FACES = [face(kind, number, 24) for number, kind in enumerate(KINDS)]

HELD_KINDS = np.repeat([0, 1, 2], [4, 2, 3])

HELD = [face(kind, 50 + number, 24) for number, kind in enumerate(HELD_KINDS)]

PLAN = {
    "faces": FACES, "labels": KINDS, "held_faces": HELD, "held_labels": HELD_KINDS, "epochs": 3, "batch_size": 4,
    "size": 32, "lr": 1e-3,
}  # fmt: skip


class Tiny(nn.Module):
    """Batch norm and dropout; fast."""

    def __init__(self, seed=0, classes=3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
            self.fc = nn.Linear(32, classes)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x.permute(0, 3, 1, 2) / 255)))
        return self.fc(self.dropout(F.adaptive_avg_pool2d(x, (4, 1)).flatten(1)))


@pytest.mark.parametrize(
    ("balance", "optimizer"), [("undersample", "adam"), ("oversample", "adamw"), ("weights", "adam")]
)
def test_steps_are_those_of_the_optimiser_on_full_batches(balance, optimizer):
    """One epoch written out: 15, 27 or 21 images in 3, 6 or 5 batches of 4; what is left over is not shown."""
    done = pretrain(network=Tiny(), **PLAN | {"epochs": 1, "balance": balance, "optimizer": optimizer, "seed": 3})
    model = Tiny()
    by_hand = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer](model.parameters(), lr=1e-3)
    weight = 21 / (3 * np.array([9, 7, 5])) if balance == "weights" else np.ones(3)
    rows = order(KINDS, balance, 3, 0)
    assert len(rows) // 4 == {"undersample": 3, "oversample": 6, "weights": 5}[balance]
    for step in range(len(rows) // 4):
        part = rows[4 * step : 4 * step + 4]
        squares, seed = look(4, seed=3, step=step, crop=1.0)
        torch.manual_seed(seed)
        log = model(cut([FACES[row] for row in part], squares, 32)).log_softmax(1)
        loss = -sum(weight[KINDS[row]] * log[k, KINDS[row]] for k, row in enumerate(part)) / 4
        by_hand.zero_grad()
        loss.backward()
        by_hand.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(done.network.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert not any(module.training for module in done.network.modules())


def test_whole_faces_are_seen_and_half_of_them_mirrored(monkeypatch):
    seen = []
    monkeypatch.setattr(
        macro_sets, "cut", lambda some, squares, *args: seen.append(squares) or cut(some, squares, *args)
    )
    pretrain(network=Tiny(), **PLAN | {"epochs": 12})
    learned = np.concatenate([squares for k, squares in enumerate(seen) if k % 6 < 3])  # 3 batches; 9 held out in 3
    assert np.array_equal(np.unique(learned, axis=0), [WHOLE, [1, 1, 0, 0]])
    assert 0.4 < learned[:, 0].mean() < 0.6
    assert all(np.array_equal(np.unique(s, axis=0), [WHOLE]) for k, s in enumerate(seen) if k % 6 >= 3)
    seen.clear()
    pretrain(network=Tiny(), **PLAN | {"epochs": 1, "mirror": False})
    assert all(np.array_equal(np.unique(squares, axis=0), [WHOLE]) for squares in seen)


def test_every_class_weighs_the_same_in_the_validation():
    model = Tiny()
    watch = Validation(
        model, HELD, HELD_KINDS, steps=2, stop=0, size=32, batch_size=4, device=torch.device("cpu")
    )  # fmt: skip
    watch.after(0)
    assert watch.losses == []  # in the midst of an epoch
    watch.after(1)
    assert model.training
    model.eval()
    with torch.no_grad():
        found = model(cut(HELD, np.tile(WHOLE, (9, 1)), 32)).softmax(1).double().numpy()
    by_class = [np.mean([-math.log(found[k, c]) for k in np.flatnonzero(c == HELD_KINDS)]) for c in range(3)]
    recall = [np.mean(found[c == HELD_KINDS].argmax(1) == c) for c in range(3)]
    np.testing.assert_allclose(watch.losses, [np.mean(by_class)], rtol=1e-5)
    np.testing.assert_allclose(watch.uar(0), np.mean(recall))
    np.testing.assert_allclose(watch.accuracy(0), np.mean(found.argmax(1) == HELD_KINDS))


def test_only_its_own_seed_moves_it_and_it_moves_no_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = pretrain(network=Tiny(), **PLAN).network
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert states_equal(one, pretrain(network=Tiny(), **PLAN).network)
    assert not states_equal(one, pretrain(network=Tiny(), **PLAN | {"seed": 1}).network)


# ---- the rate, the end and the epoch that is kept --------------------------------------------------------------------


def test_a_plateau_lowers_the_rate(monkeypatch):
    script = [(1, 3), (2, 3), (1, 3), (1, 3), (1, 3), (3, 3), (1, 3), (1, 3)]  # best: the second, then the sixth
    rates = scripted(monkeypatch, script)
    done = pretrain(network=Tiny(), **PLAN | {"epochs": 8, "patience": 2, "factor": 0.5, "stop": 0})
    assert rates[::3] == [1e-3] * 5 + [5e-4] * 3  # after three epochs without a lower loss
    assert rates == np.repeat(rates[::3], 3).tolist()
    assert done.epochs == 8


@pytest.mark.parametrize(("stop", "epochs"), [(2, 5), (3, 6), (0, 8)])
def test_the_training_ends_when_no_loss_is_lower(monkeypatch, stop, epochs):
    rates = scripted(monkeypatch, [(1, 3), (2, 3), (3, 3), (1, 3), (2, 3), (1, 3), (1, 3), (1, 3)])
    done = pretrain(network=Tiny(), **PLAN | {"epochs": 8, "stop": stop})
    assert (done.epochs, done.kept) == (epochs, 3)
    assert len(rates) == 3 * epochs


def test_with_the_printed_patience_for_both_the_rate_never_falls(monkeypatch):
    """D-10."""
    rates = scripted(monkeypatch, [(1, 3)] * 9)
    done = pretrain(network=Tiny(), **PLAN | {"epochs": 9, "patience": 4, "stop": 4})
    assert done.epochs == 5
    assert set(rates) == {1e-3}


@pytest.mark.parametrize(
    ("script", "kept"),
    [
        ([(1, 1), (1, 2), (3, 1), (2, 1)], 2),  # most is told, though the loss is lower later
        ([(1, 2), (2, 2), (1, 2), (3, 1)], 2),  # as much is told: the lower loss
        ([(1, 2), (1, 2), (1, 1), (1, 2)], 1),  # the first of equals
    ],
)
def test_the_weights_are_those_of_the_best_epoch(monkeypatch, script, kept):
    scripted(monkeypatch, script)
    done = pretrain(network=Tiny(), **PLAN | {"epochs": 4})
    assert (done.kept, done.epochs, done.n) == (kept, 4, 9)
    until = pretrain(network=Tiny(), **PLAN | {"epochs": kept})  # the steps of an epoch do not depend on later ones
    assert until.kept == kept
    assert states_equal(done.network, until.network)
    classes = script[kept - 1][1]
    assert done.uar == pytest.approx(classes / 3)
    assert done.accuracy == pytest.approx((4, 6, 9)[classes - 1] / 9)


# ---- killed and gone on ----------------------------------------------------------------------------------------------


def steps_done(monkeypatch, killed: int | None = None) -> list[int]:
    """Filled with the steps whose batches are drawn; step `killed` is never made."""
    steps = []

    def noting(*args, **kwargs):
        if kwargs["step"] == killed:
            raise KeyboardInterrupt
        steps.append(kwargs["step"])
        return look(*args, **kwargs)

    monkeypatch.setattr(macro_sets, "look", noting)
    return steps


@pytest.mark.parametrize("every", [1, 2, 3, 50])
@pytest.mark.parametrize("killed", [1, 3, 5, 6, 8])
def test_a_killed_training_ends_with_the_same_bits(tmp_path, monkeypatch, killed, every):
    """Three steps an epoch; killed within one, behind the first and behind the second."""
    path = tmp_path / "new" / "c.pt"
    whole = pretrain(network=Tiny(), **PLAN, checkpoint=tmp_path / "whole.pt")
    with monkeypatch.context() as patch:
        steps_done(patch, killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(network=Tiny(), **PLAN, checkpoint=path, every=every)
    steps = steps_done(monkeypatch)
    resumed = pretrain(network=Tiny(), **PLAN, checkpoint=path, every=every)
    assert steps == list(range(killed // every * every, 9))
    assert_same(whole, resumed)
    kept = [torch.load(p, weights_only=True) for p in (tmp_path / "whole.pt", path)]
    for name, value in kept[0]["model"].items():  # the last weights too, and what was seen
        assert torch.equal(value, kept[1]["model"][name]), name
    for name in ("losses", "right"):
        assert kept[0]["watch"][name] == kept[1]["watch"][name]
    steps.clear()
    assert_same(whole, pretrain(network=Tiny(), **PLAN, checkpoint=path))
    assert steps == []


def assert_same(one, other) -> None:
    assert states_equal(one.network, other.network)
    for name in ("accuracy", "uar", "n", "kept", "epochs"):
        assert getattr(one, name) == getattr(other, name)


def test_a_training_killed_in_its_validation_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole, path = pretrain(network=network(), **PLAN), tmp_path / "c.pt"
    found = Validation._logits

    def killed(self):
        if len(self.losses) == 1:
            self.network.eval()
            raise KeyboardInterrupt
        return found(self)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "_logits", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(network=network(), **PLAN, checkpoint=path, every=1)
    steps = steps_done(monkeypatch)
    assert_same(whole, pretrain(network=network(), **PLAN, checkpoint=path, every=1))
    assert steps == [5, 6, 7, 8]


def test_a_training_that_ended_early_stays_ended(tmp_path, monkeypatch):
    """And the rate falls where it would have fallen."""
    script = [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]
    plan = PLAN | {"epochs": 6, "stop": 3, "patience": 1}
    rates = scripted(monkeypatch, script)
    whole = pretrain(network=Tiny(), **plan)
    assert (whole.epochs, whole.kept) == (4, 1)
    assert rates[::3] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])
    path = tmp_path / "c.pt"
    with monkeypatch.context() as patch:
        steps_done(patch, killed=10)
        with pytest.raises(KeyboardInterrupt):
            pretrain(network=Tiny(), **plan, checkpoint=path, every=2)
    rates.clear()
    assert_same(whole, pretrain(network=Tiny(), **plan, checkpoint=path, every=2))
    assert rates == pytest.approx([1e-4] * 2)
    rates.clear()
    assert_same(whole, pretrain(network=Tiny(), **plan, checkpoint=path))
    assert rates == []


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 2e-3}, {"seed": 1}, {"epochs": 2}, {"mirror": False}, {"code": "x"}, {"balance": "oversample"},
        {"optimizer": "adamw"}, {"factor": 0.2}, {"patience": 3}, {"stop": 5}, {"faces": FACES[::-1]},
        {"held_faces": HELD[::-1]}, {"labels": KINDS[::-1].copy()}, {"held_labels": HELD_KINDS[::-1].copy()},
        {"weights": 1},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_a_checkpoint_of_another_training_is_ignored(tmp_path, monkeypatch, other):
    plan = PLAN | {"epochs": 1, "checkpoint": tmp_path / "c.pt"}
    pretrain(network=Tiny(), **plan)
    steps = steps_done(monkeypatch)
    changed = plan | other
    pretrain(network=Tiny(seed=changed.pop("weights", 0)), **changed)
    assert steps[0] == 0


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["undersample", "weights"])
def test_a_loss_that_is_not_finite_stops_before_the_update(monkeypatch, balance):
    calls = []

    def spoiled(*args):
        calls.append(args)
        return cut(*args) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(macro_sets, "cut", spoiled)
    model = Tiny()
    plan = PLAN | {"balance": balance}
    message = r"macro_sets: step 2 of \d+: loss is nan; the weights before it were sound: lower lr"
    refused(message, pretrain, network=model, **plan)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_validation_that_is_not_finite_is_refused(monkeypatch):
    monkeypatch.setattr(Validation, "_logits", lambda self: torch.full((9, 3), math.nan, dtype=torch.float64))
    refused("macro_sets: epoch 1: the loss on held-out images is nan; lower lr", pretrain, network=Tiny(), **PLAN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "macro_sets: epochs is 0; needed is 1 at least"),
        ({"batch_size": 1}, "macro_sets: batch_size is 1; needed is 2 at least"),
        ({"every": 0}, "macro_sets: every is 0; needed is 1 at least"),
        ({"patience": -1}, "macro_sets: patience is -1; needed is 0 at least"),
        ({"stop": -1}, "macro_sets: stop is -1; needed is 0 at least"),
        ({"lr": 0}, "macro_sets: lr is 0; needed is a finite number above 0"),
        ({"lr": math.nan}, "macro_sets: lr is nan;"),
        ({"lr": math.inf}, "macro_sets: lr is inf;"),
        ({"factor": 1}, "macro_sets: factor is 1; needed is a share of the rate, above 0 and below 1"),
        ({"factor": 0}, "macro_sets: factor is 0;"),
        ({"balance": "undersampled"}, "macro_sets: balance is 'undersampled'; did you mean 'undersample'?"),
        ({"optimizer": "sgd"}, "macro_sets: optimizer is 'sgd'; valid names: adam, adamw"),
        ({"faces": []}, "there are no images; name a set"),
        ({"held_faces": []}, "there are no held-out images; name a set"),
        ({"faces": FACES[:-1]}, "macro_sets: labels of 20 images are (21,) int64; give a whole number for each"),
        ({"labels": KINDS.astype(float)}, "macro_sets: labels of 21 images are (21,) float64;"),
        ({"labels": KINDS + 1}, "macro_sets: labels of images are 1..3; valid: 0..2"),
        ({"held_labels": HELD_KINDS - 1}, "macro_sets: labels of held-out images are -1..1; valid: 0..2"),
        ({"labels": KINDS % 2}, "macro_sets: of 21 images none is surprise; name a set that shows them, or lower held"),
        (
            {"held_labels": HELD_KINDS * 0},
            "macro_sets: of 9 held-out images none is positive or surprise; raise held_out",
        ),
        ({"size": 20}, "images: face 0 is (24, 24, 3) uint8; needed is"),
        (
            {"batch_size": 16},
            "macro_sets: an epoch has 15 images (balance undersample, of 9 negative, 7 positive, 5 sur",
        ),
        ({"network": Tiny(classes=4)}, "macro_sets: the network makes (2, 4) of 2 faces; needed are logits (2, 3)"),
    ],
)
def test_bad_input(arguments, message):
    refused(re.escape(message), pretrain, **{"network": Tiny(), **PLAN, **arguments})
