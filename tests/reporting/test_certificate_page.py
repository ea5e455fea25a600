import json

import pytest

from factory.core.errors import InputError
from factory.reporting.certificate_page import headline, render_certificate, write_certificate_page

CERTIFICATE = {
    "schema_version": 1, "issued": "2026-01-01T00:00:00Z", "expires": "2026-06-30T00:00:00Z",
    "model": {
        "file": "m<b>.onnx", "sha256": "ab" * 32, "size_bytes": 123456, "target": "int8-cpu",
        "precision": "int8", "macs": 7_000_000, "macs_convention": "multiply-adds",
        "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 3, 32, 32]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 10]}],
        "class_names": ["a", "b"], "preprocessing": {"mean": [0.5], "fit": "cover"},
    },
    "chip": {
        "device_id": "t1", "profile_sha256": "cd" * 32,
        "fingerprint": {"chip": "x86", "runtime_version": "1.32.0"},
        "flags": ["avx2"], "int8": "no VNNI", "reduced_range": True, "simulated": False,
        "notes": [],
    },
    "placement": {"CPUExecutionProvider": 12},
    "latency": {
        "rounds": 5, "runs": 500, "median_ms": 0.42, "median_interval_ms": [0.41, 0.43],
        "p10_ms": 0.4, "p10_interval_ms": [0.39, 0.41], "p90_ms": 0.5,
        "p90_interval_ms": [0.48, 0.52], "min_ms": 0.39, "spread_percent": 2.0,
        "cold_start_ms": 8.0, "first_run_ms": 1.0, "session_ms": 7.0,
        "sustained": {"seconds": 3.0, "runs": 7000, "median_ms": 0.43, "drift_percent": 1.5},
    },
    "peak_memory_bytes": 50_000_000, "memory_note": "of a process",
    "accuracy": {
        "value": 0.98, "interval": [0.96, 0.99], "correct": 353, "images": 360,
        "data": "digits", "fp32": 0.985, "drop_points": 0.5,
    },
    "accuracy_note": "", "unmeasured": "",
    "budget": {
        "max_latency_ms": 0.6, "verdict": "holds", "margin_percent": 30.0, "reasons": [],
        "limits": [
            {"name": "latency_ms", "device_id": "t2", "limit": 0.5, "value": None,
             "margin_percent": None, "holds": False},
            {"name": "params", "device_id": "", "limit": 9000.0, "value": 8100,
             "margin_percent": 10.0, "holds": True},
            {"name": "peak_memory_mb", "device_id": "", "limit": 0.1, "value": 0.11,
             "margin_percent": -10.0, "holds": False},
        ],
    },
}  # fmt: skip


def test_the_numbers_are_on_the_page(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(CERTIFICATE))
    page = write_certificate_page(tmp_path / "c.json", tmp_path / "c.html").read_text()
    for shown in (
        "Holds its budget: 0.42 ms of 0.6 ms, 30.0 % to spare", "0.42 ms (0.41 ms to 0.43 ms)",
        "98.00 % (96.00 % to 99.00 %)", "353 of 360 right", "0.50 points lost", "no VNNI",
        "7.00 M (multiply-adds)", "ab" * 32, "CPUExecutionProvider: 12", "+1.5 %",
        "factory verify --certificate c.json", "8,100 of 9,000, 10.0 % to spare",
        "0.11 MB of 0.1 MB, 10.0 % too much", "latency on t2",
        "not measured, the budget is 0.5 ms",
    ):  # fmt: skip
        assert shown in page, shown
    assert "m<b>" not in page
    assert "http" not in page
    assert "<script" not in page


@pytest.mark.parametrize(
    "change",
    [
        {"model": None}, {"chip": "x"}, {"budget": {}}, {"latency": {"rounds": 5}}, {"issued": 3},
        {"placement": {"CPU": "many"}},
    ],
)  # fmt: skip
def test_no_page_is_drawn_of_what_is_no_certificate(tmp_path, change):
    (tmp_path / "c.json").write_text(json.dumps(CERTIFICATE | change))
    with pytest.raises(InputError, match=rf"certificate {tmp_path}/c\.json"):
        write_certificate_page(tmp_path / "c.json", tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"budget": {"verdict": "over budget", "max_latency_ms": 0.4, "margin_percent": -5.0}},
         "Over its budget: 0.42 ms of 0.4 ms, 5.0 % too much"),
        ({"budget": {"verdict": "measured", "max_latency_ms": None}}, "no budget was given"),
        ({"latency": None}, "No latency certified"),
    ],
)  # fmt: skip
def test_headlines(change, told):
    assert told in headline(CERTIFICATE | change)


def test_what_is_not_certified_says_why():
    bare = CERTIFICATE | {
        "latency": None, "unmeasured": "the NPU is in phones only",
        "accuracy": None, "accuracy_note": "no labelled pictures were given",
        "budget": {"verdict": "failed", "max_latency_ms": None, "reasons": ["it <hung>"]},
    }  # fmt: skip
    page = render_certificate(bare)
    assert "the NPU is in phones only" in page
    assert "no labelled pictures were given" in page
    assert "it &lt;hung&gt;" in page
