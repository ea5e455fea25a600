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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner, shape_inference
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from factory.core.errors import FactoryError, InputError
from factory.core.guard import guarded
from factory.core.reading import path_errors, read_bytes
from factory.graph.model_inputs import NOTHING_ASKED, AskedInputs, ModelInputs, model_inputs
from factory.graph.onnx_check import (
    STANDARD,
    check_sizes,
    check_structure,
    not_onnx,
    unknown_operator,
    unknown_operators,
)

LARGEST_BYTES = 2**31 - 1  # of a protobuf
SMALL_ELEMENTS = 1 << 14


class InvalidGraph(InputError):
    """ONNX's checker or its shape inference calls the graph invalid."""


@dataclass(frozen=True)
class Loaded:
    """A model that was examined.

    Attributes:
        model: with fixed input shapes, and the shapes that were observed.
        inputs: its inputs.
        notes: what was assumed or observed.
        fault: why its graph cannot be read, where that was let pass.
    """

    model: onnx.ModelProto
    inputs: ModelInputs
    notes: tuple[str, ...]
    fault: InputError | None = None


def load_onnx(path: Path | str, *, weights: bool = True) -> onnx.ModelProto:
    """The model of :func:`open_onnx`."""
    return open_onnx(path, weights=weights).model


def open_onnx(
    path: Path | str,
    *,
    weights: bool = True,
    asked: AskedInputs = NOTHING_ASKED,
    lenient: bool = False,
) -> Loaded:
    """The model in the file ``path``, examined.

    Args:
        path: the file.
        weights: load also what lies in files beside it; without, only tensors that may be shapes
            or axes, which is enough to read the graph.
        asked: shapes of the inputs, where dimensions are free.
        lenient: let a graph pass that ONNX calls invalid: a runtime may take it all the same.

    Raises:
        InputError: no such file, not an ONNX model, damaged, larger than is read, an input whose
            shape is free and not given, or an operator that neither ONNX nor its runtime has.
    """
    path = Path(path)
    found = guarded(
        "factory.graph.onnx_load:examine",
        f"model {path}",
        file_bytes(path),
        path=str(path.absolute()),
        where=str(path),
        shapes=list(asked.shapes),
        file=str(Path(asked.file).absolute()) if asked.file else "",
    )
    fault = InputError(**found["fault"]) if found["fault"] else None
    if fault is not None and not lenient:
        raise fault
    model = load_weights(path, parse_onnx(_content(path), str(path)), large=weights)
    inputs = model_inputs(model, str(path), asked)
    inputs.fix(model)
    write_observed(model, found["shapes"])
    return Loaded(model, inputs, (*inputs.notes, *found["notes"]), fault)


def examine(path: str, where: str, shapes: Sequence[str], file: str) -> dict[str, Any]:
    """All checks of a file, run in the guarded child: what :func:`examine_model` returns.

    "fault" holds the parts of the error of a graph that ONNX calls invalid.
    """
    model = open_unchecked(Path(path), where, weights=False)
    inputs = model_inputs(model, where, AskedInputs(tuple(shapes), file))
    inputs.fix(model)
    try:
        return {**examine_model(model, where, inputs, str(Path(path).parent)), "fault": None}
    except InvalidGraph as error:
        told = {"what": error.what, "where": error.where, "why": error.why, "fix": error.fix}
        return {"shapes": {}, "notes": [], "fault": told}


def open_unchecked(path: Path, where: str, *, weights: bool = True) -> onnx.ModelProto:
    """The model of a file whose parts are sound, its graph not looked at yet."""
    model = parse_onnx(_content(path), where)
    check_structure(model, where, path.parent)
    return load_weights(path, model, large=weights)


def examine_model(
    model: onnx.ModelProto, where: str, inputs: ModelInputs | None = None, folder: str = ""
) -> dict[str, Any]:
    """Operators, shapes and graph of ``model``; only within the guarded child.

    Returns:
        "shapes": of tensors whose shape depends on values, from one run, with their element types;
        "notes": what a person should know of that.

    Raises:
        InputError: any of them is wrong.
    """
    from factory.graph.observing import observe
    from factory.graph.onnx_import import from_onnx

    inputs = model_inputs(model, where) if inputs is None else inputs
    unknown = unknown_operators(model)
    with foreign_errors(f"{where} is not a valid ONNX model", error=InvalidGraph):
        inferred = shape_inference.infer_shapes(_without_weights(model, unknown))
        for value in inferred.graph.output:  # the checker wants some shape
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(inferred)
    check_sizes(inferred, where)
    found = observe(model, inputs, folder, always=bool(unknown))
    if unknown and found.failure:
        raise unknown_operator(model, unknown[0], where, found.failure)
    write_observed(model, found.shapes)
    with contextlib.suppress(FactoryError):  # from_onnx repeats the reason where kernels are needed
        from_onnx(model)
    return {"shapes": found.shapes, "notes": list(found.notes)}


def write_observed(model: onnx.ModelProto, shapes: Mapping[str, Sequence[Any]]) -> None:
    """Write observed shapes, (element type, sizes) by name, into what ``model`` says of tensors."""
    for value in model.graph.output:
        if value.name in shapes:
            kind, sizes = shapes[value.name]
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, sizes))
    named = {value.name for value in model.graph.output}
    kept = [value for value in model.graph.value_info if value.name not in shapes]
    made = [
        onnx.helper.make_tensor_value_info(name, kind, sizes)
        for name, (kind, sizes) in shapes.items()
        if name not in named
    ]
    del model.graph.value_info[:]
    model.graph.value_info.extend([*kept, *made])


def _without_weights(model: onnx.ModelProto, unknown: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """``model`` with its large weights as inputs of the graph, for checks of the graph alone.

    Operators ``unknown`` to ONNX get a domain of their own: its checker passes over those.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    names = {node.op_type for node in unknown}
    for node in bare.graph.node:
        if node.op_type in names and node.domain in STANDARD:
            node.domain = "unknown"
    domains = {node.domain for node in bare.graph.node} - {o.domain for o in bare.opset_import}
    bare.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in sorted(domains))
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


def load_weights(path: Path, model: onnx.ModelProto, *, large: bool = True) -> onnx.ModelProto:
    """``model`` with what its tensors have in files beside ``path``; the small ones or all."""
    with foreign_errors(f"model {path} lacks its external weights"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of entries that nobody reads
        for tensor, inside in _tensors(model.graph, False):
            small = inside or math.prod(tensor.dims) <= SMALL_ELEMENTS
            if uses_external_data(tensor) and (large or small):
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
def foreign_errors(
    what: str, fix: str = "export it again", error: type[InputError] = InputError
) -> Iterator[None]:
    """Turn whatever ONNX or ONNX Runtime raises into one sentence; nothing else goes inside."""
    try:
        yield
    except (FactoryError, MemoryError):
        raise
    except Exception as raised:
        text = " ".join(str(raised).split()).removeprefix("[ONNXRuntimeError] : ")
        raise error(what, why=text[:300] or type(raised).__name__, fix=fix) from raised


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
