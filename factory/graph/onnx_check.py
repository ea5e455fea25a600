"""What a model must be before anything reads its graph; whatever is wrong is one sentence.

Legend: ``where`` is the file that an error names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import TensorProto, defs, helper

from factory.core.errors import InputError

STANDARD = ("", "ai.onnx")
MICROSOFT = "com.microsoft"
MOST_ELEMENTS = 2**31
"""Elements of one tensor: 8 GB of floats, more than any chip of ours has."""
_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6,
         "FLOAT6E3M2": 6}  # fmt: skip


def check_structure(model: onnx.ModelProto, where: str, folder: Path | None = None) -> None:
    """Raise InputError where a part of the model contradicts itself or what it refers to.

    Looked at are all texts, the dimensions and the content of every weight, and data in files
    beside the model, which must lie in ``folder`` (None: there may be none).
    """
    if not model.HasField("graph") or not model.graph.node or not model.ir_version:
        raise not_onnx(where)
    if not model.graph.output:
        raise InputError(f"the graph of {where} has no output", fix="export it again")
    try:
        _walk(model, where, folder)
    except UnicodeDecodeError:
        raise _no_text(where) from None


def _walk(message: Any, where: str, folder: Path | None) -> None:
    if isinstance(message, TensorProto):
        _check_tensor(message, where, folder)
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_MESSAGE, field.TYPE_STRING):
            continue
        single = isinstance(value, str | bytes | Message)
        for part in [value] if single else value:
            if field.type == field.TYPE_MESSAGE:
                _walk(part, where, folder)
            elif not isinstance(part, str):  # protobuf gives bytes, or raises, where a text is none
                raise _no_text(where)


def _no_text(where: str) -> InputError:
    return InputError(f"{where} is not an ONNX model", why="a name in it is no text")


def _check_tensor(tensor: onnx.TensorProto, where: str, folder: Path | None) -> None:
    kind = tensor.data_type
    if kind not in TensorProto.DataType.values() or kind == TensorProto.UNDEFINED:
        raise InputError(f"weight {tensor.name!r} of {where} has the unknown data type {kind}")
    check_size(tensor.name, tensor.dims, where)
    if min(tensor.dims, default=0) < 0:
        raise InputError(f"weight {tensor.name!r} of {where} has the shape {list(tensor.dims)}")
    if tensor.HasField("segment"):
        raise InputError(f"weight {tensor.name!r} of {where} is stored in segments")
    elements = math.prod(tensor.dims)
    name = TensorProto.DataType.Name(kind)
    size = math.ceil(elements * _bits(kind, name) / 8)
    if tensor.data_location == TensorProto.EXTERNAL:
        _check_external(tensor, size, where, folder)
        return
    if tensor.HasField("raw_data") and kind != TensorProto.STRING:
        found, needed, unit = len(tensor.raw_data), size, "bytes"
    else:
        found, unit = len(getattr(tensor, helper.tensor_dtype_to_field(kind))), "values"
        a_value = _BITS.get(name, 0)
        needed = math.ceil(elements * a_value / 8) if a_value else elements
        needed *= 2 if name.startswith("COMPLEX") else 1
    if found != needed:
        raise InputError(
            f"weight {tensor.name!r} of {where} holds {found} {unit}",
            why=f"its shape {list(tensor.dims)} asks for {needed}",
            fix="the file is cut or damaged: export it again",
        )


def _bits(kind: int, name: str) -> int:
    """Bits of one element in raw data."""
    if kind == TensorProto.STRING:
        return 0
    return _BITS.get(name) or 8 * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _check_external(tensor: onnx.TensorProto, size: int, where: str, folder: Path | None) -> None:
    """The tensor's data lies in ``folder`` and is as long as its shape says."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    location = told.get("location", "")
    what = f"model {where} lacks its external weights"
    keep = "keep the .onnx file and its data file in one folder"
    if folder is None or not location:
        raise InputError(what, why=f"weight {tensor.name!r} lies in {location!r}", fix=keep)
    try:
        path = (folder / location).resolve()
        offset, length = (int(told.get(key) or default) for key, default in
                          (("offset", 0), ("length", size)))  # fmt: skip
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
        held = path.stat().st_size if inside else 0
    except (OSError, ValueError):  # no path, or a number that is none
        inside, offset, length, held = False, 0, size, 0
    if not inside:
        raise InputError(
            what, why=f"weight {tensor.name!r} lies in {location!r}, no file beside it", fix=keep
        )
    if length != size or offset < 0 or offset + length > held:
        raise InputError(
            f"weight {tensor.name!r} of {where} does not fit its data file {location!r}",
            why=f"its shape {list(tensor.dims)} asks for {size} bytes, told are {length} from "
            f"{offset} of {held}",
            fix="export it again, both files",
        )


def check_sizes(model: onnx.ModelProto, where: str) -> None:
    """Raise InputError for a tensor of the graph that is larger than MOST_ELEMENTS."""
    graph = model.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            check_size(value.name, [d.dim_value for d in value.type.tensor_type.shape.dim], where)


def check_size(name: str, dims: Iterable[int], where: str) -> None:
    """Raise InputError where a shape (unknown sizes as 0) has more than MOST_ELEMENTS."""
    dims = list(dims)
    if math.prod(max(abs(size), 1) for size in dims) > MOST_ELEMENTS:
        raise InputError(
            f"tensor {name!r} of {where} has the shape {dims}",
            why=f"more than {MOST_ELEMENTS:,} elements are not read",
            fix="export the model with a smaller input",
        )


def not_onnx(where: str) -> InputError:
    """The error for content that is no model at all."""
    return InputError(f"{where} is not an ONNX model", fix="name a file that an exporter wrote")


def known_to_onnx(node: onnx.NodeProto) -> bool:
    """Whether ONNX itself defines the node's operator, in whatever version."""
    domain = "" if node.domain in STANDARD else node.domain
    return defs.has(node.op_type, domain)


def unknown_operators(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the standard domain whose operator the file's operator set does not have.

    A runtime may have them all the same: ONNX Runtime's own optimiser writes some.
    """
    version = next((o.version for o in model.opset_import if o.domain in STANDARD), 1)
    functions = {(function.domain, function.name) for function in model.functions}
    return [
        node
        for node in model.graph.node
        if node.domain in STANDARD
        and (node.domain, node.op_type) not in functions
        and not _in_schema(node.op_type, version)
    ]


def unknown_operator(
    model: onnx.ModelProto, node: onnx.NodeProto, where: str, why: str
) -> InputError:
    """The error for an operator that neither ONNX nor the runtime has."""
    index = next(i for i, other in enumerate(model.graph.node) if other is node)
    label = f"node {node.name!r}" if node.name else f"node number {index}"
    version = next((o.version for o in model.opset_import if o.domain in STANDARD), 1)
    return InputError(
        f"unknown operator {node.op_type!r}",
        where=f"{label} of {where}" if where else label,
        why=f"it is not in ONNX opset {version}, and the runtime says: {why}",
        fix="export the model with standard ONNX operators",
    )


def _in_schema(op: str, version: int) -> bool:
    try:
        defs.get_schema(op, min(max(version, 0), defs.onnx_opset_version()), "")
    except defs.SchemaError:
        return False
    return True
