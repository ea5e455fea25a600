"""What a front may gain: two Gaussian processes and expected hypervolume improvement.

One regression of the accuracy and one of the log latency (gaussian_process.py, on the space's own
features) on all queries so far; :meth:`FrontModel.improvement` is the expected growth of the
dominated area by each of some candidates (improvement.py). A latency that is known without a query
is taken as it is; for one that is not known the improvement is multiplied by the probability of
keeping the limit. Shared by the strategies that ask a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from factory.search.strategies.gaussian_process import GaussianProcess, Hyperparameters
from factory.search.strategies.improvement import expected_improvement
from factory.search.strategies.problem import History, Problem, Seen
from factory.spaces.base import Choices

REFIT = 30  # queries between two choices of hyperparameters


class FrontModel:
    """A function of the problem and of the queries; remembers features and hyperparameters.

    Args:
        start: queries from which on it is asked; hyperparameters are chosen on no fewer.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self._features: dict[Choices, np.ndarray] = {}
        self._chosen: dict[tuple[int, int], Hyperparameters] = {}

    def improvement(
        self, problem: Problem[Any], history: History[Any], pool: Sequence[Choices]
    ) -> np.ndarray:
        """Expected growth of the hypervolume by each of ``pool``; two feasible queries at least."""
        reference = reference_point(problem, history.feasible())
        x_PF = self._matrix(problem, pool)
        x_NF = self._matrix(problem, [seen.choices for seen in history.queries])
        latency, accuracy = (self._fit(problem, history, x_NF, i).predict(x_PF) for i in (0, 1))
        known = _known_log_ms(problem, pool)
        if known is not None:
            latency = (known, np.full(len(pool), 1e-6))
        front = [seen.point for seen in history.feasible()]
        value = expected_improvement(front, reference, latency, accuracy)
        limit_ms = problem.limits.get("latency_ms")
        if limit_ms is not None and known is None:
            value = value * ndtr((math.log(limit_ms) - latency[0]) / latency[1])
        return np.asarray(value)

    def _fit(
        self, problem: Problem[Any], history: History[Any], x_NF: np.ndarray, which: int
    ) -> GaussianProcess:
        """Regression of log latency (0) or -accuracy (1) on all queries.

        Hyperparameters are chosen on the first queries only, a multiple of REFIT.
        """
        queries = history.queries
        part = max(self.start, len(queries) // REFIT * REFIT)
        if (which, part) not in self._chosen:
            y_N = _targets(problem, queries[:part], which)
            self._chosen[which, part] = GaussianProcess.fit(x_NF[: len(y_N)], y_N).hyperparameters
        return GaussianProcess.fit(
            x_NF, _targets(problem, queries, which), self._chosen[which, part]
        )

    def _matrix(self, problem: Problem[Any], many: Sequence[Choices]) -> np.ndarray:
        new = [choices for choices in dict.fromkeys(many) if choices not in self._features]
        if new:
            rows = problem.space.features([problem.space.from_choices(c) for c in new])
            self._features.update(zip(new, rows, strict=True))
        return np.stack([self._features[choices] for choices in many])


def reference_point(problem: Problem[Any], feasible: list[Seen[Any]]) -> tuple[float, float]:
    """The worst latency that counts and an accuracy that is worth nothing."""
    points = np.array([seen.point for seen in feasible])
    worst = float(points[:, 0].max())
    if problem.min_accuracy is not None:
        return worst, -problem.min_accuracy
    low, high = np.percentile(points[:, 1], [25, 75])
    return worst, float(min(points[:, 1].max(), high + 1.5 * (high - low) + 1e-6))


def _targets(problem: Problem[Any], queries: list[Seen[Any]], which: int) -> np.ndarray:
    """Values to learn; accuracies that are worth nothing are all the same."""
    values = np.array([seen.point[which] for seen in queries])
    if which == 0:
        return values
    feasible = [seen for seen in queries if seen.feasible] or queries
    return np.minimum(values, reference_point(problem, feasible)[1])


def _known_log_ms(problem: Problem[Any], pool: Sequence[Choices]) -> np.ndarray | None:
    """Log latency of all of ``pool``; None where it takes a query to know."""
    found = []
    for choices in pool:
        costs = problem.objective.known_costs(problem.space.from_choices(choices))
        if "latency_ms" not in costs:
            return None
        found.append(math.log(costs["latency_ms"]))
    return np.array(found)
