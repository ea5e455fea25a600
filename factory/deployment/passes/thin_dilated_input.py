"""``Conv(dilated, strided) -> Conv o Slice(every g-th pixel)``: the same sums, fewer pixels.

A convolution of stride s and dilation d reads x[s i + d k - p]: with g = gcd(s, d) > 1 (the dilated
convolutions of a reduction cell in DARTS, arXiv 1806.09055: s = d = 2) only every g-th pixel is
ever read. So the convolution of stride s / g and dilation d / g over those pixels computes the
same numbers. Qualcomm's HTP refuses a depthwise 5x5 convolution of stride and dilation 2, and with
it the whole session fails; 3x3, dense, or only one of the two it takes (plug-in 2.7.0, measured).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from factory.deployment.passes.base import add_initialiser, constant, static_shape


def thin_dilated_depthwise(model: ir.Model) -> bool:
    """As :func:`thin_dilated_input`, for depthwise convolutions larger than 3x3."""

    def concerned(node: ir.Node) -> bool:
        weight, group = _weight_shape(node), node.attributes.get("group")
        if weight is None or group is None:
            return False
        return group.as_int() > 1 and weight[1] == 1 and max(weight[2:]) > 3

    return thin_dilated_input(model, concerned)


def thin_dilated_input(
    model: ir.Model, concerned: Callable[[ir.Node], bool] = lambda node: True
) -> bool:
    """``Conv<strides s, dilations d>(x, W) -> Conv<s / g, d / g>(Slice<step g>(x), W)``.

    Conditions: (1) g = gcd(s, d) > 1 in rows, columns or both; (2) the shapes of x, W and the
    output are known; (3) explicit padding.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "Conv" or node.domain:
            continue
        plan = _plan(node) if concerned(node) else None
        if plan is None:
            continue
        source, graph = node.inputs[0], node.graph
        assert source is not None
        assert graph is not None
        operands = [
            add_initialiser(model, f"thin_{name}", np.asarray(values, np.int64))
            for name, values in zip(("starts", "ends", "axes", "steps"), plan.cut, strict=True)
        ]
        thinned = ir.node("Slice", [source, *operands])
        thinned.name = f"{node.name}_thinned"
        out = thinned.outputs[0]
        out.name = f"{node.outputs[0].name}_thinned"
        out.type, out.shape = source.type, ir.Shape(plan.shape)
        graph.insert_before(node, [thinned])
        node.replace_input_with(0, out)
        for name in ("strides", "dilations", "pads"):
            node.attributes[name] = ir.AttrInt64s(name, getattr(plan, name))
        changed = True
    return changed


class _Plan(NamedTuple):
    """Starts, ends, axes and steps of the Slice; attributes of the Conv; shape between them."""

    cut: list[list[int]]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    shape: list[int]


def _plan(node: ir.Node) -> _Plan | None:
    shape, out = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    weight, auto = _weight_shape(node), node.attributes.get("auto_pad")
    if shape is None or out is None or weight is None or len(shape) != 4:
        return None
    if auto is not None and auto.as_string() != "NOTSET":
        return None
    strides, dilations = _ints(node, "strides", [1, 1]), _ints(node, "dilations", [1, 1])
    pads = _ints(node, "pads", [0, 0, 0, 0])
    steps = [math.gcd(s, d) for s, d in zip(strides, dilations, strict=True)]
    if set(steps) == {1}:
        return None
    starts, ends, thin_shape, heads, tails = [], [], list(shape[:2]), [], []
    for axis in (0, 1):
        step, pad = steps[axis], pads[axis]
        # The pixels -p, g - p, 2 g - p, ...: the first of them that is no padding.
        start = -pad % step
        count = max(0, -(-(shape[2 + axis] - start) // step))
        head = (pad + start) // step
        span = strides[axis] // step * (out[2 + axis] - 1)
        last = span + dilations[axis] // step * (weight[2 + axis] - 1) - head
        if not count or last < 0:
            return None
        count = min(count, last + 1)
        starts.append(start)
        ends.append(start + step * (count - 1) + 1)
        thin_shape.append(count)
        heads.append(head)
        tails.append(max(0, last - (count - 1)))
    return _Plan(
        [starts, ends, [2, 3], steps],
        [s // g for s, g in zip(strides, steps, strict=True)],
        [d // g for d, g in zip(dilations, steps, strict=True)],
        heads + tails,
        thin_shape,
    )


def _weight_shape(node: ir.Node) -> tuple[int, ...] | None:
    array = constant(node.inputs[1])
    return static_shape(node.inputs[1]) if array is None else array.shape


def _ints(node: ir.Node, name: str, usual: list[int]) -> list[int]:
    found = node.attributes.get(name)
    return usual if found is None else list(found.as_ints())
