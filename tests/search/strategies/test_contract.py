"""What every strategy promises, over all of them."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from toy_problem import toy_problem

from factory.search.strategies import STRATEGIES, SurrogateSearch
from factory.search.strategies.base import Strategy
from factory.search.strategies.pareto import hypervolume
from factory.search.strategies.study import Outcome, run_search

WITH_MODEL = ("surrogate", "evolution", "front-evolution", "nsga2")


def make(name: str) -> Strategy:
    """A strategy with little to learn from, so that its later phases are reached soon."""
    return SurrogateSearch(start=8, batch=3) if name == "surrogate" else STRATEGIES.get(name)()


@pytest.fixture(params=STRATEGIES.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sequence(outcome: Outcome[Any]) -> list[Any]:
    return [(seen.choices, seen.query, seen.score) for seen in outcome.history]


def test_every_query_is_another_architecture(name: str) -> None:
    problem = toy_problem()
    outcome = run_search(problem, make(name), queries=40, seed=1)
    evaluated = problem.objective.evaluated  # type: ignore[attr-defined]
    assert len(evaluated) == len(set(evaluated)) == 40
    assert [seen.choices for seen in outcome.history.queries] == evaluated
    assert all(sum(architecture) for architecture in evaluated)  # what cannot be built never is
    assert not outcome.exhausted


def test_a_seed_is_a_sequence(name: str) -> None:
    first, again, other = (
        sequence(run_search(toy_problem(), make(name), queries=24, seed=seed)) for seed in (5, 5, 6)
    )
    assert first == again != other


@pytest.mark.parametrize("known", [True, False], ids=["known", "measured"])
def test_limits_are_hard(name: str, known: bool) -> None:
    limits = {"latency_ms": 9.0, "macs": 75.0}
    problem = toy_problem(known=known, limits=limits)
    outcome = run_search(problem, make(name), queries=30, seed=2)
    evaluated = problem.objective.evaluated  # type: ignore[attr-defined]
    assert outcome.best is not None
    for seen in [*outcome.front, outcome.best]:
        assert seen.score is not None
        assert seen.score.latency_ms <= 9.0
        assert seen.score.macs <= 75.0
    over = [architecture for architecture in evaluated if sum(architecture) > 7]
    assert over == [] if known else len(over) < 30


def test_interrupted_and_gone_on_is_uninterrupted(name: str, tmp_path: Path) -> None:
    whole = run_search(toy_problem(), make(name), queries=24, seed=3)
    path = tmp_path / "trials.jsonl"
    for stop_after in (9, 8):
        with pytest.raises(KeyboardInterrupt):
            run_search(
                toy_problem(stop_after=stop_after), make(name), queries=24, seed=3, path=path
            )
    problem = toy_problem()
    rest = run_search(problem, make(name), queries=24, seed=3, path=path)
    assert sequence(rest) == sequence(whole)
    assert len(problem.objective.evaluated) == 24 - 17  # type: ignore[attr-defined]
    finished = toy_problem(stop_after=0)
    assert sequence(run_search(finished, make(name), queries=24, seed=3, path=path)) == sequence(
        whole
    )


def test_small_space_is_used_up(name: str) -> None:
    problem = toy_problem(2, 3, 2)
    outcome = run_search(problem, make(name), queries=100, seed=0)
    assert outcome.exhausted
    everything = problem.space.everything()  # type: ignore[attr-defined]
    assert sorted(seen.choices for seen in outcome.history.queries) == everything


def test_nothing_within_the_limits(name: str) -> None:
    outcome = run_search(
        toy_problem(2, 3, 2, limits={"latency_ms": 0.5}), make(name), queries=8, seed=0
    )
    assert outcome.best is None
    assert outcome.front == []
    assert len(outcome.history.queries) == 8


@cache
def area(name: str, seed: int) -> float:
    outcome = run_search(toy_problem(), make(name), queries=70, seed=seed)
    return hypervolume([seen.point for seen in outcome.front], (3.0, -0.4))


@pytest.mark.parametrize(
    "better",
    [
        pytest.param(n, marks=[pytest.mark.heavy] if n in WITH_MODEL else [])
        for n in STRATEGIES.names()
        if n != "random"
    ],
)
def test_learns_more_than_random(better: str) -> None:
    def mean(name: str) -> float:
        seeds = range(2 if better in WITH_MODEL else 8)
        return sum(area(name, seed) for seed in seeds) / len(seeds)

    assert mean(better) > mean("random")
