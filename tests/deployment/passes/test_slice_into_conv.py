import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.deployment.passes.slice_into_conv import slice_into_conv
from factory.deployment.run_here import run_images

RNG = np.random.default_rng(0)


def reduction(side=8, start=(1, 1), kernel=1, stride=2, pads=0, end=2**31, second_reader=False):
    """Conv over x[:, :, a:, b:], as a factorised reduction writes it."""
    out = ["y"] + (["z"] if second_reader else [])
    nodes = [
        helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["cut"]),
        helper.make_node("Conv", ["cut", "w"], ["y"], strides=[stride] * 2, pads=[pads] * 4),
    ]
    if second_reader:
        nodes.append(helper.make_node("Relu", ["cut"], ["z"]))
    weights = {
        "starts": np.array(start, np.int64),
        "ends": np.array([end, end], np.int64),
        "axes": np.array([2, 3], np.int64),
        "w": RNG.standard_normal((6, 4, kernel, kernel)).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in out],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def rewritten(model):
    copy = ir.from_proto(model)
    changed = slice_into_conv(copy)
    proto = ir.to_proto(copy)
    del proto.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True), changed


@pytest.mark.parametrize("side", [7, 8, 9])
@pytest.mark.parametrize(("start", "kernel"), [((1, 1), 1), ((1, 1), 3), ((2, 1), 1), ((0, 1), 2)])
def test_the_same_pixels_without_a_slice(side, start, kernel):
    model = reduction(side, start, kernel)
    after, changed = rewritten(model)
    assert changed
    assert [n.op_type for n in after.graph.node] == ["Conv"]
    x = RNG.standard_normal((2, 4, side, side), dtype=np.float32)
    before = run_images(model.SerializeToString(), x)
    np.testing.assert_allclose(run_images(after.SerializeToString(), x), before, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"pads": 1}, {"start": (3, 3)}, {"end": 6}, {"second_reader": True}],
    ids=["padding", "far", "cut at the end", "another reader"],
)
def test_left_alone(options):
    assert not rewritten(reduction(**options))[1]
