"""Files of all kinds that ONNX Runtime loads: measured and placed, whether they are read or not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.core.errors import InputError
from factory.devices.base import Model, TimingPlan, plain_models
from factory.devices.local import LocalDevice
from factory.devices.profile import DeviceProfile
from factory.graph.model_inputs import AskedInputs
from factory.pipeline.verbs.explain import explain
from factory.verification.model_file import read_model
from factory.verification.verify import verify_model

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
PLAN = TimingPlan(
    min_runs=1, max_runs=2, min_time_ms=0.1, warmup_runs=1, warmup_time_ms=0.1, profile_runs=1
)
HERE = DeviceProfile(id="here", chip="local", transport="local", threads=1, pin=False)
CHIP = 'id = "here"\nchip = "local"\ntransport = "local"\nthreads = 1\npin = false\n'


def model(nodes, inputs, weights=None, output=None, opset=17, domain="com.microsoft", **graph):
    values = [helper.make_tensor_value_info(*one) for one in inputs]
    y = helper.make_tensor_value_info("y", FLOAT, output)
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()]
    made = helper.make_graph(nodes, "g", values, [y], tensors, **graph)
    sets = [helper.make_opsetid("", opset), helper.make_opsetid(domain, 1)]
    return helper.make_model(made, opset_imports=sets, ir_version=8)


def ones(*shape):
    return np.ones(shape, np.float32)


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def body():
    given = [("i", INT64, []), ("go", TensorProto.BOOL, []), ("s", FLOAT, [2, 2])]
    made = [("again", TensorProto.BOOL, []), ("n", FLOAT, [2, 2])]
    nodes = [node("Identity", ["go"], ["again"]), node("MatMul", ["s", "w"], ["n"])]
    infos = [[helper.make_tensor_value_info(*one) for one in part] for part in (given, made)]
    return helper.make_graph(nodes, "turn", *infos)


KINDS = {
    "contributed operator": model(
        [node("BiasGelu", ["x", "b"], domain="com.microsoft")],
        [("x", FLOAT, [1, 4])],
        {"b": ones(4)},
    ),
    "loop": model(
        [node("Loop", ["turns", "", "x"], body=body())],
        [("x", FLOAT, [2, 2])],
        {"turns": np.int64(3), "w": ones(2, 2)},
        [2, 2],
    ),
    "sequence": model(
        [node("SequenceConstruct", ["x", "x"], ["s"]), node("ConcatFromSequence", ["s"], axis=0)],
        [("x", FLOAT, [2, 2])],
    ),
    "shapes that depend on values": model(
        [node("NonZero", ["x"], ["n"]), node("Cast", ["n"], to=FLOAT)], [("x", FLOAT, [2, 3])]
    ),
    "one row of indices": model(
        [node("Gather", ["table", "x"])], [("x", INT64, [5])], {"table": ones(1, 4)}
    ),
    "free batch": model([node("Relu", ["x"])], [("x", FLOAT, ["N", 3])]),
    "bytes and truth values": model(
        [node("Cast", ["m"], ["f"], to=FLOAT), node("Cast", ["x"], ["g"], to=FLOAT),
         node("Mul", ["f", "g"])],
        [("x", TensorProto.UINT8, [4]), ("m", TensorProto.BOOL, [4])],
    ),
    "operator of an older optimiser": model(
        [node("SimplifiedLayerNormalization", ["x", "g"], axis=-1)],
        [("x", FLOAT, [1, 4])],
        {"g": ones(4)},
        [1, 4],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def device():
    with LocalDevice(HERE) as opened:
        yield opened


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_the_runtime_loads_is_measured(kind, tmp_path, device):
    path = tmp_path / "m.onnx"
    onnx.save(KINDS[kind], path)
    read = read_model(path)
    [timing] = device.time_many([read.content], PLAN)
    assert timing.ok, timing.reason
    assert timing.nodes


@pytest.mark.parametrize("kind", ["free batch", "sequence", "one row of indices"])
def test_what_the_runtime_loads_is_explained(kind, tmp_path):
    onnx.save(KINDS[kind], tmp_path / "m.onnx")
    (tmp_path / "here.toml").write_text(CHIP)
    answer = explain(tmp_path / "m.onnx", tmp_path / "here.toml")
    assert answer["taken"] == len(answer["nodes"]) > 0
    assert answer["cosine_to_cpu"] == pytest.approx(1.0)


def test_free_dimensions_are_given_by_shape_or_by_values(tmp_path, device):
    path = tmp_path / "m.onnx"
    onnx.save(model([node("Relu", ["x"])], [("x", FLOAT, ["N", "L"])]), path)
    with pytest.raises(InputError, match="--input x=1x224"):
        read_model(path)
    shaped = read_model(path, AskedInputs.of("2x5"))
    assert device.time_many([shaped.content], PLAN)[0].ok
    np.savez(tmp_path / "v.npz", x=-ones(3, 5))
    given = read_model(path, AskedInputs.of(file=tmp_path / "v.npz"))
    assert device.time_many([given.content], PLAN)[0].ok
    assert given.content.feeds["x"].shape == (3, 5)
    with pytest.raises(InputError, match="makes up the inputs of a model itself"):
        plain_models([given.content], HERE.model_copy(update={"transport": "browser"}))


def test_weights_that_are_too_large_for_a_message_stay_in_their_file(tmp_path, device):
    proto = model([node("MatMul", ["x", "w"])], [("x", FLOAT, [1, 64])], {"w": ones(64, 64)})
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    content = (tmp_path / "m.onnx").read_bytes()
    assert not device.time_many([content], PLAN)[0].ok
    [timing] = device.time_many([Model.of(content, None, str(tmp_path))], PLAN)
    assert timing.ok, timing.reason
    with pytest.raises(InputError, match="on this machine only"):
        plain_models([Model.of(content, None, str(tmp_path))], HERE)


def test_a_graph_that_onnx_calls_invalid_is_left_to_the_runtime(tmp_path, device):
    proto = model([node("Relu", ["x"])], [("x", FLOAT, [1, 3])])
    proto.graph.node[0].attribute.append(helper.make_attribute("unheard_of", 1))
    onnx.save(proto, tmp_path / "m.onnx")
    read = read_model(tmp_path / "m.onnx")
    assert read.proto is None
    assert "no prediction" in read.notes[-1]
    with pytest.raises(InputError, match="neither be read nor measured"):
        verify_model(read, device, rounds=1, plan=PLAN, pause_s=0.0)


def test_a_network_of_an_unknown_operator_fails_with_the_runtimes_reason(tmp_path, device):
    proto = model([node("Magic", ["x"], domain="mine")], [("x", FLOAT, [3])], None, [3],
                  domain="mine")  # fmt: skip
    onnx.save(proto, tmp_path / "m.onnx")
    result = verify_model(tmp_path / "m.onnx", device, rounds=1, plan=PLAN, pause_s=0.0)
    assert result.verdict == "failed"
    assert "mine:Magic" in result.reasons[0]
