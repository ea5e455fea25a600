"""What a network costs before it is warm: its session, its first run, its memory.

Each is fitted to the networks of a table as a non-negative sum of what it can depend on: the number
of kernels, the bytes of the weights, the largest kernel's inputs and outputs, the latency. Judged
by leaving one network out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.facts import NetworkFact
from factory.latency.least_squares import leave_one_out, solve_nonnegative

TARGETS = ("session_ms", "first_run_ms", "peak_memory_mb")
COLUMNS = ("constant", "kernels", "weights_mb", "largest_mb", "latency_ms")
FEWEST_NETWORKS = 8
RIDGE = 1e-3


def fit_start_up(rows: Sequence[Any], networks: Sequence[NetworkFact]) -> dict[str, Any]:
    """Target -> weights and error; without the targets that fewer than FEWEST_NETWORKS tell.

    Args:
        rows: the table's rows of networks.
        networks: the same as facts.
    """
    facts = {network.key: network for network in networks}
    fitted: dict[str, Any] = {}
    for target in TARGETS:
        known = [
            (facts[row.key], value)
            for row in rows
            if row.key in facts and (value := float(getattr(row, target, 0.0))) > 0
        ]
        if len(known) < FEWEST_NETWORKS:
            continue
        columns = np.array([_columns(fact.counts, fact.median_ms) for fact, _ in known])
        values = np.array([value for _, value in known])
        unit = np.maximum(columns.mean(axis=0), 1e-9)
        scaled = columns / unit / values[:, None]
        prior = RIDGE * len(known) * np.eye(len(COLUMNS))
        moment = np.zeros(len(COLUMNS))
        weights = solve_nonnegative(scaled.T @ scaled + prior, scaled.sum(axis=0)) / unit
        left_out = leave_one_out(scaled, np.ones(len(known)), prior, moment)
        fitted[target] = {
            "weights": dict(zip(COLUMNS, weights.tolist(), strict=True)),
            "networks": len(known),
            "mean_error_percent": float(100 * np.mean(np.abs(left_out - 1.0))),
        }
    return fitted


def predict_start_up(
    fitted: Mapping[str, Any], counts: Mapping[Kernel, int | float], latency_ms: float
) -> dict[str, Any] | None:
    """Each fitted target of one network, with its mean error; None where nothing is known."""
    if not fitted:
        return None
    columns = dict(zip(COLUMNS, _columns(counts, latency_ms), strict=True))
    answer: dict[str, Any] = {}
    for target, model in fitted.items():
        answer[target] = sum(weight * columns[name] for name, weight in model["weights"].items())
        answer[f"{target.rpartition('_')[0]}_error_percent"] = model["mean_error_percent"]
    return answer


def _columns(counts: Mapping[Kernel, int | float], latency_ms: float) -> list[float]:
    return [
        1.0,
        float(sum(counts.values())),
        sum(number * kernel.weight_bytes for kernel, number in counts.items()) / 1e6,
        max((k.input_bytes + k.output_bytes for k in counts), default=0) / 1e6,
        latency_ms,
    ]
