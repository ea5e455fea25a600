"""``ReduceMean(2, 3) -> GlobalAveragePool`` (+ Flatten where the axes were dropped).

The exporter writes adaptive average pooling to 1x1 as a mean; runtimes keep their blocked layout
through a GlobalAveragePool but leave it for a ReduceMean.
"""

from __future__ import annotations

import onnx_ir as ir

from factory.deployment.passes.base import constant, replace_node, static_shape


def global_average_pool(model: ir.Model) -> bool:
    """``ReduceMean(x, axes=[2, 3]) -> GlobalAveragePool(x)`` (then ``Flatten``).

    Conditions: (1) x has four axes; (2) the axes are the constants 2 and 3 (or -2, -1).
    """
    changed = False
    for node in list(model.graph):
        if node.op_type == "ReduceMean" and _spatial(node):
            pool = ir.node("GlobalAveragePool", [node.inputs[0]])
            pool.name = f"{node.name}_pool"
            new = [pool]
            keep = node.attributes.get("keepdims")
            if keep is not None and keep.as_int() == 0:
                new.append(ir.node("Flatten", [pool.outputs[0]], {"axis": 1}))
            replace_node(node, new)
            changed = True
    return changed


def _spatial(node: ir.Node) -> bool:
    shape = static_shape(node.inputs[0])
    if shape is None or len(shape) != 4:
        return False
    if "axes" in node.attributes:
        axes = list(node.attributes["axes"].as_ints())
    elif len(node.inputs) > 1:
        array = constant(node.inputs[1])
        if array is None:
            return False
        axes = array.reshape(-1).tolist()
    else:
        return False
    return sorted(int(a) % 4 for a in axes) == [2, 3]
