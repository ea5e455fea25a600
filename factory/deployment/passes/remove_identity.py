"""``Identity(x) -> x``, and the same for a Cast to the type that x already has."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass
from onnxscript.rewriter.rules.common import no_op_cast_rule

from factory.deployment.passes.base import apply_rules


def remove_identity(model: ir.Model) -> bool:
    """``Identity(x) -> x``; ``Cast(x: float, to=float) -> x``."""
    cast = apply_rules(model, [no_op_cast_rule])
    return IdentityEliminationPass()(model).modified or cast
