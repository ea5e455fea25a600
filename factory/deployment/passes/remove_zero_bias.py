"""``Conv(x, w, 0) -> Conv(x, w)``: the zeros that the exporter adds to a convolution go."""

from __future__ import annotations

import onnx_ir as ir

from factory.deployment.passes.base import constant


def remove_zero_bias(model: ir.Model) -> bool:
    """``Conv(x, w, 0) -> Conv(x, w)``.

    Conditions: (1) the bias is an initialiser; (2) all of it is zero.
    """
    changed = False
    for node in model.graph:
        if node.op_type != "Conv" or len(node.inputs) != 3:
            continue
        bias = constant(node.inputs[2])
        if bias is not None and not bias.any():
            node.resize_inputs(2)
            changed = True
    return changed
