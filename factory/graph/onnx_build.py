"""OpGraph or a single kernel -> ONNX model with random weights, in fp32 or int8 (QDQ).

A whole int8 network takes and returns floats, as onnxruntime.quantization writes it. A single int8
kernel takes and returns uint8, so that only the kernel is timed.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import TensorProto, helper

from factory.core.errors import InputError
from factory.graph.as_quantised import QUANTISED, as_quantised
from factory.graph.kernel import Kernel
from factory.graph.onnx_ops import emit
from factory.graph.onnx_writer import POSITIVE, Writer
from factory.graph.opgraph import Node, OpGraph

WRITTEN = ("f32", "i8")


def to_onnx(g: OpGraph, dtype: str = "f32", seed: int = 0) -> onnx.ModelProto:
    """The network as an ONNX model; ``g`` may be raw or canonical.

    In int8 every node is written as :func:`~factory.graph.as_quantised.as_quantised` says, or in
    the precision that it has already.

    Raises:
        InputError: an operator that cannot be written.
    """
    writer = _writer(dtype, seed)
    mixed = dtype != "f32"
    g = as_quantised(g) if mixed else g
    whole = {name for node in g.nodes if node.dtype != "f32" for name in node.inputs}
    inputs: list[onnx.ValueInfoProto] = []
    ranged: set[str] = set()
    for name, shape in g.inputs.items():
        writer.quantised = mixed and name in whole
        inputs.append(writer.graph_input(name, shape, whole=False))
    relus = _removed_relus(g) if mixed else {}
    for node in g.nodes:
        writer.quantised = mixed and node.dtype != "f32"
        writer.float_weights = node.op not in QUANTISED
        if node.output in relus and relus[node.output] in ranged:
            writer.same(node.output, writer.read(node.inputs[0], node.in_shapes[0]))
            writer.quantised = False
            writer.finish(node.output, node.out_shape, POSITIVE)
            continue
        try:
            if emit(writer, node, ranged=node.output in relus.values()):
                ranged.add(node.output)
        except (ValueError, KeyError) as error:
            raise _cannot_write(f"operator {node.op} ({node.output!r})", error) from None
    outputs = []
    writer.quantised = False
    for position, name in enumerate(g.outputs):
        shape = writer.shapes[name]
        final = name
        if name in g.inputs or name in g.outputs[:position] or writer.read(name, shape) != name:
            final = f"{name}_out_{position}"
            writer.node("Identity", [writer.read(name, shape)], [final])
        outputs.append(helper.make_tensor_value_info(final, TensorProto.FLOAT, shape))
    return writer.model(g.name, inputs, outputs)


def _removed_relus(g: OpGraph) -> dict[str, str]:
    """Outputs of int8 ReLUs, which a quantiser takes out -> the sum or Concat that each reads."""
    uses = Counter(name for node in g.nodes for name in node.inputs) + Counter(g.outputs)
    sums = {node.output for node in g.nodes if node.op in ("Add", "Concat") and node.dtype != "f32"}
    return {
        node.output: node.inputs[0]
        for node in g.nodes
        if node.op == "Relu" and node.dtype != "f32"
        if node.inputs[0] in sums and uses[node.inputs[0]] == 1
    }


def kernel_to_onnx(k: Kernel, seed: int = 0) -> onnx.ModelProto:
    """The kernel alone as an ONNX model; inputs ``x0``, ``x1``..., output ``y``.

    Raises:
        InputError: a kernel that cannot be written on its own.
    """
    writer = _writer(k.dtype, seed)
    names = tuple(f"x{i}" for i in range(len(k.inputs)))
    inputs = [
        writer.graph_input(name, shape, whole=True)
        for name, shape in zip(names, k.inputs, strict=True)
    ]
    try:
        more = _more_outputs(k)
        node = Node(
            k.op, names, "y", k.attrs, k.inputs, k.output_shape, k.weight, "w", 0, 0, k.dtype, more
        )
        emit(writer, node, whole=True)
    except (ValueError, KeyError) as error:
        raise _cannot_write(f"kernel {k}", error) from None
    elem = TensorProto.UINT8 if k.dtype == "i8" else TensorProto.FLOAT
    results = [("y", k.output_shape), *more]
    outputs = [helper.make_tensor_value_info(name, elem, shape) for name, shape in results]
    return writer.model("kernel", inputs, outputs)


def named_after_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with its nodes named as :func:`to_onnx` names them, so that a trace can be joined.

    In place.
    """
    for node in model.graph.node:
        node.name = f"{next(filter(None, node.output), '')}__{node.op_type}"
    return model


def _more_outputs(k: Kernel) -> tuple[tuple[str, tuple[int, ...]], ...]:
    if k.op != "Split":
        return ()
    axis, shape = int(k.attr("axis")), k.inputs[0]
    sizes = [int(part) for part in k.attr("sizes").split("x")]
    return tuple(
        (f"y{i}", (*shape[:axis], size, *shape[axis + 1 :]))
        for i, size in enumerate(sizes[1:], start=1)
    )


def _writer(dtype: str, seed: int) -> Writer:
    if dtype not in WRITTEN:
        raise InputError(f"unknown dtype {dtype!r}", fix=f"use one of {', '.join(WRITTEN)}")
    return Writer(dtype, seed)


def _cannot_write(what: str, error: Exception) -> InputError:
    reason = str(error) if isinstance(error, ValueError) else f"attribute {error} is missing"
    return InputError(
        f"{what} cannot be written as ONNX",
        why=reason,
        fix="add an emitter for it in factory/graph/onnx_ops.py",
    )
