import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.deployment.passes.dilation_into_kernel import dilation_into_kernel
from factory.deployment.run_here import run_model
from factory.deployment.selection import rewrite


def network(stride, dilation, kernel=5, channels=4):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((channels, 1, kernel, kernel)).astype(np.float32)
    pad = dilation * (kernel - 1) // 2
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], name="conv", group=channels, kernel_shape=[kernel] * 2,
        strides=[stride] * 2, dilations=[dilation] * 2, pads=[pad] * 4,
    )  # fmt: skip
    side = -(-16 // stride)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, side, side])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize(("kernel", "side"), [(3, 5), (5, 9)])
def test_the_same_numbers_without_dilation(kernel, side):
    model = network(2, 2, kernel)
    after = rewrite(model, dilation_into_kernel)
    (node,) = after.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes["dilations"] == [1, 1]
    assert attributes["kernel_shape"] == [side, side]
    assert [list(w.dims) for w in after.graph.initializer] == [[4, 1, side, side]]
    images = np.random.default_rng(1).standard_normal((3, 4, 16, 16), dtype=np.float32)
    ours, theirs = (run_model(m.SerializeToString(), images) for m in (after, model))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (2, 1)])
def test_one_of_both_stays(stride, dilation):
    assert rewrite(network(stride, dilation), dilation_into_kernel) is None
