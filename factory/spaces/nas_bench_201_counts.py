"""What runs of a NAS-Bench-201 cell, under the assumptions that runtimes of the tables differ in.

* as written: all six edges run, also where their result is never used (frameworks that interpret
  the network's code; a ``none`` is a multiplication by zero).
* reachable: an operator runs only if its result reaches the output over edges that are not
  ``none``; a cell whose output does not depend on the input is a constant (compilers of graphs).
* executed: the expression graph after common subexpressions are shared, as an optimising
  runtime has it: ReLU, pool or zero of the same state run once, convolutions of one state share
  their ReLU, a ``skip_connect`` is the state itself. Finer columns for tables with many rows.
Counts are those of one cell; all cells of a network are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from factory.spaces.nas_bench_201 import EDGES, OUTPUT, Cell201, one_hot

EXECUTED: tuple[str, ...] = (
    "nor_conv_1x1",
    "nor_conv_3x3",
    "relu",
    "avg_pool_3x3",
    "none",
    "add",
    "relu_shared",
    "add_after_convolution",
    "add_of_convolutions",
    "add_of_equals",
)
_CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")


def written_counts(cells: Iterable[Cell201]) -> np.ndarray:
    """[N, 5]: how often each of OPS is on an edge."""
    return np.asarray(one_hot(cells).sum(1))


def reachable_cell(cell: Cell201) -> Cell201:
    """The cell after what cannot reach the output has become ``none``; all ``none`` if nothing can.

    Edges behind a ``none`` at the input stay: a runtime that only looks back from the output keeps
    them.
    """
    if not cell.connected:
        return Cell201(("none",) * len(EDGES))
    reaches = {OUTPUT}
    for (node, source), op in reversed(list(zip(EDGES, cell.ops, strict=True))):
        if op != "none" and node in reaches:
            reaches.add(source)
    pairs = zip(EDGES, cell.ops, strict=True)
    return Cell201(tuple(op if node in reaches else "none" for (node, _), op in pairs))


def reachable_counts(cells: Iterable[Cell201]) -> np.ndarray:
    """[N, 5]: the counts of :func:`reachable_cell`.

    A row of zeros is a cell whose output does not depend on its input.
    """
    cells = list(cells)
    counts = written_counts([reachable_cell(cell) for cell in cells])
    return counts * np.array([[cell.connected] for cell in cells])


def executed_counts(cells: Iterable[Cell201]) -> np.ndarray:
    """[N, 10], columns EXECUTED: what is left when equal subexpressions run once."""
    return np.array([_executed(cell) for cell in cells]).reshape(-1, len(EXECUTED))


def _executed(cell: Cell201) -> list[float]:
    graph = _Expressions()
    states = [graph.value("input")]
    edges = iter(enumerate(cell.ops))
    for node in range(1, OUTPUT + 1):
        total: int | None = None
        for source in range(node):
            edge, op = next(edges)
            term = _term(graph, op, states[source], edge)
            total = term if total is None else graph.value("add", total, term)
        assert total is not None
        states.append(total)
    graph.uses[states[OUTPUT]] += 1
    counts = Counter(key[0] for key in graph.numbers)
    adds = [operands for kind, operands in graph.numbers if kind == "add"]
    fused = [[graph.kinds[x] in _CONVOLUTIONS and graph.uses[x] == 1 for x in add] for add in adds]
    counts["relu_shared"] = sum(
        graph.uses[number] > 1 for key, number in graph.numbers.items() if key[0] == "relu"
    )
    counts["add_after_convolution"] = sum(any(pair) for pair in fused)
    counts["add_of_convolutions"] = sum(all(pair) for pair in fused)
    counts["add_of_equals"] = sum(a == b for a, b in adds)
    return [float(counts[name]) for name in EXECUTED]


class _Expressions:
    """Values of an expression graph; the same operator on the same values is the same value."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, tuple[int, ...]], int] = {}
        self.kinds: list[str] = []
        self.uses: Counter[int] = Counter()

    def value(self, kind: str, *operands: int, weights: Sequence[int] = ()) -> int:
        """Number of the value; ``weights`` tells operators with different parameters apart."""
        key = (kind, (*operands, *weights))
        if key not in self.numbers:
            self.numbers[key] = len(self.kinds)
            self.kinds.append(kind)
            self.uses.update(operands)
        return self.numbers[key]


def _term(graph: _Expressions, op: str, state: int, edge: int) -> int:
    if op == "skip_connect":
        return state
    if op in _CONVOLUTIONS:
        return graph.value(op, graph.value("relu", state), weights=[-1 - edge])
    return graph.value(op, state)
