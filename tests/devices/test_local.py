"""The local transport with the real runtime: numbers, crashes, hangs, bad models, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from factory.core.errors import InputError
from factory.devices.base import TimingPlan, open_device
from factory.devices.local import LocalDevice, allowed_cores
from factory.devices.profile import DeviceProfile

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import tiny_models  # noqa: E402

QUICK = TimingPlan(min_runs=6, max_runs=30, min_time_ms=2.0, warmup_time_ms=5.0)
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals")
ODD = (sys.executable, "-P", str(HERE / "odd_worker.py"))


def marked(model: bytes, word: str) -> bytes:
    proto = onnx.load_from_string(model)
    proto.doc_string = word
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def device():
    with LocalDevice(DeviceProfile(id="t1", threads=1, timeout_s=20)) as device:
        yield device


@pytest.fixture
def odd():
    profile = DeviceProfile(id="odd", threads=1, timeout_s=3.0)
    with LocalDevice(profile, command=ODD) as device:
        yield device


def test_a_block_of_models_is_timed(device):
    small, large = device.time_many(
        [tiny_models.conv(8, 8), tiny_models.conv(64, 32)], QUICK, rounds=3
    )
    assert small.ok
    assert large.ok
    assert 0 < small.min_ms <= small.p10_ms <= small.median_ms <= small.p90_ms
    assert large.min_ms > 3 * small.min_ms
    assert QUICK.min_runs <= small.runs <= QUICK.max_runs + 3
    assert small.session_ms > 0
    assert small.nodes == ()
    assert small.reorder_share == 0


def test_more_time_means_more_runs_within_bounds(device):
    plan = TimingPlan(min_runs=2, max_runs=40, min_time_ms=1e6, warmup_time_ms=1.0)
    assert device.time_many([tiny_models.add()], plan)[0].runs == 40
    plan = TimingPlan(min_runs=400, max_runs=400, max_time_ms=0.0, warmup_time_ms=1.0)
    assert device.time_many([tiny_models.add()], plan)[0].runs == 3


def test_the_trace_says_where_the_time_goes(device):
    plan = TimingPlan(min_runs=5, max_runs=10, min_time_ms=1.0, profile_runs=10)
    timing = device.time_many([tiny_models.conv(16, 16)], plan)[0]
    assert sum(node["share"] for node in timing.nodes) == pytest.approx(1)
    assert "Conv" in " ".join(node["op"] for node in timing.nodes)
    assert timing.traced_ms > 0
    reorders = [node["share"] for node in timing.nodes if node["op"].startswith("Reorder")]
    assert timing.reorder_share == pytest.approx(sum(reorders))
    assert 0 <= timing.reorder_share < 1
    assert set(timing.providers) == {"CPUExecutionProvider"}
    assert type(timing).from_dict(timing.to_dict()) == timing


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"this is not a model", "PROTOBUF"),
        (b"", "graph"),
        (tiny_models.unknown_op(), "Frobnicate"),
        (tiny_models.conv(batch="n"), "dynamic shape"),
    ],
)
def test_a_bad_model_fails_in_one_line_and_its_neighbours_do_not(device, model, reason):
    good = tiny_models.add()
    before, bad, after = device.time_many([good, model, good], QUICK, rounds=2)
    assert (before.status, bad.status, after.status) == ("ok", "failed", "ok")
    assert reason.lower() in bad.reason.lower()
    assert "\n" not in bad.reason


def test_run_by_name_and_in_batches(device):
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((1, 4, 8, 8)).astype(np.float32) for name in "ab"}
    out = device.run(tiny_models.add(), feeds)
    np.testing.assert_allclose(out["y"], feeds["a"] + feeds["b"], rtol=1e-6)
    images = rng.standard_normal((5, 8, 8, 8)).astype(np.float32)
    model = tiny_models.conv(8, 8)
    many = device.run_batch(model, images)
    again = device.run_batch(model, images[:, None])
    singles = np.concatenate([device.run(model, {"x": image[None]})["y"] for image in images])
    assert many.shape == (5, 8, 8, 8)
    np.testing.assert_array_equal(many, singles)
    np.testing.assert_array_equal(again.reshape(many.shape), many)


def test_large_batches_travel_in_chunks(device, monkeypatch):
    monkeypatch.setattr("factory.devices.local.CHUNK_BYTES", 5000)
    images = np.random.default_rng(0).standard_normal((7, 8, 8, 8)).astype(np.float32)
    assert device.run_batch(tiny_models.conv(8, 8), images).shape == (7, 8, 8, 8)


def test_running_a_wrong_input_or_model_says_why(device):
    with pytest.raises(InputError, match="does not run on device 't1'"):
        device.run(b"nonsense", {})
    with pytest.raises(InputError, match=r"Required inputs .*'a', 'b'"):
        device.run(tiny_models.add(), {"zzz": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match="exactly one"):
        device.run_batch(tiny_models.add(), np.zeros((2, 4, 8, 8), np.float32))
    with pytest.raises(InputError, match="empty batch"):
        device.run_batch(tiny_models.add(), np.zeros((0, 4, 8, 8), np.float32))
    assert device.time_many([tiny_models.add()], QUICK)[0].ok


def test_describe_has_the_fingerprint(device):
    facts = device.describe()
    assert facts["fingerprint"]["threads"] == 1
    assert facts["fingerprint"]["runtime_version"]
    assert facts["simulated"] is False
    assert 0 < facts["empty_run_ms"] < 5
    if hasattr(os, "sched_setaffinity"):
        assert facts["pinned"] is True
        assert facts["cores"] == [allowed_cores()[-1]]
        assert os.sched_getaffinity(device.worker_pid) == set(facts["cores"])
    assert isinstance(facts["notes"], list)


def test_all_threads_and_no_pinning():
    with LocalDevice(DeviceProfile(id="all", pin=False)) as device:
        facts = device.describe()
        assert facts["fingerprint"]["threads"] == len(allowed_cores())
        assert facts["pinned"] is False
        assert any("switched off" in note for note in facts["notes"])


@posix_only
def test_a_worker_killed_in_the_middle_is_a_failure_with_the_signals_name():
    plan = TimingPlan(min_runs=100000, max_runs=100000, max_time_ms=30000.0)
    with LocalDevice(DeviceProfile(id="t1", threads=1)) as device:
        device.start()
        first = device.worker_pid
        threading.Timer(0.4, os.kill, (first, signal.SIGKILL)).start()
        timing = device.time_many([tiny_models.conv(32, 16)], plan)[0]
        assert timing.status == "failed"
        assert "SIGKILL" in timing.reason
        assert device.time_many([tiny_models.add()], QUICK)[0].ok
        assert device.worker_pid != first


@posix_only
def test_a_stopped_worker_is_a_timeout():
    plan = TimingPlan(min_runs=100000, max_runs=100000, max_time_ms=30000.0)
    with LocalDevice(DeviceProfile(id="t1", threads=1, timeout_s=3)) as device:
        device.start()
        threading.Timer(0.3, os.kill, (device.worker_pid, signal.SIGSTOP)).start()
        timing = device.time_many([tiny_models.conv(32, 16)], plan)[0]
        assert timing.status == "failed"
        assert "timed out after 3 s" in timing.reason
        # A request that the stopped child never reads: the pipe is full, the watchdog ends it.
        device.start()
        os.kill(device.worker_pid, signal.SIGSTOP)
        assert "timed out" in device.time_many([bytes(1 << 20)], QUICK)[0].reason
        assert device.time_many([tiny_models.add()], QUICK)[0].ok


@posix_only
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("CRASH", "SIGSEGV"),
        ("HANG", "timed out after 3 s while making the session"),
        ("EXIT", "exit code 7: the driver is upset"),
    ],
)
def test_only_the_culprit_of_a_block_fails(odd, word, reason):
    good = tiny_models.add()
    timings = odd.time_many([good, marked(good, word), good, good], QUICK, rounds=2)
    assert [timing.status for timing in timings] == ["ok", "failed", "ok", "ok"]
    assert reason in timings[1].reason


@posix_only
def test_a_crash_while_running_says_so_and_the_device_goes_on(odd):
    good = tiny_models.add()
    feeds = {name: np.ones((1, 4, 8, 8), np.float32) for name in "ab"}
    with pytest.raises(InputError, match="SIGSEGV"):
        odd.run(marked(good, "CRASH"), feeds)
    np.testing.assert_array_equal(odd.run(good, feeds)["y"], 2)


def test_chatter_on_stdout_does_not_break_the_protocol(odd):
    assert odd.time_many([marked(tiny_models.add(), "CHATTER")], QUICK)[0].ok


def test_a_missing_execution_provider_lists_the_available_ones():
    profile = DeviceProfile(id="npu", execution_provider="QNNExecutionProvider")
    with pytest.raises(InputError) as caught:
        open_device(profile)
    text = str(caught.value)
    assert "QNNExecutionProvider" in text
    assert "available: " in text
    assert "CPUExecutionProvider" in text
    assert "install onnxruntime-qnn" in text


def test_more_threads_than_cores_and_unknown_transports():
    with pytest.raises(InputError, match=r"1000 threads .* cores"):
        open_device(DeviceProfile(id="x", threads=1000))
    with pytest.raises(InputError, match=r"unknown transport 'lokal'.*did you mean 'local'"):
        open_device(DeviceProfile(id="x", transport="lokal"))


def test_a_worker_that_cannot_start_says_why():
    command = (sys.executable, "-c", "import sys; sys.exit('no runtime here')")
    with pytest.raises(InputError, match="no runtime here"):
        LocalDevice(DeviceProfile(id="x", threads=1), command=command).describe()


def test_the_worker_imports_little():
    code = (
        "import sys, factory.devices.worker as w;"
        "heavy = {'torch','pydantic','sklearn','onnx','pandas','rich'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def gone(pid: int, within_s: float = 120.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text() if os.path.isdir("/proc/self") else ""
            if stat.rpartition(")")[2].split()[:1] == ["Z"]:
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_no_orphan_is_left(tmp_path, number):
    """The parent is interrupted while its worker measures: both end, and no folder is left."""
    script = tmp_path / "measure.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import signal, sys
            # Programs started in the background of a script inherit an ignored interrupt.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.path.insert(0, {str(HERE)!r})
            import tiny_models
            from factory.devices.base import TimingPlan
            from factory.devices.local import LocalDevice
            from factory.devices.profile import DeviceProfile
            device = LocalDevice(DeviceProfile(id="t1", threads=1))
            worker = device.start()
            print(worker.process.pid, worker.folder, flush=True)
            plan = TimingPlan(min_runs=10**6, max_runs=10**6, max_time_ms=60000.0)
            device.time_many([tiny_models.conv(32, 32)], plan)
            """
        )
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    pid, folder = parent.stdout.readline().split()
    worker = psutil.Process(int(pid))
    before_s, deadline = worker.cpu_times().user, time.monotonic() + 120
    while worker.cpu_times().user < before_s + 0.3 and time.monotonic() < deadline:
        time.sleep(0.05)  # until it measures
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=200)
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in errors
    assert gone(int(pid))
    assert not Path(folder).exists()
