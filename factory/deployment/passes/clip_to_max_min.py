"""``Clip(x, low, high) -> Min(Max(x, low), high)`` where 0 lies outside of [low, high].

A quantiser takes a Clip out and lets the range of its output do the work; a quantised range always
holds 0, so that such a Clip would be lost.
"""

from __future__ import annotations

import onnx_ir as ir

from factory.deployment.passes.base import constant, replace_node


def clip_to_max_min(model: ir.Model) -> bool:
    """``Clip(x, low, high) -> Min(Max(x, low), high)``.

    Conditions: (1) each given limit is a constant; (2) low > 0 or high < 0.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "Clip" or node.domain:
            continue
        limits = [*node.inputs[1:3], None, None][:2]
        low, high = (constant(limit) for limit in limits)
        if any(v is not None and c is None for v, c in zip(limits, (low, high), strict=True)):
            continue
        if not ((low is not None and low > 0) or (high is not None and high < 0)):
            continue
        x, new = node.inputs[0], []
        for operator, limit in zip(("Max", "Min"), limits, strict=True):
            if limit is None:
                continue
            new.append(ir.node(operator, [x, limit]))
            new[-1].name = f"{node.name}_{operator.lower()}"
            x = new[-1].outputs[0]
            x.name = f"{node.outputs[0].name}_{operator.lower()}"
            x.shape, x.type = node.outputs[0].shape, node.outputs[0].type
        replace_node(node, new)
        changed = True
    return changed
