"""Evolution from the front, and no query on a network that is known already."""

from __future__ import annotations

import numpy as np
import pytest
from toy_problem import Toy, ToyObjective, ToySpace, toy_problem

from factory.search.strategies import STRATEGIES, FrontEvolution
from factory.search.strategies.front_evolution import START, _weights
from factory.search.strategies.problem import History, Problem, Score, Seen
from factory.search.strategies.study import run_search


class TwoForms(ToySpace):
    """The first number makes no difference to the network."""

    def canonical(self, architecture: Toy) -> Toy:
        return (0, *architecture[1:])


@pytest.mark.parametrize(
    ("name", "start"), [("front-evolution-plain", START), ("evolution-plain", 30)]
)
def test_children_are_networks_that_were_not_evaluated(name: str, start: int) -> None:
    space = TwoForms(9, 4, 4, 4)
    problem = Problem(space, ToyObjective())  # type: ignore[arg-type, var-annotated]
    found = run_search(problem, STRATEGIES.get(name)(), queries=start + 15, seed=3).history.queries
    forms = [space.canonical(seen.architecture) for seen in found]
    for i in range(start, len(forms)):
        assert forms[i] not in forms[:i]


def _seen(latency_ms: float, accuracy: float) -> Seen[Toy]:
    return Seen((int(latency_ms),), (int(latency_ms),), Score(accuracy, latency_ms, 0.0), 0.0, True)


def test_parents_beside_a_gap_are_drawn_more_often() -> None:
    history = History[Toy]()
    for seen in (_seen(1, 0.50), _seen(2, 0.60), _seen(3, 0.61), _seen(20, 0.70)):
        history.add(seen)
    weights = _weights(toy_problem(), history, history.front())
    assert weights.sum() == pytest.approx(1.0)
    # what only it adds: log(3 / 2) x 0.10, log(20 / 3) x 0.01; nothing at the two ends
    expected = np.sqrt([np.log(3 / 2) * 0.10, np.log(20 / 3) * 0.01])
    assert weights[1] / weights[2] == pytest.approx(expected[0] / expected[1], rel=0.01)
    assert 0 < weights[0] < weights[2]
    assert 0 < weights[3] < weights[2]


def test_nothing_within_the_limits_is_no_end() -> None:
    problem = toy_problem(3, 3, 3, limits={"latency_ms": 2.5})
    outcome = run_search(problem, FrontEvolution(start=4), queries=16, seed=1)
    assert outcome.best is not None
    assert outcome.best.score is not None
    assert outcome.best.score.latency_ms <= 2.5
