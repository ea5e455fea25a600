"""``Gemm(A, B, C; alpha, beta, transA) -> Gemm(A, alpha B, beta C)`` with one bias a column.

The form that quantisers know: alpha and beta within the constants, A as it is, C of shape [N].
What cannot be a bias of that shape is added behind.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from factory.deployment.passes.base import add_initialiser, constant, replace_node


def plain_gemm(model: ir.Model) -> bool:
    """``Gemm -> Add o Gemm o Transpose``, each part only where it is needed.

    Conditions: (1) B is a constant; (2) the Gemm is not plain already.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "Gemm" or node.domain:
            continue
        weight = constant(node.inputs[1])
        given = {name: node.attributes.get(name) for name in ("alpha", "beta", "transA", "transB")}
        alpha, beta = (1.0 if given[n] is None else given[n].as_float() for n in ("alpha", "beta"))  # type: ignore[union-attr]
        turned, transposed = (
            given[n] is not None and bool(given[n].as_int())  # type: ignore[union-attr]
            for n in ("transA", "transB")
        )
        bias_value = node.inputs[2] if len(node.inputs) > 2 else None
        bias = constant(bias_value)
        if weight is None:
            continue
        columns = weight.shape[0 if transposed else 1]
        own = bias_value is None or (bias is not None and bias.shape == (columns,))
        if alpha == beta == 1 and not turned and own:
            continue
        changed = True
        new: list[ir.Node] = []
        x = node.inputs[0]
        if turned:
            new.append(ir.node("Transpose", [x], {"perm": [1, 0]}))
            x = new[-1].outputs[0]
        inputs = [x, node.inputs[1]]
        if alpha != 1:
            scaled = (weight * alpha).astype(weight.dtype)
            inputs[1] = add_initialiser(model, f"{node.name}_weight", scaled)
        behind = bias_value
        if bias is not None and (bias.ndim < 2 or bias.shape[0] == 1):
            whole = np.broadcast_to((bias * beta).reshape(-1), (columns,)).astype(weight.dtype)
            inputs.append(add_initialiser(model, f"{node.name}_bias", whole))
            behind = None
        new.append(ir.node("Gemm", inputs, {"transB": int(transposed)}))
        if behind is not None and beta != 0:
            if beta != 1:
                factor = add_initialiser(model, f"{node.name}_beta", np.asarray(beta, weight.dtype))
                new.append(ir.node("Mul", [behind, factor]))
                behind = new[-1].outputs[0]
            gemm = next(part for part in new if part.op_type == "Gemm")
            new.append(ir.node("Add", [gemm.outputs[0], behind]))
        for number, part in enumerate(new):
            part.name = f"{node.name}_{part.op_type.lower()}{number}"
            part.outputs[0].name = f"{node.outputs[0].name}_{part.op_type.lower()}{number}"
        replace_node(node, new)
    return changed
