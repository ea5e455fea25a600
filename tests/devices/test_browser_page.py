"""The page in a real Chromium: threads, reloads, hangs, what a person sees, HTTPS, plain HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from aiohttp import web
from onnx import TensorProto, helper

from factory.core.errors import InputError
from factory.core.progress import SILENT
from factory.devices.base import TimingPlan
from factory.devices.browser_server import PageServer
from factory.devices.local import LocalDevice, allowed_cores
from factory.devices.profile import DeviceProfile

sys.path.insert(0, str(Path(__file__).parent))
import chromium
import tiny_models

pytestmark = pytest.mark.heavy
PLAN = TimingPlan(min_runs=6, max_runs=20, min_time_ms=2.0, warmup_time_ms=5.0)
LONG = TimingPlan(min_runs=100, max_runs=10**6, min_time_ms=400.0, warmup_time_ms=5.0)


def endless() -> bytes:
    """A loop of 2^40 additions."""
    number = helper.make_tensor_value_info("sum_in", TensorProto.FLOAT, [1])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["sum_in", "sum_in"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            number,
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("times", TensorProto.INT64, [], [2**40])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model.SerializeToString()


def test_two_threads_and_a_reload_in_the_middle():
    if len(allowed_cores()) < 2:
        pytest.skip("one core")
    with chromium.device(threads=2) as device:
        facts = device.describe()
        assert facts["isolated"]
        assert facts["fingerprint"]["threads"] == 2
        assert facts["fingerprint"]["runtime"] == "ort-web"
        assert facts["clock_tick_ms"] <= 0.02
        remote = chromium.Remote(device)
        timings = []
        models = [tiny_models.conv(32, 32), tiny_models.add(), tiny_models.conv(16, 16)]
        thread = threading.Thread(
            target=lambda: timings.extend(device.time_many(models, LONG, rounds=4))
        )
        thread.start()
        remote.wait_for_text("phase", "Measuring")
        remote.reload()
        thread.join(200)
        assert device.link.visits == 2
        assert [timing.status for timing in timings] == ["ok"] * 3
        assert timings[1].min_ms < timings[0].min_ms


def test_an_answer_that_breaks_off_is_asked_for_again(monkeypatch):
    cut = {"model": 0, "tick": 0, "result": 0}

    def once(name, handler):
        async def handle(server, request):
            answer = await handler(server, request)
            cut[name] += 1
            if cut[name] > 1:
                return answer
            half = web.StreamResponse(headers={"Content-Length": "1000000"})
            await half.prepare(request)
            await half.write(b"{")
            request.transport.close()
            return half

        return handle

    for name in cut:
        handler = getattr(PageServer, f"_{name}")
        monkeypatch.setattr(PageServer, f"_{name}", once(name, handler))
    with chromium.device() as device:
        timings = device.time_many([tiny_models.add(), tiny_models.conv(8, 8)], PLAN)
        assert [(timing.status, timing.reason) for timing in timings] == [("ok", "")] * 2
    assert min(cut.values()) > 1


def test_a_model_that_never_returns_costs_a_failed_row():
    with chromium.device(timeout_s=8.0) as device:
        models = [tiny_models.add(), endless(), tiny_models.add()]
        timings = device.time_many(models, PLAN)
        assert [timing.status for timing in timings] == ["ok", "failed", "ok"]
        assert timings[1].reason == "timed out after 8 s while warming up"


def test_the_same_numbers_as_the_native_runtime():
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)
    model = tiny_models.conv(8, 8)
    with chromium.device() as page, LocalDevice(DeviceProfile(id="t1", threads=1)) as native:
        expected = native.run_batch(model, images)
        np.testing.assert_allclose(page.run_batch(model, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX")
def test_no_browser_outlives_a_killed_factory():
    chromium.device()  # skips where there is none
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import chromium\n"
        "device = chromium.device(); device.start()\n"
        "print(device.chromium.process.pid, flush=True); device.link.wait_for_page(1, print)\n"
        "import time; time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        browser = int(parent.stdout.readline())
        os.kill(browser, 0)
        parent.kill()
    deadline = time.monotonic() + 120
    while psutil.pid_exists(browser) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(browser)


def test_what_a_person_sees():
    with chromium.device() as device:
        device.start()
        remote = chromium.Remote(device)
        shown = device.mirrored(SILENT)
        with shown.task("profile page", total=40, done=10) as task:
            device.time_many([tiny_models.add(), tiny_models.conv(8, 8)], PLAN)
            task.advance(10)
            device.time_many([tiny_models.add()], PLAN)
            assert remote.text("title") == "Measuring"
            assert remote.text("percent") == "50"
            assert remote.text("steps") == "20 of 40 blocks"
        seen = []
        thread = threading.Thread(target=lambda: seen.append(device.close()))
        device.link.farewell_seen = False
        chromium_of_ours, device.chromium = device.chromium, None
        thread.start()
        thread.join(120)
        try:
            remote.wait_for_text("title", "Done")
            assert "You can close this page" in remote.text("lead")
            assert remote.evaluate("localStorage.getItem('session')") == ""
        finally:
            chromium_of_ours.close()


def test_over_https_with_the_self_made_certificate(tmp_path, monkeypatch):
    from factory.devices.browser_certificate import lan_addresses

    if not lan_addresses():
        pytest.skip("this machine is on no network")
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    with chromium.device(network="lan", threads="all") as device:
        facts = device.describe()
        assert device.url.startswith("https://")
        assert facts["isolated"]
        assert facts["fingerprint"]["threads"] == facts["cores"]
        assert device.time_many([tiny_models.add()], PLAN)[0].ok


def test_over_plain_http_from_another_host_one_thread_in_batches(monkeypatch):
    """Not isolated: a name that is not localhost, as on a network without HTTPS."""
    from factory.devices import browser_launch

    monkeypatch.setattr(
        browser_launch,
        "FLAGS",
        (*browser_launch.FLAGS, "--host-resolver-rules=MAP factory.test 127.0.0.1"),
    )
    made = browser_launch.HeadlessChromium

    def elsewhere(url, *arguments, **options):
        return made(url.replace("localhost", "factory.test"), *arguments, **options)

    monkeypatch.setattr("factory.devices.browser.HeadlessChromium", elsewhere)
    with chromium.device(threads="all") as device:
        facts = device.describe()
        assert not facts["isolated"]
        assert facts["fingerprint"]["threads"] == 1
        assert any("one thread, timed in batches" in note for note in facts["notes"])
        assert facts["clock_tick_ms"] >= 0.05
        small, large = device.time_many([tiny_models.add(), tiny_models.conv(32, 32)], PLAN)
        assert small.median_ms > 0
        assert small.min_ms < large.min_ms
        ticks = [timing.median_ms / facts["clock_tick_ms"] for timing in (small, large)]
        # Only batches can tell parts of a tick.
        assert any(abs(number - round(number)) > 0.01 for number in ticks)


def test_webgpu_in_software_says_so_and_who_ran_what(monkeypatch):
    from factory.devices import browser_launch

    software = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
    flags = [flag for flag in browser_launch.FLAGS if flag != "--disable-gpu"]
    monkeypatch.setattr(browser_launch, "FLAGS", (*flags, *software))
    with chromium.device(provider="webgpu") as device:
        try:
            device.start()
        except InputError as error:
            pytest.skip(str(error))
        timing = device.time_many([tiny_models.conv(16, 16)], PLAN)[0]
        assert timing.ok
        assert timing.providers["webgpu"] >= 1
        assert device.link.facts["webgpu"]["software"]
        assert device.describe()["simulated"]


def test_a_hidden_page_waits():
    with chromium.device() as device:
        device.describe()
        remote = chromium.Remote(device)
        timings = []
        thread = threading.Thread(
            target=lambda: timings.extend(device.time_many([tiny_models.conv(16, 16)], LONG))
        )
        thread.start()
        remote.wait_for_text("phase", "Measuring")
        hide = "Object.defineProperty(document, 'visibilityState', {{value: '{}', writable: 1}});"
        fire = "document.dispatchEvent(new Event('visibilitychange'))"
        remote.evaluate(hide.format("hidden") + fire)
        remote.wait_for_text("phase", "Paused")
        time.sleep(1.5)
        assert thread.is_alive()
        remote.evaluate(hide.format("visible") + fire)
        thread.join(200)
        assert timings[0].ok
