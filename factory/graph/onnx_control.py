"""If, Loop and Scan: one opaque kernel each, with the MACs of the operators in its bodies."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper

from factory.core.errors import InputError
from factory.graph.onnx_handlers import HANDLERS
from factory.graph.onnx_reader import Reader, captured, generic, with_macs
from factory.graph.opgraph import Node
from factory.graph.shapes import Shape

_NOT_COUNTED = "the MACs in the body of {op} (node {name!r}) are not counted: {why}"
_ONE_TURN = "the MACs in the body of Loop (node {name!r}) are those of one iteration"


def _control(reader: Reader, proto: onnx.NodeProto) -> Node:
    name = proto.name or proto.output[0]
    node = generic(reader, proto)
    try:
        macs = max(_body_macs(reader, proto, body) for body in bodies(proto))
    except InputError as error:
        reader.note(_NOT_COUNTED.format(op=proto.op_type, name=name, why=error.what))
        return node
    if proto.op_type == "Scan":
        macs *= _steps(reader, proto)
    if macs and proto.op_type == "Loop":
        reader.note(_ONE_TURN.format(name=name))
    return with_macs(node, macs) if macs else node


for _op in ("If", "Loop", "Scan"):
    HANDLERS.add(_op, _control)


def bodies(proto: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node."""
    for attribute in proto.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _body_macs(reader: Reader, proto: onnx.NodeProto, body: onnx.GraphProto) -> int:
    from factory.graph.counts import count
    from factory.graph.onnx_import import from_onnx

    model = onnx.ModelProto()
    model.CopyFrom(helper.make_model(body, opset_imports=reader.facts.model.opset_import))
    shapes = _given(reader, proto, body)
    for value in model.graph.input:
        if value.name in shapes and value.type.HasField("tensor_type"):
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shapes[value.name]))
    for name in captured(proto):
        kind = reader.facts.types.get(name)
        if kind is not None:
            shape = reader.shape(name)
            model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    if not model.graph.node:
        return 0
    return count(from_onnx(model)).macs


def _given(reader: Reader, proto: onnx.NodeProto, body: onnx.GraphProto) -> dict[str, Shape]:
    """Shapes of the inputs of the body, from those of the node."""
    shapes: dict[str, Shape] = {}
    if proto.op_type == "Loop":
        outer = [(), (), *(reader.shape(name) for name in proto.input[2:])]
    else:
        outer = [reader.shape(name) for name in proto.input]
    if proto.op_type == "Scan":
        first = len(outer) - _scanned(proto)
        axes = _scan_axes(proto)
        for index in range(first, len(outer)):
            axis = axes[index - first] % max(len(outer[index]), 1)
            outer[index] = (*outer[index][:axis], *outer[index][axis + 1 :])
    for value, shape in zip(body.input, outer, strict=False):
        shapes[value.name] = shape
    return shapes


def _scanned(proto: onnx.NodeProto) -> int:
    return next((a.i for a in proto.attribute if a.name == "num_scan_inputs"), 0)


def _scan_axes(proto: onnx.NodeProto) -> list[int]:
    found = next((list(a.ints) for a in proto.attribute if a.name == "scan_input_axes"), [])
    return found or [0] * _scanned(proto)


def _steps(reader: Reader, proto: onnx.NodeProto) -> int:
    if not _scanned(proto):
        return 1
    shape = reader.shape(proto.input[len(proto.input) - _scanned(proto)])
    return shape[_scan_axes(proto)[0]] if shape else 1
