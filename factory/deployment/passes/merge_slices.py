"""``Slice(axis 3) o Slice(axis 2) -> Slice(axes 2, 3)``: one copy instead of two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from factory.deployment.passes.base import (
    add_initialiser,
    constant,
    only_consumer,
    replace_node,
    static_shape,
)


def merge_slices(model: ir.Model) -> bool:
    """``Slice(Slice(x, axis 2), axis 3) -> Slice(x, axes 2 and 3)``.

    Conditions: (1) starts, ends, axes and steps of both are constant; (2) they cut different
    axes; (3) only the second Slice reads the first. Slices that keep everything are dropped.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "Slice":
            continue
        cuts = slice_cuts(node)
        if cuts is None:
            continue
        source = node.inputs[0]
        inner = source.producer() if source is not None else None
        if source is not None and inner is not None and inner.op_type == "Slice":
            earlier = slice_cuts(inner)
            if earlier is not None and not earlier.keys() & cuts.keys():
                if only_consumer(source) is not node:
                    continue
                merged = ir.node("Slice", [inner.inputs[0], *_operands(model, earlier | cuts)])
                replace_node(node, [merged])
                model.graph.remove(inner, safe=True)
                changed = True
                continue
        if not node.outputs[0].is_graph_output() and source is not None:
            shape = static_shape(source)
            if shape is not None and all(
                s == 0 and e >= shape[a] and p == 1 for a, (s, e, p) in cuts.items()
            ):
                ir.convenience.replace_all_uses_with(node.outputs[0], source)
                model.graph.remove(node, safe=True)
                changed = True
    return changed


def slice_cuts(node: ir.Node) -> dict[int, tuple[int, int, int]] | None:
    """Axis -> (start, end, step), or None where one of them is not constant."""
    arrays = [constant(value) for value in node.inputs[1:]]
    if len(arrays) < 3 or any(a is None for a in arrays):
        return None
    starts, ends, axes = (np.asarray(a).reshape(-1).tolist() for a in arrays[:3])
    steps = np.asarray(arrays[3]).reshape(-1).tolist() if len(arrays) > 3 else [1] * len(axes)
    if any(a < 0 for a in axes):
        return None
    return {
        int(a): (int(s), int(e), int(p))
        for a, s, e, p in zip(axes, starts, ends, steps, strict=True)
    }


def _operands(model: ir.Model, cuts: dict[int, tuple[int, int, int]]) -> list[ir.Value]:
    axes = sorted(cuts)
    columns = {
        "starts": [cuts[a][0] for a in axes],
        "ends": [cuts[a][1] for a in axes],
        "axes": axes,
        "steps": [cuts[a][2] for a in axes],
    }
    return [
        add_initialiser(model, f"slice_{name}", np.asarray(values, np.int64))
        for name, values in columns.items()
    ]
