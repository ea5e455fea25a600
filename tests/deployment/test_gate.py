"""The gate lets good int8 through, repairs what can be repaired, and refuses the rest."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.deployment.flavours import Flavour
from factory.deployment.gate import gate_int8
from factory.deployment.gate_contract import GateConfig, GateData
from factory.deployment.run_here import run_images

CLASSES, CHANNELS = 10, 8


def network(outlier: float, *, layers: int = 3, everywhere: bool = False) -> onnx.ModelProto:
    """Convolutions and a classifier. After the first layer (or each one) one channel's values are
    ``outlier`` times as wide and the next weights undo it: harmless in floats, fatal for one scale
    a tensor."""
    rng = np.random.default_rng(0)
    weights, nodes, source = {}, [], "image"
    undo = np.ones(3)
    for layer in range(layers):
        wide = np.ones(CHANNELS)
        if layer == 0 or everywhere:
            wide[0] = outlier
        fan_in = len(undo)
        w = rng.standard_normal((CHANNELS, fan_in, 3, 3)) / np.sqrt(9 * fan_in)
        weights[f"w{layer}"] = w * wide[:, None, None, None] / undo[None, :, None, None]
        nodes += [
            helper.make_node(
                "Conv", [source, f"w{layer}"], [f"c{layer}"], name=f"conv{layer}", pads=[1] * 4
            ),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"], name=f"relu{layer}"),
        ]
        source, undo = f"r{layer}", wide
    weights["g"] = rng.standard_normal((CLASSES, CHANNELS)) / undo
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "g"], ["logits"], name="gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def data(model, *, labelled=True):
    """Pictures that the fp32 network classifies clearly; its own answers are the labels."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((500, 3, 8, 8), dtype=np.float32)
    images *= rng.uniform(0.3, 2.0, (500, 3, 1, 1)).astype(np.float32)
    outputs = run_images(model.SerializeToString(), images)
    top = np.sort(outputs, axis=1)
    clear = np.sort(np.argsort(top[:, -2] - top[:, -1])[:220])
    images, labels = images[clear], outputs[clear].argmax(axis=1)
    return GateData(
        calibration=images[:40],
        selection_images=images[40:100],
        test_images=images[100:],
        selection_labels=labels[40:100] if labelled else None,
        test_labels=labels[100:] if labelled else None,
        name="the network's own answers",
    )


def test_a_good_network_passes_by_the_method_that_loses_least():
    model = network(1.0)
    result = gate_int8(model, data(model))
    assert (result.verdict, result.ok, result.float_nodes) == ("within the limit", True, ())
    assert result.test.drop_points <= 1.0
    tried = {e["step"]: e["selection"] for e in result.trail if e["step"].startswith("calibrate")}
    assert set(tried) == {"calibrate by minmax", "calibrate by percentile", "calibrate by entropy"}
    chosen = tried[f"calibrate by {result.method}"]
    assert chosen["drop_points"] == min(e["drop_points"] for e in tried.values())
    json.dumps(result.to_dict(), allow_nan=False)


def test_wide_outliers_are_caught_and_repaired():
    model = network(3000.0)
    pictures = data(model)
    result = gate_int8(model, pictures)
    judged = next(e for e in result.trail if e["step"].startswith("judge"))
    assert judged["test"]["drop_points"] > 20, "int8 as it is must break here"
    assert result.verdict == "repaired"
    assert {"conv0", "relu0", "conv1"} & set(result.float_nodes)
    assert len(result.float_nodes) <= 4
    outputs = run_images(result.model.SerializeToString(), pictures.test_images)
    assert np.mean(outputs.argmax(axis=1) == pictures.test_labels) >= 0.99, "as the result says"
    assert any(n.op_type == "DequantizeLinear" for n in result.model.graph.node)
    assert any(e["step"] == "sensitivity" for e in result.trail)


def test_what_cannot_be_repaired_is_refused_with_the_trail():
    model = network(3000.0, everywhere=True)
    result = gate_int8(model, data(model), GateConfig(max_drop_points=0.0, methods=("minmax",)))
    assert (result.verdict, result.model, result.ok) == ("refused", None, False)
    assert "limit 0" in result.reason
    assert result.trail[-2]["test"]["drop_points"] > 0
    assert result.trail[-1]["left_out"] == "nothing to train"


def test_without_labels_the_signal_decides():
    model = network(1.0)
    result = gate_int8(model, data(model, labelled=False), GateConfig(methods=("minmax",)))
    assert (result.verdict, result.ok) == ("within the limit", True)
    assert "no labelled pictures" in result.reason
    assert "(10 are asked for)" in result.reason
    assert result.test.accuracy is None


def test_below_the_bound_the_worst_operators_stay_in_floats_without_labels_too():
    model = network(3000.0)
    result = gate_int8(model, data(model, labelled=False), GateConfig(methods=("minmax",)))
    assert result.verdict == "repaired"
    assert "dB of signal to noise, 10 are asked for" in result.reason
    assert result.test.signal_db >= 10


def test_what_stays_below_the_bound_is_refused_with_its_worst_operators():
    model = network(3000.0, everywhere=True)
    config = GateConfig(methods=("minmax",), max_float_share=0.1)
    result = gate_int8(model, data(model, labelled=False), config)
    assert (result.verdict, result.ok) == ("refused", False)
    assert "alone in int8 worst: " in result.reason
    assert "conv" in result.reason.partition("worst: ")[2]


def test_a_method_that_fails_does_not_fail_the_others():
    """A mask of minus infinity: no histogram of such values can be made, and none is needed."""
    model = network(1.0)
    body = [
        helper.make_node("ReduceMax", ["r2"], ["top"], name="top", keepdims=1),
        helper.make_node("Less", ["r2", "top"], ["below"], name="below"),
        helper.make_node("Where", ["below", "r2", "masked"], ["s"], name="mask"),
        helper.make_node("Softmax", ["s"], ["soft"], name="softmax", axis=1),
    ]
    nodes = list(model.graph.node)
    nodes[-3].input[0] = "soft"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:-3], *body, *nodes[-3:]])
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-np.inf), "masked"))
    model = onnx.shape_inference.infer_shapes(model)
    result = gate_int8(model, data(model, labelled=False))
    assert result.ok
    steps = {entry["step"]: entry for entry in result.trail}
    assert "selection" in steps["calibrate by entropy"]
    assert {"mask", "softmax"} <= set(steps["no int8 form"]["float_nodes"])


@pytest.mark.parametrize("flavour", [Flavour(activation="s8"), Flavour(qnn=True)])
def test_other_flavours_pass_too(flavour):
    model = network(1.0)
    result = gate_int8(model, data(model), GateConfig(methods=("minmax",)), flavour)
    assert result.verdict == "within the limit"


def test_weights_only_is_hardly_disturbed_by_outliers_of_activations():
    model = network(3000.0)
    result = gate_int8(model, data(model), flavour=Flavour(activation="none"))
    assert result.ok
    assert result.method == "weights only"
    judged = next(e for e in result.trail if e["step"].startswith("judge"))
    assert judged["test"]["drop_points"] < 20
