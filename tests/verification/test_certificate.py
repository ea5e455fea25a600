"""A certificate is written once and then finds every change by name."""

import functools
import json

import numpy as np
import onnx
import pytest

from factory.core.errors import InputError
from factory.core.files import sha256_bytes
from factory.devices.base import TimingPlan, open_device
from factory.devices.local import LocalDevice
from factory.devices.profile import DeviceProfile
from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import GraphBuilder
from factory.pipeline.recipe import TierSection
from factory.pipeline.stages.verify import further_limits
from factory.verification import recheck
from factory.verification.certificate import Certificate, expiry
from factory.verification.certify import accuracy_part, certify
from factory.verification.recheck import check_file, check_on_device
from factory.verification.verify import verify_model

PLAN = TimingPlan(min_runs=5, max_runs=20, min_time_ms=5.0)
TODAY = "2026-03-01T00:00:00Z"
LABELS = [f"class {i}" for i in range(10)]


def write_model(path, labels=LABELS, bias=0.0):
    b = GraphBuilder("small")
    x = b.input("image", (1, 3, 16, 16))
    x = b.relu(b.conv(x, 8, 3, padding=1))
    x = b.linear(b.global_avg_pool(x), 10)
    model = to_onnx(b.finish([x]))
    if bias:
        for weight in model.graph.initializer:
            array = onnx.numpy_helper.to_array(weight) + np.float32(bias)
            weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    props = {"class_names": json.dumps(labels), "precision": "fp32", "target": "onnx-fp32"}
    onnx.helper.set_model_props(model, props)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def device(any_load):
    with open_device(DeviceProfile(id="here-t1", threads=1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def issued(device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    path = write_model(folder / "model.onnx")
    result = verify_model(path, device, max_latency_ms=1e4, plan=PLAN, rounds=3, pause_s=0.0)
    labels = np.arange(40) % 10
    accuracy = accuracy_part(np.where(labels == 3, 0, labels), labels, "made-up", fp32=0.95)
    certificate = certify(
        path, device, result.to_dict(), accuracy=accuracy, macs=123, sustained_s=0.2, issued=TODAY
    )
    certificate.save(folder / "certificate.json")
    return folder, Certificate.load(folder / "certificate.json")


def test_peak_memory_is_that_of_the_process_that_runs_the_model(device, tmp_path):
    held = np.ones(50_000_000)  # 400 MB here: a child must not inherit them
    path = write_model(tmp_path / "model.onnx")
    found = device.start_up(path)
    assert 10e6 < found["runtime_memory_bytes"] <= found["peak_memory_bytes"] < held.nbytes


def test_every_budget_is_listed_with_what_is_left_of_it(device, tmp_path):
    path = write_model(tmp_path / "model.onnx")
    result = verify_model(path, device, max_latency_ms=1e4, plan=PLAN, rounds=3, pause_s=0.0)
    tier = TierSection(
        name="entry", device="here-t1", max_latency_ms=1e4,
        max_macs=2e6, max_params=9e3, max_peak_memory_mb=0.1,
    )  # fmt: skip
    also = [
        {"device_id": "board", "max_latency_ms": 5.0, "median_ms": 4.0},
        {"device_id": "phone", "max_latency_ms": 2.0, "median_ms": None},
    ]
    found = {"also": also, "macs": 1_500_000, "params": 9_900, "peak_memory_mb": 0.1}
    further = further_limits(tier, found)
    budget = certify(path, device, result.to_dict(), limits=further, sustained_s=0.0).budget
    own, *others = budget.limits
    assert (own.name, own.device_id, own.limit) == ("latency_ms", "here-t1", 1e4)
    assert own.value == result.median_ms
    assert own.margin_percent == pytest.approx(result.margin_percent)
    assert own.holds
    assert budget.max_macs == 2e6
    assert [(p.name, p.device_id, p.value, p.limit, p.holds) for p in others] == [
        ("latency_ms", "board", 4.0, 5.0, True),
        ("latency_ms", "phone", None, 2.0, False),
        ("macs", "", 1_500_000, 2e6, True),
        ("params", "", 9_900, 9e3, False),
        ("peak_memory_mb", "", 0.1, 0.1, True),
    ]
    margins = [p.margin_percent for p in others]
    assert margins == [pytest.approx(m) if m is not None else None for m in (20, None, 25, -10, 0)]


def test_a_certificate_without_the_list_keeps_its_seal(issued):
    _, c = issued
    value = c.model_dump(mode="json", exclude={"seal"})
    del value["budget"]["limits"]  # as it was written before
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    old = Certificate.model_validate(value | {"seal": sha256_bytes(text.encode())})
    assert old.seal_holds


def test_cold_start_is_never_that_of_another_runtime(device, tmp_path):
    path = write_model(tmp_path / "model.onnx")
    missing = DeviceProfile(id="here-ov", threads=1, execution_provider="OpenVINOExecutionProvider")
    with pytest.raises(InputError, match="no OpenVINOExecutionProvider"):
        LocalDevice(missing).start_up(path)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="does not run on device 'here-t1'"):
        device.start_up(tmp_path / "broken.onnx")


def failed(checks):
    return {check.name: check.detail for check in checks if not check.ok}


def test_what_it_says(issued):
    _, c = issued
    assert c.seal_holds
    assert c.latency.median_interval_ms[0] <= c.latency.median_ms <= c.latency.median_interval_ms[1]
    assert c.latency.rounds >= 3
    assert c.latency.runs >= 15
    assert c.latency.cold_start_ms == pytest.approx(c.latency.session_ms + c.latency.first_run_ms)
    assert c.latency.sustained["windows"] >= 3
    assert c.peak_memory_bytes > 10e6
    assert c.placement == {"CPUExecutionProvider": sum(c.placement.values())}
    assert c.budget.verdict == "holds"
    assert c.budget.interval_holds
    assert c.accuracy.value == 0.9
    assert c.accuracy.interval[0] < 0.9 < c.accuracy.interval[1]
    assert c.accuracy.drop_points == pytest.approx(5.0)
    assert c.model.class_names == LABELS
    assert c.expires == "2026-08-28T00:00:00Z"
    assert len(c.probe.outputs) == 10


def test_nothing_changed(issued, device):
    folder, c = issued
    checks = check_file(c, folder / "model.onnx", TODAY)
    checks += check_on_device(c, folder / "model.onnx", device, measure=False)
    assert failed(checks) == {}


def test_latency_and_placement_are_measured_again(issued, device, monkeypatch):
    folder, c = issued
    quick = functools.partial(verify_model, plan=PLAN, rounds=2, pause_s=0.0)
    monkeypatch.setattr(recheck, "verify_model", quick)
    checks = check_on_device(c, folder / "model.onnx", device)
    assert failed(checks) == {}
    assert {"latency", "placement"} <= {check.name for check in checks}
    tight = c.budget.model_copy(update={"max_latency_ms": 1e-9})
    checks = check_on_device(c.model_copy(update={"budget": tight}), folder / "model.onnx", device)
    assert list(failed(checks)) == ["latency"]


def test_a_tampered_file(issued, device, tmp_path):
    _, c = issued
    other = write_model(tmp_path / "model.onnx", bias=0.5)
    assert list(failed(check_file(c, other, TODAY))) == ["model file"]
    assert "outputs" in failed(check_on_device(c, other, device, measure=False))
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(other.read_bytes()[:100])
    assert set(failed(check_file(c, cut, TODAY))) == {"model file", "labels"}
    assert "is not there" in failed(check_file(c, tmp_path / "no.onnx", TODAY))["model file"]


def test_a_tampered_certificate(issued):
    folder, c = issued
    better = c.latency.model_copy(update={"median_ms": 0.001})
    edited = c.model_copy(update={"latency": better})
    assert list(failed(check_file(edited, folder / "model.onnx", TODAY))) == ["certificate"]


def test_an_expired_certificate_and_a_changed_profile(issued, device):
    folder, c = issued
    late = failed(check_file(c, folder / "model.onnx", "2026-09-01T00:00:00Z"))
    assert list(late) == ["date"]
    assert "expired on 2026-08-28" in late["date"]
    with open_device(DeviceProfile(id="here-t1", threads=1, notes="cooler mounted")) as changed:
        checks = check_on_device(c, folder / "model.onnx", changed, measure=False)
    assert list(failed(checks)) == ["chip profile"]


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("runtime_version", "1.0.0", "runtime version"),
        ("chip", "another chip", "chip"),
        ("threads", 7, "threads"),
    ],
)
def test_another_runtime_chip_or_thread_count(issued, device, key, value, name):
    folder, c = issued
    fingerprint = {**c.chip.fingerprint, key: value}
    old = c.model_copy(update={"chip": c.chip.model_copy(update={"fingerprint": fingerprint})})
    checks = check_on_device(old, folder / "model.onnx", device, measure=False)
    assert list(failed(checks)) == [name]
    assert str(value) in failed(checks)[name]


def test_a_missing_label_inside_and_beside(issued, tmp_path):
    folder, c = issued
    fewer = write_model(tmp_path / "model.onnx", labels=LABELS[:-1])
    told = failed(check_file(c, fewer, TODAY))
    assert set(told) == {"model file", "labels"}
    assert "'class 9'" in told["labels"]
    (folder / "labels.txt").write_text("\n".join(LABELS[:4] + LABELS[5:]) + "\n")
    told = failed(check_file(c, folder / "model.onnx", TODAY))
    (folder / "labels.txt").unlink()
    assert list(told) == ["labels.txt"]
    assert "'class 4'" in told["labels.txt"]


def test_files_that_are_no_certificates(issued, tmp_path):
    folder, _ = issued
    value = json.loads((folder / "certificate.json").read_text())
    (tmp_path / "new.json").write_text(json.dumps(value | {"schema_version": 2}))
    with pytest.raises(InputError, match="schema version 2"):
        Certificate.load(tmp_path / "new.json")
    (tmp_path / "odd.json").write_text(json.dumps(value | {"medain": 1}))
    with pytest.raises(InputError, match="unknown key 'medain'"):
        Certificate.load(tmp_path / "odd.json")
    with pytest.raises(InputError, match="does not exist"):
        Certificate.load(tmp_path / "no.json")


def test_expiry():
    assert expiry("2026-01-01T12:00:00Z", 30) == "2026-01-31T12:00:00Z"
