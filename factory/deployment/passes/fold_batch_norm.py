"""``BatchNormalization o Conv -> Conv``, likewise for Gemm and ConvTranspose.

w' = w * gamma / sqrt(var + eps);  b' = (b - mean) * gamma / sqrt(var + eps) + beta

The rewriter's own rule leaves a convolution whose weights another node reads as well (one module
called twice); such weights are copied first.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from factory.deployment.passes.base import add_initialiser, apply_rules, constant, only_consumer

RULES = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)
PRODUCERS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def fold_batch_norm(model: ir.Model) -> bool:
    """``BatchNormalization o Conv -> Conv`` where only the BatchNormalization reads the Conv."""
    for norm in model.graph:
        source = norm.inputs[0] if norm.op_type == "BatchNormalization" else None
        producer = source.producer() if source is not None else None
        if source is None or producer is None or producer.op_type not in PRODUCERS:
            continue
        if only_consumer(source) is norm:
            _own_weights(model, producer)
    return apply_rules(model, RULES)


def _own_weights(model: ir.Model, node: ir.Node) -> None:
    """Give ``node`` its own copy of each weight that it shares with another node."""
    for position, value in enumerate(node.inputs[1:], start=1):
        array = constant(value)
        if value is None or array is None or len(value.uses()) == 1:
            continue
        node.replace_input_with(position, add_initialiser(model, value.name or "weight", array))
