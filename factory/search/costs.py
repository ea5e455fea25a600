"""Cost terms of a search (latency on a chip, MACs, ...) and their exact values on genotypes.

A cost is constant + weights @ n(q) with the expected kernel counts n(q) of a presence matrix, so
it is a sum over cell types of multilinear polynomials in q. :class:`CostModel` evaluates all terms
on one-hot choices, and for one node all of its options at once, with everything else fixed.
Legend: T terms, M monomials, S slots of a node (edge of the node x selectable operator).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.core.units import format_macs, format_ms
from factory.graph.kernel import Kernel
from factory.latency.presence import PresenceMatrix
from factory.spaces.cell_space import EDGES, OPS
from factory.spaces.genotype import CELL_TYPES, NODES, SELECTABLE_OPS, Genotype, Pair

if TYPE_CHECKING:
    from torch import Tensor

    from factory.search.config import SearchConfig

Cost = Callable[[Mapping[str, Any]], "Tensor"]  # q per cell type -> expected cost, differentiable
N_OPS = len(SELECTABLE_OPS)
OP_COLUMNS = [OPS.index(op) for op in SELECTABLE_OPS]
SKIP_SLOT = SELECTABLE_OPS.index("skip_connect")
Place = tuple[str, int]  # (cell type, node)
PLACES: tuple[Place, ...] = tuple((name, node) for name in CELL_TYPES for node in NODES)
# per (cell type, node) two slots; slot = position of the edge in its node * N_OPS + operator
Choice = dict[Place, tuple[int, int]]


@dataclass(frozen=True, eq=False)
class CostTerm:
    """One cost of the network that will ship, as a function of the choice.

    Args:
        name: key in histories and results ("latency_ms", "macs").
        presence: expected kernel counts of the *target* network.
        weights: cost of one execution of each kernel of ``presence``.
        constant: cost that does not depend on the choice.
        limit: the budget; None: observed only.
        least: how much of it a network should use where the space has one that does.
        unit: "ms" or "macs" or any text that follows a number.
        device: the chip, for messages.
        exact: the cost of an architecture where ``presence`` only approximates it.
        pool: architectures to fall back on there, by rising exact cost.
    """

    name: str
    presence: PresenceMatrix
    weights: np.ndarray
    constant: float = 0.0
    limit: float | None = None
    unit: str = "ms"
    device: str = ""
    least: float | None = None
    exact: Callable[[Any], float] | None = None
    pool: tuple[Any, ...] = ()

    def with_limit(self, limit: float | None, least: float | None = None) -> CostTerm:
        """The same cost under another budget."""
        return dataclasses.replace(self, limit=limit, least=least)

    def floor(self, largest: float) -> CostTerm:
        """``least`` as a limit: how far the cost is below ``largest``, the most that it can be."""
        assert self.least is not None
        return dataclasses.replace(
            self,
            name=f"{self.name} left",
            weights=-self.weights,
            constant=largest - self.constant,
            limit=largest - self.least,
            least=None,
            exact=None,
        )

    def value(self, q: Mapping[str, np.ndarray]) -> float:
        """The cost at a choice q (per cell type [E, O])."""
        constant, coefficients_M = self.presence.weighted(self.weights, self.constant)
        return constant + float(coefficients_M @ self.presence.evaluate_monomials(q))

    def text(self, value: float) -> str:
        """A value with its unit."""
        if self.unit == "ms":
            return format_ms(value)
        if self.unit == "params":
            return f"{value:,.0f} parameters"
        return format_macs(value) if self.unit == "macs" else f"{value:.4g} {self.unit}"


def additive(term: CostTerm, cfg: SearchConfig, seed: int) -> Cost:
    """The expected cost as it is, exact at a one-hot choice."""
    from factory.search.form import exact_cost

    return exact_cost(term)


def no_cost(term: CostTerm, cfg: SearchConfig, seed: int) -> None:
    """The cost stays out of the gradient."""


def parameters_term(
    presence: PresenceMatrix, limit: float | None = None, name: str = "params"
) -> CostTerm:
    """Trainable parameters of the target network as a cost.

    Weights of every convolution and linear layer, two for every channel that is normalised (all
    convolutions but the depthwise ones), the classifier's bias.
    """
    weights = np.array([_parameters(kernel) for kernel in presence.kernels], dtype=np.float64)
    return CostTerm(name, presence, weights, 0.0, limit, "params")


def _parameters(kernel: Kernel) -> int:
    if kernel.weight is None:
        return 0
    count, outputs = math.prod(kernel.weight), kernel.weight[0]
    if kernel.op == "Conv":
        depthwise = kernel.weight[1] == 1 and kernel.attr("g") == str(outputs)
        return count + (0 if depthwise else 2 * outputs)
    return count + outputs


def macs_term(presence: PresenceMatrix, limit: float | None = None, name: str = "macs") -> CostTerm:
    """Multiply-adds of the target network as a cost."""
    weights = np.array([kernel.macs for kernel in presence.kernels], dtype=np.float64)
    return CostTerm(name, presence, weights, 0.0, limit, "macs")


def node_edges(node: int) -> list[int]:
    """Indices of the edges into a node, by source; source s is at position s."""
    return [EDGES.index((node, source)) for source in range(node)]


def choice_of(genotype: Genotype) -> Choice:
    """A genotype as slots."""
    choice: Choice = {}
    for name in CELL_TYPES:
        pairs = genotype.cell(name)
        for i, node in enumerate(NODES):
            a, b = (s * N_OPS + SELECTABLE_OPS.index(op) for op, s in pairs[2 * i : 2 * i + 2])
            choice[name, node] = (min(a, b), max(a, b))
    return choice


def genotype_of(choice: Choice) -> Genotype:
    """Slots as a genotype; per node by rising source."""
    cells: dict[str, tuple[Pair, ...]] = {}
    for name in CELL_TYPES:
        slots = [slot for node in NODES for slot in sorted(choice[name, node])]
        cells[name] = tuple((SELECTABLE_OPS[slot % N_OPS], slot // N_OPS) for slot in slots)
    return Genotype(cells["normal"], NODES, cells["reduce"], NODES)


class CostModel:
    """Exact values of several cost terms on one-hot choices.

    ``max_skips`` adds the number of skip connections in the normal cell as one more term, so
    that all limits are treated alike.
    """

    def __init__(self, terms: Sequence[CostTerm], max_skips: int | None = None) -> None:
        self.terms = list(terms)
        limits = [np.inf if term.limit is None else term.limit for term in terms]
        count = len(limits) + (max_skips is not None)
        self.base = np.zeros(count)
        rows: dict[str, list[tuple[int, float, np.ndarray]]] = {name: [] for name in CELL_TYPES}
        for t, term in enumerate(terms):
            self.base[t], coefficients = term.presence.weighted(term.weights, term.constant)
            for (name, mask), value in zip(term.presence.monomials, coefficients, strict=True):
                if value != 0.0:
                    rows[name].append((t, float(value), np.asarray(mask)))
        if max_skips is not None:
            limits.append(max_skips + 0.5)
            self.base[-1] = len(EDGES)
            for e in range(len(EDGES)):
                mask = np.zeros((len(EDGES), len(OPS)), dtype=bool)
                mask[e, OPS.index("skip_connect")] = True
                rows["normal"].append((count - 1, -1.0, mask))
        self.limits = np.array(limits, dtype=np.float64)
        self._coefficients: dict[str, np.ndarray] = {}
        self._absent: dict[Place, np.ndarray] = {}
        for name in CELL_TYPES:
            self._add_cell_type(name, rows[name], count)

    def _add_cell_type(
        self, name: str, rows: list[tuple[int, float, np.ndarray]], count: int
    ) -> None:
        unique: dict[bytes, int] = {}
        masks: list[np.ndarray] = []
        entries: list[tuple[int, int, float]] = []
        for t, value, mask in rows:
            m = unique.setdefault(mask.tobytes(), len(masks))
            if m == len(masks):
                masks.append(mask)
            entries.append((t, m, value))
        coefficients = np.zeros((count, len(masks)))
        for t, m, value in entries:
            coefficients[t, m] += value
        stacked = np.array(masks, dtype=bool).reshape(len(masks), len(EDGES), len(OPS))
        self._coefficients[name] = coefficients
        for node in NODES:
            chosen = stacked[:, node_edges(node)][:, :, OP_COLUMNS]
            self._absent[name, node] = 1.0 - chosen.reshape(len(masks), node * N_OPS)

    def _factor(self, place: Place, slots: tuple[int, int]) -> np.ndarray:
        absent = self._absent[place]
        return absent[:, slots[0]] * absent[:, slots[1]]

    def _cell_factor(self, name: str, choice: Choice, without: int | None = None) -> np.ndarray:
        product = np.ones(self._coefficients[name].shape[1])
        for node in NODES:
            if node != without:
                product = product * self._factor((name, node), choice[name, node])
        return product

    def cell_costs(self, name: str, choice: Choice) -> np.ndarray:
        """Part of the costs that a cell type makes, [T]."""
        return self._coefficients[name] @ self._cell_factor(name, choice)

    def costs(self, choice: Choice) -> np.ndarray:
        """All terms at a choice, [T]."""
        return self.base + sum(self.cell_costs(name, choice) for name in CELL_TYPES)

    def node_table(self, place: Place, choice: Choice) -> np.ndarray:
        """All terms for every pair of slots of one node, the rest as in ``choice``: [T, S, S]."""
        name, node = place
        others = self.base + sum(self.cell_costs(n, choice) for n in CELL_TYPES if n != name)
        weights = self._coefficients[name] * self._cell_factor(name, choice, without=node)
        absent = self._absent[place]
        table = np.stack([(absent.T * row) @ absent for row in weights])
        return table + others[:, None, None]

    def feasible(self, costs: np.ndarray) -> np.ndarray:
        """Whether [T, ...] costs are within all limits."""
        limits = (self.limits * (1 + 1e-12)).reshape(-1, *[1] * (costs.ndim - 1))
        return np.asarray((costs <= limits).all(0))


def forbidden_pairs(node: int) -> np.ndarray:
    """[S, S]: pairs of slots that are no option (the same edge twice, or in falling order)."""
    edge = np.arange(node * N_OPS) // N_OPS
    return np.asarray(edge[:, None] >= edge[None, :])


FORBIDDEN: dict[int, np.ndarray] = {node: forbidden_pairs(node) for node in NODES}
