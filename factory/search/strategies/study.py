"""Runs a strategy on a problem, with trials that outlive the process.

A query is the first evaluation of an architecture; proposing a known one again is free, and so is
one that is over a limit by its known costs or cannot be built: it is told to the strategy as
infeasible. A strategy that proposes nothing new for long gets a random new architecture. The
trials are an Optuna study in a journal file (docs/formats/search-trials.md): a process killed at
any moment loses at most the evaluation it was in, and the same call then proposes what the
uninterrupted search would have. One process at a time works on a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from factory.core.errors import FactoryError, InputError
from factory.core.files import disk_errors
from factory.core.progress import SILENT, Progress
from factory.search.strategies.base import Strategy, distributions, new_random
from factory.search.strategies.problem import History, Problem, Score, Seen, admissible

A = TypeVar("A")
STUDY = "search"
IDLE = 200  # proposals without a query after which a random architecture is put in
LOST = 50  # random architectures in a row that bring no query: the space is used up
DIRECTIONS: tuple[Literal["minimize"], ...] = ("minimize", "minimize")  # log latency, -accuracy
UNBUILDABLE = 1e9  # violation of what cannot be built, in the file


@dataclass(frozen=True)
class Outcome(Generic[A]):
    """What a search found.

    Attributes:
        history: every proposal.
        front: feasible architectures that no other one beats, by rising latency.
        best: the most accurate feasible one, None where nothing kept the limits.
        exhausted: nothing new was left to propose before the queries were used up.
    """

    history: History[A]
    front: list[Seen[A]]
    best: Seen[A] | None
    exhausted: bool


def run_search(
    problem: Problem[A],
    strategy: Strategy,
    *,
    queries: int,
    seed: int = 0,
    path: Path | str | None = None,
    fingerprint: str = "",
    progress: Progress = SILENT,
    label: str = "search",
) -> Outcome[A]:
    """Search until ``queries`` architectures have been evaluated.

    Args:
        problem: space, objective and limits.
        strategy: how to propose.
        queries: evaluations in all, those of an interrupted run included.
        seed: one seed, one sequence of proposals.
        path: journal file of the trials; None keeps them in memory.
        fingerprint: what the evaluations depend on (data, budgets, predictor); a file of another
            problem is refused.
        progress: where to report.
        label: name in the progress.

    Raises:
        InputError: the file holds another search or is damaged.
    """
    if queries < 1:
        raise InputError(f"{queries} queries are too few", fix="give at least 1")
    marks = {
        "strategy": strategy.NAME,
        "seed": seed,
        "cardinalities": list(problem.space.cardinalities),
        "limits": dict(problem.limits),
        "fingerprint": fingerprint,
    }
    storage = InMemoryStorage() if path is None else _open(Path(path))
    with _a_journal(path):
        study = _study(storage, marks, path)
        history = History[A]()
        for trial in _finished(study):
            history.add(_restored(problem, trial))
    exhausted = False
    with progress.task(label, queries, done=min(queries, len(history.queries))) as task:
        while len(history.queries) < queries and not exhausted:
            before = len(history.queries)
            exhausted = not _step(problem, strategy, study, history, seed)
            if len(history.queries) > before:
                task.advance(note=f"front of {len(history.front())}")
    found = history.feasible()
    best = max(found, key=lambda s: (s.score.accuracy, -s.score.latency_ms)) if found else None  # type: ignore[union-attr]
    return Outcome(history, history.front(), best, exhausted)


def _step(
    problem: Problem[A], strategy: Strategy, study: Study, history: History[A], seed: int
) -> bool:
    """One proposal; False where nothing new can be found."""
    idle = history.idle
    if idle >= IDLE + LOST or (idle and len(history.by_choices) == _size(problem)):
        return False
    entropy = np.random.SeedSequence([seed, len(history)])
    words = [int(word) for word in entropy.generate_state(2)]
    variables = distributions(problem.space.cardinalities)
    if idle >= IDLE and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        choices = new_random(problem, history, np.random.default_rng(words))
        study.enqueue_trial(dict(zip(variables, choices, strict=True)))
    study.sampler = strategy.sampler(problem, history, words[0])
    trial = study.ask(variables)
    choices = tuple(int(trial.params[name]) for name in variables)
    seen = _evaluated(problem, history, choices)
    stored = min(seen.violation, UNBUILDABLE)
    trial.set_constraint("limits", stored)
    trial.set_user_attr("query", seen.query)
    if seen.score is None:
        values = (math.log(UNBUILDABLE), 0.0)
    else:
        recorded = dataclasses.asdict(seen.score)
        if not seen.score.further:
            del recorded["further"]
        trial.set_user_attr("score", recorded)
        values = seen.point
    study.tell(trial, values)
    history.add(seen)
    return True


def _size(problem: Problem[Any]) -> int:
    return math.prod(problem.space.cardinalities)


def _evaluated(problem: Problem[A], history: History[A], choices: tuple[int, ...]) -> Seen[A]:
    known = history.by_choices.get(choices)
    if known is not None:
        return Seen(choices, known.architecture, known.score, known.violation, query=False)
    architecture, violation = admissible(problem, choices)
    if violation > 0:
        return Seen(choices, architecture, None, violation, query=False)
    score = problem.objective.evaluate(architecture)
    costs = {name: score.cost(name) for name in problem.limits}
    return Seen(choices, architecture, score, problem.violation(costs), query=True)


def _restored(problem: Problem[A], trial: FrozenTrial) -> Seen[A]:
    choices = tuple(int(value) for _, value in sorted(trial.params.items()))
    recorded = trial.user_attrs.get("score")
    violation = float(trial.constraints["limits"])
    return Seen(
        choices,
        problem.space.from_choices(choices),
        None if recorded is None else Score(**recorded),
        math.inf if violation >= UNBUILDABLE else violation,
        bool(trial.user_attrs["query"]),
    )


def _finished(study: Study) -> Iterator[FrozenTrial]:
    """Finished trials in order; one that a killed process was in is given up."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.COMPLETE:
            yield trial
        elif trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)


def _study(storage: BaseStorage, marks: dict[str, Any], path: Path | str | None) -> Study:
    study = optuna.create_study(
        storage=storage, study_name=STUDY, directions=DIRECTIONS, load_if_exists=True
    )
    known = study.user_attrs
    for key, value in marks.items():
        if key not in known:
            study.set_user_attr(key, value)
        elif known[key] != value:
            raise InputError(
                f"{path} holds a search with {key} {known[key]!r}, not {value!r}",
                fix="search in another folder, or remove the file to start afresh",
            )
    return study


class _NoLock(JournalFileOpenLock):
    """One process at a time: the run folder is locked, and a lock file would outlive a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


def _open(path: Path) -> BaseStorage:
    """The journal; the part of a line that a killed process left at its end is cut off."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with path.open("r+b") as stream:
                    stream.truncate(whole)
    with _a_journal(path):
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_NoLock(str(path))))


@contextlib.contextmanager
def _a_journal(path: Path | str | None) -> Iterator[None]:
    """Around reading a journal: Optuna applies every line as it is, whatever it holds."""
    try:
        yield
    except FactoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is not a journal of trials",
            why=f"{type(error).__name__}: {error}",
            fix="remove it to start afresh",
        ) from None
