"""ONNX model -> raw OpGraph, with static shapes; any operator is accepted.

BatchNorm is folded into the convolution before it, constants and quantise/dequantise pairs
disappear, a linear layer written as MatMul and Add becomes Gemm, a mean over all pixels becomes
GlobalAveragePool. An operator without a handler becomes a node with its attributes as they are: an
opaque kernel, named with its domain where ONNX does not define it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from factory.graph import onnx_control, onnx_handlers  # noqa: F401  registers its operators
from factory.graph.model_inputs import NOTHING_ASKED, AskedInputs, model_inputs
from factory.graph.onnx_load import inline_functions, load_onnx, open_onnx
from factory.graph.onnx_qlinear import to_qdq
from factory.graph.onnx_reader import Reader
from factory.graph.opgraph import OpGraph

__all__ = ["from_onnx", "load_onnx", "read_graph"]


def from_onnx(model: onnx.ModelProto) -> OpGraph:
    """The operators of ``model`` as a raw graph.

    A free batch is 1, which is noted. An operator that ONNX does not define is an opaque kernel.

    Raises:
        InputError: a shape is free, or depends on values that are not known.
    """
    inputs = model_inputs(model, f"model {model.graph.name!r}")
    if inputs.changed:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        model = inputs.fix(copy)
    graph = Reader(as_read(model), onnx_handlers.HANDLERS).read()
    return replace(graph, notes=(*inputs.notes, *graph.notes))


def as_read(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in the form that is read: functions inlined, quantised operators in QDQ form."""
    return to_qdq(inline_functions(model))


def read_graph(path: Path | str, asked: AskedInputs = NOTHING_ASKED) -> OpGraph:
    """The operators of the model in the file ``path``, its free dimensions as ``asked``.

    Shapes that depend on values are those of one run of ONNX Runtime, in the guarded child.

    Raises:
        InputError: not an ONNX model, a dimension is free and was not given, or a shape depends on
            values and the model does not run.
    """
    loaded = open_onnx(path, weights=False, asked=asked)
    graph = from_onnx(loaded.model)
    return replace(graph, notes=(*loaded.notes, *graph.notes))
