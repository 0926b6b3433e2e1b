"""RankSVM on all pairs of frames of a long clip: Newton's method on a smoothed loss.

The interior-point method of mer.motion.rank_svm keeps several numbers a pair, and takes more steps the longer the clip
is; 3,000 frames have 4.5 million pairs. Here nothing is kept of a pair. With x = 1 - margin, its loss max(0, x) becomes

    (h)   h(x) = (x + sqrt(x^2 + 4 mu^2)) / 2,      max(0, x) <= h(x) <= max(0, x) + mu

and Newton's method goes on from one mu to a tenth of it; 10 to 50 steps are usual. The slopes h' lie in 0..1, as the
dual variables of the pairs do. After a Newton step they are h' - h'' (change of the margin): cut to 0..1, these are the
point of the dual problem that tells how near the minimum is.

In one step the pairs are gone through three times or more, ROWS frames against all later ones, and one matrix is
factorised. Unknown is v, where d = sum_t y_t (phi_{t+1} - phi_t), F F^T are the inner products of those steps, and
v = F^T y: so |v| is |d|, and F v is by how much the score rises at each step.

T frames, P = T (T - 1) / 2 pairs (t, l) with l > t, r rank of the steps. F (T-1, r), v (r,), scores (T,).
"""

from collections.abc import Iterator

import numpy as np
import scipy.linalg

ROWS = 64  # frames whose pairs are at work at a time: 1.5 MB an array for 3,000 frames
FIRST = 0.25  # mu of the first step, per unit of a margin
SINGULAR = 1e-8  # squared share of a step that those before it leave; below, inverses have too few digits
SHORTEST = 1e-3  # of a Newton step; where that does not help, rounding is all that is left


def solve(steps: np.ndarray, tol: float, max_iter: int) -> tuple[np.ndarray, float, float, int]:
    """The minimiser of MSMMT eq. 4 for c = 1.

    Args:
        steps: (T-1, T-1), inner products of the steps phi_{t+1} - phi_t of the running mean; not all are 0.
        tol: relative duality gap to reach.
        max_iter: Newton steps at most.

    Returns:
        y (T-1,) with d = sum_t y_t (phi_{t+1} - phi_t); eq. 4 at d; the relative gap reached; the number of steps.
    """
    frames = len(steps) + 1
    system = _system(steps)
    # Where all pairs violate, y is the share of the pairs that span a step. It is scaled down to a mean margin of 1.
    t = np.arange(1, frames)
    v = system.back(t * (frames - t) * (2 / (frames * (frames - 1))))
    v /= max(1.0, v @ v)
    mu, taken, best, best_v, bound = FIRST, 0, np.inf, v, -np.inf
    for iteration in range(max_iter + 1):
        scores = _sums(system.rises(v))
        loss, smooth, slopes = _loss(scores, mu, system.begin())
        square = v @ v / 2
        if square + loss < best:
            best, best_v = square + loss, v
        residual = system.back(_over_steps(slopes)) - v
        try:
            d_v = system.solve(residual)
        except np.linalg.LinAlgError:  # rounding ends the method here; the gap decides whether that is good enough
            break
        d_scores = _sums(system.rises(d_v))
        dual_sum, dual_slopes = _dual(scores, d_scores, mu)
        dual = system.back(_over_steps(dual_slopes))
        bound = max(bound, dual_sum - dual @ dual / 2)
        if best - bound <= tol * best or iteration == max_iter:
            break
        decrease, length = residual @ d_v, 1.0  # per unit of length, at the start of the step
        while length > SHORTEST:
            moved = v + length * d_v
            energy = moved @ moved / 2 + _smooth_loss(scores + length * d_scores, mu)
            if energy <= square + smooth - 1e-4 * length * decrease:
                break
            length /= 2
        else:  # rounding, too
            break
        v, taken = moved, taken + 1
        # Where Newton's method already converges, the next step is better made with less smoothing.
        if length == 1 and decrease < (smooth - loss) / 2:
            mu, taken = mu / (10 if taken <= 4 else 3), 0
    return system.weights(best_v), float(best), float((best - bound) / best), iteration


def _sums(rises: np.ndarray) -> np.ndarray:
    """The scores (T,) of their rises (T-1,); that of the first frame is 0."""
    return np.append(0.0, np.cumsum(rises))


def _over_steps(values: np.ndarray) -> np.ndarray:
    """Of sum_p a_p (e_l - e_t) (T,), at each step the sum of a_p over the pairs that span it (T-1,)."""
    return -np.cumsum(values)[:-1]


# ---- one Newton step ------------------------------------------------------------------------------------------


def _system(steps: np.ndarray) -> "_InScores | _InSteps":
    """F, and what finds a Newton step."""
    size = np.sqrt(np.maximum(np.diag(steps), 0))  # rounding makes -1e-17 of the 0 of a repeated frame
    size[size == 0] = 1.0
    tol = len(steps) * np.finfo(float).eps
    lower, order, rank, _ = scipy.linalg.lapack.dpstrf(
        (steps / size / size[:, None]).T, tol=tol, lower=1, overwrite_a=1
    )
    full = rank == len(steps) and np.diag(lower).min() ** 2 > SINGULAR
    lower = np.asfortranarray(np.tril(lower[:, :rank]))
    return (_InScores if full else _InSteps)(lower, order - 1, size)


class _Factor:
    """F, its rows over `size` and in `order` lower triangular.

    `begin` gives (T-1, T-1), to whose upper triangle the second derivative of the loss by the scores of frames 2..T is
    to be added; `solve` then gives the step in v that removes a residual in v, to first order.
    """

    def __init__(self, lower: np.ndarray, order: np.ndarray, size: np.ndarray):
        self.lower, self.order, self.size = lower, order, size
        self.matrix = np.empty((len(size), len(size)))

    def rises(self, v: np.ndarray) -> np.ndarray:
        """F v, (T-1,)."""
        out = np.empty(len(self.size))
        out[self.order] = self.lower @ v
        return out * self.size

    def back(self, y: np.ndarray) -> np.ndarray:
        """F^T y, (r,)."""
        return self.lower.T @ (self.size * y)[self.order]

    def weights(self, v: np.ndarray) -> np.ndarray:
        """One y (T-1,) with F^T y = v."""
        y = np.zeros(len(self.size))
        rows = self.order[: len(v)]
        y[rows] = scipy.linalg.solve_triangular(self.lower[: len(v)], v, trans=1, lower=True) / self.size[rows]
        return y


class _InScores(_Factor):
    """For independent steps. The matrix in the scores is the inverse of a Gram matrix and what the loss adds."""

    def __init__(self, lower: np.ndarray, order: np.ndarray, size: np.ndarray):
        super().__init__(lower, order, size)
        inverse = scipy.linalg.lapack.dpotri(lower, lower=1)[0].T
        for t in range(len(inverse)):
            inverse[t + 1 :, t] = inverse[t, t + 1 :]
        back = np.argsort(order)
        inverse = inverse[np.ix_(back, back)]
        inverse /= size
        inverse /= size[:, None]
        # A score is a sum of rises, so this is the difference of neighbours along both axes.
        inverse[:-1] -= inverse[1:]
        inverse[:, :-1] -= inverse[:, 1:]
        self.inverse = inverse

    def begin(self) -> np.ndarray:
        self.matrix[...] = self.inverse
        return self.matrix

    def solve(self, residual: np.ndarray) -> np.ndarray:
        # Against rounding, which is that small beside the diagonal.
        self.matrix[np.diag_indices_from(self.matrix)] *= 1 + len(self.matrix) * np.finfo(float).eps
        factor = scipy.linalg.cho_factor(self.matrix.T, lower=True, overwrite_a=True, check_finite=False)
        pull = -np.diff(self.weights(residual), append=0.0)
        d_rises = np.diff(scipy.linalg.cho_solve(factor, pull, check_finite=False), prepend=0.0)
        return scipy.linalg.solve_triangular(self.lower, (d_rises / self.size)[self.order], lower=True)


class _InSteps(_Factor):
    """For any steps, such as those of repeated frames, which depend on each other; two matrix products more."""

    def __init__(self, lower: np.ndarray, order: np.ndarray, size: np.ndarray):
        super().__init__(lower, order, size)
        scores = np.empty_like(lower)
        scores[order] = lower
        scores *= size[:, None]
        self.scores = np.cumsum(scores, axis=0, out=scores)

    def begin(self) -> np.ndarray:
        self.matrix[...] = 0
        return self.matrix

    def solve(self, residual: np.ndarray) -> np.ndarray:
        matrix = self.scores.T @ scipy.linalg.blas.dsymm(1.0, self.matrix.T, self.scores, lower=1)
        # A multiple of the machine epsilon keeps it positive definite under rounding.
        matrix[np.diag_indices_from(matrix)] += 1 + np.finfo(float).eps * np.trace(matrix)
        factor = scipy.linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
        return scipy.linalg.cho_solve(factor, residual, check_finite=False)


# ---- pairs ----------------------------------------------------------------------------------------------------


def _blocks(*scores: np.ndarray) -> Iterator[tuple]:
    """The pairs in blocks: slices of their earlier and later frames, which entries are none, score_l - score_t."""
    frames = len(scores[0])
    for start in range(0, frames - 1, ROWS):
        earlier, later = slice(start, min(start + ROWS, frames)), slice(start, frames)
        none = np.tri(earlier.stop - start, frames - start, dtype=bool)
        yield earlier, later, none, *(s[later] - s[earlier, None] for s in scores)


def _root(x: np.ndarray, mu: float) -> np.ndarray:
    return np.sqrt(x * x + 4 * mu * mu)


def _smooth_loss(scores: np.ndarray, mu: float) -> float:
    """The mean of h over the pairs."""
    total = 0.0
    for _, _, none, margins in _blocks(scores):
        x = 1 - margins
        x += _root(x, mu)
        x[none] = 0
        total += x.sum() / 2
    return total / _count(scores)


def _loss(scores: np.ndarray, mu: float, hessian: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The mean of max(0, x), that of h, and sum_p h'/P (e_l - e_t) (T,); adds the second derivative to `hessian`.

    Of `hessian` (T-1, T-1) only the upper triangle gets it: -h''/P at the place of a pair, their sums on the diagonal.
    """
    loss = smooth = 0.0
    slopes, degrees = np.zeros_like(scores), np.zeros_like(scores)
    for earlier, later, none, margins in _blocks(scores):
        x = 1 - margins
        x[none] = 0
        root = _root(x, mu)
        h = (x + root) / 2
        h[none] = 0
        smooth += h.sum()
        loss += np.maximum(x, 0).sum()
        h /= root
        _add(slopes, h, earlier, later)
        curvature = (2 * mu * mu / _count(scores)) / (root * root * root)
        curvature[none] = 0
        degrees[later] += curvature.sum(axis=0)
        degrees[earlier] += curvature.sum(axis=1)
        if earlier.start:  # the score of the first frame is 0
            hessian[earlier.start - 1 : earlier.stop - 1, later.start - 1 :] -= curvature
        else:
            hessian[: earlier.stop - 1] -= curvature[1:, 1:]
    hessian[np.diag_indices_from(hessian)] += degrees[1:]
    return loss / _count(scores), smooth / _count(scores), slopes / _count(scores)


def _dual(scores: np.ndarray, d_scores: np.ndarray, mu: float) -> tuple[float, np.ndarray]:
    """The dual point after a Newton step, a = (h' - h'' (change of the margin)) / P, cut to 0..1/P.

    Returns:
        sum_p a, sum_p a (e_l - e_t) (T,).
    """
    slopes, total = np.zeros_like(scores), 0.0
    for earlier, later, none, margins, d_margins in _blocks(scores, d_scores):
        x = 1 - margins
        root = _root(x, mu)
        a = (x + root) / (2 * root)
        a -= d_margins * (2 * mu * mu) / (root * root * root)
        np.clip(a, 0, 1, out=a)
        a[none] = 0
        total += a.sum()
        _add(slopes, a, earlier, later)
    return total / _count(scores), slopes / _count(scores)


def _add(out: np.ndarray, values: np.ndarray, earlier: slice, later: slice) -> None:
    """out += sum_p values_p (e_l - e_t), for the pairs of a block."""
    out[later] += values.sum(axis=0)
    out[earlier] -= values.sum(axis=1)


def _count(scores: np.ndarray) -> float:
    """P."""
    return len(scores) * (len(scores) - 1) / 2
