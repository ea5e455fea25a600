"""Gaussian process regression with one length scale and noise, chosen by marginal likelihood.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1: squared
exponential kernel on the features as they are; length scale (in units of the median distance) and
noise variance (of standardised targets) from a small grid. Cost O(n^3), n a few hundred.
Legend: N training rows, P rows to predict, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

LENGTHS: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
NOISES: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)


@dataclass(frozen=True)
class Hyperparameters:
    """Length scale in feature units and noise variance of standardised targets."""

    length: float
    noise: float


class GaussianProcess:
    """Fitted regression; make one with :meth:`fit`."""

    def __init__(
        self,
        x_NF: np.ndarray,
        y_N: np.ndarray,
        chosen: Hyperparameters,
        kernel_NN: np.ndarray | None = None,
    ) -> None:
        self._x, self.hyperparameters = x_NF, chosen
        self._mean, self._scale = float(y_N.mean()), float(y_N.std()) or 1.0
        z_N = (y_N - self._mean) / self._scale
        if kernel_NN is None:
            kernel_NN = _kernel(_squared_distances(x_NF, x_NF), chosen.length)
        covariance = kernel_NN.copy()
        covariance[np.diag_indices_from(covariance)] += chosen.noise + 1e-8
        self._factor = cholesky(covariance, lower=True)
        self._weights = cho_solve((self._factor, True), z_N)
        log_determinant = float(np.log(np.diag(self._factor)).sum())
        self.log_likelihood = -0.5 * float(z_N @ self._weights) - log_determinant

    @classmethod
    def fit(
        cls, x_NF: np.ndarray, y_N: np.ndarray, chosen: Hyperparameters | None = None
    ) -> GaussianProcess:
        """Fit with given hyperparameters, or with those of the largest marginal likelihood."""
        if chosen is not None:
            return cls(x_NF, y_N, chosen)
        distances = _squared_distances(x_NF, x_NF)
        positive = distances[distances > 0]
        unit = float(np.sqrt(np.median(positive))) if positive.size else 1.0
        kernels = {length * unit: _kernel(distances, length * unit) for length in LENGTHS}
        fits = (
            cls(x_NF, y_N, Hyperparameters(length, noise), kernel_NN)
            for length, kernel_NN in kernels.items()
            for noise in NOISES
        )
        return max(fits, key=lambda fit: fit.log_likelihood)

    def predict(self, x_PF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean [P], standard deviation of a new observation [P], noise included)."""
        cross_PN = _kernel(_squared_distances(x_PF, self._x), self.hyperparameters.length)
        mean = self._mean + self._scale * (cross_PN @ self._weights)
        half_NP = solve_triangular(self._factor, cross_PN.T, lower=True, check_finite=False)
        explained = (half_NP * half_NP).sum(axis=0)
        variance = np.maximum(1.0 - explained, 1e-9) + self.hyperparameters.noise
        return mean, self._scale * np.sqrt(variance)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2.0 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))


def _kernel(squared: np.ndarray, length: float) -> np.ndarray:
    return np.asarray(np.exp(-0.5 * squared / length**2))
