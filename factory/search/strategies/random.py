"""Random search: uniform over the variables of the space, the honest baseline."""

from __future__ import annotations

from typing import Any, ClassVar

from optuna.samplers import BaseSampler, RandomSampler

from factory.search.strategies.base import Strategy
from factory.search.strategies.problem import History, Problem


class RandomSearch(Strategy):
    """Optuna's random sampler."""

    NAME: ClassVar[str] = "random"
    SUMMARY: ClassVar[str] = "uniform draws: the baseline of every search"

    def sampler(self, problem: Problem[Any], history: History[Any], seed: int) -> BaseSampler:
        """A uniform draw."""
        return RandomSampler(seed=seed)
