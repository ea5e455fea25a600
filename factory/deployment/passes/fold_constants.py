"""``Op(constant, constant) -> initialiser``: chains that do not depend on the image are computed.

The exporter writes shapes, axes and missing biases as chains of Constant, Shape, Expand, Cast and
Reshape. They are evaluated here, and every Constant node left becomes an initialiser.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
)
from onnxscript.optimizer import fold_constants as fold

OUTPUT_ELEMENTS_MAX = 1 << 24


def fold_constants(model: ir.Model) -> bool:
    """``Op(constant, constant) -> initialiser``."""
    ShapeInferencePass()(model)
    folded = fold(model, output_size_limit=OUTPUT_ELEMENTS_MAX).modified
    lifted = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).modified
    unused = RemoveUnusedNodesPass()(model).modified
    ShapeInferencePass()(model)
    return bool(folded or lifted or unused)
