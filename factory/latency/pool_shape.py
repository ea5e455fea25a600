"""What known chips do beyond sums of operators: each pool device as a function of finer features.

A GPU hides short operators behind launches, a cache overflows at a certain width: no sum of counts
says that, but a chip that resembles a known one does the same. Each pool device's table is smoothed
by a robust ridge on finer features, which takes the measurements' noise out and carries it to
networks that no table has. As columns of the views these functions are further centres for the new
chip (pool.py): it may lie around device d as summed, around device d as it really is, or around the
mean of either.
Legend: N networks, K counts, V views, F finer features, D pool devices, C centres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from factory.core.errors import InputError
from factory.latency.pool import PoolPrior, Views, relative_fit, stack_views

RIDGE = 1e-8  # of the trace
LEAST = 0.02  # of a device's mean latency: no network is faster


@dataclass(frozen=True)
class PoolFunctions:
    """Each pool device's relative latency as a linear function of counts and finer features.

    Args:
        coefficients_FD: weights of the counts, the finer features and a constant.
    """

    coefficients_FD: np.ndarray

    def extend(self, views: Views, details: Views) -> list[np.ndarray]:
        """The views with one more column a device; ``details``: finer features of each view."""
        columns = zip(stack_views(views), stack_views(details), strict=True)
        return [
            np.hstack(
                [counts_NK, np.maximum(_columns(counts_NK, rows) @ self.coefficients_FD, LEAST)]
            )
            for counts_NK, rows in columns
        ]

    def centres(self, prior: PoolPrior) -> PoolPrior:
        """The prior for the extended views: half of the chance goes to the functions."""
        count = self.coefficients_FD.shape[1]
        unit = np.eye(count)
        functions = unit if count == 1 else np.vstack([unit.mean(0), unit])
        wide = np.pad(prior.centres_CK, ((0, 0), (0, count)))
        deep = np.pad(functions, ((0, 0), (len(prior.mean_K), 0)))
        return replace(
            prior,
            mean_K=np.pad(prior.mean_K, (0, count)),
            covariance_KK=np.pad(prior.covariance_KK, (0, count)),
            centres_CK=np.vstack([wide, deep]),
            chance_C=np.tile(prior.chance_C, 2) / 2,
        )


def pool_functions(
    views: Views, details: Views, pool_ms_ND: np.ndarray, prior: PoolPrior
) -> PoolFunctions:
    """The functions of the pool's devices, each under the view that ``prior`` found for it.

    Args:
        views: V arrays [N, K].
        details: V arrays [N, F], finer features counted under the same assumptions.
        pool_ms_ND: milliseconds; NaN where not measured.
        prior: of :func:`~factory.latency.pool.fit_pool` on the same pool.
    """
    counts_VNK, details_VNF = stack_views(views), stack_views(details)
    if details_VNF.shape[:2] != counts_VNK.shape[:2]:
        raise InputError(
            f"finer features of shape {details_VNF.shape[:2]}, views of {counts_VNK.shape[:2]}",
            why="each view needs the finer features of the same networks",
        )
    if pool_ms_ND.shape != (counts_VNK.shape[1], len(prior.view_D)):
        raise InputError(f"a pool of shape {pool_ms_ND.shape} for this prior")
    columns = []
    for d, v in enumerate(prior.view_D):
        known = ~np.isnan(pool_ms_ND[:, d])
        rows = _columns(counts_VNK[v][known], details_VNF[v][known])
        ms = pool_ms_ND[known, d] / pool_ms_ND[known, d].mean()
        columns.append(relative_fit(rows, ms, ridge=RIDGE)[0])
    return PoolFunctions(np.stack(columns, 1))


def _columns(counts_NK: np.ndarray, details_NF: np.ndarray) -> np.ndarray:
    return np.hstack([counts_NK, details_NF, np.ones((len(counts_NK), 1))])
