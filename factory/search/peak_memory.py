"""Peak activation memory of the network that ships, as a cost.

It is a maximum over the steps of the network (graph/counts.py), so no sum over kernels. In a small
space it is known for every network. In a large one a line in the one-hot code is fitted to random
networks (ridge regression), for the gradient and for proposals; wherever a network is checked, the
exact value counts: the limit holds for what ships.
Most networks of a size share one value, the joined output of the first cells.
Legend: N networks, M numbers of a code.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.presence import PresenceMatrix
from factory.search.costs import CostTerm
from factory.spaces.base import SearchSpace
from factory.spaces.expectation import buildable_choices, of_each_network

SAMPLES = 300
RIDGE = 3.0
NAME = "peak_memory_mb"
MEMORY = Kernel("PeakMemory", ((1,),))  # stands for the whole network in the presence matrix


def peak_memory_term(space: SearchSpace[Any], limit_mb: float | None, seed: int = 0) -> CostTerm:
    """The term; takes a few seconds for the random networks, more where all are looked at."""
    enumerated = space.enumerated and not space.interactions
    return (_enumerated(space) if enumerated else _fitted(space, seed)).with_limit(limit_mb)


@lru_cache(maxsize=8)
def _enumerated(space: SearchSpace[Any]) -> CostTerm:
    """Exact: every network of a small space has a monomial of its own."""
    known: dict[Any, float] = {}
    values = []
    for choices in buildable_choices(space).tolist():
        form = space.canonical(space.from_choices(choices))
        if form not in known:
            known[form] = space.peak_memory_mb(form)
        values.append(known[form])
    presence = PresenceMatrix(
        (MEMORY,), np.zeros(1), of_each_network(space), np.array([values]), disjoint=True
    )
    return CostTerm(NAME, presence, np.ones(1), unit="MB")


@lru_cache(maxsize=8)
def _fitted(space: SearchSpace[Any], seed: int) -> CostTerm:
    exact = lru_cache(maxsize=4096)(lambda architecture: space.peak_memory_mb(architecture))
    rng = np.random.default_rng([seed, 23])
    pool = [space.random(rng) for _ in range(SAMPLES)]
    values_N = np.array([exact(architecture) for architecture in pool])
    q = space.one_hot_many(pool)
    codes_NM = np.concatenate([part.reshape(len(pool), -1) for part in q.values()], 1)
    centre_M = codes_NM.mean(0)
    x_NM = codes_NM - centre_M
    gram = x_NM.T @ x_NM + RIDGE * np.eye(x_NM.shape[1])
    slope_M = np.linalg.solve(gram, x_NM.T @ (values_N - values_N.mean()))
    # value = base + sum of slopes where chosen = (base + all slopes) - slopes where not chosen
    base = float(values_N.mean() - centre_M @ slope_M)
    monomials, coefficients = [], []
    start = 0
    for matrix in space.matrices:
        for i in range(matrix.shape[0] * matrix.shape[1]):
            if slope_M[start + i]:
                mask = np.zeros(matrix.shape, dtype=bool)
                mask.reshape(-1)[i] = True
                monomials.append((matrix.name, mask))
                coefficients.append(-slope_M[start + i])
        start += matrix.shape[0] * matrix.shape[1]
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
