"""Least squares with non-negative unknowns, in numpy alone.

Lawson and Hanson, "Solving Least Squares Problems" (1974), chapter 23, on the normal equations:
minimise x'Gx - 2h'x over x >= 0 for a positive definite G. O(p^4) at worst; p is about ten here,
100 at most.
"""

from __future__ import annotations

import numpy as np


def solve_nonnegative(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """The x >= 0 that minimises x'Gx - 2h'x for gram G (positive definite) and moment h."""
    size = len(moment)
    free = np.zeros(size, dtype=bool)
    x = np.zeros(size)
    tolerance = 1e-10 * max(1.0, float(np.abs(moment).max(initial=0.0)))
    for _ in range(10 * size + 10):
        gradient = moment - gram @ x
        gradient[free] = -np.inf
        entering = int(np.argmax(gradient))
        if gradient[entering] <= tolerance:
            break
        free[entering] = True
        while free.any():
            trial = np.zeros(size)
            trial[free] = np.linalg.solve(gram[np.ix_(free, free)], moment[free])
            blocked = free & (trial <= 0)
            if not blocked.any():
                x = trial
                break
            gap = x[blocked] - trial[blocked]
            step = float(np.min(np.where(gap > 0, x[blocked] / np.where(gap > 0, gap, 1.0), 0.0)))
            x = x + step * (trial - x)
            free &= x > 1e-14
            x = np.where(free, x, 0.0)
    return x


def leave_one_out(
    rows: np.ndarray, target: np.ndarray, gram_prior: np.ndarray, moment_prior: np.ndarray
) -> np.ndarray:
    """Held-out predictions of a penalised non-negative least squares, one solve a row.

    All rows are first solved in one batch on the unknowns that are positive when no row is left
    out; a row whose solution is then not optimal (Karush-Kuhn-Tucker) is solved anew.
    """
    gram = rows.T @ rows + gram_prior
    moment = rows.T @ target + moment_prior
    grams = gram[None] - rows[:, :, None] * rows[:, None, :]
    moments = moment[None] - rows * target[:, None]
    free = np.flatnonzero(solve_nonnegative(gram, moment) > 0)
    solutions = np.zeros_like(rows)
    if len(free):
        solved = np.linalg.solve(grams[:, free[:, None], free], moments[:, free, None])
        solutions[:, free] = solved[:, :, 0]
    slope = moments - np.einsum("nij,nj->ni", grams, solutions)
    slope[:, free] = 0.0
    tolerance = 1e-10 * np.maximum(1.0, np.abs(moments).max(axis=1))
    wrong = (solutions < 0).any(axis=1) | (slope > tolerance[:, None]).any(axis=1)
    for index in np.flatnonzero(wrong):
        solutions[index] = solve_nonnegative(grams[index], moments[index])
    return np.asarray(np.sum(rows * solutions, axis=1))
