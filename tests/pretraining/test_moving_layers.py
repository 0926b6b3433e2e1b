"""Training of MagNet: its start, its loss, and that a killed run goes on to the same bits."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skimage.data
import torch

from mer.errors import MerError
from mer.magnification import moving_layers, moving_skin
from mer.magnification.magnet import MagNet, load_magnet, magnify_pair
from mer.magnification.moving_layers import quadruples
from mer.pretraining import loop
from mer.pretraining import moving_layers as magnet
from mer.pretraining.moving_layers import interpolation, objective, rate, start, train
from mer.storage.weights import save_weights

PHOTO = skimage.data.chelsea()[:, :300]
PLAN = {"steps": 4, "batch_size": 2, "size": 16, "lr": 1e-3}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "THREADS", 1)  # a second would wait for a core that other tests use
    yield
    torch.set_num_threads(threads)


def equal(one: MagNet, other: MagNet) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True))


# ---- the first weights ----------------------------------------------------------------------------------------------


def test_the_start_is_linear_magnification():
    """output = b + factor * (b - a) in brightness, on fields that the decoder can paint."""
    model = start(MagNet(), seed=0)
    x, y = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="xy")
    a = (0.5 * torch.sin(2 * torch.pi * (x + y) / 17)).expand(1, 3, 48, 48)
    b = (0.5 * torch.sin(2 * torch.pi * (x + y - 0.4) / 17) + 0.02 * torch.cos(x / 3)).expand(1, 3, 48, 48)
    with torch.no_grad():
        for factor in (1.0, 2.0, 8.0):
            seen, expected = (f.mean(1)[:, 8:-8, 8:-8] for f in (model(a, b, factor), b + factor * (b - a)))
            assert (seen - expected).abs().max() < 0.03 * expected.abs().max()


def test_the_start_gives_a_still_frame_back():
    frame = np.ascontiguousarray(PHOTO[:96, 100:196])
    out = magnify_pair(start(MagNet(), seed=0), frame, frame, [5])[0]
    assert np.abs(out.astype(float) - frame).mean() < 8  # grey levels; fur has stripes of a px, which are lost
    assert np.abs(out.mean((0, 1)) - frame.mean((0, 1))).max() < 1  # no tint


def test_the_start_depends_on_the_seed_alone_and_moves_no_generator():
    before = torch.get_rng_state()
    one, same, other = (
        start(copy.deepcopy(model), seed) for model, seed in ((MagNet(), 1), (MagNet(), 1), (MagNet(), 2))
    )
    torch.set_rng_state(before)
    assert equal(one, same)
    assert not equal(one, other)


def test_interpolation_restores_a_smooth_row():
    """Direct sums over a doubled row; the kernels of even and odd pixels are mirrored."""
    even, odd = interpolation()
    np.testing.assert_allclose(even, odd[::-1], atol=1e-9)
    row = np.sin(2 * np.pi * np.arange(80) / 9)
    restored = [
        sum(even[k] * row[2 * ((n + k - 3) // 2)] + odd[k] * row[2 * ((n + k - 3) // 2) + 1] for k in range(7))
        for n in range(10, 70)
    ]
    assert np.abs(restored - row[10:70]).max() < 0.1
    assert abs(even.sum() + odd.sum() - 1) < 0.01


# ---- the loss -------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_paper():
    model = start(MagNet(), seed=0)
    batch = quadruples([PHOTO], batch_size=2, size=16, seed=0, step=0)
    with torch.no_grad():
        (ta, _), (tb, sb), (tm, _), (tc, sc) = (model.encoder(x) for x in batch[:4])
        out = model(batch.a, batch.b, batch.factor)
        expected = (out - batch.magnified).abs().mean()
        expected += 0.3 * sum((x - y).abs().mean() for x, y in ((ta, tc), (tb, tm), (sb, sc)))
        torch.testing.assert_close(objective(model, batch, 0.3), expected, rtol=1e-4, atol=1e-6)


def test_a_few_steps_lower_the_loss_of_a_fixed_batch(monkeypatch):
    batch = quadruples([PHOTO], batch_size=4, size=24, seed=0, step=0, difficulty=0)
    monkeypatch.setattr(moving_layers, "quadruples", lambda *args, **kwargs: batch)
    model = train([PHOTO], steps=25, batch_size=4, size=24, lr=1e-3)
    with torch.no_grad():
        before, after = (objective(m, batch).item() for m in (start(MagNet(), 0), model))
    assert after < 0.8 * before  # seen: 0.5


def test_the_rate_grows_and_falls():
    rates = [rate(step, 100, 2e-3) for step in range(100)]
    assert rates[0] < 3e-4
    assert np.argmax(rates) == 9
    assert np.all(np.diff(rates[9:]) < 0)
    assert 0 < rates[-1] < 1e-5
    assert 0 < rate(0, 1, 1e-3) <= 1e-3


# ---- killed and gone on ---------------------------------------------------------------------------------------------


def killed_at(monkeypatch, step: int):
    """The batch of `step` is never finished."""
    made = moving_layers.quadruples

    def quadruples(*args, **kwargs):
        if kwargs["step"] == step:
            raise KeyboardInterrupt
        return made(*args, **kwargs)

    monkeypatch.setattr(moving_layers, "quadruples", quadruples)


def steps_done(monkeypatch) -> list[int]:
    """Filled with the steps whose batches are drawn."""
    made, steps = moving_layers.quadruples, []

    def quadruples(*args, **kwargs):
        steps.append(kwargs["step"])
        return made(*args, **kwargs)

    monkeypatch.setattr(moving_layers, "quadruples", quadruples)
    return steps


def test_a_killed_training_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole = train([PHOTO], **PLAN)
    path = tmp_path / "new" / "checkpoint.pt"
    with monkeypatch.context() as patch:
        killed_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train([PHOTO], **PLAN, checkpoint=path, every=2)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]
    steps = steps_done(monkeypatch)
    resumed = train([PHOTO], **PLAN, checkpoint=path, every=2)
    assert steps == [2, 3]
    assert equal(whole, resumed)
    assert not resumed.training
    for name, model in (("whole", whole), ("resumed", resumed)):
        save_weights(model, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "resumed.safetensors").read_bytes()
    load_magnet(tmp_path / "whole.safetensors")


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    first = train([PHOTO], **PLAN, checkpoint=tmp_path / "c.pt")
    steps = steps_done(monkeypatch)
    assert equal(first, train([PHOTO], **PLAN, checkpoint=tmp_path / "c.pt", every=1))
    assert steps == []


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 2e-3},
        {"seed": 1},
        {"steps": 3},
        {"regularisation": 0.2},
        {"code": "x"},
        {"images": []},
        {"images": [PHOTO[::-1]]},
    ],
)
def test_a_checkpoint_of_other_parameters_is_ignored(tmp_path, monkeypatch, other):
    plan = PLAN | {"images": [PHOTO], "steps": 2}
    train(**plan, checkpoint=tmp_path / "c.pt")
    steps = steps_done(monkeypatch)
    train(**{**plan, **other}, checkpoint=tmp_path / "c.pt")
    assert steps == list(range(other.get("steps", 2)))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_ignored(tmp_path, monkeypatch, capsys, content):
    path = tmp_path / "c.pt"
    whole = train([PHOTO], **PLAN, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-2000] if content is None else content)
    steps = steps_done(monkeypatch)
    assert equal(whole, train([PHOTO], **PLAN, checkpoint=path))
    assert steps == [0, 1, 2, 3]
    assert f"{path}: the checkpoint is damaged" in capsys.readouterr().err


def test_batches_for_a_gpu_are_drawn_ahead_and_are_those_of_their_steps(monkeypatch):
    """From the step on with which a resumed training begins, and none beyond the last; painted here by nobody."""
    monkeypatch.setattr(moving_layers, "paint", lambda scenes, device: (scenes, device.type))
    drawn, draw = [], moving_layers.draw
    monkeypatch.setattr(
        moving_layers, "draw", lambda *args, step, **kw: drawn.append(step) or draw(*args, step=step, **kw)
    )
    how = {"batch_size": 1, "size": 16, "seed": 3}
    with ThreadPoolExecutor() as pool:
        batch = magnet._Batches([PHOTO], 14, torch.device("cuda"), pool, 1, 0.0, {"size": 16, "seed": 3})
        found = [batch(step) for step in range(3, 14)]
    assert sorted(drawn) == list(range(3, 14))
    for step, (scenes, kind) in zip(range(3, 14), found, strict=True):
        expected = draw([PHOTO], step=step, difficulty=magnet.difficulty(step), **how)
        assert np.array_equal(scenes.layers, expected.layers)
        assert kind == "cuda"


@pytest.mark.parametrize(("skin", "of_skin"), [(0.0, 0), (0.5, 2), (0.7, 3), (1.0, 4)])
def test_a_share_of_each_batch_is_moving_skin(skin, of_skin):
    """The rest are the layers that there would be without it, in front; their draws do not know of the skin."""
    with ThreadPoolExecutor() as pool:
        batch = magnet._Batches([PHOTO], 9, torch.device("cpu"), pool, 4, skin, {"size": 16, "seed": 3})(5)
    how = {"size": 16, "seed": 3, "step": 5, "difficulty": magnet.difficulty(5)}
    assert len(batch.a) == 4
    if of_skin < 4:
        layers = quadruples([PHOTO], batch_size=4 - of_skin, **how)
        assert all(torch.equal(x[: 4 - of_skin], y) for x, y in zip(batch, layers, strict=True))
    if of_skin:
        moved = moving_skin.quadruples([PHOTO], batch_size=of_skin, **how)
        assert all(torch.equal(x[4 - of_skin :], y) for x, y in zip(batch, moved, strict=True))


def test_threads_are_given_back(monkeypatch):
    monkeypatch.setattr(loop, "THREADS", 2)
    train([], **PLAN | {"steps": 1})
    assert torch.get_num_threads() == 1
    with pytest.raises(MerError):
        train([], **PLAN | {"steps": 1, "lr": 1e30, "batch_size": 0})
    assert torch.get_num_threads() == 1


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path, monkeypatch):
    made = moving_layers.quadruples

    def broken(*args, **kwargs):
        batch = made(*args, **kwargs)
        return batch._replace(factor=batch.factor * math.nan) if kwargs["step"] == 2 else batch

    sound = train([PHOTO], **PLAN | {"steps": 2})
    monkeypatch.setattr(moving_layers, "quadruples", broken)
    monkeypatch.setattr(magnet, "rate", lambda step, steps, lr, kept=rate: kept(step, 2, lr))
    with pytest.raises(MerError, match=r"step 3 of 4: loss is nan; the weights before it were sound: lower lr"):
        train([PHOTO], **PLAN, checkpoint=tmp_path / "c.pt", every=1)
    kept = torch.load(tmp_path / "c.pt", weights_only=True)
    assert kept["step"] == 2
    assert all(torch.equal(kept["model"][name], value) for name, value in sound.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "moving_layers: steps is 0; needed is 1 at least"),
        ({"batch_size": 0}, "moving_layers: batch_size is 0;"),
        ({"every": 0}, "moving_layers: every is 0;"),
        ({"size": 18}, "moving_layers: size is 18; needed is a multiple of 4 px, 16 at least"),
        ({"size": 12}, "moving_layers: size is 12;"),
        ({"lr": 0}, "moving_layers: lr is 0; needed is a finite number above 0"),
        ({"skin": 1.5}, "moving_layers: skin is 1.5; needed is a share of the batch, 0..1"),
        (
            {"skin": 0.5, "images": []},
            "moving_layers: skin is 0.5, but there are no images; give portraits, or set it to",
        ),
        ({"lr": math.nan}, "moving_layers: lr is nan;"),
        ({"regularisation": -1}, "moving_layers: regularisation is -1;"),
        ({"bf16": True}, "moving_layers: bf16 is on, but device is cpu; it is meant for cuda"),
        ({"images": [PHOTO[:40]]}, "moving layers: image 0 is 300x40 px; needed is 50 px at least"),
        ({"images": [PHOTO[..., 0]]}, "moving layers: image 0 is .* needed is .H, W, 3. uint8"),
        ({"images": [PHOTO / 255]}, "moving layers: image 0 is .* float64"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(MerError, match=message) as caught:
        train(**{"images": [], **PLAN, **arguments})
    assert "\n" not in str(caught.value)


def test_random_first_weights_are_another_start():
    options = {"steps": 1, "batch_size": 1, "size": 16, "lr": 1e-3}
    linear, again, drawn = (train([], **options, first=f) for f in ("linear", "linear", "random"))
    weights = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (linear, again, drawn)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2], atol=0.01)
    assert all(m.decoder.resblks[0].cba_2.conv2d.weight.abs().max() < 0.01 for m in (linear, again))
    assert drawn.decoder.resblks[0].cba_2.conv2d.weight.detach().std() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
