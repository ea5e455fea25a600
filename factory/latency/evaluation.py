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

    def fit(keep: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        slope, constant = fit_macs_line(macs[keep], measured_ms[keep])
        return lambda index: np.asarray(slope * macs[index] + constant)

    return held_out(len(macs), seed, fit)


def fit_macs_line(macs_N: np.ndarray, measured_N: np.ndarray) -> tuple[float, float]:
    """(a in ms a MAC, b in ms) of a * MACs + b, fitted on relative errors."""
    unit = max(float(macs_N.mean()), 1.0)
    columns = np.stack([macs_N / unit, np.ones(len(macs_N))], axis=1)
    rows = columns / measured_N[:, None]
    slope, constant = np.linalg.lstsq(rows, np.ones(len(macs_N)), rcond=None)[0]
    return float(slope) / unit, float(constant)


def counts_ridge(counts: np.ndarray, measured_ms: np.ndarray, seed: int) -> np.ndarray:
    """Held-out predictions of a ridge on kernel counts alone, the best of several strengths.

    The strength is the one that is best on the held-out networks: this favours the baseline.
    """
    return best_ridge(counts, measured_ms, seed)[1]


def best_ridge(counts: np.ndarray, measured_ms: np.ndarray, seed: int) -> tuple[float, np.ndarray]:
    """The strength of :func:`counts_ridge`, and its held-out predictions."""

    def fit_with(strength: float) -> Fit:
        def fit(keep: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            weights = fit_ridge(counts[keep], measured_ms[keep], strength)
            return lambda index: np.asarray(counts[index] @ weights[:-1] + weights[-1])

        return fit

    tried = [(s, held_out(len(counts), seed, fit_with(s))) for s in RIDGE_STRENGTHS]
    return min(tried, key=lambda entry: float(np.mean(np.abs(entry[1] / measured_ms - 1.0))))


def fit_ridge(counts_NC: np.ndarray, measured_N: np.ndarray, strength: float) -> np.ndarray:
    """Weights of the columns and, last, a constant; fitted on relative errors."""
    number = len(counts_NC)
    rows = np.hstack([counts_NC, np.ones((number, 1))]) / measured_N[:, None]
    scale = np.maximum(np.sqrt(np.mean(rows**2, axis=0)), 1e-9)
    scaled = rows / scale
    gram = scaled @ scaled.T + strength * number * np.eye(number)
    return np.asarray(scaled.T @ np.linalg.solve(gram, np.ones(number)) / scale)
