"""Trials in a file: a real kill, a torn line, another problem's file; counting and errors."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_problem import Toy, ToyObjective, ToySpace, toy_problem

from factory.core.errors import InputError
from factory.search.strategies import RandomSearch, RegularisedEvolution
from factory.search.strategies.problem import Problem, Score
from factory.search.strategies.study import run_search

KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from toy_problem import ToyObjective, toy_problem
from factory.search.strategies import RegularisedEvolution
from factory.search.strategies.study import run_search
problem = toy_problem(stop_after=9)
try:
    run_search(problem, RegularisedEvolution(5, 3), queries=20, seed=4, path={path!r})
finally:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trials.jsonl"
    code = KILLED.format(here=str(Path(__file__).parent), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    with path.open("ab") as stream:
        stream.write(b'{"op_code": 4, "torn')
    problem = toy_problem()
    # Who waits for a dead process's lock sleeps in between.
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits for a lock"))
    outcome = run_search(problem, RegularisedEvolution(5, 3), queries=20, seed=4, path=path)
    whole = run_search(toy_problem(), RegularisedEvolution(5, 3), queries=20, seed=4)
    assert [s.choices for s in outcome.history] == [s.choices for s in whole.history]
    assert len(problem.objective.evaluated) == 11  # type: ignore[attr-defined]


def test_more_queries_go_on_from_fewer(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    run_search(toy_problem(), RegularisedEvolution(), queries=10, path=path)
    longer = run_search(toy_problem(), RegularisedEvolution(), queries=25, path=path)
    whole = run_search(toy_problem(), RegularisedEvolution(), queries=25)
    assert [s.choices for s in longer.history] == [s.choices for s in whole.history]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "holds a search with seed 0, not 1"),
        ({"fingerprint": "b"}, "holds a search with fingerprint 'a', not 'b'"),
        ({"strategy": RegularisedEvolution()}, "with strategy 'random', not 'evolution'"),
    ],
)
def test_file_of_another_search(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "trials.jsonl"
    same = {"strategy": RandomSearch(), "seed": 0, "fingerprint": "a"}
    run_search(toy_problem(), queries=3, path=path, **same)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        run_search(toy_problem(), queries=3, path=path, **{**same, **changes})  # type: ignore[arg-type]


class WithParameters(ToyObjective):
    """Costs beyond latency and MACs, known by a query only."""

    def evaluate(self, architecture: Toy) -> Score:
        score, size = super().evaluate(architecture), float(sum(architecture))
        further = {"params": 5.0 * size, "latency_ms@b": 2.0 * size}
        return dataclasses.replace(score, further=further)


def test_further_costs_are_limits_and_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    limits = {"params": 40.0, "latency_ms@b": 14.0}
    first = Problem(ToySpace(4, 4, 4, 4), WithParameters(), limits)  # type: ignore[arg-type, var-annotated]
    run_search(first, RandomSearch(), queries=6, seed=1, path=path)
    again = Problem(ToySpace(4, 4, 4, 4), WithParameters(), limits)  # type: ignore[arg-type, var-annotated]
    outcome = run_search(again, RandomSearch(), queries=12, seed=1, path=path)
    for seen in outcome.history.queries:
        assert seen.score is not None
        size = sum(seen.architecture)
        assert (seen.score.cost("params"), seen.score.cost("latency_ms@b")) == (5 * size, 2 * size)
        assert seen.feasible == (size <= 7)
    assert len({seen.feasible for seen in outcome.history.queries}) == 2


def test_file_that_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text("no\njournal\n")
    with pytest.raises(InputError, match=r"trials\.jsonl is not a journal of trials"):
        run_search(toy_problem(), RandomSearch(), queries=3, path=path)


def test_bad_problems() -> None:
    problem = toy_problem()
    with pytest.raises(InputError, match="unknown budget 'latency'; did you mean 'latency_ms'"):
        Problem(problem.space, problem.objective, {"latency": 3.0})
    with pytest.raises(InputError, match=r"budget macs = 0\.0 is not positive"):
        Problem(problem.space, problem.objective, {"macs": 0.0})
    with pytest.raises(InputError, match="0 queries are too few"):
        run_search(problem, RandomSearch(), queries=0)
    with pytest.raises(InputError, match="is no score"):
        Score(float("nan"), 1.0, 1.0)
