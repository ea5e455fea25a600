import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.deployment.gate_contract import GateData
from factory.deployment.half_repair import with_followers
from factory.deployment.make import Maker
from factory.deployment.run_here import run_images
from factory.deployment.targets import find_target
from factory.deployment.targets.onnx_fp16 import half_model

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((12, 3, 8, 8), dtype=np.float32)
DATA = GateData(IMAGES[:4], IMAGES[4:8], IMAGES[8:], name="random pictures")


def network(wide: float, layers: int = 6) -> onnx.ModelProto:
    """Convolutions and ReLUs; between the first and the second, values ``wide`` times as large."""
    nodes, weights, value = [], [], "image"
    for index in range(layers):
        channels = 3 if index == 0 else 4
        kernel = RNG.standard_normal((4, channels, 3, 3), dtype=np.float32) / 5
        kernel *= {0: wide, 1: 1 / wide}.get(index, 1.0)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{index}"))
        ends = [value, f"w{index}"], [f"c{index}"], f"conv{index}"
        nodes.append(helper.make_node("Conv", *ends, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
        value = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["logits"], "flatten"))
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def made(tmp_path, model):
    onnx.save(model, tmp_path / "net.onnx")
    with Maker(tmp_path / "net.onnx", DATA) as maker:
        return maker.make(find_target("onnx-fp16"), tmp_path / "half.onnx")


def test_a_network_that_overflows_16_bits_keeps_those_operators_in_32(tmp_path):
    model = network(wide=40_000.0)
    one = made(tmp_path, model)
    assert one.ok, one.reason
    assert one.repair.to_dict()["verdict"] == "repaired"
    assert one.repair.reason.startswith("an overflow with 16 bits throughout (40 dB")
    assert {"conv0", "relu0", "conv1"} <= set(one.repair.float_nodes)
    assert one.agreement.signal_db > 40
    assert one.repair.trail[0]["step"] == "sensitivity"
    written = onnx.load(one.files[0])
    types = {w.name: w.data_type for w in written.graph.initializer}
    assert types["w0"] == types["w1"] == TensorProto.FLOAT
    assert types["w5"] == TensorProto.FLOAT16
    assert {p.key: p.value for p in written.metadata_props}["precision"] == "fp16"


def test_an_ordinary_network_is_16_bit_throughout(tmp_path):
    one = made(tmp_path, network(wide=1.0))
    assert one.ok
    assert one.repair is None
    kinds = [node.op_type for node in onnx.load(one.files[0]).graph.node]
    assert kinds.count("Cast") == 2, "of the input and of the output"


def test_what_overflows_everywhere_is_refused_with_its_trail(tmp_path):
    model = network(wide=1.0)
    for weight in model.graph.initializer:
        wider = numpy_helper.to_array(weight) * 300.0
        weight.CopyFrom(numpy_helper.from_array(wider, weight.name))
    one = made(tmp_path, model)
    assert (one.status, one.files) == ("failed", [])
    assert "operators in 32 bits" in one.reason
    assert len(one.repair.trail) > 2


def test_between_two_operators_in_32_bits_nothing_is_rounded():
    model = network(wide=1.0, layers=2)
    kept = with_followers(model, ["conv0", "conv1", "pool"])
    assert kept == tuple(node.name for node in model.graph.node), "the rest only passes values on"
    half = half_model(onnx.ModelProto.FromString(model.SerializeToString()), kept)
    want = run_images(model.SerializeToString(), IMAGES)
    got = run_images(half.SerializeToString(), IMAGES)
    # Only the conversion of the input and of the weights is left.
    assert {n.op_type for n in half.graph.node} & {"Cast"} == set()
    assert got == pytest.approx(want, abs=1e-6)


def test_an_operator_follows_only_where_all_it_reads_is_in_32_bits():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("Sigmoid", ["x"], ["b"], "second"),
        helper.make_node("Concat", ["a", "b"], ["c"], "join", axis=1),
        helper.make_node("Relu", ["b"], ["d"], "after"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    assert with_followers(model, ["second"]) == ("second", "after")
