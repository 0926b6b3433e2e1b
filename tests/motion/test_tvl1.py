"""TV-L1 against closed forms, scikit-image, a slow loop from the equations, and known motions."""

import hashlib
import math
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import torch
from skimage.registration import optical_flow_tvl1

from mer.errors import MerError
from mer.motion import tvl1 as module
from mer.motion import tvl1_numba, tvl1_torch
from mer.motion.strain import optical_strain
from mer.motion.transforms import mirror_flow
from mer.motion.tvl1 import tvl1

N = 160
Y, X = np.mgrid[:N, :N].astype(float) - (N - 1) / 2
TURN = np.deg2rad(0.8)
MOTIONS = {  # closed form: u, v in px, and the strain of a small motion
    "translation": (0 * X + 1.25, 0 * X - 0.75, 0),
    "rotation": (X * (math.cos(TURN) - 1) - Y * math.sin(TURN), X * math.sin(TURN) + Y * (math.cos(TURN) - 1), 0),
    "shear": (0.012 * Y, 0 * X, 0.012 / math.sqrt(2)),
    "expansion": (0.012 * X, 0.012 * Y, 0.012 * math.sqrt(2)),
    "large": (0 * X + 5, 0 * X - 4, 0),
}
PHOTOS = {"camera": (slice(90, 290), slice(130, 330)), "gravel": (slice(0, 200), slice(0, 200))}


def inner(image, border=16):
    return image[..., border:-border, border:-border]


def error(flow, truth):
    """Mean endpoint error in px without the border."""
    return float(inner(np.hypot(*(flow - truth))).mean())


def known_pair(photo: str, flow: np.ndarray, noise: float = 1.0, seed: int = 0):
    """8-bit images with prev(x) = next(x + flow(x)) by a spline of order 5, and noise of a camera."""
    image = getattr(skimage.data, photo)()[PHOTOS[photo]].astype(float)
    y, x = np.mgrid[:N, :N] + 20.0
    rng = np.random.default_rng(seed)
    prev = scipy.ndimage.map_coordinates(image, [y + flow[1], x + flow[0]], order=5, mode="reflect")
    pair = (prev, image[20 : 20 + N, 20 : 20 + N])
    return tuple(np.clip(np.rint(i + noise * rng.normal(size=i.shape)), 0, 255).astype(np.uint8) for i in pair)


@pytest.fixture(scope="module")
def pair():
    return known_pair("camera", np.stack(MOTIONS["translation"][:2]))


# ---- motions that are known -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", MOTIONS)
def test_closed_form_motions(photo, name):
    u, v, strain = MOTIONS[name]
    flow = tvl1(*known_pair(photo, np.stack([u, v])))
    assert flow.shape == (2, N, N)
    assert flow.dtype == np.float32
    # Noise of one grey level and, in the camera picture, a sky without texture. Seen: 0.01 to 0.05.
    assert error(flow, np.stack([u, v])) < 0.08
    # Noise adds to strain where the flow has none; smoothed by 4 px as a face's is by its own size. Seen: 0.003.
    smooth = np.stack([cv2.GaussianBlur(w, (0, 0), 4) for w in flow])
    assert abs(np.median(inner(optical_strain(smooth), 24)) - strain) < 0.006


@pytest.mark.parametrize("name", ["translation", "rotation", "expansion"])
def test_scikit_image_as_oracle_on_photographs(name):
    """Another implementation of the same energy finds the same motion; ours is nearer to the truth."""
    truth = np.stack(MOTIONS[name][:2])
    prev, following = known_pair("camera", truth)
    v, u = optical_flow_tvl1(prev / np.float32(255), following / np.float32(255), dtype=np.float32)
    ours = tvl1(prev, following)
    assert error(ours, np.stack([u, v])) < 0.15  # theirs is up to 0.1 px from the truth
    assert error(ours, truth) < error(np.stack([u, v]), truth)


def test_goal_on_the_reference_pairs(reference):
    """The issue's goal: 0.115 px at most over the eight pairs (OpenCV 0.186, scikit-image 0.190)."""
    with np.load(reference / "tvl1" / "tvl1_pairs.npz") as pairs:
        flow = tvl1(pairs["prev"], pairs["next"])
        errors = [error(f, t.astype(np.float32)) for f, t in zip(flow, pairs["flow"], strict=True)]
    assert np.mean(errors) < 0.115


@pytest.mark.parametrize("change", [lambda i: i * 1.03 - 1.5, lambda i: i * 0.95, lambda i: i + 4])
def test_flicker_is_not_motion(change):
    """A lamp that flickers by a few per cent moves nothing; without (B) the sky moves by pixels."""
    truth = np.stack(MOTIONS["expansion"][:2])
    prev, following = known_pair("camera", truth)
    lit = np.clip(np.rint(change(following.astype(float))), 0, 255).astype(np.uint8)
    assert error(tvl1(prev, lit), truth) < error(tvl1(prev, following), truth) + 0.02  # rounding makes noise of its own
    assert error(tvl1(prev, lit, brightness=False, noise=False), truth) > 0.3


def test_a_flipped_pair_flows_as_the_mirrored_flow(pair):
    flow = tvl1(*pair)
    flipped = tvl1(*(np.ascontiguousarray(image[:, ::-1]) for image in pair))
    # Forward differences look to one side, so the two solutions differ by a little of the noise.
    assert error(flipped, mirror_flow(flow)) < 0.02


@pytest.mark.slow
def test_the_flow_of_the_synthetic_face(tmp_path):
    """Onset to apex of rendered clips against the motion they were rendered with."""
    from mer.parallel import Engine
    from mer.synthetic import corpus as synthetic
    from mer.synthetic.truth import read_truth

    synthetic.synthesize(tmp_path, subjects=3, clips=15, pool_subjects=0, engine=Engine(workers=0))
    ours, still = [], []
    for folder in sorted((tmp_path / "corpus").glob("sub*/EP*")):
        truth = read_truth(tmp_path / "truth.h5", f"{folder.parent.name}/{folder.name}")
        onset, apex = (cv2.imread(str(folder / f"img{truth[k]}.jpg"), 0) for k in ("onset", "apex"))
        face = np.s_[:, 60:-60, 60:-60]  # the wall behind the face has no texture
        still.append(np.hypot(*truth["flow"][face]).mean())
        ours.append(np.hypot(*(tvl1(onset, apex) - truth["flow"])[face]).mean())
    # JPEG, noise and light change besides; at least half of the motion is explained everywhere on the face.
    assert np.mean(ours) < 0.5 * np.mean(still)


# ---- the steps, against something independent -----------------------------------------------------------------------


def slow_rounds(flow, p, g, rho_0, lambda_, theta, tau, rounds):
    """(T), (P) and (D) pixel by pixel in float64, as the equations are written.

    flow, g: (2, H, W); p: (2, 2, H, W), its x and y part for u, then for v.
    """
    _, h, w = flow.shape
    flow, p = flow.astype(float), p.astype(float)
    for _ in range(rounds):
        new = np.empty_like(flow)
        for r, c in np.ndindex(h, w):
            here = g[:, r, c].astype(float)
            rho, norm = rho_0[r, c] + here @ flow[:, r, c], here @ here
            if rho < -lambda_ * theta * norm:
                split = flow[:, r, c] + lambda_ * theta * here
            elif rho > lambda_ * theta * norm:
                split = flow[:, r, c] - lambda_ * theta * here
            else:
                split = flow[:, r, c] - rho * here / norm
            before_x = p[:, 0, r, c - 1] if c else 0
            before_y = p[:, 1, r - 1, c] if r else 0
            new[:, r, c] = split + theta * (p[:, 0, r, c] - before_x + p[:, 1, r, c] - before_y)
        flow = new
        for k, r, c in np.ndindex(2, h, w):
            slope = np.zeros(2)
            if c < w - 1:
                slope[0] = flow[k, r, c + 1] - flow[k, r, c]
            if r < h - 1:
                slope[1] = flow[k, r + 1, c] - flow[k, r, c]
            p[k, :, r, c] = (p[k, :, r, c] + tau / theta * slope) / (1 + tau / theta * np.linalg.norm(slope))
    return flow, p


@pytest.mark.parametrize("form", ["numba", "torch"])
def test_rounds_against_a_slow_loop(form):
    rng = np.random.default_rng(0)
    flow, g = rng.normal(size=(2, 2, 7, 9)).astype(np.float32)
    p = (rng.normal(size=(4, 7, 9)) / 4).astype(np.float32)
    rho_0 = rng.normal(size=(7, 9)).astype(np.float32)
    slow_flow, slow_p = slow_rounds(flow, p.reshape(2, 2, 7, 9), g, rho_0, lambda_=0.5, theta=0.3, tau=0.2, rounds=6)
    weights = (0.5 * 0.3, 0.3, 0.2 / 0.3, 6)
    if form == "numba":
        u, v, p = tvl1_numba.iterate(flow[0].copy(), flow[1].copy(), p, *g, rho_0, *weights)
    else:
        u, v, g_x, g_y, rho_0 = (torch.from_numpy(a.copy())[None] for a in (*flow, *g, rho_0))
        u, v, p = tvl1_torch.iterate(u, v, torch.from_numpy(p)[:, None], g_x, g_y, rho_0, *weights)
        u, v, p = u[0], v[0], [q[0] for q in p]
    # Six rounds in float32, values up to 3.
    np.testing.assert_allclose(np.stack([u, v]), slow_flow, atol=1e-5)
    np.testing.assert_allclose(np.stack(p).reshape(2, 2, 7, 9), slow_p, atol=1e-5)


@pytest.mark.parametrize("ops", [tvl1_numba, tvl1_torch])
def test_parts_against_closed_forms(ops):
    rng = np.random.default_rng(1)

    def to(a):
        a = np.ascontiguousarray(a, np.float32)
        return torch.from_numpy(a)[None] if ops is tvl1_torch else a

    def back(a):
        return a[0].numpy() if ops is tvl1_torch else a

    y, x = np.mgrid[:21, :30].astype(float)
    # The derivative is exact on polynomials (degree 3 here; float32 of values up to 100).
    cubic = 100 * ((x / 30) ** 3 + (y / 21) ** 2)
    d_x, d_y = (back(d)[4:-4, 4:-4] for d in ops.gradient(to(cubic)))
    np.testing.assert_allclose(d_x, (100 * 3 * x**2 / 30**3)[4:-4, 4:-4], atol=1e-4)
    np.testing.assert_allclose(d_y, (100 * 2 * y / 21**2)[4:-4, 4:-4], atol=1e-4)
    # Keys' cubic convolution reproduces quadratics; outside the image it says so.
    quadratic = x**2 / 9 + x * y / 7 + y
    u, v = 0 * x + 0.3, 0 * x - 1.4
    warped, inside = (back(a) for a in ops.warp(to(quadratic), to(u), to(v)))
    moved = (x + 0.3) ** 2 / 9 + (x + 0.3) * (y - 1.4) / 7 + y - 1.4
    np.testing.assert_allclose(warped[4:-3, 2:-3], moved[4:-3, 2:-3], atol=2e-4)
    assert np.array_equal(inside, (x + 0.3 <= 29) & (y - 1.4 >= 0))
    # The median of 25.
    noise = rng.normal(size=(13, 17)).astype(np.float32)
    assert np.array_equal(back(ops.median(to(noise))), scipy.ndimage.median_filter(noise, 5, mode="nearest"))
    # Gain and offset of a picture with a tenth of outliers: a few steps from (1, 0) find them.
    picture = rng.uniform(0, 255, (60, 70)).astype(np.float32)
    other = picture / 1.1 - 7
    other[:6] = rng.uniform(0, 255, (6, 70))
    gain, offset = ops.equal(to(picture))
    for _ in range(12):
        gain, offset = ops.match(to(picture), to(other), to(np.ones_like(picture)), gain, offset)
    assert float(np.asarray(gain).squeeze()) == pytest.approx(1.1, abs=1e-3)
    assert float(np.asarray(offset).squeeze()) == pytest.approx(7.7, abs=0.1)
    # Half as large and back: a linear field comes back doubled (flow is in px of its scale), odd sizes too.
    ramp = 0.1 * x - 0.2 * y
    again = back(ops.double(ops.halve(to(ramp)), to(ramp)))
    np.testing.assert_allclose(again[6:-6, 6:-6], 2 * ramp[6:-6, 6:-6], atol=1e-4)
    # Smoothing as scipy does it.
    expected = scipy.ndimage.gaussian_filter(noise, 0.6, mode="nearest")  # cut off at 4 sigma = 2.4, so at 2 px
    np.testing.assert_allclose(back(ops.smooth(to(noise), 0.6)), expected, atol=1e-4)


def test_numba_and_torch_are_one_algorithm(pair):
    a = tvl1(*pair)
    b = tvl1(*(torch.from_numpy(image) for image in pair))
    assert isinstance(b, torch.Tensor)
    # Rounding decides now and then which of 25 values is the median. Seen: 0.06 at most.
    assert np.abs(a - b.numpy()).max() < 0.1
    assert np.abs(a - b.numpy()).mean() < 2e-4


def test_compiled_now_or_read_from_numbas_cache_the_bits_are_the_same(pair, tmp_path):
    """With relaxed arithmetic they are not: what is inlined differs."""
    np.savez(tmp_path / "pair.npz", *pair)
    code = (
        "import sys, numpy as np, hashlib; from mer.motion.tvl1 import tvl1; z = np.load(sys.argv[1]);"
        "print(hashlib.sha256(tvl1(z['arr_0'], z['arr_1'])).hexdigest())"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "pair.npz")],
            capture_output=True, text=True, check=True, env=environment,
        ).stdout
        for _ in range(2)
    }  # fmt: skip
    assert len(found) == 1
    assert found == {hashlib.sha256(tvl1(*pair)).hexdigest() + "\n"}


IN_ANOTHER_PROCESS = """
import sys, numpy as np, hashlib
import numba.core.caching as caching
{hindrance}
from mer.motion import tvl1 as module
z = np.load(sys.argv[1])
flow = module.tvl1(z["arr_0"], z["arr_1"])
print(hashlib.sha256(flow).hexdigest(), module._compiled() is not None)
"""
HINDRANCES = {
    # The package's folder is read-only, and so is HOME.
    "nowhere to keep it": "(getattr(caching, 'CacheImpl', None) or caching._CacheImpl)._locator_classes = []",
    "a full disk": "def full(*_): raise OSError(28, 'No space left on device')\ncaching.IndexDataCacheFile.save = full",
    "a cut index": "def cut(*_): raise EOFError('Ran out of input')\ncaching.IndexDataCacheFile.load = cut",
}


@pytest.mark.parametrize("hindrance", HINDRANCES.values(), ids=HINDRANCES)
def test_where_numba_cannot_keep_what_it_compiles_it_compiles_anew(hindrance, pair, tmp_path):
    small = [np.ascontiguousarray(image[60:100, 60:100]) for image in pair]
    np.savez(tmp_path / "pair.npz", *small)
    found = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS.format(hindrance=hindrance), str(tmp_path / "pair.npz")],
        capture_output=True, text=True, check=True, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")},
    ).stdout  # fmt: skip
    assert found == f"{hashlib.sha256(tvl1(*small)).hexdigest()} True\n"


@pytest.mark.parametrize("error", [RuntimeError("no compiler"), OSError("libllvm"), SystemError("NumPy 9")])
def test_where_numba_does_not_work_torch_does(error, pair, monkeypatch):
    def broken():
        raise error

    small = [image[60:100, 60:100] for image in pair]
    expected = tvl1(*(torch.from_numpy(image.copy()) for image in small)).numpy()
    monkeypatch.setattr(tvl1_numba, "compile_now", broken)
    module._compiled.cache_clear()
    assert np.array_equal(tvl1(*small), expected)
    monkeypatch.undo()
    module._compiled.cache_clear()
    assert not np.array_equal(tvl1(*small), expected)  # numba again


def test_without_numba_torch_does_the_work(pair, monkeypatch):
    small = [image[60:100, 60:100] for image in pair]
    expected = tvl1(*(torch.from_numpy(image.copy()) for image in small)).numpy()
    monkeypatch.setitem(sys.modules, "mer.motion.tvl1_numba", None)  # as if its import failed
    module._compiled.cache_clear()
    found = tvl1(*small)
    module._compiled.cache_clear()
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cpu_equals_cuda(pair):
    on_cpu, on_gpu = (tvl1(*(torch.from_numpy(i).to(d) for i in pair)).cpu() for d in ("cpu", "cuda"))
    assert (on_cpu - on_gpu).abs().max() < 0.1  # as between numba and torch
    assert (on_cpu - on_gpu).abs().mean() < 2e-4


# ---- batches, kinds of input, and what is refused -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_batched_equals_single(pair, kind):
    prev, following = (image[60:110, 60:121] for image in pair)
    batch = np.stack([prev, prev, following]), np.stack([following, prev, prev])
    to = (lambda a: a) if kind == "numpy" else torch.from_numpy
    many = np.asarray(tvl1(to(batch[0]), to(batch[1])))
    assert many.shape == (3, 2, 50, 61)
    for k in range(3):
        one = np.asarray(tvl1(to(batch[0][k].copy()), to(batch[1][k].copy())))
        if kind == "numpy":
            assert np.array_equal(many[k], one)
        else:  # the sums of (B) may take another order in another batch
            np.testing.assert_allclose(many[k], one, atol=1e-3)
    assert not many[1].any()  # a still pair has no motion at all


def test_uint8_equals_float_and_nothing_is_written_to_the_input(pair):
    prev, following = (image[:64, :64].copy() for image in pair)
    before = prev.copy(), following.copy()
    whole = tvl1(prev, following)
    fraction = tvl1(prev.astype(np.float64) / 255, following.astype(np.float32) / 255)
    assert np.abs(whole - fraction).max() < 0.02  # 1/255 is no float32
    assert np.array_equal(prev, before[0])
    assert np.array_equal(following, before[1])
    assert np.array_equal(tvl1(prev, following), whole)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_constant_images_have_no_flow(kind):
    to = (lambda a: a) if kind == "numpy" else torch.from_numpy
    for levels in ((9, 9), (9, 30), (255, 0)):
        flow = np.asarray(tvl1(*(to(np.full((20, 33), level, np.uint8)) for level in levels)))
        assert not flow.any()


@pytest.mark.parametrize("shape", [(4, 4), (5, 40), (17, 16), (33, 31)])
def test_images_smaller_than_the_coarsest_scale(shape):
    """They have one scale, or few; the result is still a flow."""
    rng = np.random.default_rng(2)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    image = np.uint8(np.clip(128 + 80 * image / np.abs(image).max(), 0, 255))
    for kind in (np.asarray, torch.from_numpy):
        flow = np.asarray(tvl1(kind(image), kind(np.roll(image, 1, axis=1))))
        assert flow.shape == (2, *shape)
        assert np.isfinite(flow).all()


def test_images_four_pixels_wide_are_taken_one_by_one():
    """As a batch, (N, H, 4), they are not told from one image with four channels."""
    image = np.random.default_rng(0).integers(0, 256, (40, 4)).astype(np.uint8)
    assert tvl1(image, image).shape == (2, 40, 4)
    with pytest.raises(MerError, match=r"of 4 px width go one by one"):
        tvl1(image[None], image[None])


ZEROS = np.zeros((32, 32), np.uint8)


@pytest.mark.parametrize(
    ("prev", "following", "message"),
    [
        (
            ZEROS,
            np.zeros((32, 33), np.uint8),
            r"prev is ndarray .32, 32., next ndarray .32, 33.; both must",
        ),
        (np.zeros((32, 32, 3, 1)), ZEROS, "one channel"),
        (np.zeros((32, 32, 3)), np.zeros((32, 32, 3)), r"prev is .32, 32, 3.: .* 3 channels last; needed is .H, W. or"),
        (np.zeros((32, 40, 4), np.uint8), np.zeros((32, 40, 4), np.uint8), r"prev is .32, 40, 4.: .* 4 channels last"),
        (torch.zeros(32, 40, 4), torch.zeros(32, 40, 4), r"prev is .32, 40, 4.: .* 4 channels last"),
        (np.zeros((32, 40, 1)), np.zeros((32, 40, 1)), "1 channel last"),
        (np.zeros((32, 40, 2)), np.zeros((32, 40, 2)), "2 channels last"),
        (np.full((32, 32), np.nan), np.zeros((32, 32)), "prev has values that are not finite"),
        (np.zeros((32, 32)), np.full((32, 32), np.inf), "next has values that are not finite"),
        (np.full((32, 32), 200.0), np.zeros((32, 32)), r"prev has values from 200 to 200; float images are 0..1"),
        (torch.zeros(32, 32), torch.full((32, 32), 255.0), r"next has values from 255 to 255"),
        (torch.full((32, 32), torch.nan), torch.zeros(32, 32), "not finite"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "at least 4x4"),
        (np.zeros((0, 32, 32)), np.zeros((0, 32, 32)), "there is no image in it"),
        (np.zeros((32, 32), np.int64), np.zeros((32, 32), np.int64), "int64; needed is uint8 .0..255. or float"),
        (torch.zeros(32, 32), np.zeros((32, 32)), "prev is Tensor .* next ndarray"),
    ],
)
def test_bad_images(prev, following, message):
    with pytest.raises(MerError, match=message) as caught:
        tvl1(prev, following)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("tau", 0.3), ("tau", 0), ("lambda_", -1), ("theta", 0), ("scales", 0), ("warps", 0), ("iterations", 0),
     ("sigma", -0.1), ("tau", "0.25"), ("scales", None)],
)  # fmt: skip
def test_bad_parameters(name, value):
    with pytest.raises(MerError, match=f"tvl1: {name} is {value!r}; "):
        tvl1(ZEROS, ZEROS, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", 0.1),
        ("lambda_", 0.1),
        ("theta", 0.2),
        ("scales", 1),
        ("warps", 2),
        ("iterations", 20),
        ("sigma", 0),
        ("brightness", False),
        ("noise", False),
    ],
)
def test_every_parameter_has_an_effect(pair, name, value):
    small = [image[:64, :64] for image in pair]
    assert np.abs(tvl1(*small) - tvl1(*small, **{name: value})).max() > 1e-3
