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


def _system(steps: np.ndarray) -> "_AnyRank":
    size = np.sqrt(np.maximum(np.diag(steps), 0))  # rounding makes -1e-17 of the 0 of a repeated frame
    size[size == 0] = 1.0
    scaled = steps / size
    scaled /= size[:, None]
    tol = len(steps) * np.finfo(float).eps
    lower, order, rank, _ = scipy.linalg.lapack.dpstrf(scaled.T, tol=tol, lower=1, overwrite_a=1)
    del scaled
    full = rank == len(steps) and np.diag(lower).min() ** 2 > SINGULAR
    return (_FullRank if full else _AnyRank)(np.tril(lower[:, :rank]), order - 1, size)


class _AnyRank:
    """F and its transpose, and the Newton step in v. F = diag(size) lower, the rows of `lower` being in `order`."""

    def __init__(self, lower: np.ndarray, order: np.ndarray, size: np.ndarray):
        self.lower, self.order, self.size = lower, order, size
        self.matrix = np.empty((len(size), len(size)))
        self.prepare()

    def prepare(self) -> None:
        scores = self.rises(self.lower_columns())

    def rises(self, v: np.ndarray) -> np.ndarray:
        """F v, (T-1,)."""
        out = np.empty(len(self.size))
        out[self.order] = self.lower @ v
        return out * self.size

    def back(self, y: np.ndarray) -> np.ndarray:
        """F^T y, (r,)."""
        return self.lower.T @ (self.size * y)[self.order]

    def weights(self, v: np.ndarray) -> np.ndarray:
        """A y (T-1,) with F^T y = v."""
        rank = len(v)
        y = np.zeros(len(self.size))
        y[self.order[:rank]] = scipy.linalg.solve_triangular(self.lower[:rank], v, trans=1, lower=True)
        return y / self.size
