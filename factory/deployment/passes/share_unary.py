"""``Relu(x), Relu(x) -> one Relu(x)``: equal weight-free operators on one input are shared.

The same rule as the canonical form of kernels: activations, pools, slices and pads merge;
Add, Concat and convolutions never do, since a search space counts each of them.
"""

from __future__ import annotations

import onnx_ir as ir

from factory.deployment.passes.base import constant

UNARY = frozenset(
    {
        "AveragePool",
        "Clip",
        "Flatten",
        "GlobalAveragePool",
        "HardSigmoid",
        "HardSwish",
        "MaxPool",
        "Pad",
        "Relu",
        "Sigmoid",
        "Slice",
    }
)


def share_unary(model: ir.Model) -> bool:
    """``Relu(x), Relu(x) -> one Relu(x)``.

    Conditions: (1) same operator, same attributes, same first input; (2) further inputs
    are equal constants; (3) the later one's result is not an output of the graph.
    """
    changed = False
    first: dict[tuple[object, ...], ir.Node] = {}
    for node in list(model.graph):
        if node.op_type not in UNARY or len(node.outputs) != 1 or node.inputs[0] is None:
            continue
        key = _key(node)
        if key is None:
            continue
        kept = first.setdefault(key, node)
        if kept is not node and not node.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[0], kept.outputs[0])
            model.graph.remove(node, safe=True)
            changed = True
    return changed


def _key(node: ir.Node) -> tuple[object, ...] | None:
    operands: list[object] = []
    for value in node.inputs[1:]:
        if value is None:
            operands.append(None)
            continue
        array = constant(value)
        if array is None:
            return None
        operands.append((array.dtype.str, array.shape, array.tobytes()))
    attributes = tuple(sorted((name, str(a.value)) for name, a in node.attributes.items()))
    return (node.op_type, id(node.inputs[0]), tuple(operands), attributes)
