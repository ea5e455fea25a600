"""What every target keeps, whatever it writes."""

import json

import numpy as np
import onnx
import pytest

from factory.core.errors import InputError
from factory.deployment.chip_flags import wants_reduced_range
from factory.deployment.gate_contract import GateConfig, GateData
from factory.deployment.make import Maker, make_targets
from factory.deployment.manifest import ModelManifest
from factory.deployment.metadata import Preprocessing
from factory.deployment.run_here import open_session
from factory.deployment.targets import all_targets, default_target, find_target
from factory.deployment.targets.ort_format import CONFIG_SUFFIX, required_operators

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((24, 3, 16, 16), dtype=np.float32)
DATA = GateData(IMAGES[:8], IMAGES[8:16], IMAGES[16:], name="random pictures")
PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.25), size=(16, 16))
# 8-bit weights saturate on x86 without VNNI.
CONFIG = GateConfig(methods=("minmax",), reduce_range=wants_reduced_range(True))
HERE = [t for t in all_targets() if not t.missing()]


@pytest.fixture(scope="module")
def made(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    with Maker(exported, DATA, CONFIG) as maker:
        return {m.target.name: m for m in make_targets(maker, all_targets(), folder, "net")}


def test_names_are_unique_and_described():
    names = [t.name for t in all_targets()]
    assert len(set(names)) == len(names) >= 9
    assert all(t.summary and t.precision in ("fp32", "fp16", "int8") for t in all_targets())
    assert all(t.made_from in ("", *names) for t in all_targets())


@pytest.mark.parametrize("name", [t.name for t in HERE])
def test_a_target_is_written_checked_and_compared(made, name):
    one = made[name]
    assert one.status == "ok", one.reason
    assert one.files[0].name == f"net-{name}{one.target.suffix}"
    assert one.size_bytes == one.files[0].stat().st_size > 0
    assert all(check.ok for check in one.checks if "usability" not in check.name)
    assert one.loaded_on == one.target.runs_here
    if one.target.runs_here:  # a compiled context does not
        assert one.agreement.signal_db > (20 if one.target.precision == "int8" else 40)
    manifest = ModelManifest.load(one.files[-1])
    assert manifest.sha256 == one.sha256
    assert manifest.precision == one.target.precision
    assert manifest.metadata["class_names"][3] == "class 3"
    assert manifest.metadata["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    json.dumps(one.to_dict(), allow_nan=False)


@pytest.mark.parametrize("target", all_targets(), ids=lambda t: t.name)
def test_what_cannot_be_timed_here_says_so(target):
    if target.name not in ("onnx-fp32", "int8-cpu"):
        assert target.timing_here, "an unmeasured target must say why"
    else:
        assert not target.timing_here


@pytest.mark.parametrize("name", [t.name for t in HERE if not t.made_from])
def test_the_same_input_gives_the_same_bytes(exported, made, tmp_path, name):
    with Maker(exported, DATA, CONFIG) as maker:
        again = maker.make(find_target(name), tmp_path / f"x{find_target(name).suffix}")
    assert again.sha256 == made[name].sha256


def test_number_types_of_the_flavours(made):
    def types(name):
        model = onnx.load(made[name].files[0])
        weights = {w.name: w.data_type for w in model.graph.initializer}
        return {weights[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"}

    assert types("int8-cpu") == {onnx.TensorProto.UINT8}
    assert types("int8-xnnpack") == {onnx.TensorProto.INT8}
    assert types("int8-coreml") == set(), "activations stay in floats"
    stored = [w.data_type for w in onnx.load(made["int8-coreml"].files[0]).graph.initializer]
    assert onnx.TensorProto.INT8 in stored


def test_static_checks_tell_what_a_phone_takes(made):
    checks = {c.name: c for c in made["int8-nnapi"].checks}
    assert "in 1 pieces" in checks["NNAPI usability"].detail
    coreml = {c.name: c for c in made["int8-coreml"].checks}
    assert coreml["weights unpack at load"].detail == "0 quantised nodes left"
    assert "in 1 pieces" in coreml["CoreML MLProgram usability"].detail


def test_ort_format_loads_and_lists_its_operators(made):
    path = made["ort-int8"].files[0]
    assert path.read_bytes()[4:8] == b"ORTM"
    operators = required_operators(path.with_name(path.stem + CONFIG_SUFFIX))
    assert any(name.endswith(":QLinearConv") for name in operators)
    assert open_session(path).get_modelmeta().custom_metadata_map["tier"] == "small"


def test_qnn_context_says_what_is_missing(monkeypatch, exported, tmp_path):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "onnxruntime_qnn" else real(n)
    )
    monkeypatch.chdir(tmp_path)  # no environments/qnn here
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    target = find_target("qnn-context")
    assert "pip install onnxruntime==1.32.0 onnxruntime-qnn==" in target.missing()
    with Maker(exported, DATA, CONFIG) as maker:
        one = maker.make(target, tmp_path / "x.onnx")
    assert (one.status, one.files) == ("missing", [])
    with pytest.raises(InputError, match="environments/qnn"):
        target.write(exported, tmp_path / "x.onnx")


def test_devices_get_the_target_of_their_provider():
    assert default_target("CPUExecutionProvider", "fp32").name == "onnx-fp32"
    assert default_target("QNNExecutionProvider", "int8").name == "int8-qnn"
    assert default_target("NnapiExecutionProvider", "int8").name == "int8-nnapi"
    assert default_target("SomeNewProvider", "int8").name == "int8-cpu"
    with pytest.raises(InputError, match="did you mean 'onnx-fp16'"):
        find_target("onnx-fp6")


def test_camera_pixels_through_every_form(exported, tmp_path):
    names = ("onnx-fp32", "int8-cpu", "ort-fp32")
    with Maker(exported, DATA, CONFIG, preprocessing=PREPROCESSING, camera=(24, 40)) as maker:
        made = make_targets(maker, [find_target(n) for n in names], tmp_path, "cam")
    for one in made:
        assert one.ok, one.reason
        session = open_session(one.files[0])
        (pixels,) = session.get_inputs()
        assert (pixels.name, pixels.type, pixels.shape) == ("pixels", "tensor(uint8)", [24, 40, 3])
        assert one.camera.signal_db > 35, "beside the same file fed with prepared pictures"
