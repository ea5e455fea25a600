"""One regressor per family of kernels: from features to milliseconds, for kernels nobody measured.

Every regressor predicts the ratio to what its family takes a MAC and a byte (roofline.of_family),
so that with few rows, and beyond the sizes that were measured, it falls back to the physics:

    ms(k) = max(floor(k), rates(k) * exp(offset + s (ridge(z) + (gaussian(z) + trees(x)) / 2)))

s is 1 within the measured range of every feature and falls as 1 / (1 + BEYOND * how far beyond they
lie together, in ranges); the ratio stays within what the family's kernels have shown, and MARGIN.

The ridge on standardised log features extrapolates; a Gaussian process and gradient-boosted trees
(Friedman 2001) fitted to its residuals bend, the one smoothly and the other at the block sizes of
the runtime; their mean is better than either. What a network takes is a sum, so a kernel counts by
its time: within LIGHTEST to HEAVIEST times as much as the family's median kernel. Families in which
kernels often cost nothing, since the runtime folds them into a neighbour, get the expected ratio
itself, from the trees alone: ``ms(k) = rates(k) * max(0, offset + trees(x))``. With few rows
simpler candidates compete by cross-validation; the cross-validated error goes into the prediction
interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.features import FeatureSpace
from factory.latency.gaussian import GaussianProcess, fit_gaussian
from factory.latency.roofline import Roofline
from factory.latency.trees import TreeEnsemble, fit_boosted, fit_trees

MIN_ROWS_FOR_GAUSSIAN = 12
MIN_ROWS_FOR_TREES = 25
MIN_ROWS_FOR_RIDGE = 3
RIDGE_STRENGTHS = (0.1, 1.0, 10.0)
FULL_MODEL = "ridge+gaussian+trees:1.0"
SMOOTH_MODEL = "ridge+gaussian:1.0"
EXPECTED = "expected"
SHARE_OF_FREE = 0.02  # from this share of kernels that cost nothing on, the expectation is fitted
ROWS_WITHOUT_CHOICE = 150  # from so many rows on the full model is taken
FOLDS = 5
GAIN_TO_PREFER = 0.95  # a more complex candidate must cut the error to this share
LEAST_MS = 1e-5
LIGHTEST, HEAVIEST = 0.3, 3.0
MARGIN = 0.3  # of a log ratio beyond what the family has shown
BEYOND = 2.0
SLACK = 0.05  # of a feature's range, still within it
WORST = 4.0  # largest relative error of a row that counts


@dataclass(frozen=True)
class KindRegressor:
    """The fitted model of one family."""

    space: FeatureSpace
    rates: Roofline
    offset: float
    least: float  # log ratio to the rates: what the family's kernels have shown
    most: float
    spread: float  # standard deviation of that
    center: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    gaussian: GaussianProcess | None
    trees: TreeEnsemble | None
    low: np.ndarray  # measured range of each numeric feature
    high: np.ndarray
    rows: int
    model: str
    error: float  # cross-validated relative error, 90th percentile
    median_error: float

    def log_ratio(self, features: np.ndarray) -> np.ndarray:
        """Predicted log(ms / roofline) for a feature matrix."""
        standard = np.clip((features - self.center) / self.scale, -4.0, 4.0)
        result = self.offset + standard @ self.coefficients
        bends = []
        if self.gaussian is not None:
            bends.append(self.gaussian.predict(standard))
        if self.trees is not None:
            bends.append(self.trees.predict(features))
        return np.asarray(result + np.mean(bends, axis=0) if bends else result)

    def predict_ms(self, kernels: Sequence[Kernel], roofline: Roofline) -> np.ndarray:
        """Milliseconds of each kernel."""
        features = self.space.matrix(kernels)
        estimate = self.rates.estimate(kernels)
        inside = self._inside(kernels, features)
        if self.model == EXPECTED:
            assert self.trees is not None
            ratio = self.offset + inside * self.trees.predict(features)
            return np.asarray(estimate * np.clip(ratio, 0.0, np.exp(self.most + MARGIN)))
        ratio = self.offset + inside * (self.log_ratio(features) - self.offset)
        ratio = np.clip(ratio, self.least - MARGIN, self.most + MARGIN)
        return np.asarray(np.maximum(estimate * np.exp(ratio), roofline.floor(kernels)))

    def _inside(self, kernels: Sequence[Kernel], features: np.ndarray) -> np.ndarray:
        """1 within the measured range of every feature, towards 0 beyond."""
        values, span = features[:, : self.space.numeric], self.high - self.low
        slack = SLACK * span + 1e-9
        over = np.maximum(self.low - slack - values, values - self.high - slack)
        excess = np.minimum(np.maximum(over, 0.0) / np.maximum(span, 1e-9), 1.0).sum(axis=1)
        unknown = np.array([not self.space.knows(k) for k in kernels], dtype=float)
        return np.asarray(1.0 / (1.0 + BEYOND * (excess + unknown)))

    def expected_error(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """Relative error to expect of each kernel: the spread of the family where it is beyond."""
        beyond = 1.0 - self._inside(kernels, self.space.matrix(kernels))
        return np.asarray(np.expm1(np.hypot(np.log1p(self.error), beyond * self.spread)))

    def deviation(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """How unsure the regressor is of each kernel, as a share of its time."""
        if self.gaussian is None:
            return np.full(len(kernels), max(self.error, 0.05))
        standard = (self.space.matrix(kernels) - self.center) / self.scale
        return self.gaussian.deviation(np.clip(standard, -4.0, 4.0))

    def in_range(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """True where every numeric feature lies in the measured range (5 % slack)."""
        return self._inside(kernels, self.space.matrix(kernels)) == 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "space": self.space.to_dict(),
            "rates": self.rates.to_dict(),
            "offset": self.offset,
            "least": self.least,
            "most": self.most,
            "spread": self.spread,
            "center": self.center.tolist(),
            "scale": self.scale.tolist(),
            "coefficients": self.coefficients.tolist(),
            "gaussian": None if self.gaussian is None else self.gaussian.to_dict(),
            "trees": None if self.trees is None else self.trees.to_dict(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "rows": self.rows,
            "model": self.model,
            "error": self.error,
            "median_error": self.median_error,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> KindRegressor:
        """The inverse of :meth:`to_dict`; ValueError where its parts do not fit together."""

        def array(name: str) -> np.ndarray:
            numbers = np.asarray(value[name], dtype=float)
            if not np.isfinite(numbers).all():
                raise ValueError(f"{name} holds a number that is not finite")
            return numbers

        gaussian, trees = value["gaussian"], value["trees"]
        made = cls(
            space=FeatureSpace.from_dict(value["space"]),
            rates=Roofline(**{name: float(number) for name, number in value["rates"].items()}),
            offset=float(value["offset"]),
            least=float(value["least"]),
            most=float(value["most"]),
            spread=float(value["spread"]),
            center=array("center"),
            scale=array("scale"),
            coefficients=array("coefficients"),
            gaussian=None if gaussian is None else GaussianProcess.from_dict(gaussian),
            trees=None if trees is None else TreeEnsemble.from_dict(trees),
            low=array("low"),
            high=array("high"),
            rows=int(value["rows"]),
            model=str(value["model"]),
            error=float(value["error"]),
            median_error=float(value["median_error"]),
        )
        wide, numeric = (made.space.width,), (made.space.numeric,)
        fits = made.low.shape == made.high.shape == numeric and (
            made.center.shape == made.scale.shape == made.coefficients.shape == wide
        )
        if made.gaussian is not None:
            fits = fits and made.gaussian.points.shape[1:] == wide
        if made.trees is not None:
            fits = fits and made.trees.width <= wide[0]
        if not fits or (made.model == EXPECTED and made.trees is None):
            raise ValueError("its parts do not fit together")
        errors = made.error, made.median_error
        if not ((made.scale > 0).all() and min(errors) >= 0 and max(errors) < 1e6):
            raise ValueError("a scale or an error that is none")
        ratios = made.offset, made.least, made.most, made.spread
        if not max(map(abs, ratios)) < 1e3 or not made.least <= made.most or made.spread < 0:
            raise ValueError("a log ratio that is none")
        if not all(0 <= rate < 1e30 for rate in made.rates.to_dict().values()):
            raise ValueError("a rate that is none")
        return made


def _candidates(ms: np.ndarray, trees: bool) -> list[str]:
    """Models in order of complexity; one alone needs no choice."""
    full = FULL_MODEL if trees and len(ms) >= MIN_ROWS_FOR_TREES else SMOOTH_MODEL
    if np.mean(ms <= LEAST_MS) > SHARE_OF_FREE and len(ms) > 1:
        return [EXPECTED]
    if len(ms) >= ROWS_WITHOUT_CHOICE:
        return [full]
    names = ["offset"]
    if len(ms) >= MIN_ROWS_FOR_RIDGE:
        names += [f"ridge:{strength}" for strength in RIDGE_STRENGTHS]
    if len(ms) >= MIN_ROWS_FOR_GAUSSIAN:
        names.append(full)
    return names


def _by_rule(candidates: Sequence[str]) -> str:
    """The most complex model that has rows enough; of the ridges the middle one."""
    last = candidates[-1]
    return f"ridge:{RIDGE_STRENGTHS[1]}" if last.startswith("ridge:") else last


@dataclass(frozen=True)
class _Data:
    """The rows of one family as arrays."""

    kernels: list[Kernel]
    ms: np.ndarray
    roofline: Roofline  # of all families
    space: FeatureSpace
    features: np.ndarray

    def keep(self, index: np.ndarray) -> _Data:
        kernels = [self.kernels[i] for i in index]
        return _Data(kernels, self.ms[index], self.roofline, self.space, self.features[index])


def _fit(data: _Data, model: str, seed: int) -> KindRegressor:
    """Fit one candidate; its errors are not known yet."""
    features = data.features
    center, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)
    coefficients = np.zeros(features.shape[1])
    gaussian, trees = None, None
    timed = np.flatnonzero(data.ms > LEAST_MS)
    rates = data.roofline
    if len(timed):
        rates = rates.of_family([data.kernels[i] for i in timed], data.ms[timed])
    estimate = rates.estimate(data.kernels)
    target = np.log(np.maximum(data.ms, LEAST_MS) / estimate)
    shown = target[timed] if len(timed) else target
    name, _, strength = model.partition(":")
    if name == EXPECTED:
        ratio = data.ms / estimate
        offset = float(np.average(ratio, weights=estimate))
        trees = fit_trees(features, ratio - offset, seed=seed, weights=estimate)
    else:
        offset = float(np.median(target))
        if name != "offset":
            standard = np.clip((features - center) / scale, -4.0, 4.0)
            weights = _weights(data.ms)
            offset = float(np.average(target, weights=weights))
            weighted = standard * weights[:, None]
            gram = weighted.T @ standard + float(strength) * np.eye(standard.shape[1])
            coefficients = np.linalg.solve(gram, weighted.T @ (target - offset))
            residual = target - offset - standard @ coefficients
            if "gaussian" in name:
                gaussian = fit_gaussian(standard, residual, seed=seed, weights=weights)
            if "trees" in name:
                trees = fit_boosted(features, residual, seed=seed, weights=weights)
    return KindRegressor(
        space=data.space,
        rates=rates,
        offset=offset,
        least=float(shown.min()),
        most=float(shown.max()),
        spread=float(shown.std()) if len(shown) > 1 else 0.7,
        center=center,
        scale=scale,
        coefficients=coefficients,
        gaussian=gaussian,
        trees=trees,
        low=features[:, : data.space.numeric].min(axis=0),
        high=features[:, : data.space.numeric].max(axis=0),
        rows=len(data.ms),
        model=model,
        error=0.7,
        median_error=0.7,
    )


def _weights(ms: np.ndarray) -> np.ndarray:
    """How much each kernel counts, 1 on average."""
    weights = np.clip(ms / max(float(np.median(ms)), LEAST_MS), LIGHTEST, HEAVIEST)
    return np.asarray(weights / weights.mean())


def _cross_validated(data: _Data, model: str, roofline: Roofline, seed: int) -> np.ndarray:
    """Absolute relative error of each row when it is left out; of the family where it is free."""
    order = np.random.default_rng(seed).permutation(len(data.ms))
    out = np.empty(len(data.ms))
    for fold in np.array_split(order, min(FOLDS, len(order))):
        rest = _fit(data.keep(np.setdiff1d(order, fold)), model, seed)
        out[fold] = rest.predict_ms(data.keep(fold).kernels, roofline)
    floor = max(float(np.mean(data.ms)) / 10, LEAST_MS) if model == EXPECTED else LEAST_MS
    return np.asarray(np.minimum(np.abs(out - data.ms) / np.maximum(data.ms, floor), WORST))


def fit_kind(
    kernels: Sequence[Kernel],
    ms: np.ndarray,
    roofline: Roofline,
    *,
    seed: int,
    evaluate: bool = True,
    trees: bool = True,
) -> KindRegressor:
    """Fit one family; at least one row.

    ``evaluate=False`` skips the cross-validation: the model goes by the number of rows, ``error``
    is a placeholder. ``trees=False`` fits sooner, without the boosted trees.
    """
    space = FeatureSpace.of(kernels)
    data = _Data(list(kernels), np.asarray(ms, float), roofline, space, space.matrix(kernels))
    candidates = _candidates(data.ms, trees)
    if len(ms) < 2 or not evaluate:
        return _fit(data, _by_rule(candidates), seed)
    best, best_error, residual = candidates[0], float("inf"), np.full(1, 0.7)
    for model in candidates:
        relative = _cross_validated(data, model, roofline, seed)
        error = float(np.mean(np.minimum(relative, 2.0)))
        if error < best_error * GAIN_TO_PREFER:
            best, best_error, residual = model, error, relative
    fitted = _fit(data, best, seed)
    return KindRegressor(
        **{
            **vars(fitted),
            "error": float(np.quantile(residual, 0.9)),
            "median_error": float(np.median(residual)),
        }
    )
