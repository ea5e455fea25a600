"""Gaussian process regression as plain arrays: smooth between measured kernels, honest outside.

Rasmussen and Williams 2006, algorithm 2.1, with one squared-exponential kernel over standardised
features; length scale and noise are chosen by marginal likelihood on a small grid, the variance in
closed form. Saved as JSON and evaluated with numpy alone. O(n^3) to fit, O(n) a prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LENGTHS = (2.5, 5.0, 10.0)
NOISES = (0.02, 0.08, 0.3)  # noise variance over signal variance
MAX_POINTS = 1200
MAX_POINTS_TO_CHOOSE = 400


@dataclass(frozen=True)
class GaussianProcess:
    """The posterior mean: ``exp(-|z - z_i|^2 / 2 length^2) @ weights``.

    Attributes:
        points: standardised features of the measured kernels [n, d].
        weights: [n].
        length: length scale in standard deviations of the features.
        noise: noise variance over signal variance.
        variance: signal variance.
    """

    points: np.ndarray
    weights: np.ndarray
    length: float
    noise: float
    variance: float

    def predict(self, standard: np.ndarray) -> np.ndarray:
        """Posterior mean of each row of standardised features."""
        return np.asarray(_covariance(standard, self.points, self.length) @ self.weights)

    def deviation(self, standard: np.ndarray) -> np.ndarray:
        """Posterior standard deviation without the noise; O(n^3) for the first row."""
        gram = _covariance(self.points, self.points, self.length)
        lower = np.linalg.cholesky(gram + self.noise * np.eye(len(gram)))
        cross = _covariance(standard, self.points, self.length)
        known = np.sum(np.linalg.solve(lower, cross.T) ** 2, axis=0)
        return np.asarray(np.sqrt(self.variance * np.maximum(1.0 - known, 0.0)))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, six significant digits."""
        return {
            "points": [[float(f"{value:.6g}") for value in row] for row in self.points],
            "weights": self.weights.tolist(),
            "length": self.length,
            "noise": self.noise,
            "variance": self.variance,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> GaussianProcess:
        """The inverse of :meth:`to_dict`."""
        return cls(
            points=np.asarray(value["points"], dtype=float),
            weights=np.asarray(value["weights"], dtype=float),
            length=float(value["length"]),
            noise=float(value["noise"]),
            variance=float(value["variance"]),
        )


def _covariance(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * a @ b.T
    return np.asarray(np.exp(-0.5 * np.maximum(squares, 0.0) / length**2))


def fit_gaussian(standard: np.ndarray, target: np.ndarray, *, seed: int) -> GaussianProcess:
    """Fit to standardised features [n, d] and centred targets [n]; deterministic for a seed."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(target))
    few, kept = order[:MAX_POINTS_TO_CHOOSE], np.sort(order[:MAX_POINTS])
    best: tuple[float, float, float] | None = None
    for length in LENGTHS:
        gram = _covariance(standard[few], standard[few], length)
        for noise in NOISES:
            lower = np.linalg.cholesky(gram + noise * np.eye(len(few)))
            whitened = np.linalg.solve(lower, target[few])
            variance = float(whitened @ whitened) / len(few) + 1e-12
            evidence = -0.5 * len(few) * np.log(variance) - np.log(np.diag(lower)).sum()
            if best is None or evidence > best[0]:
                best = (evidence, length, noise)
    assert best is not None
    _, length, noise = best
    gram = _covariance(standard[kept], standard[kept], length) + noise * np.eye(len(kept))
    weights = np.linalg.solve(gram, target[kept])
    variance = float(target[kept] @ weights) / len(kept)
    # To six digits from the start, so that a saved and a fresh predictor are one.
    points = np.array([[float(f"{value:.6g}") for value in row] for row in standard[kept]])
    return GaussianProcess(points, weights, length, noise, max(variance, 1e-12))
