"""Dynamic image: a whole clip as one picture, by rank pooling (MSMMT eqs. 1-4; fidelity S-10).

The picture is the vector d that puts the frames in order: the score <d, phi_t> of the running mean phi_t rises with t.

T frames, D values in a frame, r rank of the running means, P = T (T - 1) / 2 pairs (t, l) with l > t.
x (T, D) frames, phi (T, D) their running means, z = phi_l - phi_t of a pair.
"""

import dataclasses

import numpy as np

from mer.errors import MerError, suggestion

SOLVERS = ("ranksvm_pairs", "approximate")
COLUMNS = 2048  # of the features that are float64 at a time: 2.3 MB for 141 frames


@dataclasses.dataclass(frozen=True)
class RankSvm:
    """The minimiser of MSMMT eq. 4, d = sum_t beta_t phi_t, and how near it is proven to be."""

    beta: np.ndarray  # (T,) float64; sums to 0
    objective: float  # eq. 4 at d; 0..1, as d = 0 has 1
    gap: float  # (objective - a lower bound of the minimum) / objective
    iterations: int


# ---- features -------------------------------------------------------------------------------------------------


def rank_pool(features: np.ndarray, c: float = 1.0, *, tol: float = 1e-6) -> np.ndarray:
    """The vector that ranks the running means of the rows in time: the minimiser d of MSMMT eq. 4 (fidelity S-10).

    c/2 |d|^2 + 2 / (T (T - 1)) sum_{l > t} max(0, 1 - <d, phi_l> + <d, phi_t>), phi_t the mean of the first t rows.
    Features s times as large with c s^2 give d / s. One row makes no pair, equal rows no order: both give d = 0.
    Beside its input it needs O(T^2 + D) memory.

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
    _check_c("rank_pool", c)
    if features.ndim != 2 or 0 in features.shape:
        raise MerError(f"rank_pool: features are {features.shape}; needed is (T, D) with T and D > 0")
    _check_dtype("rank_pool", features)
    means = np.tril(np.ones((len(features),) * 2)) / np.arange(1, len(features) + 1)[:, None]
    # A frame subtracted from all leaves the pairs as they are. Of uint8 frames every product is then an integer below
    # 2^53 and the Gram matrix exact, and slow motion over a bright picture loses no digits.
    with np.errstate(over="ignore", invalid="ignore"):
        gram = sum(block @ block.T for block in _blocks(features))
    if not np.isfinite(gram).all():
        raise MerError("rank_pool: a feature is not finite, or too large to square; check the frames for NaN")
    svm = solve_rank_svm(means @ gram @ means.T, c, tol=tol)
    return _weighted_sum(svm.beta @ means, features)


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


def _blocks(features: np.ndarray):
    """The features less their first row, (T, COLUMNS) float64 at a time."""
    for start in range(0, features.shape[1], COLUMNS):
        block = features[:, start : start + COLUMNS].astype(np.float64)
        yield np.subtract(block, block[0].copy(), out=block)


def _weighted_sum(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """sum_t weights_t x_t, (D,), for weights that sum to 0."""
    return np.concatenate([weights @ block for block in _blocks(features)])


# ---- solver ---------------------------------------------------------------------------------------------------


def solve_rank_svm(gram: np.ndarray, c: float = 1.0, *, tol: float = 1e-6, max_iter: int = 200) -> RankSvm:
    """RankSVM on all pairs (MSMMT eq. 4), from the inner products of the running means alone.

    An interior-point method (Mehrotra's predictor and corrector). The pairs enter its Newton step as sums over
    intervals of time, so one step takes O(T^3) however large P and D are. Next to d it keeps a point a of the dual
    problem, max sum_p a_p - |sum_p a_p z_p|^2 / (2c) over 0 <= a_p <= 1/P, whose value is a lower bound of the minimum:
    the gap between eq. 4 at d and that bound is what it stops on.

    Args:
        gram: (T, T) float, inner products of phi_1..phi_T; a shift of all phi changes nothing.
        c: weight of |d|^2, > 0.
        tol: relative duality gap to reach, > 0.
        max_iter: Newton steps; 10 to 50 are usual.

    Raises:
        MerError: not square, not finite, c or tol not positive or too small, tol not reached.
    """
    gram = np.asarray(gram, dtype=np.float64)
    _check_c("solve_rank_svm", c)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.size:
        raise MerError(f"solve_rank_svm: gram is {gram.shape}; needed is (T, T) with T > 0")
    if not np.isfinite(gram).all():
        raise MerError("solve_rank_svm: gram is not finite; check the features for NaN")
    if not tol > 0:
        raise MerError(f"solve_rank_svm: tol is {tol}; it must be > 0")
    # The problem in steps of the running mean, phi_{t+1} - phi_t: a pair is the sum of the steps between its two. With
    # c inside the Gram matrix no constant is left.
    steps = np.diff(np.diff(gram, axis=0), axis=1)  # (T-1, T-1)
    if np.abs(steps).max(initial=0.0) > 1e20 * c:
        raise MerError(f"solve_rank_svm: c is {c}, too small for features of this size; give a larger one")
    steps /= c
    if not steps.any():
        return RankSvm(np.zeros(len(gram)), float(len(gram) > 1), 0.0, 0)
    pairs = _Pairs(len(gram))
    best = _solve(steps, pairs, tol, max_iter)
    if best.gap > tol:
        raise MerError(
            f"solve_rank_svm: relative gap {best.gap:.1e} after {best.iterations} steps, tol is {tol:.1e}; "
            "give a larger c or a larger tol"
        )
    return dataclasses.replace(best, beta=best.beta / c)


class _Pairs:
    """Sums over all pairs t < l, as vectors (P,) in the order of the upper triangle of a (T, T) matrix."""

    def __init__(self, frames: int):
        self.frames = frames
        self.upper = np.flatnonzero(np.triu(np.ones((frames, frames), dtype=bool), 1))
        self.count = len(self.upper)

    def _matrix(self, values: np.ndarray) -> np.ndarray:
        out = np.zeros(self.frames**2)
        out[self.upper] = values
        return out.reshape(self.frames, self.frames)

    def margins(self, rises: np.ndarray) -> np.ndarray:
        """score_l - score_t (P,), of the rise of the score at each step (T-1,)."""
        scores = np.concatenate([[0.0], np.cumsum(rises)])
        return (scores[None, :] - scores[:, None]).ravel()[self.upper]

    def over_frames(self, values: np.ndarray) -> np.ndarray:
        """sum_p values_p (e_l - e_t), (T,)."""
        matrix = self._matrix(values)
        return matrix.sum(axis=0) - matrix.sum(axis=1)

    def over_steps(self, values: np.ndarray) -> np.ndarray:
        """At each step the sum over the pairs that span it, (T-1,)."""
        return -np.cumsum(self.over_frames(values))[:-1]

    def over_step_pairs(self, values: np.ndarray) -> np.ndarray:
        """At each two steps the sum over the pairs that span both, (T-1, T-1)."""
        sums = self._matrix(values)[:-1, 1:].cumsum(axis=0)[:, ::-1].cumsum(axis=1)[:, ::-1]
        return np.triu(sums) + np.triu(sums, 1).T


def _solve(steps: np.ndarray, pairs: _Pairs, tol: float, max_iter: int) -> RankSvm:
    """The best of up to max_iter interior-point iterates, with beta for c = 1.

    min |v|^2 / 2 + top sum(short) over v, short >= 0 and spare >= 0, with margin_p(v) = 1 - short_p + spare_p for each
    pair; a >= 0 is the multiplier of spare and b = top - a >= 0 that of short.
    """
    values, vectors = np.linalg.eigh(steps)
    kept = values > values[-1] * len(values) * np.finfo(float).eps
    root = np.sqrt(values[kept])
    factor = vectors[:, kept] * root  # (T-1, r): steps = factor factor^T, so |v| is |d|, margins those of factor v
    top = 1 / pairs.count
    # d = 0, and duals with a * spare = b * short for all pairs; d and a come to agree on the way.
    v = np.zeros(len(root))
    a, b = np.full(pairs.count, top * 2 / 3), np.full(pairs.count, top / 3)
    spare, short = np.ones(pairs.count), np.full(pairs.count, 2.0)
    best, best_v, bound = np.inf, v, -np.inf
    for iteration in range(max_iter + 1):
        margins = pairs.margins(factor @ v)
        apart = factor.T @ pairs.over_steps(a) - v
        objective, scale = _primal(v, margins)
        if objective < best:
            best, best_v = objective, scale * v
        bound = max(bound, a.sum() - (v + apart) @ (v + apart) / 2)
        if best - bound <= tol * best or iteration == max_iter:
            break
        residual = spare - short + 1 - margins
        try:
            newton = _Newton(factor, pairs, (a, b, spare, short), apart, residual)
        except np.linalg.LinAlgError:  # rounding has the last word; the gap tells whether that is good enough
            break
        # Mehrotra: how far a step straight at the solution gets tells how much of it to take, and the product of its
        # parts how the path bends.
        _, d_a, d_spare, d_short = newton.step(-a * spare, -b * short)
        far = newton.room(d_a, d_spare, d_short)
        ahead = (a + far * d_a) @ (spare + far * d_spare) + (b - far * d_a) @ (short + far * d_short)
        now = _products((v, a, b, spare, short))
        goal = now / (2 * pairs.count) * (ahead / now) ** 3
        step = newton.step(goal - a * spare - d_a * d_spare, goal - b * short + d_a * d_short)
        after = _moved((v, a, b, spare, short), step, newton.room(*step[1:]))
        if _products(after) > now / 2:
            # Where the products are far apart the bend foretold is wrong, and following it may circle for ever. So
            # straight to where all of them are equal and half as large.
            goal = now / (4 * pairs.count)
            step = newton.step(goal - a * spare, goal - b * short)
            after = _moved((v, a, b, spare, short), step, newton.room(*step[1:]))
        v, a, b, spare, short = after
    beta = np.diff(vectors[:, kept] @ (best_v / root), prepend=0.0, append=0.0)
    return RankSvm(-beta, float(best), float((best - bound) / best), iteration)


def _moved(point, step, room: float):
    """(v, a, b, spare, short) after a step, all but v still positive."""
    (v, a, b, spare, short), (d_v, d_a, d_spare, d_short) = point, step
    far = min(1.0, 0.995 * room)
    return v + far * d_v, a + far * d_a, b - far * d_a, spare + far * d_spare, short + far * d_short


def _products(point) -> float:
    """a * spare + b * short over all pairs: what the method brings to 0."""
    _, a, b, spare, short = point
    return a @ spare + b @ short


class _Newton:
    """Steps from an iterate of `_solve` that would remove its `apart` and `residual`."""

    def __init__(self, factor, pairs, iterate, apart, residual):
        self.factor, self.pairs, self.apart, self.residual = factor, pairs, apart, residual
        self.a, self.b, self.spare, self.short = iterate
        self.weight = 1 / (self.spare / self.a + self.short / self.b)
        # I + sum_p weight_p z_p z_p^T; the little more keeps it positive definite under rounding, and what that costs
        # in a step stands in the next one's apart.
        matrix = factor.T @ pairs.over_step_pairs(self.weight) @ factor
        matrix[np.diag_indices(len(matrix))] += 1 + np.finfo(float).eps * np.trace(matrix)
        self.inverse = np.linalg.inv(np.linalg.cholesky(matrix))  # of the lower triangle

    def step(self, to_spare, to_short):
        """(d_v, d_a, d_spare, d_short) that moves a * spare by to_spare and b * short by to_short, to first order."""
        wanted = to_spare / self.a - to_short / self.b + self.residual
        slope = self.factor.T @ self.pairs.over_steps(self.weight * wanted) + self.apart
        d_v = self.inverse.T @ (self.inverse @ slope)
        d_a = self.weight * (wanted - self.pairs.margins(self.factor @ d_v))
        return d_v, d_a, (to_spare - self.spare * d_a) / self.a, (to_short + self.short * d_a) / self.b

    def room(self, d_a, d_spare, d_short):
        """0..1: how far along a step a, b, spare and short stay positive."""
        rates = (d_a / self.a, -d_a / self.b, d_spare / self.spare, d_short / self.short)
        return 1 / max(1.0, *(-rate.min() for rate in rates))


def _primal(v: np.ndarray, margins: np.ndarray) -> tuple[float, float]:
    """Eq. 4 at v, or at v stretched where that is less, and the stretch.

    Where all pairs can have their margin, the loss at v is rounding, and that may exceed |v|^2: stretched, it is 0.
    """
    square, low = v @ v / 2, margins.min()
    objective, stretch = square + np.maximum(0, 1 - margins).mean(), 1.0
    if low > 0.5 and square * ((1 + 1e-9) / low) ** 2 < objective:
        stretch = (1 + 1e-9) / low
        objective = square * stretch**2
    return objective, stretch


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
        MerError: no frame, another shape, dtype or range, an unknown solver, c not positive or too small.
    """
    frames = np.asarray(frames)
    if solver not in SOLVERS:
        raise MerError(f"dynamic_image: unknown solver {solver!r}; {suggestion(solver, SOLVERS)}")
    _check_c("dynamic_image", c)
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


def _check_c(who: str, c: float) -> None:
    if not 0 < c < np.inf:
        raise MerError(f"{who}: c is {c}; it must be a number > 0")


def _check_dtype(who: str, values: np.ndarray) -> None:
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise MerError(f"{who}: dtype is {values.dtype}; needed is uint8 or float")
