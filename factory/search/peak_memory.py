"""Peak activation memory of the network that ships, as a cost of the cell space.

It is a maximum over the steps of the network (graph/counts.py), so no sum over kernels. For the
gradient and for proposals a line in the one-hot code is fitted to random genotypes (ridge
regression); wherever a network is checked, the exact value counts: the limit holds for what ships.
Most networks of a size share one value, the joined output of the first cells.
Legend: N genotypes, M numbers of a code.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.presence import PresenceMatrix
from factory.search.costs import CostTerm
from factory.spaces.base import SearchSpace
from factory.spaces.genotype import CELL_TYPES

SAMPLES = 300
RIDGE = 3.0
NAME = "peak_memory_mb"
MEMORY = Kernel("PeakMemory", ((1,),))  # stands for the whole network in the presence matrix


def peak_memory_term(space: SearchSpace[Any], limit_mb: float | None, seed: int = 0) -> CostTerm:
    """The term; takes a few seconds for the random genotypes."""
    return _fitted(space.spec, type(space), seed).with_limit(limit_mb)


@lru_cache(maxsize=8)
def _fitted(spec: Any, kind: type[Any], seed: int) -> CostTerm:
    space = kind(spec)
    exact = lru_cache(maxsize=4096)(lambda architecture: space.counts(architecture).peak_memory_mb)
    rng = np.random.default_rng([seed, 23])
    pool = [space.random(rng) for _ in range(SAMPLES)]
    values_N = np.array([exact(architecture) for architecture in pool])
    q = space.one_hot_many(pool)
    codes_NM = np.concatenate([q[name].reshape(len(pool), -1) for name in CELL_TYPES], 1)
    centre_M = codes_NM.mean(0)
    x_NM = codes_NM - centre_M
    gram = x_NM.T @ x_NM + RIDGE * np.eye(x_NM.shape[1])
    slope_M = np.linalg.solve(gram, x_NM.T @ (values_N - values_N.mean()))
    # value = base + sum of slopes where chosen = (base + all slopes) - slopes where not chosen
    base = float(values_N.mean() - centre_M @ slope_M)
    monomials, coefficients = [], []
    shape = q[CELL_TYPES[0]].shape[1:]
    for name, part in zip(CELL_TYPES, np.split(slope_M, len(CELL_TYPES)), strict=True):
        for i in np.flatnonzero(part):
            mask = np.zeros(shape, dtype=bool)
            mask.reshape(-1)[i] = True
            monomials.append((name, mask))
            coefficients.append(-part[i])
    presence = PresenceMatrix(
        (MEMORY,), np.array([base + slope_M.sum()]), monomials, np.array([coefficients])
    )
    pairs = sorted(zip(values_N.tolist(), range(len(pool)), strict=True))
    return CostTerm(
        NAME,
        presence,
        np.ones(1),
        unit="MB",
        exact=exact,
        pool=tuple(pool[i] for _, i in pairs),
    )
