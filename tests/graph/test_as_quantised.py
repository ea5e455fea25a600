"""Quantised networks: what the reader says of a file is what ONNX Runtime makes of it."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.deployment.flavours import Flavour
from factory.deployment.quantise import QuantiseConfig, quantise_model
from factory.graph.as_quantised import QUANTISED, as_quantised
from factory.graph.canonical import canonicalise, is_quantised, kernel_counts
from factory.graph.onnx_build import to_onnx
from factory.graph.onnx_import import from_onnx
from factory.graph.opgraph import GraphBuilder
from factory.pipeline.network_samples import quantised_sample, sample_network

ort = pytest.importorskip("onnxruntime")
quantization = pytest.importorskip("onnxruntime.quantization")
U8, S8 = quantization.QuantType.QUInt8, quantization.QuantType.QInt8
U16, S4 = quantization.QuantType.QUInt16, quantization.QuantType.QInt4
SHAPE = (1, 3, 16, 16)


def small() -> onnx.ModelProto:
    """Two branches from one tensor, an activation without an integer form, a classifier."""
    rng = np.random.default_rng(0)
    weights = {"lo": np.float32(0), "hi": np.float32(6), "b": np.zeros(8, np.float32)}
    for name, shape in {
        "w0": (8, 3, 3, 3), "w1": (8, 1, 3, 3), "w2": (8, 8, 1, 1), "w3": (4, 8),
    }.items():  # fmt: skip
        weights[name] = rng.standard_normal(shape).astype(np.float32)
    weights["b3"] = np.zeros(4, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b"], ["c0"], "c0", pads=[1] * 4),
        helper.make_node("Clip", ["c0", "lo", "hi"], ["r0"], "r0"),
        helper.make_node("Conv", ["r0", "w1", "b"], ["c1"], "c1", pads=[1] * 4, group=8),
        helper.make_node("HardSwish", ["c1"], ["h"], "h"),
        helper.make_node("Conv", ["h", "w2", "b"], ["c2"], "c2"),
        helper.make_node("Add", ["c2", "r0"], ["a"], "a"),
        helper.make_node("GlobalAveragePool", ["a"], ["g"], "g"),
        helper.make_node("Flatten", ["g"], ["f"], "f"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "y", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class _Images(quantization.CalibrationDataReader):
    def __init__(self):
        rng = np.random.default_rng(1)
        self._left = [{"x": rng.standard_normal(SHAPE).astype(np.float32)} for _ in range(2)]

    def get_next(self):
        return self._left.pop() if self._left else None


def quantise(tmp_path, activation, weight, **more) -> onnx.ModelProto:
    onnx.save(small(), tmp_path / "f.onnx")
    quantization.quantize_static(
        tmp_path / "f.onnx", tmp_path / "q.onnx", _Images(),
        activation_type=activation, weight_type=weight, **more,
    )  # fmt: skip
    return onnx.load(tmp_path / "q.onnx")


def executed(model: onnx.ModelProto, folder) -> Counter[str]:
    """Operators of the graph that ONNX Runtime's CPU provider runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def read(model: onnx.ModelProto) -> Counter[str]:
    """'Conv f32' -> how often."""
    found: Counter[str] = Counter()
    for kernel, number in kernel_counts(canonicalise(from_onnx(model))).items():
        found[f"{kernel.op} {kernel.dtype}"] += number
    return found


OPERATOR = {"quant_format": quantization.QuantFormat.QOperator}


@pytest.mark.parametrize(
    ("activation", "weight", "more", "dtype"),
    [
        (U8, S8, {}, "i8"),
        (U8, S8, {"per_channel": True}, "i8"),
        (U8, U8, {}, "u8"),
        (U8, S8, OPERATOR, "i8"),
        (U8, U8, OPERATOR, "u8"),
        (S8, S8, OPERATOR, "s8"),
    ],
)
def test_fused_forms_are_integer_kernels_of_their_number_types(
    tmp_path, activation, weight, more, dtype
):
    model = quantise(tmp_path, activation, weight, **more)
    assert executed(model, tmp_path)["QLinearConv"] == 3
    found = read(model)
    assert found[f"Conv {dtype}"] == 3
    assert found[f"Gemm {dtype}"] == 1
    assert not any("Linear" in name for name in found)


@pytest.mark.parametrize(
    ("activation", "weight"), [(U16, S8), (U8, S4), (S8, S8)], ids=["16-bit", "4-bit", "s8"]
)
def test_forms_without_an_integer_kernel_are_floats_between_changes_of_type(
    tmp_path, activation, weight
):
    model = quantise(tmp_path, activation, weight)
    runs, found = executed(model, tmp_path), read(model)
    assert found["Conv f32"] == runs["Conv"] + runs["FusedConv"] > 0
    assert found["Conv i8"] == runs["QLinearConv"]
    assert found["Add f32"] == runs["Add"]
    # The first and the last change of type, and those around HardSwish, belong to the kernels.
    assert abs(found["QuantizeLinear f32"] - runs["QuantizeLinear"]) <= 2
    assert abs(found["DequantizeLinear f32"] - runs["DequantizeLinear"]) <= 2


def test_a_convolution_whose_bias_comes_through_identity_runs_in_floats(tmp_path):
    """As files of torch's older exporter hold biases that are equal."""
    model = quantise(tmp_path, U8, S8)
    name = next(node for node in model.graph.node if node.name == "c2").input[2]
    model.graph.node.insert(0, helper.make_node("Identity", ["same"], ["copy"], "copy"))
    dequantise = next(node for node in model.graph.node if name in node.output)
    model.graph.node.remove(dequantise)
    dequantise.output[0] = "same"
    model.graph.node.insert(0, dequantise)
    for node in model.graph.node:
        if node.name in ("c0", "c1", "c2"):
            node.input[2] = "copy"
    runs, found = executed(model, tmp_path), read(model)
    assert runs["QLinearConv"] <= 1  # the first, by luck
    assert runs["Conv"] + runs["FusedConv"] >= 2
    assert found["Conv i8"] == 0
    assert found["Conv f32"] == 3
    assert found["DequantizeLinear f32"] >= 6  # weights and biases, at every run


def test_int8_weights_alone_are_dequantised_at_every_run(tmp_path):
    model = quantise_model(small(), None, QuantiseConfig(), Flavour(activation="none"))
    runs, found = executed(model, tmp_path), read(model)
    assert found["DequantizeLinear f32"] == runs["DequantizeLinear"] == 4
    assert found["Conv f32"] == 3


def test_a_gemm_left_alone_at_the_end_runs_in_floats(tmp_path):
    model = quantise(tmp_path, U8, S8, nodes_to_exclude=["y"])
    assert executed(model, tmp_path)["Gemm"] == 1
    assert read(model)["Gemm f32"] == 1


def test_dynamic_quantisation_keeps_its_multiply_adds_and_is_no_fp32_file(tmp_path):
    onnx.save(small(), tmp_path / "f.onnx")
    quantization.quantize_dynamic(tmp_path / "f.onnx", tmp_path / "q.onnx")
    counts = kernel_counts(canonicalise(from_onnx(onnx.load(tmp_path / "q.onnx"))))
    floats = kernel_counts(canonicalise(from_onnx(small())))
    assert sum(k.macs * n for k, n in counts.items()) == sum(k.macs * n for k, n in floats.items())
    assert {k.op for k in counts if k.dtype == "i8"} == {"ConvInteger", "MatMulInteger"}
    assert is_quantised(counts)
    assert not is_quantised(floats)


def test_the_operators_are_those_that_the_quantiser_knows():
    registry = pytest.importorskip("onnxruntime.quantization.registry")
    known = {*registry.QDQRegistry, *registry.QLinearOpsRegistry}
    assert known - {"EmbedLayerNormalization"} == QUANTISED


def test_operators_that_the_quantiser_does_not_know_run_in_floats():
    b = GraphBuilder()
    x = b.conv(b.input("x", (1, 8, 8, 8)), 8, 1)
    y = b.unary("Erf", b.unary("Sqrt", x))  # two in a row: what is between them is no integer
    graph = canonicalise(b.finish([b.add(b.conv(y, 8, 1), x)]))
    assert {str(k): n for k, n in kernel_counts(graph, "i8").items()} == {
        "Conv(x=1x8x8x8,w=8x8x1x1,s=1,p=0,d=1,g=1,act=none,dtype=i8)": 2,
        "Add(x=1x8x8x8+1x8x8x8,dtype=i8)": 1,
        "DequantizeLinear(x=1x8x8x8,from=u8,dtype=f32)": 1,
        "Sqrt(x=1x8x8x8,dtype=f32)": 1,
        "Erf(x=1x8x8x8,dtype=f32)": 1,
        "QuantizeLinear(x=1x8x8x8,to=u8,dtype=f32)": 1,
    }


@pytest.mark.parametrize(
    ("space", "number"), [("mobile", n) for n in range(8)] + [("mixed", n) for n in range(8)]
)
def test_a_network_partly_in_floats_is_read_as_it_was_written(space, number):
    graph = quantised_sample(sample_network(space, 8, number), number)
    counts = kernel_counts(graph, "i8")
    assert counts == kernel_counts(as_quantised(graph))
    model = to_onnx(graph, "i8")
    assert kernel_counts(canonicalise(from_onnx(model))) == counts


def test_samples_hold_kernels_of_both_precisions():
    graphs = [quantised_sample(sample_network("mobile", 8, n), n) for n in range(12)]
    mixed = sum(any(node.dtype == "f32" for node in graph.nodes) for graph in graphs)
    assert 1 <= mixed <= 8


def test_a_convolution_left_alone_between_integers_is_run_in_integers(tmp_path):
    b = GraphBuilder()
    x = b.relu(b.conv(b.input("x", (1, 8, 8, 8)), 8, 1))
    x = b.relu(b.conv(x, 8, 3, padding=1))
    graph = canonicalise(b.finish([b.conv(x, 8, 1)]))
    mixed = as_quantised(graph, [graph.nodes[1].output])
    assert all(node.dtype == "i8" for node in mixed.nodes)
    x = b.unary("HardSwish", b.conv(b.input("z", (1, 8, 8, 8)), 8, 1))
    y = b.unary("HardSwish", b.conv(x, 8, 3, padding=1))
    graph = canonicalise(b.finish([b.conv(y, 8, 1)]))
    mixed = as_quantised(graph, [graph.nodes[-2].output])
    assert [node.dtype for node in mixed.nodes if node.op == "Conv"].count("f32") == 1
    runs = executed(to_onnx(mixed, "i8"), tmp_path)
    assert runs["Conv"] == 1
