"""Doors for messages: an agent and its clients, a worker, a page, a phone, a node of a cluster.

Where there is a wire there is one here, on loopback or a pipe, with the factory at both ends or a
peer that sends the input in place of its answer.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import json
import os
import socket
import struct
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # noqa: F401 (its own files are there before the first input)
from door import Door

from factory.core.errors import InputError
from factory.core.frames import BrokenFrame, pack_arrays, read_frame, unpack_arrays, write_frame
from factory.core.wire import Wrong
from factory.devices import browser_facts, browser_server
from factory.devices.adb import _damaged_results
from factory.devices.adb_facts import phone_facts
from factory.devices.adb_job import RESULTS, file_names, outputs_of, read_results, timing_of
from factory.devices.adb_link import RunnerFailed
from factory.devices.adb_perf_test import parse_results, runs_per_round
from factory.devices.agent import AgentDevice
from factory.devices.agent_facts import machine_facts
from factory.devices.agent_gate import Gate
from factory.devices.agent_jobs import Jobs, Limits
from factory.devices.agent_models import RefusedModel, check_wire_model
from factory.devices.agent_server import MEDIA_TYPE, PROTOCOL, AgentServer
from factory.devices.base import Timing, TimingPlan
from factory.devices.browser_link import Job, Link
from factory.devices.browser_timings import timing_of as page_timing
from factory.devices.local import EMPTY_MODEL, LocalDevice
from factory.devices.messages import RUNNER_RAN, RUNNER_TIMED, RUNNER_VERSION, read
from factory.devices.profile import DeviceProfile
from factory.devices.ray_device import RayDevice

LOOPBACK = "127.0.0.1"
PLAN = TimingPlan(min_runs=3, max_runs=5, min_time_ms=1.0, profile_runs=4)
NODE = {"name": "conv", "op": "Conv", "provider": "CPUExecutionProvider", "share": 1.0}
OK = {
    **Timing("ok", "", 2.0, 1.9, 2.2, 1.8, 20, 0.1, (NODE,), 2.1).to_dict(),
    "providers": {"CPUExecutionProvider": 1},
}
FAILED = {"status": "failed", "reason": "no such operator"}
HELLO = {"event": "hello", "protocol": PROTOCOL, "instance": "a"}
TICK = {"event": "tick", "model": 0, "phase": "warming up"}
EVENT = {
    "cat": "Node",
    "name": "conv_kernel_time",
    "dur": 12,
    "args": {"op_name": "Conv", "provider": "CPUExecutionProvider"},
}
OUTPUTS = {"y": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.zeros((0, 2), np.int64)}
FACTS_OF_OUTPUTS, BLOBS = pack_arrays(OUTPUTS)
SIZES = [len(blob) for blob in BLOBS]
CONTENT = b"".join(BLOBS)
CONFIGURED = {
    "reply": "configured",
    "runtime_version": "1.24.1",
    "python": "3.11",
    "providers": ["CPUExecutionProvider"],
    "pin_note": "",
    "pid": 7,
}


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def framed(header: bytes, blobs: tuple[bytes, ...] = ()) -> bytes:
    """A frame whose header is any bytes; "blobs" is put in where it is an object."""
    if header.rstrip().endswith(b"}") and b'"blobs"' not in header:
        sizes = json.dumps([len(blob) for blob in blobs]).encode()
        comma = b"," if header.strip() != b"{}" else b""
        header = header.rstrip()[:-1] + comma + b'"blobs":' + sizes + b"}"
    return b"factory1" + struct.pack(">I", len(header)) + header + b"".join(blobs)


def descriptions() -> dict[str, Any]:
    """What a device says of itself."""
    return {
        "device": "agent",
        "transport": "agent",
        "simulated": False,
        "fingerprint": {
            "chip": "x86_64/a chip/6.1/4c",
            "runtime": "onnxruntime",
            "runtime_version": "1.24.1",
            "execution_provider": "CPUExecutionProvider",
            "provider_options": {},
            "threads": 1,
            "precision": "fp32",
        },
        "machine": "a",
        "pinned": True,
        "cores": [0],
        "providers_available": ["CPUExecutionProvider"],
        "governor": None,
        "load_1min": 0.1,
        "empty_run_ms": 0.01,
        "notes": ["the clock may vary"],
    }


def machine() -> dict[str, Any]:
    more = {"runtime_version": "1.24.1", "providers": ["CPUExecutionProvider"]}
    limits = {"body_mb": 512, "memory_mb": 2048, "request_s": 3600.0}
    return {**machine_facts(), "runtime": "onnxruntime", **more, "limits": limits}


# -- the client of an agent ---------------------------------------------------------------------


class Peer:
    """Answers every connection with the same bytes, once the request has come, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server((LOOPBACK, 0), backlog=16)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                stream = connection.makefile("rb")
                length = 0
                while (line := stream.readline()) not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
                connection.sendall(self.answer)
                connection.shutdown(socket.SHUT_WR)
                stream.close()


@functools.cache
def peer() -> Peer:
    return Peer()


def client() -> AgentDevice:
    agent = {"url": f"http://{LOOPBACK}:{peer().port}", "patience_s": 0.0, "busy_patience_s": 0.0}
    profile = DeviceProfile(id="board", transport="agent", threads=1, timeout_s=20.0, agent=agent)
    return AgentDevice(profile, token="")


def chunked(content: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    head += b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
    return head + chunk + b"0\r\n\r\n"


def plain(content: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(content) + content


def _facts(content: bytes, folder: Path) -> None:
    from factory.pipeline.verbs.add_device import add_device

    peer().answer = plain(content)
    kept = os.environ.get("FACTORY_HOME")
    os.environ["FACTORY_HOME"] = str(folder)
    try:
        answer = add_device(f"http://{LOOPBACK}:{peer().port}", id="board")
        json.dumps(answer, allow_nan=False)
    finally:
        os.environ.pop("FACTORY_HOME")
        if kept is not None:
            os.environ["FACTORY_HOME"] = kept


def _times(content: bytes, folder: Path) -> None:
    peer().answer = chunked(content)
    timings = client().time_many([EMPTY_MODEL] * 2, PLAN)
    assert len(timings) == 2
    for timing in timings:
        json.dumps(timing.to_dict(), allow_nan=False)
        refused_in_one_line(timing)


def refused_in_one_line(*timings: Timing) -> None:
    """A measurement that failed is a value; here it counts as a refusal."""
    for timing in timings:
        assert not timing.ok or timing.median_ms > 0
    if failed := [timing for timing in timings if not timing.ok]:
        raise InputError(failed[0].reason)


def _described(content: bytes, folder: Path) -> None:
    peer().answer = chunked(content)
    json.dumps(client().describe(), allow_nan=False)


def _outputs(content: bytes, folder: Path) -> None:
    peer().answer = chunked(content)
    for array in client().run(EMPTY_MODEL, {}).values():
        array.sum()
    client().run_batch(EMPTY_MODEL, np.zeros((2, 1), np.float32))


def _answer(content: bytes, folder: Path) -> None:
    peer().answer = content
    client().describe()


AGENT_FACTS = {"protocol": PROTOCOL, "instance": "a"}
DESCRIBED = {"event": "described", "describe": {**descriptions()}}


def agent_described() -> bytes:
    described = {**DESCRIBED["describe"], "agent": machine()}
    return lines(HELLO, TICK, {"event": "described", "describe": described})


def agent_times() -> bytes:
    last = {"event": "timings", "timings": [OK, OK], "gate": "", "temperature_c": None}
    return lines(HELLO, TICK, {"event": "wait", "why": "busy"}, last)


def agent_outputs() -> bytes:
    event = {"event": "outputs", "arrays": FACTS_OF_OUTPUTS, "sizes": SIZES}
    return lines(HELLO, event) + CONTENT


# -- the agent's own door -----------------------------------------------------------------------


class Log(list):
    """Lines of the server that are no requests."""

    def write(self, text: str) -> None:
        if "Error" in text:
            self.append(text)

    def flush(self) -> None:
        pass


@functools.cache
def agent() -> AgentServer:
    gate = Gate(max_temperature_c=1e9, max_busy_cores=1e9)
    server = AgentServer((LOOPBACK, 0), Jobs(Limits(8, 700, 4.0), gate), log=Log())
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


CONFIG = {
    "execution_provider": "CPUExecutionProvider",
    "provider_options": {"depth": 2},
    "threads": 1,
    "pin": True,
    "timeout_s": 20,
    "precision": "fp32",
}
REQUESTS = {
    "describe": {"command": "describe", "config": CONFIG},
    "time": {"command": "time", "config": CONFIG, "plan": asdict(PLAN), "rounds": 2},
    "run": {"command": "run", "config": CONFIG, "arrays": FACTS_OF_OUTPUTS, "batch": False},
}
TIMED = {"reply": "timings", "timings": [OK]}


def canned(folder: Path, *replies: bytes, hears: str = "cat") -> tuple[str, ...]:
    """A worker's command that answers so, whatever it is asked, and ends when ``hears`` does."""
    path = folder / "replies"
    path.write_bytes(b"".join(replies))
    return ("sh", "-c", f'cat "$0"; exec {hears} > /dev/null', str(path))


def ask_agent(request: bytes) -> tuple[int, bytes]:
    """Status and body of a raw request; (0, b"") where there is no answer."""
    server = agent()
    with socket.create_connection((LOOPBACK, server.server_address[1]), timeout=25) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            status, body = response.status, response.read()
        except (OSError, http.client.HTTPException):
            status, body = 0, b""
        finally:
            response.close()
    with server.at_work:  # the thread has ended its work
        server.jobs.close()
    assert not server.log, server.log.pop()
    return status, body


def work(body: bytes) -> None:
    """A whole request for work; a refusal is an InputError here."""
    head = f"POST /v1/work HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: {MEDIA_TYPE}\r\n"
    status, answer = ask_agent(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    if status == 200:
        last = next(
            (json.loads(line) for line in answer.split(b"\n") if line.startswith(b'{"event"')), {}
        )
        for line in answer.split(b"\n"):
            if line.startswith(b'{"event": "error"'):
                last = json.loads(line)
        assert last["event"] in ("hello", "error"), last
        assert "itself failed" not in last.get("what", ""), last
        if last["event"] == "error":
            raise InputError(last["what"], why=last.get("why", ""), fix=last.get("fix", ""))
        return
    assert status in (400, 403, 409, 411, 413), (status, answer)
    raise InputError(json.loads(answer)["error"])


def _request(content: bytes, folder: Path) -> None:
    running = b'"run"' in content
    arrays = {"reply": "outputs", "arrays": FACTS_OF_OUTPUTS}
    reply = framed(lines(arrays).strip(), BLOBS) if running else framed(lines(TIMED).strip())
    agent().jobs._command = canned(folder, framed(lines(CONFIGURED).strip()), reply)
    blobs = (EMPTY_MODEL, *BLOBS) if running else (EMPTY_MODEL,)
    work(framed(content, blobs))


def _request_frame(content: bytes, folder: Path) -> None:
    agent().jobs._command = canned(
        folder, framed(lines(CONFIGURED).strip()), framed(lines(TIMED).strip())
    )
    work(content)


def _request_http(content: bytes, folder: Path) -> None:
    agent().jobs._command = canned(folder, framed(lines(CONFIGURED).strip()))
    status, _ = ask_agent(content)
    if status != 200:
        raise InputError(f"status {status}")


def http_requests() -> list[bytes]:
    get = f"GET /v1/facts HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode()
    body = framed(lines(REQUESTS["describe"]).strip())
    post = f"POST /v1/work HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: {MEDIA_TYPE}\r\n"
    return [get, f"{post}Content-Length: {len(body)}\r\n\r\n".encode() + body]


def _model(content: bytes, folder: Path) -> None:
    try:
        check_wire_model(content)
    except RefusedModel as refused:
        raise InputError(str(refused)) from None


# -- a worker -----------------------------------------------------------------------------------


def ask_worker(folder: Path, *replies: bytes) -> None:
    command = canned(folder, *replies, hears="head -c 400")  # into the second request
    profile = DeviceProfile(id="here", threads=1, timeout_s=20.0)
    with LocalDevice(profile, command=command) as device:
        refused_in_one_line(*device.time_many([EMPTY_MODEL], PLAN))


def _replies(content: bytes, folder: Path) -> None:
    ask_worker(folder, *(framed(line) for line in content.splitlines()))


def _frames(content: bytes, folder: Path) -> None:
    ask_worker(folder, content)


def _frame(content: bytes, folder: Path) -> None:
    try:
        frame = read_frame(io.BytesIO(content))
        if frame is None:
            raise InputError("nothing came")
        unpack_arrays(frame[0].get("arrays"), frame[1])
    except (BrokenFrame, Wrong) as error:
        raise InputError(str(error)) from None


# -- a page -------------------------------------------------------------------------------------


class PageSide:
    """The server of a page and one job of it, and a page that has paired."""

    def __init__(self) -> None:
        kept, browser_server.ort_files = browser_server.ort_files, dict
        self.link = Link()
        try:
            self.server = browser_server.PageServer(self.link, LOOPBACK, 0)
        finally:
            browser_server.ort_files = kept
        self.session, self.visit = self.link.pair(self.link.token, {})

    def post(self, path: str, content: bytes) -> None:
        """Send it as the paired page does; a refusal is an InputError here."""
        connection = http.client.HTTPConnection(LOOPBACK, self.server.port, timeout=25)
        headers = {"X-Session": self.session, "X-Visit": str(self.link.visits)}
        with contextlib.closing(connection):
            connection.request("POST", path, content, headers)
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        if status != 200:
            assert status in (400, 404, 413), (status, body)
            raise InputError(json.loads(body)["reason"])

    def job(self, kind: str) -> Job:
        """A new job of one model."""
        self.link._jobs += 1
        header = {"plan": asdict(PLAN)} if kind == "time" else {}
        self.link._job = Job(self.link._jobs, kind, header, [EMPTY_MODEL])
        return self.link._job


@functools.cache
def page() -> PageSide:
    return PageSide()


PAGE_FACTS = {
    "user_agent": "Mozilla/5.0 (Linux; Android 14; Pixel 8) Chrome/150.0.0.0",
    "hints": {
        "model": "Pixel 8",
        "platform": "Android",
        "fullVersionList": [{"brand": "Chrome", "version": "150.0"}],
    },
    "cores": 9,
    "memory_gb": 8,
    "isolated": True,
    "shared_memory": True,
    "simd": True,
    "webgpu": {"vendor": "a", "software": False},
    "webnn": False,
    "tick_ms": 0.005,
}
PAGE_OK = {
    "status": "ok",
    "median_ms": 2.0,
    "p10_ms": 1.9,
    "p90_ms": 2.2,
    "min_ms": 1.8,
    "runs": 20,
    "session_ms": 3.0,
    "events": [EVENT] * 7,
    "traced_runs": 4,
}


def _page_facts(content: bytes, folder: Path) -> None:
    page().post("/api/hello", content)
    facts = page().link.facts
    browser_facts.chip_name(facts)
    browser_facts.identifier(facts)
    browser_facts.notes(facts, 1)
    browser_facts.emulated(facts, "webgpu")
    json.dumps(facts, allow_nan=False)


def _page_tick(content: bytes, folder: Path) -> None:
    job = page().job("time")
    page().post(f"/api/job/{job.number}/tick", content)


def _page_result(content: bytes, folder: Path) -> None:
    job = page().job("time")
    page().post(f"/api/job/{job.number}/result/0", content)
    timing = page_timing(job.results[0], EMPTY_MODEL, "wasm")
    json.dumps(timing.to_dict(), allow_nan=False)
    refused_in_one_line(timing)


def _page_reply(content: bytes, folder: Path) -> None:
    job = page().job("run")
    page().post(f"/api/job/{job.number}/reply", content)
    assert job.reply is not None
    header, blobs = job.reply
    if header["reply"] == "error":
        raise InputError(header["reason"])
    try:
        unpack_arrays(header["arrays"], blobs)
    except Wrong as wrong:
        raise InputError(str(wrong)) from None


def _page_reply_header(content: bytes, folder: Path) -> None:
    _page_reply(framed(content, tuple(BLOBS)), folder)


def _page_http(content: bytes, folder: Path) -> None:
    patience_s = 20.0 if content in page_requests() else 0.2  # one that is cut is waited for
    with socket.create_connection((LOOPBACK, page().server.port), timeout=25) as connection:
        answer = b""
        with contextlib.suppress(OSError):
            connection.sendall(content)
            connection.settimeout(patience_s)
            answer = connection.recv(1 << 16)
    assert b" 500 " not in answer[:20], answer
    page().post("/api/hello", b"{}")
    if b" 200 " not in answer[:20]:
        raise InputError("refused")


# -- a phone ------------------------------------------------------------------------------------


class Silent:
    """In place of a phone: answers each of three questions with its part of the input."""

    def __init__(self, content: bytes) -> None:
        properties, files, battery, *_ = [*content.split(b"\0"), b"", b"", b""]
        self.serial = "phone"
        self._answers = {"getprop": properties, "dumpsys battery": battery}
        self._files = files

    def shell(self, *, constant: str) -> tuple[int, str]:
        return 0, self._answers.get(constant, self._files).decode("utf-8", "replace")


PHONE = b"\0".join(
    (
        b"[ro.soc.model]: [SM8650]\n[ro.product.cpu.abi]: [arm64-v8a]\n"
        b"[ro.product.model]: [Pixel 8]\n[ro.product.manufacturer]: [Google]\n",
        b"/proc/cpuinfo:processor\t: 0\n/proc/cpuinfo:CPU part\t: 0xd4d\n"
        b"/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq:2000000\n"
        b"/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor:schedutil\n"
        b"/sys/class/thermal/thermal_zone0/type:cpu-0\n"
        b"/sys/class/thermal/thermal_zone0/temp:41000\n/proc/meminfo:MemTotal: 7800000 kB\n",
        b"  AC powered: true\n  level: 88\n  temperature: 310\n",
    )
)
RAN = {
    "index": 0,
    "status": "ok",
    "joined": True,
    "outputs": [{"name": "y", "dtype": "<f4", "shape": [1, 3], "file": "out0.bin"}],
}


def _phone(content: bytes, folder: Path) -> None:
    json.dumps(phone_facts(Silent(content)), allow_nan=False)  # type: ignore[arg-type]


def _version(content: bytes, folder: Path) -> None:
    with damaged():
        read(content, RUNNER_VERSION)


@contextlib.contextmanager
def damaged():
    try:
        with _damaged_results():
            yield
    except RunnerFailed as failed:
        raise InputError(failed.reason) from None


def _runner_times(content: bytes, folder: Path) -> None:
    results, _, trace = content.partition(b"\0")
    (folder / RESULTS).write_bytes(results)
    (folder / "trace0.json").write_bytes(trace or lines([EVENT] * 7))
    (folder / "optimised0.onnx").write_bytes(EMPTY_MODEL)
    with damaged():
        _, found = read_results(folder, RUNNER_TIMED)
        file_names("trace", found, "trace")
        timings = [timing_of(result, folder, 4) for result in found]
    for timing in timings:
        json.dumps(timing.to_dict(), allow_nan=False)
    refused_in_one_line(*timings)


def _runner_trace(content: bytes, folder: Path) -> None:
    _runner_times(runner_results() + b"\0" + content, folder)


def runner_results() -> bytes:
    files = {"trace": "trace0.json", "optimised": "optimised0.onnx"}
    times = {"index": 0, "status": "ok", "session_ms": 1.2, "samples_ns": [1200, 1300, 1250]}
    return lines({"pin_note": ""}, {**times, **files})


def _runner_outputs(content: bytes, folder: Path) -> None:
    (folder / RESULTS).write_bytes(content)
    (folder / "out0.bin").write_bytes(CONTENT)
    with damaged():
        _, found = read_results(folder, RUNNER_RAN)
        for result in found:
            if result["status"] == "ok":
                outputs_of(result, folder)


def _perf_test(content: bytes, folder: Path) -> None:
    (folder / "r.csv").write_bytes(content)
    with damaged():
        runs_per_round(parse_results(folder / "r.csv"), PLAN, 4)


# -- a node of a cluster ------------------------------------------------------------------------


def _node(content: bytes, folder: Path) -> None:
    try:
        answers = json.loads(content)
    except (ValueError, RecursionError):
        raise InputError("a node sends objects of Python") from None
    device = object.__new__(RayDevice)
    device.profile = DeviceProfile(id="node", threads=1)
    said = answers if isinstance(answers, dict) else dict.fromkeys(("describe", "time_many"))
    device._call = lambda name, *_: said.get(name)  # type: ignore[method-assign]
    json.dumps(device.describe(), allow_nan=False)
    refused_in_one_line(*device.time_many([EMPTY_MODEL], PLAN))


def replies() -> bytes:
    tick = {"reply": "tick", "index": 0, "phase": "warming up"}
    return lines(CONFIGURED, tick, TIMED)


def frames() -> list[bytes]:
    whole = io.BytesIO()
    write_frame(whole, CONFIGURED)
    write_frame(whole, TIMED)
    return [whole.getvalue()]


def reply_frames() -> list[bytes]:
    whole = io.BytesIO()
    write_frame(whole, {"reply": "outputs", "arrays": FACTS_OF_OUTPUTS}, BLOBS)
    return [whole.getvalue()]


def page_requests() -> list[bytes]:
    body = lines({"facts": PAGE_FACTS})
    head = f"POST /api/hello HTTP/1.1\r\nHost: x\r\nX-Session: {page().session}\r\n"
    return [
        b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n",
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body,
    ]


def one(value: Any) -> Any:
    return lambda: [lines(value).strip()]


DOORS = [
    Door("agent-facts", lambda: [lines({**AGENT_FACTS, **machine()})], _facts, "json"),
    Door("agent-times", lambda: [agent_times()], _times, "lines"),
    Door("agent-described", lambda: [agent_described()], _described, "lines"),
    Door("agent-outputs", lambda: [agent_outputs()], _outputs, "lines"),
    Door("agent-answer", lambda: [chunked(agent_described())], _answer),
    Door(
        "agent-request",
        lambda: [lines(request).strip() for request in REQUESTS.values()],
        _request,
        "json",
    ),
    Door(
        "agent-frame",
        lambda: [framed(lines(REQUESTS["time"]).strip(), (EMPTY_MODEL,))],
        _request_frame,
    ),
    Door("agent-http", http_requests, _request_http),
    Door("agent-model", lambda: [EMPTY_MODEL], _model),
    Door("worker-replies", lambda: [replies()], _replies, "lines"),
    Door("worker-frames", frames, _frames),
    Door("frame", reply_frames, _frame),
    Door("page-facts", one({"facts": PAGE_FACTS}), _page_facts, "json"),
    Door("page-tick", one({"index": 0, "phase": "tracing"}), _page_tick, "json"),
    Door("page-result", one(PAGE_OK), _page_result, "json"),
    Door(
        "page-reply",
        one({"reply": "outputs", "arrays": FACTS_OF_OUTPUTS}),
        _page_reply_header,
        "json",
    ),
    Door("page-reply-frame", reply_frames, _page_reply),
    Door("page-http", page_requests, _page_http),
    Door("phone-facts", lambda: [PHONE], _phone),
    Door(
        "runner-version",
        one({"runner": 1, "runtime_version": "1.24.1", "providers": ["CPUExecutionProvider"]}),
        _version,
        "json",
    ),
    Door("runner-times", lambda: [runner_results()], _runner_times, "lines"),
    Door("runner-trace", lambda: [lines([EVENT] * 7)], _runner_trace, "json"),
    Door("runner-outputs", lambda: [lines({"pin_note": ""}, RAN)], _runner_outputs, "lines"),
    Door(
        "perf-test",
        lambda: [b"model,0.0012,1000,50,0\nmodel,0.0011,1000,50,1\n"],
        _perf_test,
        "csv",
    ),
    Door("ray-node", one({"describe": descriptions(), "time_many": [OK]}), _node, "json"),
]
