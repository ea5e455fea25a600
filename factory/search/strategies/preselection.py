"""Preselection of children by a model: draw many, query the one that is expected to gain most.

The pre-screening of Emmerich, Giannakoglou and Naujoks, "Single- and multiobjective evolutionary
optimization assisted by Gaussian random field metamodels" (IEEE TEC 10(4), 2006): an evolutionary
strategy draws children as it always does, and of ``draws`` of them the one with the most expected
hypervolume improvement (front_model.py) is evaluated. With one draw it is the strategy without a
model. A component of every strategy that draws children; a function of the queries.

Without a model a child that is the same network as one evaluated before is drawn again. A model
knows it for the same (features are those of the canonical architecture), and what another training
of it may bring is in the variance of its prediction; so it may be chosen again where nothing else
promises more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from factory.search.strategies.base import TRIES, is_new, is_new_network
from factory.search.strategies.front_model import FrontModel
from factory.search.strategies.problem import History, Problem
from factory.spaces.base import Choices

DRAWS = 100


class Preselection:
    """Chooses the child that is evaluated.

    Args:
        draws: children that are looked at; 1: the first new network, no model.
    """

    def __init__(self, draws: int = DRAWS) -> None:
        self.draws = draws
        self._model = FrontModel(start=2)
        self._new: dict[Choices, bool] = {}
        self._history: History[Any] | None = None

    def choose(
        self, problem: Problem[Any], history: History[Any], draw: Callable[[int], Choices]
    ) -> Choices | None:
        """The best new child of ``draw(attempt)``; None where none of TRIES is new."""
        if self.draws == 1 or len(history.feasible()) < 2:
            children = (draw(attempt) for attempt in range(TRIES))
            return next((c for c in children if is_new_network(problem, history, c)), None)
        if history is not self._history:  # another search: nothing remembered holds
            self._model, self._new, self._history = FrontModel(start=2), {}, history
        drawn = [draw(attempt) for attempt in range(self.draws)]
        pool = [child for child in dict.fromkeys(drawn) if self._is_new(problem, history, child)]
        if not pool:
            return None
        value = self._model.improvement(problem, history, pool)
        return pool[int(np.argmax(value))]

    def _is_new(self, problem: Problem[Any], history: History[Any], child: Choices) -> bool:
        """Not seen; what is known of an architecture does not change and is remembered."""
        if child in history.by_choices:
            return False
        if child not in self._new:
            self._new[child] = is_new(problem, history, child)
        return self._new[child]
