"""What is watched at every step of a search: collapse to skips, entropy, the derived network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory.search.relaxation import DROPPED


def skip_share(by_cell: Mapping[str, float]) -> float:
    """Share of skip connections among all operators; cell types have equally many."""
    return sum(by_cell.values()) / len(by_cell)


def probabilities(alpha: Mapping[str, np.ndarray]) -> dict[str, list[list[float]]]:
    """softmax(alpha) of every edge, rounded for the history."""
    found = {}
    for name in alpha:
        a = np.asarray(alpha[name], dtype=np.float64)
        weights = np.exp(a - a.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        found[name] = [[round(float(p), 5) for p in row] for row in weights]
    return found


def entropy(alpha: Mapping[str, np.ndarray]) -> float:
    """Mean entropy of the operators of an edge, 1 when uniform and 0 when decided."""
    total, most = 0.0, 0.0
    for name in alpha:
        a = np.asarray(alpha[name], dtype=np.float64)
        shifted = a - a.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        total += float(-(np.exp(log_p) * log_p).sum())
        most += float(np.log((a > DROPPED).sum(axis=1)).sum())
    return total / most
