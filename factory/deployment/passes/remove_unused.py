"""``nodes, initialisers, functions and operator sets that nothing reads -> gone``."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)


def remove_unused(model: ir.Model) -> bool:
    """``nodes, initialisers, functions and operator sets that nothing reads -> gone``."""
    passes = (RemoveUnusedNodesPass(), RemoveUnusedFunctionsPass(), RemoveUnusedOpsetsPass())
    changed = [p(model).modified for p in passes]
    return any(changed)
