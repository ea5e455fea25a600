"""``Dropout(x) -> x``: a shipped model only infers."""

from __future__ import annotations

import onnx_ir as ir


def remove_dropout(model: ir.Model) -> bool:
    """``Dropout(x) -> x``.

    Conditions: (1) nobody reads the mask; (2) the result is not itself an output of the graph.
    A training_mode input is ignored: this file is for inference.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "Dropout" or node.domain not in ("", "ai.onnx"):
            continue
        if any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:]):
            continue
        source, out = node.inputs[0], node.outputs[0]
        if source is None or out.is_graph_output():
            continue
        ir.convenience.replace_all_uses_with(out, source)
        model.graph.remove(node, safe=True)
        changed = True
    return changed
