"""RankSVM on all pairs of frames of a long clip: Newton's method on a smoothed loss.

The interior-point method of mer.motion.rank_svm keeps several numbers a pair, and takes more steps the longer the clip
is; 3,000 frames have 4.5 million pairs. Here nothing is kept of a pair. With x = 1 - margin, its loss max(0, x) becomes

    (h)   h(x) = (x + sqrt(x^2 + 4 mu^2)) / 2,      max(0, x) <= h(x) <= max(0, x) + mu

and Newton's method goes on from one mu to a tenth of it; 10 to 30 steps are usual. The slopes h' lie in 0..1, as the
dual variables of the pairs do. After a Newton step they are h' - h'' (change of the margin): cut to 0..1, these are the
point of the dual problem that tells how near the minimum is.

In one step the pairs are gone through three times or more, ROWS frames against all later ones, and one (T-1, T-1)
matrix is factorised. Its unknowns are the scores of frames 2..T, where that of frame 1 is 0. So the second derivative
of the loss has -h'' at the place of each pair and their sums on the diagonal, and the second derivative of |d|^2 / 2 is
the inverse of the Gram matrix of phi_t - phi_1.

T frames, P = T (T - 1) / 2 pairs (t, l) with l > t.
"""

from collections.abc import Iterator

import numpy as np
import scipy.linalg

ROWS = 64  # frames whose pairs are at work at a time: 1.5 MB an array for 3,000 frames
FIRST = 0.25  # mu of the first step, per unit of a margin
SINGULAR = 1e-8  # share of a step that those before it leave; below, inverses have too few digits
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
    y = t * (frames - t) * (2 / (frames * (frames - 1)))
    y /= max(1.0, y @ system.rises(y))
    mu, taken, best, best_y, bound = FIRST, 0, np.inf, y, -np.inf
    for iteration in range(max_iter + 1):
        rises = system.rises(y)
        scores = _sums(rises)
        loss, smooth, slopes = _loss(scores, mu, system.begin())
        square = y @ rises / 2
        if square + loss < best:
            best, best_y = square + loss, y
        residual = _over_steps(slopes) - y
        try:
            d_scores = system.solve(residual)
        except np.linalg.LinAlgError:  # rounding ends the method here; the gap decides whether that is good enough
            break
        d_slopes, dual_sum, dual_slopes = _changed(scores, np.append(0.0, d_scores), mu)
        dual = _over_steps(dual_slopes)
        bound = max(bound, dual_sum - dual @ system.rises(dual) / 2)
        if best - bound <= tol * best or iteration == max_iter:
            break
        d_y = residual + _over_steps(d_slopes)
        d_rises = system.rises(d_y)
        decrease, length = residual @ d_rises, 1.0  # per unit of length, at the start of the step
        while length > SHORTEST:
            moved = _smooth_loss(_sums(rises + length * d_rises), mu)
            moved += (y + length * d_y) @ (rises + length * d_rises) / 2
            if moved <= square + smooth - 1e-4 * length * decrease:
                break
            length /= 2
        else:  # rounding, too
            break
        y = y + length * d_y
        taken += 1
        # Where Newton's method already converges, the next step is better made with less smoothing.
        if length == 1 and decrease < (smooth - loss) / 2:
            mu, taken = mu / (10 if taken <= 4 else 3), 0
    return best_y, float(best), float((best - bound) / best), iteration


def _sums(rises: np.ndarray) -> np.ndarray:
    """The scores (T,) of their rises (T-1,)."""
    return np.append(0.0, np.cumsum(rises))


def _over_steps(values: np.ndarray) -> np.ndarray:
    """Of sum_p a_p (e_l - e_t) (T,), at each step the sum of a_p over the pairs that span it (T-1,)."""
    return -np.cumsum(values)[:-1]


# ---- one Newton step ------------------------------------------------------------------------------------------


def _system(steps: np.ndarray) -> "_FullRank | _AnyRank":
    """What solves for a Newton step."""
    size = np.sqrt(np.maximum(np.diag(steps), 0))  # rounding makes -1e-17 of the 0 of a repeated frame
    size[size == 0] = 1.0
    scaled = steps / size
    scaled /= size[:, None]
    tol = len(steps) * np.finfo(float).eps
    factor, order, rank, _ = scipy.linalg.lapack.dpstrf(scaled.T, tol=tol, lower=1, overwrite_a=1)
    if rank == len(steps) and np.diag(factor).min() ** 2 > SINGULAR:
        return _FullRank(steps, factor, order - 1, size)
    return _AnyRank(factor[:, :rank], order - 1, size)


class _FullRank:
    """The inverse of the Gram matrix of phi_t - phi_1, t = 2..T, plus the second derivative of the loss."""

    def __init__(self, steps: np.ndarray, factor: np.ndarray, order: np.ndarray, size: np.ndarray):
        self.steps = steps
        inverse = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)[0].T
        for t in range(len(inverse)):
            inverse[t + 1 :, t] = inverse[t, t + 1 :]
        back = np.argsort(order)
        inverse = inverse[np.ix_(back, back)]
        inverse /= size
        inverse /= size[:, None]
        # A score is a sum of rises, so this is the difference of neighbours along both axes.
        inverse[:-1] -= inverse[1:]
        inverse[:, :-1] -= inverse[:, 1:]
        self.constant, self.matrix = inverse, np.empty_like(inverse)

    def rises(self, y: np.ndarray) -> np.ndarray:
        """<d, phi_{t+1} - phi_t> of d = sum_t y_t (phi_{t+1} - phi_t), (T-1,)."""
        return self.steps @ y

    def begin(self) -> np.ndarray:
        """(T-1, T-1), to whose upper triangle the second derivative of the loss is to be added before `solve`."""
        self.matrix[...] = self.constant
        return self.matrix

    def solve(self, residual: np.ndarray) -> np.ndarray:
        """The change of the scores of frames 2..T, for a residual over the steps (T-1,)."""
        # Against rounding, which is that small beside the diagonal.
        self.matrix[np.diag_indices_from(self.matrix)] *= 1 + len(self.matrix) * np.finfo(float).eps
        factor = scipy.linalg.cho_factor(self.matrix.T, lower=True, overwrite_a=True, check_finite=False)
        return scipy.linalg.cho_solve(factor, -np.diff(residual, append=0.0), check_finite=False)


class _AnyRank:
    """The same where steps depend on each other, as with repeated frames: in d, not in scores; two products more."""

    def __init__(self, factor: np.ndarray, order: np.ndarray, size: np.ndarray):
        # factor factor^T is the matrix of the steps without the negative eigenvalues that rounding has given it.
        self.factor = np.empty(factor.shape, order="F")
        self.factor[order] = np.tril(factor)
        self.factor *= size[:, None]
        self.scores = np.cumsum(self.factor, axis=0, out=np.empty_like(self.factor))
        self.matrix = np.empty((len(size), len(size)))

    def rises(self, y: np.ndarray) -> np.ndarray:
        return self.factor @ (self.factor.T @ y)

    def begin(self) -> np.ndarray:
        self.matrix[...] = 0
        return self.matrix

    def solve(self, residual: np.ndarray) -> np.ndarray:
        matrix = self.scores.T @ scipy.linalg.blas.dsymm(1.0, self.matrix.T, self.scores, lower=1)
        # A multiple of the machine epsilon keeps it positive definite under rounding.
        matrix[np.diag_indices_from(matrix)] += 1 + np.finfo(float).eps * np.trace(matrix)
        factor = scipy.linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
        return self.scores @ scipy.linalg.cho_solve(factor, self.factor.T @ residual, check_finite=False)


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
    return total / (len(scores) * (len(scores) - 1) / 2)


def _loss(scores: np.ndarray, mu: float, hessian: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The mean of max(0, x), that of h, and sum_p h'/P (e_l - e_t) (T,); adds the second derivative to `hessian`.

    Only the upper triangle of `hessian` (T-1, T-1) gets it.
    """
    count = len(scores) * (len(scores) - 1) / 2
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
        curvature = (2 * mu * mu / count) / (root * root * root)
        curvature[none] = 0
        degrees[later] += curvature.sum(axis=0)
        degrees[earlier] += curvature.sum(axis=1)
        if earlier.start:  # the score of the first frame is 0
            hessian[earlier.start - 1 : earlier.stop - 1, later.start - 1 :] -= curvature
        else:
            hessian[: earlier.stop - 1] -= curvature[1:, 1:]
    hessian[np.diag_indices_from(hessian)] += degrees[1:]
    return loss / count, smooth / count, slopes / count


def _changed(scores: np.ndarray, d_scores: np.ndarray, mu: float) -> tuple[np.ndarray, float, np.ndarray]:
    """What a Newton step makes of the slopes.

    Returns:
        sum_p d_a (e_l - e_t) (T,), where d_a = -h'' (change of the margin) / P; and of a = h' / P + d_a, cut to 0..1/P,
        sum_p a and sum_p a (e_l - e_t) (T,).
    """
    count = len(scores) * (len(scores) - 1) / 2
    change, slopes, total = np.zeros_like(scores), np.zeros_like(scores), 0.0
    for earlier, later, none, margins, d_margins in _blocks(scores, d_scores):
        x = 1 - margins
        root = _root(x, mu)
        d_margins *= -2 * mu * mu / (root * root * root)
        d_margins[none] = 0
        _add(change, d_margins, earlier, later)
        x += root
        x /= 2 * root
        x += d_margins
        np.clip(x, 0, 1, out=x)
        x[none] = 0
        total += x.sum()
        _add(slopes, x, earlier, later)
    return change / count, total / count, slopes / count


def _add(out: np.ndarray, values: np.ndarray, earlier: slice, later: slice) -> None:
    """out += sum_p values_p (e_l - e_t), for the pairs of a block."""
    out[later] += values.sum(axis=0)
    out[earlier] -= values.sum(axis=1)
