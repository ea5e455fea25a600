"""``Reshape(x, [1, -1]) -> Flatten(x)``: the step to the classifier says what it does."""

from __future__ import annotations

import math

import onnx_ir as ir

from factory.deployment.passes.base import constant, replace_node, static_shape


def reshape_to_flatten(model: ir.Model) -> bool:
    """``Reshape(x[N, C, H, W], [N, C*H*W]) -> Flatten(x, axis=1)``.

    Conditions: (1) the target shape is constant and has two axes; (2) the first axis is kept.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "Reshape":
            continue
        shape, target = static_shape(node.inputs[0]), constant(node.inputs[1])
        if shape is None or target is None or len(shape) <= 2 or target.size != 2:
            continue
        rest = math.prod(shape[1:])
        first, second = (int(d) for d in target)
        kept = first in (0, shape[0]) and second in (-1, rest)
        if kept or (first, second) == (-1, rest):
            replace_node(node, [ir.node("Flatten", [node.inputs[0]], {"axis": 1})])
            changed = True
    return changed
