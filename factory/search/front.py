"""A front of networks over a range of budgets, derived from one search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from factory.core.errors import BudgetError
from factory.search.costs import CostModel, CostTerm, choice_of, node_edges
from factory.search.derive import Scores, discretise, repair
from factory.search.feasibility import smallest_cost


def derive_front(
    scores: Scores, terms: Sequence[CostTerm], count: int, max_skips: int | None = None
) -> list[dict[str, Any]]:
    """The most probable network under each of ``count`` budgets of the first term.

    Budgets are spaced evenly in their logarithm, from the smallest that the space can meet to what
    the network derived without budgets costs; all other limits hold for every network. Networks
    that another one equals or beats in both cost and strength are left out. Each entry: "limit",
    "costs" by term, "strength" (sum of log strengths of the chosen operators), "genotype".
    """
    if not terms or count < 1:
        return []
    term, others = terms[0], list(terms[1:])
    model = CostModel(list(terms))
    free = discretise(scores, max_skips)
    largest = float(model.costs(choice_of(free))[0])
    smallest = smallest_cost(term)[0] * 1.001
    found: list[dict[str, Any]] = []
    for limit in np.geomspace(smallest, max(smallest, largest), count):
        try:
            genotype, _ = repair(scores, [term.with_limit(float(limit)), *others], max_skips)
        except BudgetError:
            continue
        choice = choice_of(genotype)
        costs = model.costs(choice)
        strength = sum(
            float(scores[name][node_edges(node)].reshape(-1)[slot])
            for (name, node), slots in choice.items()
            for slot in slots
        )
        found.append(
            {
                "limit": float(limit),
                "costs": {t.name: float(c) for t, c in zip(terms, costs, strict=True)},
                "strength": strength,
                "genotype": genotype.to_dict(),
            }
        )
    front: list[dict[str, Any]] = []
    for entry in sorted(found, key=lambda e: (e["costs"][term.name], -e["strength"])):
        if not front or entry["strength"] > front[-1]["strength"]:
            front.append(entry)
    return front
