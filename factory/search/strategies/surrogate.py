"""Model-based search: Gaussian processes and expected hypervolume improvement.

A strategy of this project from known parts: after START random queries, one Gaussian process for
the accuracy and one for the log latency (gaussian_process.py, on the space's own features) judge
a pool of candidates, and those with the largest expected hypervolume improvement
(improvement.py) are evaluated, BATCH from one pool. The pool: all neighbours of the front, their
double mutants and random architectures; what is over a limit by its known costs is left out, for
a latency that is not known the improvement is multiplied by the probability of keeping the limit.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from scipy.special import ndtr

from factory.search.strategies.base import HistoryStrategy, is_new, mutated, new_random
from factory.search.strategies.gaussian_process import GaussianProcess, Hyperparameters
from factory.search.strategies.improvement import expected_improvement
from factory.search.strategies.problem import History, Problem, Seen, admissible
from factory.spaces.base import Choices

START = 30
BATCH = 5
REFIT = 30  # queries between two choices of hyperparameters
MUTANTS = 300
RANDOM = 5000
NEIGHBOURS = 1500


class SurrogateSearch(HistoryStrategy):
    """Evaluates where two regressions expect the front to grow most."""

    NAME: ClassVar[str] = "surrogate"
    SUMMARY: ClassVar[str] = "Gaussian processes and expected hypervolume improvement"

    def __init__(self, start: int = START, batch: int = BATCH) -> None:
        self.start, self.batch = start, batch
        self._features: dict[Choices, np.ndarray] = {}
        self._allowed: dict[Choices, bool] = {}
        self._chosen: dict[tuple[int, int], Hyperparameters] = {}
        self._ranking: tuple[int, list[Choices]] = (-1, [])
        self._history: History[Any] | None = None

    def propose(
        self, problem: Problem[Any], history: History[Any], rng: np.random.Generator
    ) -> Choices:
        """A random architecture at first, then the best of the pool."""
        if history is not self._history:  # another search: nothing remembered holds
            self._features, self._allowed, self._chosen = {}, {}, {}
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
        reference = _reference(problem, history.feasible())
        x_PF = self._matrix(problem, pool)
        latency, accuracy = (self._fit(problem, history, i).predict(x_PF) for i in (0, 1))
        known = _known_log_ms(problem, pool)
        if known is not None:
            latency = (known, np.full(len(pool), 1e-6))
        front = [seen.point for seen in history.feasible()]
        value = expected_improvement(front, reference, latency, accuracy)
        limit_ms = problem.limits.get("latency_ms")
        if limit_ms is not None and known is None:
            value = value * ndtr((math.log(limit_ms) - latency[0]) / latency[1])
        return [pool[i] for i in np.argsort(-value, kind="stable")[: 4 * self.batch]]

    def _admissible(self, problem: Problem[Any], choices: Choices) -> bool:
        """Can be built and is within the limits by its known costs; remembered."""
        if choices not in self._allowed:
            self._allowed[choices] = admissible(problem, choices)[1] <= 0
        return self._allowed[choices]

    def _fit(self, problem: Problem[Any], history: History[Any], which: int) -> GaussianProcess:
        """Regression of log latency (0) or -accuracy (1) on all queries.

        Hyperparameters are chosen on the first queries only, a multiple of REFIT.
        """
        queries = history.queries
        x_NF = self._matrix(problem, [seen.choices for seen in queries])
        part = max(self.start, len(queries) // REFIT * REFIT)
        if (which, part) not in self._chosen:
            y_N = _targets(problem, queries[:part], which)
            self._chosen[which, part] = GaussianProcess.fit(x_NF[: len(y_N)], y_N).hyperparameters
        return GaussianProcess.fit(
            x_NF, _targets(problem, queries, which), self._chosen[which, part]
        )

    def _matrix(self, problem: Problem[Any], many: list[Choices]) -> np.ndarray:
        new = [choices for choices in dict.fromkeys(many) if choices not in self._features]
        if new:
            rows = problem.space.features([problem.space.from_choices(c) for c in new])
            self._features.update(zip(new, rows, strict=True))
        return np.stack([self._features[choices] for choices in many])


def _targets(problem: Problem[Any], queries: list[Seen[Any]], which: int) -> np.ndarray:
    """Values to learn; accuracies that are worth nothing are all the same."""
    values = np.array([seen.point[which] for seen in queries])
    if which == 0:
        return values
    feasible = [seen for seen in queries if seen.feasible] or queries
    return np.minimum(values, _reference(problem, feasible)[1])


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


def _reference(problem: Problem[Any], feasible: list[Seen[Any]]) -> tuple[float, float]:
    """The worst latency that counts and an accuracy that is worth nothing."""
    points = np.array([seen.point for seen in feasible])
    worst = float(points[:, 0].max())
    if problem.min_accuracy is not None:
        return worst, -problem.min_accuracy
    low, high = np.percentile(points[:, 1], [25, 75])
    return worst, float(min(points[:, 1].max(), high + 1.5 * (high - low) + 1e-6))


def _known_log_ms(problem: Problem[Any], pool: list[Choices]) -> np.ndarray | None:
    """Log latency of all of ``pool``; None where it takes a query to know."""
    found = []
    for choices in pool:
        costs = problem.objective.known_costs(problem.space.from_choices(choices))
        if "latency_ms" not in costs:
            return None
        found.append(math.log(costs["latency_ms"]))
    return np.array(found)
