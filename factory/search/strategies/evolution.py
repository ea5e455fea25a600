"""Regularised (ageing) evolution (Real et al., arXiv 1802.01548), for two objectives.

The population is the last POPULATION architectures: the oldest dies, whatever it is worth. A
parent is the best of a random sample; its child has one variable changed. For two objectives
"best" is drawn anew for each child: the smallest weighted Chebyshev distance to the best values
seen, under a random weight (as in ParEGO, Knowles, IEEE TEC 10(1), 2006), so that parents come
from the whole front. Over a limit, the smaller excess is the better. Of many children drawn so a
model chooses the one that is evaluated (preselection.py); "evolution-plain" goes without it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from factory.search.strategies.base import (
    HistoryStrategy,
    mutated,
    new_random,
)
from factory.search.strategies.preselection import DRAWS, Preselection
from factory.search.strategies.problem import History, Problem, Seen
from factory.spaces.base import Choices

POPULATION = 30
SAMPLE = 10


class RegularisedEvolution(HistoryStrategy):
    """Ageing evolution; children that are known already are drawn again."""

    NAME: ClassVar[str] = "evolution"
    SUMMARY: ClassVar[str] = "regularised evolution, children preselected by a model"

    def __init__(
        self, population: int = POPULATION, sample: int = SAMPLE, draws: int = DRAWS
    ) -> None:
        self.population, self.sample = population, sample
        self.preselection = Preselection(draws)

    def propose(
        self, problem: Problem[Any], history: History[Any], rng: np.random.Generator
    ) -> Choices:
        """A random architecture while the population fills, then a child."""
        population = history.queries[-self.population :]
        if len(population) < self.population:
            return new_random(problem, history, rng)

        def draw(attempt: int) -> Choices:
            drawn = rng.choice(len(population), size=min(self.sample, len(population)))
            parent = _best([population[i] for i in drawn], float(rng.uniform()))
            return mutated(problem, parent.choices, rng, changes=1 + attempt // 20)

        child = self.preselection.choose(problem, history, draw)
        return new_random(problem, history, rng) if child is None else child


class PlainEvolution(RegularisedEvolution):
    """The same without a model: the first child that is a new network is evaluated."""

    NAME: ClassVar[str] = "evolution-plain"
    SUMMARY: ClassVar[str] = "regularised evolution without a model"

    def __init__(self, population: int = POPULATION, sample: int = SAMPLE) -> None:
        super().__init__(population, sample, draws=1)


def _best(sample: list[Seen[Any]], weight: float) -> Seen[Any]:
    allowed = [seen for seen in sample if seen.feasible]
    if not allowed:
        return min(sample, key=lambda seen: seen.violation)
    points = np.array([seen.point for seen in allowed])
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    weights = np.array([weight, 1.0 - weight])
    distances = (weights * scaled).max(axis=1) + 0.05 * (weights * scaled).sum(axis=1)
    return allowed[int(np.argmin(distances))]
