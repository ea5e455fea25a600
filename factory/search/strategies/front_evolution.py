"""Evolution from the front: every child is one mutation away from an architecture of the front.

The archive scheme of PAES (Knowles and Corne, Evolutionary Computation 8(2), 2000) with the whole
front of what has been evaluated as parents; nothing ages and nothing is crossed, which pays where a
few hundred queries are all there is and a query always gives the same answer. A parent is drawn
with a probability that grows with the square root of the area that only it adds to the dominated
one, so that gaps of the front are filled first.
Of many children drawn so a model chooses the one that is evaluated (preselection.py). Without it
("front-evolution-plain") a child that is the same network as one evaluated before is drawn again
(``space.canonical``); where a parent has no new neighbour left, more variables change.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from factory.search.strategies.base import (
    TRIES,
    HistoryStrategy,
    mutated,
    new_random,
)
from factory.search.strategies.preselection import DRAWS, Preselection
from factory.search.strategies.problem import History, Problem, Seen
from factory.spaces.base import Choices

START = 15
WIDER = TRIES // 3  # draws without a new child after which one variable more changes


class FrontEvolution(HistoryStrategy):
    """Mutations of the front; see the module's text."""

    NAME: ClassVar[str] = "front-evolution"
    SUMMARY: ClassVar[str] = "evolution from the front, children preselected by a model"

    def __init__(self, start: int = START, draws: int = DRAWS) -> None:
        self.start = start
        self.preselection = Preselection(draws)

    def propose(
        self, problem: Problem[Any], history: History[Any], rng: np.random.Generator
    ) -> Choices:
        """A random architecture at first, then a child of the front."""
        if len(history.queries) < self.start:
            return new_random(problem, history, rng)
        parents = history.front()
        if not parents:  # nothing keeps the limits yet: from what is over them by the least
            parents = [min(history.queries, key=lambda seen: seen.violation)]
        weights = _weights(problem, history, parents)

        def draw(attempt: int) -> Choices:
            parent = parents[int(rng.choice(len(parents), p=weights))]
            return mutated(problem, parent.choices, rng, changes=1 + attempt // WIDER)

        child = self.preselection.choose(problem, history, draw)
        return new_random(problem, history, rng) if child is None else child


class PlainFrontEvolution(FrontEvolution):
    """The same without a model: the first child that is a new network is evaluated."""

    NAME: ClassVar[str] = "front-evolution-plain"
    SUMMARY: ClassVar[str] = "evolution from the front without a model"

    def __init__(self, start: int = START) -> None:
        super().__init__(start, draws=1)


def _weights(problem: Problem[Any], history: History[Any], front: list[Seen[Any]]) -> np.ndarray:
    """Probability of each of the front, by rising latency; they add up to one."""
    points = np.array([seen.point for seen in front])
    seen = np.array([other.point for other in history.feasible() or front])
    worst = seen.max(axis=0)
    if problem.min_accuracy is not None:
        worst[1] = max(-problem.min_accuracy, float(points[:, 1].max()))
    wide = np.diff(np.append(points[:, 0], worst[0]))
    high = -np.diff(np.insert(points[:, 1], 0, worst[1]))
    area = np.sqrt(np.maximum(wide * high, 0.0))
    area = area + 1e-3 * (area.max() or 1.0)
    return np.asarray(area / area.sum())
