"""``Conv o Slice -> Conv``: the shifted half of a factorised reduction without a strided slice.

A factorised reduction (DARTS, arXiv 1806.09055) convolves ``x[:, :, 1:, 1:]`` at stride 2. NPUs
and phone accelerators copy the slice or hand it to the CPU. A kernel that is larger by the offset
and has zeros there reads the same pixels: the same numbers, no slice, but more multiply-adds (four
times those of a 1x1 convolution). Whether that is faster is for the chip to say: the pass runs
where it was measured to help, or where the target's runtime has no such slice.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from factory.deployment.passes.base import (
    add_initialiser,
    constant,
    only_consumer,
    static_shape,
)
from factory.deployment.passes.merge_slices import slice_cuts

LARGEST_OFFSET = 2


def slice_into_conv(model: ir.Model) -> bool:
    """``Conv(Slice(x, from a to the end), W) -> Conv(x, zeros above and left of W)``.

    Conditions: (1) the Slice cuts rows and columns only, at their start only, with step 1, by at
    most LARGEST_OFFSET; (2) the Conv reads nothing else of it and has constant weights, no padding
    and no dilation; (3) the Slice has no other reader.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "Conv" or node.domain:
            continue
        source = node.inputs[0]
        cut = source.producer() if source is not None else None
        if source is None or cut is None or cut.op_type != "Slice":
            continue
        if only_consumer(source) is not node:
            continue
        offset = _offset(cut)
        old = node.inputs[1]
        weight = constant(old)
        if offset is None or old is None or weight is None or weight.ndim != 4 or not _plain(node):
            continue
        top, left = offset
        grown = np.pad(weight, [(0, 0), (0, 0), (top, 0), (left, 0)])
        name = old.name or "weight"
        node.replace_input_with(1, add_initialiser(model, f"{name}_shifted", grown))
        node.replace_input_with(0, cut.inputs[0])
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", grown.shape[2:])
        model.graph.remove(cut, safe=True)
        changed = True
    return changed


def _offset(cut: ir.Node) -> tuple[int, int] | None:
    """Rows and columns cut off at the start, or None where condition (1) fails."""
    cuts, shape = slice_cuts(cut), static_shape(cut.inputs[0])
    if cuts is None or shape is None or len(shape) != 4 or not cuts.keys() <= {2, 3}:
        return None
    starts = {2: 0, 3: 0}
    for axis, (start, end, step) in cuts.items():
        if step != 1 or end < shape[axis] or not 0 <= start <= LARGEST_OFFSET:
            return None
        starts[axis] = start
    return starts[2], starts[3]


def _plain(node: ir.Node) -> bool:
    """No padding, no dilation."""
    pads = node.attributes.get("pads")
    dilations = node.attributes.get("dilations")
    auto = node.attributes.get("auto_pad")
    return (
        (pads is None or not any(pads.as_ints()))
        and (dilations is None or set(dilations.as_ints()) == {1})
        and (auto is None or auto.as_string() in ("NOTSET", "VALID"))
    )
