from collections import Counter

import numpy as np
import onnx
import pytest

from factory.core.errors import InputError
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import kernel_to_onnx, to_onnx
from factory.graph.opgraph import GraphBuilder

EXTRA = [
    "Conv(x=1x8x9x9,w=8x8x1x1,s=1,p=0,d=1,g=1,act=clip6,dtype=f32)",
    "Conv(x=1x8x9x9,w=8x8x1x1,s=1,p=0,d=1,g=1,act=hswish,dtype=f32)",
    "Conv(x=1x8x9x9,w=8x8x1x1,s=1,p=0,d=1,g=1,act=hsigmoid,dtype=f32)",
    "Conv(x=1x8x9x9,w=8x8x1x1,s=1,p=0,d=1,g=1,act=sigmoid,dtype=f32)",
    "Conv(x=1x8x9x9,w=8x8x1x1,s=1,p=0,d=1,g=1,act=tanh,dtype=f32)",
    "Conv(x=1x8x9x9,w=4x8x3x1,s=2x1,p=1x0x0x0,d=1,g=1,act=none,dtype=f32)",
    "Gemm(x=1x64,w=10x64,act=relu,dtype=f32)",
    "MatMul(x=1x9x8,w=8x16,dtype=f32)",
    "MatMul(x=1x4x9x8+1x4x8x9,dtype=f32)",
    "MaxPool(x=1x4x9x9,k=2,s=2,p=0,ceil=1,dtype=f32)",
    "AveragePool(x=1x4x9x9,k=3,s=1,p=1,incl=1,dtype=f32)",
    "GlobalMaxPool(x=1x4x9x9,dtype=f32)",
    "Mul(x=1x8x9x9+1x8x1x1,dtype=f32)",
    "Mul(x=1x8x9x9,w=scalar,dtype=f32)",
    "Add(x=1x8x9x9,w=8x1x1,dtype=f32)",
    "Div(x=1x8x9x9+1x8x9x9,dtype=f32)",
    "PRelu(x=1x8x9x9,w=8x1x1,dtype=f32)",
    "Clip(x=1x8x9x9,min=0,max=6,dtype=f32)",
    "Clip(x=1x8x9x9,max=6,dtype=f32)",
    "LeakyRelu(x=1x8x9x9,alpha=0.01,dtype=f32)",
    "HardSwish(x=1x8x9x9,dtype=f32)",
    "Sigmoid(x=1x8x9x9,dtype=f32)",
    "Gelu(x=1x8x9x9,dtype=f32)",
    "Softmax(x=1x10,axis=-1,dtype=f32)",
    "Split(x=1x8x9x9,axis=1,sizes=2x6,y=1x2x9x9,dtype=f32)",
    "Slice(x=1x8x9x9,start=0x4x0x0,y=1x4x9x9,dtype=f32)",
    "Slice(x=1x8x9x9,start=0,step=1x1x2x2,y=1x8x5x5,dtype=f32)",
    "Slice(x=1x8x9x9,start=1x0,dtype=f32)",
    "Pad(x=1x8x9x9,p=0x0x1x1,dtype=f32)",
    "Reshape(x=1x8x9x9,y=1x2x4x9x9,dtype=f32)",
    "Transpose(x=1x2x4x9x9,perm=0x2x1x3x4,y=1x4x2x9x9,dtype=f32)",
    "Resize(x=1x8x9x9,mode=nearest,y=1x8x18x18,dtype=f32)",
    "BatchNormalization(x=1x8x9x9,w=8,dtype=f32)",
    "LayerNormalization(x=1x9x8,w=8,axis=-1,dtype=f32)",
    "ReduceMean(x=1x9x8,c1=1,keepdims=1,y=1x1x8,dtype=f32)",
    "Concat(x=1x8x9x9,w=1x4x9x9,axis=1,y=1x12x9x9,dtype=f32)",
]


@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("seed", range(4))
def test_networks_run(random_graph, run_model, seed, dtype):
    graph = random_graph(seed, steps=10)
    for variant in (graph, canonicalise(graph)):
        model = to_onnx(variant, dtype, seed=seed)
        onnx.checker.check_model(model, full_check=True)
        outputs, optimised = run_model(model)
        assert outputs[0].shape == (1, 10)
        assert outputs[0].dtype == np.float32
        if dtype == "i8":
            convs = sum(node.op == "Conv" for node in variant.nodes)
            assert optimised["QLinearConv"] == convs
            assert optimised["Conv"] == 0
            assert optimised["QGemm"] == 1


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_every_kernel_of_a_cell_like_graph_runs_alone(random_graph, run_model, dtype):
    kernels = Counter()
    for seed in range(20):
        kernels += kernel_counts(canonicalise(random_graph(seed)), dtype)
    assert {"Conv", "Add", "Relu", "MaxPool", "AveragePool", "Concat", "Slice", "Pad"} <= {
        kernel.op for kernel in kernels
    }
    for kernel in kernels:
        model = kernel_to_onnx(kernel)
        onnx.checker.check_model(model, full_check=True)
        outputs, optimised = run_model(model)
        assert outputs[0].shape == kernel.output_shape
        assert outputs[0].dtype == (np.uint8 if dtype == "i8" else np.float32)
        if dtype == "i8" and kernel.op in ("Conv", "Gemm"):
            assert optimised[{"Conv": "QLinearConv", "Gemm": "QGemm"}[kernel.op]] == 1
            assert not {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"} & set(optimised)


@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("text", EXTRA)
def test_kernels_of_other_networks_run_alone(run_model, text, dtype):
    kernel = Kernel.parse(text).with_dtype(dtype)
    outputs, _ = run_model(kernel_to_onnx(kernel))
    assert outputs[0].shape == kernel.output_shape


def test_the_seed_decides_the_weights():
    kernel = Kernel.parse("Gemm(x=1x64,w=10x64,act=none,dtype=f32)")
    first, again, other = (kernel_to_onnx(kernel, seed).SerializeToString() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_values_are_those_of_the_operators(run_model):
    b = GraphBuilder()
    x = b.input("x", (1, 2, 4, 4))
    graph = b.finish([b.slice_hw(b.pad_hw(b.avg_pool(x, 3, 1, 1), (1, 2)), 1)])
    (y,), _ = run_model(to_onnx(graph))
    expected = np.zeros((1, 2, 4, 5), np.float32)
    expected[:, :, :3, :3] = 1  # the border is not averaged with the padding
    np.testing.assert_allclose(y, expected)


@pytest.mark.parametrize(
    "text",
    [
        "Einsum(x=1x8,w=8x8,dtype=f32)",
        "NoSuchOperator(x=1x8,dtype=f32)",
        "Conv(x=1x8x9x9,w=8x8x1x1,s=1,p=0,d=1,g=1,act=unheard,dtype=f32)",
    ],
)
def test_a_kernel_that_cannot_be_written_says_so(text):
    with pytest.raises(InputError, match="cannot be written as ONNX"):
        kernel_to_onnx(Kernel.parse(text))


def test_an_unknown_dtype():
    b = GraphBuilder()
    graph = b.finish([b.relu(b.input("x", (1, 2)))])
    with pytest.raises(InputError, match="unknown dtype 'f16'"):
        to_onnx(graph, "f16")


def test_a_graph_that_returns_its_input(run_model):
    b = GraphBuilder()
    x = b.input("x", (1, 2))
    y = b.relu(x)
    outputs, _ = run_model(to_onnx(b.finish([x, y, y])))
    assert len(outputs) == 3
