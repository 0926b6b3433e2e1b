"""EVM against known motion, the filters' own responses, and a slow program from the definitions."""

import inspect
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from skimage.color import rgb2yiq, yiq2rgb

from mer.errors import MerError
from mer.magnification import eulerian
from mer.magnification.eulerian import (
    CAUSAL,
    FILTERS,
    RECIPES,
    band_of_clip,
    magnify,
    magnify_frames,
    response,
    weigh,
)

FPS = 30
BAND = {"low": 0.6, "high": 3.0}
ONES = np.ones(3, np.float32)


def grating(displacement, wavelength, shape=(64, 96), contrast=0.3):
    """(T, H, W, 3) float32 grey sinusoids, moved to the right by `displacement` (T,) px."""
    x = np.arange(shape[1]) - np.asarray(displacement)[:, None]
    line = 0.5 + contrast * np.cos(2 * np.pi * x / wavelength + 0.7)
    return np.broadcast_to(line[:, None, :, None], (len(line), *shape, 3)).astype(np.float32)


def by_phase(frames, wavelength):
    """(T,) px: how far the grating went since the first frame, from its phase in the middle of the frames."""
    values = np.asarray(frames, np.float64)[:, 16:-16, :, 1].mean(axis=1)
    x = np.arange(values.shape[1])
    periods = x[(x >= 16) & (x < 16 + wavelength * ((len(x) - 32) // wavelength))]
    wave = (values[:, periods] - values[:, periods].mean(axis=1, keepdims=True)) @ np.exp(
        -2j * np.pi * periods / wavelength
    )
    return -np.angle(wave / wave[0]) * wavelength / (2 * np.pi)


def texture(displacement, shape=(64, 96), seed=0):
    """A periodic random texture of wavelengths 8 to 24 px, moved exactly by its Fourier phases."""
    spectrum = np.fft.fft2(np.random.default_rng(seed).normal(size=shape))
    f_y, f_x = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])
    radius = np.hypot(f_y, f_x)
    spectrum *= (radius > 1 / 24) & (radius < 1 / 8)
    moved = np.fft.ifft2(spectrum * np.exp(-2j * np.pi * f_x * np.asarray(displacement)[:, None, None])).real
    frames = 0.5 + 0.12 * moved / moved[0].std()
    return np.repeat(frames[..., None], 3, axis=-1).clip(0, 1).astype(np.float32)


def by_gradient(frames, still):
    """(T,) px by least squares: frame - still = -d * dI/dx, for small d."""
    inner = np.s_[..., 12:-12, 12:-12]
    still = still[..., 1].astype(np.float64)
    slope = scipy.ndimage.correlate1d(still, np.array([-1, 9, -45, 0, 45, -9, 1]) / 60, axis=1)[inner]
    change = frames[..., 1].astype(np.float64)[inner] - still[inner]
    return -np.einsum("thw,hw->t", change, slope) / (slope**2).sum()


def oscillation(f, count=150, delta=0.02):
    return delta * np.sin(2 * np.pi * f * np.arange(count) / FPS)


def gain(moved, true, f, last=50):
    """Complex ratio of the two oscillations at f over the last frames; whole periods of 0.6 Hz and its multiples."""
    t = np.arange(len(true))[-last:]
    wave = np.exp(-2j * np.pi * f * t / FPS) * np.hanning(last)
    return (wave @ moved[-last:]) / (wave @ true[-last:])


# ---- motion that is known -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [1.2, 2.4, 9.0])
@pytest.mark.parametrize("filter", FILTERS)
def test_displacement_gain_of_a_grating(filter, f):
    """Within 15 % of |1 + alpha H|, and so is its phase. Seen: 0.7 %."""
    true = oscillation(f)
    moved = by_phase(magnify(grating(true, 16), FPS, 10, **BAND, filter=filter, lambda_c=0), 16)
    expected = 1 + 10 * response(filter, f, FPS, **BAND)
    assert abs(gain(moved, true, f)) == pytest.approx(abs(expected), rel=0.15)
    assert abs(gain(moved, true, f) - expected) < 0.1 * abs(expected)


@pytest.mark.parametrize("filter", FILTERS)
def test_displacement_gain_of_a_texture_in_8_bits(filter):
    true = oscillation(1.8, delta=0.08)
    frames = np.rint(255 * texture(true)).astype(np.uint8)
    moved = magnify(frames, FPS, 8, **BAND, filter=filter, lambda_c=0) / 255
    expected = abs(1 + 8 * response(filter, 1.8, FPS, **BAND))
    still = texture([0.0])[0]
    assert abs(gain(by_gradient(moved, still), true, 1.8)) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("wavelength", [6, 8, 12, 24])
def test_without_a_spatial_cut_off_all_wavelengths_gain_alike(wavelength):
    true = oscillation(1.8, delta=0.01)
    moved = by_phase(magnify(grating(true, wavelength), FPS, 5, **BAND, lambda_c=0), wavelength)
    assert abs(gain(moved, true, 1.8)) == pytest.approx(abs(1 + 5 * response("iir", 1.8, FPS, **BAND)), rel=0.05)


def test_the_cut_off_spares_short_wavelengths():
    """Seen at 6, 10, 16, 24 and 32 px: 0.19, 0.44, 0.69, 0.84 and 0.90 of alpha; the bands overlap."""
    true, full, shares = oscillation(1.8, delta=0.01), 10 * response("iir", 1.8, FPS, **BAND), []
    for wavelength in (6, 10, 16, 24, 32):
        moved = by_phase(magnify(grating(true, wavelength), FPS, 10, **BAND, lambda_c=16), wavelength)
        shares.append(abs((gain(moved, true, 1.8) - 1) / full))
    assert np.all(np.diff(shares) > 0)
    assert shares[0] < 0.25
    assert shares[-1] > 0.85


def test_the_weights_are_wu_s():
    """Motion of (1 + alpha) delta = lambda_c / 8 gets to lambda_l / 8 in the bands below lambda_c, and no further."""
    alpha, lambda_c = 10, 60
    weights = eulerian._weights(6, alpha, lambda_c, "laplacian")
    delta = lambda_c / 8 / (1 + alpha)
    for level in range(1, 6):
        wu = 5 * 2**level / delta / 8 - 1
        assert weights[level] == pytest.approx(min(alpha, wu))
    assert weights[0] == weights[-1] == 0
    assert list(eulerian._weights(3, alpha, 0, "laplacian")) == [10, 10, 10, 0]
    assert list(eulerian._weights(3, alpha, 16, "gaussian")) == [0, 0, 0, 10]
    assert eulerian._weights(1, alpha, 16, "laplacian")[0] == pytest.approx(5 * 11 / 16 - 1)


def test_the_bands_pass_the_wavelengths_they_stand_for():
    waves = np.geomspace(4, 64, 60)
    x = np.arange(512)
    for level in (1, 2, 3):
        only = np.zeros(7)
        only[level] = 1
        passed = []
        for wave in waves:
            lines = [np.broadcast_to(w(2 * np.pi * x / wave), (32, 512)).astype(np.float32) for w in (np.cos, np.sin)]
            passed.append(sum((weigh(line, only)[:, 128:384] ** 2).mean() for line in lines))
        assert waves[np.argmax(passed)] == pytest.approx(5 * 2**level, rel=0.15)


def test_more_alpha_more_motion():
    true = oscillation(1.8, delta=0.01)
    frames = grating(true, 16)
    for options in ({"lambda_c": 0}, {"lambda_c": 16}, {"lambda_c": 40}):
        moved = [np.abs(by_phase(magnify(frames, FPS, a, **BAND, **options), 16)).max() for a in (0, 2, 5, 10, 20)]
        assert np.all(np.diff(moved) >= 0)
        assert moved[-1] > 2 * moved[0]


@pytest.mark.parametrize(
    ("recipe", "fps", "rise", "added"), [("dcma", 200, 33, 2.0), ("dcma", 100, 17, 2.0), ("msmmt", 200, 33, 5.1)]
)
def test_what_the_recipes_add_to_a_micro_expression(recipe, fps, rise, added):
    """S-12 and D-01: a rise of 33 frames at 200 fps gets about 5 times and about 2.0 times its own motion on top."""
    true = 0.04 * np.arange(rise) / (rise - 1)
    frames = grating(true, 48, (128, 176))
    for lambda_c, tolerance in ((0, 0.03), (16, 0.1)):  # the cut-off takes 5 % at 48 px
        moved = by_phase(magnify(frames, fps, **{**RECIPES[recipe], "lambda_c": lambda_c}), 48)
        assert moved[-1] / true[-1] - 1 == pytest.approx(added, rel=tolerance)


# ---- what stays as it was -------------------------------------------------------------------------------------------


def noise(shape=(12, 21, 34, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


OPTIONS = [{"filter": f, "pyramid": p} for f in FILTERS for p in ("laplacian", "gaussian")]


@pytest.mark.parametrize("options", OPTIONS)
def test_identity_at_alpha_0_and_for_a_still_clip(options):
    frames = noise()
    for clip in (frames, frames / 255, (frames / 255).astype(np.float32)):
        same = magnify(clip, FPS, 0, 1, 10, **options)
        assert np.array_equal(same, clip)
        assert not np.shares_memory(same, clip)
        still = np.repeat(clip[:1], 9, axis=0)
        assert np.array_equal(magnify(still, FPS, 50, 1, 10, **options), still)


def test_the_mean_brightness_stays():
    """Also that of a lamp that flickers: the residual is left alone. `gaussian` magnifies just that."""
    true = oscillation(1.8, delta=0.1)
    frames = texture(true) * (0.9 + 0.02 * np.sin(2 * np.pi * 1.8 * np.arange(150) / FPS))[:, None, None, None]
    for lambda_c in (0, 16):
        moved = magnify(frames.astype(np.float32), FPS, 10, **BAND, lambda_c=lambda_c)
        assert np.abs(moved - frames).max() > 0.02
        assert np.abs((moved - frames).mean(axis=(1, 2, 3))).max() < 0.003  # 1 % of it is in the coarsest bands
    lit = magnify(frames.astype(np.float32), FPS, 2, **BAND, pyramid="gaussian", chroma=1)
    means = [clip.mean(axis=(1, 2, 3)) - clip[0].mean() for clip in (lit, frames)]
    assert abs(gain(*means, 1.8)) == pytest.approx(abs(1 + 2 * response("iir", 1.8, FPS, **BAND)), rel=0.1)


def test_chroma():
    """At 0 colour stays, at 1 a change of colour alone gains as any other, between them in proportion."""
    t, y, x = np.ogrid[:60, :32, :40]
    pulse = 0.01 * np.sin(2 * np.pi * 2 * t / FPS) * np.cos(2 * np.pi * x / 20) * np.ones_like(y)
    colour = np.array([1, -0.299 / 0.587, 0])  # no luma
    frames = (0.5 + pulse[..., None] * colour).astype(np.float32)
    added = [magnify(frames, FPS, 10, **BAND, chroma=c, lambda_c=0) - frames for c in (0, 0.1, 1)]
    assert np.abs(added[0]).max() < 1e-6
    np.testing.assert_allclose(added[1], 0.1 * added[2], atol=1e-6)
    assert np.abs(added[2][..., 0]).max() > 0.05
    mixed = texture(oscillation(1.8, count=30)) * np.float32([0.9, 0.6, 0.7])
    moved = magnify(mixed, FPS, 10, **BAND, chroma=0)
    before, after = rgb2yiq(mixed), rgb2yiq(moved)
    assert np.abs(before[..., 0] - after[..., 0]).max() > 0.002
    np.testing.assert_allclose(before[..., 1:], after[..., 1:], atol=1e-5)


def test_nothing_is_written_to_the_input_and_views_will_do():
    frames = noise()
    before = frames.copy()
    expected = magnify(frames, FPS, 10, 1, 10)
    assert np.array_equal(frames, before)
    wide = np.zeros((24, 21, 68, 3), np.uint8)
    wide[::2, :, ::2] = frames
    assert np.array_equal(magnify(wide[::2, :, ::2], FPS, 10, 1, 10), expected)
    mirrored = magnify(frames[:, :, ::-1], FPS, 10, 1, 10)[:, :, ::-1]
    assert mirrored.shape == expected.shape


def test_bytes_equal_floats():
    frames = noise()
    whole = magnify(frames, FPS, 3, 1, 10).astype(float)
    part = magnify(frames / 255, FPS, 3, 1, 10)
    assert part.dtype == np.float64
    assert np.abs(whole - 255 * part).max() < 0.51


def test_memory_is_bounded():
    """uint8 in and out; the float32 of a few frames, and of two half-size frames per bin for `ideal`."""
    frames = noise((200, 64, 64, 3))
    for filter, high, most in (("iir", 3, 1.4), ("butterworth", 3, 1.4), ("ideal", 15, 6)):
        tracemalloc.start()
        magnify(frames, FPS, 10, 0.4, high, filter=filter)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most * frames.nbytes


# ---- the parts, against something independent -----------------------------------------------------------------------


def slow_reduce(image):
    for axis in (0, 1):
        image = scipy.ndimage.convolve1d(image, np.array([1, 4, 6, 4, 1]) / 16, axis=axis, mode="mirror")
    return image[::2, ::2]


def slow_expand(image, shape):
    """Zeros between the pixels, then the filter."""
    grid = np.zeros((2 * image.shape[0], 2 * image.shape[1], *image.shape[2:]))
    grid[::2, ::2] = image
    for axis in (0, 1):
        grid = scipy.ndimage.convolve1d(grid, np.array([1, 4, 6, 4, 1]) / 8, axis=axis, mode="mirror")
    return grid[: shape[0], : shape[1]]


def slow_filter(x, filter, fps, low, high):
    """(T, ...) float64 along the first axis, by scipy and numpy."""
    if filter == "iir":
        out = []
        for f in (high, low):
            r = 1 - np.exp(-2 * np.pi * f / fps)
            out.append(scipy.signal.lfilter([r], [1, r - 1], x, axis=0, zi=(1 - r) * x[:1])[0])
        return out[0] - out[1]
    if filter == "butterworth":
        sections = scipy.signal.butter(1, [low, high], btype="band", fs=fps, output="sos")
        return scipy.signal.sosfilt(sections, x - x[0], axis=0)
    spectrum, bins = np.fft.rfft(x, axis=0), np.fft.rfftfreq(len(x), 1 / fps)
    spectrum[(bins < low) | (bins > high)] = 0
    return np.fft.irfft(spectrum, len(x), axis=0)


def slow_evm(frames, fps, alpha, low, high, filter, lambda_c, chroma):
    """Wu et al. as it is told: YIQ, a Laplacian pyramid of every frame, each band filtered and amplified, collapsed."""
    levels = [np.array([rgb2yiq(frame) for frame in frames])]
    bands = []
    while min(levels[-1].shape[1:3]) >= 5:
        levels.append(np.array([slow_reduce(frame) for frame in levels[-1]]))
        bands.append(
            levels[-2] - np.array([slow_expand(s, b.shape) for s, b in zip(levels[-1], levels[-2], strict=True)])
        )
    total = np.zeros_like(levels[-1])
    for level in reversed(range(len(bands))):
        weight = alpha
        if lambda_c:
            delta = lambda_c / 8 / (1 + alpha)
            weight = 0 if level == 0 else min(alpha, max(0, 5 * 2**level / delta / 8 - 1))
        total = np.array([slow_expand(s, b.shape) for s, b in zip(total, bands[level], strict=True)])
        total += weight * slow_filter(bands[level], filter, fps, low, high)
    total[..., 1:] *= chroma
    return np.array([np.clip(frame + yiq2rgb(change), 0, 1) for frame, change in zip(frames, total, strict=True)])


@pytest.mark.parametrize("lambda_c", [0, 16, 50])
@pytest.mark.parametrize("shape", [(32, 48), (21, 35)])
@pytest.mark.parametrize("filter", FILTERS)
def test_against_a_slow_program(filter, shape, lambda_c):
    rng = np.random.default_rng(3)
    frames = 0.5 + 0.15 * scipy.ndimage.gaussian_filter(rng.normal(size=(20, *shape, 3)), (1, 2, 2, 0)) / 0.08
    frames = frames.clip(0, 1)
    ours = magnify(frames, FPS, 6, 1.4, 6, filter=filter, lambda_c=lambda_c, chroma=0.3)
    assert np.abs(ours - frames).max() > 0.05
    # float32 of values up to 6, and rgb2yiq's matrix has three digits.
    np.testing.assert_allclose(ours, slow_evm(frames, FPS, 6, 1.4, 6, filter, lambda_c, 0.3), atol=2e-3)


@pytest.mark.parametrize("shape", [(32, 48, 3), (31, 47, 3), (5, 64), (38, 5), (6, 7, 3)])
def test_the_pyramid_taken_apart_and_put_together(shape):
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    levels = len(eulerian._sizes(shape[:2], "laplacian", None)) - 1
    parts = [weigh(image, one) for one in np.eye(levels + 1)]
    np.testing.assert_allclose(sum(parts), image, atol=1e-5)  # the bands and the residual are the image
    weights = np.random.default_rng(2).uniform(-3, 3, levels + 1)
    expected = sum(w * part for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(weigh(image, weights), expected, atol=5e-5)
    flat = np.full(shape, 0.25, np.float32)
    for k, one in enumerate(np.eye(levels + 1)):  # and light is in the residual alone
        np.testing.assert_allclose(weigh(flat, one), 0.25 * (k == levels), atol=1e-6)
    small = cv2.pyrDown(image)
    np.testing.assert_allclose(small, slow_reduce(image.astype(float)), atol=1e-5)
    np.testing.assert_allclose(cv2.pyrUp(small, dstsize=shape[1::-1]), slow_expand(small, shape), atol=1e-5)


@pytest.mark.parametrize("filter", FILTERS)
def test_the_response_is_that_of_the_filter(filter):
    """A pixel that swings at f, through the filter itself; with little change per frame nothing rounds or clips."""
    for f in (0.2, 0.6, 1.4, 3.0, 7.0, 14.0):
        x = 0.01 * np.cos(2 * np.pi * f * np.arange(600) / FPS)
        moved = magnify(0.5 + x[:, None, None, None] * np.ones((1, 5, 5, 3)), FPS, 1, **BAND, filter=filter,
                        pyramid="gaussian", chroma=1)  # fmt: skip
        band = moved[:, 2, 2, 1] - 0.5 - x
        t = np.arange(600)[-300:]
        wave = np.exp(-2j * np.pi * f * t / FPS)
        assert abs((wave @ band[-300:]) / (wave @ x[-300:]) - response(filter, f, FPS, **BAND)) < 0.01


def test_responses_in_and_out_of_the_band():
    middle, edges = np.sqrt(0.6 * 3.0), np.array([0.6, 3.0])
    assert abs(response("ideal", middle, FPS, **BAND)) == 1
    assert not response("ideal", [0, 0.5, 3.1, 15], FPS, **BAND).any()
    assert abs(response("butterworth", middle, FPS, **BAND)) == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(np.abs(response("butterworth", edges, FPS, **BAND)), np.sqrt(0.5), atol=1e-9)
    assert np.abs(response("butterworth", [0.01, 14.9], FPS, **BAND)).max() < 0.02
    _, expected = scipy.signal.freqz_sos(
        scipy.signal.butter(1, [0.6, 3.0], btype="band", fs=FPS, output="sos"), [0.3, 1, 5], fs=FPS
    )
    np.testing.assert_allclose(response("butterworth", [0.3, 1, 5], FPS, **BAND), expected, atol=1e-12)
    slow, fast = 1 - np.exp(-2 * np.pi * edges / FPS)  # of low and high
    for f in (0.1, 1.0, 8.0):
        z = np.exp(-2j * np.pi * f / FPS)
        expected = fast / (1 - (1 - fast) * z) - slow / (1 - (1 - slow) * z)
        assert response("iir", f, FPS, **BAND) == pytest.approx(expected)
    assert response("iir", 0, FPS, **BAND) == pytest.approx(0)


# ---- clips and recordings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 5), (5, 40), (6, 9), (33, 31), (64, 17)])
@pytest.mark.parametrize("options", OPTIONS)
def test_any_size(shape, options):
    frames = noise((4, *shape, 3))
    moved = magnify(frames, FPS, 10, 3, 10, **options)
    assert moved.shape == frames.shape
    assert moved.dtype == np.uint8
    assert not np.array_equal(moved, frames)


@pytest.mark.parametrize("filter", FILTERS)
def test_frames_around_the_clip(filter):
    recording = noise((50, 16, 16, 3))
    whole = magnify(recording, FPS, 5, 1, 8, filter=filter)
    for keep in (slice(20, 33), slice(0, 50), slice(-17, None), slice(49, 50)):
        assert np.array_equal(magnify(recording, FPS, 5, 1, 8, filter=filter, keep=keep), whole[keep])
    assert not np.array_equal(magnify(recording[20:33], FPS, 5, 1, 8, filter="iir"), whole[20:33])


class Recording:
    """Frames that are read one by one, into one buffer, as often as is asked; `read` counts them."""

    def __init__(self, frames):
        self.frames, self.read, self.buffer = frames, 0, np.empty_like(frames[0])

    def __iter__(self):
        for frame in self.frames:
            self.read += 1
            self.buffer[...] = frame
            yield self.buffer


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"lambda_c": 0}, {"pyramid": "gaussian"}, {"chroma": 1}])
@pytest.mark.parametrize("filter", FILTERS)
def test_frames_one_by_one_have_the_bytes_of_the_whole_clip(filter, options, dtype):
    clip = noise((40, 19, 23, 3))
    clip = clip if dtype == np.uint8 else (clip / 255).astype(dtype)
    for alpha in (0, 5):
        whole = magnify(clip, FPS, alpha, 1, 8, filter=filter, **options)
        for keep in (None, slice(12, 25), slice(39, 40)):
            recording = Recording(clip)
            parts = magnify_frames(recording, 40, FPS, alpha, 1, 8, filter=filter, keep=keep, **options)
            parts = np.stack([part.copy() for part in parts])
            assert parts.dtype == dtype
            assert np.array_equal(parts, whole if keep is None else whole[keep])
            last = 40 if keep is None else keep.stop
            assert recording.read == 1 + last + (40 if filter == "ideal" and alpha else 0)  # the first tells the size


@pytest.mark.parametrize("filter", CAUSAL)
def test_a_long_clip_takes_no_more_memory_than_a_short_one(filter):
    """3,000 frames of 224 px and what became of them were 1 GB."""
    frame, peaks = noise((128, 128, 3)), []
    for count in (50, 300):
        frames = (np.roll(frame, t % 7, axis=1) for t in range(count))
        tracemalloc.start()
        assert sum(1 for _ in magnify_frames(frames, count, 200, 10, 0.4, 3, filter=filter)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 10 * 4 * frame.nbytes  # ten as float32
    assert peaks[1] < 1.1 * peaks[0]


def test_frames_that_do_not_come_as_announced():
    clip, options = noise((8, 16, 16, 3)), {"fps": FPS, "alpha": 5, "low": 1, "high": 8}
    with pytest.raises(MerError, match="'ideal' goes through the frames twice, and an iterator ends; give a list"):
        magnify_frames(iter(clip), 8, **options, filter="ideal")
    for frames, count, message in (
        ([], 8, "a clip of 0 frames"),
        (clip, 2, "a clip of 2 frames"),
        (clip[..., 0], 8, r"the first frame is \(16, 16\); needed is \(H, W, 3\) RGB"),
        (clip.transpose(0, 3, 1, 2), 8, r"the first frame is \(3, 16, 16\)"),
        (clip.astype(np.int32), 8, "frames are int32"),
        (clip, 9, "8 frames came where there should be 9"),
        ([*clip[:5], clip[5, 1:]], 6, r"frame 5 is \(15, 16, 3\) uint8, the first \(16, 16, 3\) uint8; all must"),
        ([*clip[:5], clip[5] / 255], 6, r"frame 5 is \(16, 16, 3\) float64, the first"),
        ([*(clip[:5] / 255), clip[5] / 1.0], 6, r"frame 5 ranges over 0..25\d; needed is 0..1"),
        ([*(clip[:5] / 255), clip[5] * np.nan], 6, "frame 5 has values that are not finite"),
    ):
        with pytest.raises(MerError, match=f"^magnify: {message}"):
            list(magnify_frames(iter(frames), count, **options))
    with pytest.raises(MerError, match=r"the band is 8\.\.1 Hz"):  # at once, not when the first frame is asked for
        magnify_frames(clip, 8, FPS, 5, 8, 1)


def test_short_clips_run_with_the_recursive_filters():
    """D-01: DCMA's band on 25 frames at 200 fps, an eighth of a second."""
    true = 0.1 * np.arange(25) / 24
    frames = grating(true, 32)
    for filter in ("iir", "butterworth"):
        moved = by_phase(magnify(frames, 200, **{**RECIPES["dcma"], "filter": filter}), 32)
        assert moved[-1] > 1.5 * true[-1]
    with pytest.raises(MerError, match="holds no bin"):
        magnify(frames, 200, **{**RECIPES["dcma"], "filter": "ideal"})


def test_levels():
    frames = texture(oscillation(1.8, count=20, delta=0.1))
    shallow, deep = (magnify(frames, FPS, 10, **BAND, levels=n) for n in (2, 4))
    assert np.abs(shallow - deep).max() > 0.01  # what is coarser than two bands stays in the residual
    assert np.array_equal(magnify(frames, FPS, 10, **BAND, levels=4), magnify(frames, FPS, 10, **BAND))
    assert np.array_equal(
        magnify(frames, FPS, 10, **BAND, pyramid="gaussian", levels=4),
        magnify(frames, FPS, 10, **BAND, pyramid="gaussian", lambda_c=0),
    )


# ---- readings of the papers -----------------------------------------------------------------------------------------


def scaled(count, fps):
    """A band scaled to the clip: from its first bin to its fourth."""
    return {"low": fps / count, "high": 4 * fps / count}


CLIP, FIRST = slice(500, 533), {"keep": slice(500, 533)}
TABLE = [  # id, recipe, how the alternative differs, whether it sees the recording round the clip
    ("S-12", "msmmt", {"low": 0.1, "high": 0.4}, False),
    ("D-01", "dcma", {"filter": "butterworth"}, False),
    ("D-01", "dcma", {"filter": "ideal", **FIRST}, True),
    ("D-01", "dcma", {"fps": 10}, False),
    ("D-01", "dcma", {"fps": 10, "filter": "ideal"}, False),
    ("D-01", "dcma", {"filter": "ideal", **scaled(33, 200)}, False),
]


@pytest.fixture(scope="module")
def recording():
    """Five seconds at 200 fps with a rise of 33 frames in the middle."""
    true = 0.2 * np.clip((np.arange(1000) - 500) / 32, 0, 1)
    return np.rint(255 * grating(true, 24, (24, 48))).astype(np.uint8)


@pytest.mark.parametrize(("name", "recipe", "alternative", "around"), TABLE)
def test_every_reading_is_accepted_named_and_changes_the_output(name, recipe, alternative, around, recording):
    assert name in Path(inspect.getsourcefile(eulerian)).read_text()
    default = magnify(recording[CLIP], 200, **RECIPES[recipe])
    other = magnify(recording if around else recording[CLIP], **{"fps": 200, **RECIPES[recipe], **alternative})
    assert other.shape == default.shape
    assert not np.array_equal(other, default)
    assert not np.array_equal(other, recording[CLIP])


def test_the_recipes_are_those_of_the_papers():
    """S-12 and D-01: printed are the alphas and DCMA's band; the rest is the default that fidelity gives."""
    assert RECIPES["msmmt"] == {
        "alpha": 10, "low": 0.4, "high": 3.0, "filter": "iir", "lambda_c": 16, "chroma": 0.1,
    }  # fmt: skip
    assert RECIPES["dcma"] == {**RECIPES["msmmt"], "alpha": 15, "low": 0.1, "high": 0.4}


# ---- what is refused ------------------------------------------------------------------------------------------------

GOOD = {"frames": noise((8, 16, 16, 3)), "fps": 30, "alpha": 10, "low": 0.4, "high": 3}
NAN = np.full((8, 16, 16, 3), 0.5)
NAN[3, 2, 1, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": GOOD["frames"][:2]}, "a clip of 2 frames; needed are at least 3"),
        ({"frames": GOOD["frames"][:0]}, "a clip of 0 frames"),
        ({"frames": GOOD["frames"][..., 0]}, r"frames are grey, .8, 16, 16.; .* repeat the grey channel three times"),
        ({"frames": GOOD["frames"][..., :1]}, "frames are grey"),
        ({"frames": GOOD["frames"][0, 0]}, r"frames are .16, 3.; needed is .T, H, W, 3. RGB"),
        ({"frames": np.zeros((8, 16, 16, 4), np.uint8)}, r"needed is .T, H, W, 3. RGB"),
        ({"frames": np.zeros((8, 3, 16, 16), np.uint8)}, r"needed is .T, H, W, 3. RGB"),
        ({"frames": np.zeros((8, 4, 16, 3), np.uint8)}, "sides of at least 5 px"),
        ({"frames": GOOD["frames"].astype(np.uint16)}, r"frames are uint16; needed is uint8 .* or float .0..1.: scale"),
        ({"frames": GOOD["frames"].astype(np.int64)}, "frames are int64"),
        ({"frames": NAN}, "not finite; check the frames for NaN"),
        ({"frames": np.where(np.isnan(NAN), np.inf, 0.5)}, "not finite"),
        ({"frames": GOOD["frames"].astype(np.float32)}, r"range over 0..255; needed is 0..1: scale or clip them"),
        ({"frames": NAN[3:4, 5:6, 5:6].repeat(8, 0).repeat(9, 1).repeat(9, 2) - 1}, r"range over -0.5..-0.5"),
        ({"frames": GOOD["frames"][0]}, r"frames are .16, 16, 3.: one picture; needed is .T, H, W, 3. RGB"),
        ({"frames": np.zeros((16, 20, 4), np.uint8)}, r"frames are .16, 20, 4.: one picture"),
        ({"fps": "30"}, "fps is '30'; needed is a number"),
        ({"fps": None}, "fps is None; needed is a number"),
        ({"alpha": "10"}, "alpha is '10'; needed is a number"),
        ({"low": "0.4"}, "low is '0.4'; needed is a number"),
        ({"lambda_c": "16"}, "lambda_c is '16'"),
        ({"chroma": "0.1"}, "chroma is '0.1'"),
        ({"fps": 0}, "fps is 0; needed is the positive"),
        ({"fps": -30}, "fps is -30"),
        ({"fps": np.nan}, "fps is nan"),
        ({"alpha": -1}, "alpha is -1; needed is 0"),
        ({"alpha": np.nan}, "alpha is nan"),
        ({"low": 3}, r"the band is 3..3 Hz; needed is 0 < low < high"),
        ({"low": 4}, r"the band is 4..3 Hz"),
        ({"low": 0}, r"the band is 0..3 Hz"),
        ({"low": np.nan}, r"the band is nan..3 Hz"),
        ({"high": np.inf}, r"the band is 0.4..inf Hz"),
        ({"filter": "butterwort"}, "unknown filter 'butterwort'; did you mean 'butterworth'"),
        ({"filter": "fft"}, "unknown filter 'fft'; valid names: butterworth, ideal, iir"),
        ({"pyramid": "laplace"}, "unknown pyramid 'laplace'; did you mean 'laplacian'"),
        ({"lambda_c": -1}, "lambda_c is -1; needed is a wavelength in px, or 0"),
        ({"lambda_c": 1e6}, r"lambda_c 1e.06 px and alpha 10 leave no band of frames of .16, 16. px .* lambda_c=0"),
        ({"chroma": 1.5}, "chroma is 1.5; needed is 0"),
        ({"levels": 0}, r"levels is 0; frames of .16, 16. px can be halved 1 to 2 times"),
        ({"levels": 3}, "levels is 3"),
        ({"keep": slice(9, 12)}, r"keep is slice.9, 12, None.; needed is slice.first, end."),
        ({"keep": slice(0, 8, 2)}, "frames that follow each other"),
        ({"keep": 3}, "keep is 3; needed is slice"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(MerError, match=f"^magnify: .*{message}") as caught:
        magnify(**{**GOOD, **change})
    assert "\n" not in str(caught.value)


def test_a_band_without_a_bin_names_the_clip_its_first_bin_and_two_ways_out():
    """D-01: 67 frames at 200 fps have their first bin at 3 Hz."""
    frames = np.zeros((67, 8, 8, 3), np.uint8)
    with pytest.raises(MerError) as caught:
        magnify(frames, 200, 15, 0.1, 0.4, filter="ideal")
    for words in ("0.1..0.4 Hz", "0.335 s", "67 frames at 200 fps", "2.985 Hz", "filter='iir'", "keep="):
        assert words in str(caught.value)
    with pytest.raises(MerError, match="holds no bin"):  # between the first bin and the second
        magnify(frames, 200, 15, 3, 5.9, filter="ideal")
    # An edge on a bin holds it, whatever the rounding of the division.
    for count, fps in ((67, 200), (49, 30), (33, 100)):
        first = fps / count
        moved = magnify(noise((count, 8, 8, 3)), fps, 15, first, 1.5 * first, filter="ideal")
        assert np.array_equal(moved, magnify(noise((count, 8, 8, 3)), fps, 15, 0.6 * first, first, filter="ideal"))


@pytest.mark.parametrize("filter", FILTERS)
def test_an_edge_above_half_the_frame_rate(filter):
    with pytest.raises(MerError) as caught:
        magnify(GOOD["frames"], 5, 10, 0.4, 3, filter=filter)
    for words in ("0.4..3 Hz", "fps/2 = 2.5 Hz", "1.6 s", "8 frames at 5 fps", "0.625 Hz", "lower band", "as fps"):
        assert words in str(caught.value)
    with pytest.raises(MerError, match="fps/2"):
        response(filter, 1, 5, 0.4, 3)
    if filter == "butterworth":
        with pytest.raises(MerError, match="fps/2"):
            magnify(GOOD["frames"], 6, 10, 0.4, 3, filter=filter)
    else:
        magnify(GOOD["frames"], 6, 10, 0.4, 3, filter=filter)


def test_response_refuses_what_magnify_refuses():
    for arguments in (("fft", 1, 30, 0.4, 3), ("iir", 1, 0, 0.4, 3), ("iir", 1, 30, 3, 0.4), ("iir", 1, "30", 0.4, 3)):
        with pytest.raises(MerError):
            response(*arguments)


def test_a_band_of_no_clip():
    for arguments in ((0, 200, 0.4, 3), (67, 0, 0.4, 3), (67, "200", 0.4, 3), (67, 200, 0, 3), (67, 200, 3, 0.4)):
        with pytest.raises(MerError, match=r"^magnify: "):
            band_of_clip(*arguments)


def test_an_image_with_its_channels_first_is_not_weighed():
    with pytest.raises(MerError, match=r"weigh: image is \(3, 20, 30\); needed is \(H, W\) or \(H, W, 3\)"):
        weigh(np.zeros((3, 20, 30), np.float32), np.ones(3))
