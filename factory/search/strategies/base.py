"""A strategy: from what has been seen to the next proposal, as an Optuna sampler.

A strategy keeps nothing that cannot be computed again from the history, and draws its random
numbers from a generator made for each proposal, so that an interrupted search goes on exactly as
it would have. Most strategies are a function of the history (:class:`HistoryStrategy`); one whose
algorithm Optuna has returns Optuna's sampler.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from factory.search.strategies.problem import History, Problem, admissible
from factory.spaces.base import Choices

if TYPE_CHECKING:
    from optuna.study import Study

TRIES = 100  # draws until a child is new and within the limits by known costs


class Strategy(abc.ABC):
    """One way to search; NAME is its name in a recipe, SUMMARY its line in a list."""

    NAME: ClassVar[str]
    SUMMARY: ClassVar[str]

    @abc.abstractmethod
    def sampler(self, problem: Problem[Any], history: History[Any], seed: int) -> BaseSampler:
        """The sampler of the next proposal, with random numbers from ``seed`` alone."""


class HistoryStrategy(Strategy):
    """A strategy that is a function of the history."""

    @abc.abstractmethod
    def propose(
        self, problem: Problem[Any], history: History[Any], rng: np.random.Generator
    ) -> Choices:
        """The next architecture."""

    def sampler(self, problem: Problem[Any], history: History[Any], seed: int) -> BaseSampler:
        """A sampler that calls :meth:`propose`."""
        return _ProposalSampler(self, problem, history, seed)


class _ProposalSampler(BaseSampler):
    def __init__(
        self, strategy: HistoryStrategy, problem: Problem[Any], history: History[Any], seed: int
    ) -> None:
        self._strategy, self._problem, self._history = strategy, problem, history
        self._rng = np.random.default_rng(seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return distributions(self._problem.space.cardinalities)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        choices = self._strategy.propose(self._problem, self._history, self._rng)
        return dict(zip(search_space, map(int, choices), strict=True))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise NotImplementedError("every variable is proposed at once")


def distributions(cardinalities: Sequence[int]) -> dict[str, BaseDistribution]:
    """The variables of a space as Optuna knows them, in order."""
    return {
        f"v{i:02d}": CategoricalDistribution(tuple(range(size)))
        for i, size in enumerate(cardinalities)
    }


def random_choices(problem: Problem[Any], rng: np.random.Generator) -> Choices:
    """A uniform proposal; it may be unbuildable or over a limit."""
    return tuple(int(rng.integers(size)) for size in problem.space.cardinalities)


def mutated(
    problem: Problem[Any], parent: Choices, rng: np.random.Generator, changes: int = 1
) -> Choices:
    """``parent`` with ``changes`` variables set to another value."""
    child = list(parent)
    sizes = problem.space.cardinalities
    free = [i for i, size in enumerate(sizes) if size > 1]
    for i in rng.choice(free, size=min(changes, len(free)), replace=False):
        child[i] = (child[i] + 1 + int(rng.integers(sizes[i] - 1))) % sizes[i]
    return tuple(child)


def is_new(problem: Problem[Any], history: History[Any], choices: Choices) -> bool:
    """Neither seen nor known to be unbuildable or over a limit."""
    return choices not in history.by_choices and admissible(problem, choices)[1] <= 0


def is_new_network(problem: Problem[Any], history: History[Any], choices: Choices) -> bool:
    """New, and not the same network as one that has been evaluated."""
    if not is_new(problem, history, choices):
        return False
    canonical = problem.space.canonical
    form = canonical(problem.space.from_choices(choices))
    return all(canonical(seen.architecture) != form for seen in history.queries)


def new_random(problem: Problem[Any], history: History[Any], rng: np.random.Generator) -> Choices:
    """A random new proposal, or any proposal where none is found."""
    choices = random_choices(problem, rng)
    for _ in range(TRIES):
        if is_new(problem, history, choices):
            break
        choices = random_choices(problem, rng)
    return choices


optuna.logging.set_verbosity(optuna.logging.WARNING)
