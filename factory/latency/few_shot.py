"""A predictor for a new chip from known chips and about ten measured networks.

The time of a network is counts @ weights with relative noise. The weights' prior comes from the
pool (pool.py); what is not known is averaged over: the view (what the runtime runs), how far the
new chip may lie from the pool, and the noise. Each combination h is a Bayesian linear regression

    ms = s * counts_v @ w,  w ~ N(m, t^2 C + c^2 m m'),  noise ~ Student-t(nu), sd sigma * typical,

solved with reweighted rows (Student-t as a scale mixture of normals, Lange et al. 1989) and
weighted by its evidence; the prediction is the mixture's mean. Where every measured time is a
multiple of a coarse unit, the rounding error of that unit is added to the noise.
Transfer from one runtime to another on a chip is the same computation with the known runtime's
table among the pool's. Ten numbers in, plain arrays out: no seed.
Legend: N networks, n measured ones, K counts, V views, H combinations.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from factory.core.errors import InputError
from factory.latency.intervals import COVERAGE
from factory.latency.pool import LEAST_SHARE, PoolPrior, Views, check_ms, fit_pool, stack_views

DISTANCES = (0.5, 1.0, 2.0, 4.0)  # t: multiples of the pool's own spread
NOISES = (0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.15)
FREEDOM = 4.0  # nu of the noise: measurements on phones have outliers
SCALE_SPREAD = 0.5  # c: the first guess of the chip's speed may be off by that share
ITERATIONS = 8
UNITS_MS = (1.0, 0.1, 0.01)
Z_90 = 1.6449
CALIBRATION_NETWORKS = 2000
QUANTILES = 401  # of a pool device's errors, so that every device counts the same


class Interval(NamedTuple):
    """Predictions [N] in milliseconds with the bounds of their 90 % interval."""

    ms: np.ndarray
    low_ms: np.ndarray
    high_ms: np.ndarray


@dataclass(frozen=True)
class FewShot:
    """The fitted mixture; ``predict`` needs numpy alone.

    Args:
        share_H: probability of each combination.
        view_H: view of each combination.
        weights_HK: its posterior mean, ms a count.
        covariance_HKK: its posterior covariance.
        noise_H: its noise as a share.
        floor_ms: the noise of networks below this time does not shrink further.
        unit_ms: unit that the measured times are whole multiples of, or 0.
        stretch: calibrated multiple of the interval's width (:func:`calibrate`).
    """

    share_H: np.ndarray
    view_H: np.ndarray
    weights_HK: np.ndarray
    covariance_HKK: np.ndarray
    noise_H: np.ndarray
    floor_ms: float
    unit_ms: float
    stretch: float = 1.0

    def view_shares(self, views: int) -> np.ndarray:
        """Probability of each view."""
        return np.bincount(self.view_H, self.share_H, minlength=views)

    def predict(self, views: Views) -> Interval:
        """Latency of the networks that ``views`` describe, with a 90 % interval."""
        ms_N, deviation_N = self.moments(views)
        reach_N = Z_90 * self.stretch * deviation_N
        return Interval(ms_N, np.maximum(ms_N - reach_N, 0.0), ms_N + reach_N)

    def moments(self, views: Views) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the predictive distribution, ms."""
        counts_VNK = stack_views(views)
        if len(counts_VNK) <= self.view_H.max() or counts_VNK.shape[2] != self.weights_HK.shape[1]:
            raise InputError(
                f"{len(counts_VNK)} views of {counts_VNK.shape[2]} columns",
                why="the predictor was fitted on other ones",
            )
        mean_N = np.zeros(counts_VNK.shape[1])
        for v, counts_NK in enumerate(counts_VNK):
            mean_N += counts_NK @ (
                self.share_H[self.view_H == v] @ self.weights_HK[self.view_H == v]
            )
        mean_N = np.maximum(mean_N, 0.02 * self.floor_ms)
        variance_N = np.full(len(mean_N), self.unit_ms**2 / 12)
        scale_N = np.maximum(mean_N, self.floor_ms)
        for h, v in enumerate(self.view_H):
            if self.share_H[h] > 1e-6:
                counts_NK = counts_VNK[v]
                spread_N = np.sum((counts_NK @ self.covariance_HKK[h]) * counts_NK, 1)
                spread_N += (counts_NK @ self.weights_HK[h] - mean_N) ** 2
                variance_N += self.share_H[h] * (spread_N + (self.noise_H[h] * scale_N) ** 2)
        return mean_N, np.sqrt(variance_N)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, with a schema version."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}
        return {"schema_version": 1, "kind": "few_shot", **plain}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FewShot:
        """The inverse of :meth:`to_dict`."""
        if value.get("schema_version") != 1 or value.get("kind") != "few_shot":
            raise InputError("this is no few-shot predictor of schema version 1")
        fields: dict[str, Any] = {
            name: np.asarray(value[name], dtype=np.int64 if name == "view_H" else np.float64)
            for name in cls.__dataclass_fields__
            if name.endswith(("_H", "_HK", "_HKK"))
        }
        for name in ("floor_ms", "unit_ms", "stretch"):
            fields[name] = float(value[name])
        return cls(**fields)


def fit_few_shot(
    prior: PoolPrior, views: Views, chosen: np.ndarray, measured_ms: np.ndarray
) -> FewShot:
    """The predictor of a new chip.

    Args:
        prior: from the tables of known chips.
        views: V arrays [N, K].
        chosen: numbers of the measured networks, rows of the views.
        measured_ms: their latencies on the new chip.
    """
    counts_VnK = stack_views(views)[:, np.asarray(chosen, dtype=np.int64)]
    measured_ms = check_ms(measured_ms, "the new chip")
    if measured_ms.shape != counts_VnK.shape[1:2] or not len(measured_ms):
        raise InputError(f"{measured_ms.size} latencies for {counts_VnK.shape[1]} chosen networks")
    unit_ms = _unit(measured_ms)
    solved = []
    for v, t, sigma in itertools.product(range(len(counts_VnK)), DISTANCES, NOISES):
        prior_ms = np.maximum(counts_VnK[v] @ prior.mean_K, LEAST_SHARE)
        speed = float(np.exp(np.median(np.log(measured_ms / prior_ms))))
        covariance = t**2 * prior.covariance_KK
        covariance = covariance + SCALE_SPREAD**2 * np.outer(prior.mean_K, prior.mean_K)
        found = _regression(
            counts_VnK[v], measured_ms / speed, prior.mean_K, covariance, sigma, unit_ms / speed
        )
        # the density of the times, not of the times over the speed
        evidence = found.evidence - len(measured_ms) * np.log(speed)
        solved.append((evidence, v, sigma, speed, found))
    evidence_H = np.array([item[0] for item in solved])
    share_H = np.exp(evidence_H - evidence_H.max())
    share_H /= share_H.sum()
    return FewShot(
        share_H,
        np.array([item[1] for item in solved]),
        np.array([item[3] * item[4].mean_K for item in solved]),
        np.array([item[3] ** 2 * item[4].covariance_KK for item in solved]),
        np.array([item[2] for item in solved]),
        floor_ms=float(LEAST_SHARE * share_H @ np.array([item[3] for item in solved])),
        unit_ms=unit_ms,
    )


class _Posterior(NamedTuple):
    evidence: float
    mean_K: np.ndarray
    covariance_KK: np.ndarray


def _regression(
    counts_nK: np.ndarray,
    ms_n: np.ndarray,
    mean_K: np.ndarray,
    covariance_KK: np.ndarray,
    sigma: float,
    unit: float,
) -> _Posterior:
    """Posterior of the weights and log evidence (Laplace in the rows' trust) of one combination."""
    residual_n = ms_n - counts_nK @ mean_K
    carried_nK = counts_nK @ covariance_KK
    gram_nn = carried_nK @ counts_nK.T
    typical_n = np.maximum(counts_nK @ mean_K, LEAST_SHARE)
    trust_n = np.ones(len(ms_n))
    for _ in range(ITERATIONS):
        noise_n = (sigma * typical_n) ** 2 + unit**2 / 12
        inverse_nn = np.linalg.inv(gram_nn + np.diag(noise_n / trust_n))
        weights_K = mean_K + carried_nK.T @ (inverse_nn @ residual_n)
        fitted_n = counts_nK @ weights_K
        left_n = (ms_n - fitted_n) ** 2 + np.diag(gram_nn - gram_nn @ inverse_nn @ gram_nn)
        typical_n = np.maximum(fitted_n, LEAST_SHARE)
        trust_n = (FREEDOM + 1) / (FREEDOM + left_n / noise_n)
    noise_n = (sigma * typical_n) ** 2 + unit**2 / 12
    total_nn = gram_nn + np.diag(noise_n / trust_n)
    inverse_nn = np.linalg.inv(total_nn)
    evidence = -0.5 * residual_n @ inverse_nn @ residual_n
    evidence -= 0.5 * np.linalg.slogdet(total_nn)[1]
    evidence += 0.5 * FREEDOM * np.sum(np.log(trust_n) - trust_n + 1)
    weights_K = mean_K + carried_nK.T @ (inverse_nn @ residual_n)
    posterior_KK = covariance_KK - carried_nK.T @ inverse_nn @ carried_nK
    return _Posterior(float(evidence), weights_K, posterior_KK)


def calibrate(
    views: Views,
    pool_ms_ND: np.ndarray,
    families: Sequence[str],
    chosen: np.ndarray,
) -> float:
    """Multiple of the interval's width that covers 90 % on the pool's own devices.

    Every pool device in turn is treated as the new chip, its family left out of the pool; the
    multiple is the 90 % quantile of |error| / reach over all of them (split conformal, scaled by
    the predicted deviation). Nothing of the new chip goes in.
    """
    counts_VNK = stack_views(views)
    others = np.setdiff1d(np.arange(counts_VNK.shape[1]), chosen)
    others = others[:: max(1, len(others) // CALIBRATION_NETWORKS)]
    names = np.asarray(families)
    ratios = []
    for family in dict.fromkeys(families):
        outside = np.flatnonzero(names != family)
        if not len(outside):
            return 1.0
        prior = fit_pool(counts_VNK, pool_ms_ND[:, outside])
        for d in np.flatnonzero(names == family):
            known = others[~np.isnan(pool_ms_ND[others, d])]
            measured = chosen[~np.isnan(pool_ms_ND[chosen, d])]
            if len(measured) and len(known):
                found = fit_few_shot(prior, counts_VNK, measured, pool_ms_ND[measured, d])
                ms_N, deviation_N = found.moments(counts_VNK[:, known])
                ratio_N = np.abs(pool_ms_ND[known, d] - ms_N) / (Z_90 * deviation_N)
                ratios.append(np.quantile(ratio_N, np.linspace(0, 1, QUANTILES)))
    return float(np.quantile(np.concatenate(ratios), COVERAGE)) if ratios else 1.0


def _unit(measured_ms: np.ndarray) -> float:
    """The coarsest unit of UNITS_MS that all times are whole multiples of, or 0."""
    for unit in UNITS_MS:
        if np.all(np.abs(measured_ms / unit - np.round(measured_ms / unit)) < 1e-6):
            return unit
    return 0.0
