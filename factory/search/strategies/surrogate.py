"""Model-based search: Gaussian processes and expected hypervolume improvement.

A strategy of this project from known parts: after START random queries a model of the front
(front_model.py) judges a pool of candidates, and those with the largest expected hypervolume
improvement are evaluated, BATCH from one pool. The pool: all neighbours of the front, their
double mutants and random architectures; what is over a limit by its known costs is left out.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from factory.search.strategies.base import HistoryStrategy, is_new, mutated, new_random
from factory.search.strategies.front_model import FrontModel
from factory.search.strategies.problem import History, Problem, admissible
from factory.spaces.base import Choices

START = 30
BATCH = 5
MUTANTS = 300
RANDOM = 5000
NEIGHBOURS = 1500


class SurrogateSearch(HistoryStrategy):
    """Evaluates where two regressions expect the front to grow most."""

    NAME: ClassVar[str] = "surrogate"
    SUMMARY: ClassVar[str] = "Gaussian processes and expected hypervolume improvement"

    def __init__(self, start: int = START, batch: int = BATCH) -> None:
        self.start, self.batch = start, batch
        self._model = FrontModel(start)
        self._allowed: dict[Choices, bool] = {}
        self._ranking: tuple[int, list[Choices]] = (-1, [])
        self._history: History[Any] | None = None

    def propose(
        self, problem: Problem[Any], history: History[Any], rng: np.random.Generator
    ) -> Choices:
        """A random architecture at first, then the best of the pool."""
        if history is not self._history:  # another search: nothing remembered holds
            self._model, self._allowed = FrontModel(self.start), {}
            self._ranking, self._history = (-1, []), history
        done = len(history.queries)
        if done < self.start or len(history.feasible()) < 2:
            return new_random(problem, history, rng)
        base = done - (done - self.start) % self.batch
        if self._ranking[0] != base:
            earlier = History[Any]()
            for seen in history.queries[:base]:
                earlier.add(seen)
            self._ranking = (base, self._rank(problem, earlier))
        for choices in self._ranking[1]:
            if is_new(problem, history, choices):
                return choices
        return new_random(problem, history, rng)

    def _rank(self, problem: Problem[Any], history: History[Any]) -> list[Choices]:
        """The pool by falling expected improvement; a function of the queries alone."""
        if len(history.feasible()) < 2:
            return []
        rng = np.random.default_rng([len(history.queries), 17])
        pool = [
            choices
            for choices in dict.fromkeys(_near_and_far(problem, history, rng))
            if choices not in history.by_choices and self._admissible(problem, choices)
        ]
        if not pool:
            return []
        value = self._model.improvement(problem, history, pool)
        return [pool[i] for i in np.argsort(-value, kind="stable")[: 4 * self.batch]]

    def _admissible(self, problem: Problem[Any], choices: Choices) -> bool:
        """Can be built and is within the limits by its known costs; remembered."""
        if choices not in self._allowed:
            self._allowed[choices] = admissible(problem, choices)[1] <= 0
        return self._allowed[choices]


def _near_and_far(
    problem: Problem[Any], history: History[Any], rng: np.random.Generator
) -> list[Choices]:
    space = problem.space
    front = [seen.choices for seen in history.front()]
    near: list[Choices] = []
    for choices in front:
        near += [space.choices(other) for other in space.neighbours(space.from_choices(choices))]
    if len(near) > NEIGHBOURS:
        near = [near[i] for i in sorted(rng.choice(len(near), NEIGHBOURS, replace=False))]
    for _ in range(MUTANTS):
        near.append(mutated(problem, front[int(rng.integers(len(front)))], rng, changes=2))
    sizes = problem.space.cardinalities
    drawn = rng.integers(np.array(sizes), size=(RANDOM, len(sizes)))
    near += map(tuple, drawn.tolist())
    return near
