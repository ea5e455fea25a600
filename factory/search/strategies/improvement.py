"""Expected hypervolume improvement of two independent normal predictions, exactly.

Emmerich, Yang, Deutz, Wang, Fonseca, "A multicriteria generalization of Bayesian global
optimization" (2016): below the reference point the area that the front leaves free falls into
vertical strips, one between any two neighbours of the front; over a strip the gain is a product of
two one-dimensional expectations E[max(u - Z, 0)] (their psi). Both objectives are minimised.
Legend: P candidates, S strips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

from factory.search.strategies.pareto import Point, front

Normal = tuple[np.ndarray, np.ndarray]  # means [P], standard deviations [P]


def expected_improvement(
    points: Sequence[Point], reference: Point, first: Normal, second: Normal
) -> np.ndarray:
    """Expected growth of the hypervolume of ``points`` by each candidate, [P]."""
    below = [p for p in points if p[0] < reference[0] and p[1] < reference[1]]
    kept = [below[i] for i in front(below)]
    x = np.array([p[0] for p in kept])
    y = np.array([p[1] for p in kept])
    right_S = np.append(x, reference[0])
    top_S = np.insert(y, 0, reference[1])
    to_right_PS = _shortfall(right_S, *first)
    width_PS = np.diff(to_right_PS, axis=1, prepend=0.0)
    return np.asarray((width_PS * _shortfall(top_S, *second)).sum(axis=1))


def _shortfall(limit_S: np.ndarray, mean_P: np.ndarray, deviation_P: np.ndarray) -> np.ndarray:
    """E[max(limit - Z, 0)], [P, S]."""
    z = (limit_S[None] - mean_P[:, None]) / deviation_P[:, None]
    density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return np.asarray(deviation_P[:, None] * (z * ndtr(z) + density))
