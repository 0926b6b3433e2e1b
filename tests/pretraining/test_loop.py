"""The training loop: killed anywhere it ends with the same bits, and nothing that is not finite reaches the weights."""

import errno
import math
import os

import pytest
import torch
from torch import nn

from mer.errors import MerError
from mer.pretraining import loop
from mer.pretraining.loop import fixed_threads, keep, resume, train
from tests.helpers.refusals import refused

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 5
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, betas=(0.9, 0.99)),
    "adamw": lambda p: torch.optim.AdamW(p, weight_decay=0.1),
}


@pytest.fixture(autouse=True)
def one_thread_inside(monkeypatch):
    monkeypatch.setattr(loop, "THREADS", 1)  # a second would wait for a core that other tests use


class Training:
    """A network with dropout and batch norm that learns noise, and the steps that it has made."""

    def __init__(self, optimizer="adam", killed=None, spoiled=None, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.optimizer = OPTIMIZERS[optimizer](self.network.parameters())
        self.killed, self.spoiled, self.steps = killed, spoiled, []

    def objective(self, step):
        if step == self.killed:
            raise KeyboardInterrupt
        self.steps.append(step)
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        loss = (self.network(x) - x.sum(1, keepdim=True)).square().mean()
        return self.spoiled(loss, self.network) if self.spoiled is not None and step == 2 else loss

    def train(self, **changes):
        options = {"steps": STEPS, "rate": lambda step: 0.01 * (step + 1), "key": "key", "max_norm": 1.0}
        options |= {"step_seed": lambda step: 100 + step}
        train(self.network, self.objective, task="tiny", optimizer=self.optimizer, **options | changes)
        return self


def equal(one, other) -> bool:
    """Every bit of two networks and of the states of their optimisers."""
    a, b = one.network.state_dict(), other.network.state_dict()
    states = [t.optimizer.state_dict()["state"] for t in (one, other)]
    same = a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
    same = same and states[0].keys() == states[1].keys()
    return same and all(
        torch.equal(value, states[1][k][name]) for k, state in states[0].items() for name, value in state.items()
    )


# ---- killed and gone on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("every", [1, 2, 50])
@pytest.mark.parametrize("killed", range(STEPS))
def test_killed_at_any_step_it_ends_with_the_same_bits(tmp_path, optimizer, every, killed):
    whole, path = Training(optimizer).train(), tmp_path / "new" / "c.pt"
    with pytest.raises(KeyboardInterrupt):
        Training(optimizer, killed=killed).train(checkpoint=path, every=every)
    resumed = Training(optimizer).train(checkpoint=path, every=every)
    assert resumed.steps == list(range(killed // every * every, STEPS))
    assert equal(whole, resumed)
    assert not any(module.training for module in resumed.network.modules())
    again = Training(optimizer).train(checkpoint=path)
    assert again.steps == []
    assert equal(whole, again)


def test_killed_while_it_writes_it_goes_on_from_the_checkpoint_before(tmp_path, monkeypatch):
    whole, path = Training().train(), tmp_path / "c.pt"
    write, written = loop.replace_file, []

    def third_time_dies(target, data):
        if len(written) == 2:
            target.with_name(target.name + ".tmp").write_bytes(data[:100])
            raise KeyboardInterrupt
        written.append(target)
        write(target, data)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "replace_file", third_time_dies)
        with pytest.raises(KeyboardInterrupt):
            Training().train(checkpoint=path, every=1)
    resumed = Training().train(checkpoint=path, every=1)
    assert resumed.steps == [2, 3, 4]
    assert equal(whole, resumed)


def test_another_key_is_ignored(tmp_path, capsys):
    Training(seed=1).train(checkpoint=tmp_path / "c.pt")
    other = Training().train(checkpoint=tmp_path / "c.pt", key="another")
    assert other.steps == list(range(STEPS))
    assert equal(other, Training().train())
    assert capsys.readouterr().err == ""


def flipped_bit(data: bytes, path) -> None:
    """Of a weight, which stays a number."""
    weight = next(iter(torch.load(path, weights_only=True)["model"].values())).numpy().tobytes()
    at = data.index(weight)
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def without_optimizer(data: bytes, path) -> None:
    torch.save({"key": "key", "step": 3, "model": {}}, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, path: path.write_bytes(b""),
        lambda data, path: path.write_bytes(b"no checkpoint"),
        lambda data, path: path.write_bytes(data[:-2000]),
        lambda data, path: torch.save([1, 2], path),
        without_optimizer,
        flipped_bit,
    ],
)
def test_a_damaged_checkpoint_is_said_and_ignored(tmp_path, capsys, damage):
    path = tmp_path / "c.pt"
    whole = Training().train(checkpoint=path)
    damage(path.read_bytes(), path)
    again = Training().train(checkpoint=path)
    assert again.steps == list(range(STEPS))
    assert equal(whole, again)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: the checkpoint is damaged (")
    assert line.endswith("training begins anew")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_checkpoint_that_is_not_handed_out_stops_and_stays(tmp_path, monkeypatch, code):
    """It may be sound: a training that began anew would write over it."""
    path = tmp_path / "c.pt"
    Training().train(checkpoint=path)
    kept, opened = path.read_bytes(), open

    def fail(file, *args, **kwargs):
        if str(file) == str(path):
            raise OSError(code, os.strerror(code))
        return opened(file, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", fail)
        refused(rf"c\.pt: (?i:{os.strerror(code)}); ", Training().train, checkpoint=path, every=1)
    assert path.read_bytes() == kept


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")]
)
def test_a_checkpoint_that_does_not_fit_into_memory_stops_and_stays(tmp_path, monkeypatch, error):
    path = tmp_path / "c.pt"
    Training().train(checkpoint=path)
    kept = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        Training().train(checkpoint=path, every=1)
    assert path.read_bytes() == kept


def test_a_checkpoint_is_taken_up_under_its_own_key_only(tmp_path):
    path, made = tmp_path / "new" / "c.pt", Training().train(steps=1)
    keep(path, "key", 7, made.network, made.optimizer)
    for key, steps in (("key", 7), ("other", 0)):
        fresh = Training(seed=1)
        assert resume(path, key, fresh.network, fresh.optimizer) == steps
        assert equal(fresh, made) == (steps == 7)
    assert resume(None, "key", made.network, made.optimizer) == 0
    assert resume(tmp_path / "none.pt", "key", made.network, made.optimizer) == 0


# ---- a watch --------------------------------------------------------------------------------------------------------


class Watch:
    """Sees the sum of the weights after every second step; has seen enough after `most`."""

    def __init__(self, training, most=99):
        self.training, self.most, self.seen = training, most, []

    @property
    def ended(self):
        return len(self.seen) >= self.most

    def after(self, step):
        if step % 2:
            self.seen.append(sum(p.sum().item() for p in self.training.network.parameters()))

    def rate(self, step):
        return 0.01 / (1 + len(self.seen))

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def watched(killed=None, most=99, **changes):
    training = Training(killed=killed)
    watch = Watch(training, most)
    try:
        training.train(watch=watch, rate=watch.rate, **changes)
    except KeyboardInterrupt:
        assert killed is not None
    return training, watch


@pytest.mark.parametrize("every", [1, 2, 50])
@pytest.mark.parametrize("killed", range(STEPS))
def test_what_a_watch_has_seen_is_kept_and_killed_at_any_step_it_ends_with_the_same_bits(tmp_path, every, killed):
    (whole, seen), path = watched(), tmp_path / "c.pt"
    assert len(seen.seen) == 2
    watched(killed=killed, checkpoint=path, every=every)
    resumed, again = watched(checkpoint=path, every=every)
    assert resumed.steps == list(range(killed // every * every, STEPS))
    assert equal(whole, resumed)
    assert seen.seen == again.seen


def test_a_watch_lowers_the_rate_and_sees_the_weights_after_the_step():
    training, watch = watched()
    by_hand, rates = Training(), [0.01, 0.01, 0.005, 0.005, 0.01 / 3]
    by_hand.train(rate=lambda step: rates[step])
    assert equal(training, by_hand)
    two = Training().train(steps=2, rate=lambda step: 0.01)
    assert watch.seen[0] == sum(p.sum().item() for p in two.network.parameters())


@pytest.mark.parametrize("every", [1, 50])
def test_a_watch_ends_the_training_which_then_stays_ended(tmp_path, every):
    path = tmp_path / "c.pt"
    ended, watch = watched(most=1, checkpoint=path, every=every)
    assert ended.steps == [0, 1]
    assert not any(module.training for module in ended.network.modules())
    again, seen = watched(most=1, checkpoint=path, every=every)
    assert again.steps == []
    assert equal(ended, again)
    assert seen.seen == watch.seen


def test_without_a_watch_a_checkpoint_holds_what_it_always_did(tmp_path):
    Training().train(checkpoint=tmp_path / "c.pt")
    assert torch.load(tmp_path / "c.pt", weights_only=True).keys() == {"key", "step", "model", "optimizer"}


def test_a_checkpoint_without_what_a_watch_has_seen_is_damaged(tmp_path, capsys):
    Training().train(checkpoint=tmp_path / "c.pt")
    training, _ = watched(checkpoint=tmp_path / "c.pt")
    assert training.steps == list(range(STEPS))
    assert "the checkpoint is damaged ('watch'); training begins anew" in capsys.readouterr().err


# ---- what is not finite ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoiled", "what"),
    [
        (lambda loss, network: loss * math.nan, "loss is nan"),
        (lambda loss, network: loss + math.inf, "loss is inf"),
        # 0 itself, but it rises without end there.
        (lambda loss, network: loss + torch.sqrt(0 * network[0].weight.sum()), "the gradient is not finite"),
    ],
)
def test_what_is_not_finite_stops_before_the_update(tmp_path, spoiled, what):
    sound, path = Training().train(steps=2), tmp_path / "c.pt"
    broken = Training(spoiled=spoiled)
    with pytest.raises(MerError) as caught:
        broken.train(checkpoint=path, every=1)
    assert str(caught.value) == f"tiny: step 3 of 5: {what}; the weights before it were sound: lower lr"
    for one, other in zip(sound.network.parameters(), broken.network.parameters(), strict=True):
        assert torch.equal(one, other)
    kept = torch.load(path, weights_only=True)
    assert kept["step"] == 2
    assert all(torch.equal(value, kept["model"][name]) for name, value in sound.network.state_dict().items())


# ---- a step ---------------------------------------------------------------------------------------------------------


def weight(start: float) -> nn.Linear:
    network = nn.Linear(2, 1, bias=False)
    nn.init.constant_(network.weight, start)
    return network


def test_a_step_has_its_own_rate():
    """The loss rises by 1 with each weight, so each loses the sum of the rates; all are sums of powers of 2."""
    network = weight(3.0)
    rates = [0.5, 0.25, 0.125]
    train(
        network, lambda step: network.weight.sum(), task="t", steps=3, key="", rate=lambda step: rates[step],
        optimizer=torch.optim.SGD(network.parameters(), lr=99.0),
    )  # fmt: skip
    assert network.weight.tolist() == [[2.125, 2.125]]


@pytest.mark.parametrize(("max_norm", "length"), [(math.inf, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_a_gradient_is_shortened_but_never_made_longer(max_norm, length):
    network, slope = weight(0.0), torch.tensor([[3.0, 4.0]])
    train(
        network, lambda step: (slope * network.weight).sum(), task="t", steps=1, key="", rate=lambda step: 1.0,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0), max_norm=max_norm,
    )  # fmt: skip
    # torch adds 1e-6 to the norm of 5 that it divides by.
    torch.testing.assert_close(network.weight.data, -slope * length / 5, rtol=1e-6, atol=0)


def test_only_the_parameters_of_the_optimiser_are_trained_and_measured():
    """The other's gradient is infinite; that is nobody's business."""
    network = nn.ParameterList([nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))])
    train(
        network, lambda step: network[0].sum() + network[1].sqrt().sum(), task="t", steps=1, key="",
        rate=lambda step: 0.5, optimizer=torch.optim.SGD([network[0]], lr=1.0),
    )  # fmt: skip
    assert [p.item() for p in network] == [0.5, 0.0]


def test_the_loss_is_computed_in_the_type_that_was_asked_for():
    for autocast, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        network, seen = weight(1.0), []

        def objective(step, network=network, seen=seen):
            seen.append(network(torch.ones(1, 2)).dtype)
            return network.weight.sum()

        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        train(
            network, objective, task="t", steps=1, key="", rate=lambda step: 1.0, optimizer=optimizer, autocast=autocast
        )
        assert seen == [expected]


def test_what_a_network_draws_comes_from_the_steps_seed_and_the_callers_generator_stays():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = Training().train()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert equal(one, Training().train())
    assert not equal(one, Training().train(step_seed=lambda step: 200 + step))


def test_without_a_seed_nothing_is_seeded():
    torch.manual_seed(1)
    one = Training().train(step_seed=None)
    torch.manual_seed(2)
    assert not equal(one, Training().train(step_seed=None))


def test_the_bar_names_the_task_and_is_only_there_when_asked_for(capsys):
    Training().train()
    assert capsys.readouterr().err == ""
    Training().train(progress=True)
    assert "tiny: 100%" in capsys.readouterr().err


def test_threads_are_given_back(monkeypatch):
    monkeypatch.setattr(loop, "THREADS", 2)
    with fixed_threads(torch.device("cpu")):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
    inside = []
    with pytest.raises(KeyboardInterrupt):
        Training(killed=1).train(rate=lambda step: inside.append(torch.get_num_threads()) or 0.1)
    assert inside == [2]
    assert torch.get_num_threads() == 1
