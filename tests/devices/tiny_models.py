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


def external() -> bytes:
    """A model whose weight lies in another file."""
    from onnx import load_from_string

    proto = load_from_string(conv())
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    return proto.SerializeToString()


def endless() -> bytes:
    """A loop that does not come back."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Sin", ["state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [4096]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [4096]),
        ],
    )
    trips = ("trips", np.array(1 << 60, dtype=np.int64))
    start = ("start", np.array(True))
    node = helper.make_node("Loop", ["trips", "start", "x"], ["y"], body=body)
    return model_bytes([node], {"x": [4096]}, {"y": [4096]}, [trips, start])


def greedy(gigabytes: int = 16) -> bytes:
    """A model that wants more memory than anybody should have."""
    size = ("size", np.array([gigabytes << 28], dtype=np.int64))
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return model_bytes(nodes, {"x": [1]}, {"y": [1]}, [size])


def context_file() -> bytes:
    """A node that names a precompiled file."""
    node = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="/tmp/blob"
    )
    return model_bytes([node], {"x": [1]}, {"y": [1]})


def inside_if(branch: bytes) -> bytes:
    """`branch` (without inputs of its own weights) as the branch of an If."""
    from onnx import load_from_string

    graph = load_from_string(branch).graph
    del graph.input[:]
    node = helper.make_node("If", ["c"], ["z"], then_branch=graph, else_branch=graph)
    return model_bytes([node], {"x": [1]}, {"z": [1]}, [("c", np.array(True))])
