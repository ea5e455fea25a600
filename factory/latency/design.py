"""Which networks to measure on a new chip: a choice by design, not by chance.

The prior of the pool (pool.py) makes the chip's latencies over all networks a Gaussian with a
covariance of low rank. Networks are chosen one after the other, each the one whose measurement
lowers the mean predictive variance over the whole population most (Bayesian A-optimality over
predictions: Chaloner and Verdinelli 1995; "transductive" design: Yu, Bi and Tresp, ICML 2006),
then exchanged as long as that helps. Where the views differ (what the runtime runs), so does the
prior mean: that difference is part of the covariance, so networks that tell views apart are
among the chosen. Without a pool, :func:`d_optimal` uses the features alone.
Legend: N networks, c candidates, p population sample, r rank.
"""

from __future__ import annotations

import numpy as np

from factory.core.errors import InputError
from factory.latency.few_shot import SCALE_SPREAD
from factory.latency.pool import LEAST_SHARE, PoolPrior, Views, stack_views

MAX_CANDIDATES = 4000
MAX_POPULATION = 1500
EXCHANGES = 3


def choose(
    prior: PoolPrior,
    views: Views,
    count: int,
    *,
    seed: int = 0,
    noise: float | None = None,
) -> np.ndarray:
    """Numbers of ``count`` networks to measure, the most informative first.

    Args:
        prior: from the tables of known chips.
        views: V arrays [N, K].
        count: how many networks.
        seed: of the samples of candidates and population where N is large.
        noise: expected noise of a measurement, a share; default: the pool's typical one.
    """
    factor_Nr = covariance_factor(prior, views)
    total = len(factor_Nr)
    if not 1 <= count <= total:
        raise InputError(f"cannot choose {count} of {total} networks")
    rng = np.random.default_rng(seed)
    candidates = np.sort(rng.permutation(total)[: max(MAX_CANDIDATES, count)])
    population = np.sort(rng.permutation(total)[:MAX_POPULATION])
    share = prior.noise if noise is None else noise
    chosen = _greedy(factor_Nr[candidates], factor_Nr[population], count, share**2)
    chosen = _exchange(factor_Nr[candidates], factor_Nr[population], chosen, share**2)
    return candidates[np.array(chosen)]


def covariance_factor(prior: PoolPrior, views: Views) -> np.ndarray:
    """B [N, r] with B B' = covariance of the relative latencies under the prior of all views."""
    counts_VNK = stack_views(views)
    covariance = prior.covariance_KK + SCALE_SPREAD**2 * np.outer(prior.mean_K, prior.mean_K)
    root_KK = np.linalg.cholesky(covariance)
    means_VN = counts_VNK @ prior.mean_K
    typical_N = np.maximum(means_VN.mean(0), LEAST_SHARE)
    share = 1.0 / np.sqrt(len(counts_VNK))
    columns = [share * counts_NK @ root_KK for counts_NK in counts_VNK]
    columns.append(share * (means_VN - means_VN.mean(0)).T)
    return np.asarray(np.hstack(columns) / typical_N[:, None])


def _after(chosen_nr: np.ndarray, noise: float) -> np.ndarray:
    """Posterior covariance [r, r] of the coefficients after measuring ``chosen_nr``."""
    rank = chosen_nr.shape[1]
    return np.asarray(np.linalg.inv(np.eye(rank) + chosen_nr.T @ chosen_nr / noise))


def _gains(
    candidates_cr: np.ndarray, population_pr: np.ndarray, covariance_rr: np.ndarray, noise: float
) -> np.ndarray:
    """Fall of the population's summed variance that each candidate would bring, [c]."""
    carried_cr = candidates_cr @ covariance_rr
    variance_c = np.einsum("cr,cr->c", carried_cr, candidates_cr) + noise
    moment_rr = population_pr.T @ population_pr
    return np.asarray(np.einsum("cr,rs,cs->c", carried_cr, moment_rr, carried_cr) / variance_c)


def _greedy(
    candidates_cr: np.ndarray, population_pr: np.ndarray, count: int, noise: float
) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        covariance_rr = _after(candidates_cr[chosen], noise)
        gain_c = _gains(candidates_cr, population_pr, covariance_rr, noise)
        gain_c[chosen] = -np.inf
        chosen.append(int(np.argmax(gain_c)))
    return chosen


def _exchange(
    candidates_cr: np.ndarray, population_pr: np.ndarray, chosen: list[int], noise: float
) -> list[int]:
    """Replace one network at a time while that lowers the variance (Fedorov 1972)."""
    for _ in range(EXCHANGES):
        before = list(chosen)
        for place in range(len(chosen)):
            others = chosen[:place] + chosen[place + 1 :]
            covariance_rr = _after(candidates_cr[others], noise)
            gain_c = _gains(candidates_cr, population_pr, covariance_rr, noise)
            gain_c[others] = -np.inf
            chosen[place] = int(np.argmax(gain_c))
        if chosen == before:
            break
    return chosen


def d_optimal(features_NK: np.ndarray, count: int, *, ridge: float = 0.01) -> np.ndarray:
    """Greedy D-optimal choice on the features alone: each next network is the least known one."""
    features_NK = np.asarray(features_NK, dtype=np.float64)
    if not 1 <= count <= len(features_NK):
        raise InputError(f"cannot choose {count} of {len(features_NK)} networks")
    information = ridge * np.eye(features_NK.shape[1])
    chosen: list[int] = []
    for _ in range(count):
        solved = np.linalg.solve(information, features_NK.T)
        leverage_N = np.einsum("nk,kn->n", features_NK, solved)
        leverage_N[chosen] = -np.inf
        chosen.append(int(np.argmax(leverage_N)))
        information = information + np.outer(features_NK[chosen[-1]], features_NK[chosen[-1]])
    return np.array(chosen)
