"""``Flatten -> Reshape`` with a fixed shape, for runtimes that know no Flatten (CoreML)."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from factory.deployment.passes.base import add_initialiser, replace_node, static_shape


def flatten_to_reshape(model: ir.Model) -> bool:
    """``Flatten(x, axis) -> Reshape(x, [rows, columns])``.

    Condition: the shape of x is known.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "Flatten" or node.domain:
            continue
        shape = static_shape(node.inputs[0])
        if shape is None:
            continue
        attribute = node.attributes.get("axis")
        axis = 1 if attribute is None else int(attribute.as_int())
        axis += len(shape) if axis < 0 else 0
        rows, columns = math.prod(shape[:axis]), math.prod(shape[axis:])
        target = add_initialiser(model, "flat_shape", np.array([rows, columns], np.int64))
        reshape = ir.node("Reshape", [node.inputs[0], target])
        reshape.name = f"{node.name}_reshape"
        replace_node(node, [reshape])
        changed = True
    return changed
