"""Gaussian process regression as plain arrays: smooth between measured kernels, honest outside.

Rasmussen and Williams 2006, algorithm 2.1, with one squared-exponential kernel over standardised
features; length scale and noise are chosen by marginal likelihood on a small grid, the variance in
closed form. Rows may count differently: the noise variance of a row is divided by the root of its
weight, and where there are too many rows, the heavy ones are the likelier to be kept. Saved as JSON
and evaluated with numpy alone. O(n^3) to fit, O(n) a prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from factory.latency.packed import pack, single, unpack

LENGTHS = (2.5, 5.0, 10.0)
NOISES = (0.02, 0.08, 0.3)  # noise variance over signal variance
MAX_POINTS = 1600
MAX_POINTS_TO_CHOOSE = 400


@dataclass(frozen=True)
class GaussianProcess:
    """The posterior mean: ``exp(-|z - z_i|^2 / 2 length^2) @ weights``.

    Attributes:
        points: standardised features of the measured kernels [n, d].
        weights: [n].
        length: length scale in standard deviations of the features.
        noise_n: noise variance of each over signal variance [n].
        variance: signal variance.
    """

    points: np.ndarray
    weights: np.ndarray
    length: float
    noise_n: np.ndarray
    variance: float

    def predict(self, standard: np.ndarray) -> np.ndarray:
        """Posterior mean of each row of standardised features."""
        return np.asarray(_covariance(standard, self.points, self.length) @ self.weights)

    def deviation(self, standard: np.ndarray) -> np.ndarray:
        """Posterior standard deviation without the noise; O(n^3) for the first call."""
        cross = _covariance(standard, self.points, self.length)
        known = np.sum((cross @ self._whitening) ** 2, axis=1)
        return np.asarray(np.sqrt(self.variance * np.maximum(1.0 - known, 0.0)))

    @cached_property
    def _whitening(self) -> np.ndarray:
        """Inverse of the Cholesky factor, transposed."""
        gram = _covariance(self.points, self.points, self.length) + np.diag(self.noise_n)
        return np.asarray(np.linalg.inv(np.linalg.cholesky(gram)).T)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and packed arrays."""
        return {
            "points": pack(self.points),
            "weights": pack(self.weights),
            "length": self.length,
            "noise_n": pack(self.noise_n),
            "variance": self.variance,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> GaussianProcess:
        """The inverse of :meth:`to_dict`; ValueError where it is no such process."""
        made = cls(
            points=unpack(value["points"]),
            weights=unpack(value["weights"]),
            length=float(value["length"]),
            noise_n=unpack(value["noise_n"]),
            variance=float(value["variance"]),
        )
        shape = (len(made.points),)
        if made.points.ndim != 2 or made.weights.shape != shape or made.noise_n.shape != shape:
            raise ValueError("the arrays of a Gaussian process do not fit together")
        if not (made.length > 0 and made.variance >= 0 and (made.noise_n > 0).all()):
            raise ValueError("a Gaussian process has a length or a variance that is none")
        return made


def _covariance(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * a @ b.T
    return np.asarray(np.exp(-0.5 * np.maximum(squares, 0.0) / length**2))


def fit_gaussian(
    standard: np.ndarray, target: np.ndarray, *, seed: int, weights: np.ndarray | None = None
) -> GaussianProcess:
    """Fit to standardised features [n, d] and centred targets [n]; deterministic for a seed.

    ``weights``: how much each row counts [n], 1 the usual one; all the same without them.
    """
    weights = np.ones(len(target)) if weights is None else np.asarray(weights, dtype=float)
    rng = np.random.default_rng(seed)
    chance = np.sqrt(weights) / np.sqrt(weights).sum()
    kept = rng.choice(len(target), min(MAX_POINTS, len(target)), replace=False, p=chance)
    few = kept[:MAX_POINTS_TO_CHOOSE]
    share = single(1.0 / np.sqrt(weights))
    best: tuple[float, float, float] | None = None
    for length in LENGTHS:
        gram = _covariance(standard[few], standard[few], length)
        for noise in NOISES:
            lower = np.linalg.cholesky(gram + np.diag(noise * share[few]))
            whitened = np.linalg.solve(lower, target[few])
            variance = float(whitened @ whitened) / len(few) + 1e-12
            evidence = -0.5 * len(few) * np.log(variance) - np.log(np.diag(lower)).sum()
            if best is None or evidence > best[0]:
                best = (evidence, length, noise)
    assert best is not None
    _, length, noise = best
    noise_n = noise * share[kept]
    gram = _covariance(standard[kept], standard[kept], length) + np.diag(noise_n)
    dual = np.linalg.solve(gram, target[kept])
    variance = float(target[kept] @ dual) / len(kept)
    points = single(standard[kept])
    return GaussianProcess(points, dual, length, noise_n, max(variance, 1e-12))
