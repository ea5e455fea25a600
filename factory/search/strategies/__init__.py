"""strategies: discrete search, one strategy a file. A new one is a file, its entry and its test.

All strategies see the same problem (space, objective, limits) and the same history; study.py runs
them with persistent trials. The entries are classes without required arguments.
"""

from factory.core.registry import Registry
from factory.search.strategies.base import Strategy
from factory.search.strategies.evolution import PlainEvolution, RegularisedEvolution
from factory.search.strategies.front_evolution import FrontEvolution, PlainFrontEvolution
from factory.search.strategies.nsga2 import Nsga2, PlainNsga2
from factory.search.strategies.random import RandomSearch
from factory.search.strategies.surrogate import SurrogateSearch

STRATEGIES: Registry[type[Strategy]] = Registry("search strategy")
for _strategy in (
    RandomSearch,
    RegularisedEvolution,
    PlainEvolution,
    FrontEvolution,
    PlainFrontEvolution,
    Nsga2,
    PlainNsga2,
    SurrogateSearch,
):
    STRATEGIES.add(_strategy.NAME, _strategy)

__all__ = [
    "STRATEGIES",
    "FrontEvolution",
    "Nsga2",
    "PlainEvolution",
    "PlainFrontEvolution",
    "PlainNsga2",
    "RandomSearch",
    "RegularisedEvolution",
    "Strategy",
    "SurrogateSearch",
]
