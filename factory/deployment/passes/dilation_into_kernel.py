"""``Conv with strides and dilations -> Conv with strides, zeros between its weights``.

Qualcomm's NPU takes a depthwise convolution with a stride or with a dilation, not with both, and
its provider then loses the whole graph. A kernel of k taps at distance d is one of (k - 1) d + 1
taps of which all but every d-th are zero: the same sums, more multiplications.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from factory.deployment.passes.base import add_initialiser, constant


def dilation_into_kernel(model: ir.Model) -> bool:
    """``Conv(w, strides > 1, dilations d > 1) -> Conv(w with zeros in between, strides)``."""
    changed = False
    for node in list(model.graph):
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
            continue
        dilations = _ints(node, "dilations")
        strides = _ints(node, "strides")
        weights = constant(node.inputs[1])
        if weights is None or not dilations or not strides:
            continue
        if max(strides) == 1 or max(dilations) == 1:
            continue
        wide = spread(weights, dilations)
        value = add_initialiser(model, f"{node.inputs[1].name}_spread", wide)  # type: ignore[union-attr]
        node.replace_input_with(1, value)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", wide.shape[2:])
        node.attributes["dilations"] = ir.AttrInt64s("dilations", [1] * len(dilations))
        changed = True
    return changed


def spread(weights: np.ndarray, dilations: tuple[int, ...]) -> np.ndarray:
    """[O,I,k...] weights -> [O,I,(k-1)d+1...] with zeros between the taps."""
    sides = [(k - 1) * d + 1 for k, d in zip(weights.shape[2:], dilations, strict=True)]
    wide = np.zeros((*weights.shape[:2], *sides), weights.dtype)
    wide[(slice(None), slice(None), *(slice(None, None, d) for d in dilations))] = weights
    return wide


def _ints(node: ir.Node, name: str) -> tuple[int, ...]:
    found = node.attributes.get(name)
    return () if found is None else tuple(found.as_ints())
