"""The browser transport without a browser: pairing, queue, losses, refusals, odd answers."""

from __future__ import annotations

import dataclasses
import datetime
import ssl
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from factory.core.errors import InputError
from factory.core.progress import SILENT
from factory.devices import browser_certificate, browser_facts, browser_files, browser_server
from factory.devices.base import TimingPlan
from factory.devices.browser import BrowserDevice
from factory.devices.browser_boundary import Boundary, io_bytes
from factory.devices.browser_launch import HeadlessChromium, show_address
from factory.devices.browser_options import BrowserOptions
from factory.devices.browser_timings import read_result, timing_of
from factory.devices.profile import DeviceProfile

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models
from fake_page import FACTS, FakePage, ok

PLAN = TimingPlan(min_runs=3, max_runs=5, min_time_ms=1.0)


def timed(raw, *more):
    return timing_of(read_result(raw, most_traced_runs=100), *more)


def profile(**more) -> DeviceProfile:
    options = {"port": 0, "patience_s": 60.0, **more.pop("browser", {})}
    settings = {"id": "page", "chip": "any", "threads": 1, **more}
    return DeviceProfile(
        transport="browser",
        runtime="ort-web",
        browser=BrowserOptions(**options),
        **{"execution_provider": "wasm", **settings},
    )


@pytest.fixture
def opened(monkeypatch):
    """A device and the page that has paired with it."""
    monkeypatch.setattr(browser_server, "ort_files", dict)
    monkeypatch.setattr("factory.devices.browser.ort_version", lambda: "1.30.0")
    made = []

    def open_(facts=None, pair=True, **more):
        pages, threads = [], []

        def announce(url, digest):
            page = FakePage(url, facts)
            pages.append(page)
            if pair:
                threads.append(page.in_background(page.pair))

        device = BrowserDevice(profile(**more), announce)
        made.append(device)
        device.start()
        threads[0].join(60)  # the page knows its session
        return device, pages[0]

    yield open_
    for device in made:
        device.link.farewell_seen = True
        device.close()


def answer_all(page, timing=ok):
    """Answer one block of models."""
    job = page.work()
    assert job["kind"] == "time"
    for index in job["todo"]:
        assert page.ask("GET", f"/api/job/{job['job']}/model/{index}")[0] == 200
        page.tell(f"/api/job/{job['job']}/result/{index}", timing())


def test_models_go_out_and_times_come_back(opened):
    device, page = opened()
    models = [tiny_models.add(), tiny_models.conv()]
    page.in_background(lambda: answer_all(page))
    timings = device.time_many(models, PLAN, rounds=2)
    assert [t.median_ms for t in timings] == [2.0, 2.0]
    assert [t.providers for t in timings] == [
        {"wasm": 1},
        {"wasm": 2},
    ]


def test_the_token_is_good_for_one_page(opened):
    _, page = opened()
    other = FakePage(f"http://localhost:{page.port}/#token={page.token}")
    assert other.pair() == 409
    other.token = "guess"
    assert other.pair() == 403
    assert other.ask("GET", "/api/work")[0] == 403
    other.session = "x" * 32
    assert other.hello() == 403
    assert (
        other.ask("GET", "/api/work", headers={"X-Session": "\udcff".encode("latin1", "replace")})[
            0
        ]
        == 403
    )


def test_the_page_is_served_to_this_machine_alone_unless_told_otherwise(opened):
    device, _ = opened()
    listening = [
        c.laddr.ip
        for c in psutil.Process().net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == device._server.port
    ]
    assert listening == ["127.0.0.1"]


def test_a_newer_tab_takes_over(opened):
    _, page = opened()
    second = FakePage(f"http://localhost:{page.port}/#token={page.token}")
    second.session = page.session
    assert second.hello() == 200
    status, _, body = page.ask("GET", "/api/work")
    assert status == 410
    assert b"another tab" in body


def test_a_reload_in_the_middle_goes_on_with_what_is_left(opened):
    device, page = opened()

    def course():
        job = page.work()
        page.tell(f"/api/job/{job['job']}/tick", {"index": 1, "phase": "warming up"})
        page.tell(f"/api/job/{job['job']}/result/0", ok(1.0))
        assert page.hello() == 200  # the page was reloaded
        again = page.work()
        assert again["todo"] == [1, 2]
        for index in again["todo"]:
            page.tell(f"/api/job/{job['job']}/result/{index}", ok(3.0))

    page.in_background(course)
    timings = device.time_many([tiny_models.add()] * 3, PLAN)
    assert [timing.median_ms for timing in timings] == [1.0, 3.0, 3.0]


def test_a_model_that_loses_the_page_again_and_again_is_given_up(opened):
    device, page = opened()

    def course():
        while (job := page.work())["kind"] == "time":
            path = f"/api/job/{job['job']}"
            if 1 in job["todo"]:
                page.tell(f"{path}/tick", {"index": 1, "phase": "making the session"})
                page.hello()  # the tab ran out of memory
            else:
                for index in job["todo"]:
                    page.tell(f"{path}/result/{index}", ok())

    page.in_background(course)
    timings = device.time_many([tiny_models.add()] * 3, PLAN)
    assert [timing.status for timing in timings] == ["ok", "failed", "ok"]
    assert timings[1].reason == "the page was lost 3 times while making the session"


def test_losses_without_a_culprit_lead_to_one_model_at_a_time(opened):
    device, page = opened()
    offered = []

    def course():
        while (job := page.work())["kind"] == "time":
            offered.append(job["todo"])
            path = f"/api/job/{job['job']}"
            if job["todo"][0] == 0:
                page.hello()
            else:
                page.tell(f"{path}/result/{job['todo'][0]}", ok())

    page.in_background(course)
    timings = device.time_many([tiny_models.add()] * 2, PLAN)
    assert [timing.status for timing in timings] == ["failed", "ok"]
    assert offered[:3] == [[0, 1], [0, 1], [0]]


def test_a_page_that_stays_away_is_an_input_error(opened):
    device, _ = opened(browser={"patience_s": 0.3})
    with pytest.raises(InputError, match=r"not been heard of for 0\.3 s; run the same command"):
        device.time_many([tiny_models.add()], PLAN)


def test_nobody_opens_the_page(opened):
    with pytest.raises(InputError, match=r"no browser opened the page within 0\.2 s"):
        opened(pair=False, browser={"patience_s": 0.2})


def test_outputs_come_back_as_arrays(opened):
    import io

    from factory.core.frames import pack_arrays, read_frame, write_frame

    device, page = opened()

    def course():
        job = page.work()
        frame = read_frame(io.BytesIO(page.ask("GET", f"/api/job/{job['job']}/arrays")[2]))
        assert frame[0]["arrays"][0]["name"] == "x"
        facts, blobs = pack_arrays({"y": np.arange(3, dtype=np.float32)})
        stream = io.BytesIO()
        write_frame(stream, {"reply": "outputs", "arrays": facts}, blobs)
        path = f"/api/job/{job['job']}/reply"
        assert page.ask("POST", path, stream.getvalue()[:-2])[0] == 400
        assert page.ask("POST", path, b"garbage")[0] == 400
        assert page.ask("POST", path, stream.getvalue())[0] == 200

    page.in_background(course)
    outputs = device.run(tiny_models.conv(), {"x": np.zeros(1, np.float32)})
    np.testing.assert_array_equal(outputs["y"], [0, 1, 2])


def test_the_page_is_isolated_and_self_contained(opened):
    _, page = opened()
    for path in browser_files.PAGE:
        status, headers, body = page.ask("GET", path)
        assert status == 200
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert b"//cdn" not in body
        assert b"https://" not in body
    for path in ("/../base.py", "/ort/../../base.py", "/%2e%2e/base.py", "/runner", "/api/job/1"):
        assert page.ask("GET", path)[0] in (404, 405)


def test_foreign_bodies_are_refused_and_the_server_lives(opened):
    _, page = opened()
    assert page.ask("POST", "/api/hello", b"[1]")[0] == 400
    assert page.ask("POST", "/api/hello", b"{cut")[0] == 400
    assert page.ask("POST", "/api/hello", b"x" * (browser_server.LONGEST_JSON + 10))[0] == 413
    assert page.ask("POST", "/api/hello", b"x", {"Content-Length": "99999999999"})[0] == 413
    assert page.ask("POST", "/api/hello", b"[" * 50_000)[0] == 400
    assert page.ask("POST", "/api/hello", b'{"facts": [1]}')[0] == 400
    assert page.ask("POST", "/api/job/7/result/0", ok())[0] == 404
    assert page.hello() == 200


def test_a_wrong_result_costs_its_model_alone(opened):
    device, page = opened()

    def course():
        job = page.work()
        path = f"/api/job/{job['job']}"
        assert page.ask("POST", f"{path}/reply", b"factory1")[0] == 404  # that is no run
        assert page.tell(f"{path}/result/0", ok(runs=10**30))[0] == 200
        page.tell(f"{path}/result/1", ok())

    page.in_background(course)
    bad, good = device.time_many([tiny_models.add()] * 2, PLAN)
    assert bad.reason.startswith("the page sent no proper times: runs is a number too large")
    assert good.ok


@pytest.mark.parametrize(
    "raw",
    [
        {"status": "ok"},
        ok(float("nan")),
        ok(-1.0),
        {**ok(), "p90_ms": "slow"},
        ok(runs=0),
        ok(runs=True),
        ok(events=[{"cat": "Node", "name": "x_kernel_time"}], traced_runs=2),
        ok(events=[3], traced_runs=2),
        {"status": "odd", "reason": "line\nbreak\x1b[31m"},
        {},
    ],
)
def test_an_odd_answer_is_a_failed_timing_in_one_line(raw):
    timing = timed(raw, tiny_models.add(), "wasm")
    assert timing.status == "failed"
    assert timing.reason.isprintable()


def node(name, provider, us=10):
    args = {"op_name": "Conv", "provider": provider}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": args}


def test_a_whole_fallback_is_never_a_time_of_the_accelerator():
    cpu, gpu = "CPUExecutionProvider", "WebGpuExecutionProvider"
    whole = ok(events=[node("a", cpu), node("b", cpu)] * 5, traced_runs=2)
    timing = timed(whole, tiny_models.add(), "webgpu")
    assert timing.reason == "no node ran on webgpu: the CPU took the whole model"
    assert not timed(ok(), tiny_models.add(), "webgpu").ok  # no trace: nobody knows
    part = ok(events=[node("a", gpu), node("b", cpu)] * 5, traced_runs=2)
    timing = timed(part, tiny_models.add(), "webgpu")
    assert timing.providers == {"wasm": 1, "webgpu": 1}
    assert sum(n["share"] for n in timing.nodes) == pytest.approx(1)


def test_the_boundary_is_taken_off_a_kernel():
    model = tiny_models.conv(16, 16)
    assert io_bytes(model) == (16384, 16384)
    boundary = Boundary(0.01, 1e-6, 2e-6)
    cost_ms = 0.01 + 16384e-6 + 2 * 16384e-6
    timing = timed(ok(1.0), model, "wasm", boundary)
    assert timing.median_ms * (1 - timing.reorder_share) == pytest.approx(1.0 - cost_ms)
    assert timed(ok(0.001), model, "wasm", boundary).reorder_share < 1
    assert timed(ok(1.0), model, "wasm").reorder_share == 0


def test_another_browser_than_the_profiles_is_refused(opened):
    chip = browser_facts.chip_name(FACTS)
    assert chip == "Pixel 8, Android / Chrome 150 / 9 cores / wasm simd"
    opened(chip=chip)
    with pytest.raises(InputError, match="another browser opened the page than that of"):
        opened(chip="Galaxy")


def test_threads_that_the_page_cannot_have(opened):
    plain = {**FACTS, "isolated": False, "tick_ms": 1.0}
    with pytest.raises(InputError, match=r"cannot use 2 threads.*not isolated.*HTTPS"):
        opened(plain, threads=2)
    with pytest.raises(InputError, match=r"cannot use 10 threads.*9 cores"):
        opened(threads=10)
    device, _ = opened(plain, threads="all")
    assert device.threads == 1
    assert any("one thread, timed in batches" in note for note in browser_facts.notes(plain, "all"))
    with pytest.raises(InputError, match="no WebGPU"):
        opened(execution_provider="webgpu")


def test_facts_from_the_wire_are_only_words():
    odd = {"user_agent": "x\n\x1b[2J" * 500, "hints": [], "cores": float("inf"), "tick_ms": "y"}
    for words in (browser_facts.chip_name(odd), browser_facts.identifier(odd)):
        assert words.isprintable()
        assert len(words) < 200
    assert browser_facts.identifier({**FACTS, "hints": {"model": "../../etc"}}) == "etc-chrome-150"
    assert browser_facts.notes({}, 1)[0].startswith("measured in a browser: this is not")


def test_progress_reaches_the_page(opened):
    device, page = opened()
    shown = device.mirrored(SILENT)
    page.in_background(lambda: answer_all(page))
    with shown.task("networks on page", total=8, done=4) as task:
        device.time_many([tiny_models.add()] * 3, dataclasses.replace(PLAN, references=1))
        task.advance(2)
        status = device.link.status
    assert (status["done"], status["total"], status["unit"]) == (6, 8, "networks")
    assert status["networks"] == 2
    assert status["network_ms"] == [2.0, 2.0]
    assert status["seconds_left"] is None, "two steps tell nothing yet"


def test_closing_tells_the_page(opened):
    device, page = opened()
    seen = []
    thread = page.in_background(lambda: seen.append(page.work()))
    device.__exit__(KeyboardInterrupt, None, None)
    thread.join(60)
    assert seen[0]["kind"] == "finished"
    assert seen[0]["status"]["interrupted"] is True
    assert not any(t.name == "page" for t in threading.enumerate())


def test_the_certificate_is_kept_renewed_and_private(tmp_path, monkeypatch):
    from cryptography import x509

    path, digest = browser_certificate.certificate(tmp_path / "own", ["192.168.1.7"])
    assert oct(path.stat().st_mode)[-3:] == "600"
    assert len(digest.split(":")) == 32
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(path)
    made = x509.load_pem_x509_certificate(path.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.168.1.7" in map(str, names.get_values_for_type(x509.IPAddress))
    left = made.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left.days < 398  # Safari refuses longer ones
    assert browser_certificate.certificate(tmp_path / "own", ["192.168.1.7"])[1] == digest
    assert browser_certificate.certificate(tmp_path / "own", ["10.0.0.2"])[1] != digest


def test_files_that_are_not_there_name_the_target(tmp_path):
    with pytest.raises(InputError, match=r"not in this installation.*run `make web`"):
        browser_files.ort_files(tmp_path)


def test_no_chromium(tmp_path):
    with pytest.raises(InputError, match=r"no no-such-program on this machine.*apt install"):
        HeadlessChromium("about:blank", "no-such-program")


def test_the_address_is_shown_with_a_code(capsys):
    show_address("https://192.168.1.7:8765/#token=abc", "AA:BB")
    said = capsys.readouterr().err
    assert "https://192.168.1.7:8765/#token=abc" in said
    assert "AA:BB" in said
    assert len(said.splitlines()) > 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runtime": "onnxruntime"}, "belong together"),
        ({"transport": "local"}, "belong together"),
        ({"execution_provider": "CPUExecutionProvider"}, "wasm, webgpu, webnn"),
        ({"chip": "local"}, "what the page calls its device"),
    ],
)
def test_profiles_that_do_not_fit_together(change, said):
    data = {**profile().model_dump(), **change}
    with pytest.raises(ValueError, match=said):
        DeviceProfile(**data)
