"""A small space with a known front, and an objective that counts and can be interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from factory.search.strategies.problem import Problem, Score

Toy = tuple[int, ...]


class ToySpace:
    """Whole numbers; those that add up to zero cannot be built."""

    KIND = "toy"

    def __init__(self, *cardinalities: int) -> None:
        self._cardinalities = cardinalities

    @property
    def cardinalities(self) -> Toy:
        return self._cardinalities

    def from_choices(self, choices: Sequence[int]) -> Toy:
        return tuple(choices)

    def choices(self, architecture: Toy) -> Toy:
        return architecture

    def buildable(self, architecture: Toy) -> bool:
        return sum(architecture) > 0

    def neighbours(self, architecture: Toy) -> list[Toy]:
        return [
            (*architecture[:i], value, *architecture[i + 1 :])
            for i, size in enumerate(self._cardinalities)
            for value in range(size)
            if value != architecture[i]
        ]

    def canonical(self, architecture: Toy) -> Toy:
        return architecture

    def features(self, architectures: Sequence[Toy]) -> np.ndarray:
        return np.array(architectures, dtype=float)

    def everything(self) -> list[Toy]:
        ranges = (range(size) for size in self._cardinalities)
        return [a for a in itertools.product(*ranges) if self.buildable(a)]


class ToyObjective:
    """Latency grows with every number, accuracy with the first half of them, a little noisily."""

    def __init__(self, known: bool = False, stop_after: int | None = None) -> None:
        self.known, self.stop_after = known, stop_after
        self.evaluated: list[Toy] = []

    def evaluate(self, architecture: Toy) -> Score:
        if self.stop_after is not None and len(self.evaluated) >= self.stop_after:
            raise KeyboardInterrupt
        self.evaluated.append(architecture)
        half = len(architecture) // 2
        noise = 0.01 * np.sin(17.0 * np.dot(architecture, np.arange(1, len(architecture) + 1)))
        accuracy = 0.5 + 0.04 * sum(architecture[:half]) + float(noise)
        return Score(min(accuracy, 1.0), 1.0 + sum(architecture), 10.0 * sum(architecture))

    def known_costs(self, architecture: Toy) -> Mapping[str, float]:
        costs = {"latency_ms": 1.0 + sum(architecture), "macs": 10.0 * sum(architecture)}
        return costs if self.known else {}


def toy_problem(
    *cardinalities: int,
    known: bool = False,
    stop_after: int | None = None,
    limits: Mapping[str, float] | None = None,
) -> Problem[Any]:
    sizes = cardinalities or (4, 4, 4, 4, 4, 4)
    objective = ToyObjective(known, stop_after)
    return Problem(ToySpace(*sizes), objective, limits or {})  # type: ignore[arg-type]
