"""Fitting a latency predictor to a table: source, roofline, regressors, correction, interval.

Networks that were traced taught the regressors their own kernels, so nothing about them may be
judged with those: correction, interval and error rest on out-of-fold sums, in which a network's
kernels come from the other networks' traces and from regressors fitted to them alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency import evaluation
from factory.latency.chip_facts import chip_facts
from factory.latency.correction import (
    NetworkData,
    Selection,
    group_of,
    select_correction,
)
from factory.latency.facts import Facts, read_facts
from factory.latency.features import family
from factory.latency.intervals import half_width, relative_doubt, residuals, usual_doubt
from factory.latency.predictor import LatencyPredictor
from factory.latency.regressors import WORST, KindRegressor
from factory.latency.sources import Source, sources
from factory.latency.uncorrected import fit_uncorrected, fit_without

NETWORK_FOLDS = 5
Errors = tuple[np.ndarray, np.ndarray]  # relative errors of kernels, and their ms
_Fold = tuple[np.ndarray, LatencyPredictor]  # numbers of networks, and what was fitted without them


@dataclass(frozen=True)
class _Fit:
    """A predictor of one source, and what it says of networks that it has not seen."""

    source: Source
    predictor: LatencyPredictor
    data: NetworkData  # out-of-fold
    selection: Selection
    held_out: np.ndarray | None
    kernel_errors: dict[str, Errors]  # family -> errors of unseen kernels
    doubts: np.ndarray  # of each network when it was held out, [N]; empty: unknown

    @property
    def score(self) -> float:
        """Mean relative error on unseen networks; infinite without networks."""
        if self.held_out is None:
            return float("inf")
        return float(np.mean(np.abs(self.held_out / self.data.measured_ms - 1.0)))


def fit_predictor(table: Any, *, seed: int = 0) -> LatencyPredictor:
    """The predictor of one latency table; the same table and seed give the same predictor."""
    facts = read_facts(table)
    name = Path(str(table.path)).name
    fits = [_fit_source(source, facts, name, seed) for source in sources(facts)]
    best = _chosen(fits)
    predictor, data = best.predictor, best.data
    predictor.correction = best.selection.correction
    predictor.report = _report(facts, best, fits)
    if len(data):
        predictor.network_range_ms = (
            float(data.measured_ms.min()),
            float(data.measured_ms.max()),
        )
        predictor.half_width, predictor.usual_doubt = _interval(best, facts)
    _add_errors(best, facts)
    predictor.report.update(chip_facts(table, facts, predictor))
    predictor.report["interval_half_width_percent"] = 100 * predictor.half_width
    return predictor


def _chosen(fits: list[_Fit]) -> _Fit:
    """The source to be preferred (the last), unless another is clearly better on unseen networks.

    Clearly: by more than one standard error of the mean difference over the networks. A handful of
    random networks cannot tell sources apart that err alike on them, and a search ends in a network
    that is not like them: there the kernels that were timed in place have less bias.
    """
    best = fits[-1]
    for other in reversed(fits[:-1]):
        if best.held_out is None or other.held_out is None:
            best = min(best, other, key=lambda fit: fit.score)
            continue
        gain_N = _errors(best) - _errors(other)
        if gain_N.mean() > gain_N.std() / np.sqrt(len(gain_N)):
            best = other
    return best


def _errors(fit: _Fit) -> np.ndarray:
    """Mean relative error of each network that the fit has not seen, [N]."""
    assert fit.held_out is not None
    errors = np.abs(np.atleast_2d(fit.held_out) / fit.data.measured_ms - 1.0)
    return np.asarray(errors.mean(axis=0))


def quick_predictor(
    facts: Facts, name: str = "", *, seed: int = 0, trees: bool = True
) -> LatencyPredictor:
    """Regressors of the best available source alone: no correction, interval or report."""
    source = sources(facts)[-1]
    return fit_uncorrected(source, facts, name, seed, (), evaluate=False, trees=trees)


def held_out_error(facts: Facts, *, seed: int = 0) -> float:
    """Mean relative error on unseen networks, uncorrected and without trees: soon known."""
    source = sources(facts)[-1]
    data, _ = _out_of_fold(source, facts, "", seed, trees=False)
    predicted = data.counts @ data.kernel_ms
    return float(np.mean(np.abs(predicted / data.measured_ms - 1.0)))


def _fit_source(source: Source, facts: Facts, name: str, seed: int) -> _Fit:
    judged = source.changes and len(facts.networks) >= evaluation.MIN_NETWORKS_TO_EVALUATE
    predictor = fit_uncorrected(source, facts, name, seed, (), evaluate=not judged)
    errors: dict[str, Errors] = {}
    doubts = np.empty(0)
    if judged:
        data, folds = _out_of_fold(source, facts, name, seed)
        errors = _kernel_errors(source, facts, folds)
        predictor.regressors = _with_errors(predictor.regressors, errors)
        doubts = np.empty(len(data))
        for fold, unseen in folds:
            unseen.regressors = _with_errors(unseen.regressors, errors)
            doubts[fold] = [unseen.doubt(facts.networks[i].counts) for i in fold]
        predictor.interval_has_regressors = True
    else:
        data = _network_data(facts, predictor)
    selection = select_correction(data)
    enough = len(data) >= evaluation.MIN_NETWORKS_TO_EVALUATE
    held_out = evaluation.corrected_sum(data, seed) if enough else None
    return _Fit(source, predictor, data, selection, held_out, errors, doubts)


def _with_errors(
    regressors: Mapping[str, KindRegressor], errors: Mapping[str, Errors]
) -> dict[str, KindRegressor]:
    """The regressors with the errors that they made on networks they had not seen."""
    return {
        key: replace(
            regressor,
            error=_weighted_quantile(*errors[key], 0.9),
            median_error=_weighted_quantile(*errors[key], 0.5),
        )
        if key in errors
        else regressor
        for key, regressor in regressors.items()
    }


def _weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    place = int(np.searchsorted(reached, share))
    return float(values[order][min(place, len(values) - 1)])


def _network_data(facts: Facts, predictor: LatencyPredictor) -> NetworkData:
    """The measured networks over the union of their kernels."""
    columns = sorted({kernel for network in facts.networks for kernel in network.counts})
    return NetworkData(
        _counts(facts, columns),
        predictor.kernel_ms(columns),
        np.array([group_of(k) for k in columns], dtype=int),
        np.array([network.median_ms for network in facts.networks]),
    )


def _counts(facts: Facts, columns: list[Kernel]) -> np.ndarray:
    index = {kernel: number for number, kernel in enumerate(columns)}
    counts = np.zeros((len(facts.networks), len(columns)))
    for row, network in enumerate(facts.networks):
        for kernel, number in network.counts.items():
            counts[row, index[kernel]] = number
    return counts


def _out_of_fold(
    source: Source, facts: Facts, name: str, seed: int, *, trees: bool = True
) -> tuple[NetworkData, list[_Fold]]:
    """Networks whose kernels are timed without them: each fold has columns of its own.

    Beside them each fold with the predictor that is new to it.
    """
    number = len(facts.networks)
    order = np.random.default_rng(seed).permutation(number)
    blocks, times, groups, folds = [], [], [], []
    parts = np.array_split(order, min(NETWORK_FOLDS, number))
    unseen = fit_without(
        source, facts, name, seed, [{facts.networks[i].key for i in p} for p in parts], trees
    )
    for fold, predictor in zip(parts, unseen, strict=True):
        networks = [facts.networks[i] for i in fold]
        folds.append((fold, predictor))
        columns = sorted({kernel for network in networks for kernel in network.counts})
        ms = predictor.kernel_ms(columns)
        block = np.zeros((number, len(columns)))
        block[fold] = _counts(replace(facts, networks=networks), columns)
        blocks.append(block)
        times.append(ms)
        groups += [group_of(k) for k in columns]
    data = NetworkData(
        np.hstack(blocks),
        np.concatenate(times),
        np.array(groups, dtype=int),
        np.array([network.median_ms for network in facts.networks]),
    )
    return data, folds


def _kernel_errors(source: Source, facts: Facts, folds: Sequence[_Fold]) -> dict[str, Errors]:
    """Family -> errors of kernels in networks that the fold's predictor has not seen.

    As shares of the predicted time, as the shares of a network are, and WORST at most.
    """
    truth: dict[str, dict[Kernel, float]] = {}
    for fact in facts.in_place:
        truth.setdefault(fact.network, {})[fact.kernel] = fact.ms
    if not source.measures:  # what all networks together say
        times = source.times()
        truth = {net.key: {k: times[k] for k in net.counts} for net in facts.networks}
    errors: dict[str, list[tuple[float, float]]] = {}
    for fold, predictor in folds:
        for network in (facts.networks[i] for i in fold):
            told = {
                kernel: true_ms
                for kernel, true_ms in truth.get(network.key, {}).items()
                if kernel not in predictor.measured_ms and true_ms > 0
            }
            predicted_ms = predictor.kernel_ms(list(told)).tolist()
            for (kernel, true_ms), ms in zip(told.items(), predicted_ms, strict=True):
                error = abs(ms - true_ms) / max(ms, true_ms / WORST)
                errors.setdefault(family(kernel), []).append((error, max(ms, true_ms)))
    return {key: tuple(np.array(values).T) for key, values in errors.items()}


def _interval(fit: _Fit, facts: Facts) -> tuple[float, float]:
    """(half width of a network of usual doubt, that doubt; 0 where the interval has no doubt).

    From the honest held-out residuals where there are enough networks.
    """
    noise = facts.noise.get("reference_spread_percent", 0.0) / 100
    predictions = fit.selection.left_out_ms[None] if fit.held_out is None else fit.held_out
    measured = fit.data.measured_ms
    usual = usual_doubt(fit.doubts) if fit.held_out is not None else 0.0
    scale = np.array([relative_doubt(one, usual) for one in fit.doubts]) if usual else 1.0
    widths = [half_width(residuals(measured, p) / scale, noise) for p in predictions]
    return float(np.mean(widths)), usual


def _report(facts: Facts, best: _Fit, fits: list[_Fit]) -> dict[str, Any]:
    in_networks = {k for network in facts.networks for k in network.counts}
    measured = best.predictor.measured_ms
    return {
        "device": facts.device_id,
        "dtype": facts.dtype,
        "source": best.source.name,
        "n_kernels": len(measured),
        "n_failed": len(facts.failed),
        "n_networks": len(best.data),
        "n_in_place": len(facts.in_place),
        "unmeasured_kernels_in_networks": sum(k not in measured for k in in_networks),
        "sources": {fit.source.name: _source_report(fit, facts) for fit in fits},
        "regressors": {
            kind: {
                "rows": r.rows,
                "model": r.model,
                "median_error_percent": 100 * r.median_error if r.rows > 1 else None,
                "p90_error_percent": 100 * r.error if r.rows > 1 else None,
            }
            for kind, r in best.predictor.regressors.items()
        },
        "correction": {
            "structure": best.selection.correction.structure,
            "leave_one_out_mean_percent": {k: 100 * v for k, v in best.selection.scores.items()},
        },
        "noise": facts.noise,
    }


def _source_report(fit: _Fit, facts: Facts) -> dict[str, Any]:
    """The error of a source, and its residual: the plain sum of kernels over what was measured."""
    if not len(fit.data):
        return {"held_out": None, "sum_over_measured": None}
    data = _network_data(facts, fit.predictor)
    ratio = data.counts @ data.kernel_ms / data.measured_ms
    held_out = fit.held_out
    return {
        "held_out": None if held_out is None else evaluation.errors(held_out, data.measured_ms),
        "sum_over_measured": {
            "low": float(np.quantile(ratio, 0.1)),
            "median": float(np.median(ratio)),
            "high": float(np.quantile(ratio, 0.9)),
        },
    }


def _add_errors(fit: _Fit, facts: Facts) -> None:
    """Held-out errors of the predictor and of the baselines, into the report."""
    report, seed, data = fit.predictor.report, fit.predictor.seed, fit.data
    if fit.held_out is None:
        report["protocol"] = (
            "no whole network was measured: the correction is the identity and the error unknown"
            if not len(data)
            else f"{len(data)} network(s) are too few for a correction or an error"
        )
        report["held_out"] = None
        return
    measured = data.measured_ms
    report["protocol"] = evaluation.protocol(len(data))
    report["held_out"] = evaluation.errors(fit.held_out, measured)
    columns = sorted({kernel for network in facts.networks for kernel in network.counts})
    counts = _counts(facts, columns)
    macs = counts @ np.array([float(k.macs) for k in columns])
    baselines = {
        "uncorrected_sum": evaluation.errors(data.counts @ data.kernel_ms, measured),
        "macs_line": evaluation.errors(evaluation.macs_line(macs, measured, seed), measured),
    }
    if len(data) >= evaluation.MIN_NETWORKS_FOR_COUNTS:
        baselines["counts_ridge"] = evaluation.errors(
            evaluation.counts_ridge(counts, measured, seed), measured
        )
    report["baselines"] = baselines
