"""Small ONNX models, as bytes, for the tests of devices and profiling."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def model_bytes(nodes, inputs, outputs, weights=(), opset=18) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    return model.SerializeToString()


def conv(channels: int = 16, size: int = 16, batch: int | str = 1) -> bytes:
    """Conv + Relu, `channels` in and out."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
    return model_bytes(
        [
            helper.make_node("Conv", ["x", "w"], ["y0"], pads=[1, 1, 1, 1], name="conv"),
            helper.make_node("Relu", ["y0"], ["y"], name="relu"),
        ],
        {"x": [batch, channels, size, size]},
        {"y": [batch, channels, size, size]},
        [("w", weight)],
    )


def add(size: int = 8) -> bytes:
    """y = a + b."""
    shape = [1, 4, size, size]
    return model_bytes(
        [helper.make_node("Add", ["a", "b"], ["y"])], {"a": shape, "b": shape}, {"y": shape}
    )


def unknown_op() -> bytes:
    """A node that no runtime knows."""
    return model_bytes([helper.make_node("Frobnicate", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
