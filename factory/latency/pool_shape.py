"""What known chips have in common beyond sums of operators, as one more column of the views.

Devices of a pool deviate from counts @ weights in similar ways (a GPU hides short operators behind
launches, a cache overflows at a certain width). The relative residuals of the pool's devices under
their best view are brought to a common scale, their first singular vectors are the shared shapes,
and a ridge on finer features of the networks takes the measurements' noise out of them and carries
them to networks that no table has. As a column (shape times typical latency) a shape gets a weight
for the new chip like any operator: prior from the pool, then the few measurements.
Legend: N networks, K counts, F finer features, D pool devices, C shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factory.core.errors import InputError
from factory.latency.pool import LEAST_SHARE, PoolPrior, Views, fit_pool, relative_fit, stack_views

CLIP = 3.0  # robust standard deviations
LEVEL = 0.02  # of the latency: size of a column, so that weights are of the order of one
RIDGE = 1e-6


@dataclass(frozen=True)
class SharedShapes:
    """Shapes as linear functions of the finer features.

    Args:
        coefficients_FC: weight of each feature (the last row is a constant).
        mean_K: the pool's mean weights, for the typical latency.
    """

    coefficients_FC: np.ndarray
    mean_K: np.ndarray

    def extend(self, views: Views, details_NF: np.ndarray) -> list[np.ndarray]:
        """The views with one more column a shape."""
        shapes_NC = _with_constant(details_NF) @ self.coefficients_FC
        extended = []
        for counts_NK in stack_views(views):
            typical_N = np.maximum(counts_NK @ self.mean_K, LEAST_SHARE)
            extended.append(np.hstack([counts_NK, LEVEL * shapes_NC * typical_N[:, None]]))
        return extended


def shared_shapes(
    views: Views, details_NF: np.ndarray, pool_ms_ND: np.ndarray, count: int = 1
) -> SharedShapes:
    """The ``count`` strongest shapes of a pool whose tables are complete.

    Only devices whose best view is the pool's most frequent one are compared: the others run
    other operators.
    """
    counts_VNK = stack_views(views)
    details_NF = np.asarray(details_NF, dtype=np.float64)
    if len(details_NF) != counts_VNK.shape[1]:
        raise InputError(
            f"finer features of {len(details_NF)} networks, views of {counts_VNK.shape[1]}"
        )
    prior = fit_pool(views, pool_ms_ND)
    if not 1 <= count <= len(prior.view_D):
        raise InputError(f"{count} shapes cannot be told from {len(prior.view_D)} devices")
    shapes_NC = _residual_directions(counts_VNK, prior, pool_ms_ND)[:, :count]
    columns = _with_constant(details_NF)
    gram = columns.T @ columns
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    coefficients_FC = np.linalg.solve(gram, columns.T @ shapes_NC)
    size_C = (columns @ coefficients_FC).std(0)
    return SharedShapes(coefficients_FC / np.where(size_C > 1e-12, size_C, 1.0), prior.mean_K)


def _residual_directions(
    counts_VNK: np.ndarray, prior: PoolPrior, pool_ms_ND: np.ndarray
) -> np.ndarray:
    """Left singular vectors [N, D'] of the devices' clipped, scaled relative residuals."""
    view = int(np.bincount(prior.view_D).argmax())
    columns = []
    for d in np.flatnonzero(prior.view_D == view):
        ms_N = pool_ms_ND[:, d] / pool_ms_ND[:, d].mean()
        weights_K, scatter = relative_fit(counts_VNK[view], ms_N)
        predicted_N = np.maximum(counts_VNK[view] @ weights_K, LEAST_SHARE)
        columns.append(np.clip((ms_N / predicted_N - 1) / scatter, -CLIP, CLIP))
    residual_ND = np.stack(columns, 1)
    residual_ND -= residual_ND.mean(0)
    vectors_ND = np.linalg.svd(residual_ND, full_matrices=False)[0]
    # the sign of a singular vector is arbitrary: fix it
    largest = np.abs(vectors_ND).argmax(0)
    return np.asarray(vectors_ND * np.sign(vectors_ND[largest, np.arange(len(largest))]))


def _with_constant(details_NF: np.ndarray) -> np.ndarray:
    details_NF = np.asarray(details_NF, dtype=np.float64)
    return np.hstack([details_NF, np.ones((len(details_NF), 1))])
