"""Who ran what: environments of their own, silent fallbacks, refused nodes and their reasons."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from factory.core.errors import InputError
from factory.core.resources import user_home
from factory.devices.base import Timing, TimingPlan, open_device
from factory.devices.environment import emulator
from factory.devices.local import LocalDevice
from factory.devices.local_options import LocalOptions
from factory.devices.placement import NOTHING_COMPILED, compile_context, cosine, place
from factory.devices.profile import DeviceProfile, load_profile
from factory.graph.model_inputs import ModelInputs, model_inputs

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models


def inputs_of(model: bytes) -> ModelInputs:
    return model_inputs(onnx.load_from_string(model), "the model")


CPU, QNN = "CPUExecutionProvider", "QNNExecutionProvider"
PLAN = TimingPlan(min_runs=3, max_runs=5, min_time_ms=1.0, warmup_time_ms=1.0)
REFUSED = """\
2026 [V:onnxruntime:, qnn.cc:1713 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit \
(Mod) :
\tOperator type: Mod Node name: odd part Node index: 645
\tREASON : QNN Mod Op only support fmod == 0 for now.
2026 [V:onnxruntime:, qnn.cc:1713 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit \
(QuantizeLinear) :
\tOperator type: QuantizeLinear Node name: q0 Node index: 0
\tREASON : QNN EP is configured to not take Q nodes that consume a graph input.
2026 [V:onnxruntime:, qnn.cc:1713 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit \
(DequantizeLinear) :
\tOperator type: DequantizeLinear Node name: dq9 Node index: 9
\tREASON : QNN EP is configured to not take DQ nodes that generate a graph output.
"""
DILATED = """\
2026 [W:onnxruntime:, qnn_model_wrapper.cc:565 CreateQnnNode] QNN.backendValidateOpConfig() failed \
for node `down_Conv_token_89` of type `DepthWiseConv2d` with error code 3110
2026 [V:onnxruntime:, qnn.cc:1713 LogNodeSupport] Validation FAILED for 3 nodes in OrtNodeUnit \
(Conv) :
\tOperator type: DequantizeLinear Node name: DequantizeLinear_token_87 Node index: 558
\tOperator type: Conv Node name: down_Conv_token_89 Node index: 560
\tOperator type: QuantizeLinear Node name: down_q Node index: 128
\tREASON : Failed to add node.
"""
UNKNOWN_SOC = (
    "\x1b[1;31m2026 [E:onnxruntime:, qnn.cc:2290 GetCapabilityImpl] QNN SetupBackend failed "
    "Failed to create device. Error: QNN_DEVICE_ERROR_INVALID_CONFIG: Invalid config values\x1b[m\n"
)


MISSING_BACKEND = (
    "2026 [E:onnxruntime:, qnn.cc:2290 GetCapabilityImpl] QNN SetupBackend failed Unable to load "
    "backend, error:  /nowhere/libQnnHtp.so: cannot open shared object file\n"
)


def fake(nodes, log="", failure="", provider=QNN):
    """A device whose runtime answers so."""
    partitions = {p: 1 for _, _, p in nodes}
    placed = [{"name": n, "op": o, "provider": p} for n, o, p in nodes]
    reply = {"reply": "placed", "nodes": placed, "partitions": partitions, "log": log}
    profile = DeviceProfile(id="npu", execution_provider=provider)
    answers = {
        "place": {**reply, "failure": failure},
        "compile": {"reply": "error", "reason": NOTHING_COMPILED},
    }
    return SimpleNamespace(profile=profile, ask=lambda command, model: (answers[command], []))


def test_a_refused_node_has_its_reason_and_what_to_change():
    nodes = [("conv", "Conv", QNN), ("odd part", "Mod", CPU), ("q0", "QuantizeLinear", CPU)]
    nodes.append(("dq9", "DequantizeLinear", CPU))
    placement = place(fake(nodes, REFUSED), b"")
    assert placement.taken == 1
    mod, border, end = placement.refused
    assert end.change == border.change
    assert mod.reason == "QNN Mod Op only support fmod == 0 for now."
    assert mod.change.startswith("replace Mod by operators that it takes")
    assert border.change.startswith("harmless: one conversion at the border")
    silent = place(fake([("c", "Conv", QNN), ("x", "Mod", CPU)]), b"")
    added = place(fake([("c", "Conv", QNN), ("DequantizeLinear_token_10", "D", CPU)]), b"")
    assert added.refused[0].change == "harmless: one copy at the border"
    assert silent.refused[0].reason == "the provider does not say why"


def test_a_refused_node_is_named_although_no_session_can_be_made():
    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", ["x", "w"], ["y"], "down_Conv", strides=[2, 2], dilations=[2, 2]
            )
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 1, 5, 5], np.zeros(100))],
    )
    model = helper.make_model(graph).SerializeToString()
    placement = place(
        fake([], DILATED, failure="Node 'down_Conv_token_89' was not selected"), model
    )
    assert placement.taken == 0
    [conv] = placement.refused
    assert (conv.name, conv.op) == ("down_Conv", "Conv")
    assert conv.reason.startswith("Failed to add node. QNN.backendValidateOpConfig() failed")
    assert "factory export --target int8-qnn" in conv.change
    from factory.cli.explain_lines import explained_lines

    facts = {"model": "m", "device": "npu", "notes": [], "cosine_to_cpu": None, "contexts": []}
    text = "\n".join(explained_lines({**facts, **placement.to_dict()}))
    for part in ("no session can be made", "down_Conv", "3110", "strided and dilated"):
        assert part in text


@pytest.mark.parametrize(
    ("log", "fault"),
    [
        (UNKNOWN_SOC, "QNN_DEVICE_ERROR_INVALID_CONFIG: Invalid config values"),
        (MISSING_BACKEND, "/nowhere/libQnnHtp.so: cannot open shared object file"),
    ],
)
def test_an_unknown_soc_or_a_missing_backend_is_no_accelerator(log, fault):
    device = fake([("conv", "Conv", CPU), ("relu", "Relu", CPU)], log)
    placement = place(device, b"")
    assert placement.taken == 0
    assert placement.faults[0].endswith(fault)
    assert all("soc_model" in node.change for node in placement.refused)
    with pytest.raises(InputError, match=r"compiled nothing for device 'npu' \(QNN SetupBackend"):
        compile_context(device, b"")


def test_the_workers_word_for_an_empty_context_is_the_same():
    from factory.devices import placing

    assert NOTHING_COMPILED in Path(placing.__file__).read_text()


def test_a_whole_fallback_is_a_failure_and_a_part_of_one_is_counted():
    def timing(providers):
        return Timing(status="ok", median_ms=1.0, runs=3, providers=providers)

    said = timing({CPU: 5}).placed_on(QNN)
    assert (said.status, said.median_ms) == ("failed", 0.0)
    assert said.reason == f"no node ran on {QNN}: the CPU took the whole model"
    assert "does not say where" in timing({}).placed_on(QNN).reason
    assert timing({CPU: 2, QNN: 1}).placed_on(QNN).providers == {CPU: 2, QNN: 1}
    assert timing({CPU: 5}).placed_on(CPU).ok
    assert Timing.failed("x").placed_on(QNN).reason == "x"


def test_a_provider_that_takes_nothing_is_heard_with_the_real_runtime():
    """The plain package lists a provider that takes no node: the session runs, on the CPU."""
    azure = "AzureExecutionProvider"
    if azure not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no provider that takes nothing")
    with LocalDevice(DeviceProfile(id="x", execution_provider=azure, threads=1)) as device:
        timing = device.time_many([tiny_models.conv()], PLAN)[0]
        assert timing.reason == f"no node ran on {azure}: the CPU took the whole model"
        assert place(device, tiny_models.conv()).taken == 0


@pytest.mark.parametrize("library", ["", "plug-in"])
def test_a_session_that_fails_is_never_made_again_on_the_cpu(monkeypatch, library):
    """The runtime's InferenceSession tries the CPU when a provider fails, unless told not to."""
    from factory.devices import measure

    tried = []

    def broken(self, *arguments, **_):
        tried.append(arguments)
        raise RuntimeError("the accelerator is upset")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", broken)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [])
    monkeypatch.setattr(
        onnxruntime.SessionOptions, "add_provider_for_devices", lambda *_: None, raising=False
    )
    config = {"execution_provider": CPU, "provider_options": {}, "threads": 1}
    with pytest.raises(RuntimeError, match="upset"):
        measure.make_session(tiny_models.add(), {**config, "provider_library": library})
    assert len(tried) == 1


def test_times_of_an_emulator_are_refused(monkeypatch):
    profile = DeviceProfile(id="npu", execution_provider=QNN, threads=1)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert "emulates the accelerator" in emulator(profile)
    timing = LocalDevice(profile).time_many([tiny_models.add()], PLAN)[0]
    assert timing.status == "failed"
    assert "its times say nothing of the chip" in timing.reason
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert emulator(profile) == ""


def test_a_worker_in_an_environment_of_its_own():
    options = LocalOptions(interpreter=sys.executable)
    with LocalDevice(DeviceProfile(id="own", threads=1, local=options)) as device:
        assert device.time_many([tiny_models.add()], PLAN)[0].ok
        source = Path(device.start().folder) / "code" / "factory" / "devices" / "measure.py"
        assert source.is_file()


@pytest.mark.parametrize("name", ["local-openvino-t1-fp32", "qnn-htp-sm8550-int8"])
def test_a_missing_environment_says_how_to_make_it(tmp_path, monkeypatch, name):
    profile = load_profile(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        open_device(profile)
    text = str(caught.value)
    folder = profile.local.interpreter.removesuffix("/bin/python")
    assert f"python3 -m venv {folder} && {folder}/bin/python -m pip install onnxruntime" in text
    assert "\n" not in text


def test_a_plug_in_that_is_not_there():
    options = LocalOptions(provider_library="no_such_package")
    profile = DeviceProfile(id="plug", threads=1, execution_provider=QNN, local=options)
    with pytest.raises(InputError, match=r"'plug' does not start.*no_such_package"):
        open_device(profile)
    options = LocalOptions(provider_library="/nowhere/libep.so")
    with pytest.raises(InputError, match=r"does not start.*libep\.so"):
        open_device(profile.model_copy(update={"local": options}))


def test_options_of_another_transport_are_refused():
    with pytest.raises(ValueError, match=r"\[local\] needs transport"):
        DeviceProfile(id="x", chip="s", transport="simulated", local=LocalOptions())


def test_explaining_on_the_cpu(tmp_path):
    from factory.api import explain

    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_models.conv())
    answer = explain(path, "local-cpu-t1-fp32")
    assert answer["taken"] == len(answer["nodes"]) >= 1
    assert answer["cosine_to_cpu"] == pytest.approx(1)
    assert answer["failure"] == ""
    path.write_bytes(tiny_models.unknown_op())
    with pytest.raises(InputError, match="unknown operator 'Frobnicate'"):
        explain(path, "local-cpu-t1-fp32")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        explain(path, "local-cpu-t1-fp32")
    with pytest.raises(InputError, match="does not exist"):
        explain(tmp_path / "none.onnx", "local-cpu-t1-fp32")
    path.write_bytes(tiny_models.conv())
    with pytest.raises(InputError, match="'x1' is not a number of a SoC"):
        explain(path, "local-cpu-t1-fp32", numerics=False, socs=["x1"])


def test_the_lines_of_an_explanation():
    from factory.cli.explain_lines import explained_lines

    nodes = [("conv", "Conv", QNN), ("odd part", "Mod", CPU), ("q0", "QuantizeLinear", CPU)]
    base = {"model": "m.onnx", "device": "npu", "notes": ["emulated"], "cosine_to_cpu": 0.9991}
    contexts = [{"soc": "43", "path": "m.soc43.onnx", "bytes": 2_000_000}]
    placement = place(fake(nodes, REFUSED), b"").to_dict()
    text = "\n".join(explained_lines({**base, **placement, "contexts": contexts}))
    for part in ("takes 1 of 3 nodes, in 1 piece", "odd part", "fmod", "cosine 0.9991", "SoC 43"):
        assert part in text
    placement = place(fake([("conv", "Conv", CPU)], UNKNOWN_SOC), b"").to_dict()
    text = "\n".join(explained_lines({**base, **placement, "contexts": []}))
    assert "it takes NO node: the CPU would run the whole model" in text
    assert "correct the provider's options" in text
    assert "why:" not in text  # the fault is told already
    placement = place(fake([("cut", "Slice", CPU)]), b"").to_dict()
    text = "\n".join(explained_lines({**base, **placement, "contexts": []}))
    assert "why: the provider does not say why" in text


def int8_model() -> bytes:
    from factory.graph.onnx_build import to_onnx
    from factory.profiling.reference import reference_graph

    return to_onnx(reference_graph(), "i8", seed=0).SerializeToString()


def refused_model() -> bytes:
    """The int8 reference network and a float remainder, which QNN's Mod does not do."""
    model = onnx.load_from_string(int8_model())
    graph, output = model.graph, model.graph.output[0].name
    graph.node.append(helper.make_node("Mod", [output, "two"], ["end"], name="odd_part", fmod=1))
    graph.initializer.append(helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("end", TensorProto.FLOAT, [1, 10]))
    return model.SerializeToString()


@pytest.fixture(scope="module")
def environments():
    """The profiles whose environments are there; made by hand, see the profiles."""

    def find(name):
        profile = load_profile(name)
        if not (user_home() / profile.local.interpreter).is_file():
            pytest.skip(f"no environment {profile.local.interpreter} in $FACTORY_HOME")
        return profile

    return find


@pytest.mark.heavy
def test_openvino_takes_a_network_as_one_piece(environments):
    model = tiny_models.conv(16, 16)
    with open_device(environments("local-openvino-t1-fp32")) as device:
        plan = TimingPlan(
            min_runs=3, max_runs=5, min_time_ms=1.0, profile_runs=3, optimised_graph=True
        )
        timing = device.time_many([model], plan)[0]
        assert timing.ok, timing.reason
        assert timing.optimised == ""  # it compiles nodes, which cannot be written to a file
        assert set(timing.providers) == {"OpenVINOExecutionProvider"}
        assert len(timing.nodes) == 1
        assert cosine(device, model, inputs_of(model)) > 0.999


@pytest.mark.heavy
def test_openvino_without_its_hardware_is_no_time_of_the_cpu(environments):
    profile = environments("local-openvino-t1-fp32")
    away = profile.model_copy(update={"provider_options": {"device_type": "NPU"}})
    with open_device(away) as device:
        timing = device.time_many([tiny_models.conv()], PLAN)[0]
    assert timing.status == "failed"
    assert timing.reason


@pytest.mark.heavy
def test_qnn_takes_explains_and_compiles(environments):
    profile = environments("qnn-htp-sm8550-int8")
    model = refused_model()
    with open_device(profile) as device:
        placement = place(device, model)
        assert placement.taken > 10
        mod = next(node for node in placement.refused if node.name == "odd_part")
        assert "fmod" in mod.reason
        assert cosine(device, int8_model(), inputs_of(int8_model()), runs=1) >= 0.98
        assert device.describe()["simulated"]
        context = onnx.load_from_string(compile_context(device, int8_model()))
    assert "EPContext" in {node.op_type for node in context.graph.node}


@pytest.mark.heavy
def test_qnn_takes_what_the_export_made_of_a_strided_dilated_convolution(environments, tmp_path):
    from factory.api import explain, export
    from factory.graph.kernel import Kernel
    from factory.graph.onnx_build import kernel_to_onnx

    text = "Conv(x=1x16x16x16,w=16x1x5x5,s=2,p=4,d=2,g=16,act=relu,dtype={})"
    device = environments("qnn-htp-sm8550-int8").id
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(kernel_to_onnx(Kernel.parse(text.format("i8"))).SerializeToString())
    refused = explain(plain, device, numerics=False)
    assert refused["taken"] == 0
    assert "strided and dilated" in " ".join(node["change"] for node in refused["nodes"])
    floats = tmp_path / "floats.onnx"
    floats.write_bytes(kernel_to_onnx(Kernel.parse(text.format("f32"))).SerializeToString())
    made = tmp_path / "made.onnx"
    assert export(floats, target=["int8-qnn"], out=made)["ok"]
    taken = explain(made, device)
    assert (taken["failure"], taken["partitions"][QNN]) == ("", 1)
    outside = [node for node in taken["nodes"] if node["provider"] != QNN]
    assert all(node["change"].startswith("harmless") for node in outside)
    assert taken["cosine_to_cpu"] >= 0.98


@pytest.mark.heavy
@pytest.mark.parametrize(
    "options",
    [
        {"backend_type": "htp", "soc_model": "9999"},
        {"backend_path": "/nowhere/libQnnHtp.so"},
    ],
)
def test_the_silent_cases_of_qnn_are_heard(environments, options):
    profile = environments("qnn-htp-sm8550-int8").model_copy(update={"provider_options": options})
    with open_device(profile) as device:
        placement = place(device, int8_model())
        assert placement.taken == 0
        assert placement.failure or placement.faults
        with pytest.raises(InputError, match="compiled nothing"):
            compile_context(device, int8_model())


@pytest.mark.heavy
def test_a_word_that_is_no_backend_of_qnn_is_heard(environments):
    """QNN takes its default backend in place of it."""
    profile = environments("qnn-htp-sm8550-int8")
    odd = profile.model_copy(update={"provider_options": {"backend_type": "nonsense"}})
    with open_device(odd) as device:
        assert any("backend_type" in fault for fault in place(device, int8_model()).faults)
