"""Fitting a latency predictor to a table: roofline, regressors, correction, interval, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency import evaluation
from factory.latency.correction import NetworkData, Selection, group_of, select_correction
from factory.latency.facts import Facts, read_facts
from factory.latency.intervals import half_width
from factory.latency.predictor import LatencyPredictor
from factory.latency.regressors import KindRegressor, fit_kind
from factory.latency.roofline import Roofline


def fit_predictor(table: Any, *, seed: int = 0) -> LatencyPredictor:
    """The predictor of one latency table; the same table and seed give the same predictor."""
    facts = read_facts(table)
    kernels = list(facts.kernel_ms)
    ms = np.array(list(facts.kernel_ms.values()))
    roofline = Roofline.fit(kernels, ms)
    predictor = LatencyPredictor(
        device_id=facts.device_id,
        dtype=facts.dtype,
        table=Path(str(table.path)).name,
        seed=seed,
        measured_ms=facts.kernel_ms,
        failed=facts.failed,
        roofline=roofline,
        regressors=_fit_regressors(kernels, ms, roofline, seed),
        correction=select_correction(_no_networks()).correction,
        half_width=half_width(np.empty(0)),
        network_range_ms=None,
        report={},
    )
    data, columns = _network_data(facts, predictor)
    selection = select_correction(data)
    predictor.correction = selection.correction
    predictor.report = _report(facts, predictor, data, selection)
    enough = len(data) >= evaluation.MIN_NETWORKS_TO_EVALUATE
    held_out = evaluation.corrected_sum(data, seed) if enough else None
    if len(data):
        predictor.network_range_ms = (
            float(data.measured_ms.min()),
            float(data.measured_ms.max()),
        )
        predictor.half_width = _half_width(data, selection, held_out, facts)
    _add_errors(predictor, data, held_out, columns)
    predictor.report["interval_half_width_percent"] = 100 * predictor.half_width
    return predictor


def _no_networks() -> NetworkData:
    return NetworkData(np.zeros((0, 0)), np.zeros(0), np.zeros(0, dtype=int), np.zeros(0))


def _fit_regressors(
    kernels: list[Kernel], ms: np.ndarray, roofline: Roofline, seed: int
) -> dict[str, KindRegressor]:
    kinds = np.array([k.kind for k in kernels])
    return {
        str(kind): fit_kind(
            [k for k, member in zip(kernels, kinds == kind, strict=True) if member],
            ms[kinds == kind],
            roofline,
            seed=seed,
        )
        for kind in sorted(set(kinds.tolist()))
    }


def _network_data(facts: Facts, predictor: LatencyPredictor) -> tuple[NetworkData, list[Kernel]]:
    """The measured networks over the union of their kernels."""
    columns = sorted({kernel for network in facts.networks for kernel in network.counts})
    index = {kernel: number for number, kernel in enumerate(columns)}
    counts = np.zeros((len(facts.networks), len(columns)))
    for row, network in enumerate(facts.networks):
        for kernel, number in network.counts.items():
            counts[row, index[kernel]] = number
    data = NetworkData(
        counts,
        predictor.kernel_ms(columns),
        np.array([group_of(k) for k in columns], dtype=int),
        np.array([network.median_ms for network in facts.networks]),
    )
    return data, columns


def _half_width(
    data: NetworkData, selection: Selection, held_out: np.ndarray | None, facts: Facts
) -> float:
    """From the honest held-out residuals where there are enough networks."""
    noise = facts.noise.get("reference_spread_percent", 0.0) / 100
    predictions = selection.left_out_ms[None] if held_out is None else held_out
    return float(
        np.mean(
            [half_width(data.measured_ms / np.maximum(p, 1e-9) - 1, noise) for p in predictions]
        )
    )


def _report(
    facts: Facts, predictor: LatencyPredictor, data: NetworkData, selection: Selection
) -> dict[str, Any]:
    in_networks = {k for network in facts.networks for k in network.counts}
    return {
        "device": facts.device_id,
        "dtype": facts.dtype,
        "n_kernels": len(facts.kernel_ms),
        "n_failed": len(facts.failed),
        "n_networks": len(data),
        "unmeasured_kernels_in_networks": sum(k not in facts.kernel_ms for k in in_networks),
        "regressors": {
            kind: {
                "rows": r.rows,
                "model": r.model,
                "median_error_percent": 100 * r.median_error if r.rows > 1 else None,
                "p90_error_percent": 100 * r.error if r.rows > 1 else None,
            }
            for kind, r in predictor.regressors.items()
        },
        "correction": {
            "structure": selection.correction.structure,
            "leave_one_out_mean_percent": {k: 100 * v for k, v in selection.scores.items()},
        },
        "noise": facts.noise,
    }


def _add_errors(
    predictor: LatencyPredictor,
    data: NetworkData,
    held_out: np.ndarray | None,
    columns: list[Kernel],
) -> None:
    """Held-out errors of the predictor and of the baselines, into the report."""
    report, seed = predictor.report, predictor.seed
    if held_out is None:
        report["protocol"] = (
            "no whole network was measured: the correction is the identity and the error unknown"
            if not len(data)
            else f"{len(data)} network(s) are too few for a correction or an error"
        )
        report["held_out"] = None
        return
    measured = data.measured_ms
    report["protocol"] = evaluation.protocol(len(data))
    report["held_out"] = evaluation.errors(held_out, measured)
    plain = data.counts @ data.kernel_ms
    macs = data.counts @ np.array([float(k.macs) for k in columns])
    baselines = {
        "uncorrected_sum": evaluation.errors(plain, measured),
        "macs_line": evaluation.errors(evaluation.macs_line(macs, measured, seed), measured),
    }
    if len(data) >= evaluation.MIN_NETWORKS_FOR_COUNTS:
        baselines["counts_ridge"] = evaluation.errors(
            evaluation.counts_ridge(data.counts, measured, seed), measured
        )
    report["baselines"] = baselines
