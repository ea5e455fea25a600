"""The one door of ONNX files: what passes can be read, inferred and run by everything behind it.

ONNX's checker, shape inference and inliner are native code that may abort, hang or ask for any
amount of memory on a file that somebody damaged. So a file is examined in a child process first
(:mod:`factory.core.guard`), reading its graph included; what the child survived is done again here.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner, shape_inference
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from factory.core.errors import FactoryError, InputError
from factory.core.guard import guarded
from factory.core.reading import path_errors, read_bytes
from factory.graph.onnx_check import check_model, check_sizes, check_structure, not_onnx

LARGEST_BYTES = 2**31 - 1  # of a protobuf
SMALL_ELEMENTS = 1 << 14


def load_onnx(path: Path | str, *, weights: bool = True) -> onnx.ModelProto:
    """The model in the file ``path``.

    Args:
        path: the file.
        weights: load also what lies in files beside it; without, only tensors that may be shapes
            or axes, which is enough to read the graph.

    Raises:
        InputError: no such file, not an ONNX model, damaged, larger than is read, dynamic shapes,
            or an operator nobody knows.
    """
    path = Path(path)
    guarded(
        "factory.graph.onnx_load:examine",
        f"model {path}",
        file_bytes(path),
        path=str(path.absolute()),
        where=str(path),
    )
    return _read(path, parse_onnx(_content(path), str(path)), weights)


def examine(path: str, where: str) -> None:
    """All checks of a file; run in the guarded child."""
    examine_model(open_unchecked(Path(path), where, weights=False), where)


def open_unchecked(path: Path, where: str, *, weights: bool = True) -> onnx.ModelProto:
    """The model of a file whose parts are sound, its graph not looked at yet."""
    model = parse_onnx(_content(path), where)
    check_structure(model, where, path.parent)
    return _read(path, model, weights)


def examine_model(model: onnx.ModelProto, where: str) -> None:
    """Operators, shapes and graph of ``model``; only within the guarded child.

    Raises:
        InputError: any of them is wrong.
    """
    from factory.graph.onnx_import import from_onnx

    check_model(model, where)
    with foreign_errors(f"{where} is not a valid ONNX model"):
        inferred = shape_inference.infer_shapes(_without_weights(model))
        onnx.checker.check_model(inferred)
    check_sizes(inferred, where)
    with contextlib.suppress(FactoryError):  # from_onnx repeats the reason where kernels are needed
        from_onnx(model)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with its large weights as inputs of the graph, for checks of the graph alone."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]
    given = {value.name for value in bare.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL_ELEMENTS and not uses_external_data(tensor):
            bare.graph.initializer.append(tensor)
        elif tensor.name not in given:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            bare.graph.input.append(value)
    return bare


def file_bytes(path: Path) -> int:
    """Size of the file; InputError where there is none to read."""
    with path_errors(path, "model"):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if found.st_size == 0:
        raise InputError(f"model {path} is empty", fix="export it again")
    return found.st_size


def _content(path: Path) -> bytes:
    return read_bytes(path, "model", most_mb=math.inf)


def _read(path: Path, model: onnx.ModelProto, weights: bool) -> onnx.ModelProto:
    """``model`` with what its tensors have in files beside ``path``; the small ones or all."""
    with foreign_errors(f"model {path} lacks its external weights"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of entries that nobody reads
        for tensor, inside in _tensors(model.graph, False):
            small = inside or math.prod(tensor.dims) <= SMALL_ELEMENTS
            if uses_external_data(tensor) and (weights or small):
                load_external_data_for_tensor(tensor, str(path.parent))
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
    return model


def _tensors(graph: onnx.GraphProto, inside: bool) -> Iterator[tuple[onnx.TensorProto, bool]]:
    """Every tensor of the graph, and whether it belongs to a node."""
    for tensor in graph.initializer:
        yield tensor, inside
    for attribute in (a for node in graph.node for a in node.attribute):
        for tensor in (attribute.t, *attribute.tensors):
            yield tensor, True
        for part in (attribute.g, *attribute.graphs):
            yield from _tensors(part, True)


def parse_onnx(content: bytes, where: str) -> onnx.ModelProto:
    """The protobuf alone, by nothing that could abort."""
    if len(content) > LARGEST_BYTES:
        raise InputError(
            f"{where} is larger than 2 GB", fix="export it with its weights in a file beside it"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise not_onnx(where) from None
    if not model.HasField("graph") or not model.graph.node:
        raise not_onnx(where)
    return model


@contextlib.contextmanager
def foreign_errors(what: str, fix: str = "export it again") -> Iterator[None]:
    """Turn whatever ONNX or ONNX Runtime raises into one sentence; nothing else goes inside."""
    try:
        yield
    except (FactoryError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")
        raise InputError(what, why=text[:300] or type(error).__name__, fix=fix) from error


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with its own functions replaced by what they stand for."""
    if not model.functions:
        return model
    with foreign_errors(f"the functions of model {model.graph.name!r} cannot be inlined"):
        return inliner.inline_local_functions(model)


def with_shapes(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """``model`` with all shapes inferred anew, strictly, and checked.

    Raises:
        InputError: ``what``, with ONNX's reason.
    """
    del model.graph.value_info[:]
    with foreign_errors(what):
        model = shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
        onnx.checker.check_model(model, full_check=True)
    return model


def weight_files_bytes(path: Path) -> int:
    """Bytes of the files beside ``path`` that its model names."""
    model = parse_onnx(_content(path), str(path))
    entries = (e for tensor, _ in _tensors(model.graph, False) for e in tensor.external_data)
    places = {entry.value for entry in entries if entry.key == "location"}
    with contextlib.suppress(OSError, ValueError, TypeError):
        return sum(f.stat().st_size for f in (path.parent / place for place in places))
    return 0


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with all shapes that follow from the values it knows; none is too large."""
    name = model.graph.name
    with foreign_errors(f"the shapes of model {name!r} contradict each other"):
        model = shape_inference.infer_shapes(model, data_prop=True)
    check_sizes(model, f"model {name!r}")
    return model
