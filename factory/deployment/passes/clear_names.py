"""``stack traces and generated names -> short, unique, stable names``.

The exporter stores the Python source line of every node in the file; a shipped file does not need
it, and the same network must give the same bytes. A node is named after its result.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass


def clear_names(model: ir.Model) -> bool:
    """``stack traces and generated names -> short, unique, stable names``."""
    changed = ClearMetadataAndDocStringPass()(model).modified
    model.metadata_props.clear()
    model.doc_string = None
    values: list[ir.Value] = [*model.graph.inputs, *model.graph.initializers.values()]
    fixed = {value.name for value in (*values, *model.graph.outputs)}
    for number, node in enumerate(model.graph):
        for position, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if not value.is_graph_output():
                suffix = f"_{position}" if position else ""
                name = f"{node.op_type}_{number}{suffix}"
                value.name = f"{name}_" if name in fixed else name
        node.name = f"{node.op_type}_{number}"
    for value in (*values, *model.graph.outputs):
        value.metadata_props.clear()
    NameFixPass()(model)
    return changed
