"""Can the budgets be met at all? The smallest costs that the space reaches.

A cost is multilinear in the choice: with all but one node fixed, all options of that node have
exact costs at once. Coordinate descent over nodes from several starts, then over pairs of nodes,
is therefore near exact; it is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from factory.core.errors import BudgetError
from factory.search.costs import (
    FORBIDDEN,
    N_OPS,
    PLACES,
    Choice,
    CostModel,
    CostTerm,
    genotype_of,
)
from factory.spaces.cell_space import EDGES
from factory.spaces.genotype import CELL_TYPES, Genotype

Objective = Callable[[np.ndarray], np.ndarray]  # costs [T, ...] -> value [...], smaller is better


def starts() -> list[Choice]:
    """One operator everywhere, reading the cell's inputs or the latest states."""
    found: list[Choice] = []
    for op in range(N_OPS):
        for late in (False, True):
            choice: Choice = {}
            for name, node in PLACES:
                a = node - 2 if late else 0
                choice[name, node] = (a * N_OPS + op, (a + 1) * N_OPS + op)
            found.append(choice)
    return found


def descend(model: CostModel, objective: Objective, choice: Choice) -> tuple[float, Choice]:
    """Coordinate descent over nodes until nothing improves."""
    choice = dict(choice)
    best = float(objective(model.costs(choice)))
    improved = True
    while improved:
        improved = False
        for place in PLACES:
            value, slots = _best_option(model, objective, place, choice)
            if value < best - 1e-12 * max(1.0, abs(best)):
                best, choice[place], improved = value, slots, True
    return best, choice


def _best_option(
    model: CostModel, objective: Objective, place: tuple[str, int], choice: Choice
) -> tuple[float, tuple[int, int]]:
    values = np.asarray(objective(model.node_table(place, choice)), dtype=np.float64)
    values = np.where(FORBIDDEN[place[1]], np.inf, values)
    a, b = np.unravel_index(int(np.argmin(values)), values.shape)
    return float(values[a, b]), (int(a), int(b))


def minimise(model: CostModel, objective: Objective) -> tuple[float, Choice]:
    """The smallest value found from all starts."""
    results = [descend(model, objective, start) for start in starts()]
    return min(results, key=lambda result: result[0])


def smallest_cost(term: CostTerm) -> tuple[float, Genotype]:
    """Smallest value of one cost over the space, and a genotype that has it."""
    value, choice = minimise(CostModel([term]), lambda costs: costs[0])
    return value, genotype_of(choice)


def largest_cost(term: CostTerm) -> float:
    """Largest value of one cost over the space."""
    return -minimise(CostModel([term]), lambda costs: -costs[0])[0]


def nearest_to_limits(model: CostModel) -> tuple[float, Choice]:
    """The choice with the smallest worst ratio of cost to limit, and that ratio."""
    limits = model.limits

    def ratios(costs: np.ndarray) -> np.ndarray:
        return costs / limits.reshape(-1, *[1] * (costs.ndim - 1))

    def worst(costs: np.ndarray) -> np.ndarray:
        r = ratios(costs)
        return np.asarray(r.max(0) + 1e-6 * r.sum(0))

    candidates = [minimise(model, worst)[1]]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        weights = np.linspace(1 - share, share, len(limits)) if len(limits) > 1 else np.ones(1)
        blend = minimise(model, lambda c, w=weights: np.tensordot(w, ratios(c), 1))[1]  # type: ignore[misc]
        candidates.append(descend(model, worst, blend)[1])
    values = [(float(ratios(model.costs(c)).max()), c) for c in candidates]
    return min(values, key=lambda value: value[0])


def check_feasible(
    terms: Sequence[CostTerm], max_skips: int | None = None, where: str = ""
) -> dict[str, float]:
    """Smallest value of every limited cost; BudgetError when the limits cannot be met.

    A skip limit that cannot be held together with the budgets is no error (the budgets win).
    """
    limited = [term for term in terms if term.limit is not None]
    smallest = {term.name: _smallest(term) for term in limited}
    check_each(limited, smallest, where)
    if any(term.exact is not None for term in limited):
        _check_exact(limited, max_skips, where)
        limited = [term for term in limited if term.exact is None]
    if len(limited) > 1:
        model = CostModel(limited)
        ratio, choice = nearest_to_limits(model)
        if ratio > 1:
            costs = model.costs(choice)
            needs = " and ".join(t.text(c) for t, c in zip(limited, costs, strict=True))
            budgets = " and ".join(t.text(float(t.limit or 0)) for t in limited)
            raise BudgetError(
                f"no network in this space meets all budgets at once: the nearest needs {needs}, "
                f"the budgets are {budgets}",
                where=where,
                fix=f"raise the budgets by {100 * (ratio - 1):.0f} %, "
                "or lower the channels or layers of the space",
            )
    return smallest


def check_each(limited: Sequence[CostTerm], smallest: Mapping[str, float], where: str) -> None:
    """BudgetError for the first limit that is below the smallest value of its cost."""
    for term in limited:
        assert term.limit is not None
        if smallest[term.name] > term.limit:
            need = term.text(smallest[term.name])
            on = f" on {term.device}" if term.device else ""
            raise BudgetError(
                f"the smallest network in this space needs {need}{on}, "
                f"the budget is {term.text(term.limit)}",
                where=where,
                fix=f"raise the budget of {term.name} above {need}, "
                "or lower the channels or layers of the space",
            )


def _smallest(term: CostTerm) -> float:
    """Of an approximated cost: the least exact value of its pool and of the least approximation."""
    value, genotype = smallest_cost(term)
    if term.exact is None:
        return value
    return min(term.exact(other) for other in (genotype, *term.pool[:1]))


def _check_exact(limited: Sequence[CostTerm], max_skips: int | None, where: str) -> None:
    """BudgetError unless some genotype is exactly within all limits."""
    from factory.search.derive import repair

    scores = {name: np.zeros((len(EDGES), N_OPS)) for name in CELL_TYPES}
    try:
        repair(scores, limited, max_skips)
    except BudgetError as error:
        raise BudgetError(error.what, where=where, fix=error.fix) from None
