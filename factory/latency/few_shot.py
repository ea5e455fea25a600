"""A predictor for a new chip from known chips and about ten measured networks.

The time of a network is counts @ weights with relative noise. The weights' prior comes from the
pool (pool.py); what is not known is averaged over: the view (what the runtime runs), which known
device the new chip resembles, how far it lies from it, and the noise. Each combination h is a
Bayesian linear regression

    ms = s * counts_v @ w,  w ~ N(m_c, t^2 C + a^2 m_c m_c'),  noise ~ Student-t, sd sigma typical,

with centre m_c (the pool's mean or one device), solved with reweighted rows (Student-t as a scale
mixture of normals, Lange et al. 1989) and weighted by its evidence; the prediction is the
mixture's mean. All combinations count the same beforehand. Where every measured time is a
multiple of a coarse unit, the rounding error of that unit is added to the noise.
Transfer from one runtime to another on a chip is the same computation with the known runtime's
table among the pool's. Ten numbers in, plain arrays out: no seed.
Legend: N networks, n measured ones, K counts, V views, H combinations, C centres.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from factory.core.errors import InputError
from factory.latency.pool import LEAST_SHARE, PoolPrior, Views, check_ms, stack_views

SCHEMA_VERSION = 2
DISTANCES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)  # t: multiples of the pool's own spread
NOISES = (0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.15)
FREEDOM = 4.0  # nu of the noise: measurements on phones have outliers
SCALE_SPREAD = 0.5  # a: the first guess of the chip's speed may be off by that share
ITERATIONS = 8
UNITS_MS = (1.0, 0.1, 0.01)
Z_90 = 1.6449


class Interval(NamedTuple):
    """Predictions [N] in milliseconds with the bounds of their 90 % interval."""

    ms: np.ndarray
    low_ms: np.ndarray
    high_ms: np.ndarray


@dataclass(frozen=True)
class FewShot:
    """The fitted mixture, gathered by view (its first two moments are exact); numpy alone.

    Args:
        share_V: probability of each view.
        weights_VK: posterior mean under it, ms a count.
        covariance_VKK: posterior covariance under it.
        noise_V: noise as a share, root mean square.
        floor_ms: the noise of networks below this time does not shrink further.
        unit_ms: unit that the measured times are whole multiples of, or 0.
        stretch: calibrated multiple of the interval's width (known_chips.py).
    """

    share_V: np.ndarray
    weights_VK: np.ndarray
    covariance_VKK: np.ndarray
    noise_V: np.ndarray
    floor_ms: float
    unit_ms: float
    stretch: float = 1.0

    def predict(self, views: Views) -> Interval:
        """Latency of the networks that ``views`` describe, with a 90 % interval."""
        ms_N, deviation_N = self.moments(views)
        reach_N = Z_90 * self.stretch * deviation_N
        return Interval(ms_N, np.maximum(ms_N - reach_N, 0.0), ms_N + reach_N)

    def moments(self, views: Views) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the predictive distribution, ms."""
        counts_VNK = stack_views(views)
        if (len(counts_VNK), counts_VNK.shape[2]) != self.weights_VK.shape:
            raise InputError(
                f"{len(counts_VNK)} views of {counts_VNK.shape[2]} columns",
                why=f"the predictor was fitted on {len(self.weights_VK)} of "
                f"{self.weights_VK.shape[1]}",
            )
        mean_VN = np.einsum("vnk,vk->vn", counts_VNK, self.weights_VK)
        mean_N = np.maximum(self.share_V @ mean_VN, 0.02 * self.floor_ms)
        scale_N = np.maximum(mean_N, self.floor_ms)
        variance_N = np.full(len(mean_N), self.unit_ms**2 / 12)
        for v, counts_NK in enumerate(counts_VNK):
            spread_N = np.sum((counts_NK @ self.covariance_VKK[v]) * counts_NK, 1)
            spread_N = np.maximum(spread_N, 0.0) + (mean_VN[v] - mean_N) ** 2
            variance_N += self.share_V[v] * (spread_N + (self.noise_V[v] * scale_N) ** 2)
        return mean_N, np.sqrt(variance_N)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, with a schema version."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}
        return {"schema_version": SCHEMA_VERSION, "kind": "few_shot", **plain}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FewShot:
        """The inverse of :meth:`to_dict`."""
        if value.get("schema_version") != SCHEMA_VERSION or value.get("kind") != "few_shot":
            raise InputError(f"this is no few-shot predictor of schema version {SCHEMA_VERSION}")
        arrays = [
            np.asarray(value[name], dtype=np.float64)
            for name in ("share_V", "weights_VK", "covariance_VKK", "noise_V")
        ]
        floor_ms, unit_ms, stretch = (float(value[n]) for n in ("floor_ms", "unit_ms", "stretch"))
        return cls(arrays[0], arrays[1], arrays[2], arrays[3], floor_ms, unit_ms, stretch)


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
    found = [
        _solve(counts_nK, measured_ms, prior, centre, unit_ms)
        for counts_nK, centre in itertools.product(counts_VnK, range(len(prior.centres_CK)))
    ]
    log_VC = np.array([item.log_evidence_h.max() for item in found])
    best, count = float(log_VC.max()), len(prior.centres_CK)
    width = counts_VnK.shape[2]
    share_V, noise_V = np.zeros(len(counts_VnK)), np.zeros(len(counts_VnK))
    first_VK = np.zeros((len(counts_VnK), width))
    second_VKK = np.zeros((len(counts_VnK), width, width))
    floor = 0.0
    for number, item in enumerate(found):
        v = number // count
        share_h = np.exp(item.log_evidence_h - best)
        kept = share_h > 1e-7
        share_h = share_h[kept]
        if not len(share_h):
            continue
        mean_hK, covariance_hKK = item.posterior(kept)
        share_V[v] += share_h.sum()
        noise_V[v] += share_h @ item.sigma_h[kept] ** 2
        first_VK[v] += share_h @ mean_hK
        second_VKK[v] += np.einsum("h,hkl->kl", share_h, covariance_hKK)
        second_VKK[v] += np.einsum("h,hk,hl->kl", share_h, mean_hK, mean_hK)
        floor += LEAST_SHARE * item.speed * float(share_h.sum())
    mass_V = np.maximum(share_V, 1e-300)
    mean_VK = first_VK / mass_V[:, None]
    covariance_VKK = second_VKK / mass_V[:, None, None]
    covariance_VKK -= np.einsum("vk,vl->vkl", mean_VK, mean_VK)
    total = float(share_V.sum())
    noise_V = np.sqrt(noise_V / mass_V)
    return FewShot(share_V / total, mean_VK, covariance_VKK, noise_V, floor / total, unit_ms)


class _Solved(NamedTuple):
    """All distances and noises of one view and one centre."""

    log_evidence_h: np.ndarray
    sigma_h: np.ndarray
    speed: float
    mean_K: np.ndarray
    covariance_hKK: np.ndarray
    carried_hnK: np.ndarray
    inverse_hnn: np.ndarray
    residual_n: np.ndarray

    def posterior(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(means, covariances) of the weights in ms a count, of the combinations ``kept``."""
        gain_hKn = np.swapaxes(self.carried_hnK[kept], 1, 2) @ self.inverse_hnn[kept]
        mean_hK = self.speed * (self.mean_K + gain_hKn @ self.residual_n)
        left_hKK = self.covariance_hKK[kept] - gain_hKn @ self.carried_hnK[kept]
        return mean_hK, self.speed**2 * left_hKK


def _solve(
    counts_nK: np.ndarray, measured_ms: np.ndarray, prior: PoolPrior, centre: int, unit_ms: float
) -> _Solved:
    """Regressions of one view and centre; evidence by Laplace in the rows' trust."""
    mean_K = prior.centres_CK[centre]
    expected_n = counts_nK @ mean_K
    speed = _speed(measured_ms, np.maximum(expected_n, LEAST_SHARE))
    ms_n, unit = measured_ms / speed, unit_ms / speed
    t_h, sigma_h = (
        np.array(column) for column in zip(*itertools.product(DISTANCES, NOISES), strict=True)
    )
    covariance_hKK = t_h[:, None, None] ** 2 * prior.covariance_KK
    covariance_hKK = covariance_hKK + SCALE_SPREAD**2 * np.outer(mean_K, mean_K)
    carried_hnK = counts_nK @ covariance_hKK
    gram_hnn = carried_hnK @ counts_nK.T
    residual_n = ms_n - expected_n
    typical_hn = np.tile(np.maximum(expected_n, LEAST_SHARE), (len(t_h), 1))
    trust_hn = np.ones_like(typical_hn)
    eye_nn = np.eye(len(ms_n))
    for _ in range(ITERATIONS):
        noise_hn = (sigma_h[:, None] * typical_hn) ** 2 + unit**2 / 12
        inverse_hnn = np.linalg.inv(gram_hnn + eye_nn * (noise_hn / trust_hn)[:, :, None])
        smoother_hnn = gram_hnn @ inverse_hnn
        fitted_hn = expected_n + smoother_hnn @ residual_n
        variance_hn = np.einsum("hii->hi", gram_hnn - smoother_hnn @ gram_hnn)
        typical_hn = np.maximum(fitted_hn, LEAST_SHARE)
        left_hn = (ms_n - fitted_hn) ** 2 + variance_hn
        trust_hn = (FREEDOM + 1) / (FREEDOM + left_hn / noise_hn)
    noise_hn = (sigma_h[:, None] * typical_hn) ** 2 + unit**2 / 12
    total_hnn = gram_hnn + eye_nn * (noise_hn / trust_hn)[:, :, None]
    inverse_hnn = np.linalg.inv(total_hnn)
    evidence_h = -0.5 * np.einsum("i,hij,j->h", residual_n, inverse_hnn, residual_n)
    evidence_h = evidence_h - 0.5 * np.linalg.slogdet(total_hnn)[1]
    evidence_h = evidence_h + 0.5 * FREEDOM * np.sum(np.log(trust_hn) - trust_hn + 1, 1)
    # the density of the times, not of the times over the speed
    evidence_h = evidence_h - len(ms_n) * np.log(speed) + np.log(prior.chance_C[centre])
    return _Solved(
        evidence_h, sigma_h, speed, mean_K, covariance_hKK, carried_hnK, inverse_hnn, residual_n
    )


def _speed(measured_ms: np.ndarray, expected_n: np.ndarray) -> float:
    """First guess of ms a unit of the prior: the median ratio, weighted by the expected time.

    Networks of next to nothing (a cell that is a constant) must not set the scale.
    """
    ratio_n = measured_ms / expected_n
    order = np.argsort(ratio_n)
    weight_n = expected_n[order].cumsum()
    return float(ratio_n[order][np.searchsorted(weight_n, weight_n[-1] / 2)])


def _unit(measured_ms: np.ndarray) -> float:
    """The coarsest unit of UNITS_MS that all times are whole multiples of, or 0."""
    for unit in UNITS_MS:
        if np.all(np.abs(measured_ms / unit - np.round(measured_ms / unit)) < 1e-6):
            return unit
    return 0.0
