"""``f(x) -> body of f``: calls of functions stored in the model become plain operators."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass


def inline_functions(model: ir.Model) -> bool:
    """``f(x) -> body of f``."""
    return bool(model.functions) and InlinePass()(model).modified
