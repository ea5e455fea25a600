"""What tables of known chips say about a new one: a prior over the weights of an additive model.

A network is described by a row of counts (how often each kind of operator runs); a device's time
is counts @ weights. What a runtime runs is not known beforehand (one may drop operators that
cannot change the output, another run them), so there are several *views*: the same columns,
counted under different assumptions. Every pool device is fitted under each view and keeps the one
that explains it best; scaled to mean 1, the devices' weights are a sample of a distribution. The prior
for the next device, whatever its view turns out to be, is a mixture: it lies around the pool's
mean, or around one known device (a kernel density over devices), at a distance in multiples of the
devices' covariance. A pool of one device (another runtime on the same chip) gives its weights, each
with a wide spread.
Legend: N networks, K counts, V views, D pool devices, C centres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.core.errors import InputError

Views = Sequence[np.ndarray] | np.ndarray  # V arrays [N, K], or one [V, N, K]

LEAST_SHARE = 0.1  # of a typical latency: noise of smaller networks does not shrink further
REWEIGHTINGS = 4
OUTLIER = 2.5  # robust standard deviations beyond which a measurement loses weight (Huber)
SPREAD = 0.03  # of each weight's own variance added to the covariance of few devices
ALONE = 0.5  # one known device: each weight of the next may differ by that share
NOISE_FLOOR = 0.002


@dataclass(frozen=True)
class PoolPrior:
    """Prior over the weights of a device whose mean latency is 1.

    Args:
        mean_K: mean weights of the pool's devices.
        covariance_KK: their covariance, spread where the pool is small.
        noise_D: scatter of each device around its fit, as a share (robust standard deviation).
        view_D: number of the view that fits each device best.
        centres_CK: weights of what the next device may lie near: the pool's mean, each device.
        chance_C: prior probability of each centre.
    """

    mean_K: np.ndarray
    covariance_KK: np.ndarray
    noise_D: np.ndarray
    view_D: np.ndarray
    centres_CK: np.ndarray
    chance_C: np.ndarray

    @property
    def noise(self) -> float:
        """Typical scatter of a device, as a share."""
        return float(np.median(self.noise_D))

    def only(self, kept_D: np.ndarray) -> PoolPrior:
        """The prior of some of the devices (a mask), as if the others had never been seen."""
        weights_DK = self.centres_CK[len(self.centres_CK) - len(self.view_D) :]
        return _prior(weights_DK[kept_D], self.noise_D[kept_D], self.view_D[kept_D])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PoolPrior:
        """The inverse of :meth:`to_dict`."""
        return cls(
            np.asarray(value["mean_K"], dtype=np.float64),
            np.asarray(value["covariance_KK"], dtype=np.float64),
            np.asarray(value["noise_D"], dtype=np.float64),
            np.asarray(value["view_D"], dtype=np.int64),
            np.asarray(value["centres_CK"], dtype=np.float64),
            np.asarray(value["chance_C"], dtype=np.float64),
        )


def check_ms(ms: np.ndarray, what: str) -> np.ndarray:
    """``ms`` as float64; InputError where a time is missing, not finite or not positive."""
    ms = np.asarray(ms, dtype=np.float64)
    wrong = np.argwhere(~np.isfinite(ms) | (ms <= 0))
    if len(wrong):
        place = ", ".join(str(int(i)) for i in wrong[0])
        raise InputError(
            f"{what} has a latency of {ms[tuple(wrong[0])]} ms at [{place}]",
            why="a latency is a positive number of milliseconds",
            fix="leave that network out or measure it again",
        )
    return ms


def stack_views(views: Views) -> np.ndarray:
    """Views as one array [V, N, K]."""
    if not len(views):
        raise InputError("no description of the networks was given", fix="give one view or more")
    shapes = {np.shape(view) for view in views}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        listed = ", ".join(str(np.shape(view)) for view in views)
        raise InputError(
            f"views of shapes {listed}", why="all views need the same networks and columns"
        )
    return np.asarray(views, dtype=np.float64)


def relative_fit(
    counts_NK: np.ndarray, ms_N: np.ndarray, *, ridge: float = 1e-9
) -> tuple[np.ndarray, float]:
    """(weights, scatter as a share) of a robust least squares of relative errors.

    Iteratively reweighted with Huber's weights (1964); a slight ridge resolves collinear columns.
    """
    floor = LEAST_SHARE * float(np.mean(ms_N))
    scale_N = np.maximum(ms_N, floor)
    trust_N = np.ones(len(ms_N))
    weights_K, scatter = np.zeros(counts_NK.shape[1]), 0.0
    for _ in range(REWEIGHTINGS):
        factor_N = np.sqrt(trust_N) / scale_N
        rows = counts_NK * factor_N[:, None]
        gram = rows.T @ rows
        gram += ridge * np.trace(gram) * np.eye(len(gram))
        weights_K = np.linalg.solve(gram, rows.T @ (ms_N * factor_N))
        predicted_N = counts_NK @ weights_K
        scale_N = np.maximum(predicted_N, floor)
        share_N = np.abs(ms_N - predicted_N) / scale_N
        scatter = max(1.4826 * float(np.median(share_N)), NOISE_FLOOR)
        trust_N = np.minimum(1.0, OUTLIER * scatter / np.maximum(share_N, 1e-12))
    return weights_K, scatter


def fit_pool(views: Views, pool_ms_ND: np.ndarray) -> PoolPrior:
    """The prior that tables of D devices over the same N networks give.

    Args:
        views: V arrays [N, K], the networks' counts under each assumption.
        pool_ms_ND: milliseconds of each network on each device; NaN where not measured.
    """
    counts_VNK = stack_views(views)
    pool_ms_ND = np.asarray(pool_ms_ND, dtype=np.float64)
    if pool_ms_ND.ndim != 2 or len(pool_ms_ND) != counts_VNK.shape[1]:
        raise InputError(
            f"a pool of shape {pool_ms_ND.shape} for {counts_VNK.shape[1]} networks",
            fix="give one row a network and one column a device",
        )
    if not pool_ms_ND.shape[1]:
        raise InputError("the pool has no device", fix="give the table of one known chip or more")
    found: list[tuple[np.ndarray, float, int]] = []
    for d, column_N in enumerate(pool_ms_ND.T):
        known = ~np.isnan(column_N)
        if known.sum() <= counts_VNK.shape[2]:
            raise InputError(
                f"device {d} of the pool has {int(known.sum())} latencies",
                why=f"{counts_VNK.shape[2]} weights cannot be told from them",
                fix="leave it out",
            )
        ms = check_ms(column_N[known], f"device {d} of the pool")
        ms = ms / ms.mean()
        fits = [relative_fit(counts_NK[known], ms) for counts_NK in counts_VNK]
        view = int(np.argmin([scatter for _, scatter in fits]))
        found.append((*fits[view], view))
    weights_DK = np.array([weights for weights, _, _ in found])
    scatter_D = np.array([scatter for _, scatter, _ in found])
    return _prior(weights_DK, scatter_D, np.array([view for _, _, view in found], dtype=np.int64))


def _prior(weights_DK: np.ndarray, noise_D: np.ndarray, view_D: np.ndarray) -> PoolPrior:
    """The prior that fitted devices give; the mean counts as much as all devices together."""
    mean_K, least = weights_DK.mean(0), 1e-5 * float(np.mean(weights_DK**2))
    if len(weights_DK) == 1:
        covariance_KK = np.diag((ALONE * mean_K) ** 2 + 100 * least)
        return PoolPrior(mean_K, covariance_KK, noise_D, view_D, mean_K[None], np.ones(1))
    covariance_KK = np.cov(weights_DK.T).reshape(len(mean_K), len(mean_K))
    covariance_KK = covariance_KK + np.diag(SPREAD * weights_DK.var(0) + least)
    chance_C = np.append(0.5, np.full(len(weights_DK), 0.5 / len(weights_DK)))
    centres_CK = np.vstack([mean_K, weights_DK])
    return PoolPrior(mean_K, covariance_KK, noise_D, view_D, centres_CK, chance_C)
