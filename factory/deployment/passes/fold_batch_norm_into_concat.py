"""``BatchNormalization o Concat(Conv, Conv) -> Concat(Conv, Conv)``.

A factorised reduction normalises the concatenation of two convolutions; each convolution takes
its own channels of the normalisation (the equation is that of fold_batch_norm).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from factory.deployment.passes.base import add_initialiser, constant, only_consumer

DEFAULT_EPSILON = 1e-5


def fold_batch_norm_into_concat(model: ir.Model) -> bool:
    """``BatchNormalization o Concat(Conv, Conv) -> Concat(Conv, Conv)``.

    Conditions: (1) the Concat joins channels (axis 1) and only the BatchNormalization reads it;
    (2) each of its inputs is a Conv with constant weights that only the Concat reads; (3) the
    parameters of the BatchNormalization are constant and its statistics are fixed.
    """
    changed = False
    for norm in list(model.graph):
        if norm.op_type == "BatchNormalization" and _fold(model, norm):
            changed = True
    return changed


def _fold(model: ir.Model, norm: ir.Node) -> bool:
    joined = norm.inputs[0]
    concat = joined.producer() if joined is not None else None
    if joined is None or concat is None or concat.op_type != "Concat":
        return False
    if concat.attributes["axis"].as_int() != 1 or only_consumer(joined) is not norm:
        return False
    if any(out.uses() or out.is_graph_output() for out in norm.outputs[1:]):
        return False
    parameters = [constant(value) for value in norm.inputs[1:]]
    if any(p is None for p in parameters):
        return False
    convs: list[ir.Node] = []
    for value in concat.inputs:
        conv = value.producer() if value is not None else None
        if value is None or conv is None or conv.op_type != "Conv":
            return False
        if only_consumer(value) is not concat or constant(conv.inputs[1]) is None:
            return False
        if len(conv.inputs) > 2 and conv.inputs[2] and constant(conv.inputs[2]) is None:
            return False
        convs.append(conv)
    gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    attribute = norm.attributes.get("epsilon")
    epsilon = attribute.as_float() if attribute is not None else DEFAULT_EPSILON
    factor = gamma / np.sqrt(variance + epsilon)
    shift = beta - mean * factor
    first = 0
    for conv in convs:
        first = _scale(model, conv, factor, shift, first)
    out = norm.outputs[0]
    joined.shape = out.shape
    if out.is_graph_output():
        joined.name = out.name
    ir.convenience.replace_all_uses_with(out, joined, replace_graph_outputs=True)
    model.graph.remove(norm, safe=True)
    return True


def _scale(
    model: ir.Model, conv: ir.Node, factor: np.ndarray, shift: np.ndarray, first: int
) -> int:
    """Scale the weights of ``conv`` by its channels ``first``...; the channel after its last."""
    weight = constant(conv.inputs[1])
    assert weight is not None
    assert conv.inputs[1] is not None
    last = first + weight.shape[0]
    scaled = weight * factor[first:last].reshape(-1, *[1] * (weight.ndim - 1))
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    moved = shift[first:last] + (0.0 if bias is None else bias * factor[first:last])
    name = conv.inputs[1].name or "weight"
    conv.resize_inputs(3)
    conv.replace_input_with(1, add_initialiser(model, f"{name}_folded", scaled.astype(np.float32)))
    conv.replace_input_with(2, add_initialiser(model, f"{name}_bias", moved.astype(np.float32)))
    return last
