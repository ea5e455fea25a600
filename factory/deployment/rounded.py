"""What a 16-bit model computes on a chip, simulated: every value between two operators is rounded.

ONNX Runtime's CPU provider computes such operators in 32 bits and leaves out the rounding between
two of them, so that a value that overflows on the chip goes unnoticed. Here the same graph runs in
32 bits with the rounding written out. How a chip adds up inside an operator is not simulated.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from factory.deployment.run_here import run_model


def run_rounded(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """First output for each picture, [N, values] in float64, of a model in 16-bit floats."""
    return run_model(_with_rounding(model).SerializeToString(), images)


def _with_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in 32 bits; behind each value that was in 16 a Cast to 16 bits and one back."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    halves = {v.name for v in graph.value_info if _is_half(v)}
    del graph.value_info[:]
    for weight in graph.initializer:
        _widen(weight)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
        casts = []
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = whole = f"{name}~32"
                short = f"{name}~16"
                casts.append(
                    onnx.helper.make_node("Cast", [whole], [short], to=TensorProto.FLOAT16)
                )
                casts.append(onnx.helper.make_node("Cast", [short], [name], to=TensorProto.FLOAT))
        graph.node.extend([node, *casts])
    return model


def _is_half(value: onnx.ValueInfoProto) -> bool:
    kind: int = value.type.tensor_type.elem_type
    return kind == TensorProto.FLOAT16


def _widen(tensor: onnx.TensorProto) -> None:
    """16-bit values as the same values in 32 bits."""
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
