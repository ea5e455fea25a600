"""What a table of one device allows at best: its rows repeat nothing, but they have an order.

A table of whole networks is measured over hours, one network after the other. Where the machine's
speed moves meanwhile (load, temperature, clock), neighbouring rows are slow or fast together, and
no description of the networks explains it. With networks in random order, as in NAS-Bench-201's
numbering, the residuals of a good fit show this drift: the running median over neighbours.
Legend: N networks in the order of measurement, F features.
"""

from __future__ import annotations

import numpy as np

from factory.latency.few_shot import Z_90
from factory.latency.pool import LEAST_SHARE, relative_fit

FOLDS = 5
NEIGHBOURS = 50  # networks around one, itself left out


def unseen(columns_NF: np.ndarray, ms_N: np.ndarray) -> np.ndarray:
    """Predictions of each network by a fit to four fifths of the others."""
    fold_N = np.random.default_rng(0).permutation(len(ms_N)) % FOLDS
    found_N = np.zeros(len(ms_N))
    for k in range(FOLDS):
        train_N = fold_N != k
        weights_F, _ = relative_fit(columns_NF[train_N], ms_N[train_N], ridge=1e-9)
        found_N[~train_N] = columns_NF[~train_N] @ weights_F
    return found_N


def drift(ms_N: np.ndarray, predicted_N: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """How many times slower than usual the device was when each network was measured.

    The median of measured over predicted of the networks measured just before and after; the
    network itself has no part in it, so that ms / drift keeps the network's own noise.
    """
    floor = LEAST_SHARE * float(np.mean(ms_N))
    ratio_N = np.maximum(ms_N, floor) / np.maximum(predicted_N, floor)
    half = min(neighbours // 2, (len(ratio_N) - 1) // 2)
    padded = np.pad(ratio_N, half, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    around = np.delete(windows, half, axis=1)
    moved_N = np.median(around, axis=1)
    return np.asarray(moved_N / np.median(moved_N))


def drift_percent(drift_N: np.ndarray) -> float:
    """Robust standard deviation of the drift."""
    low, high = np.quantile(np.log(drift_N), [0.05, 0.95])
    return float(100 * (high - low) / 2 / Z_90)


def half_width_percent(predicted_N: np.ndarray, ms_N: np.ndarray) -> float:
    """The constant relative half width that covers 90 % of the networks."""
    floor = LEAST_SHARE * float(np.mean(ms_N))
    share_N = np.abs(ms_N - predicted_N) / np.maximum(predicted_N, floor)
    return float(100 * np.quantile(share_N, 0.9))
