"""Of many children the one that a model expects most of; without a model the first new network."""

from __future__ import annotations

import numpy as np
import pytest
from toy_problem import toy_problem

from factory.search.strategies import (
    FrontEvolution,
    Nsga2,
    PlainEvolution,
    PlainFrontEvolution,
    PlainNsga2,
    RegularisedEvolution,
)
from factory.search.strategies.front_model import FrontModel
from factory.search.strategies.preselection import Preselection
from factory.search.strategies.study import run_search


def seen(problem, queries=14):
    return run_search(problem, PlainEvolution(6, 3), queries=queries, seed=1).history


def test_the_child_with_the_largest_expected_improvement_is_chosen() -> None:
    problem = toy_problem()
    history = seen(problem)
    rng = np.random.default_rng(0)
    drawn = [tuple(int(v) for v in rng.integers(4, size=6)) for _ in range(20)]
    drawn[3] = history.queries[0].choices  # known already: never chosen
    pool = [child for child in drawn if child not in history.by_choices]
    expected = FrontModel(start=2).improvement(problem, history, pool)
    chosen = Preselection(draws=20).choose(problem, history, lambda attempt: drawn[attempt])
    assert chosen == pool[int(np.argmax(expected))]
    assert len(set(expected.tolist())) > 10


def test_what_is_over_a_limit_by_known_costs_is_not_chosen() -> None:
    problem = toy_problem(known=True, limits={"latency_ms": 6.0})
    history = seen(problem)
    children = [(3, 3, 3, 3, 3, 3), (0, 0, 0, 0, 0, 0), (1, 1, 1, 0, 1, 1), (3, 3, 3, 3, 3, 2)]
    choose = Preselection(draws=4).choose
    assert choose(problem, history, lambda attempt: children[attempt]) == children[2]
    assert choose(problem, history, lambda attempt: children[0]) is None


@pytest.mark.parametrize(
    ("one_draw", "plain"),
    [
        (RegularisedEvolution(draws=1), PlainEvolution()),
        (FrontEvolution(draws=1), PlainFrontEvolution()),
        (Nsga2(draws=1), PlainNsga2()),
    ],
)
def test_one_draw_is_the_strategy_without_a_model(one_draw, plain) -> None:
    first, second = (
        run_search(toy_problem(), strategy, queries=45, seed=2).history
        for strategy in (one_draw, plain)
    )
    assert [s.choices for s in first] == [s.choices for s in second]
