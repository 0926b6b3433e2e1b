"""Linear Eulerian video magnification after Wu, Rubinstein, Shih, Guttag, Durand and Freeman, Eulerian Video
Magnification for Revealing Subtle Changes in the World, SIGGRAPH 2012 (fidelity S-12, D-01).

A pixel whose content moves by delta(t) changes by about -delta(t) dI/dx. Band-passed in time, times alpha and added
again, that change moves the content (1 + alpha H) times as far, H the filter's response at the motion's frequency:

    (E)   out = I + S T I,      T the temporal band-pass of every pixel, S the weights of the spatial bands

S takes a frame apart with a Laplacian pyramid of n bands, from the finest 0 to n - 1, and a residual; R halves, E
doubles, both with the filter 1 4 6 4 1 and reflected borders:

    (P)   G_0 = I,  G_{l+1} = R G_l,  band_l = G_l - E G_{l+1},      S I = sum_l w_l E^l band_l + w_n E^n G_n
    (A)   w_l = min(alpha, max(0, lambda_l (1 + alpha) / lambda_c - 1)),      lambda_l = 5 * 2^l px

(A) is Wu's bound: motion of a delta with (1 + alpha) delta = lambda_c / 8 has (1 + w_l) delta = lambda_l / 8 in the
bands below lambda_c. lambda_l is the wavelength that band l passes best: 10 px in band 1, 20 px in band 2, and so on.
As in Wu's programs the finest band, most of it noise, is left as it is, unless it is the only one; so is the residual,
for it is light rather than motion. With lambda_c = 0 every band has alpha, the finest too, and the residual none. So
the mean brightness stays. The Gaussian pyramid is for colour: all bands have 0, and w_n = alpha.

In YIQ the change of Y has the weight 1, those of I and Q the weight `chroma`. Grey has no I and no Q, so in RGB this is

    (C)   chroma * change + (1 - chroma) * (Y, Y, Y) of the change,      Y = 0.299 R + 0.587 G + 0.114 B

S, T and (C) are linear and commute. So T runs on frames halved as often as the leading weights are 0, (C) too, and one
pyramid per frame does: with v = w - w_0, S = w_0 I + E S_v R I, where S_v has the weights v_1..v_n.

T frames, H, W height and width in px; frequencies in Hz; brightness in grey levels 0..255, or 0..1 for floats.
"""

import itertools
import math
import numbers
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mer.errors import MerError, suggestion
from mer.shapes import MOST_CHANNELS

# S-12: the paper gives alpha alone; the rest is the preset with alpha 10 of the code it cites, as a band in Hz.
# Alternatives: DCMA's band (low=0.1, high=0.4); one modality only, which the graph decides.
# D-01: the paper gives band and alpha. An FFT finds no bin of that band in a clip of half a second, so the default is
# the recursive filter at the native fps. Alternatives: filter="ideal" on the long recording round the clip (`keep`);
# another `fps`, at which the clip lasts several seconds; a band scaled to the clip.
# D-02, before or after the crop, is what stages/magnify_eulerian.py reads.
RECIPES = {
    "msmmt": {"alpha": 10, "low": 0.4, "high": 3.0, "filter": "iir", "lambda_c": 16, "chroma": 0.1},
    "dcma": {"alpha": 15, "low": 0.1, "high": 0.4, "filter": "iir", "lambda_c": 16, "chroma": 0.1},
}
FILTERS = ("iir", "ideal", "butterworth")
CAUSAL = ("iir", "butterworth")  # what a frame becomes does not depend on later ones
PYRAMIDS = ("laplacian", "gaussian")
WAVELENGTH = 5  # px; (A), of the finest band
SMALLEST = 5  # px; the width of the pyramid's filter: what is smaller is not halved
COLOUR_LEVELS = 4  # halvings for `gaussian`, as in Wu's presets for colour
SHORTEST = 3  # frames; two make a difference, but no band
LUMA = (0.299, 0.587, 0.114)
TOGETHER = 16  # frames in one matrix product of `ideal`


def magnify(
    frames: np.ndarray,
    fps: float,
    alpha: float,
    low: float,
    high: float,
    filter: str = "iir",
    lambda_c: float = 16.0,
    chroma: float = 0.1,
    *,
    pyramid: str = "laplacian",
    levels: int | None = None,
    keep: slice | None = None,
) -> np.ndarray:
    """The clip with its motion between `low` and `high` Hz magnified (Wu et al. 2012; fidelity S-12, D-01).

    Small motion is displaced (1 + alpha H) times as far as it was, H the filter's response (see `response`). That holds
    while the displaced distance stays below an eighth of the pattern's wavelength; beyond, edges ring and clip.

    Beside input and output it needs a few frames of float32; `ideal` two half-size frames for every bin of its band.
    Where memory does not hold input and output, see `magnify_frames`.

    Args:
        frames: (T, H, W, 3) RGB, uint8 or float 0..1; T at least 3, H and W at least 5. Grey frames are to be repeated
            to three channels.
        fps: frames per second of `frames`, > 0.
        alpha: factor of the band-passed change, >= 0; 0 returns the frames as they are.
        low, high: edges of the band in Hz, 0 < low < high <= fps / 2 (`butterworth`: high < fps / 2).
        filter: T of (E), on the difference from the first frame, so that a still clip stays as it is.
            `iir`: difference of two first-order low-passes y += r (x - y), r = 1 - exp(-2 pi f / fps), f = high, low.
            `butterworth`: band-pass of second order (one pole pair), by the bilinear transform.
            `ideal`: the bins k fps / T, k >= 1, of the clip's Fourier transform from low to high, edges included; it
            takes the clip for periodic.
        lambda_c: spatial cut-off in px, see (A); 0 = every band has the full alpha.
        chroma: weight of I and Q against Y, 0..1; 0 changes brightness alone, 1 all colours alike.
        pyramid: `laplacian` for motion; `gaussian` for colour, where lambda_c has no part.
        levels: how often frames are halved; None: until a side is below 5 px for `laplacian`, 4 times at most for
            `gaussian`.
        keep: which frames to return, when `frames` is a longer recording round the clip; None = all.

    Returns:
        `frames[keep]`, magnified, clipped to 0..255 (float: 0..1); same shape and dtype.

    Raises:
        MerError: another shape, dtype or range, a value that is not finite, fewer than 3 frames, a parameter out of its
            range, an edge above fps / 2, a band without a bin of the clip with `ideal`, no band left to magnify.
    """
    frames = np.asarray(frames)
    _check_frames(frames)
    kept = _kept(len(frames), keep)
    settings = (fps, alpha, low, high, filter, lambda_c, chroma, pyramid, levels)
    magnified = _magnified(frames, len(frames), frames.shape[1:3], kept, *settings)
    out = np.empty((len(kept), *frames.shape[1:]), frames.dtype)
    for place, image in zip(out, magnified, strict=True):
        place[...] = image
    return out


def magnify_frames(
    frames: Iterable[np.ndarray],
    count: int,
    fps: float,
    alpha: float,
    low: float,
    high: float,
    filter: str = "iir",
    lambda_c: float = 16.0,
    chroma: float = 0.1,
    *,
    pyramid: str = "laplacian",
    levels: int | None = None,
    keep: slice | None = None,
) -> Iterator[np.ndarray]:
    """`magnify` for clips that memory does not hold: frames are read one by one, and come back one by one.

    The same bytes. `iir` and `butterworth` go through the frames once, up to the last one that is kept, and hold no
    more than ten as float32, however long the clip is. `ideal` goes through them twice and holds two more for every bin
    of its band, 2 (high - low) count / fps, each half as high and wide unless lambda_c is 0.

    Args:
        frames: (H, W, 3) RGB each, all of one shape, uint8 or float 0..1. With `ideal` something that can be gone
            through twice, such as a list or an object with `__iter__`; a generator otherwise suffices.
        count: how many there are, T.
        fps, alpha, low, high, filter, lambda_c, chroma, pyramid, levels, keep: as in `magnify`.

    Returns:
        An iterator over `frames[keep]`, magnified, (H, W, 3) of their type.

    Raises:
        MerError: as `magnify`; `ideal` with an iterator; while it runs, a frame of another shape or type than the
            first, a value out of range, or fewer frames than `count`.
    """
    kept = _kept(count, keep)
    once = iter(frames) is frames
    if once and filter == "ideal":
        raise MerError("magnify: 'ideal' goes through the frames twice, and an iterator ends; give a list of them")
    start = iter(frames)
    first = next(start, None)
    if first is None or count < SHORTEST:
        raise MerError(_too_short(0 if first is None else count))
    first = np.asarray(first)
    if first.ndim != 3 or first.shape[2] != 3:
        raise MerError(f"magnify: the first frame is {first.shape}; needed is (H, W, 3) RGB")
    _check_frames(first[None].repeat(SHORTEST, 0))
    checked = _Alike(itertools.chain([first], start) if once else frames, count)
    settings = (fps, alpha, low, high, filter, lambda_c, chroma, pyramid, levels)
    return _magnified(checked, count, first.shape[:2], kept, *settings)


def _magnified(
    frames: Iterable[np.ndarray],
    count: int,
    shape: tuple[int, int],
    kept: range,
    fps: float,
    alpha: float,
    low: float,
    high: float,
    filter: str,
    lambda_c: float,
    chroma: float,
    pyramid: str,
    levels: int | None,
) -> Iterator[np.ndarray]:
    """The kept frames; parameters are checked at once, frames are not."""
    _check_parameters(count, fps, alpha, low, high, filter, lambda_c, chroma)
    sizes = _sizes(shape, pyramid, levels)
    weights = _weights(len(sizes) - 1, alpha, lambda_c, pyramid)
    if alpha == 0:
        return (np.array(frame) for frame in itertools.islice(frames, kept.start, kept.stop))
    if not weights.any():
        raise MerError(
            f"magnify: lambda_c {lambda_c:g} px and alpha {alpha:g} leave no band of frames of {shape} px "
            "to magnify; give lambda_c=0, or a smaller one"
        )
    halvings = int(np.flatnonzero(weights)[0])
    to_rgb = (chroma * np.eye(3) + (1 - chroma) * np.outer(np.ones(3), LUMA)).astype(np.float32)  # (C)

    def added(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        for image, band in pairs:
            change = weigh(cv2.transform(band, to_rgb), weights[halvings:])
            for height, width in reversed(sizes[:halvings]):
                change = cv2.pyrUp(change, dstsize=(width, height))
            yield _sum(image, change)

    if filter == "ideal":
        bands = _ideal((change for _, change in _changes(frames, halvings)), count, fps, low, high, kept)
        images = itertools.islice(frames, kept.start, kept.stop)
        return added((image, band) for band, image in zip(bands, images, strict=True))  # all bands come before an image
    return added((_iir if filter == "iir" else _butterworth)(_changes(frames, halvings), fps, low, high, kept))


def response(filter: str, f: ArrayLike, fps: float, low: float, high: float) -> np.ndarray:
    """The temporal filter's own answer to a steady oscillation: H(f), complex; |H| the gain, its angle the lead.

    `ideal` is 1 from low to high and 0 elsewhere, which is so at the bins of a clip.

    Args:
        filter: `iir`, `ideal` or `butterworth`, as in `magnify`.
        f: frequencies in Hz, any shape, 0..fps/2.
        fps, low, high: as in `magnify`, Hz.

    Returns:
        complex128, shaped as `f`.

    Raises:
        MerError: an unknown filter, or a band that is none or is not below fps / 2.
    """
    _check_band(filter, fps, low, high)
    f = np.asarray(f, dtype=np.float64)
    if filter == "ideal":
        return ((f >= low) & (f <= high)).astype(np.complex128)
    if filter == "iir":
        z = np.exp(-2j * np.pi * f / fps)
        first, second = (r / (1 - (1 - r) * z) for r in _rates(fps, low, high))
        return first - second
    centre, width = _analogue(fps, low, high)
    s = 1j * np.tan(np.pi * f / fps)
    return width * s / (s * s + width * s + centre * centre)


def band_of_clip(count: int, fps: float, low: float, high: float) -> dict[str, float]:
    """The band moved to where the clip can have one: `low` becomes its first bin, high / low stays (D-01).

    Returns:
        {"low": …, "high": …} in Hz for `magnify`, for a clip of `count` frames at `fps`.

    Raises:
        MerError: no frame, a rate that is none, or a band that is none.
    """
    _check_numbers(fps=fps, low=low, high=high)
    if not (count > 0 and 0 < fps < math.inf and 0 < low < high < math.inf):
        raise MerError(
            f"magnify: {count} frames at {fps} fps and a band of {low}..{high} Hz; needed are a frame, a positive rate "
            "and 0 < low < high"
        )
    first = fps / count
    return {"low": first, "high": first * high / low}


# ---- space ----------------------------------------------------------------------------------------------------------


def weigh(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """S of (P): the image's bands and residual, each times its weight, put together again.

    Args:
        image: (H, W) or (H, W, 3) float32.
        weights: (n + 1,), of the bands from fine to coarse, then of the residual after n halvings.

    Returns:
        float32, shaped as `image`; the image itself where all weights are 1.

    Raises:
        MerError: an image of another shape, such as one with its channels first.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] > MOST_CHANNELS):
        raise MerError(f"weigh: image is {image.shape}; needed is (H, W) or (H, W, 3)")
    coarser = weights[1:] - weights[0]
    if not coarser.any():
        return image * np.float32(weights[0])
    change = cv2.pyrUp(weigh(cv2.pyrDown(image), coarser), dstsize=image.shape[1::-1])
    return cv2.scaleAdd(image, float(weights[0]), change) if weights[0] else change


def _sizes(shape: tuple[int, int], pyramid: str, levels: int | None) -> list[tuple[int, int]]:
    """(H, W) of G_0..G_n."""
    if pyramid not in PYRAMIDS:
        raise MerError(f"magnify: unknown pyramid {pyramid!r}; {suggestion(pyramid, PYRAMIDS)}")
    height, width = shape
    sizes = [(height, width)]
    while min(sizes[-1]) >= SMALLEST:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    most = len(sizes) - 1
    if levels is None:
        levels = most if pyramid == "laplacian" else min(most, COLOUR_LEVELS)
    if levels not in range(1, most + 1):
        raise MerError(f"magnify: levels is {levels}; frames of {tuple(shape)} px can be halved 1 to {most} times")
    return sizes[: int(levels) + 1]


def _weights(bands: int, alpha: float, lambda_c: float, pyramid: str) -> np.ndarray:
    """w_0..w_n of (A)."""
    weights = np.zeros(bands + 1)
    if pyramid == "gaussian":
        weights[-1] = alpha
    elif lambda_c == 0:
        weights[:-1] = alpha
    else:
        bound = WAVELENGTH * 2.0 ** np.arange(bands) * (1 + alpha) / lambda_c - 1
        weights[:-1] = np.clip(bound, 0, alpha)
        if bands > 1:
            weights[0] = 0
    return weights


def _changes(frames: Iterable[np.ndarray], halvings: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each frame, and frame - first frame, halved, float32: exactly 0 where nothing changes, whatever the rounding."""
    first = None
    for frame in frames:
        if first is None:
            first = np.array(frame, order="C")  # whoever reads the frames may use one buffer for all
        if frame.dtype == np.uint8:
            change = cv2.subtract(np.ascontiguousarray(frame), first, dtype=cv2.CV_32F)
        else:
            change = np.ascontiguousarray(frame - first, dtype=np.float32)
        for _ in range(halvings):
            change = cv2.pyrDown(change)
        yield frame, change


def _sum(image: np.ndarray, change: np.ndarray) -> np.ndarray:
    """image + change, rounded and clipped, of the image's type."""
    if image.dtype == np.uint8:
        return cv2.add(image, change, dtype=cv2.CV_8U)
    return np.clip(image + change, 0, 1).astype(image.dtype, copy=False)


# ---- time -----------------------------------------------------------------------------------------------------------


def _rates(fps: float, low: float, high: float) -> tuple[float, float]:
    """r of the low-passes of `iir`: that of the high edge, that of the low edge."""
    return -math.expm1(-2 * math.pi * high / fps), -math.expm1(-2 * math.pi * low / fps)


def _analogue(fps: float, low: float, high: float) -> tuple[float, float]:
    """Centre and width of the analogue band-pass whose bilinear transform has its edges at low and high."""
    below, above = math.tan(math.pi * low / fps), math.tan(math.pi * high / fps)
    return math.sqrt(below * above), above - below


def _iir(
    changes: Iterable[tuple[np.ndarray, np.ndarray]], fps: float, low: float, high: float, kept: range
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each kept frame with the band-passed change."""
    fast, slow = _rates(fps, low, high)
    for t, (frame, change) in enumerate(itertools.islice(changes, kept.stop)):
        if t == 0:
            upper, lower = np.zeros_like(change), np.zeros_like(change)  # the first frame is the state
        cv2.accumulateWeighted(change, upper, fast)
        cv2.accumulateWeighted(change, lower, slow)
        if t >= kept.start:
            yield frame, upper - lower


def _butterworth(
    changes: Iterable[tuple[np.ndarray, np.ndarray]], fps: float, low: float, high: float, kept: range
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """width s / (s^2 + width s + centre^2) by the trapezoidal rule, on the integrators' own states.

    Exactly the bilinear transform, but low bands lose no digits: the coefficients of a recursion over past outputs
    would cancel there to what float32 no longer holds.
    """
    centre, width = (np.float32(x) for x in _analogue(fps, low, high))
    share = 1 / (1 + width + centre * centre)
    for t, (frame, change) in enumerate(itertools.islice(changes, kept.stop)):
        if t == 0:
            band, rest = np.zeros_like(change), np.zeros_like(change)
        middle = share * (width * (change - rest) + band)  # of the band-pass, at this frame
        turn = (centre * centre / width) * middle
        band += 2 * (middle - band)
        rest += 2 * turn
        if t >= kept.start:
            yield frame, middle


def _ideal(
    changes: Iterable[np.ndarray], count: int, fps: float, low: float, high: float, kept: range
) -> Iterator[np.ndarray]:
    """The clip's projection on the oscillations of its bins in the band."""
    bins = _bins(count, fps, low, high)
    angles = 2 * np.pi / count * (np.arange(count)[:, None] * bins % count)
    weights = np.where(2 * bins == count, 1, 2) / count  # the bin at fps / 2 has no mirror image
    basis = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)  # (T, 2 bins)
    back = (np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * np.tile(weights, 2)).astype(np.float32)
    shape: tuple[int, ...] = ()
    parts, held = 0, []
    for t, change in enumerate(changes):
        shape = change.shape
        held.append(change.ravel())
        if len(held) == TOGETHER or t == count - 1:
            parts = parts + basis[t + 1 - len(held) : t + 1].T @ np.stack(held)
            held = []
    # The same products whatever is kept: BLAS rounds a product of other rows differently on some processors.
    for start in range(kept.start // TOGETHER * TOGETHER, kept.stop, TOGETHER):
        product = back[start : start + TOGETHER] @ parts
        yield from product[max(kept.start - start, 0) : kept.stop - start].reshape(-1, *shape)


def _bins(count: int, fps: float, low: float, high: float) -> np.ndarray:
    """k of the bins k fps / count in the band; an edge that meets a bin but for rounding holds it."""
    bins = np.arange(1, count // 2 + 1)
    at = bins * fps / count
    return bins[(at >= low * (1 - 1e-9)) & (at <= high * (1 + 1e-9))]


# ---- checks ---------------------------------------------------------------------------------------------------------


class _Alike:
    """Frames that are compared with the first one as they come."""

    def __init__(self, frames: Iterable[np.ndarray], count: int):
        self.frames, self.count = frames, count

    def __iter__(self) -> Iterator[np.ndarray]:
        shape, dtype, t = None, None, -1
        for t, frame in enumerate(itertools.islice(self.frames, self.count)):
            frame = np.asarray(frame)
            if t == 0:
                shape, dtype = frame.shape, frame.dtype
            if frame.shape != shape or frame.dtype != dtype:
                raise MerError(
                    f"magnify: frame {t} is {frame.shape} {frame.dtype}, the first {shape} {dtype}; all must be of one "
                    "shape and type"
                )
            _check_values(frame, f"frame {t} has", f"frame {t} ranges")
            yield frame
        if t + 1 < self.count:
            raise MerError(f"magnify: {t + 1} frames came where there should be {self.count}; check what reads them")


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim == 3 and 0 < frames.shape[-1] <= MOST_CHANNELS:
        raise MerError(f"magnify: frames are {frames.shape}: one picture; needed is (T, H, W, 3) RGB")
    if frames.ndim == 3 or (frames.ndim == 4 and frames.shape[-1] == 1):
        raise MerError(
            f"magnify: frames are grey, {frames.shape}; needed is (T, H, W, 3) RGB: repeat the grey channel three times"
        )
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise MerError(f"magnify: frames are {frames.shape}; needed is (T, H, W, 3) RGB")
    if min(frames.shape[1:3]) < SMALLEST:
        raise MerError(f"magnify: frames are {frames.shape}; needed are sides of at least {SMALLEST} px")
    if len(frames) < SHORTEST:
        raise MerError(_too_short(len(frames)))
    _check_values(frames, "frames have", "float frames range")


def _too_short(count: int) -> str:
    return f"magnify: a clip of {count} frames; needed are at least {SHORTEST}: read more frames around it"


def _check_values(frames: np.ndarray, have: str, span: str) -> None:
    if frames.dtype == np.uint8:
        return
    if frames.dtype.kind != "f":
        raise MerError(
            f"magnify: frames are {frames.dtype}; needed is uint8 (0..255) or float (0..1): scale them to one of these"
        )
    least, most = float(frames.min()), float(frames.max())
    if not math.isfinite(least + most):
        raise MerError(f"magnify: {have} values that are not finite; check the frames for NaN")
    if least < 0 or most > 1:
        raise MerError(f"magnify: {span} over {least:g}..{most:g}; needed is 0..1: scale or clip them, or give uint8")


def _check_parameters(
    count: int, fps: float, alpha: float, low: float, high: float, filter: str, lambda_c: float, chroma: float
) -> None:
    _check_numbers(alpha=alpha, lambda_c=lambda_c, chroma=chroma)
    if not 0 <= alpha < math.inf:
        raise MerError(f"magnify: alpha is {alpha}; needed is 0 (as it is) or a positive number")
    if not 0 <= lambda_c < math.inf:
        raise MerError(f"magnify: lambda_c is {lambda_c}; needed is a wavelength in px, or 0 for none")
    if not 0 <= chroma <= 1:
        raise MerError(f"magnify: chroma is {chroma}; needed is 0 (brightness alone) to 1 (colour alike)")
    _check_band(filter, fps, low, high, count)
    if filter == "ideal" and not len(_bins(count, fps, low, high)):
        raise MerError(
            f"magnify: the band {low:g}..{high:g} Hz holds no bin of the FFT: {_duration(count, fps)}, the others are "
            "its multiples; give filter='iir', which runs on short clips, or a longer recording with keep=slice(...)"
        )


def _check_band(filter: str, fps: float, low: float, high: float, count: int | None = None) -> None:
    if filter not in FILTERS:
        raise MerError(f"magnify: unknown filter {filter!r}; {suggestion(filter, FILTERS)}")
    _check_numbers(fps=fps, low=low, high=high)
    if not 0 < fps < math.inf:
        raise MerError(f"magnify: fps is {fps}; needed is the positive number of frames per second")
    if not 0 < low < high < math.inf:
        raise MerError(f"magnify: the band is {low}..{high} Hz; needed is 0 < low < high")
    if high > fps / 2 or (filter == "butterworth" and high == fps / 2):
        raise MerError(
            f"magnify: the band {low:g}..{high:g} Hz is not below fps/2 = {fps / 2:g} Hz"
            f"{f': {_duration(count, fps)}' if count else ''}; give a lower band, or as fps the rate at which the "
            "frames were recorded"
        )


def _check_numbers(**values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, numbers.Real):
            raise MerError(f"magnify: {name} is {value!r}; needed is a number")


def _duration(count: int, fps: float) -> str:
    return f"the clip lasts {count / fps:.4g} s ({count} frames at {fps:g} fps), its first bin is {fps / count:.4g} Hz"


def _kept(count: int, keep: slice | None) -> range:
    if keep is None:
        return range(count)
    kept = range(count)[keep] if isinstance(keep, slice) else range(0)
    if not len(kept) or kept.step != 1:
        raise MerError(
            f"magnify: keep is {keep}; needed is slice(first, end) of frames that follow each other, within 0..{count}"
        )
    return kept
