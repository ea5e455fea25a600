"""Reads an ONNX file and refuses, in one sentence, what cannot be turned into kernels."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import defs, inliner, shape_inference

from factory.core.errors import InputError

STANDARD = ("", "ai.onnx")
MICROSOFT = "com.microsoft"


def load_onnx(path: Path | str) -> onnx.ModelProto:
    """The model in the file ``path``.

    Raises:
        InputError: no such file, not an ONNX model, dynamic shapes, or an operator nobody knows.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"model {path} does not exist", fix="check the path")
    if path.is_dir():
        raise InputError(f"model {path} is a folder", fix="name an .onnx file")
    if path.stat().st_size == 0:
        raise InputError(f"model {path} is empty", fix="export it again")
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        raise _external(path, error) from None
    except onnx.checker.ValidationError as error:
        raise _external(path, error) from None
    except OSError as error:
        raise InputError(f"model {path} cannot be read", why=str(error)) from None
    except Exception:
        raise _not_onnx(path) from None
    if not model.HasField("graph") or not model.graph.node or not model.ir_version:
        raise _not_onnx(path)
    try:
        check_model(model, str(path))
        onnx.checker.check_model(shape_inference.infer_shapes(model))
    except (UnicodeDecodeError, TypeError):  # a name that is no text: bytes were damaged
        raise _not_onnx(path) from None
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise InputError(
            f"{path} is not a valid ONNX model",
            why=" ".join(str(error).split())[:200],
            fix="export it again",
        ) from None
    return model


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
    try:
        defs.get_schema(
            op, min(version, defs.onnx_opset_version()) if not domain else version, domain
        )
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


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with its own functions replaced by what they stand for."""
    return inliner.inline_local_functions(model) if model.functions else model


def _not_onnx(path: Path) -> InputError:
    return InputError(f"{path} is not an ONNX model", fix="name a file that an exporter wrote")


def _external(path: Path, error: Exception) -> InputError:
    return InputError(
        f"model {path} lacks its external weights",
        why=" ".join(str(error).split())[:200],
        fix="keep the .onnx file and its data file in one folder",
    )
