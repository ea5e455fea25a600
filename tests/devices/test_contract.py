"""What every device must do, run over all of them."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from factory.core.errors import InputError
from factory.devices.adb import AdbDevice
from factory.devices.adb_link import elf_abi
from factory.devices.agent import AgentDevice
from factory.devices.base import Device, TimingPlan, open_device
from factory.devices.local import LocalDevice
from factory.devices.profile import DeviceProfile
from factory.devices.simulated import SimulatedDevice

sys.path.insert(0, str(Path(__file__).parent))
import chromium
import phone_rack
import running_agent
import tiny_models

PLAN = TimingPlan(min_runs=6, max_runs=20, min_time_ms=2.0, warmup_time_ms=5.0, profile_runs=4)
FINGERPRINT = {
    "chip",
    "runtime",
    "runtime_version",
    "execution_provider",
    "provider_options",
    "threads",
    "precision",
}


@pytest.fixture(
    params=[
        "local",
        "agent",
        pytest.param("adb", marks=pytest.mark.heavy),
        pytest.param("adb-c", marks=pytest.mark.heavy),
        "simulated",
        pytest.param("browser", marks=pytest.mark.heavy),
    ],
    scope="module",
)
def device(request, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        if request.param == "local":
            made = LocalDevice(DeviceProfile(id="t1", threads=1))
        elif request.param == "agent":
            agent = stack.enter_context(running_agent.RunningAgent())
            made = AgentDevice(agent.profile("t1"), token="")
        elif request.param.startswith("adb"):
            if shutil.which("adb") is None:
                pytest.skip(phone_rack.ADB_MISSING)
            runner = os.environ.get("FACTORY_TEST_ANDROID_RUNNER", "")
            if request.param == "adb-c" and not runner:
                pytest.skip("needs tools/android_runner built for this machine (its README.md)")
            rack = phone_rack.PhoneRack(tmp_path_factory.mktemp("rack"))
            rack = stack.enter_context(rack)
            adb = {"runner": runner} if request.param == "adb-c" else {}
            rack.phones[0].become(elf_abi(Path(runner)) if runner else "arm64-v8a")
            made = AdbDevice.connect(rack.profile("t1", adb=adb))
        elif request.param == "browser":
            made = chromium.device()
        else:
            made = SimulatedDevice()
        yield stack.enter_context(made)


def test_it_is_a_device(device):
    assert isinstance(device, Device)


def test_describe_is_json_and_has_a_fingerprint(device):
    facts = device.describe()
    json.dumps(facts, allow_nan=False)
    assert set(facts["fingerprint"]) == FINGERPRINT
    assert facts["device"] == device.profile.id
    assert isinstance(facts["simulated"], bool)
    assert facts["empty_run_ms"] >= 0
    assert {"pinned", "load_1min", "notes"} <= set(facts)


def test_timings_come_in_order_one_a_model(device):
    models = [tiny_models.conv(64, 32), tiny_models.add(), tiny_models.conv(64, 32)]
    timings = device.time_many(models, PLAN, rounds=2)
    assert [timing.status for timing in timings] == ["ok"] * 3
    # The least times: other work on this machine makes single runs longer, none shorter.
    assert timings[1].min_ms < min(timings[0].min_ms, timings[2].min_ms)
    for timing in timings:
        assert 0 < timing.min_ms <= timing.p10_ms <= timing.median_ms <= timing.p90_ms
        assert timing.runs >= 3
        assert sum(timing.providers.values()) >= 1
        assert sum(node["share"] for node in timing.nodes) == pytest.approx(1)
        json.dumps(timing.to_dict(), allow_nan=False)
    assert device.time_many([], PLAN) == []


def test_the_graph_as_executed_is_told_on_request_or_left_out(device):
    plan = dataclasses.replace(PLAN, optimised_graph=True)
    model = tiny_models.conv(16, 16)
    [timing] = device.time_many([model], plan)
    assert timing.ok
    [plain] = device.time_many([model], PLAN)
    assert plain.optimised == ""
    if device.profile.transport in ("local", "agent", "adb"):
        executed = onnx.load_from_string(base64.b64decode(timing.optimised)).graph
        assert {node.op_type for node in executed.node} >= {node["op"] for node in timing.nodes}
        assert len(executed.node) == len(timing.nodes)


@pytest.mark.parametrize(
    "model", [b"", b"no model", tiny_models.unknown_op(), tiny_models.conv(batch="n")]
)
def test_a_model_that_cannot_run_is_a_failed_timing(device, model):
    good, bad = device.time_many([tiny_models.add(), model], PLAN)
    assert good.ok
    assert bad.status == "failed"
    assert bad.reason
    assert "\n" not in bad.reason
    assert bad.median_ms == 0


def test_run_and_run_batch_agree(device):
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 8)).astype(np.float32)
    model = tiny_models.conv(8, 8)
    batch = device.run_batch(model, images)
    assert batch.shape == (3, 8, 8, 8)
    for image, expected in zip(images, batch, strict=True):
        outputs = device.run(model, {"x": image[None]})
        assert set(outputs) == {"y"}
        np.testing.assert_allclose(outputs["y"][0], expected, rtol=1e-5, atol=1e-5)


def test_running_nonsense_is_an_input_error(device):
    with pytest.raises(InputError):
        device.run(b"nonsense", {})
    with pytest.raises(InputError):
        device.run_batch(tiny_models.add(), np.zeros((2, 4, 8, 8), np.float32))


def test_the_registry_opens_it_and_closing_twice_is_fine(device):
    again = open_device(device.profile)
    assert type(again) is type(device)
    again.close()
    again.close()


def test_impossible_plans_raise():
    with pytest.raises(ValueError, match="impossible"):
        TimingPlan(min_runs=5, max_runs=4)
    with pytest.raises(ValueError, match="negative"):
        TimingPlan(min_time_ms=-1)
