"""A chip without silicon: its datasheet in a device profile gives the times, labelled simulated."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from factory import api
from factory.cli.app import app
from factory.core.errors import InputError
from factory.devices.base import TimingPlan, open_device
from factory.devices.profile import load_profile
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import kernel_to_onnx
from factory.verification.verify import verify_model

PROFILE = """
schema_version = 1
id = "npu-next"
chip = "NPU of next year"
transport = "simulated"
threads = 1
precision = "{precision}"

[simulated]
{figures}
"""
FIGURES = """
fp32_gmacs_per_s = 50.0
int8_gmacs_per_s = 400.0
bandwidth_gb_per_s = 20.0
overhead_us = 4.0
"""


def written(folder, figures=FIGURES, precision="fp32", **changes):
    text = PROFILE.format(precision=precision, figures=figures)
    for old, new in changes.items():
        text = text.replace(f"{old} = ", f"{old} = {new} # ")
    path = folder / "npu-next.toml"
    path.write_text(text)
    return path


def kernel(channels: int, size: int, dtype: str) -> Kernel:
    shape = f"x=1x{channels}x{size}x{size},w={channels}x{channels}x3x3"
    return Kernel.parse(f"Conv({shape},s=1,p=1,d=1,g=1,act=none,dtype={dtype})")


@pytest.mark.parametrize(("precision", "peak"), [("fp32", 50e9), ("int8", 400e9)])
def test_times_follow_from_the_figures(tmp_path, precision, peak):
    dtype = {"fp32": "f32", "int8": "i8"}[precision]
    with open_device(load_profile(written(tmp_path, precision=precision))) as device:
        heavy = kernel(64, 56, dtype)  # far above the ridge point: arithmetic decides
        assert device.roofline.kernel_ms(heavy) == pytest.approx(0.004 + 1e3 * heavy.macs / peak)
        model = kernel_to_onnx(heavy).SerializeToString()
        timing = device.time_many([model], TimingPlan())[0]
        assert timing.median_ms == pytest.approx(device.roofline.kernel_ms(heavy))
        assert timing.providers == {"CPUExecutionProvider": 1}  # the profile's, by default
        assert verify_model(model, device, rounds=1).verdict == "measured"
        flat = Kernel.parse(f"Relu(x=1x64x56x56,dtype={dtype})")  # no MACs: memory decides
        moved = flat.input_bytes + flat.weight_bytes + flat.output_bytes
        assert device.roofline.kernel_ms(flat) == pytest.approx(0.004 + 1e3 * moved / 20e9)
        facts = device.describe()
        assert facts["simulated"] is True
        assert any("simulated" in note and "datasheet" in note for note in facts["notes"])
        assert "simulated" in facts["fingerprint"]["chip"]


@pytest.mark.parametrize(
    ("figures", "precision", "changes", "said"),
    [
        ("bandwidth_gb_per_s = 20.0", "fp32", {}, "fp32_gmacs_per_s"),
        ("fp32_gmacs_per_s = 5.0\nbandwidth_gb_per_s = 2.0", "int8", {}, "int8_gmacs_per_s"),
        ("fp32_gmacs_per_s = 5.0", "fp32", {}, "bandwidth_gb_per_s"),
        ("fp32_gmacs_per_s = 0.0\nbandwidth_gb_per_s = 2.0", "fp32", {}, "greater than 0"),
        ("fp32_gmacs_per_s = inf\nbandwidth_gb_per_s = 2.0", "fp32", {}, "fp32_gmacs_per_s"),
        (FIGURES + "ghz = 2.0", "fp32", {}, "ghz"),
        (FIGURES, "fp32", {"transport": '"local"'}, 'transport = "simulated"'),
        (FIGURES, "fp32", {"chip": '"local"'}, "name of the chip"),
    ],
)
def test_bad_datasheets_are_told_in_one_sentence(tmp_path, figures, precision, changes, said):
    path = written(tmp_path, figures, precision, **changes)
    with pytest.raises(InputError) as caught:
        load_profile(path)
    assert said in str(caught.value)
    assert "npu-next.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prediction_from_a_datasheet_says_that_nothing_was_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path / "home"))
    path = written(tmp_path)
    size = {"channels": 4, "layers": 3, "input": "3x16x16"}
    first = api.profile(path, networks=6, **size)
    model = tmp_path / "kernel.onnx"
    model.write_bytes(kernel_to_onnx(kernel(8, 16, "f32")).SerializeToString())
    answer = api.predict(model, [path])
    assert "none of its times was measured" in str(answer)
    written(tmp_path, FIGURES.replace("20.0", "25.0"))  # another chip: its table is another one
    with pytest.raises(InputError, match="25 GB/s"):
        api.predict(model, [path])
    assert api.profile(path, networks=6, **size)["table"] != first["table"]
    assert "none of its times was measured" in str(api.predict(model, [path]))


def test_what_is_printed_says_simulated(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "device_profiles").mkdir(parents=True)
    monkeypatch.setenv("FACTORY_HOME", str(home))
    written(home / "device_profiles")
    shown = CliRunner().invoke(app, ["devices"]).output
    assert "NPU of next year (SIMULATED)" in shown
    assert "local (SIMULATED)" not in shown
    size = ["--channels", "4", "--layers", "3", "--input", "3x16x16", "--networks", "6"]
    for words in (["profile", "--device", "npu-next", *size], ["fit", "--device", "npu-next"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert "npu-next (SIMULATED)" in done.output
