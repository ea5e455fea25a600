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
from factory.search.strategies.problem import History, Problem, Seen
from factory.spaces.base import Choices

START = 30
BATCH = 5
REFIT = 15  # queries between two choices of hyperparameters
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
        self._chosen: dict[tuple[int, int], Hyperparameters] = {}
        self._ranking: tuple[int, list[Choices]] = (-1, [])

    def propose(
        self, problem: Problem[Any], history: History[Any], rng: np.random.Generator
    ) -> Choices:
        """A random architecture at first, then the best of the pool."""
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
        pool = _pool(problem, history, np.random.default_rng([len(history.queries), 17]))
        if not pool:
            return []
        queries = history.queries
        reference = _reference(problem, history.feasible())
        points = np.array([seen.point for seen in queries])
        points[:, 1] = np.minimum(points[:, 1], reference[1])
        x_NF = self._matrix(problem, [seen.choices for seen in queries])
        x_PF = self._matrix(problem, pool)
        latency, accuracy = (
            self._fit(i, x_NF, points[:, i]).predict(x_PF) for i in range(points.shape[1])
        )
        known = [_known_log_ms(problem, choices) for choices in pool]
        if None not in known:
            latency = (np.array(known, dtype=float), np.full(len(pool), 1e-6))
        front = [seen.point for seen in history.feasible()]
        value = expected_improvement(front, reference, latency, accuracy)
        limit_ms = problem.limits.get("latency_ms")
        if limit_ms is not None and None in known:
            value = value * ndtr((math.log(limit_ms) - latency[0]) / latency[1])
        return [pool[i] for i in np.argsort(-value, kind="stable")[: 4 * self.batch]]

    def _fit(self, which: int, x_NF: np.ndarray, y_N: np.ndarray) -> GaussianProcess:
        """With hyperparameters chosen on the first queries, a multiple of REFIT."""
        part = max(self.start, len(y_N) // REFIT * REFIT)
        if (which, part) not in self._chosen:
            chosen = GaussianProcess.fit(x_NF[:part], y_N[:part]).hyperparameters
            self._chosen[which, part] = chosen
        return GaussianProcess.fit(x_NF, y_N, self._chosen[which, part])

    def _matrix(self, problem: Problem[Any], many: list[Choices]) -> np.ndarray:
        new = [choices for choices in dict.fromkeys(many) if choices not in self._features]
        if new:
            rows = problem.space.features([problem.space.from_choices(c) for c in new])
            self._features.update(zip(new, rows, strict=True))
        return np.stack([self._features[choices] for choices in many])


def _pool(problem: Problem[Any], history: History[Any], rng: np.random.Generator) -> list[Choices]:
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
    return [choices for choices in dict.fromkeys(near) if is_new(problem, history, choices)]


def _reference(problem: Problem[Any], feasible: list[Seen[Any]]) -> tuple[float, float]:
    """The worst latency that counts and an accuracy that is worth nothing."""
    points = np.array([seen.point for seen in feasible])
    worst = float(points[:, 0].max())
    if problem.min_accuracy is not None:
        return worst, -problem.min_accuracy
    low, high = np.percentile(points[:, 1], [25, 75])
    return worst, float(min(points[:, 1].max(), high + 1.5 * (high - low) + 1e-6))


def _known_log_ms(problem: Problem[Any], choices: Choices) -> float | None:
    costs = problem.objective.known_costs(problem.space.from_choices(choices))
    return math.log(costs["latency_ms"]) if "latency_ms" in costs else None
