"""The device agent on loopback: equal rows, restarts, bad clients, bad models, tokens, bounds."""

from __future__ import annotations

import ast
import contextlib
import hmac
import http.client
import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models
from running_agent import ROOT, RunningAgent

from factory.core.errors import InputError
from factory.core.frames import write_frame
from factory.devices.agent import AgentDevice
from factory.devices.agent_bundle import MODULES, agent_program
from factory.devices.agent_client import AgentLost
from factory.devices.agent_gate import Gate
from factory.devices.agent_main import Refused, greeting, make_server, parser
from factory.devices.agent_server import MEDIA_TYPE
from factory.devices.agent_token import load_token
from factory.devices.base import TimingPlan
from factory.devices.environment import COMMAND
from factory.devices.local import LocalDevice
from factory.devices.profile import DeviceProfile, load_profile
from factory.graph.onnx_build import kernel_to_onnx
from factory.pipeline.verbs.add_device import add_device
from factory.pipeline.verbs.devices import devices

QUICK = TimingPlan(min_runs=6, max_runs=30, min_time_ms=2.0, warmup_time_ms=5.0)
LONG = TimingPlan(min_runs=10**5, max_runs=10**5, max_time_ms=1500.0, warmup_time_ms=5.0)
ONE_FILE = (sys.executable, "-I", str(ROOT / "tools" / "device_agent.py"))
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals")
SHELLS = ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput")
TOKEN = "a-token-of-the-tests"
CONFIG = {
    "execution_provider": "CPUExecutionProvider",
    "provider_options": {},
    "threads": 1,
    "pin": True,
    "timeout_s": 20,
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def agent():
    """The agent as the one file that is given to a board, with limits a test can reach."""
    options = ("--token", TOKEN, "--max-body-mb", "8", "--memory-mb", "700")
    with RunningAgent(*options, command=ONE_FILE) as agent:
        yield agent


@pytest.fixture
def device(agent):
    with AgentDevice(agent.profile("board"), token=TOKEN) as device:
        yield device


def frame(header, blobs=()) -> bytes:
    buffer = io.BytesIO()
    write_frame(buffer, header, blobs)
    return buffer.getvalue()


def time_frame(models, plan=QUICK, **config) -> bytes:
    header = {"command": "time", "config": {**CONFIG, **config}, "plan": asdict(plan)}
    return frame({**header, "rounds": 1}, models)


def post(agent, body, *, token=TOKEN, media=MEDIA_TYPE, length=None, path="/v1/work"):
    """Status and content of a raw request."""
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=280)
    with contextlib.closing(connection):
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", media)
        if length != "none":
            connection.putheader("Content-Length", str(len(body) if length is None else length))
        if token:
            connection.putheader("Authorization", f"Bearer {token}")
        connection.endheaders()
        with contextlib.suppress(OSError):
            connection.send(body)
        response = connection.getresponse()
        return response.status, response.read()


def test_the_committed_file_is_made_of_the_packages_sources():
    committed = (ROOT / "tools" / "device_agent.py").read_text(encoding="utf-8")
    assert committed == agent_program(), "run: python -m factory.devices.agent_bundle"


def test_the_one_file_needs_python_310_numpy_and_onnxruntime_only():
    allowed = {*sys.stdlib_module_names, "numpy", "onnxruntime", "factory"}
    ast.parse(agent_program(), feature_version=(3, 10))
    for name in MODULES:
        path = ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
        for node in tree.body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for imported in names:
                assert imported.split(".")[0] in allowed, f"{name} imports {imported}"
                if imported.startswith("factory."):
                    parents = {m for m in MODULES if m.startswith(imported)}
                    assert parents, f"{name} imports {imported}, which the file does not carry"


def test_a_row_is_equal_in_kind_to_the_local_ones(device):
    plan = TimingPlan(min_runs=20, max_runs=40, min_time_ms=5.0, profile_runs=5)
    models = [tiny_models.conv(16, 16), tiny_models.add()]
    there = device.time_many(models, plan, rounds=2)
    with LocalDevice(DeviceProfile(id="board", threads=1)) as local:
        here = local.time_many(models, plan, rounds=2)
        facts_here = local.describe()
    for a, b in zip(there, here, strict=True):
        assert [(n["op"], n["provider"]) for n in a.nodes] == [
            (n["op"], n["provider"]) for n in b.nodes
        ]
        assert a.providers == b.providers
        assert set(a.to_dict()) == set(b.to_dict())
    facts_there = device.describe()
    assert facts_there["fingerprint"] == facts_here["fingerprint"]
    assert facts_there["transport"] == "agent"
    machine = facts_there["agent"]
    assert machine["cores"]
    assert {"temperature_c", "memory_mb", "board", "providers", "limits"} <= set(machine)


@posix_only
def test_an_agent_killed_and_started_anew_loses_nothing():
    models = [kernel_to_onnx_text(n).SerializeToString() for n in (8, 16, 24)]
    plan = TimingPlan(min_runs=10**5, max_runs=10**5, max_time_ms=300.0, warmup_time_ms=5.0)
    with RunningAgent() as agent, AgentDevice(agent.profile("board"), token="") as device:
        device.time_many(models[:1], QUICK)

        def accident() -> None:
            time.sleep(0.5)
            agent.kill()
            time.sleep(0.4)
            agent.start()

        thread = threading.Thread(target=accident)
        thread.start()
        timings = device.time_many(models, plan)
        thread.join()
        first = device.client.instance
        assert [timing.status for timing in timings] == ["ok"] * 3
        assert device.time_many(models[:1], QUICK)[0].ok
        assert device.client.instance == first


def kernel_to_onnx_text(channels: int):
    from factory.graph.kernel import Kernel

    text = f"Conv(x=1x{channels}x16x16,w={channels}x{channels}x3x3,s=1,p=1,d=1,g=1,act=relu"
    return kernel_to_onnx(Kernel.parse(text + ",dtype=f32)"))


def test_an_agent_that_is_gone_says_how_to_go_on(agent):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gone = {"url": f"http://127.0.0.1:{port}", "patience_s": 0.3}
    with pytest.raises(AgentLost, match=r"does not answer at .*refused.*same command again"):
        AgentDevice(agent.profile("gone", agent=gone), token="").describe()


@posix_only
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"garbage", "not an ONNX model"),
        (tiny_models.unknown_op(), "Frobnicate"),
        (tiny_models.external(), "weights in another file"),
        (tiny_models.context_file(), "EPContext"),
        (tiny_models.greedy(), "alloc|memory|SIG"),
        (tiny_models.endless(), "timed out after 4 s"),
    ],
)
def test_a_bad_model_costs_a_failed_row_and_its_neighbours_nothing(agent, model, reason):
    good = tiny_models.add()
    profile = agent.profile("board", timeout_s=4.0)
    with AgentDevice(profile, token=TOKEN) as device:
        before, bad, after = device.time_many([good, model, good], QUICK)
        assert (before.status, bad.status, after.status) == ("ok", "failed", "ok")
        import re

        assert re.search(reason, bad.reason, re.IGNORECASE), bad.reason


def test_wrong_tokens_are_refused_and_the_message_tells_what_to_do(agent):
    for token in ("", "wrong", TOKEN + "x", TOKEN[:-1], "\u00e4"):
        with contextlib.suppress(UnicodeEncodeError):
            assert post(agent, b"", token=token)[0] == 401
    with pytest.raises(InputError, match=r"refuses the request \(a token .*devices add"):
        AgentDevice(agent.profile("board"), token="wrong").describe()


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ({"body": bytes(9 << 20)}, 413, "8388608 are accepted"),
        ({"body": b"x", "length": "none"}, 411, "length"),
        ({"body": b"x", "length": "\u00b2"}, 411, "length"),
        ({"body": b"x", "media": "text/plain"}, 415, "body must be"),
        ({"body": b"x", "path": "/etc/passwd"}, 404, "nothing at"),
        ({"body": b"nonsense that is long enough"}, 400, "damaged"),
        ({"body": b"factory1\xff\xff\xff\xff{}"}, 400, "a header of 4294967295 bytes"),
        ({"body": frame({"command": "time"}) + b"more"}, 400, "more than one frame"),
        ({"body": frame({"command": "reboot"})}, 400, "not one of describe, time, run"),
        (
            {"body": frame({"command": "time", "config": {}})},
            400,
            "config.execution_provider is missing",
        ),
        ({"body": time_frame([], threads=10**6)}, 400, "config.threads is 1000000, not a whole"),
        (
            {"body": time_frame([], provider_options={"backend_path": "/tmp/evil.so"})},
            400,
            "names a file",
        ),
        (
            {"body": time_frame([], TimingPlan(max_time_ms=1e12, max_runs=10**9))},
            400,
            "plan.max_runs is 1000000000, not a whole",
        ),
        (
            {"body": frame({"command": "time", "config": CONFIG, "plan": {"min_runs": 1.5}})},
            400,
            "plan.min_runs is 1.5, not a whole number",
        ),
    ],
)
def test_a_wrong_request_is_answered_with_its_reason(agent, arguments, status, reason):
    got, content = post(agent, **arguments)
    assert got == status
    assert reason in json.loads(content)["error"]


def test_the_chip_is_free_before_an_answer_ends():
    """A client that asks again at once after a refusal or a result is not told "busy"."""
    server = make_server(parser("agent").parse_args(["--port", "0", "--token", TOKEN]), COMMAND)
    freed = server.at_work.release

    def free_late() -> None:
        time.sleep(0.3)
        freed()

    server.at_work = SimpleNamespace(acquire=server.at_work.acquire, release=free_late)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        here = SimpleNamespace(port=server.server_address[1])
        bodies = [frame({"command": "reboot"}), frame({"command": "describe", "config": CONFIG})]
        statuses = [post(here, body)[0] for body in bodies * 2]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert statuses == [400, 200, 400, 200]


def test_a_body_that_is_cut_leaves_the_agent_free(agent, device):
    with socket.create_connection(("127.0.0.1", agent.port)) as connection:
        connection.sendall(
            f"POST /v1/work HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: 5000\r\n\r\nfactory1".encode()
        )
        connection.shutdown(socket.SHUT_WR)
        assert b"400 Bad Request" in connection.recv(1000)
    assert device.time_many([tiny_models.add()], QUICK)[0].ok


def test_a_client_that_leaves_frees_the_chip(agent, device):
    body = time_frame([tiny_models.conv(64, 64)], TimingPlan(max_runs=10**6, max_time_ms=60_000))
    with socket.create_connection(("127.0.0.1", agent.port)) as connection:
        connection.sendall(
            f"POST /v1/work HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        connection.sendall(body)
        assert b"200 OK" in connection.recv(1000)
    assert device.time_many([tiny_models.add()], QUICK)[0].ok  # waits until the other is gone


def test_fifty_clients_at_once_are_all_answered_in_bounded_memory(agent, device):
    device.time_many([tiny_models.add()], QUICK)
    before_mb = peak_mb(agent.process.pid)
    good = time_frame([tiny_models.conv(16, 16)], LONG)
    large = time_frame([bytes(7 << 20)])  # 50 of these would be 350 MB

    def ask(number: int) -> int:
        if number % 5 == 0:
            return post(agent, good)[0]
        if number % 5 == 1:
            return post(agent, good, token="wrong")[0]
        return post(agent, large)[0]

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(ask, range(50)))
    assert set(statuses) <= {200, 401, 409}
    assert statuses.count(200) >= 1
    assert statuses.count(401) == 10
    if before_mb is not None:
        assert peak_mb(agent.process.pid) < before_mb + 60
    assert device.time_many([tiny_models.add()], QUICK)[0].ok


def peak_mb(pid: int) -> float | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return None


def test_without_a_token_only_this_machine_may_ask_by_its_own_name():
    with RunningAgent() as agent:
        connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/v1/facts", headers={"Host": "rebound.example"})
            assert connection.getresponse().status == 403


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0", "--port", "0"], "a token is required to listen on 0.0.0.0"),
        (["--token", "short"], "at least 8"),
        (["--cert", "a.pem"], "go together"),
        (["--cert", "a.pem", "--key", "b.pem"], "cannot be used"),
        (["--port", "99999"], "cannot listen"),
        (["--memory-mb", "0"], "more than 0"),
    ],
)
def test_an_agent_that_may_not_start_says_why(arguments, reason, monkeypatch):
    monkeypatch.delenv("FACTORY_AGENT_TOKEN", raising=False)
    with pytest.raises(Refused, match=reason):
        make_server(parser("agent").parse_args(arguments), COMMAND)


def test_it_listens_to_this_machine_alone_unless_told_otherwise_and_says_what_plain_http_is():
    options = parser("agent").parse_args(["--port", "0"])
    server = make_server(options, COMMAND)
    try:
        assert server.server_address[0] == "127.0.0.1"
        assert not any("plain HTTP" in line for line in greeting(server, options))
        options.host = "0.0.0.0"
        [warning] = [line for line in greeting(server, options) if "plain HTTP" in line]
    finally:
        server.server_close()
    assert "a network you trust" in warning
    assert "--cert" in warning


def test_tokens_are_compared_in_constant_time(monkeypatch):
    from factory.devices import agent_server, browser_link

    compared = []

    def compare(a, b):
        compared.append((a, b))
        return hmac.compare_digest(a, b)

    for module in (agent_server, browser_link):
        monkeypatch.setattr(module, "hmac", SimpleNamespace(compare_digest=compare))
    server = make_server(parser("agent").parse_args(["--port", "0", "--token", TOKEN]), COMMAND)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert post(SimpleNamespace(port=server.server_address[1]), b"", token="wrong")[0] == 401
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert compared == [(b"Bearer wrong", b"Bearer " + TOKEN.encode())]
    link = browser_link.Link()
    with contextlib.suppress(Exception):
        link.pair("guess", {})
    assert compared[1] == (b"guess", link.token.encode())


def test_no_shell_is_started_anywhere_in_the_package():
    """Programs get lists of arguments: nothing of the wire or of a device is ever parsed."""
    found = []
    for path in (ROOT / "factory").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            shell = any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords)
            if shell or name in SHELLS:
                found.append(f"{path.name}:{node.lineno} {name}")
    assert found == []


def test_adding_a_board_writes_a_profile_without_its_token(agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    answer = add_device(agent.url, token=TOKEN, id="my-board", tier="mid")
    text = Path(answer["path"]).read_text()
    assert TOKEN not in text
    profile = load_profile("my-board")
    assert profile.chip == answer["facts"]["chip"]
    assert (profile.transport, profile.threads, profile.agent.url) == ("agent", 1, agent.url)
    if os.name == "posix":
        assert stat.S_IMODE(Path(answer["token_path"]).stat().st_mode) == 0o600
    assert load_token("my-board") == TOKEN
    AgentDevice.connect(profile).close()
    with pytest.raises(InputError, match="--replace"):
        add_device(agent.url, token=TOKEN, id="my-board")
    with pytest.raises(InputError, match=r"no QNNExecutionProvider.*available"):
        add_device(agent.url, token=TOKEN, execution_provider="QNNExecutionProvider")
    with pytest.raises(InputError, match=r"agent\.url"):
        add_device("ftp://board", token=TOKEN)
    [entry] = [e for e in devices(check=True)["devices"] if e["id"] == "my-board"]
    assert entry["reached"] == "yes"
    away = text.replace(f":{agent.port}", ":9")
    Path(answer["path"]).with_name("away.toml").write_text(away.replace("my-board", "away"))
    [entry] = [e for e in devices(check=True)["devices"] if e["id"] == "away"]
    assert "does not answer" in entry["error"]
    monkeypatch.setenv("FACTORY_TOKEN_MY_BOARD", "another")
    assert load_token("my-board") == "another"
    other = profile.model_copy(update={"chip": "another chip"})
    with pytest.raises(InputError, match="another chip answers for device 'my-board'"):
        AgentDevice(other, token=TOKEN).describe()


def test_https_with_an_own_certificate(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=agent", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(
            [*command, "-keyout", str(key), "-out", str(cert), *names],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl to make a certificate")
    with RunningAgent("--cert", str(cert), "--key", str(key)) as agent:
        trusting = agent.profile("tls", agent={"ca_file": str(cert)})
        with AgentDevice(trusting, token="") as device:
            assert device.time_many([tiny_models.add()], QUICK)[0].ok
        with pytest.raises(InputError, match=r"is not trusted .*ca_file"):
            AgentDevice(agent.profile("tls"), token="").describe()
        plain = agent.profile(
            "tls", agent={"url": agent.url.replace("https", "http")}, patience_s=0
        )
        with pytest.raises(InputError, match=r"does not answer"):
            AgentDevice(plain, token="").client.facts()


def test_the_gate_waits_for_a_cool_and_idle_chip_but_not_for_ever():
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    heat = iter([90.0, 80.0, 70.0])
    said: list[str] = []
    gate = Gate(75, 0.5, 60, lambda: now[0], sleep, lambda: next(heat), lambda: 0.1)
    assert gate.wait(said.append) == ""
    assert said == ["the chip is at 90 C, over 75 C", "the chip is at 80 C, over 75 C"]
    busy = Gate(75, 0.5, 60, lambda: now[0], sleep, lambda: None, lambda: 1.7)
    started = now[0]
    assert busy.wait(said.append) == "other work keeps 1.7 cores busy"
    assert now[0] - started == 60
    assert busy.wait(said.append) == "other work keeps 1.7 cores busy"
    assert now[0] - started == 60  # it does not wait again at once
    now[0] += 400
    busy.wait(said.append)
    assert now[0] - started == 520


def test_arrays_travel_both_ways(device):
    images = np.random.default_rng(0).standard_normal((5, 8, 8, 8)).astype(np.float32)
    model = tiny_models.conv(8, 8)
    with LocalDevice(DeviceProfile(id="t1", threads=1)) as local:
        np.testing.assert_array_equal(
            device.run_batch(model, images), local.run_batch(model, images)
        )
    with pytest.raises(InputError, match=r"device 'board'.*Required inputs"):
        device.run(tiny_models.add(), {"zzz": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match="weights in another file"):
        device.run(tiny_models.external(), {})


def test_a_plan_of_today_passes_and_a_fault_of_the_agent_is_told(monkeypatch):
    from factory.devices.agent_jobs import Jobs, Limits

    plan = {**asdict(QUICK), **{k: True for k, v in asdict(QUICK).items() if v is False}}
    jobs = Jobs(Limits(), Gate(max_busy_cores=1000.0, max_temperature_c=1000.0))
    header = {"command": "time", "config": CONFIG, "plan": plan, "rounds": 1}
    said: list = []
    try:
        last, _ = jobs.handle(header, [tiny_models.add()], said.append)
        assert last["timings"][0]["status"] == "ok"
        monkeypatch.setattr(LocalDevice, "time_many", lambda *_, **__: 1 / 0)
        last, _ = jobs.handle(header, [tiny_models.add()], said.append)
    finally:
        jobs.close()
    assert (last["event"], last["what"]) == ("error", "the agent itself failed")
    assert "ZeroDivisionError" in last["why"]
