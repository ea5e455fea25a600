"""Peers that answer wrongly: one sentence with the device and the field, in bounded memory."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "doors"))
import peers
import tiny_models
from running_agent import RunningAgent

from factory.core.errors import InputError
from factory.core.frames import BrokenFrame, pack_arrays, read_frame
from factory.core.process import WorkerProcess
from factory.core.wire import Wrong
from factory.devices import adb_client, adb_facts, agent_models
from factory.devices.agent_gate import Gate
from factory.devices.agent_jobs import ClientGone, Jobs, Limits
from factory.devices.base import Timing, TimingPlan, in_chunks
from factory.devices.browser_timings import read_result
from factory.devices.local import LocalDevice
from factory.devices.messages import AGENT_REQUEST, TIMINGS, timings
from factory.devices.profile import DeviceProfile

HELLO = peers.lines(peers.HELLO)
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals")


def timed(**changes) -> bytes:
    event = {"event": "timings", "timings": [peers.OK, {**peers.OK, **changes}]}
    return HELLO + peers.lines(event)


def told(answer: bytes) -> str:
    peers.peer().answer = answer
    with pytest.raises(InputError) as error:
        peers.client().time_many([b"", b""], peers.PLAN)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (timed(median_ms="fast"), r"timings\[1\]\.median_ms is 'fast', not a number above 0"),
        (timed(median_ms=0), r"timings\[1\]\.median_ms is 0"),
        (timed(p90_ms=10**400), r"timings\[1\]\.p90_ms is a number too large"),
        (timed(runs=1.5), r"timings\[1\]\.runs is 1\.5, not a whole number"),
        (timed(nodes=[3]), r"timings\[1\]\.nodes\[0\] is 3, not a table"),
        (timed(providers=[]), r"timings\[1\]\.providers is a list"),
        (timed(status="odd"), r"timings\[1\]\.status is 'odd', not one of ok, failed"),
        (HELLO + peers.lines({"event": "timings", "timings": [peers.OK]}), "1 for 2 models"),
        (
            HELLO + peers.lines({"event": "outputs", "arrays": [], "sizes": []}),
            "event is 'outputs'",
        ),
        (HELLO + peers.lines({"event": "odd"}), "event is 'odd'"),
        (HELLO + b"[" * 100_000 + b"\n", "nested too deep"),
        (HELLO + b'{"event": ' + b"9" * 5000 + b"}\n", "not JSON"),
        (HELLO + b"nonsense\n", "not JSON"),
    ],
)
def test_an_agents_wrong_answer_names_the_device_and_the_field(content, said):
    message = told(peers.chunked(content))
    assert "device 'board'" in message
    assert re.search(said, message), message


def test_an_agent_that_tells_the_length_of_everything_there_is_gets_no_memory():
    head = peers.chunked(b"").partition(b"0\r\n")[0]
    peers.peer().answer = head + b"-1\r\n" + b"x" * (64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="lost 3 times"):
            peers.client().describe()
        event = {"event": "outputs", "arrays": peers.FACTS_OF_OUTPUTS, "sizes": [1 << 28, 1 << 28]}
        peers.peer().answer = peers.chunked(HELLO + peers.lines(event) + b"x")
        with pytest.raises(InputError, match="lost 3 times"):
            peers.client().run(b"", {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 80 << 20  # the answer that is sent here is most of it


def test_outputs_that_do_not_fit_together_are_refused():
    for arrays, sizes, said in (
        ([{"name": "y", "dtype": "<f4", "shape": [5]}], [24], "24 bytes came"),
        ([{"name": "y", "dtype": "|O", "shape": [3]}], [24], r"arrays\[0\]\.dtype is '\|O'"),
        ([{"name": "y", "dtype": "<U99999", "shape": [0]}], [0], "dtype"),
        ([{"name": "y", "dtype": "<f4", "shape": [-1]}], [24], r"shape\[0\] is -1"),
        ([], [24], "0 arrays, 1 came"),
        ([{"name": "y", "dtype": "<f4", "shape": []}], [2**60], r"sizes\[0\]"),
    ):
        event = {"event": "outputs", "arrays": arrays, "sizes": sizes}
        peers.peer().answer = peers.chunked(HELLO + peers.lines(event) + bytes(24))
        with pytest.raises(InputError, match=r"device 'board'.*" + said):
            peers.client().run(b"", {})


def test_a_batch_whose_outputs_are_those_of_others_is_refused():
    inputs = np.zeros((4, 2), np.float32)
    for output in ({}, {"y": np.zeros(())}, {"y": np.zeros((3, 2))}):
        with pytest.raises(Wrong, match="the output of 4 inputs is of the shape"):
            in_chunks(lambda _, output=output: output, inputs)
    shapes = iter([(2, 3), (2, 4)])
    with pytest.raises(Wrong, match="outputs of the shapes"):
        in_chunks(lambda _: {"y": np.zeros(next(shapes))}, inputs, chunk_bytes=16)


def test_what_an_agent_says_of_its_machine_is_looked_at(tmp_path):
    facts = {**peers.AGENT_FACTS, **peers.machine()}
    for key, value in (("cores", [{}]), ("providers", "all"), ("temperature_c", "hot")):
        with pytest.raises(InputError, match=rf"device 'new' sent an answer.*\({key}"):
            peers._facts(peers.lines({**facts, key: value}), tmp_path)
    missing = {key: value for key, value in facts.items() if key != "chip"}
    with pytest.raises(InputError, match="chip is missing"):
        peers._facts(peers.lines(missing), tmp_path)
    with pytest.raises(InputError, match="speaks another protocol"):
        peers._facts(peers.lines({**facts, "protocol": 99}), tmp_path)


def test_a_timing_is_the_same_after_its_way_and_newer_fields_are_left_out():
    timing = Timing(
        "ok", "", 2.0, 1.9, 2.2, 1.8, 20, 0.1, (peers.NODE,), 2.1, {"CPU": 1}, 3.0, "AA==", 4.0, 5.0
    )
    told = json.loads(json.dumps({**timing.to_dict(), "of_tomorrow": [1]}))
    passed = TIMINGS([told, peers.FAILED], "timings")
    assert timings(passed, 2) == [timing, Timing.failed("no such operator")]


def test_every_plan_of_ours_is_accepted():
    for plan in (TimingPlan(), TimingPlan(profile_runs=50, optimised_graph=True)):
        request = {**peers.REQUESTS["time"], "plan": plan.__dict__}
        assert AGENT_REQUEST(json.loads(json.dumps(request)), "")["plan"] == plan.__dict__


def test_a_trace_of_runs_that_nobody_asked_for_takes_no_memory():
    for runs in (2**31, 5, 0, True):
        result = read_result({**peers.PAGE_OK, "traced_runs": runs}, most_traced_runs=4)
        assert result["status"] == "failed"
        assert "traced_runs" in result["reason"]
    events = [{**peers.EVENT, "name": f"n{i}_kernel_time"} for i in range(500)]
    result = read_result({**peers.PAGE_OK, "events": events, "traced_runs": 4000}, 4000)
    assert "500 events of 500 nodes" in result["reason"]


def test_a_frame_is_bounded_before_anything_is_read():
    header = b'{"blobs": [4294967296]}'
    with pytest.raises(BrokenFrame, match="4294967296 bytes, 1000 are accepted"):
        read_frame(framed(header), longest_content=1000)
    for text in (b"[" * 5000, b'{"blobs": [' + b"1" * 5000 + b"]}", b'{"blobs": [-1]}', b"{}"):
        with pytest.raises(BrokenFrame):
            read_frame(framed(text))
    with pytest.raises(ValueError, match="'s' is of type object"):
        pack_arrays({"s": np.array(["a"], dtype=object)})


def framed(header: bytes):
    return io.BytesIO(b"factory1" + len(header).to_bytes(4, "big") + header)


@posix_only
def test_a_worker_that_answers_wrongly_costs_the_model_its_time(tmp_path):
    profile = DeviceProfile(id="here", threads=1)
    for reply, said in (
        ({"reply": "timings", "timings": [{**peers.OK, "runs": 0}]}, r"timings\[0\]\.runs is 0"),
        ({"reply": "timings", "timings": []}, "timings holds 0 for 1 models"),
        ({"reply": "outputs", "arrays": []}, "answers 'outputs'"),
        ({"reply": "error", "reason": "no memory"}, "the worker failed: no memory"),
    ):
        answers = [peers.framed(peers.lines(r).strip()) for r in (peers.CONFIGURED, reply)]
        with LocalDevice(profile, command=peers.canned(tmp_path, *answers)) as device:
            [timing] = device.time_many([b""], peers.PLAN)
        assert timing.status == "failed"
        assert said.replace("\\", "") in timing.reason


def test_a_worker_that_cannot_be_started_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError, match=r"."):
        WorkerProcess((str(tmp_path / "missing"),))
    with (
        LocalDevice(DeviceProfile(id="here", threads=1), command=(str(tmp_path),)) as device,
        pytest.raises(InputError, match="the runtime of device 'here' does not start"),
    ):
        device.start()
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_a_worker_whose_parent_is_killed_at_once_removes_its_folder(tmp_path):
    program = "import time; from factory.core.process import WorkerProcess as W; "
    program += "from factory.devices.environment import COMMAND; w = W(COMMAND); "
    program += "print(w.folder, flush=True); time.sleep(600)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        folder = Path(parent.stdout.readline().strip())
        parent.send_signal(signal.SIGKILL)
    assert folder.parent == tmp_path
    deadline = time.monotonic() + 300
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()


@posix_only
def test_an_agent_that_is_stopped_at_work_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    plan = TimingPlan(max_runs=10**6, max_time_ms=60_000, min_time_ms=60_000)
    request = {**peers.REQUESTS["time"], "plan": plan.__dict__}
    body = peers.framed(json.dumps(request).encode(), (tiny_models.conv(64, 64),) * 2)
    with RunningAgent() as agent, socket.create_connection(("127.0.0.1", agent.port)) as wire:
        head = f"POST /v1/work HTTP/1.1\r\nHost: localhost\r\nContent-Type: {peers.MEDIA_TYPE}\r\n"
        wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert b"200 OK" in wire.recv(1000)
        agent.process.terminate()
        agent.process.wait(timeout=120)
    assert not list(tmp_path.glob("factory-worker-*"))


def test_a_fault_of_the_agents_machine_is_told_and_a_client_that_left_is_not(monkeypatch):
    jobs = Jobs(Limits(), Gate(max_busy_cores=1e9, max_temperature_c=1e9))
    header = {**peers.REQUESTS["time"], "config": {**peers.CONFIG, "provider_options": {}}}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalDevice, "time_many", full)
    last, _ = jobs.handle(header, [peers.EMPTY_MODEL], lambda event: None)
    assert (last["event"], last["what"]) == ("error", "the agent itself failed")
    assert "No space left" in last["why"]

    def gone(event):
        raise BrokenPipeError

    monkeypatch.setattr(LocalDevice, "time_many", lambda self, *_, **__: self.watch(0, "x"))
    with pytest.raises(ClientGone):
        jobs.handle(header, [peers.EMPTY_MODEL], gone)


def test_a_model_of_endless_fields_is_refused(monkeypatch):
    monkeypatch.setattr(agent_models, "MOST_FIELDS", 1000)
    agent_models.check_wire_model(b"\x08\x01" * 999)
    with pytest.raises(agent_models.RefusedModel, match="more than 1000 fields"):
        agent_models.check_wire_model(b"\x08\x01" * 2000)


def test_a_phone_that_talks_without_end_is_cut():
    command = [sys.executable, "-c", "print('x' * (5 << 20))"]
    done = adb_client._run(command, timeout_s=300)
    assert len(done.stdout) == adb_client.LONGEST_ANSWER
    assert done.returncode == 0
    with pytest.raises(adb_client.PhoneGone, match=r"no answer within 0\.2 s"):
        adb_client._run([sys.executable, "-c", "import time; time.sleep(600)"], timeout_s=0.2)


def test_numbers_of_a_phone_that_are_none_are_not_known():
    phone = peers.PHONE.replace(b"level: 88", "level: ²".encode())
    phone = phone.replace(b"2000000", b"9" * 5000).replace(b"7800000", b"1" * 5000)
    facts = adb_facts.phone_facts(peers.Silent(phone))
    assert facts["battery_percent"] is None
    assert facts["cores"][0]["max_mhz"] is None
    assert facts["memory_mb"] is None
