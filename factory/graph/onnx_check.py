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


def check_model(model: onnx.ModelProto, where: str = "") -> None:
    """Raise InputError for an unknown operator or a dynamic graph input."""
    check_operators(model, where)
    check_static(model, where)


def check_operators(model: onnx.ModelProto, where: str = "") -> None:
    """Raise InputError for the first operator that is in no ONNX schema, naming op and node."""
    from factory.graph.onnx_qlinear import MICROSOFT_OPS

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    functions = {(function.domain, function.name) for function in model.functions}
    for index, node in enumerate(model.graph.node):
        if (node.domain, node.op_type) in functions:
            continue
        label = f"node {node.name!r}" if node.name else f"node number {index}"
        place = f"{label} of {where}" if where else label
        if node.domain in STANDARD:
            version = opsets.get("", opsets.get("ai.onnx", 1))
            if not _in_schema(node.op_type, version, ""):
                raise InputError(
                    f"unknown operator {node.op_type!r}",
                    where=place,
                    why=f"it is not in ONNX opset {version}",
                    fix="export the model with standard ONNX operators",
                )
        elif node.domain == MICROSOFT and node.op_type in MICROSOFT_OPS:
            continue
        elif not _in_schema(node.op_type, opsets.get(node.domain, 1), node.domain):
            raise InputError(
                f"unknown operator {node.domain}.{node.op_type}",
                where=place,
                why=f"the domain {node.domain!r} is not part of ONNX",
                fix="give the model as exported, with standard ONNX operators and not yet "
                "optimised for one runtime",
            )


def _in_schema(op: str, version: int, domain: str) -> bool:
    newest = defs.onnx_opset_version() if not domain else 2**31 - 1
    try:
        defs.get_schema(op, min(max(version, 0), newest), domain)
    except defs.SchemaError:
        return False
    return True


def check_static(model: onnx.ModelProto, where: str = "") -> None:
    """Raise InputError for the first graph input whose shape is not fixed."""
    constants = {tensor.name for tensor in model.graph.initializer}
    file = f" of {where}" if where else ""
    for value in model.graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise InputError(
                f"input {value.name!r}{file} has no shape",
                fix="export it with a fixed shape such as 1x3x224x224",
            )
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value > 0:
                continue
            name = size.dim_param
            told = f"dimension {name!r} (axis {axis})" if name else f"dimension at axis {axis}"
            how = (
                f"--dim_param {name} --dim_value {1 if axis == 0 else 'N'}"
                if name
                else f"--input_name {value.name} --input_shape 1,3,224,224"
            )
            raise InputError(
                f"input {value.name!r}{file} has a dynamic {told}",
                why="a latency belongs to fixed shapes",
                fix="fix it with `python -m onnxruntime.tools.make_dynamic_shape_fixed "
                f"{how} IN.onnx OUT.onnx`",
            )
