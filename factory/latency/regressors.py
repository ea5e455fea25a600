"""One regressor per kind of kernel: from features to milliseconds, for kernels nobody measured.

Every regressor predicts log(ms / roofline), so that with few rows it falls back to the physics:

    ms(k) = max(roofline_floor(k), roofline(k) * exp(offset + ridge(x) + trees(x)))

Candidates, in order of complexity: an offset alone, a ridge on standardised log features, a ridge
with extremely randomised trees on its residuals (the ridge extrapolates, the trees bend). The
choice is made by cross-validation; the cross-validated error goes into the prediction interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.features import N_NUMERIC, FeatureSpace
from factory.latency.roofline import Roofline
from factory.latency.trees import TreeEnsemble, fit_trees

MIN_ROWS_FOR_TREES = 12
MIN_ROWS_FOR_RIDGE = 3
RIDGE_STRENGTHS = (0.1, 1.0, 10.0)
RIDGE_WITH_TREES = 1.0
FOLDS = 5
GAIN_TO_PREFER = 0.95  # a more complex candidate must cut the error to this share


@dataclass(frozen=True)
class KindRegressor:
    """The fitted model of one kind."""

    space: FeatureSpace
    offset: float
    center: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    trees: TreeEnsemble | None
    low: np.ndarray  # measured range of each numeric feature
    high: np.ndarray
    rows: int
    model: str
    error: float  # cross-validated relative error, 90th percentile
    median_error: float

    def log_ratio(self, features: np.ndarray) -> np.ndarray:
        """Predicted log(ms / roofline) for a feature matrix."""
        standard = (features - self.center) / self.scale
        result = self.offset + np.clip(standard, -4.0, 4.0) @ self.coefficients
        if self.trees is not None:
            result = result + self.trees.predict(features)
        return np.asarray(result)

    def predict_ms(self, kernels: Sequence[Kernel], roofline: Roofline) -> np.ndarray:
        """Milliseconds of each kernel."""
        ratio = self.log_ratio(self.space.matrix(kernels))
        estimate = roofline.estimate(kernels) * np.exp(np.clip(ratio, -6.0, 6.0))
        return np.asarray(np.maximum(estimate, roofline.floor(kernels)))

    def in_range(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """True where every numeric feature lies in the measured range (5 % slack)."""
        values = self.space.matrix(kernels)[:, :N_NUMERIC]
        slack = 0.05 * (self.high - self.low) + 1e-9
        inside = np.all((values >= self.low - slack) & (values <= self.high + slack), axis=1)
        known = np.array([self.space.knows(k) for k in kernels], dtype=bool)
        return np.asarray(inside & known)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "space": self.space.to_dict(),
            "offset": self.offset,
            "center": self.center.tolist(),
            "scale": self.scale.tolist(),
            "coefficients": self.coefficients.tolist(),
            "trees": None if self.trees is None else self.trees.to_dict(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "rows": self.rows,
            "model": self.model,
            "error": self.error,
            "median_error": self.median_error,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> KindRegressor:
        """The inverse of :meth:`to_dict`."""

        def array(name: str) -> np.ndarray:
            return np.asarray(value[name], dtype=float)

        return cls(
            space=FeatureSpace.from_dict(value["space"]),
            offset=float(value["offset"]),
            center=array("center"),
            scale=array("scale"),
            coefficients=array("coefficients"),
            trees=None if value["trees"] is None else TreeEnsemble.from_dict(value["trees"]),
            low=array("low"),
            high=array("high"),
            rows=int(value["rows"]),
            model=str(value["model"]),
            error=float(value["error"]),
            median_error=float(value["median_error"]),
        )


Fitted = tuple[float, np.ndarray, TreeEnsemble | None]  # offset, coefficients, trees


def _fit_candidate(
    features: np.ndarray, standard: np.ndarray, target: np.ndarray, model: str, seed: int
) -> Fitted:
    """Fit 'offset', 'ridge:<strength>' or 'ridge+trees:<strength>'."""
    offset = float(np.median(target))
    name, _, strength = model.partition(":")
    if name == "offset":
        return offset, np.zeros(standard.shape[1]), None
    mean = standard.mean(axis=0)
    offset = float(target.mean())
    centred = standard - mean
    gram = centred.T @ centred + float(strength) * np.eye(standard.shape[1])
    coefficients = np.linalg.solve(gram, centred.T @ (target - offset))
    offset -= float(mean @ coefficients)
    trees = None
    if name == "ridge+trees":
        residual = target - offset - standard @ coefficients
        trees = fit_trees(features, residual, seed=seed)
    return offset, coefficients, trees


def _evaluate(fitted: Fitted, features: np.ndarray, standard: np.ndarray) -> np.ndarray:
    offset, coefficients, trees = fitted
    result = offset + standard @ coefficients
    return result if trees is None else result + trees.predict(features)


def _cross_validate(
    fit: Callable[[np.ndarray], Fitted],
    predict: Callable[[Fitted, np.ndarray], np.ndarray],
    rows: int,
    seed: int,
) -> np.ndarray:
    """Out-of-fold predictions, folds drawn from ``seed``."""
    order = np.random.default_rng(seed).permutation(rows)
    out = np.empty(rows)
    for fold in np.array_split(order, min(FOLDS, rows)):
        keep = np.setdiff1d(order, fold)
        out[fold] = predict(fit(keep), fold)
    return out


def fit_kind(
    kernels: Sequence[Kernel], ms: np.ndarray, roofline: Roofline, *, seed: int
) -> KindRegressor:
    """Fit one kind; at least one row."""
    space = FeatureSpace.of(kernels)
    features = space.matrix(kernels)
    center = features.mean(axis=0)
    spread = features.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)
    standard = (features - center) / scale
    target = np.log(ms / roofline.estimate(kernels))
    candidates = ["offset"]
    if len(ms) >= MIN_ROWS_FOR_RIDGE:
        candidates += [f"ridge:{s}" for s in RIDGE_STRENGTHS]
    if len(ms) >= MIN_ROWS_FOR_TREES:
        candidates.append(f"ridge+trees:{RIDGE_WITH_TREES}")
    best, best_error, residual = "offset", float("inf"), np.full(1, 0.7)
    if len(ms) > 1:
        for model in candidates:
            predicted = _cross_validate(
                lambda keep, m=model: _fit_candidate(  # type: ignore[misc]
                    features[keep], standard[keep], target[keep], m, seed
                ),
                lambda fitted, fold: _evaluate(fitted, features[fold], standard[fold]),
                len(ms),
                seed,
            )
            relative = np.abs(np.expm1(np.clip(predicted - target, -6.0, 6.0)))
            error = float(np.mean(np.minimum(relative, 2.0)))
            if error < best_error * GAIN_TO_PREFER:
                best, best_error, residual = model, error, relative
    offset, coefficients, trees = _fit_candidate(features, standard, target, best, seed)
    return KindRegressor(
        space=space,
        offset=offset,
        center=center,
        scale=scale,
        coefficients=coefficients,
        trees=trees,
        low=features[:, :N_NUMERIC].min(axis=0),
        high=features[:, :N_NUMERIC].max(axis=0),
        rows=len(ms),
        model=best,
        error=float(np.quantile(residual, 0.9)),
        median_error=float(np.median(residual)),
    )
