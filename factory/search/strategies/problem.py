"""What a discrete search is about: a space, an objective, limits; and what it has seen so far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from factory.core.errors import InputError, unknown_name
from factory.spaces.base import Choices, SearchSpace

A = TypeVar("A")
A_contra = TypeVar("A_contra", contravariant=True)
COSTS: tuple[str, ...] = ("latency_ms", "macs", "params", "peak_memory_mb")


@dataclass(frozen=True)
class Score:
    """What an architecture is worth: accuracy or a proxy of it (0 to 1), and its costs.

    ``further`` are costs that only some searches limit: the other names of COSTS, and
    "latency_ms@DEVICE" for the latency on another chip.
    """

    accuracy: float
    latency_ms: float
    macs: float
    further: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.accuracy) and self.latency_ms > 0 and self.macs >= 0):
            raise InputError(
                f"{self} is no score", why="accuracy must be finite and latency positive"
            )

    def cost(self, name: str) -> float:
        """Value of a cost by its name."""
        return float(self.further[name] if name in self.further else getattr(self, name))


class Objective(Protocol[A_contra]):
    """Evaluates architectures; one call of :meth:`evaluate` is one query of a search."""

    def evaluate(self, architecture: A_contra) -> Score:
        """The score; the same for the same architecture."""
        ...

    def known_costs(self, architecture: A_contra) -> Mapping[str, float]:
        """Costs that are known without a query (a prediction, MACs); may be empty.

        An architecture over a limit by a known cost is never evaluated.
        """
        ...


@dataclass(frozen=True)
class Problem(Generic[A]):
    """A space, an objective and hard limits.

    Args:
        space: what may be proposed.
        objective: what a query costs and tells.
        limits: cost -> largest value allowed; names from COSTS, "latency_ms@DEVICE" on other chips.
        min_accuracy: an accuracy that is worth nothing; steers model-based search only.
    """

    space: SearchSpace[A]
    objective: Objective[A]
    limits: Mapping[str, float] = field(default_factory=dict)
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if name not in COSTS and not name.startswith("latency_ms@"):
                raise unknown_name("budget", name, COSTS)
            if not limit > 0:
                raise InputError(f"budget {name} = {limit} is not positive")

    def violation(self, costs: Mapping[str, float]) -> float:
        """Largest excess of a cost over its limit as a share of it; 0 within all limits."""
        over = [costs[name] / limit - 1.0 for name, limit in self.limits.items() if name in costs]
        return max([0.0, *over])


@dataclass(frozen=True)
class Seen(Generic[A]):
    """A proposal and what came of it.

    Attributes:
        choices: the proposal, one whole number per variable.
        score: None where it was refused without a query.
        violation: how far it is over the limits; infinite where it cannot be built.
        query: whether it was the first evaluation of this architecture.
    """

    choices: Choices
    architecture: A
    score: Score | None
    violation: float
    query: bool

    @property
    def feasible(self) -> bool:
        """Evaluated and within all limits."""
        return self.score is not None and self.violation <= 0

    @property
    def point(self) -> tuple[float, float]:
        """(log latency, -accuracy), both to be minimised."""
        assert self.score is not None
        return math.log(self.score.latency_ms), -self.score.accuracy


class History(Generic[A]):
    """All proposals in order; queries (each architecture once) are kept apart."""

    def __init__(self) -> None:
        self.proposals: list[Seen[A]] = []
        self.queries: list[Seen[A]] = []
        self.by_choices: dict[Choices, Seen[A]] = {}

    def add(self, seen: Seen[A]) -> None:
        """Append a proposal."""
        self.proposals.append(seen)
        self.by_choices.setdefault(seen.choices, seen)
        if seen.query:
            self.queries.append(seen)

    @property
    def idle(self) -> int:
        """Proposals since the last query."""
        return next(
            (i for i, seen in enumerate(reversed(self.proposals)) if seen.query),
            len(self.proposals),
        )

    def feasible(self) -> list[Seen[A]]:
        """Evaluated architectures within all limits."""
        return [seen for seen in self.queries if seen.feasible]

    def front(self) -> list[Seen[A]]:
        """The feasible architectures that no other one beats, by rising latency."""
        from factory.search.strategies.pareto import front

        found = self.feasible()
        return [found[i] for i in front([seen.point for seen in found])]

    def __len__(self) -> int:
        return len(self.proposals)

    def __iter__(self) -> Iterator[Seen[A]]:
        return iter(self.proposals)


def admissible(problem: Problem[Any], choices: Choices) -> tuple[Any, float]:
    """(architecture, violation by known costs); infinite where it cannot be built."""
    architecture = problem.space.from_choices(choices)
    if not problem.space.buildable(architecture):
        return architecture, math.inf
    return architecture, problem.violation(problem.objective.known_costs(architecture))
