"""NSGA-II (Deb et al., IEEE TEC 6(2), 2002) over accuracy and log latency.

Optuna's sampler: a population ranked by domination and crowding, limits by constrained domination.
Children are made here: parents by binary tournament, uniform crossover, one mutation a child on
average. Of many of them a model chooses the one that is evaluated (preselection.py); without it
("nsga2-plain") they are drawn again while they are the same network as one evaluated before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from factory.search.strategies.base import Strategy
from factory.search.strategies.preselection import DRAWS, Preselection
from factory.search.strategies.problem import History, Problem
from factory.spaces.base import Choices

POPULATION = 20
SAME_PARENT = 0.1  # of the children have one parent

Children = Callable[[Study, dict[str, BaseDistribution], list[FrozenTrial]], dict[str, Any]]


class Nsga2(Strategy):
    """NSGA-II with a small population, as budgets of a few hundred queries ask for."""

    NAME: ClassVar[str] = "nsga2"
    SUMMARY: ClassVar[str] = "NSGA-II (domination and crowding), children preselected by a model"

    def __init__(self, population: int = POPULATION, draws: int = DRAWS) -> None:
        self.population = population
        self.preselection = Preselection(draws)

    def sampler(self, problem: Problem[Any], history: History[Any], seed: int) -> BaseSampler:
        """Optuna's NSGA-II; its population is in the study."""
        with warnings.catch_warnings():  # the argument is marked as experimental
            warnings.simplefilter("ignore", ExperimentalWarning)
            return NSGAIISampler(
                population_size=self.population,
                child_generation_strategy=_children(problem, history, seed, self.preselection),
                seed=seed,
            )


class PlainNsga2(Nsga2):
    """The same without a model: the first child that is a new network is evaluated."""

    NAME: ClassVar[str] = "nsga2-plain"
    SUMMARY: ClassVar[str] = "NSGA-II without a model"

    def __init__(self, population: int = POPULATION) -> None:
        super().__init__(population, draws=1)


def _children(
    problem: Problem[Any], history: History[Any], seed: int, preselection: Preselection
) -> Children:
    rng = np.random.default_rng([seed, 2])

    def child(
        study: Study, space: dict[str, BaseDistribution], population: list[FrozenTrial]
    ) -> dict[str, Any]:
        names = list(space)
        last: Choices = ()

        def draw(attempt: int) -> Choices:
            nonlocal last
            a, b = _tournament(population, rng), _tournament(population, rng)
            if rng.uniform() < SAME_PARENT:
                b = a
            found = {name: (a, b)[int(rng.integers(2))].params[name] for name in names}
            changes = 1.0 + attempt // 20
            for name, size in zip(names, problem.space.cardinalities, strict=True):
                if size > 1 and rng.uniform() < changes / len(names):
                    found[name] = (found[name] + 1 + int(rng.integers(size - 1))) % size
            last = tuple(int(found[name]) for name in names)
            return last

        chosen = preselection.choose(problem, history, draw)
        return dict(zip(names, last if chosen is None else chosen, strict=True))

    return child


def _tournament(population: list[FrozenTrial], rng: np.random.Generator) -> FrozenTrial:
    """The better of two; either where none is."""
    a, b = (population[int(i)] for i in rng.integers(len(population), size=2))
    over_a, over_b = (max(0.0, float(t.constraints["limits"])) for t in (a, b))
    if over_a or over_b:
        return a if over_a <= over_b else b
    return b if all(y <= x for x, y in zip(a.values, b.values, strict=True)) else a
