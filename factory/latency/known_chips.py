"""The tables of known chips, ready for a new one: prior, choice of networks, fit, calibration.

Calibration is cross-conformal over chips: every known chip in turn is treated as the new one, its
family left out; the interval's width is multiplied by the factor with which it would have covered
90 % of their networks (split conformal on |error| over the predicted deviation, every chip counts
the same). Nothing of the new chip goes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from factory.core.errors import InputError
from factory.latency.design import choose
from factory.latency.few_shot import Z_90, FewShot, Interval, fit_few_shot
from factory.latency.intervals import COVERAGE
from factory.latency.pool import PoolPrior, Views, fit_pool, stack_views
from factory.latency.pool_shape import PoolFunctions, pool_functions

CALIBRATION_NETWORKS = 2000
QUANTILES = 401  # of a chip's errors, so that every chip counts the same


@dataclass(frozen=True)
class Adapted:
    """The predictor of the new chip, with what it needs to describe networks."""

    mixture: FewShot
    functions: PoolFunctions | None

    def predict(self, views: Views, details: Views | None = None) -> Interval:
        """Latency of networks with a 90 % interval; views and details as for the pool."""
        if self.functions is None:
            return self.mixture.predict(views)
        if details is None:
            raise InputError("the networks' finer features are missing")
        return self.mixture.predict(self.functions.extend(views, details))


class KnownChips:
    """Known chips' tables over the same networks.

    Args:
        views: V arrays [N, K], the networks' counts under each assumption of what runs.
        pool_ms_ND: milliseconds of each network on each chip; NaN where not measured.
        details: V arrays [N, F], finer features under the same assumptions, if any.
    """

    def __init__(self, views: Views, pool_ms_ND: np.ndarray, details: Views | None = None) -> None:
        self.views = stack_views(views)
        self.details = None if details is None else stack_views(details)
        self.pool_ms_ND = np.asarray(pool_ms_ND, dtype=np.float64)
        self.sums: PoolPrior = fit_pool(self.views, self.pool_ms_ND)
        self.functions: PoolFunctions | None = None
        if self.details is not None:
            self.functions = pool_functions(self.views, self.details, self.pool_ms_ND, self.sums)
        self._prepare()

    def _prepare(self) -> None:
        self._prior, self._extended = self.sums, self.views
        if self.functions is not None and self.details is not None:
            self._prior = self.functions.centres(self.sums)
            self._extended = np.stack(self.functions.extend(self.views, self.details))

    def only(self, kept_D: np.ndarray) -> KnownChips:
        """Some of the chips (a mask), as if the others had never been seen; nothing is refitted."""
        if not kept_D.any():
            raise InputError("no known chip is left", fix="keep the table of one or more")
        fewer = copy(self)
        fewer.pool_ms_ND = self.pool_ms_ND[:, kept_D]
        fewer.sums = self.sums.only(kept_D)
        if self.functions is not None:
            fewer.functions = PoolFunctions(self.functions.coefficients_FD[:, kept_D])
        fewer._prepare()
        return fewer

    def choose(self, count: int, *, seed: int = 0) -> np.ndarray:
        """Numbers of the networks to measure on the new chip (design.py)."""
        return choose(self.sums, self.views, count, seed=seed)

    def fit(self, chosen: np.ndarray, measured_ms: np.ndarray, stretch: float = 1.0) -> Adapted:
        """The new chip's predictor from its measurements of the networks ``chosen``."""
        found = fit_few_shot(self._prior, self._extended, chosen, measured_ms)
        return Adapted(replace(found, stretch=stretch), self.functions)

    def calibrate(self, families: Sequence[str], chosen: np.ndarray) -> float:
        """The factor for the interval's width; 1 where all chips are of one family."""
        names = np.asarray(families)
        if names.shape != self.pool_ms_ND.shape[1:]:
            raise InputError(f"{len(names)} families for {self.pool_ms_ND.shape[1]} chips")
        others = np.setdiff1d(np.arange(len(self.pool_ms_ND)), chosen)
        others = others[:: max(1, len(others) // CALIBRATION_NETWORKS)]
        ratios = []
        for family in dict.fromkeys(families):
            inside = names == family
            if inside.all():
                return 1.0
            known = self.only(~inside)
            for ms_N in self.pool_ms_ND[:, inside].T:
                ratios.append(known._ratios(ms_N, chosen, others))
        return float(np.quantile(np.concatenate(ratios), COVERAGE))

    def _ratios(self, ms_N: np.ndarray, chosen: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Quantiles of |error| over the interval's reach for one chip taken as new."""
        measured, known = chosen[~np.isnan(ms_N[chosen])], others[~np.isnan(ms_N[others])]
        if not len(measured) or not len(known):
            return np.empty(0)
        found = fit_few_shot(self._prior, self._extended, measured, ms_N[measured])
        predicted_N, deviation_N = found.moments(self._extended[:, known])
        ratio_N = np.abs(ms_N[known] - predicted_N) / (Z_90 * deviation_N)
        return np.asarray(np.quantile(ratio_N, np.linspace(0, 1, QUANTILES)))
