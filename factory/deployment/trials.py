"""Which operators a converter or a runtime cannot take in another number type: found by trying.

What a library knows of each operator is written down nowhere; so where a whole file cannot be made
or loaded, each type of operator is converted alone, and of those types that fail each node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import onnx

Fault = Callable[[Collection[str]], str]
"""From the names of the only nodes to convert to why that fails; "" when it does not."""


def without_form(nodes: Iterable[onnx.NodeProto], fault: Fault) -> dict[str, str]:
    """Name of each node of ``nodes`` that cannot be converted even alone -> why."""
    kinds: dict[str, list[str]] = {}
    for node in nodes:
        kinds.setdefault(node.op_type, []).append(node.name)
    found = {}
    for names in kinds.values():
        if fault(names):
            for name in names:
                why = fault([name])
                if why:
                    found[name] = why
    return found
