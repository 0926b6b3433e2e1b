"""Rank pooling written as the paper prints it, a loop over the pairs, to test the solver against."""

import numpy as np
from scipy.optimize import minimize


def running_means(x):
    return np.stack([np.mean(x[: t + 1], axis=0, dtype=float) for t in range(len(x))])


def energy(d, x, c):
    """Eq. 4 as it is printed: a loop over the pairs."""
    scores = running_means(x) @ d
    pairs = [(t, later) for later in range(len(x)) for t in range(later)]
    return c / 2 * d @ d + sum(max(0, 1 - scores[later] + scores[t]) for t, later in pairs) / len(pairs)


def differences(x):
    """phi_l - phi_t of each pair, (P, D)."""
    phi = running_means(x)
    return np.stack([phi[later] - phi[t] for later in range(len(x)) for t in range(later)])


def bounded_dual(x, c):
    """The minimum of eq. 4 by L-BFGS-B on its dual, one variable for each pair."""
    z = differences(x)
    kernel = z @ z.T / c
    found = minimize(
        lambda a: (a @ kernel @ a / 2 - a.sum(), kernel @ a - 1), np.full(len(z), 0.5 / len(z)), jac=True,
        bounds=[(0, 1 / len(z))] * len(z), method="L-BFGS-B",
        options={"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-12},
    )  # fmt: skip
    return energy(z.T @ found.x / c, x, c)


def walk(frames, values, seed=0):
    return np.random.default_rng(seed).normal(size=(frames, values)).cumsum(axis=0)


def gram_of(x):
    phi = running_means(x)
    return phi @ phi.T
