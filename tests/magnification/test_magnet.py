"""MagNet against a slow restatement in NumPy, the public weights, and photographs moved by known amounts."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import scipy.ndimage
import skimage.data
import torch
from torch import nn

from mer import products
from mer.errors import MerError
from mer.magnification import magnet
from mer.magnification.magnet import (
    MagNet,
    linear_abs,
    load_magnet,
    magnify_pair,
)
from mer.motion.tvl1 import tvl1
from mer.products import named_factors
from mer.storage.weights import provenance, save_weights, subjects_seen, weights_about

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTOS = {"astronaut": np.s_[10:106, 165:261], "chelsea": np.s_[60:156, 120:216], "coffee": np.s_[100:196, 200:296]}


@pytest.fixture(scope="module")
def public_file(reference):
    return reference / "magnet" / "magnet_epoch12_loss7.28e-02.pth"


@pytest.fixture(scope="module")
def public(public_file) -> MagNet:
    return load_magnet(public_file)


@pytest.fixture(scope="module")
def untrained() -> MagNet:
    torch.manual_seed(0)
    return MagNet()


def spread(model: MagNet) -> MagNet:
    """Weights at which every layer matters: with torch's own, 36 layers fade."""
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * math.sqrt(1.0 / p[0].numel())
    return model


@pytest.fixture(scope="module")
def lively() -> MagNet:
    """Stands in for the public weights, which are not everywhere; paints grey levels from 0 to 255."""
    model = spread(MagNet()).eval()
    model.decoder.cba_2.conv2d.weight.data *= 0.5
    return model


def moved(photo: str, right: float) -> np.ndarray:
    """(96, 96, 3) uint8: the photograph moved to the right by a spline of order 5."""
    rows, columns = PHOTOS[photo]
    image = getattr(skimage.data, photo)()[rows, columns.start - 8 : columns.stop + 8].astype(float)
    levels = scipy.ndimage.shift(image, (0, right, 0), order=5, mode="reflect")[:, 8:-8]
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def batch_of(*frames: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 each -> (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).astype(np.float32)) / 127.5 - 1


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- the network ----------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_the_public_file(public_file, untrained):
    released = torch.load(public_file, map_location="cpu", weights_only=True)
    ours = untrained.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in released.items()}


def test_as_many_tensors_and_parameters_as_published(untrained):
    assert len(untrained.state_dict()) == 42
    assert sum(p.numel() for p in untrained.parameters()) == 877_968


def slow_convolution(x, weight, stride=1):
    """(C, H, W) float64; borders reflected without their own pixel; no bias."""
    reach = weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[-2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("cyxij,ocij->oyx", windows, weight, optimize=True)


def slow_magnet(weights, a, b, factor, shape_of="b"):
    """The network from its description, on (3, H, W) float64 of sides that are multiples of 4."""

    def relu(x):
        return np.maximum(x, 0)

    def convolution(x, name, stride=1):
        return slow_convolution(x, weights[f"{name}.conv2d.weight"], stride)

    def residual(x, name):
        return x + convolution(relu(convolution(x, f"{name}.cba_1")), f"{name}.cba_2")

    def doubled(x):
        return x.repeat(2, axis=1).repeat(2, axis=2)

    def encode(frame):
        x = relu(convolution(frame, "encoder.cba_1"))
        x = relu(convolution(x, "encoder.cba_2", stride=2))
        for k in range(3):
            x = residual(x, f"encoder.resblks.{k}")
        texture = relu(convolution(x, "encoder.texture_cba", stride=2))
        shape = relu(convolution(x, "encoder.motion_cba"))
        for k in range(2):
            texture = residual(texture, f"encoder.texture_resblks.{k}")
            shape = residual(shape, f"encoder.motion_resblks.{k}")
        return texture, shape

    (_, shape_a), (texture, shape_b) = encode(a), encode(b)
    x = factor * relu(convolution(shape_b - shape_a, "manipulator.g"))
    change = residual(convolution(x, "manipulator.h_conv"), "manipulator.h_resblk")
    x = np.concatenate([doubled(texture), {"a": shape_a, "b": shape_b}[shape_of] + change])
    for k in range(9):
        x = residual(x, f"decoder.resblks.{k}")
    x = relu(convolution(doubled(x), "decoder.cba_1"))
    return convolution(x, "decoder.cba_2")


def as_float64(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def test_forward_against_a_slow_restatement():
    model = spread(MagNet())
    rng = np.random.default_rng(2)
    a, b = rng.uniform(-1, 1, (2, 2, 3, 16, 20))
    factors = [0.7, 4.5]
    with torch.no_grad():
        found = model(*(torch.from_numpy(x).float() for x in (a, b)), torch.tensor(factors)).numpy()
    expected = np.stack([slow_magnet(as_float64(model), *pair) for pair in zip(a, b, factors, strict=True)])
    assert expected.std() > 1
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.std())  # 36 layers of float32
    other = slow_magnet(as_float64(model), a[1], b[1], 4.5, shape_of="a")
    assert np.abs(other - expected[1]).mean() > 0.1 * expected.std()


def test_factor_as_number_and_as_tensor(untrained):
    a, b = batch_of(noise(16, 16), noise(16, 16, 1)), batch_of(noise(16, 16, 2), noise(16, 16, 3))
    with torch.no_grad():
        assert torch.equal(untrained(a, b, 3), untrained(a, b, torch.tensor([3.0, 3.0])))
        assert torch.equal(untrained(a, b, 3), untrained(a, b, torch.tensor(3)))
        mixed = untrained(a, b, torch.tensor([3.0, 9.0]))
        # A sum may take another order in another batch; values are about 0.1.
        torch.testing.assert_close(mixed[1:], untrained(a[1:], b[1:], 9.0), atol=1e-5, rtol=0)
        assert (mixed - untrained(a, b, 3))[0].abs().max() < 1e-5 < (mixed - untrained(a, b, 3))[1].abs().max()


def test_gradients_reach_every_weight():
    model = spread(MagNet())
    a, b = batch_of(noise(16, 16)), batch_of(noise(16, 16, 1))
    model(a, b, torch.tensor([2.0])).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("size", [(5, 5), (17, 22), (31, 8), (6, 40)])
def test_any_size_is_continued_by_reflection_and_cropped(untrained, size):
    height, width = size
    onset, apex = noise(*size), noise(*size, seed=1)
    out = magnify_pair(untrained, onset, apex, [2, 5])
    assert out.shape == (2, height, width, 3)
    extra = ((0, -height % 4), (0, -width % 4), (0, 0))
    onset, apex = (np.pad(frame, extra, mode="reflect") for frame in (onset, apex))
    larger = magnify_pair(untrained, onset, apex, [2, 5])
    assert np.array_equal(out, larger[:, :height, :width])


# ---- the public weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", PHOTOS)
def test_a_still_pair_comes_back_as_it_was(public, photo):
    """To the network's own blur, in grey levels."""
    still = moved(photo, 0)
    out = magnify_pair(public, still, still, [1, 2, 13])
    assert np.array_equal(out[0], out[1])  # nothing moved, so there is nothing to multiply
    assert np.array_equal(out[0], out[2])
    difference = np.abs(out[0].astype(float) - still)
    assert difference.mean() < 8  # seen: 3.6 to 6.2; the eyes of astronaut.png are the worst
    assert np.percentile(difference, 99) < 36  # seen: 21 to 28
    assert np.abs(out[0].mean((0, 1)) - still.mean((0, 1))).max() < 2.5  # no tint; seen: 1.4


def right(before: np.ndarray, after: np.ndarray) -> float:
    """Motion to the right in px, the median without the border."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after)]
    return float(np.median(tvl1(*grey)[0, 16:-16, 16:-16]))


@pytest.mark.parametrize("photo", ["astronaut", "chelsea"])
def test_motion_grows_with_the_factor_until_it_breaks_down(public, photo):
    onset, apex = moved(photo, 0), moved(photo, 0.5)
    factors = [2, 4, 6, 8, 10, 13, 20]
    found = np.array([right(onset, frame) for frame in magnify_pair(public, onset, apex, factors)])
    assert (np.diff(found) > 0.3).all()
    assert found[0] > 0.55  # more than the apex itself, though 0.5 + 2 * 0.5 was asked for: small motions grow by less
    # Seen where factor * 0.5 is 4 to 10 px: the apex's 0.5, and 0.83 to 0.91 of what was asked for beyond it.
    beyond = (found - 0.5)[3:] / (0.5 * np.array(factors[3:]))
    assert (beyond > 0.75).all()
    assert (beyond < 1.0).all()
    # Breakdown: 20 px are asked for, and less than half is painted; on both photographs the image tears.
    onset, apex = moved(photo, 0), moved(photo, 1.0)
    within, beyond = (right(onset, frame) for frame in magnify_pair(public, onset, apex, [10, 20]))
    assert within > 8
    assert beyond < within / 2


def test_motion_down_is_magnified_down(public):
    onset, apex = (np.ascontiguousarray(moved("chelsea", d).transpose(1, 0, 2)) for d in (0, 0.5))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (onset, magnify_pair(public, onset, apex, [8])[0])]
    u, v = (np.median(w[16:-16, 16:-16]) for w in tvl1(*grey))
    assert v > 3
    assert abs(u) < 0.2


def test_the_shape_of_the_first_frame_gives_another_picture(public):
    """As the paper prints it. The issue's 0.5 of the range of 2 is the largest difference, not the mean."""
    a, b = batch_of(moved("chelsea", 0)), batch_of(moved("chelsea", 1.0))
    with torch.no_grad():
        (_, shape_a), (texture, shape_b) = public.encoder(a), public.encoder(b)
        change = public.manipulator(shape_a, shape_b, 4.0)
        printed, ours = (public.decoder(texture, shape + change) for shape in (shape_a, shape_b))
        assert torch.equal(ours, public(a, b, 4.0))
    difference = (ours - printed).abs()
    assert 0.2 < difference.max() < 1  # seen: 0.45
    assert 0.01 < difference.mean() < 0.1  # seen: 0.038


# ---- pairs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moving():
    return moved("chelsea", 0)[:64, :72], moved("chelsea", 0.5)[:64, :72]


def test_magnify_pair_is_forward_factor_by_factor(lively, moving):
    factors = [8, 2, 3.3, 13]
    found = magnify_pair(lively, *moving, factors)
    assert found.shape == (4, 64, 72, 3)
    assert found.dtype == np.uint8
    for frame, factor in zip(found, factors, strict=True):
        with torch.no_grad():
            one = lively(*(batch_of(f) for f in moving), factor)[0].permute(1, 2, 0).numpy()
        exact = np.clip((one + 1) * 127.5, 0, 255)
        # Half a level of rounding, and (H) in float32.
        assert np.abs(frame - exact).max() < 0.5 + 2e-3


def test_the_batch_changes_nothing(lively, moving):
    factors = [2, 3, 4, 5, 6]
    whole = magnify_pair(lively, *moving, factors)
    for batch in (1, 2, 5, 99):
        other = magnify_pair(lively, *moving, factors, batch=batch)
        # Sums may take another order, and rounding then the other way.
        assert np.abs(whole.astype(int) - other).max() <= 1
        assert (whole != other).mean() < 1e-3


def test_inputs_and_training_mode_are_left_as_they_were(lively, moving):
    onset, apex = (frame.copy() for frame in moving)
    onset.flags.writeable = apex.flags.writeable = False
    lively.train()
    lively.encoder.eval()
    try:
        in_training = magnify_pair(lively, onset, apex, [4])
        assert lively.training
        assert not lively.encoder.training
        assert lively.decoder.resblks[0].training
        assert all(p.grad is None and p.requires_grad for p in lively.parameters())
    finally:
        lively.eval()
    assert np.array_equal(in_training, magnify_pair(lively, *moving, [4]))
    mirrored = magnify_pair(lively, onset[:, ::-1], apex[:, ::-1], [4])  # views
    copied = magnify_pair(lively, *(np.ascontiguousarray(frame[:, ::-1]) for frame in (onset, apex)), [4])
    assert np.array_equal(mirrored, copied)


def test_bfloat16_is_close(public, moving):
    exact, half = (magnify_pair(public, *moving, [2, 8, 13], bf16=bf16).astype(int) for bf16 in (False, True))
    difference = np.abs(exact - half)
    assert 0 < difference.mean() < 0.3  # grey levels; seen: 0.08 to 0.11
    assert difference.max() <= 4  # seen: 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cpu_equals_cuda(public_file, moving):
    on_cpu, on_gpu = (magnify_pair(load_magnet(public_file, d), *moving, [2, 8]).astype(int) for d in ("cpu", "cuda"))
    assert np.abs(on_cpu - on_gpu).max() <= 4  # convolutions may take TF32, which is finer than bfloat16
    assert np.abs(on_cpu - on_gpu).mean() < 0.1


# ---- fidelity: U-01 to U-03 (U-04, frozen weights, has no alternative) ----------------------------------------------


def test_u01_factors():
    default = named_factors()
    assert np.array_equal(default, named_factors("linspace_2_13_32"))
    assert len(default) == 32
    assert (default[0], default[-1]) == (2, 13)
    assert named_factors("arange_2_14_1").tolist() == list(range(2, 14))
    assert named_factors("arange_2_34_1").tolist() == list(range(2, 34))
    default[0] = -1
    assert named_factors()[0] == 2  # a copy
    assert len(named_factors("linspace_2_13_8")) == 8
    assert len(named_factors("linspace_2_13_1024")) == len(named_factors("arange_1_1025_1")) == 1024
    for wrong, message in {
        "arange_2_14": "is no range", "linspace_2_13_2.5": "is no range", "arange_1_2_0": "is no range",
        "logspace_1_2_3": "is no range", "linspace_nan_nan_8": "is no range", "linspace_2_inf_8": "is no range",
        "arange_2_14_nan": "is no range", "linspace_2_13_inf": "is no range",
        "linspace_2_13_1025": "gives 1,025; needed are 1024 at most",  # and the next two took gigabytes
        "linspace_1_2_1e12": "gives 1,000,000,000,000;", "arange_1_2_1e-9": "gives 1,000,000,000;",
        "linspace_0_13_8": "above 0 that ascend", "arange_5_1_1": "that ascend", "linspace_2_13_-1": "that ascend",
        "linspace_2_13_0": "that ascend", "linspace_1e308_-1e308_3": "that ascend",
    }.items():  # fmt: skip
        with pytest.raises(MerError, match=f"^factors: '{wrong}' .*{message}"):
            named_factors(wrong)


def u01(value, model, onset, apex):
    return magnify_pair(model, onset, apex, named_factors(value)[:12])


def u02(value, model, onset, apex):
    return magnify_pair(model, onset, apex, [4, 8], convention=value)


def u03(value, model, onset, apex):
    return {"signed": magnify_pair, "linear_abs": lambda _, *pair: linear_abs(*pair)}[value](model, onset, apex, [4, 8])


@pytest.mark.parametrize(
    ("run", "values", "named"),
    [
        (u01, ["linspace_2_13_32", "arange_2_14_1"], "U-01"),
        (u01, ["linspace_2_13_32", "arange_2_34_1"], "U-01"),
        (u02, ["network", "one_plus"], "U-02"),
        (u03, ["signed", "linear_abs"], "U-03"),
    ],
)
def test_table_of_fidelity(lively, moving, run, values, named):
    """Default and alternative are accepted, named in the code, and give different pictures."""
    onset, apex = (frame[:32, :32] for frame in moving)
    default, alternative = (run(value, lively, onset, apex) for value in values)
    assert default.shape == alternative.shape
    assert (default != alternative).mean() > 0.05
    module = products if run is u01 else magnet
    assert named in Path(module.__file__).read_text(encoding="utf-8")


def test_u02_one_plus_is_one_more(lively, moving):
    assert np.array_equal(
        magnify_pair(lively, *moving, [3, 7], convention="one_plus"), magnify_pair(lively, *moving, [4, 8])
    )
    assert np.array_equal(magnify_pair(lively, *moving, [3]), magnify_pair(lively, *moving, [3], convention="network"))


def test_u03_the_printed_formula():
    onset, apex = (np.full((5, 5, 3), level, np.uint8) for level in (100, 110))
    assert (linear_abs(onset, apex, [2, 0.5])[:, 0, 0] == [[130] * 3, [115] * 3]).all()
    # Without the sign, darker becomes brighter; and levels end at 255.
    assert (linear_abs(apex, onset, [2, 20])[:, 0, 0] == [[140] * 3, [255] * 3]).all()


# ---- files ----------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path, untrained):
    path = tmp_path / "new" / "weights.safetensors"
    save_weights(untrained, path)
    again = load_magnet(path)
    assert not again.training
    assert all(torch.equal(again.state_dict()[name], value) for name, value in untrained.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]
    assert weights_about(path) == {}
    with pytest.raises(MerError, match=r"weights.pth: weights are written as safetensors; let the name end in"):
        save_weights(untrained, tmp_path / "weights.pth")


def test_a_file_tells_what_it_is(tmp_path, untrained, public_file):
    about = {"trained": "here, 200 steps", "seed": "0", "b": "2", "a": "1"}
    for name in ("one", "other"):
        save_weights(untrained, tmp_path / f"{name}.safetensors", about=dict(reversed(about.items())))
        about = dict(reversed(about.items()))
    assert weights_about(tmp_path / "one.safetensors") == about
    assert provenance(tmp_path / "one.safetensors") == provenance(public_file) == "of unknown origin"
    assert subjects_seen(tmp_path / "one.safetensors") == subjects_seen(public_file) == set()
    one, other = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other
    load_magnet(tmp_path / "one.safetensors")
    assert weights_about(public_file) == {}


def test_a_file_tells_whom_its_training_saw(tmp_path, untrained):
    path = tmp_path / "weights.safetensors"
    save_weights(untrained, path, {"weights": "9 steps on clips", "subjects": ["casme2/sub01", "samm/006"]})
    assert provenance(path) == "9 steps on clips"
    save_weights(untrained, path, {"weights": ["two", "words"]})  # an alien note: stamps are texts all the same
    assert provenance(path) == "['two', 'words']"
    save_weights(untrained, path, {"weights": "9 steps on clips", "subjects": ["casme2/sub01", "samm/006"]})
    assert subjects_seen(path) == {"casme2/sub01", "samm/006"}
    for wrong in ("casme2/sub01", ["casme2/sub01", 6]):
        save_weights(untrained, path, {"subjects": wrong})
        with pytest.raises(
            MerError, match=r"weights\.safetensors: its note says of subjects .* no list of names; run dvc"
        ):
            subjects_seen(path)


def test_a_file_of_another_writer_tells_what_it_can(tmp_path):
    path = tmp_path / "weights.safetensors"
    for metadata, told in (({"format": "pt"}, {}), ({"about": "MagNet"}, {"about": "MagNet"})):
        safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata)
        assert weights_about(path) == told
    with pytest.raises(MerError, match=r"not the weights of MagNet .*42 missing: .*1 too many: x"):
        load_magnet(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, untrained, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_weights(untrained, path)
    before = path.read_bytes()

    def dies(self, data):
        with open(self, "wb") as file:
            file.write(data[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "write_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        save_weights(spread(MagNet()), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"epoch": 3, "optimizer": {"lr": 1e-4}, "state_dict": state},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}, "loss": torch.tensor(1.0)},
        lambda state: {name: value.half() for name, value in state.items()},
    ],
)
def test_checkpoints_and_prefixes_are_understood(tmp_path, untrained, wrap):
    torch.save(wrap(untrained.state_dict()), tmp_path / "weights.pth")
    loaded = load_magnet(tmp_path / "weights.pth").state_dict()
    for name, value in untrained.state_dict().items():
        torch.testing.assert_close(loaded[name], value, atol=1e-3, rtol=0)
        assert loaded[name].dtype == torch.float32


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


G = "manipulator.g.conv2d.weight"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: without(s, G), rf"not the weights of MagNet .42 tensors.: 1 missing: {G}; the public weights come"),
        (lambda s: without(s, *list(s)[:9]), r"9 missing: encoder.cba_1.* and 4 more"),
        (lambda s: {**s, "fc.bias": torch.zeros(3)}, r"1 too many: fc.bias"),
        (
            lambda s: {**s, G: torch.zeros(32, 32, 5, 5)},
            rf"1 of another shape: {G} is .32, 32, 5, 5., needed is .32, 32, 3",
        ),
        (lambda s: {**s, G: 3}, rf"{G} is int, needed is a tensor"),
        (lambda s: {**s, G: torch.full((32, 32, 3, 3), torch.nan)}, rf"1 with values that are not finite: {G}"),
        (lambda s: {**without(s, G), "x": torch.zeros(1)}, rf"1 missing: {G}, and 1 too many: x"),
        (lambda s: {"conv1.weight": torch.zeros(3, 3, 3, 3)}, "42 missing: .* 1 too many: conv1.weight"),
        (lambda s: {}, "42 missing"),
        (lambda s: [1, 2], "holds list, not the named tensors of MagNet"),
        (lambda s: torch.zeros(3), "holds Tensor, not the named tensors"),
        (lambda s: nn.Linear(1, 1), "is not a torch file of weights"),  # a pickled module would run code
    ],
)
def test_wrong_weights(tmp_path, untrained, wrong, message):
    path = tmp_path / "weights.pth"
    torch.save(wrong(untrained.state_dict()), path)
    with pytest.raises(MerError, match=message) as caught:
        load_magnet(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "motion_magnification_learning-based" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x89PNG\r\n\x1a\n" + bytes(40), b"PK\x03\x04" + bytes(40)])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(MerError, match=r"is not a torch file of weights .*; the public weights come from"):
        load_magnet(path)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04" + bytes(40), b"\x08" + bytes(7) + b"{'a': 1}"])
def test_a_safetensors_file_that_is_none(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    for read in (load_magnet, weights_about):
        with pytest.raises(MerError, match=r"is not a safetensors file of weights .*; make it again") as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_truncated_safetensors_file(tmp_path, untrained):
    path = tmp_path / "weights.safetensors"
    save_weights(untrained, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MerError, match="is not a safetensors file of weights"):
        load_magnet(path)


def test_no_file_and_no_device(tmp_path, untrained):
    for path in (tmp_path / "absent.pth", tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(MerError, match="no such file of weights; run dvc repro"):
            weights_about(path)
        with pytest.raises(MerError, match=r"no such file of MagNet weights; the public weights come from .*put them"):
            load_magnet(path)
    save_weights(untrained, tmp_path / "weights.safetensors")
    if not torch.cuda.is_available():
        with pytest.raises(MerError, match="device is cuda, but torch finds no CUDA here; take device='cpu'"):
            load_magnet(tmp_path / "weights.safetensors", device="cuda")
    with pytest.raises(MerError, match="device is 'gpu', which torch does not know; take 'cpu' or 'cuda'"):
        load_magnet(tmp_path / "weights.safetensors", device="gpu")


# ---- bad input ------------------------------------------------------------------------------------------------------

RGB = noise(16, 16)


@pytest.mark.parametrize(
    ("onset", "apex", "message"),
    [
        (RGB[..., 0], RGB, r"onset is .16, 16.; needed is .H, W, 3. RGB; a grey frame: repeat it"),
        (RGB, RGB[..., :1], r"apex is .16, 16, 1.; needed is .H, W, 3. RGB; a grey frame"),
        (RGB, np.zeros((16, 16, 4), np.uint8), r"apex is .16, 16, 4.; needed is .H, W, 3. RGB$"),
        (RGB[None], RGB[None], r"onset is .1, 16, 16, 3."),
        (RGB.astype(np.uint16), RGB, "onset is uint16; needed is uint8"),
        (RGB, RGB.astype(float), "apex is float64; needed is uint8"),
        (RGB, np.full((16, 16, 3), np.nan), "apex is float64 .NaN among them.; needed is uint8"),
        (RGB, noise(16, 17), r"onset is .16, 16, 3., apex .16, 17, 3.; both must have one size"),
        (RGB[:4], RGB[:4], r"onset is .4, 16, 3.; needed is 5x5 px at least"),
        (RGB[:0], RGB[:0], r"onset is .0, 16, 3.; needed is 5x5 px at least"),
        (torch.from_numpy(RGB), RGB, "onset is Tensor; needed is an .H, W, 3. uint8 array"),
        (None, RGB, "onset is NoneType"),
    ],
)
def test_bad_frames(untrained, onset, apex, message):
    for magnify in (lambda *args: magnify_pair(untrained, *args), linear_abs):
        with pytest.raises(MerError, match=f"magnify: {message}") as caught:
            magnify(onset, apex, [2])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([], r"factors are .0,.; needed is .L,., one factor at least"),
        ([[2, 3]], r"factors are .1, 2.; needed is .L,."),
        ([2, 0, 3], "factors has 0; needed are finite numbers above 0"),
        ([-1, 2, -3.5], "factors has -1, -3.5;"),
        ([2, math.nan], "factors has nan;"),
        ([math.inf], "factors has inf;"),
        (["two"], r"factors are .'two'.; needed are numbers above 0"),
        (None, "factors has nan"),
    ],
)
def test_bad_factors(untrained, factors, message):
    for magnify in (lambda *args: magnify_pair(untrained, *args), linear_abs):
        with pytest.raises(MerError, match=f"magnify: {message}"):
            magnify(RGB, RGB, factors)


def test_bad_options(untrained):
    with pytest.raises(MerError, match=r"magnify.factor_convention: 'oneplus' is none; did you mean 'one_plus'"):
        magnify_pair(untrained, RGB, RGB, [2], convention="oneplus")
    with pytest.raises(MerError, match="batch is 0; needed is 1 at least"):
        magnify_pair(untrained, RGB, RGB, [2], batch=0)


@pytest.mark.parametrize(
    ("a", "b", "factor", "message"),
    [
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 9), 2, r"a is .2, 3, 8, 8., b .2, 3, 8, 9.; both must"),
        (
            torch.zeros(2, 1, 8, 8),
            torch.zeros(2, 1, 8, 8),
            2,
            r"a is .2, 1, 8, 8. torch.float32; needed is .B, 3, H, W.",
        ),
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), 2, r"a is .3, 8, 8."),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 2, "b is .* torch.uint8; needed"),
        (torch.zeros(1, 3, 4, 8), torch.zeros(1, 3, 4, 8), 2, "a is .* at least 5x5 px"),
        (
            torch.zeros(2, 3, 8, 8),
            torch.zeros(2, 3, 8, 8),
            torch.ones(3),
            r"factor is .3,.; needed is a number or .2,.",
        ),
    ],
)
def test_bad_batches(untrained, a, b, factor, message):
    with pytest.raises(MerError, match=f"magnet: {message}"):
        untrained(a, b, factor)
