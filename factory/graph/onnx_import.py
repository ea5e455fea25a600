"""ONNX model -> raw OpGraph, with static shapes; any standard operator is accepted.

BatchNorm is folded into the convolution before it, constants and quantise/dequantise pairs
disappear, a linear layer written as MatMul and Add becomes Gemm, a mean over all pixels becomes
GlobalAveragePool. An operator without a handler becomes a node with its attributes as they are.
"""

from __future__ import annotations

import onnx

from factory.graph import onnx_handlers
from factory.graph.onnx_check import check_model
from factory.graph.onnx_load import inline_functions, load_onnx
from factory.graph.onnx_qlinear import to_qdq
from factory.graph.onnx_reader import Reader
from factory.graph.opgraph import OpGraph

__all__ = ["from_onnx", "load_onnx"]


def from_onnx(model: onnx.ModelProto) -> OpGraph:
    """The operators of ``model`` as a raw graph.

    Raises:
        InputError: dynamic shapes, or an operator nobody knows.
    """
    check_model(model)
    return Reader(to_qdq(inline_functions(model)), onnx_handlers.HANDLERS).read()
