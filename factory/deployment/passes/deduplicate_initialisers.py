"""``equal initialisers -> one initialiser`` (type, shape and every byte equal)."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass


def deduplicate_initialisers(model: ir.Model) -> bool:
    """``equal initialisers -> one initialiser``."""
    return DeduplicateInitializersPass(size_limit=1 << 30)(model).modified
