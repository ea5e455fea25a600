"""`factory predict`: one device or several, why a kernel is slow, and the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from factory import api
from factory.cli.main import run
from factory.core.errors import InputError
from factory.devices.profile import DeviceProfile
from factory.devices.simulated import Roofline, SimulatedDevice
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.fusion import parse_rules
from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import GraphBuilder
from factory.profiling.fusion_tests import measure_fusion
from factory.profiling.profiler import profile_networks
from factory.profiling.table import LatencyTable, table_name

ONE_DEVICE = {"latency_ms", "low_ms", "high_ms", "constant_ms", "kernels", "warnings", "device"}
CHIPS = {"fast": Roofline(ms_per_mmac=0.05), "slow": Roofline(ms_per_mmac=0.4, ms_per_mb=0.2)}


def network(channels, size=14, depth=3, groups=1):
    builder = GraphBuilder()
    x = builder.input("image", (1, 16, size, size))
    for _ in range(depth):
        x = builder.relu(builder.conv(x, channels, 3, padding=1))
        if groups > 1:
            x = builder.conv(x, channels, 3, padding=1, groups=channels)
    return builder.finish([builder.linear(builder.global_avg_pool(x), 10)])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two simulated chips, profiled and fitted, and a network that no profile holds."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FACTORY_HOME", str(folder))
        (folder / "device_profiles").mkdir()
        for name, roofline in CHIPS.items():
            profile = DeviceProfile(
                id=name, chip=f"simulated {roofline}", transport="simulated", threads=1
            )
            (folder / "device_profiles" / f"{name}.toml").write_text(
                f'id = "{name}"\nchip = "{profile.chip}"\ntransport = "simulated"\nthreads = 1\n'
            )
            device = SimulatedDevice(profile, roofline=roofline)
            graphs = [
                network(c, s, d, g) for c in (16, 32, 48) for s in (8, 14) for d in (2, 4)
                for g in (1, 2)
            ]  # fmt: skip
            models = [
                (kernel_counts(canonicalise(g)), to_onnx(g).SerializeToString()) for g in graphs
            ]
            path = folder / "latency_tables" / table_name(device.describe())
            with LatencyTable.open(path, profile, device.describe()) as table:
                profile_networks(device, models, table)
            api.fit(name)
        unseen = to_onnx(network(40, 12, 3, 2)).SerializeToString()
        (folder / "m.onnx").write_bytes(unseen)
        yield folder


@pytest.fixture
def at_home(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setenv("FACTORY_HOME", str(home))
    return home


def truth_ms(name):
    counts = kernel_counts(canonicalise(network(40, 12, 3, 2)))
    return SimulatedDevice(roofline=CHIPS[name]).truth_ms(counts)


def test_one_device_is_an_object_several_are_a_list(at_home, capsys):
    assert run(["predict", "m.onnx", "--device", "fast", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one.keys() >= ONE_DEVICE
    assert one["low_ms"] <= one["latency_ms"] <= one["high_ms"]
    assert sum(part["share"] for part in one["kernels"]) == pytest.approx(
        1 - one["constant_ms"] / one["latency_ms"]
    )
    assert run(["predict", "m.onnx", "--device", "fast", "--device", "slow", "--json"]) == 0
    several = json.loads(capsys.readouterr().out)
    assert [answer["device"] for answer in several] == ["fast", "slow"]
    assert several[0] == one
    for answer in several:
        assert answer["latency_ms"] == pytest.approx(truth_ms(answer["device"]), rel=0.25)
    with pytest.raises(InputError, match="no device is named"):
        api.predict("m.onnx", [])


def test_it_says_what_stands_beside_and_why(at_home, capsys):
    answer = api.predict("m.onnx", "slow")
    assert answer["baselines"].keys() == {"macs_line", "counts_ridge"}
    for baseline in answer["baselines"].values():
        assert baseline["latency_ms"] > 0
        assert baseline["held_out"]["mean_percent"] >= 0
    assert answer["noise"]["reference_spread_percent"] == 0
    assert answer["simulated"]
    dense = next(k for k in answer["kernels"] if ",g=1," in k["kernel"] and k["macs"] > 1e6)
    assert dense["bound"] == "compute"
    assert "compute-bound" in dense["why"]
    assert dense["rate_share"] > 0.5
    unmeasured = [k["kernel"] for k in answer["kernels"] if k["source"] != "measured"]
    assert answer["measure"]
    assert set(answer["measure"]) <= set(unmeasured)
    assert run(["predict", "m.onnx", "--device", "slow"]) == 0
    shown = capsys.readouterr().out
    for words in ("baselines: MACs only", "ridge on kernel counts", "the chip's own noise",
                  "compute-bound", "model size", "session creation", "SIMULATED",
                  f"measure these {len(answer['measure'])} more"):  # fmt: skip
        assert words in shown, words


def test_start_up_is_predicted_with_its_error(at_home):
    start = api.predict("m.onnx", "fast")["start_up"]
    nodes = sum(kernel_counts(canonicalise(network(40, 12, 3, 2))).values())
    assert start["session_ms"] == pytest.approx(0.5 + 0.1 * nodes, rel=0.05)
    assert start["first_run_ms"] == pytest.approx(3 * truth_ms("fast"), rel=0.3)
    assert start["session_error_percent"] < 5
    assert start["peak_memory_mb"] > 0


def test_kernels_like_the_measured_ones_are_lookups_and_far_ones_are_outside(at_home):
    (at_home / "known.onnx").write_bytes(to_onnx(network(32, 8, 2)).SerializeToString())
    known = api.predict("known.onnx", "fast")
    assert {part["source"] for part in known["kernels"]} == {"measured"}
    assert known["measure"] == []
    (at_home / "far.onnx").write_bytes(to_onnx(network(256, 56, 2)).SerializeToString())
    far = api.predict("far.onnx", "fast")
    assert any(part["outside"] for part in far["kernels"])
    assert "outside of what was measured" in " ".join(part["why"] for part in far["kernels"])


def test_profiling_the_model_itself_is_what_the_list_asks_for(at_home, tmp_path, monkeypatch):
    shutil.copytree(at_home, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path / "copy"))
    assert api.predict("m.onnx", "fast")["measure"]
    planned = api.profile("fast", model="m.onnx", dry_run=True)
    assert (planned["networks"], planned["seconds"] > 0) == (1, True)
    done = api.profile("fast", model="m.onnx")
    assert done["kernels_in_place"] == done["kernels"] == planned["kernels"]
    api.fit("fast")
    after = api.predict("m.onnx", "fast")
    assert after["measure"] == []
    assert after["latency_ms"] == pytest.approx(truth_ms("fast"), rel=0.02)
    assert api.profile("fast", model="m.onnx")["skipped"] == 1
    with pytest.raises(InputError, match="exclude each other"):
        api.profile("fast", model="m.onnx", quick=True)


def test_the_page_stands_alone_and_tells_every_device(at_home):
    answers = api.predict("m.onnx", ["fast", "slow"], html="page.html")
    text = (at_home / "page.html").read_text()
    for answer in answers:
        assert answer["html"] == "page.html"
        assert f"<h2>{answer['device']}" in text
    assert text.count("<svg") == 3  # latency, and a roofline each
    assert "simulated" in text
    assert "compute-bound" in text
    assert not re.search(r"(src|href)=\"(?!#)", text)
    assert "http" not in text


def test_predicting_a_fitted_chip_loads_neither_torch_nor_scikit_learn(at_home):
    code = (
        "import sys; from factory.cli.main import run;"
        "assert run(['predict', 'm.onnx', '--device', 'fast', '--device', 'slow']) == 0;"
        "assert run(['predict', 'm.onnx', '--device', 'fast', '--html', 'q.html']) == 0;"
        "heavy = {'torch', 'sklearn', 'onnxruntime', 'pandas'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_row_in_quarantine_changes_the_prediction_at_once(at_home, tmp_path, monkeypatch):
    shutil.copytree(at_home, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path / "copy"))
    from factory.devices.profile import load_profile
    from factory.latency.neighbours import Doubt
    from factory.pipeline.tables import predictor_for
    from factory.pipeline.verbs.table import _entry
    from factory.profiling.quarantine import row_id, save_quarantine

    path = next((tmp_path / "copy" / "latency_tables").glob("fast__*.csv"))
    rows = LatencyTable.read(path).rows("in_place")
    bad = [row for row in rows if row.key.startswith(rows[0].key.rpartition("@")[0])]
    entries = {row_id(row): _entry(Doubt(row, 1.0, "neighbours", "off")) for row in bad}
    save_quarantine(path, entries)
    predictor, source = predictor_for(load_profile("fast"), None)
    assert source == path  # the saved one is of another content: fitted anew
    kernel = rows[0].kernels.partition("*")[2]
    assert kernel not in {str(known) for known in predictor.measured_ms}


def test_baselines_are_what_they_say():
    from factory.latency.baselines import fit_baselines, predict_baselines
    from factory.latency.facts import NetworkFact

    rng = np.random.default_rng(0)
    graphs = [network(int(rng.integers(8, 64)), 14, int(rng.integers(1, 6))) for _ in range(12)]
    counts = [kernel_counts(canonicalise(graph)) for graph in graphs]
    macs = [sum(k.macs * n for k, n in one.items()) for one in counts]
    networks = [
        NetworkFact(str(i), dict(one), 2e-8 * m + 0.3)
        for i, (one, m) in enumerate(zip(counts, macs, strict=True))
    ]
    fitted = fit_baselines(networks, 0)
    assert fitted["macs_line"]["ms_per_mac"] == pytest.approx(2e-8)
    assert fitted["macs_line"]["held_out"]["max_percent"] < 1e-6
    said = predict_baselines(fitted, counts[0])
    assert said["macs_line"]["latency_ms"] == pytest.approx(networks[0].median_ms)
    assert fit_baselines(networks[:2], 0) == {}
    assert predict_baselines({}, counts[0]) == {}


def test_verify_tells_cold_start_memory_and_size(at_home, capsys):
    assert run(["verify", "m.onnx", "--device", "fast", "--json"]) in (0, 1)
    answer = json.loads(capsys.readouterr().out)
    assert answer["cold_start_ms"] == answer["session_ms"] + answer["first_run_ms"]
    assert answer["peak_memory_mb"] > 0
    assert answer["model_bytes"] == (at_home / "m.onnx").stat().st_size
    run(["verify", "m.onnx", "--device", "fast"])
    shown = capsys.readouterr().out
    for words in ("cold start", "first run", "peak memory", "model size"):
        assert words in shown


def test_a_table_of_another_chip_is_refused(at_home, tmp_path, monkeypatch, capsys):
    shutil.copytree(at_home, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path / "copy"))
    profile = tmp_path / "copy" / "device_profiles" / "fast.toml"
    profile.write_text(profile.read_text().replace('chip = "simulated', 'chip = "another'))
    assert run(["predict", "m.onnx", "--device", "slow", "--device", "fast"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no latency table fits device 'fast'" in said.err
    assert "measured with chip" in said.err


def residual(channels, size, depth):
    builder = GraphBuilder()
    x = builder.conv(builder.input("image", (1, 16, size, size)), channels, 1)
    for _ in range(depth):
        y = builder.relu(builder.conv(x, channels, 3, padding=1))
        x = builder.add(builder.conv(y, channels, 3, padding=1), x)
    return builder.finish([builder.linear(builder.global_avg_pool(x), 10)])


def test_a_chip_that_compiles_and_folds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    (tmp_path / "device_profiles").mkdir()
    chip = f"simulated {Roofline()}"
    profile = DeviceProfile(id="npu", chip=chip, transport="simulated", threads=1)
    (tmp_path / "device_profiles/npu.toml").write_text(
        f'id = "npu"\nchip = "{chip}"\ntransport = "simulated"\nthreads = 1\n'
    )
    rules = parse_rules(["conv_dense+Add"])
    device = SimulatedDevice(profile, fuses=rules, compiles=True)
    path = tmp_path / "latency_tables" / table_name(device.describe())
    with LatencyTable.open(path, profile, device.describe()) as table:
        assert measure_fusion(device, table) == rules
        graphs = [residual(c, s, d) for c in (16, 24, 32, 48) for s in (8, 14, 20) for d in (2, 4)]
        models = [
            (kernel_counts(canonicalise(g), fusion=rules), to_onnx(g).SerializeToString())
            for g in graphs
        ]
        profile_networks(device, models, table)
    api.fit("npu")
    unseen = residual(40, 12, 3)
    (tmp_path / "m.onnx").write_bytes(to_onnx(unseen).SerializeToString())
    answer = api.predict("m.onnx", "npu")
    truth = device.truth_ms(kernel_counts(canonicalise(unseen), fusion=rules))
    assert answer["latency_ms"] == pytest.approx(truth, rel=0.1)
    assert answer["folded"] == [{"kernel": "Add(x=1x40x12x12+1x40x12x12,dtype=f32)", "count": 3}]
    assert not any(part["kernel"].startswith("Add") for part in answer["kernels"])
    assert {part["source"] for part in answer["kernels"]} == {"regressor"}
    assert any("inferred from 24 whole networks" in text for text in answer["warnings"])
    assert not any("come from a regressor" in text for text in answer["warnings"])
    assert set(answer["measure"]) == {k["kernel"] for k in answer["kernels"] if k["outside"]}
    assert answer["rates"]["macs_per_ms"] > 0
    assert run(["predict", "m.onnx", "--device", "npu"]) == 0
    assert "folded into the operator before, by this device's fusion tests: 3 x Add" in (
        capsys.readouterr().out
    )
    assert run(["table", "show", "npu"]) == 0
    assert "folded into the operator before (1 of 30 pairs): conv_dense+Add" in (
        capsys.readouterr().out
    )
