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
from factory.search.strategies.problem import History, Problem
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

        points = np.array([seen.point for seen in population])
        violations = np.array([seen.violation for seen in population])

        def draw(attempt: int) -> Choices:
            drawn = rng.choice(len(population), size=min(self.sample, len(population)))
            best = drawn[_best(points[drawn], violations[drawn], float(rng.uniform()))]
            return mutated(problem, population[best].choices, rng, changes=1 + attempt // 20)

        child = self.preselection.choose(problem, history, draw)
        return new_random(problem, history, rng) if child is None else child


class PlainEvolution(RegularisedEvolution):
    """The same without a model: the first child that is a new network is evaluated."""

    NAME: ClassVar[str] = "evolution-plain"
    SUMMARY: ClassVar[str] = "regularised evolution without a model"

    def __init__(self, population: int = POPULATION, sample: int = SAMPLE) -> None:
        super().__init__(population, sample, draws=1)


def _best(points: np.ndarray, violations: np.ndarray, weight: float) -> int:
    """Index of the best of a sample: points [N, 2], excess over the limits [N]."""
    allowed = np.flatnonzero(violations <= 0)
    if not len(allowed):
        return int(np.argmin(violations))
    points = points[allowed]
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    weighted = np.array([weight, 1.0 - weight]) * scaled
    distances = weighted.max(axis=1) + 0.05 * weighted.sum(axis=1)
    return int(allowed[np.argmin(distances)])
