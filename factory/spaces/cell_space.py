"""The cell space: every network that a genotype and a network size describe (no torch).

Its variables: per cell type and node the pair of sources and their two operators. The relaxed
choice is one matrix a cell type, an edge a row and an operator a column; a node keeps two edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from factory.graph.fusion import NO_RULES, FusionRules
from factory.graph.opgraph import OpGraph
from factory.latency.presence import PresenceMatrix
from factory.spaces import lowering
from factory.spaces.base import ChoiceMatrix, Choices, Entry, SearchSpace, Variable
from factory.spaces.cell_presence import EDGES, cell_presence
from factory.spaces.genotype import CELL_TYPES, NODES, OPS, SELECTABLE_OPS, Genotype, Pair
from factory.spaces.network_spec import NetworkSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from factory.spaces.cell_network import CellNetwork
    from factory.spaces.mixing import SupernetOptions

__all__ = ["EDGES", "OPS", "CellSpace", "NetworkSpec"]

SOURCES: dict[int, tuple[tuple[int, int], ...]] = {
    node: tuple(itertools.combinations(range(node), 2)) for node in NODES
}
PLACES: tuple[tuple[str, int], ...] = tuple((name, node) for name in CELL_TYPES for node in NODES)
VARIABLES: tuple[Variable, ...] = tuple(
    Variable(f"{name} {node} {what}", values)
    for name, node in PLACES
    for what, values in (
        ("sources", SOURCES[node]), ("first", SELECTABLE_OPS), ("second", SELECTABLE_OPS)
    )
)  # fmt: skip
MATRICES: tuple[ChoiceMatrix, ...] = tuple(
    ChoiceMatrix(
        name,
        EDGES,
        OPS,
        (len(OPS),) * len(EDGES),
        tuple(node for node, _ in EDGES),
        kept=2,
        none=OPS.index("none"),
        skip=OPS.index("skip_connect"),
        skips_limited=name == "normal",
    )
    for name in CELL_TYPES
)
_NAMES = tuple(variable.name for variable in VARIABLES)
_EDGE_INDEX = {edge: i for i, edge in enumerate(EDGES)}


class CellSpace(SearchSpace[Genotype]):
    """All networks of one :class:`NetworkSpec`."""

    KIND: ClassVar[str] = "cell"
    ARCHITECTURE: ClassVar[type[Any]] = Genotype
    UNSUPPORTED: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    variables = VARIABLES
    matrices = MATRICES
    blocks = tuple((i, i + 1, i + 2) for i in range(0, len(VARIABLES), 3))

    def lower(self, architecture: Genotype) -> OpGraph:
        """The raw operator graph of the derived network in inference mode."""
        return lowering.lower(self.spec, architecture)

    def network(self, architecture: Genotype, *, auxiliary: bool = False) -> CellNetwork:
        """The torch network."""
        from factory.spaces.cell_network import CellNetwork

        return CellNetwork(architecture, self.spec, auxiliary=auxiliary)

    def supernet(self, options: SupernetOptions) -> nn.Module:
        """All candidates in batches, or edge by edge where a row needs that."""
        from factory.spaces.cell_supernet import Supernet
        from factory.spaces.edge_supernet import EdgeSupernet

        spec = replace(self.spec, layers=options.layers or self.spec.layers)
        if options.single:
            return EdgeSupernet(
                spec, options.partial_channels, options.seed, options.candidates,
                options.activations,
            )  # fmt: skip
        return Supernet(spec, options.partial_channels, options.seed)

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

    def entries(self, block: int, choices: Choices) -> tuple[Entry, ...]:
        """The two edges of a node, each with its operator."""
        (name, node), (sources, *ops) = PLACES[block], choices
        pairs = zip(SOURCES[node][sources], ops, strict=True)
        return tuple((name, _EDGE_INDEX[node, source], op + 1) for source, op in pairs)

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

    def decode(self, values: Mapping[str, Any]) -> Genotype:
        """The genotype; per node by rising source."""
        found = iter(values.values())
        cells: dict[str, list[Pair]] = {name: [] for name in CELL_TYPES}
        for (name, _), (a, b), first, second in zip(PLACES, found, found, found, strict=False):
            cells[name] += [(first, a), (second, b)]
        return Genotype(tuple(cells["normal"]), NODES, tuple(cells["reduce"]), NODES)

    def encode(self, architecture: Genotype) -> Mapping[str, Any]:
        """Per cell type and node the pair of sources, and the operators by rising source."""
        found: list[Any] = []
        for name in CELL_TYPES:
            pairs = architecture.cell(name)
            for i in range(0, len(pairs), 2):
                (first, a), (second, b) = pairs[i : i + 2]
                found += ((a, b), first, second) if a < b else ((b, a), second, first)
        return dict(zip(_NAMES, found, strict=True))

    def with_activations(
        self, architecture: Genotype, activations: Mapping[str, Sequence[str]]
    ) -> Genotype:
        """The genotype with the activation of each of its edges (per cell type [E])."""
        normal, reduce = (
            tuple(
                activations[name][_EDGE_INDEX[NODES[i // 2], source]]
                for i, (_, source) in enumerate(architecture.cell(name))
            )
            for name in CELL_TYPES
        )
        return replace(architecture, normal_activations=normal, reduce_activations=reduce)

    def canonical(self, architecture: Genotype) -> Genotype:
        """The two operators of every node by rising source."""
        cells, named = {}, {}
        for name in CELL_TYPES:
            both = list(zip(architecture.cell(name), architecture.activations(name), strict=True))
            for i in range(0, len(both), 2):
                both[i : i + 2] = sorted(both[i : i + 2], key=lambda entry: entry[0][1])
            cells[name] = tuple(pair for pair, _ in both)
            named[name] = tuple(activation for _, activation in both)
        return Genotype(
            cells["normal"], NODES, cells["reduce"], NODES, named["normal"], named["reduce"]
        )
