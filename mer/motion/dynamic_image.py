"""Dynamic image: a whole clip as one picture, by rank pooling (MSMMT eqs. 1-4; fidelity S-10).

The picture is the vector d that puts the frames in order: the score <d, phi_t> of the running mean phi_t rises with t.

T frames, D values in a frame, pairs (t, l) with l > t. x (T, D) frames, phi (T, D) their running means.
"""

from collections.abc import Iterator

import numpy as np

from mer.errors import MerError, suggestion
from mer.motion.rank_svm import check_c, solve_rank_svm
from mer.shapes import MOST_CHANNELS

SOLVERS = ("ranksvm_pairs", "approximate")
COLUMNS = 2048  # of the features that are float64 at a time: 2.3 MB for 141 frames


# ---- features -------------------------------------------------------------------------------------------------


def rank_pool(features: np.ndarray, c: float = 1.0, *, tol: float = 1e-6) -> np.ndarray:
    """The vector that ranks the running means of the rows in time: the minimiser d of MSMMT eq. 4 (fidelity S-10).

    c/2 |d|^2 + 2 / (T (T - 1)) sum_{l > t} max(0, 1 - <d, phi_l> + <d, phi_t>), phi_t the mean of the first t rows.
    Features s times as large with c s^2 give d / s. One row makes no pair, equal rows no order: both give d = 0.
    Beside its input it needs O(T^2 + D) memory: some 400 MB for 3,000 frames, and a minute of one core or less.

    Args:
        features: (T, D) uint8 or float, finite, any range.
        c: weight of |d|^2 against the mean hinge loss of the pairs, > 0.
        tol: relative duality gap to reach.

    Returns:
        (D,) float64, per unit of the features.

    Raises:
        MerError: no row, not (T, D), another dtype, a value that is not finite, c or tol not positive or too small, tol
            not reached.
    """
    features = np.asarray(features)
    check_c("rank_pool", c)
    if features.ndim != 2 or 0 in features.shape:
        raise MerError(f"rank_pool: features are {features.shape}; needed is (T, D) with T and D > 0")
    _check_dtype("rank_pool", features)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = _gram(features)
    if not np.isfinite(gram).all():
        raise MerError("rank_pool: a feature is not finite, or too large to square; check the frames for NaN")
    seen = np.arange(1, len(features) + 1)
    for axis, count in ((0, seen[:, None]), (1, seen)):  # of the means; in place, since 3,000 frames have 72 MB of it
        np.cumsum(gram, axis=axis, out=gram)
        gram /= count
    beta = solve_rank_svm(gram, c, tol=tol).beta
    return _weighted_sum(np.cumsum((beta / seen)[::-1])[::-1], features)


def approximate_weights(frames: int) -> np.ndarray:
    """Weights of the frames in approximate rank pooling (Bilen et al. 2016; fidelity S-10).

    One gradient step of eq. 4 from d = 0, where every pair violates, goes along sum_{l > t} (phi_l - phi_t). In it
    phi_t stands t - 1 times as the later and T - t times as the earlier: sum_t (2t - T - 1) phi_t. Frame tau is in
    each phi_t with t >= tau, with 1/t, hence

    alpha_tau = sum_{t >= tau} (2t - T - 1) / t = 2 (T - tau + 1) - (T + 1) (H_T - H_{tau - 1}),

    H_n = 1 + 1/2 + ... + 1/n, H_0 = 0.

    Args:
        frames: T, at least 1.

    Returns:
        (T,) float64, summing to 0.

    Raises:
        MerError: T below 1.
    """
    if frames < 1:
        raise MerError(f"approximate_weights: {frames} frames; needed is at least 1")
    t = np.arange(1, frames + 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / t)])
    return 2.0 * (frames - t + 1) - (frames + 1) * (harmonic[-1] - harmonic[:-1])


def _gram(features: np.ndarray) -> np.ndarray:
    """(T, T) float64, inner products of the rows less the first row.

    A row subtracted from all leaves the pairs as they are. Of uint8 every product is then an integer below 2^53 and the
    matrix exact, and slow motion over a bright picture loses no digits.
    """
    gram = np.zeros((len(features), len(features)))
    for block in _blocks(features, np.float32 if features.dtype == np.uint8 else np.float64):
        # In float32 it takes half the time. Sums of integers are exact there while all of their parts are below 2^24.
        if block.dtype == np.float32 and np.einsum("td,td->t", block, block).max() >= 2**24:
            block = block.astype(np.float64)
        gram += block @ block.T
    return gram


def _blocks(features: np.ndarray, dtype: type = np.float64) -> Iterator[np.ndarray]:
    """The features less their first row, (T, COLUMNS) at a time."""
    for start in range(0, features.shape[1], COLUMNS):
        block: np.ndarray = features[:, start : start + COLUMNS].astype(dtype)
        yield np.subtract(block, block[0].copy(), out=block)


def _weighted_sum(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """sum_t weights_t x_t, (D,), for weights that sum to 0."""
    return np.concatenate([weights @ block for block in _blocks(features)])


# ---- picture --------------------------------------------------------------------------------------------------


def dynamic_image(frames: np.ndarray, *, solver: str = "ranksvm_pairs", c: float = 1.0) -> np.ndarray:
    """The clip as one picture: rank-pooled raw RGB values, scaled to 0..255 (MSMMT section 3.1; fidelity S-10).

    All channels are scaled together, the smallest value of the picture to 0 and the largest to 255, and rounded. A clip
    of one frame or of equal frames has no order in time; its picture is 128 everywhere.

    Args:
        frames: (T, H, W, 3) RGB or (T, H, W) grey, uint8, or float 0..1. Grey is read as three equal channels.
        solver: `ranksvm_pairs`, the minimiser of MSMMT eq. 4, or `approximate`, fixed weights of the frames.
        c: weight of |d|^2 in eq. 4 for values 0..255, > 0; `approximate` does not use it.

    Returns:
        (H, W, 3) uint8.

    Raises:
        MerError: no frame, one picture, another shape, dtype or range, an unknown solver, c not positive or too small.
    """
    frames = np.asarray(frames)
    if solver not in SOLVERS:
        raise MerError(f"dynamic_image: unknown solver {solver!r}; {suggestion(solver, SOLVERS)}")
    check_c("dynamic_image", c)
    if frames.ndim == 3 and 0 < frames.shape[-1] <= MOST_CHANNELS:
        raise MerError(f"dynamic_image: clip is {frames.shape}: one picture; needed is (T, H, W, 3) or (T, H, W)")
    colour = frames.ndim == 4 and frames.shape[-1] == 3
    if not (colour or frames.ndim == 3) or 0 in frames.shape:
        raise MerError(f"dynamic_image: clip is {frames.shape}; needed is (T, H, W, 3) or (T, H, W), none of them 0")
    _check_dtype("dynamic_image", frames)
    if frames.dtype != np.uint8:
        low, high = frames.min(), frames.max()
        if not (low >= 0 and high <= 1):  # so that NaN fails too
            raise MerError(f"dynamic_image: float frames range over {low:g}..{high:g}; needed is 0..1, without NaN")
    features = frames.reshape(len(frames), -1)
    if solver == "approximate":
        d = _weighted_sum(approximate_weights(len(frames)), features)
    else:
        # Values s times as large with c s^2 give the same picture, and so do k copies of each with c k.
        unit = 1 if frames.dtype == np.uint8 else 255**2
        d = rank_pool(features, c / unit / (1 if colour else 3))
    picture = _to_uint8(d).reshape(frames.shape[1:])
    return picture if colour else np.repeat(picture[..., None], 3, axis=-1)


def _to_uint8(d: np.ndarray) -> np.ndarray:
    low, spread = d.min(), np.ptp(d)
    # A clip that only gets brighter has d the same everywhere but for rounding, which must not fill the range.
    if spread <= 1e-9 * np.abs(d).max():
        return np.full(d.shape, 128, dtype=np.uint8)
    return np.rint((d - low) * (255 / spread)).astype(np.uint8)


def _check_dtype(who: str, values: np.ndarray) -> None:
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise MerError(f"{who}: dtype is {values.dtype}; needed is uint8 or float")
