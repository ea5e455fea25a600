"""Expected kernel counts of the cell space: how often each canonical kernel runs, given q.

Follows graph/canonical.py. What depends on more than one edge:

- ReLU. All edges that lead with a ReLU share one per source state. If the state is made by a
  convolution and nobody reads it raw (pools, identity skips), the ReLU folds into it. So with
  R = "some edge of the source leads with a ReLU" and W = "some edge reads it raw":
  convolution with ReLU: R and not W; without: otherwise; a ReLU kernel: R and W.
  States made by a concatenation (factorised reduction) or an addition (nodes) never take the
  ReLU in: a ReLU kernel: R.
- Other activations of a factorised edge. The same, each by itself; one that folds does so only
  where no other activation reads the state either. What an activation computes from two tensors
  (SiLU's product) is not shared. The columns of q are operator x activation, operators first.
- Pools of one kind from one source are one kernel; so are the shift (Slice, Pad) of the stride-2
  skips of a source.
- What a device's fusion rules (graph/fusion.py) fold into a state or an edge: an activation of a
  state, as above, but one of two tensors only where a single edge reads the state; the addition of
  a node, where an edge ends in a convolution, or skips from a state that is one and that nobody
  else reads.

Everything else is a sum over single edges. The kernels' shapes are not written down here: each
piece is lowered by the same functions as the whole network and canonicalised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.fusion import NO_RULES, FusionRule, FusionRules
from factory.graph.kernel import Kernel
from factory.graph.opgraph import GraphBuilder
from factory.latency.presence import PresenceMatrix
from factory.spaces.activations import RELU, emit_activation
from factory.spaces.genotype import NODES, OPS, SELECTABLE_OPS
from factory.spaces.lowering import (
    CONVOLUTIONS,
    build,
    emit_classifier,
    emit_op,
    emit_preprocess,
    emit_stem,
    leads_with_relu,
)
from factory.spaces.network_spec import CellPlan, NetworkSpec, Size

EDGES: tuple[tuple[int, int], ...] = tuple((n, s) for n in NODES for s in range(n))
_SHIFT_OPS = ("Slice", "Pad")
Term = dict[int | None, float]  # monomial index (None: the constant 1) -> coefficient


class _Accumulator:
    """Collects kernel -> polynomial, monomials deduplicated."""

    def __init__(self, activations: tuple[str, ...]) -> None:
        self.activations = activations
        self.monomials: list[tuple[str, np.ndarray]] = []
        self._index: dict[tuple[str, bytes], int] = {}
        self._terms: dict[Kernel, Counter[int | None]] = {}

    def columns(self, ops: Sequence[str], activation: str | None = None) -> list[int]:
        """Columns of q of ``ops``, with every activation or with one."""
        return [
            OPS.index(op) * len(self.activations) + a
            for op in ops
            for a, name in enumerate(self.activations)
            if activation in (None, name)
        ]

    def nothing(self, cell_type: str, *parts: tuple[list[int], list[int]]) -> Term:
        """Probability that none of the edges of any part carries what is in its columns."""
        mask = np.zeros((len(EDGES), len(OPS) * len(self.activations)), dtype=bool)
        for edges, columns in parts:
            mask[np.ix_(edges, columns)] = True
        return {self._monomial(cell_type, mask): 1.0}

    def _monomial(self, cell_type: str, mask: np.ndarray) -> int | None:
        if not mask.any():
            return None
        key = (cell_type, mask.tobytes())
        if key not in self._index:
            self._index[key] = len(self.monomials)
            self.monomials.append((cell_type, mask))
        return self._index[key]

    def times(self, first: Term, second: Term) -> Term:
        """Probability that both happen: of nothing here and nothing there, nothing in either."""
        product: Term = {}
        for i, a in first.items():
            for j, b in second.items():
                if i is None or j is None:
                    index = j if i is None else i
                else:
                    (cell_type, here), (_, there) = self.monomials[i], self.monomials[j]
                    index = self._monomial(cell_type, here | there)
                product[index] = product.get(index, 0.0) + a * b
        return product

    def add(self, kernels: Counter[Kernel], *terms: tuple[float, Term]) -> None:
        """Add every kernel, as often as counted, times the sum of weighted ``terms``."""
        for kernel, count in kernels.items():
            total = self._terms.setdefault(kernel, Counter())
            for weight, term in terms:
                for index, value in term.items():
                    total[index] += count * weight * value  # type: ignore[assignment]

    def finish(self) -> PresenceMatrix:
        """The polynomials as arrays; kernels sorted."""
        kernels = tuple(sorted(self._terms, key=str))
        constant = np.zeros(len(kernels))
        coefficients = np.zeros((len(kernels), len(self.monomials)))
        for row, kernel in enumerate(kernels):
            for index, value in self._terms[kernel].items():
                if index is None:
                    constant[row] += value
                else:
                    coefficients[row, index] += value
        named = () if self.activations == (RELU,) else self.activations
        return PresenceMatrix(kernels, constant, self.monomials, coefficients, named)


_ONE: Term = {None: 1.0}


@dataclass(frozen=True)
class _For:
    """What the counts are for: a precision, and a device's fusion rules."""

    dtype: str | None
    fusion: FusionRules

    def probe(self, emit: Callable[..., list[str]], *shapes: tuple[int, ...]) -> Counter[Kernel]:
        """Kernels of a small graph."""
        return kernel_counts(canonicalise(build(emit, *shapes)), self.dtype, self.fusion)


def _shape(channels: int, size: Size) -> tuple[int, int, int, int]:
    return (1, channels, *size)


def _add_source(
    out: _Accumulator, cell: CellPlan, source: int, shape: tuple[int, ...], target: _For
) -> None:
    """The state's shared activations and, for sources 0 and 1, the preprocessing that makes it."""
    edges, everything = _readers(source), out.columns(SELECTABLE_OPS)
    leading = [op for op in SELECTABLE_OPS if leads_with_relu(op, cell.stride(source))]
    plain: Counter[Kernel] = Counter()
    if source < 2:
        in_shape = _shape(cell.in_channels[source], cell.in_sizes[source])
        plain = target.probe(lambda b, x: [emit_preprocess(b, x, cell, source)], in_shape)
        out.add(plain, (1, _ONE))
    for name in out.activations:
        readers = out.columns(leading, name)
        kernels = target.probe(lambda b, x: [emit_activation(b, name, x)], shape)  # noqa: B023
        shared = Counter({k: n for k, n in kernels.items() if len(k.inputs) == 1})
        out.add(shared, (1, _ONE), (-1, out.nothing(cell.cell_type, (edges, readers))))
        for edge in edges if kernels != shared else []:
            absent = out.nothing(cell.cell_type, ([edge], readers))
            out.add(kernels - shared, (1, _ONE), (-1, absent))
        if source >= 2:
            continue
        folded = target.probe(
            lambda b, x: [emit_activation(b, name, emit_preprocess(b, x, cell, source))],  # noqa: B023
            in_shape,
        )
        if folded != plain + kernels:
            others = [column for column in everything if column not in readers]
            neither = out.nothing(cell.cell_type, (edges, everything))
            # Together they read the state once, but for activations of two tensors: one edge does.
            for group in [edges] if kernels == shared else [[edge] for edge in edges]:
                rest = [edge for edge in edges if edge not in group]
                alone = out.nothing(cell.cell_type, (group, others), (rest, everything))
                out.add(folded, (1, alone), (-1, neither))
                out.add(plain + kernels, (-1, alone), (1, neither))


def _readers(source: int) -> list[int]:
    """Edges that read a state."""
    return [e for e, (_, s) in enumerate(EDGES) if s == source]


def _add_edges(
    out: _Accumulator, cell: CellPlan, source: int, shape: tuple[int, ...], target: _For
) -> None:
    """Operators on the edges that read ``source``, shared pieces once."""
    stride = cell.stride(source)
    size = (shape[2], shape[3])
    edges = _readers(source)
    for op in SELECTABLE_OPS:
        if op == "skip_connect" and stride == 1:
            continue
        for activation in out.activations if leads_with_relu(op, stride) else (None,):

            def emit(
                b: GraphBuilder, x: str, op: str = op, act: str = activation or RELU
            ) -> list[str]:
                return [emit_op(b, op, x, size, cell.channels, stride, "probe", act)]

            kernels = target.probe(emit, shape)
            columns = out.columns([op], activation)
            once = op.endswith("pool_3x3"), activation is not None and _is_shared(activation)
            shared = Counter(
                {k: n for k, n in kernels.items() if once[0] or (once[1] and k.op in _SHIFT_OPS)}
            )
            out.add(shared, (1, _ONE), (-1, out.nothing(cell.cell_type, (edges, columns))))
            for edge in edges:
                absent = out.nothing(cell.cell_type, ([edge], columns))
                out.add(kernels - shared, (1, _ONE), (-1, absent))


@lru_cache(maxsize=32)
def _is_shared(activation: str) -> bool:
    """Whether edges that read one state share all of the activation: nothing reads two tensors."""
    probe = _For(None, NO_RULES).probe
    kernels = probe(lambda b, x: [emit_activation(b, activation, x)], (1, 1, 1, 1))
    return all(len(kernel.inputs) == 1 for kernel in kernels)


def _add_cell(out: _Accumulator, cell: CellPlan, last: bool, target: _For) -> None:
    node_shape = _shape(cell.channels, cell.node_size)
    for source in range(NODES[-1]):
        size = cell.source_size if source < 2 else cell.node_size
        shape = _shape(cell.channels, size)
        _add_source(out, cell, source, shape, target)
        _add_edges(out, cell, source, shape, target)

    def nodes(b: GraphBuilder, *xs: str) -> list[str]:
        joined = b.concat([b.add(xs[2 * i], xs[2 * i + 1]) for i in range(len(NODES))])
        return [joined if last else b.relu(joined)]

    out.add(target.probe(nodes, *[node_shape] * (2 * len(NODES))), (1, _ONE))
    if FusionRule("conv_pointwise", "Add") in target.fusion:
        addition = target.probe(lambda b, x, y: [b.add(x, y)], node_shape, node_shape)
        for node in NODES:
            out.add(addition, (-1, _ONE), (1, _not_folded(out, cell, node)))


def _not_folded(out: _Accumulator, cell: CellPlan, node: int) -> Term:
    """Probability that no edge of ``node`` takes its addition in."""
    convolutions = out.columns(CONVOLUTIONS)
    skip, everything = out.columns(["skip_connect"]), out.columns(SELECTABLE_OPS)
    term = _ONE
    for edge, (reader, source) in enumerate(EDGES):
        if reader != node:
            continue
        factor = out.nothing(cell.cell_type, ([edge], convolutions))
        made_by_conv = source == 1 or (source == 0 and not cell.reduction_prev)
        if made_by_conv and cell.stride(source) == 1:  # less: a skip that alone reads the state
            others = ([e for e in _readers(source) if e != edge], everything)
            alone = out.nothing(cell.cell_type, others)
            unread = out.nothing(cell.cell_type, others, ([edge], skip))
            factor = _sum(factor, (-1.0, alone), (1.0, unread))
        term = out.times(term, factor)
    return term


def _sum(first: Term, *more: tuple[float, Term]) -> Term:
    total = dict(first)
    for weight, term in more:
        for index, value in term.items():
            total[index] = total.get(index, 0.0) + weight * value
    return total


@lru_cache(maxsize=64)
def cell_presence(
    spec: NetworkSpec,
    dtype: str | None,
    activations: tuple[str, ...] = (),
    fusion: FusionRules = NO_RULES,
) -> PresenceMatrix:
    """Expected counts of every canonical kernel of the networks of ``spec``.

    ``activations`` are the candidates of factorised edges; empty: ReLUs. ``fusion`` are the rules
    of the device that is to run the network.
    """
    out, target = _Accumulator(activations or (RELU,)), _For(dtype, fusion)

    def stem(b: GraphBuilder, image: str) -> list[str]:
        return [b.relu(x) for x in dict.fromkeys(emit_stem(b, spec, image))]

    out.add(target.probe(stem, (1, *spec.input_shape)), (1, _ONE))
    for cell in spec.plan:
        _add_cell(out, cell, cell.index == spec.layers - 1, target)
    end = spec.plan[-1]
    classifier_shape = _shape(end.out_channels, end.node_size)
    head = target.probe(lambda b, x: [emit_classifier(b, spec, x)], classifier_shape)
    out.add(head, (1, _ONE))
    return out.finish()
