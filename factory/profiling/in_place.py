"""Times of kernels in place: the trace of a whole network, joined to its canonical kernels.

A kernel timed alone finds its inputs and weights in the cache and pays for a session; within a
network it does neither. So a network is run once with tracing off (its true time) and once with
tracing on (each node's share), and the shares are rescaled to the true time. The graph as the
runtime executes it differs from the canonical one; every executed node is charged to one canonical
operator:

1. nodes keep the name of the operator they came from: whatever was fused into a node (activation,
   Add, Sigmoid of x * sigmoid(x)) is charged to the operator that the node is named after, and an
   operator without a node costs nothing of its own;
2. tracing lengthens every node by about the same time, whatever the node does: measured with a
   chain of operators that do next to nothing, it is taken off before the shares are rescaled;
3. a change of layout is charged to the operator that forces it: into the blocked layout to the
   operator that made the plain tensor, out of it to the one that reads it.

So the charges of a network sum to its time exactly, and equal operators share equal charges.
"""

from __future__ import annotations

import base64
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from factory.devices.base import Timing
from factory.graph.canonical import canonicalise
from factory.graph.kernel import COPIES, Kernel
from factory.graph.onnx_build import to_onnx
from factory.graph.onnx_import import from_onnx
from factory.graph.opgraph import GraphBuilder, OpGraph

_GENERATED = re.compile(r"(_token_\d+|_nchwc|/QuickGeluFusion/?|_nhwc)$")
_QUANTISED = re.compile(r"(_f|_q|_dq|__float)$")
_CUTS = re.compile(r"(?=[_./])")
FROM_BLOCKED = "ReorderOutput"
REORDERS = ("ReorderInput", FROM_BLOCKED, "Transpose")
FUSED = "fused "  # before the name of a plain convolution or Gemm that took its activation in
CALIBRATION_NODES = 128
SHARE_KEPT = 0.1
OVERHEAD_RANGE = (0.7, 1.6)


@dataclass(frozen=True)
class InPlaceTime:
    """What one occurrence of a kernel costs within a network, the mean over ``count``.

    Attributes:
        reorder_share: share of ``ms`` in changes of layout that the kernel forces.
        elsewhere: execution provider that ran most of it, where that is not the one asked for.
    """

    kernel: Kernel
    count: int
    ms: float
    reorder_share: float = 0.0
    elsewhere: str = ""


@dataclass
class _Charge:
    """What one canonical operator is charged with, as shares of the traced time."""

    share: float = 0.0
    reorders: float = 0.0
    providers: Counter[str] = field(default_factory=Counter)

    def add(self, other: _Charge) -> None:
        self.share += other.share
        self.reorders += other.reorders
        self.providers.update(other.providers)


@functools.cache
def calibration_model() -> bytes:
    """A chain of operators on a handful of numbers: its time is what a node costs by itself."""
    builder = GraphBuilder("calibration")
    x = builder.input("x", (1, 16))
    for index in range(CALIBRATION_NODES):
        x = builder.unary("Neg" if index % 2 else "Abs", x)
    content: bytes = to_onnx(builder.finish([x]), "f32").SerializeToString()
    return content


def trace_overhead_ms(timing: Timing) -> float:
    """What tracing adds to a node, from the timing of :func:`calibration_model`; 0 if unknown."""
    if not timing.ok or not timing.nodes:
        return 0.0
    return max(0.0, (timing.traced_ms - timing.median_ms) / len(timing.nodes))


def in_place_times(
    model: bytes, timing: Timing, overhead_ms: float = 0.0, asked: str = ""
) -> list[InPlaceTime]:
    """Times of the kernels of ``model``.

    Args:
        model: the network that was timed; its nodes are named after their outputs.
        timing: with its trace and its optimised graph.
        overhead_ms: what tracing adds to a node of a chain that does nothing; within a network it
            is up to OVERHEAD_RANGE of that, whatever makes the nodes sum to the untraced time. A
            node keeps a tenth of its time at least.
        asked: the execution provider that the device is asked for.

    Empty when nothing can be joined.
    """
    graph = canonicalise(from_onnx(onnx.load_from_string(model)))
    executed = onnx.load_from_string(base64.b64decode(timing.optimised)).graph
    if timing.nodes:
        excess_ms = (timing.traced_ms - timing.median_ms) / len(timing.nodes)
        lowest, highest = OVERHEAD_RANGE
        overhead_ms = min(max(excess_ms, lowest * overhead_ms), highest * overhead_ms)
    traced = []
    for entry in timing.nodes:
        ms = entry["share"] * timing.traced_ms
        traced.append({**entry, "share": max(ms - overhead_ms, SHARE_KEPT * ms)})
    charges = _charged(graph, executed, traced)
    total = sum(charge.share for charge in charges.values())
    if not total:
        return []
    sums: dict[Kernel, _Charge] = {}
    counts: Counter[Kernel] = Counter()
    for node in graph.nodes:
        kernel = node.kernel()
        counts[kernel] += 1
        sums.setdefault(kernel, _Charge()).add(charges.get(node.output, _Charge()))
    scale = timing.median_ms / total
    return [_time_of(k, counts[k], sums[k], scale, asked) for k in sorted(counts)]


def _time_of(kernel: Kernel, count: int, charge: _Charge, scale: float, asked: str) -> InPlaceTime:
    ran = charge.providers.most_common(1)
    elsewhere = ran[0][0] if asked and ran and ran[0][0] not in (asked, "") else ""
    reorders = charge.reorders / charge.share if charge.share > 0 else 0.0
    return InPlaceTime(kernel, count, charge.share * scale / count, min(reorders, 1.0), elsewhere)


def _charged(
    graph: OpGraph, executed: onnx.GraphProto, traced: Sequence[Mapping[str, Any]]
) -> dict[str, _Charge]:
    """Output of a canonical operator -> what it is charged with."""
    share = _shares(executed, traced)
    provider = {str(node["name"]): str(node.get("provider", "")) for node in traced}
    outputs: dict[str, str] = {}
    own: dict[str, str] = {}
    for made in graph.nodes:
        for name in made.outputs:
            outputs[_QUANTISED.sub("", name)] = own[name] = made.output
    outputs |= own
    owners = [_owner(node, outputs) for node in executed.node]
    maker = {name: i for i, node in enumerate(executed.node) for name in node.output}
    moved = _moved_transposes(graph, owners)
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(executed.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    charged: dict[str, _Charge] = {}
    for index, node in enumerate(executed.node):
        owner = owners[index]
        added = owner is None
        if owner is None:
            before = _before(node, executed, owners, maker)
            after = _after(node, executed, owners, readers)
            owner = (after or before) if _leaves_layout(node) else (before or after)
            if node.op_type == "Transpose":
                owner = moved.get(before or "", owner)
        if owner is not None:
            charge = charged.setdefault(owner, _Charge())
            charge.share += share[index]
            charge.reorders += share[index] if added and node.op_type in REORDERS else 0.0
            if not added:
                charge.providers[provider.get(node.name, "")] += 1
    return charged


def _moved_transposes(graph: OpGraph, owners: Sequence[str | None]) -> dict[str, str]:
    """Operator -> the Transpose before it that is not executed where it was written.

    A runtime moves a Transpose behind operators that only copy, and there it has no name.
    """
    executed = set(owners)
    makers = {name: node for node in graph.nodes for name in node.outputs}
    found: dict[str, str] = {}
    for node in graph.nodes:
        maker = makers.get(node.inputs[0]) if node.op in COPIES and node.inputs else None
        if maker is None or maker.op not in COPIES:
            continue
        if maker.op == "Transpose" and maker.output not in executed:
            found[node.output] = maker.output
        elif maker.output in found:
            found[node.output] = found[maker.output]
    return found


def _shares(executed: onnx.GraphProto, traced: Sequence[Mapping[str, Any]]) -> list[float]:
    """Share of each executed node. Nodes without a name are matched by operator, in order."""
    names = {node.name for node in executed.node}
    named: dict[str, float] = {}
    nameless: dict[str, list[float]] = {}
    for node in traced:
        if node["name"] in names:
            named[str(node["name"])] = float(node["share"])
        else:
            nameless.setdefault(str(node["op"]), []).append(float(node["share"]))
    shares = []
    for node in executed.node:
        waiting = nameless.get(node.op_type)
        if node.name:
            shares.append(named.get(node.name, 0.0))
        else:
            shares.append(waiting.pop(0) if waiting else 0.0)
    return shares


def _owner(node: onnx.NodeProto, outputs: Mapping[str, str]) -> str | None:
    """The canonical operator that an executed node is named after, else the one it ends.

    Some fusions give a node a name of their own; its output keeps the name that it had.
    """
    named = _named_after(node.name, outputs)
    if named is not None or node.op_type in REORDERS:
        return named
    return next((outputs[name] for name in node.output if name in outputs), None)


def _named_after(name: str, outputs: Mapping[str, str]) -> str | None:
    """The operator whose output's name begins the name of an executed node."""
    name = name.removeprefix(FUSED)
    while (shorter := _GENERATED.sub("", name)) != name:
        name = shorter
    cuts = [len(name), *(match.start() for match in reversed(list(_CUTS.finditer(name))))]
    return next((outputs[name[:cut]] for cut in cuts if name[:cut] in outputs), None)


def _leaves_layout(node: onnx.NodeProto) -> bool:
    """Whether a node that the runtime added brings a tensor back to plain NCHW."""
    if node.op_type == "Transpose":
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
        return order == [0, 3, 1, 2]
    return node.op_type == FROM_BLOCKED


def _before(
    node: onnx.NodeProto,
    executed: onnx.GraphProto,
    owners: Sequence[str | None],
    maker: Mapping[str, int],
) -> str | None:
    """The nearest operator that makes what ``node`` reads."""
    names = list(node.input)
    for _ in range(len(executed.node)):
        found = [maker[name] for name in names if name in maker]
        for index in found:
            if owners[index] is not None:
                return owners[index]
        names = [name for index in found for name in executed.node[index].input]
        if not names:
            return None
    return None


def _after(
    node: onnx.NodeProto,
    executed: onnx.GraphProto,
    owners: Sequence[str | None],
    readers: Mapping[str, Sequence[int]],
) -> str | None:
    """The nearest operator that reads what ``node`` makes."""
    names = list(node.output)
    for _ in range(len(executed.node)):
        found = [index for name in names for index in readers.get(name, ())]
        for index in found:
            if owners[index] is not None:
                return owners[index]
        names = [name for index in found for name in executed.node[index].output]
        if not names:
            return None
    return None
