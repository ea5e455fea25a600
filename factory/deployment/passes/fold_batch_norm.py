"""``BatchNormalization o Conv -> Conv``, likewise for Gemm and ConvTranspose.

w' = w * gamma / sqrt(var + eps);  b' = (b - mean) * gamma / sqrt(var + eps) + beta

The rewriter's own rule leaves a convolution whose weights another node reads as well (one module
called twice); such weights are copied first. Its rule for ConvTranspose knows weights [Cin, Cout,
...] only; those of groups, [Cin, Cout / groups, ...], are folded here.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from factory.deployment.passes.base import (
    add_initialiser,
    apply_rules,
    constant,
    only_consumer,
    replace_node,
)

RULES = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)
PRODUCERS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def fold_batch_norm(model: ir.Model) -> bool:
    """``BatchNormalization o Conv -> Conv`` where only the BatchNormalization reads the Conv."""
    changed = False
    for norm in list(model.graph):
        source = norm.inputs[0] if norm.op_type == "BatchNormalization" else None
        producer = source.producer() if source is not None else None
        if source is None or producer is None or producer.op_type not in PRODUCERS:
            continue
        if only_consumer(source) is norm:
            _own_weights(model, producer)
            if producer.op_type == "ConvTranspose" and _groups(producer) > 1:
                changed = _fold_groups(model, producer, norm) or changed
    return apply_rules(model, RULES) or changed


def _groups(node: ir.Node) -> int:
    given = node.attributes.get("group")
    return 1 if given is None else given.as_int()


def _fold_groups(model: ir.Model, node: ir.Node, norm: ir.Node) -> bool:
    """w'[i, o] = w[i, o] s[g(i), o] of a grouped ConvTranspose; False where one is no constant."""
    weight = constant(node.inputs[1])
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.float32)
    known = [constant(value) for value in norm.inputs[1:5]]
    if weight is None or bias is None or any(array is None for array in known):
        return False
    gamma, beta, mean, variance = (np.asarray(array) for array in known)
    given = norm.attributes.get("epsilon")
    epsilon = 1e-5 if given is None else given.as_float()
    scale = gamma / np.sqrt(variance + epsilon)
    groups, spatial = _groups(node), weight.shape[2:]
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    scaled = parts * scale.reshape(groups, 1, -1, *(1 for _ in spatial))
    folded = scaled.reshape(weight.shape).astype(weight.dtype)
    moved = ((bias - mean) * scale + beta).astype(weight.dtype)
    inputs = [
        node.inputs[0],
        add_initialiser(model, f"{node.name}_folded", folded),
        add_initialiser(model, f"{node.name}_moved", moved),
    ]
    new = ir.node("ConvTranspose", inputs, dict(node.attributes))
    new.name = node.name
    replace_node(norm, [new])
    model.graph.remove(node, safe=True)
    return True


def _own_weights(model: ir.Model, node: ir.Node) -> None:
    """Give ``node`` its own copy of each weight that it shares with another node."""
    for position, value in enumerate(node.inputs[1:], start=1):
        array = constant(value)
        if value is None or array is None or len(value.uses()) == 1:
            continue
        node.replace_input_with(position, add_initialiser(model, value.name or "weight", array))
