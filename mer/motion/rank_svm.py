"""RankSVM on all pairs of frames in time (MSMMT eq. 4), exact: to a proven distance from the minimum.

The minimiser d of c/2 |d|^2 + the mean over all pairs of max(0, 1 - <d, phi_l> + <d, phi_t>). Only the inner products
of the phi_t are needed. Clips of up to SHORT frames are solved here, by an interior-point method; longer ones by
mer.motion.rank_svm_long.

T frames, P = T (T - 1) / 2 pairs (t, l) with l > t, r rank of phi. phi (T, D), z = phi_l - phi_t of a pair.
"""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from mer.errors import MerError
from mer.motion import rank_svm_long

# The longest clip of CASME II has 141. The other method is faster from some 100 frames on. It stops at another point
# within the tolerance, though, which differs by a grey level in some pixels of the picture.
SHORT = 150


@dataclasses.dataclass(frozen=True)
class RankSvm:
    """The minimiser of MSMMT eq. 4, d = sum_t beta_t phi_t, and how near it is proven to be."""

    beta: np.ndarray  # (T,) float64; sums to 0
    objective: float  # eq. 4 at d; 0..1, as d = 0 has 1
    gap: float  # (objective - a lower bound of the minimum) / objective
    iterations: int


def solve_rank_svm(gram: np.ndarray, c: float = 1.0, *, tol: float = 1e-6, max_iter: int = 200) -> RankSvm:
    """RankSVM on all pairs (MSMMT eq. 4), from the inner products of the running means alone.

    Up to SHORT frames it is an interior-point method (Mehrotra's predictor and corrector). The pairs enter its Newton
    step as sums over intervals of time, so one step takes O(T^3) however large P and D are. Besides d it keeps a point
    a of the dual problem, max sum_p a_p - |sum_p a_p z_p|^2 / (2c) over 0 <= a_p <= 1/P, whose value is a lower bound
    of the minimum: the gap between eq. 4 at d and that bound is what it stops on. Longer clips have another method
    with the same bound; it holds five to six (T, T) matrices.

    Args:
        gram: (T, T) float, inner products of phi_1..phi_T; a shift of all phi changes nothing.
        c: weight of |d|^2, > 0.
        tol: relative duality gap to reach, > 0.
        max_iter: Newton steps; 10 to 50 are usual.

    Raises:
        MerError: not square, not finite, c or tol not positive or too small, tol not reached.
    """
    gram = np.asarray(gram, dtype=np.float64)
    check_c("solve_rank_svm", c)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.size:
        raise MerError(f"solve_rank_svm: gram is {gram.shape}; needed is (T, T) with T > 0")
    if not np.isfinite(gram).all():
        raise MerError("solve_rank_svm: gram is not finite; check the features for NaN")
    if not tol > 0:
        raise MerError(f"solve_rank_svm: tol is {tol}; it must be > 0")
    # The problem in steps of the running mean, phi_{t+1} - phi_t: a pair is the sum of the steps between its two. With
    # c inside the Gram matrix no constant is left.
    steps = np.diff(np.diff(gram, axis=0), axis=1)  # (T-1, T-1)
    frames = len(gram)
    if np.abs(steps).max(initial=0.0) > 1e20 * c:
        raise MerError(f"solve_rank_svm: c is {c}, too small for features of this size; give a larger one")
    steps /= c
    if not steps.any():
        return RankSvm(np.zeros(frames), float(frames > 1), 0.0, 0)
    if frames > SHORT:
        rises, objective, gap, iterations = rank_svm_long.solve(steps, tol, max_iter)
        best = RankSvm(-np.diff(rises, prepend=0.0, append=0.0), objective, gap, iterations)
    else:
        best = _solve(steps, _Pairs(frames), tol, max_iter)
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
    # d = 0, and duals with a * spare = b * short for all pairs; the steps bring d and a into agreement.
    v = np.zeros(len(root))
    a, b = np.full(pairs.count, top * 2 / 3), np.full(pairs.count, top / 3)
    spare, short = np.ones(pairs.count), np.full(pairs.count, 2.0)
    best, best_v, bound = np.inf, v, -np.inf
    for iteration in range(max_iter + 1):
        margins = pairs.margins(factor @ v)
        dual_residual = factor.T @ pairs.over_steps(a) - v
        objective, scale = _primal(v, margins)
        if objective < best:
            best, best_v = objective, scale * v
        bound = max(bound, a.sum() - (v + dual_residual) @ (v + dual_residual) / 2)
        if best - bound <= tol * best or iteration == max_iter:
            break
        primal_residual = spare - short + 1 - margins
        try:
            newton = _Newton(factor, pairs, (a, b, spare, short), dual_residual, primal_residual)
        except np.linalg.LinAlgError:  # rounding ends the method here; the gap decides whether that is good enough
            break
        # Mehrotra: the length of the step straight at the solution decides how much of it to take, and the product of
        # its parts is the curvature of the path.
        _, d_a, d_spare, d_short = newton.step(-a * spare, -b * short)
        length = newton.longest(d_a, d_spare, d_short)
        predicted = (a + length * d_a) @ (spare + length * d_spare) + (b - length * d_a) @ (short + length * d_short)
        current = _products((v, a, b, spare, short))
        target = current / (2 * pairs.count) * (predicted / current) ** 3
        step = newton.step(target - a * spare - d_a * d_spare, target - b * short + d_a * d_short)
        moved = _moved((v, a, b, spare, short), step, newton.longest(*step[1:]))
        if _products(moved) > current / 2:
            # Where the products differ much that curvature is wrong, and steps along it may cycle. So straight to
            # where all products are equal and half as large.
            equal = current / (4 * pairs.count)
            step = newton.step(equal - a * spare, equal - b * short)
            moved = _moved((v, a, b, spare, short), step, newton.longest(*step[1:]))
        v, a, b, spare, short = moved
    beta = np.diff(vectors[:, kept] @ (best_v / root), prepend=0.0, append=0.0)
    return RankSvm(-beta, float(best), float((best - bound) / best), iteration)


def _moved(point: Sequence[np.ndarray], step: Sequence[np.ndarray], longest: float) -> tuple[np.ndarray, ...]:
    """(v, a, b, spare, short) after a step, all but v still positive."""
    (v, a, b, spare, short), (d_v, d_a, d_spare, d_short) = point, step
    length = min(1.0, 0.995 * longest)
    return v + length * d_v, a + length * d_a, b - length * d_a, spare + length * d_spare, short + length * d_short


def _products(point: Sequence[np.ndarray]) -> float:
    """a * spare + b * short over all pairs: what the method brings to 0."""
    _, a, b, spare, short = point
    return a @ spare + b @ short


class _Newton:
    """Steps from an iterate of `_solve` that would remove its `dual_residual` and `primal_residual`."""

    def __init__(
        self,
        factor: np.ndarray,
        pairs: _Pairs,
        iterate: Sequence[np.ndarray],
        dual_residual: np.ndarray,
        primal_residual: np.ndarray,
    ):
        self.factor, self.pairs = factor, pairs
        self.dual_residual, self.primal_residual = dual_residual, primal_residual
        self.a, self.b, self.spare, self.short = iterate
        self.weight = 1 / (self.spare / self.a + self.short / self.b)
        # I + sum_p weight_p z_p z_p^T; a multiple of the machine epsilon keeps it positive definite under
        # rounding; the next step's dual_residual holds the error.
        matrix = factor.T @ pairs.over_step_pairs(self.weight) @ factor
        matrix[np.diag_indices(len(matrix))] += 1 + np.finfo(float).eps * np.trace(matrix)
        self.inverse = np.linalg.inv(np.linalg.cholesky(matrix))  # of the lower triangle

    def step(self, to_spare: np.ndarray, to_short: np.ndarray) -> tuple[np.ndarray, ...]:
        """(d_v, d_a, d_spare, d_short) that moves a * spare by to_spare and b * short by to_short, to first order."""
        wanted = to_spare / self.a - to_short / self.b + self.primal_residual
        slope = self.factor.T @ self.pairs.over_steps(self.weight * wanted) + self.dual_residual
        d_v = self.inverse.T @ (self.inverse @ slope)
        d_a = self.weight * (wanted - self.pairs.margins(self.factor @ d_v))
        return d_v, d_a, (to_spare - self.spare * d_a) / self.a, (to_short + self.short * d_a) / self.b

    def longest(self, d_a: np.ndarray, d_spare: np.ndarray, d_short: np.ndarray) -> float:
        """0..1: the longest part of a step along which a, b, spare and short stay positive."""
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


def check_c(who: str, c: Any) -> None:
    """Raise MerError unless c is a finite number above 0; `who` begins the message."""
    if not isinstance(c, numbers.Real) or not 0 < float(c) < np.inf:
        raise MerError(f"{who}: c is {c}; it must be a number > 0")
