"""NSGA-II (Deb et al., IEEE TEC 6(2), 2002) over accuracy and log latency.

Optuna's sampler: binary tournaments by rank and crowding, uniform crossover, one mutation per
child on average; limits by constrained domination. A child that is known already costs no query.
"""

from __future__ import annotations

from typing import Any, ClassVar

from optuna.samplers import BaseSampler, NSGAIISampler

from factory.search.strategies.base import Strategy
from factory.search.strategies.problem import History, Problem

POPULATION = 20


class Nsga2(Strategy):
    """Plain NSGA-II with a small population, as budgets of a few hundred queries ask for."""

    NAME: ClassVar[str] = "nsga2"
    SUMMARY: ClassVar[str] = "NSGA-II: a population ranked by domination and crowding"

    def __init__(self, population: int = POPULATION) -> None:
        self.population = population

    def sampler(self, problem: Problem[Any], history: History[Any], seed: int) -> BaseSampler:
        """Optuna's NSGA-II; its population is in the study."""
        return NSGAIISampler(population_size=self.population, seed=seed)
