"""What is watched at every step of a search: collapse to skips, entropy, the derived network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from factory.search.costs import CostModel, choice_of
from factory.spaces.genotype import CELL_TYPES, PAIRS, Genotype


def skip_share(by_cell: Mapping[str, float]) -> float:
    """Share of skip connections among all operators; cell types have equally many."""
    return sum(by_cell.values()) / len(by_cell)


def skip_share_by_cell(genotype: Genotype) -> dict[str, float]:
    """Share of skip connections among the 8 operators of either cell."""
    return {
        name: sum(op == "skip_connect" for op, _ in genotype.cell(name)) / PAIRS
        for name in CELL_TYPES
    }


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
    total, count = 0.0, 0
    for name in alpha:
        a = np.asarray(alpha[name], dtype=np.float64)
        shifted = a - a.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        total += float(-(np.exp(log_p) * log_p).sum())
        count += a.shape[0]
    return total / count / math.log(a.shape[1])


def derived_costs(model: CostModel, genotype: Genotype) -> dict[str, float]:
    """Exact costs of a genotype by the name of the term."""
    values = model.costs(choice_of(genotype))
    return {
        term.name: float(v) if term.exact is None else term.exact(genotype)
        for term, v in zip(model.terms, values, strict=False)
    }
