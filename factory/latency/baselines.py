"""Two simple predictors that stand beside every prediction: MACs only, and ridge on kernel counts.

MACs only: ``a * MACs + b``. Counts: ridge on how many kernels of each family a network has (for any
network the single kernels hardly ever occur twice, so they have no columns of their own). Both are
fitted on relative errors to the networks of the table, and judged on networks left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency import evaluation
from factory.latency.facts import NetworkFact
from factory.latency.features import family


def fit_baselines(networks: Sequence[NetworkFact], seed: int) -> dict[str, Any]:
    """Both, as plain values with their held-out errors; {} for too few networks."""
    if len(networks) < evaluation.MIN_NETWORKS_TO_EVALUATE:
        return {}
    measured = np.array([network.median_ms for network in networks])
    macs = np.array([_macs(network.counts) for network in networks])
    families = sorted({family(kernel) for network in networks for kernel in network.counts})
    counts = np.array([_by_family(network.counts, families) for network in networks])
    slope, constant = evaluation.fit_macs_line(macs, measured)
    strength, held_out = evaluation.best_ridge(counts, measured, seed)
    weights = evaluation.fit_ridge(counts, measured, strength)
    return {
        "macs_line": {
            "ms_per_mac": slope,
            "constant_ms": constant,
            "held_out": evaluation.errors(evaluation.macs_line(macs, measured, seed), measured),
        },
        "counts_ridge": {
            "ms_per_kernel": dict(zip(families, weights[:-1].tolist(), strict=True)),
            "constant_ms": float(weights[-1]),
            "strength": strength,
            "held_out": evaluation.errors(held_out, measured),
        },
    }


def predict_baselines(
    fitted: Mapping[str, Any], counts: Mapping[Kernel, int | float]
) -> dict[str, Any]:
    """What both say of one network, in ms, beside their errors on networks not seen."""
    if not fitted:
        return {}
    line, ridge = fitted["macs_line"], fitted["counts_ridge"]
    per_kernel = ridge["ms_per_kernel"]
    sums = sum(number * per_kernel.get(family(kernel), 0.0) for kernel, number in counts.items())
    said = {
        "macs_line": line["ms_per_mac"] * _macs(counts) + line["constant_ms"],
        "counts_ridge": sums + ridge["constant_ms"],
    }
    return {
        name: {"latency_ms": max(0.0, float(ms)), "held_out": fitted[name]["held_out"]}
        for name, ms in said.items()
    }


def _macs(counts: Mapping[Kernel, int | float]) -> float:
    return float(sum(kernel.macs * number for kernel, number in counts.items()))


def _by_family(counts: Mapping[Kernel, int | float], families: Sequence[str]) -> list[float]:
    sums = dict.fromkeys(families, 0.0)
    for kernel, number in counts.items():
        sums[family(kernel)] += number
    return list(sums.values())
