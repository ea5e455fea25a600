"""A regressor from network features to milliseconds for few (10 to about 1,000) networks.

Gaussian process regression (Rasmussen and Williams 2006, chapters 2 and 5) of the time over a
typical time: a linear kernel on the features (operators add up) plus a squared exponential for
what does not add up, noise in proportion to the time. The amplitudes, the length and the noise
are those with the least leave-one-out error (equation 5.12); the 90 % interval is split conformal
on the leave-one-out residuals. Exact, no seed; O(n^3) for each of a dozen kernels. Prediction is
one product with stored arrays: numpy alone, JSON in storage.
Legend: n measured networks, N others, K features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.latency.few_shot import Interval
from factory.latency.intervals import COVERAGE
from factory.latency.pool import LEAST_SHARE, check_ms

CURVATURES = (0.0, 0.01, 0.04, 0.15)  # amplitude of the nonlinear part over the linear one's
LENGTHS = (0.7, 1.5, 3.0)  # in units of the root of the number of features
NOISES = tuple(10.0 ** np.arange(-4.0, 0.25, 0.5))
MIN_FOR_CURVATURE = 20
LEAST_REACH = 0.002
CLIP = 0.3  # one outlier does not decide


@dataclass(frozen=True)
class SmallSample:
    """The fitted process.

    Args:
        center_K, scale_K: the features' standardisation.
        rows_nK: standardised features of the measured networks.
        dual_n: kernel weights.
        offset: mean of the relative time.
        line_K1: the linear fit (with a constant) whose prediction is the typical time, ms.
        floor_ms: typical times are not below it.
        curvature, length: the kernel's parameters.
        half_width: of the 90 % interval, as a share of the prediction.
    """

    center_K: np.ndarray
    scale_K: np.ndarray
    rows_nK: np.ndarray
    dual_n: np.ndarray
    offset: float
    line_K1: np.ndarray
    floor_ms: float
    curvature: float
    length: float
    half_width: float

    def predict(self, features_NK: np.ndarray) -> Interval:
        """Latency and 90 % interval of networks."""
        features_NK = np.atleast_2d(np.asarray(features_NK, dtype=np.float64))
        if features_NK.shape[1] != len(self.center_K):
            raise InputError(
                f"{features_NK.shape[1]} features of a network",
                why=f"the predictor was fitted on {len(self.center_K)}",
            )
        rows_NK = (features_NK - self.center_K) / self.scale_K
        typical_N = _typical(rows_NK, self.line_K1, self.floor_ms)
        kernel_Nn = _kernel(rows_NK, self.rows_nK, self.curvature, self.length)
        ms_N = self.offset * typical_N + kernel_Nn @ self.dual_n
        ms_N = np.maximum(ms_N, 0.1 * self.floor_ms)
        return Interval(ms_N, ms_N * max(0.0, 1 - self.half_width), ms_N * (1 + self.half_width))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, with a schema version."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}
        return {"schema_version": 1, "kind": "small_sample", **plain}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SmallSample:
        """The inverse of :meth:`to_dict`."""
        if value.get("schema_version") != 1 or value.get("kind") != "small_sample":
            raise InputError("this is no small-sample predictor of schema version 1")
        fields: dict[str, Any] = {name: value[name] for name in cls.__dataclass_fields__}
        for name, kept in fields.items():
            fields[name] = np.asarray(kept, np.float64) if isinstance(kept, list) else kept
        return cls(**fields)


def fit_small_sample(features_nK: np.ndarray, measured_ms: np.ndarray) -> SmallSample:
    """The regressor of n measured networks; InputError with fewer than three."""
    features_nK = np.asarray(features_nK, dtype=np.float64)
    measured_ms = check_ms(measured_ms, "the table")
    if features_nK.ndim != 2 or measured_ms.shape != features_nK.shape[:1]:
        raise InputError(
            f"{measured_ms.size} latencies for features of shape {features_nK.shape}",
            fix="give one row of features a latency",
        )
    if len(measured_ms) < 3:
        raise InputError(f"{len(measured_ms)} networks are too few", fix="measure at least three")
    center_K, scale_K = features_nK.mean(0), features_nK.std(0)
    scale_K = np.where(scale_K > 1e-9, scale_K, 1.0)
    rows_nK = (features_nK - center_K) / scale_K
    floor_ms = LEAST_SHARE * float(measured_ms.mean())
    line_K1 = _line(rows_nK, measured_ms, floor_ms)
    typical_n = _typical(rows_nK, line_K1, floor_ms)
    relative_n = measured_ms / typical_n
    best: tuple[float, float, float, np.ndarray, np.ndarray, float] | None = None
    for curvature, length in _kernels(len(measured_ms)):
        kernel_nn = _kernel(rows_nK, rows_nK, curvature, length) / np.outer(typical_n, typical_n)
        values_n, vectors_nn = np.linalg.eigh(kernel_nn)
        values_n = np.maximum(values_n, 0.0)
        for noise in NOISES:
            offset, dual_n, left_out_n = _solve(values_n, vectors_nn, relative_n, noise)
            share_n = left_out_n / np.maximum(relative_n - left_out_n, 0.1)
            error = float(np.mean(np.minimum(np.abs(share_n), CLIP)))
            if best is None or error < best[0]:
                best = (error, curvature, length, dual_n / typical_n, share_n, offset)
    assert best is not None
    _, curvature, length, dual_n, share_n, offset = best
    return SmallSample(
        center_K,
        scale_K,
        rows_nK,
        dual_n,
        offset,
        line_K1,
        floor_ms,
        curvature,
        length,
        _reach(share_n),
    )


def _solve(
    values_n: np.ndarray, vectors_nn: np.ndarray, relative_n: np.ndarray, noise: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """(offset, dual weights, leave-one-out residuals) for a kernel's eigenvalues and vectors.

    The offset has a wide prior, hence generalised least squares; the residuals hold it fixed.
    """
    shrink_n = 1.0 / (values_n + noise * values_n.mean())
    ones_n, target_n = vectors_nn.sum(0), vectors_nn.T @ relative_n
    offset = float((ones_n * shrink_n) @ target_n / ((ones_n * shrink_n) @ ones_n))
    dual_n = vectors_nn @ (shrink_n * (target_n - offset * ones_n))
    return offset, dual_n, dual_n / (vectors_nn**2 @ shrink_n)


def _reach(share_n: np.ndarray) -> float:
    """Half width of the interval: the conformal order statistic, stretched where none exists."""
    rank = math.ceil(COVERAGE * (len(share_n) + 1))
    ordered = np.sort(np.abs(share_n))
    stretched = float(ordered[-1]) * (1.0 + 2.0 / len(share_n))
    return max(LEAST_REACH, float(ordered[rank - 1]) if rank <= len(share_n) else stretched)


def _kernels(count: int) -> list[tuple[float, float]]:
    if count < MIN_FOR_CURVATURE:
        return [(0.0, 1.0)]
    curved = itertools.product([c for c in CURVATURES if c], LENGTHS)
    return [(0.0, 1.0), *curved]


def _kernel(a_NK: np.ndarray, b_nK: np.ndarray, curvature: float, length: float) -> np.ndarray:
    """Linear with a constant, plus a squared exponential, [N, n]."""
    k = a_NK.shape[1]
    inner = a_NK @ b_nK.T
    kernel = 1.0 + inner / k
    if curvature:
        distance = np.sum(a_NK**2, 1)[:, None] + np.sum(b_nK**2, 1) - 2 * inner
        kernel = kernel + curvature * np.exp(-np.maximum(distance, 0) / (2 * length**2 * k))
    return np.asarray(kernel)


def _line(rows_nK: np.ndarray, ms_n: np.ndarray, floor_ms: float) -> np.ndarray:
    """A ridge on relative errors; only its rough size matters."""
    columns = np.hstack([rows_nK, np.ones((len(rows_nK), 1))])
    scaled = columns / np.maximum(ms_n, floor_ms)[:, None]
    gram = scaled.T @ scaled
    gram += 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.asarray(np.linalg.solve(gram, scaled.T @ (ms_n / np.maximum(ms_n, floor_ms))))


def _typical(rows_NK: np.ndarray, line_K1: np.ndarray, floor_ms: float) -> np.ndarray:
    return np.maximum(rows_NK @ line_K1[:-1] + line_K1[-1], floor_ms)
