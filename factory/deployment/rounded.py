"""What a 16-bit model computes on a chip, simulated: every value between two operators is rounded.

ONNX Runtime's CPU provider computes such operators in 32 bits and leaves out the rounding between
two of them, so that a value that overflows on the chip goes unnoticed. Here the same graph runs in
32 bits with the rounding written out. How a chip adds up inside an operator is not simulated.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.helper import make_node

from factory.deployment.agreement import Outputs
from factory.deployment.run_here import Samples, run_model

HALF_MAX = 65504.0


def run_rounded(model: onnx.ModelProto, samples: Samples) -> Outputs:
    """Every output for each sample, [N, values], of a model in 16-bit floats."""
    return run_model(_with_rounding(model).SerializeToString(), samples)


def round_alone(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The 32-bit ``model`` with what the node ``name`` reads and gives rounded to 16 bits."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    known = [*graph.value_info, *graph.input, *graph.output]
    floats = {v.name for v in known if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    del graph.value_info[:]
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        before: list[onnx.NodeProto] = []
        after: list[onnx.NodeProto] = []
        if node.name == name:
            for index, value in enumerate(node.input):
                if value in weights and weights[value].data_type == TensorProto.FLOAT:
                    graph.initializer.append(_rounded_weight(weights[value], index))
                    node.input[index] = graph.initializer[-1].name
                elif value in floats:
                    node.input[index] = f"{value}~in{index}"
                    before += _there_and_back(value, node.input[index])
            for index, value in enumerate(node.output):
                if value in floats:
                    node.output[index] = f"{value}~32"
                    after += _there_and_back(node.output[index], value)
        graph.node.extend([*before, node, *after])
    return model


def _there_and_back(source: str, target: str) -> list[onnx.NodeProto]:
    """``source`` rounded to 16 bits as ``target``."""
    short = f"{target}~16"
    return [
        make_node("Cast", [source], [short], to=TensorProto.FLOAT16),
        make_node("Cast", [short], [target], to=TensorProto.FLOAT),
    ]


def _rounded_weight(weight: onnx.TensorProto, index: int) -> onnx.TensorProto:
    values = np.clip(numpy_helper.to_array(weight), -HALF_MAX, HALF_MAX)
    rounded = values.astype(np.float16).astype(np.float32)
    return numpy_helper.from_array(rounded, f"{weight.name}~16-{index}")


def _with_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in 32 bits; behind each value that was in 16 a Cast to 16 bits and one back."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    halves = {v.name for v in graph.value_info if _is_half(v)}
    del graph.value_info[:]
    for value in [*graph.input, *graph.output]:
        if _is_half(value):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
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
                node.output[index] = f"{name}~32"
                casts += _there_and_back(node.output[index], name)
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
