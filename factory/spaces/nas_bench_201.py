"""Cells of NAS-Bench-201 (Dong and Yang, arXiv 2001.00326): text form, number, isomorphism class.

A cell has an input (node 0) and three nodes; every node adds one operator on each earlier node, so
there are six edges and 5**6 = 15,625 cells. Text form, node by node, "operator~source":
``|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|``.

The number of a cell is its place in the benchmark's own tables (and in those made after it):
all cells in lexicographic order, shuffled once by Python's generator with seed 88.

Cells are isomorphic when the same computation reaches the output. :meth:`Cell201.unique_string`
writes the computation as the benchmark does, which divides the cells into the 6,466 classes of its
tables; it does not tell one convolution that is read twice from two convolutions, and keeps zeros.
:meth:`Cell201.live` removes operators that cannot change the output, as a runtime does, and
:meth:`Cell201.canonical` gives one cell for all that are the same network.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from factory.core.errors import InputError, unknown_name

OPS: tuple[str, ...] = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES: tuple[int, ...] = (1, 2, 3)
EDGES: tuple[tuple[int, int], ...] = tuple(
    (node, source) for node in NODES for source in range(node)
)
OUTPUT = NODES[-1]
SIZE = len(OPS) ** len(EDGES)
SHUFFLE_SEED = 88
EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
_ITEM = re.compile(r"([a-z0-9_]+)~(\d{1,2})")


@dataclass(frozen=True, order=True)
class Cell201:
    """The operator on each of the six edges, in the order of EDGES; checked when it is made."""

    ops: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        where = "a cell of NAS-Bench-201"
        if len(self.ops) != len(EDGES):
            raise InputError(
                f"{len(self.ops)} operators instead of {len(EDGES)}",
                where=where,
                why="each of the three nodes reads every earlier node",
            )
        for op in self.ops:
            if op not in OPS:
                raise unknown_name("operator", op, OPS, where)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form; InputError says what is wrong with it."""
        where = f"the cell {text!r}"
        nodes = text.strip().split("+")
        if len(nodes) != len(NODES):
            raise InputError(
                f"{len(nodes)} nodes instead of {len(NODES)}", where=where, fix=f"write {EXAMPLE}"
            )
        ops = []
        for node, part in zip(NODES, nodes, strict=True):
            items = part.strip().strip("|").split("|")
            found = [_ITEM.fullmatch(item) for item in items]
            sources = [int(match[2]) if match else -1 for match in found]
            if sources != list(range(node)):
                raise InputError(
                    f"node {node} is {part.strip()!r}, which is not one operator on each of the "
                    f"sources 0 to {node - 1}",
                    where=where,
                    fix=f"write {EXAMPLE}",
                )
            ops += [match[1] for match in found if match]
        return cls(tuple(ops))

    @classmethod
    def from_index(cls, index: int) -> Self:
        """The cell of a number from 0 to 15,624 of the benchmark's tables."""
        if not 0 <= index < SIZE:
            raise InputError(
                f"NAS-Bench-201 has no cell {index}", fix=f"choose a number from 0 to {SIZE - 1}"
            )
        return cls.from_choices(_digits(_order()[0][index]))

    @classmethod
    def from_choices(cls, choices: Sequence[int]) -> Self:
        """The cell of six positions in OPS."""
        return cls(tuple(OPS[int(choice)] for choice in choices))

    @property
    def choices(self) -> tuple[int, ...]:
        """Position in OPS of the operator of each edge."""
        return tuple(_OP_INDEX[op] for op in self.ops)

    @property
    def index(self) -> int:
        """The cell's number in the benchmark's tables."""
        return _order()[1][_rank(self.choices)]

    def op(self, node: int, source: int) -> str:
        """The operator that ``node`` applies to ``source``."""
        return self.ops[_EDGE_INDEX[node, source]]

    def unique_string(self) -> str:
        """The computation of the output as the benchmark writes it: equal in isomorphic cells.

        "#" is zero, "0" the input, "(x)@op" an operator on x; terms of a sum are sorted and
        skip_connect passes its input on. Zeros stay in sums, as in the benchmark's classes.
        """
        text = {0: "0"}
        for node in NODES:
            terms = []
            for source in range(node):
                op, x = self.op(node, source), text[source]
                if op == "none" or x == "#":
                    terms.append("#")
                else:
                    terms.append(x if op == "skip_connect" else f"({x})@{op}")
            text[node] = "+".join(sorted(terms))
        return text[OUTPUT]

    def live(self) -> Cell201:
        """The same cell with ``none`` on every edge that cannot change the output."""
        chosen = [edge for edge, op in zip(EDGES, self.ops, strict=True) if op != "none"]
        from_input, to_output = {0}, {OUTPUT}
        for node, source in chosen:  # sources before nodes
            if source in from_input:
                from_input.add(node)
        for node, source in reversed(chosen):
            if node in to_output:
                to_output.add(source)
        return Cell201(
            tuple(
                op if source in from_input and node in to_output else "none"
                for op, (node, source) in zip(self.ops, EDGES, strict=True)
            )
        )

    @property
    def connected(self) -> bool:
        """Whether the output depends on the input at all."""
        return any(op != "none" for op in self.live().ops)

    def canonical(self) -> Cell201:
        """One cell for all that are the same network: the first of them in the order of choices.

        Finer than :meth:`unique_string` where one convolution read twice is not two equal
        convolutions, coarser where zeros and the grouping of sums make no difference.
        """
        return _canonical(self)

    def computation(self) -> str:
        """The computation of the output, zeros left out and sums flat, and its convolutions."""
        terms: dict[int, list[str]] = {0: ["0"]}
        convolutions: list[str] = []
        for node in NODES:
            found: list[str] = []
            for source in range(node):
                op = self.op(node, source)
                if op == "skip_connect":
                    found += terms[source]
                elif op != "none" and terms[source]:
                    found.append(f"({'+'.join(terms[source])})@{op}")
                    convolutions += found[-1:] if op.startswith("nor_conv") else []
            terms[node] = sorted(found)
        return " ".join(["+".join(terms[OUTPUT]), *sorted(convolutions)])

    def one_hot(self) -> np.ndarray:
        """[6, 5], 1 where an edge carries an operator."""
        return one_hot([self])[0]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, with its schema version."""
        return {"schema_version": 1, "space": "nas_bench_201", "cell": str(self)}

    @classmethod
    def from_dict(cls, value: Any, where: str = "the cell file") -> Self:
        """Read the JSON form; InputError says what is wrong with it and where."""
        expected = {"schema_version": 1, "space": "nas_bench_201"}
        if not isinstance(value, dict) or not isinstance(value.get("cell"), str):
            raise InputError("there is no text under 'cell'", where=where, fix=f"write {EXAMPLE}")
        for key, wanted in expected.items():
            if value.get(key) != wanted:
                raise InputError(f"{key} {value.get(key)!r} is not {wanted!r}", where=where)
        return cls.parse(value["cell"])

    def __str__(self) -> str:
        nodes = []
        for node in NODES:
            nodes.append("".join(f"|{self.op(node, s)}~{s}" for s in range(node)) + "|")
        return "+".join(nodes)


def all_cells() -> Iterator[Cell201]:
    """The 15,625 cells in the order of the benchmark's tables."""
    return (Cell201.from_index(index) for index in range(SIZE))


def one_hot(cells: Iterable[Cell201]) -> np.ndarray:
    """The cells as [B, 6, 5], 1 where an edge carries an operator."""
    choices_BE = np.array([cell.choices for cell in cells], dtype=np.int64).reshape(-1, len(EDGES))
    return np.eye(len(OPS))[choices_BE]


_EDGE_INDEX = {edge: i for i, edge in enumerate(EDGES)}
_OP_INDEX = {op: i for i, op in enumerate(OPS)}


def _rank(choices: Sequence[int]) -> int:
    """Place in lexicographic order."""
    rank = 0
    for choice in choices:
        rank = rank * len(OPS) + choice
    return rank


def _digits(rank: int) -> tuple[int, ...]:
    """Inverse of :func:`_rank`."""
    digits = []
    for _ in EDGES:
        rank, digit = divmod(rank, len(OPS))
        digits.append(digit)
    return tuple(reversed(digits))


@lru_cache(maxsize=1)
def _order() -> tuple[list[int], list[int]]:
    """(rank of each index, index of each rank)."""
    ranks = list(range(SIZE))
    random.Random(SHUFFLE_SEED).shuffle(ranks)
    indices = [0] * SIZE
    for index, rank in enumerate(ranks):
        indices[rank] = index
    return ranks, indices


@lru_cache(maxsize=SIZE)
def _canonical(cell: Cell201) -> Cell201:
    return _first_of_class()[cell.live().computation()]


@lru_cache(maxsize=1)
def _first_of_class() -> dict[str, Cell201]:
    first: dict[str, Cell201] = {}
    for choices in itertools.product(range(len(OPS)), repeat=len(EDGES)):
        cell = Cell201.from_choices(choices)
        if cell.live() == cell:
            first.setdefault(cell.computation(), cell)
    return first
