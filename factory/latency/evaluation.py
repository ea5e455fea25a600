"""How wrong a predictor is on networks it has not seen, beside simple baselines.

Every held-out number comes from a fit without the held-out network: the correction is selected
and fitted anew for each fold. Leave-one-out up to 12 networks, else 10 folds drawn twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from factory.latency.correction import NetworkData, select_correction

LEAVE_ONE_OUT_UP_TO = 12
FOLDS = 10
REPEATS = 2
MIN_NETWORKS_TO_EVALUATE = 3
MIN_NETWORKS_FOR_COUNTS = 30
RIDGE_STRENGTHS = (0.001, 0.01, 0.1, 1.0)

Fit = Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]


def folds(rows: int, seed: int) -> list[list[np.ndarray]]:
    """Repeats of partitions of range(rows) into held-out sets."""
    if rows <= LEAVE_ONE_OUT_UP_TO:
        return [[np.array([i]) for i in range(rows)]]
    generator = np.random.default_rng(seed)
    return [list(np.array_split(generator.permutation(rows), FOLDS)) for _ in range(REPEATS)]


def protocol(rows: int) -> str:
    """The name of what :func:`folds` does."""
    if rows <= LEAVE_ONE_OUT_UP_TO:
        return "leave-one-out"
    return f"{REPEATS} x {FOLDS}-fold cross-validation"


def held_out(rows: int, seed: int, fit: Fit) -> np.ndarray:
    """Out-of-fold predictions [repeats, rows]; ``fit(keep)`` returns a predictor of indices."""
    out = []
    for partition in folds(rows, seed):
        predicted = np.empty(rows)
        for fold in partition:
            keep = np.setdiff1d(np.arange(rows), fold)
            predicted[fold] = fit(keep)(fold)
        out.append(predicted)
    return np.asarray(out)


def errors(predicted_ms: np.ndarray, measured_ms: np.ndarray) -> dict[str, float]:
    """Absolute relative errors in percent; repeats are pooled."""
    percent = 100 * np.abs(predicted_ms / measured_ms - 1.0)
    return {
        "median_percent": float(np.median(percent)),
        "mean_percent": float(np.mean(percent)),
        "max_percent": float(np.max(percent)),
        "within_5_percent": float(np.mean(percent <= 5)),
        "within_10_percent": float(np.mean(percent <= 10)),
    }


def corrected_sum(data: NetworkData, seed: int) -> np.ndarray:
    """Held-out predictions of the corrected sum of kernels."""

    def fit(keep: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        correction = select_correction(data.subset(keep)).correction
        return lambda index: correction.predict(data.subset(index))

    return held_out(len(data), seed, fit)


def macs_line(macs: np.ndarray, measured_ms: np.ndarray, seed: int) -> np.ndarray:
    """Held-out predictions of a * MACs + b, fitted on relative errors."""
    columns = np.stack([macs / max(float(macs.mean()), 1.0), np.ones(len(macs))], axis=1)

    def fit(keep: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        rows = columns[keep] / measured_ms[keep][:, None]
        solution = np.linalg.lstsq(rows, np.ones(len(keep)), rcond=None)[0]
        return lambda index: np.asarray(columns[index] @ solution)

    return held_out(len(macs), seed, fit)


def counts_ridge(counts: np.ndarray, measured_ms: np.ndarray, seed: int) -> np.ndarray:
    """Held-out predictions of a ridge on kernel counts alone, the best of several strengths.

    The strength is the one that is best on the held-out networks: this favours the baseline.
    """
    columns = np.hstack([counts, np.ones((len(counts), 1))])

    def fit_with(strength: float) -> Fit:
        def fit(keep: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            rows = columns[keep] / measured_ms[keep][:, None]
            scale = np.maximum(np.sqrt(np.mean(rows**2, axis=0)), 1e-9)
            scaled = rows / scale
            gram = scaled @ scaled.T + strength * len(keep) * np.eye(len(keep))
            solution = scaled.T @ np.linalg.solve(gram, np.ones(len(keep))) / scale
            return lambda index: np.asarray(columns[index] @ solution)

        return fit

    tried = [held_out(len(counts), seed, fit_with(s)) for s in RIDGE_STRENGTHS]
    return min(tried, key=lambda p: float(np.mean(np.abs(p / measured_ms - 1.0))))
