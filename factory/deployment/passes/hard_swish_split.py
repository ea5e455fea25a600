"""``HardSwish -> Mul o HardSigmoid`` or ``Mul o Clip o Add``, for runtimes without the operator.

HardSwish(x) = x * max(0, min(1, x / 6 + 1/2)) (ONNX operator, arXiv 1905.02244 eq. for h-swish).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from factory.deployment.passes.base import add_initialiser, replace_node

ALPHA, BETA = 1 / 6, 0.5


def split_hard_swish(model: ir.Model) -> bool:
    """``HardSwish(x) -> Mul(x, HardSigmoid(x, alpha=1/6, beta=1/2))``."""
    changed = False
    for node in list(model.graph):
        if node.op_type == "HardSwish" and node.domain == "":
            x = node.inputs[0]
            gate = ir.node("HardSigmoid", [x], {"alpha": ALPHA, "beta": BETA})
            _finish(node, [gate, ir.node("Mul", [x, gate.outputs[0]])])
            changed = True
    return changed


def hard_swish_to_clip(model: ir.Model) -> bool:
    """``HardSwish(x) -> Mul(x, Mul(Clip(Add(x, 3), 0, 6), 1/6))``; HardSigmoid likewise.

    Only operators that every phone accelerator has. A HardSigmoid of other slopes is
    ``Clip(Add(Mul(x, alpha), beta), 0, 1)``.
    """
    changed = False
    for node in list(model.graph):
        if node.domain != "" or node.op_type not in ("HardSwish", "HardSigmoid"):
            continue
        x = node.inputs[0]
        swish = node.op_type == "HardSwish"
        alpha = ALPHA if swish else _attribute(node, "alpha", 0.2)
        beta = BETA if swish else _attribute(node, "beta", 0.5)

        def weight(name: str, value: float) -> ir.Value:
            return add_initialiser(model, name, np.asarray(value, np.float32))

        # alpha * clip(x + beta / alpha, 0, 1 / alpha) = clip(alpha * x + beta, 0, 1)
        moved = ir.node("Add", [x, weight("hard_shift", beta / alpha)])
        low, high = weight("hard_low", 0.0), weight("hard_high", 1 / alpha)
        cut = ir.node("Clip", [moved.outputs[0], low, high])
        gate = ir.node("Mul", [cut.outputs[0], weight("hard_scale", alpha)])
        new = [moved, cut, gate]
        if swish:
            new.append(ir.node("Mul", [x, gate.outputs[0]]))
        _finish(node, new)
        changed = True
    return changed


def _attribute(node: ir.Node, name: str, default: float) -> float:
    found = node.attributes.get(name)
    return default if found is None else float(found.as_float())


def _finish(node: ir.Node, new: list[ir.Node]) -> None:
    """Names, types and shapes of the nodes in between, then the exchange."""
    for number, part in enumerate(new):
        part.name = f"{node.name}_{part.op_type.lower()}{number}"
        out = part.outputs[0]
        out.name = f"{node.outputs[0].name}_{part.op_type.lower()}{number}"
        out.shape, out.type = node.outputs[0].shape, node.outputs[0].type
    replace_node(node, new)
