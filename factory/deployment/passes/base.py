"""What a pass is, helpers that several passes share, and running them all.

A pass changes an ``onnx_ir.Model`` in place and says whether it changed anything. It must keep
the numbers the model computes (up to rounding); each has a test that runs the model before and
after through ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import OutputFixPass, TopologicalSortPass
from onnxscript import rewriter
from onnxscript.rewriter import pattern

from factory.graph.onnx_load import with_shapes

Pass = Callable[[ir.Model], bool]


def run_passes(model: ir.Model, passes: Sequence[Pass]) -> list[str]:
    """Run ``passes`` in order; the names of those that changed the model."""
    return [p.__name__ for p in passes if p(model)]


def clean_model(model: ir.Model) -> onnx.ModelProto:
    """Run every pass of the factory, infer all shapes strictly, check, and return the proto."""
    from factory.deployment.passes import PASSES

    run_passes(model, PASSES)
    TopologicalSortPass()(model)
    OutputFixPass()(model)
    return with_shapes(ir.to_proto(model), "the cleaned model is not valid")


def apply_rules(model: ir.Model, rules: Sequence[pattern.RewriteRule]) -> bool:
    """Apply onnxscript rewrite rules until nothing matches."""
    changed = False
    while rewriter.RewritePass(list(rules))(model).modified:
        changed = True
    return changed


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The value as an array where it is known before the model runs, else None."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The value's shape where every dimension is a known number, else None."""
    if value is None or value.shape is None:
        return None
    dims = tuple(value.shape)
    return tuple(int(d) for d in dims) if all(isinstance(d, int) for d in dims) else None  # type: ignore[arg-type]


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads ``value``, or None when there are more, or it is an output."""
    uses = value.uses()
    if value.is_graph_output() or len(uses) != 1:
        return None
    return next(iter(uses))[0]


def add_initialiser(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """A new weight of the graph under a name that is free, derived from ``name``."""
    taken = model.graph.initializers
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    value = ir.Value(
        name=free,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=free),
    )
    model.graph.register_initializer(value)
    return value


def replace_node(old: ir.Node, new: Sequence[ir.Node]) -> None:
    """Put ``new`` nodes in the place of ``old``; the last one's output takes over its uses."""
    graph = old.graph
    assert graph is not None
    source, target = old.outputs[0], new[-1].outputs[0]
    target.name, target.shape, target.type = source.name, source.shape, source.type
    graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(source, target, replace_graph_outputs=True)
    graph.remove(old, safe=True)
