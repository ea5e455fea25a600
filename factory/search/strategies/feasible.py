"""Can the limits be met at all, by costs that are known without a query?

Coordinate descent over the variables of the space from several starts. The smallest value found is
an upper bound of the true one: exact in practice for costs that are sums over variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from factory.core.errors import BudgetError
from factory.core.units import format_macs, format_ms
from factory.search.strategies.base import random_choices
from factory.search.strategies.problem import Problem
from factory.spaces.base import Choices

STARTS = 4
FORMATS: dict[str, Callable[[float], str]] = {"latency_ms": format_ms, "macs": format_macs}


def check_feasible(problem: Problem[Any], where: str = "", on: str = "") -> dict[str, float]:
    """Smallest value found of every limited, known cost.

    Raises:
        BudgetError: a limit is below it, or no architecture found keeps all limits at once.
    """
    cache: dict[Choices, dict[str, float]] = {}

    def costs(choices: Choices) -> dict[str, float]:
        if choices not in cache:
            architecture = problem.space.from_choices(choices)
            buildable = problem.space.buildable(architecture)
            known = problem.objective.known_costs(architecture) if buildable else {}
            cache[choices] = {name: known.get(name, math.inf) for name in problem.limits}
        return cache[choices]

    named = [c for c in problem.limits if math.isfinite(costs(_start(problem))[c])]
    smallest: dict[str, float] = {}
    for name in named:
        found = _descend(problem, lambda choices, name=name: costs(choices)[name])  # type: ignore[misc]
        smallest[name] = costs(found)[name]
        if smallest[name] > problem.limits[name]:
            text, limit = FORMATS[name](smallest[name]), FORMATS[name](problem.limits[name])
            at = f" on {on}" if on and name == "latency_ms" else ""
            raise BudgetError(
                f"the smallest network in this space needs {text}{at}, the budget is {limit}",
                where=where,
                fix=f"raise the budget of {name} above {text}, "
                "or lower the channels or layers of the space",
            )
    if len(named) > 1:

        def worst(choices: Choices) -> float:
            ratios = [costs(choices)[name] / problem.limits[name] for name in named]
            return max(ratios) + 1e-6 * sum(ratios)

        nearest = costs(_descend(problem, worst))
        if any(nearest[name] > problem.limits[name] for name in named):
            needs = " and ".join(FORMATS[name](nearest[name]) for name in named)
            limits = " and ".join(FORMATS[name](problem.limits[name]) for name in named)
            raise BudgetError(
                f"no network in this space meets all budgets at once: the nearest needs {needs}, "
                f"the budgets are {limits}",
                where=where,
                fix="raise the budgets, or lower the channels or layers of the space",
            )
    return smallest


def _start(problem: Problem[Any], number: int = 0) -> Choices:
    rng = np.random.default_rng(number)
    while True:
        choices = random_choices(problem, rng)
        if problem.space.buildable(problem.space.from_choices(choices)):
            return choices


def _descend(problem: Problem[Any], value: Callable[[Choices], float]) -> Choices:
    """The best end of coordinate descents from several starts."""
    ends = []
    for number in range(STARTS):
        best = _start(problem, number)
        improved = True
        while improved:
            improved = False
            for i, size in enumerate(problem.space.cardinalities):
                options = [(*best[:i], option, *best[i + 1 :]) for option in range(size)]
                better = min(options, key=value)
                if value(better) < value(best):
                    best, improved = better, True
        ends.append(best)
    return min(ends, key=value)
