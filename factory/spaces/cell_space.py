"""The cell space: every network that a genotype and a network size describe (no torch).

The space answers questions about its networks without building them: the kernels they run,
parameters, MACs, and the expected kernel counts of a search's soft choice q[e, o] (edge e is in
the network and carries operator o).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.counts import Counts, count
from factory.graph.fusion import NO_RULES, FusionRules
from factory.graph.kernel import Kernel
from factory.graph.opgraph import OpGraph
from factory.latency.presence import PresenceMatrix
from factory.spaces import lowering
from factory.spaces.cell_presence import EDGES, cell_presence
from factory.spaces.genotype import CELL_TYPES, NODES, OPS, SELECTABLE_OPS, Genotype, Pair
from factory.spaces.network_spec import NetworkSpec

if TYPE_CHECKING:
    from factory.spaces.cell_network import CellNetwork

__all__ = ["EDGES", "OPS", "CellSpace", "NetworkSpec"]


class CellSpace:
    """All networks of one :class:`NetworkSpec`.

    OPS are the eight candidates in the order of the columns of q, EDGES the 14 (node, source)
    pairs in the order of its rows.
    """

    KIND: ClassVar[str] = "cell"
    OPS: tuple[str, ...] = OPS
    EDGES: tuple[tuple[int, int], ...] = EDGES
    CELL_TYPES: tuple[str, ...] = CELL_TYPES

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Per cell type and node: the pair of sources, then the two operators."""
        node = [(len(_SOURCES[n]), len(SELECTABLE_OPS), len(SELECTABLE_OPS)) for n in NODES]
        return tuple(size for _ in CELL_TYPES for sizes in node for size in sizes)

    def lower(self, genotype: Genotype) -> OpGraph:
        """The raw operator graph of the derived network in inference mode."""
        return lowering.lower(self.spec, genotype)

    def kernels(
        self, genotype: Genotype, dtype: str | None = None, fusion: FusionRules = NO_RULES
    ) -> Counter[Kernel]:
        """Canonical kernels of the derived network and how often each runs."""
        return kernel_counts(canonicalise(self.lower(genotype)), dtype, fusion)

    def counts(self, genotype: Genotype) -> Counts:
        """Parameters, MACs and peak memory of the derived network."""
        return count(self.lower(genotype))

    def presence(
        self,
        dtype: str | None = None,
        activations: tuple[str, ...] = (),
        fusion: FusionRules = NO_RULES,
    ) -> PresenceMatrix:
        """Expected count of every canonical kernel as a polynomial in q.

        With ``activations``, the candidates of factorised edges, q has a column for every pair of
        operator and activation.
        """
        return cell_presence(self.spec, dtype, activations, fusion)

    def all_kernels(
        self, dtype: str | None = None, activations: tuple[str, ...] = ()
    ) -> list[Kernel]:
        """Every canonical kernel that some network of the space runs."""
        return list(self.presence(dtype, activations).kernels)

    def random(self, rng: np.random.Generator) -> Genotype:
        """Per node two distinct sources, uniform; operators uniform over the seven but none."""
        cells: dict[str, tuple[Pair, ...]] = {}
        for cell_type in CELL_TYPES:
            pairs: list[Pair] = []
            for node in NODES:
                for source in sorted(rng.choice(node, size=2, replace=False).tolist()):
                    pairs.append((SELECTABLE_OPS[int(rng.integers(len(SELECTABLE_OPS)))], source))
            cells[cell_type] = tuple(pairs)
        return Genotype(cells["normal"], NODES, cells["reduce"], NODES)

    def one_hot(self, genotype: Genotype) -> dict[str, np.ndarray]:
        """The choice q of a genotype: per cell type [14, 8], entries 0 or 1."""
        return {name: many[0] for name, many in self.one_hot_many([genotype]).items()}

    def one_hot_many(self, genotypes: Sequence[Genotype]) -> dict[str, np.ndarray]:
        """:meth:`one_hot` of several genotypes: per cell type [B, 14, 8]."""
        q = {name: np.zeros((len(genotypes), len(EDGES), len(OPS))) for name in CELL_TYPES}
        for b, genotype in enumerate(genotypes):
            for name in CELL_TYPES:
                for i, (op, source) in enumerate(genotype.cell(name)):
                    q[name][b, _EDGE_INDEX[NODES[i // 2], source], _OP_INDEX[op]] = 1.0
        return q

    def neighbours(self, genotype: Genotype) -> list[Genotype]:
        """All genotypes that differ in one operator or in one source, in a fixed order."""
        found: list[Genotype] = []
        for name in CELL_TYPES:
            pairs = genotype.cell(name)
            for i, (op, source) in enumerate(pairs):
                other_source = pairs[i ^ 1][1]
                changed: list[Pair] = [(o, source) for o in SELECTABLE_OPS if o != op]
                changed += [
                    (op, s) for s in range(NODES[i // 2]) if s not in (source, other_source)
                ]
                found += [_with_pair(genotype, name, i, pair) for pair in changed]
        return found

    def choices(self, genotype: Genotype) -> tuple[int, ...]:
        """Per cell type and node: number of the pair of sources, operators by rising source."""
        found: list[int] = []
        for name in CELL_TYPES:
            pairs = genotype.cell(name)
            for i, node in enumerate(NODES):
                (op_a, a), (op_b, b) = sorted(pairs[2 * i : 2 * i + 2], key=lambda pair: pair[1])
                found.append(_SOURCES[node].index((a, b)))
                found += [SELECTABLE_OPS.index(op_a), SELECTABLE_OPS.index(op_b)]
        return tuple(found)

    def from_choices(self, choices: Sequence[int]) -> Genotype:
        """The genotype of one whole number per variable."""
        rest = iter(choices)
        cells: dict[str, tuple[Pair, ...]] = {}
        for name in CELL_TYPES:
            pairs: list[Pair] = []
            for node in NODES:
                sources = _SOURCES[node][next(rest)]
                pairs += [(SELECTABLE_OPS[next(rest)], source) for source in sources]
            cells[name] = tuple(pairs)
        return Genotype(cells["normal"], NODES, cells["reduce"], NODES)

    def buildable(self, genotype: Genotype) -> bool:
        """Always: a genotype that can be written can be built."""
        return True

    def canonical(self, genotype: Genotype) -> Genotype:
        """The two operators of every node by rising source."""
        cells, named = {}, {}
        for name in CELL_TYPES:
            both = list(zip(genotype.cell(name), genotype.activations(name), strict=True))
            for i in range(0, len(both), 2):
                both[i : i + 2] = sorted(both[i : i + 2], key=lambda entry: entry[0][1])
            cells[name] = tuple(pair for pair, _ in both)
            named[name] = tuple(activation for _, activation in both)
        return Genotype(
            cells["normal"], NODES, cells["reduce"], NODES, named["normal"], named["reduce"]
        )

    def features(self, genotypes: Sequence[Genotype]) -> np.ndarray:
        """The choice q and how often each operator occurs in either cell, [B, 2 * (112 + 8)]."""
        q = self.one_hot_many(genotypes)
        parts = [part for name in CELL_TYPES for part in (q[name], q[name].sum(1, keepdims=True))]
        return np.concatenate([part.reshape(len(genotypes), -1) for part in parts], axis=1)

    def to_dict(self, genotype: Genotype) -> dict[str, Any]:
        """JSON form of a genotype."""
        return genotype.to_dict()

    def load(self, path: Path | str) -> Genotype:
        """Read a genotype's JSON file."""
        return Genotype.load(path)

    def network(self, genotype: Genotype, *, auxiliary: bool = False) -> CellNetwork:
        """The torch network."""
        from factory.spaces.cell_network import CellNetwork

        return CellNetwork(genotype, self.spec, auxiliary=auxiliary)


_SOURCES: dict[int, list[tuple[int, int]]] = {
    node: list(itertools.combinations(range(node), 2)) for node in NODES
}
_EDGE_INDEX = {edge: i for i, edge in enumerate(EDGES)}
_OP_INDEX = {op: i for i, op in enumerate(OPS)}


def _with_pair(genotype: Genotype, cell_type: str, index: int, pair: Pair) -> Genotype:
    cells = {name: list(genotype.cell(name)) for name in CELL_TYPES}
    cells[cell_type][index] = pair
    return Genotype(tuple(cells["normal"]), NODES, tuple(cells["reduce"]), NODES)
