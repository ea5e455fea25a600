"""Phones over adb: Debian's real client against simulated phones on loopback."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import itertools

import phone_rack
import tiny_models

from factory.core.errors import InputError
from factory.devices import adb_perf_test
from factory.devices.adb import AdbDevice
from factory.devices.adb_client import Adb, parse_devices
from factory.devices.adb_facts import fastest_cores, parse_properties
from factory.devices.adb_job import file_names, read_results
from factory.devices.adb_link import PhoneLost, elf_abi, runner_path
from factory.devices.adb_options import AdbOptions
from factory.devices.base import TimingPlan
from factory.devices.profile import DeviceProfile, load_profile
from factory.pipeline.farm import run_farm
from factory.pipeline.profiling_plan import random_networks
from factory.pipeline.shapes import cell_space
from factory.pipeline.verbs.add_device import add_device
from factory.profiling.in_place import in_place_times

QUICK = TimingPlan(min_runs=6, max_runs=30, min_time_ms=2.0, warmup_time_ms=5.0)
needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason=phone_rack.ADB_MISSING)


@pytest.fixture(scope="module")
def rack(tmp_path_factory):
    with phone_rack.PhoneRack(tmp_path_factory.mktemp("rack"), count=2) as rack:
        yield rack


@pytest.fixture(scope="module")
def device(rack):
    with AdbDevice.connect(rack.profile("phone")) as device:
        yield device


def marked(model: bytes, word: str) -> bytes:
    proto = onnx.load_from_string(model)
    proto.doc_string = word
    return proto.SerializeToString()


@needs_adb
def test_a_phone_says_what_it_is(device, rack):
    facts = device.describe()
    phone = facts["phone"]
    assert facts["simulated"] is True
    assert any("simulated" in note for note in facts["notes"])
    assert facts["fingerprint"]["chip"] == "android/arm64-v8a/QTI QCM6490/Simulated 5/8c"
    assert (phone["soc"], phone["abi"], phone["android"]) == ("QTI QCM6490", "arm64-v8a", "14")
    assert (phone["battery_percent"], phone["battery_c"], phone["plugged"]) == (83, 29.1, True)
    assert phone["thermal_c"] == 41.2
    assert phone["memory_mb"] == 7474
    assert [core["max_mhz"] for core in phone["cores"]] == [1958] * 4 + [2400] * 4
    assert facts["cores"] == [7]
    assert any("clock is not held" in note for note in facts["notes"])


@needs_adb
def test_a_block_is_timed_and_nothing_stays_on_the_phone(rack):
    with AdbDevice.connect(rack.profile("phone", 1)) as device:
        plan = TimingPlan(min_runs=6, max_runs=30, min_time_ms=2.0, profile_runs=4)
        models = [tiny_models.conv(16, 16), b"garbage", tiny_models.add()]
        conv, bad, add = device.time_many(models, plan, rounds=2)
        assert (conv.status, bad.status, add.status) == ("ok", "failed", "ok")
        assert conv.min_ms > add.min_ms > 0
        assert conv.providers == {"CPUExecutionProvider": len(conv.nodes)}
        assert sum(node["share"] for node in conv.nodes) == pytest.approx(1)
        assert 0 <= conv.reorder_share < 1
        assert "PROTOBUF" in bad.reason
        [folder] = rack.left_behind(1)
        assert re.fullmatch(r"factory-[0-9a-f]{12}", folder)
    assert rack.left_behind(1) == []


@needs_adb
def test_kernels_are_timed_in_place_on_a_phone(rack):
    spec = cell_space(4, 2, "3x8x8", "cifar", 10)
    [(counts, model)] = random_networks([spec], "f32", 1, 4, 0)
    plan = TimingPlan(min_runs=6, min_time_ms=2.0, profile_runs=6, optimised_graph=True)
    with AdbDevice.connect(rack.profile("phone")) as device:
        [timing] = device.time_many([model], plan)
    assert timing.ok, timing.reason
    times = in_place_times(model, timing)
    assert {found.kernel: found.count for found in times} == dict(counts)
    assert sum(found.count * found.ms for found in times) == pytest.approx(timing.median_ms)


@needs_adb
@pytest.mark.parametrize(
    ("word", "reason"),
    [("CRASH", "died of SIGSEGV"), ("HANG", "timed out after 8 s while making the session")],
)
def test_only_the_culprit_of_a_block_fails(rack, word, reason):
    good = tiny_models.add()
    with AdbDevice.connect(rack.profile("phone", timeout_s=8.0)) as device:
        timings = device.time_many([good, marked(good, word), good], QUICK)
        assert [timing.status for timing in timings] == ["ok", "failed", "ok"]
        assert reason in timings[1].reason


@needs_adb
def test_a_cable_pulled_in_the_middle_loses_nothing(rack):
    phone = rack.phones[0]
    phone.hang_ups, phone.most_hang_ups = 0, 1
    good = tiny_models.add()
    with AdbDevice.connect(rack.profile("phone")) as device:
        timings = device.time_many([good, marked(good, "VANISH"), good], QUICK)
    assert phone.hang_ups == 1
    assert [timing.status for timing in timings] == ["ok"] * 3


@needs_adb
def test_a_phone_that_stays_away_says_how_to_go_on(tmp_path):
    with phone_rack.PhoneRack(tmp_path) as rack:
        profile = rack.profile("phone", adb={"patience_s": 0.5})
        with AdbDevice.connect(profile) as device:
            rack.phones[0].close()
            with pytest.raises(PhoneLost, match=r"is gone .*run the same command, it goes on"):
                device.time_many([tiny_models.add()], QUICK)
        with pytest.raises(InputError, match=r"adb sees no phone|does not answer"):
            AdbDevice.connect(profile)


@needs_adb
def test_what_a_phone_answers_is_never_run(rack, device):
    evil = "x; touch /data/evil $(touch /data/evil) `touch /data/evil` 'q'"
    adb = Adb(rack.phones[0].address)
    code, _said = adb.shell("ls", evil)
    assert code != 0
    assert not (rack.phones[0].jail / "data" / "evil").exists()
    with pytest.raises(InputError, match="no serial number"):
        Adb("-a; reboot")
    with pytest.raises(InputError, match="serial"):
        load_options(serial="x y")
    with pytest.raises(InputError, match="folder"):
        load_options(folder="/data/$(reboot)")
    odd = rack.profile("phone", provider_options={"a key; reboot": "$(reboot)\nkind run"})
    with AdbDevice.connect(odd) as other:
        assert other.time_many([tiny_models.add()], QUICK)[0].ok
    assert not any("reboot" in command for command in rack.phones[0].commands)


def load_options(**fields):
    from factory.core.validation import validate

    return validate(AdbOptions, fields, where="a test")


@needs_adb
@pytest.mark.heavy
def test_two_phones_of_one_kind_share_a_profile(rack, tmp_path):
    spec = cell_space(4, 2, "3x8x8", "cifar", 10)
    profiles = [rack.profile("one", 0, timeout_s=300.0), rack.profile("two", 1, timeout_s=300.0)]
    [group] = run_farm(profiles, [spec], tmp_path, networks=1, pool=4, effort="quick", seed=0)
    assert group["rows"] == group["of"]
    assert [entry["lost"] for entry in group["devices"]] == ["", ""]
    assert [entry["failed"] for entry in group["devices"]] == [0, 0]
    assert all(entry["simulated"] for entry in group["devices"])
    assert all(entry["measured"] > 0 for entry in group["devices"])
    assert sum(entry["measured"] for entry in group["devices"]) == group["of"]


@needs_adb
def test_adding_a_phone_writes_its_profile(rack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    address = rack.phones[0].address
    answer = add_device(f"adb:{address}", runner=str(rack.runner), threads="4")
    profile = load_profile(answer["device"])
    assert answer["device"] == "simulated-5-t4-fp32"
    assert (profile.transport, profile.adb.serial, profile.threads) == ("adb", address, 4)
    assert profile.chip == answer["facts"]["chip"]
    assert answer["missing"] == ""
    monkeypatch.delenv("FACTORY_ANDROID_RUNNER", raising=False)
    bare = add_device(f"adb:{address}", id="bare")
    assert "no program to run on the phone" in bare["missing"]
    assert "onnxruntime_perf_test" in bare["missing"]
    with pytest.raises(InputError, match="does not exist"):
        add_device(f"adb:{address}", id="other", runner=str(tmp_path / "none"))
    assert not (tmp_path / "device_profiles" / "other.toml").exists()
    with pytest.raises(InputError, match=r"several phones .*serial number"):
        add_device("adb")
    other = profile.model_copy(update={"chip": "another"})
    with pytest.raises(InputError, match=r"another phone answers .*devices add adb"):
        AdbDevice.connect(other)


def test_what_adb_lists_is_read_strictly():
    text = (
        "List of devices attached\n* daemon started *\n"
        "emulator-5554          device product:sdk model:Pixel_8 transport_id:1\n"
        "R5CT1                  unauthorized usb:1-1\n"
        "-rm\tdevice\n\n"
    )
    phones = parse_devices(text)
    assert [(p.serial, p.state, p.model) for p in phones] == [
        ("emulator-5554", "device", "Pixel_8"),
        ("R5CT1", "unauthorized", ""),
    ]
    properties = parse_properties("[ro.a]: [b\x1b[2J]\nnoise\n[ro.c]: []\n")
    assert properties["ro.c"] == ""
    assert "\x1b" not in str(properties)


def test_the_fastest_cores_are_taken():
    cores = [{"core": c, "max_mhz": m} for c, m in enumerate([1800, 1800, 2800, 2400])]
    assert fastest_cores(cores, 1) == [2]
    assert fastest_cores(cores, 2) == [2, 3]
    assert fastest_cores([{"core": c, "max_mhz": None} for c in range(4)], 2) == [2, 3]


def test_a_missing_or_foreign_runner_is_told_with_the_steps(tmp_path, monkeypatch):
    monkeypatch.delenv("FACTORY_ANDROID_RUNNER", raising=False)
    with pytest.raises(InputError, match=r"no program .*NDK .*onnxruntime_perf_test"):
        runner_path(AdbOptions(), "phone", "arm64-v8a")
    with pytest.raises(InputError, match="does not exist"):
        runner_path(AdbOptions(runner=str(tmp_path / "none")), "phone", "arm64-v8a")
    for machine, abi in ((183, "arm64-v8a"), (62, "x86_64"), (7, "machine 7")):
        program = tmp_path / f"runner{machine}"
        program.write_bytes(b"\x7fELF" + bytes(14) + bytes([machine, 0]))
        assert elf_abi(program) == abi
    with pytest.raises(InputError, match=r"built for x86_64, the phone runs arm64-v8a"):
        runner_path(AdbOptions(runner=str(tmp_path / "runner62")), "phone", "arm64-v8a")


def test_results_that_are_cut_or_foreign_are_refused(tmp_path):
    for text in ("", "[]\n", '{"pin_note": ""}\n{"index": 1}\n', '{"pin_note": ""}\n{"ind'):
        (tmp_path / "results.jsonl").write_text(text)
        with pytest.raises(ValueError, match=r"."):
            read_results(tmp_path)


@pytest.mark.parametrize("name", ["..", "/etc/passwd", "trace/../x.json", "trace0", "$(x).json"])
def test_files_that_a_phone_names_stay_in_their_folder(name):
    assert file_names("trace", [{"trace": "trace0_2026-11.json"}, {}], "trace") == [
        "trace0_2026-11.json"
    ]
    with pytest.raises(ValueError, match="a file called"):
        file_names("trace", [{"trace": name}], "trace")


def test_perf_test_is_called_and_read_by_its_own_rules(tmp_path):
    profile = DeviceProfile(
        id="p",
        execution_provider="QNNExecutionProvider",
        provider_options={"backend_type": "htp"},
    )
    words = adb_perf_test.arguments(profile, 4, "m0.onnx", "r0.csv", 50, "trace0")
    assert words[-2:] == ["m0.onnx", "r0.csv"]
    pairs = dict(itertools.pairwise(words))
    assert (pairs["-e"], pairs["-i"], pairs["-r"], pairs["-x"], pairs["-p"]) == (
        "qnn",
        "backend_type|htp",
        "50",
        "4",
        "trace0",
    )
    (tmp_path / "r.csv").write_text(
        "model,0.0012,1000,50,0\nmodel,0.0011,1000,50,1\n\nMin Latency is 0.0011sec\n"
    )
    samples = adb_perf_test.parse_results(tmp_path / "r.csv")
    assert samples == [1200000, 1100000]
    assert adb_perf_test.runs_per_round(samples, TimingPlan(min_time_ms=110.0), 4) == 24
    (tmp_path / "r.csv").write_text("")
    with pytest.raises(ValueError, match="no times"):
        adb_perf_test.parse_results(tmp_path / "r.csv")


@needs_adb
def test_the_users_own_perf_test_measures_too(rack, tmp_path):
    program = tmp_path / "onnxruntime_perf_test"
    program.write_text(
        "#!/bin/sh\n"
        'while [ $# -gt 2 ]; do case "$1" in -r) runs=$2;; -p) trace=$2;; esac; shift; done\n'
        'grep -q CRASH "$1" && { echo "no such model" >&2; exit 1; }\n'
        'i=0; while [ $i -lt $runs ]; do echo "m,0.00$((i % 3 + 1)),1,1,$i" >> "$2"; '
        "i=$((i + 1)); done\n"
        '[ -z "$trace" ] || echo \'[{"cat": "Node", "name": "c_kernel_time", "dur": 7, '
        '"args": {"op_name": "Conv", "provider": "CPUExecutionProvider"}}]\' > ${trace}_1.json\n'
    )
    program.chmod(0o755)
    profile = rack.profile("own", adb={"runner": str(program), "runtime_version": "1.22.0"})
    with AdbDevice.connect(profile) as device:
        plan = TimingPlan(min_runs=6, max_runs=12, min_time_ms=2.0, profile_runs=2)
        good = tiny_models.add()
        timings = device.time_many([good, marked(good, "CRASH")], plan, rounds=2)
        assert [timing.status for timing in timings] == ["ok", "failed"]
        assert timings[0].median_ms == pytest.approx(2.0)
        assert timings[0].providers == {"CPUExecutionProvider": 1}
        assert "no such model" in timings[1].reason
        facts = device.describe()
        assert facts["fingerprint"]["runtime_version"] == "1.22.0"
        with pytest.raises(InputError, match=r"does not return outputs.*android_runner"):
            device.run(good, {"a": np.zeros((1, 4, 8, 8), np.float32)})


@needs_adb
def test_two_phones_work_at_once(rack):
    devices = [AdbDevice.connect(rack.profile(f"p{i}", i)) for i in range(2)]
    results: dict[int, list] = {}

    def work(index: int) -> None:
        results[index] = devices[index].time_many([tiny_models.add()] * 3, QUICK)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for device in devices:
        device.close()
    assert all(timing.ok for timings in results.values() for timing in timings)
