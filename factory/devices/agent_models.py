"""What a model from the wire must not hold: paths to files, precompiled blobs, anything unreadable.

ONNX Runtime reads external weights and context binaries from paths that the model names, and a
chip that accepts models from the network must not open files for them. The device agent has no
onnx package, so this walks the protobuf wire format of ModelProto itself (field numbers as in
onnx.proto3). What it cannot read is refused too: a parser that differs from the runtime's must
not be a way around it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator

DEEPEST = 100  # protobuf's own limit
MOST_FIELDS = 2_000_000  # of those that are looked at: a second or two
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message -> field number -> message inside it
_INSIDE: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_NODE_OP_TYPE, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 4, 13, 14
_REFUSED_OPS = {b"EPContext": "a precompiled context (EPContext)"}


class RefusedModel(Exception):
    """The model holds something that is not accepted from the wire; the text says what."""


def check_wire_model(model: bytes) -> None:
    """Raise RefusedModel when ``model`` names files or cannot be read to its end."""
    if not model:
        raise RefusedModel("the model is empty: it has no graph")
    if model[4:8] == b"ORTM":
        raise RefusedModel("ORT format models are not accepted, send ONNX")
    _check("Model", memoryview(model), 0, iter(range(MOST_FIELDS)))


def _check(kind: str, content: memoryview, depth: int, budget: Iterator[int]) -> None:
    if depth > DEEPEST:
        raise RefusedModel(f"the model is nested deeper than {DEEPEST} levels")
    inside = _INSIDE[kind]
    for number, wire_type, value in _fields(content):
        if next(budget, None) is None:
            raise RefusedModel(f"the model has more than {MOST_FIELDS} fields")
        if kind == "Tensor" and number == _TENSOR_EXTERNAL:
            raise RefusedModel("the model keeps weights in another file (external data)")
        if kind == "Tensor" and number == _TENSOR_LOCATION and value != 0:
            raise RefusedModel("the model keeps weights in another file (external data)")
        if wire_type != _BYTES or not isinstance(value, memoryview):
            continue
        if kind == "Node" and number == _NODE_OP_TYPE:
            refused = _REFUSED_OPS.get(bytes(value[:64]))
            if refused:
                raise RefusedModel(f"the model holds {refused}")
        if number in inside:
            _check(inside[number], value, depth + 1, budget)


def _fields(content: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type and value of each field of a message."""
    at, end = 0, len(content)
    while at < end:
        key, at = _varint(content, at)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise _unreadable()
        value: int | memoryview
        if wire_type == _VARINT:
            value, at = _varint(content, at)
        elif wire_type == _BYTES:
            size, at = _varint(content, at)
            if size > end - at:
                raise _unreadable()
            value, at = content[at : at + size], at + size
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
            if size > end - at:
                raise _unreadable()
            value, at = content[at : at + size], at + size
        else:
            raise _unreadable()
        yield number, wire_type, value


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise _unreadable()
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise _unreadable()


def _unreadable() -> RefusedModel:
    return RefusedModel("these bytes are not an ONNX model (protobuf parsing failed)")
