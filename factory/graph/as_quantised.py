"""A floating-point graph as the int8 export leaves it: which operators run in 8 bits, which do not.

ONNX Runtime's static quantiser knows QUANTISED operators; it quantises every tensor that one of
them reads or makes, and those of DIRECT (they only move or choose values) where their input is
quantised already. Any other operator whose tensors are all quantised runs between integers; the
rest runs in floats, with QuantizeLinear and DequantizeLinear operators at its borders. Which
operators are left alone for the accuracy's sake is the caller's choice; ONNX Runtime undoes it for
a Conv or Gemm whose tensors are all quantised (its WeightBiasQuantization), but for one with an
activation that it cannot express as a range.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from factory.graph.opgraph import Node, OpGraph

_DIRECT = "Gather GatherElements MaxPool Pad Reshape Resize Slice Split Squeeze Transpose Unsqueeze"
_QUANTISED = (
    "Add ArgMax AveragePool BatchNormalization Clip Concat Conv ConvTranspose CumSum Flatten Gemm "
    "GlobalAveragePool InstanceNormalization LayerNormalization LeakyRelu MatMul Mul Relu Sigmoid "
    "Softmax TopK Where"
)
DIRECT = frozenset(_DIRECT.split())
QUANTISED = DIRECT | frozenset(_QUANTISED.split())
# Before these the runtime moves the QuantizeLinear behind them.
RENAMES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
KEEP_FLOAT_WEIGHTS = frozenset({"ConvTranspose", "MatMul"})
RANGES = ("none", "relu", "clip")  # activations that are a range of the quantised tensor


def as_quantised(graph: OpGraph, floats: Collection[str] = ()) -> OpGraph:
    """``graph`` with the dtype of each node, and QuantizeLinear and DequantizeLinear nodes.

    Args:
        graph: raw or canonical; one that has quantised nodes already is returned as it is.
        floats: outputs of the nodes that the quantiser leaves alone.
    """
    if any(node.dtype != "f32" for node in graph.nodes):
        return graph
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    quantised: set[str] = set()
    ends = {*graph.inputs, *graph.outputs}  # of a part of a network: others stand beyond
    for node in graph.nodes:
        if node.op not in QUANTISED or (node.output in floats and not _is_product(node)):
            continue
        if node.op in DIRECT and ends.isdisjoint(node.inputs) and node.inputs[0] not in quantised:
            continue
        quantised.update(node.inputs, node.outputs)
    for node in reversed(graph.nodes):
        if node.op in RENAMES and node.output in quantised and uses[node.inputs[0]] == 1:
            quantised.add(node.inputs[0])
    shapes = graph.shapes()
    nodes: list[Node] = []
    made: dict[str, str] = {}  # tensor in floats -> its quantised form
    for node in graph.nodes:
        between = quantised if node.op in QUANTISED else quantised | ends
        whole = between.issuperset((*node.inputs, *node.outputs))
        if whole and not (node.output in floats and _stays_float(node)):
            inputs = tuple(made.get(name, name) for name in node.inputs)
            nodes.append(replace(node, dtype="i8", inputs=inputs))
            continue
        sources = []
        for index, name in enumerate(node.inputs):
            source, shape = made.get(name, name), shapes[name]
            if name in quantised:
                output = f"{name}/{node.output}/{index}"
                attrs = (("from", "u8"),)
                nodes.append(Node("DequantizeLinear", (source,), output, attrs, (shape,), shape))
                source = output
            sources.append(source)
        nodes.append(replace(node, inputs=tuple(sources)))
        for name, shape in ((node.output, node.out_shape), *node.more_outputs):
            if name in quantised and uses[name]:
                made[name] = f"{name}/q"
                attrs = (("to", "u8"),)
                nodes.append(Node("QuantizeLinear", (name,), made[name], attrs, (shape,), shape))
    return replace(graph, nodes=nodes, outputs=[made.get(name, name) for name in graph.outputs])


def _is_product(node: Node) -> bool:
    """A product of two activations, which runs in integers wherever it reads them."""
    return node.op == "MatMul" and node.weight is None


def _stays_float(node: Node) -> bool:
    if node.op in ("Conv", "Gemm"):
        return not node.attr("act", "none").startswith(RANGES)
    return node.op in KEEP_FLOAT_WEIGHTS and node.weight is not None
