"""Groups of operators that are one kernel, from files in which they are written out."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import kernel_to_onnx
from factory.graph.onnx_import import from_onnx
from factory.latency.features import family

SHAPE = (1, 12, 32)


def kernels(nodes, constants, shape=SHAPE, **more_inputs):
    """Operators of the canonical form of a model that computes y from x."""
    inputs = {"x": shape, **more_inputs}
    graph = helper.make_graph(
        [helper.make_node(op, ins.split(" "), [out], **attrs) for op, ins, out, attrs in nodes],
        "net",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return [str(kernel) for kernel in kernel_counts(canonicalise(from_onnx(model)))]


NUMBERS = {"root": 1.414, "one": 1.0, "half": 0.5, "two": 2.0, "tiny": 1e-5}
ERF = [("Div", "x root", "a", {}), ("Erf", "a", "b", {}), ("Add", "b one", "c", {})]


@pytest.mark.parametrize(
    "rest",
    [
        [("Mul", "x c", "d", {}), ("Mul", "d half", "y", {})],
        [("Mul", "c half", "d", {}), ("Mul", "x d", "y", {})],
        [("Mul", "x half", "d", {}), ("Mul", "d c", "y", {})],
    ],
)
def test_gelu_of_any_order_is_one_kernel(rest):
    assert kernels([*ERF, *rest], NUMBERS) == ["Gelu(x=1x12x32,dtype=f32)"]


def test_an_erf_that_somebody_else_reads_stays():
    nodes = [*ERF, ("Mul", "x c", "d", {}), ("Mul", "d half", "e", {}), ("Add", "e b", "y", {})]
    assert any("Erf" in kernel for kernel in kernels(nodes, NUMBERS))


def test_a_normalisation_written_out_is_one_kernel():
    nodes = [
        ("ReduceMean", "x", "m", {"axes": [-1]}),
        ("Sub", "x m", "d", {}),
        ("Pow", "d two", "p", {}),
        ("ReduceMean", "p", "v", {"axes": [-1]}),
        ("Add", "v tiny", "e", {}),
        ("Sqrt", "e", "s", {}),
        ("Div", "d s", "n", {}),
        ("Mul", "n gamma", "g", {}),
        ("Add", "g beta", "y", {}),
    ]
    constants = {**NUMBERS, "gamma": np.ones(32), "beta": np.zeros(32)}
    found = kernels(nodes, constants)
    assert found == ["LayerNormalization(x=1x12x32,w=32,dtype=f32)"]
    operator = [("LayerNormalization", "x gamma beta", "y", {"axis": -1, "epsilon": 1e-6})]
    assert kernels(operator, constants) == found


@pytest.mark.parametrize(
    "nodes",
    [
        [("Mul", "x half", "a", {}), ("MatMul", "a k", "y", {})],
        [("MatMul", "x k", "a", {}), ("Div", "a two", "y", {})],
        [("Mul", "x half", "a", {}), ("MatMul", "a k", "b", {}), ("Mul", "b two", "y", {})],
    ],
)
def test_a_factor_is_part_of_a_product_of_matrices(nodes):
    found = kernels(nodes, NUMBERS, k=(1, 32, 12))
    assert found == ["MatMul(x=1x12x32+1x32x12,dtype=f32)"]


def test_a_linear_layer_of_tokens_is_a_gemm():
    nodes = [("MatMul", "x w", "a", {}), ("Add", "bias a", "y", {})]
    found = kernels(nodes, {"w": np.ones((32, 48)), "bias": np.ones(48)})
    assert found == ["Gemm(x=1x12x32,w=48x32,act=none,dtype=f32)"]


@pytest.mark.parametrize(("op", "value"), [("Add", 0.0), ("Mul", 1.0), ("Div", 1.0)])
def test_what_changes_nothing_is_no_kernel(op, value):
    nodes = [("Relu", "x", "a", {}), (op, "a c", "b", {}), ("Tanh", "b", "y", {})]
    assert len(kernels(nodes, {"c": value})) == 2
    assert len(kernels(nodes, {"c": value + 1.0})) == 3


def test_a_square_is_not_any_power():
    squares = kernels([("Pow", "x two", "y", {})], NUMBERS)
    assert squares == ["Pow(x=1x12x32,c1=2.0s,dtype=f32)"]
    assert kernels([("Pow", "x half", "y", {})], NUMBERS) != squares


def test_a_resize_by_whole_scales_is_not_one_by_sizes():
    attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    shape = (1, 16, 8, 8)
    scaled = kernels([("Resize", "x  scales", "y", attrs)], {"scales": [1, 1, 2, 2]}, shape)
    graph_kernel = Kernel.parse(scaled[0])
    assert family(graph_kernel) == "resize_blocked"
    assert family(Kernel.parse(scaled[0].replace("scaled=1", "scaled=0"))) == "resize"
    written = kernel_to_onnx(graph_kernel).graph.node[-1]
    assert len(written.input) == 3, "written by its scales, as it was read"


@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_constants_of_channels_are_part_of_a_convolution(op):
    """Layer scale behind a convolution: a runtime multiplies the weights, once."""
    shape, weights = (1, 8, 6, 6), np.ones((16, 8, 1, 1))
    nodes = [("Conv", "x w", "a", {}), (op, "a c", "b", {}), ("Relu", "b", "y", {})]
    found = kernels(nodes, {"w": weights, "c": np.full((16, 1, 1), 0.3)}, shape)
    assert found == ["Conv(x=1x8x6x6,w=16x8x1x1,s=1,p=0,d=1,g=1,act=relu,dtype=f32)"]
    nodes.append(("Add", "b y", "z", {}))
    nodes[-2:] = [("Relu", "b", "r", {}), ("Add", "a r", "y", {})]
    found = kernels(nodes, {"w": weights, "c": np.full((16, 1, 1), 0.3)}, shape)
    assert len(found) == 4, "somebody else reads the convolution"
