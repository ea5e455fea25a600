"""`factory table`: shown, checked, merged, compared, imported; every fault in one sentence."""

from __future__ import annotations

import dataclasses
import json
import textwrap

import pytest

from factory import api
from factory.cli.main import run
from factory.core.errors import InputError
from factory.devices.base import open_device
from factory.devices.profile import load_profile
from factory.devices.simulated import Roofline, SimulatedDevice
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import to_onnx
from factory.profiling.profiler import profile_kernels, profile_networks
from factory.profiling.quarantine import quarantine_path
from factory.profiling.reference import reference_graph
from factory.profiling.rows import Row
from factory.profiling.settings import ProfileSettings
from factory.profiling.table import LatencyTable

SETTINGS = ProfileSettings(block_size=8)


def conv(inputs, outputs, size):
    return Kernel.parse(
        f"Conv(x=1x{inputs}x{size}x{size},w={outputs}x{inputs}x3x3,s=1,p=1,d=1,g=1,act=relu,"
        "dtype=f32)"
    )


KERNELS = [conv(a, b, s) for a in (16, 32, 48, 64) for b in (16, 32, 64, 96) for s in (8, 14)]


def measured(path, kernels=KERNELS, **device):
    chip = SimulatedDevice(noise=0.02, **device)
    with LatencyTable.open(path, chip.profile, chip.describe()) as table:
        profile_kernels(chip, kernels, table, SETTINGS)
        graph = reference_graph()
        model = to_onnx(graph, seed=3).SerializeToString()
        counts = kernel_counts(canonicalise(graph))
        profile_networks(chip, [(counts, model)], table, SETTINGS)
    return path


def spoil(path, kernel, factor):
    """Multiply the time of a kernel in the file."""
    lines = []
    for line in path.read_text().splitlines(keepends=True):
        if line.startswith(f'kernel,"{kernel}"'):
            row = LatencyTable.read(path).get("kernel", str(kernel))
            line = dataclasses.replace(row, median_ms=row.median_ms * factor).text()
        lines.append(line)
    path.write_text("".join(lines))


def fault(act, *arguments, **named) -> str:
    with pytest.raises(InputError) as caught:
        act(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_show_tells_what_is_there(tmp_path, capsys):
    path = measured(tmp_path / "t.csv", fails_on=lambda k: "no room" if k == KERNELS[3] else None)
    answer = api.show_table(path)
    assert answer["rows"]["kernel"] == {"ok": len(KERNELS) - 1, "failed": 1}
    assert answer["failures"] == [{"reason": "no room", "count": 1, "examples": [str(KERNELS[3])]}]
    dense = next(entry for entry in answer["families"] if entry["family"] == "conv_dense")
    assert dense["alone"] == len(KERNELS) - 1
    assert 0 < dense["least_ms"] <= dense["median_ms"] <= dense["most_ms"]
    assert answer["networks"]["session_ms"]["median"] > 0
    assert answer["networks"]["model_mb"]["median"] > 0
    assert sum(block["rows"] for block in answer["blocks"]) == sum(
        kind["ok"] + kind["failed"] for name, kind in answer["rows"].items() if name != "reference"
    )
    assert answer["simulated"]
    json.dumps(answer, allow_nan=False)
    assert run(["table", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    for words in ("SIMULATED", "no room", "conv_dense", "session creation", "peak memory"):
        assert words in shown


def test_check_quarantines_once_and_releases_for_good(tmp_path, capsys):
    path = measured(tmp_path / "t.csv")
    assert api.check_table(path)["exit_code"] == 0
    assert not quarantine_path(path).exists()
    spoil(path, KERNELS[9], 4.0)
    before = path.read_bytes()
    assert [e["key"] for e in api.check_table(path, dry_run=True)["quarantined"]] == [
        str(KERNELS[9])
    ]
    assert not quarantine_path(path).exists()
    assert run(["table", "check", str(path)]) == 1
    assert "times)" in capsys.readouterr().out
    assert path.read_bytes() == before  # nothing is taken out of the table itself
    assert LatencyTable.read(path).get("kernel", str(KERNELS[9])) is None
    kept = quarantine_path(path).read_bytes()
    again = api.check_table(path)
    assert (again["exit_code"], [e["new"] for e in again["quarantined"]]) == (1, [False])
    assert quarantine_path(path).read_bytes() == kept
    released = api.check_table(path, release=[str(KERNELS[9])])
    assert (released["exit_code"], released["released"]) == (0, 1)
    assert api.check_table(path)["quarantined"] == []
    assert LatencyTable.read(path).get("kernel", str(KERNELS[9])) is not None
    assert "no row 'nothing'" in fault(api.check_table, path, release=["nothing"])


def test_check_tells_every_fault_and_its_exit_code(tmp_path, capsys):
    path = measured(tmp_path / "t.csv")
    good = path.read_text()
    lines = good.splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if line.startswith("kernel,"))
    odd = [f"kernel,k,,{ms},1,1,1,3,0,ok,,0,1,,,,,,\n" for ms in ("nan", "-1")]
    path.write_text("".join([*lines[:first], *odd, *lines[first:]]))
    answer = api.check_table(path)
    assert answer["exit_code"] == 2
    assert [f["line"] for f in answer["findings"]] == [first + 1, first + 2]
    assert "nan" in answer["findings"][0]["text"]
    assert "negative" in answer["findings"][1]["text"]
    assert run(["table", "check", str(path)]) == 2
    assert "--repair" in capsys.readouterr().out
    repaired = api.check_table(path, repair=True)
    assert repaired["exit_code"] == 1
    assert path.read_text() == good
    assert (tmp_path / "t.damaged.txt").read_text().count("kernel,k,,") == 2
    path.write_text(good[:-20])
    cut = api.check_table(path)
    assert (cut["exit_code"], [f["what"] for f in cut["findings"]]) == (1, ["cut"])
    path.write_text(good.replace("# schema_version: 4", "# schema_version: 9"))
    assert "schema version 9" in api.check_table(path)["findings"][0]["text"]
    assert api.check_table(path)["exit_code"] == 2
    assert run(["table", "check", str(tmp_path / "none.csv")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_kernels_and_networks_in_two_units_make_a_table_unusable(tmp_path, capsys):
    graph = reference_graph()
    kernels = [*KERNELS, *kernel_counts(canonicalise(graph))]
    path = measured(tmp_path / "t.csv", kernels)
    lines = []
    for line in path.read_text().splitlines(keepends=True):
        if line.startswith("kernel,"):
            row = Row.parse(line[:-1])
            line = dataclasses.replace(row, median_ms=1e3 * row.median_ms, p10_ms=0.0).text()
        lines += [] if line.startswith("in_place,") else [line]
    path.write_text("".join(lines))
    answer = api.check_table(path)
    assert answer["exit_code"] == 2
    assert "cannot be in the same unit" in answer["findings"][0]["text"]
    assert run(["table", "check", str(path)]) == 2
    assert "cannot be used" in capsys.readouterr().out


def test_a_network_in_another_unit_than_its_kernels_goes_into_quarantine(tmp_path):
    path = measured(tmp_path / "t.csv")
    network = next(line for line in path.read_text().splitlines() if line.startswith("network,"))
    row = next(row for row in LatencyTable.read(path).rows("network"))
    seconds = dataclasses.replace(row, median_ms=row.median_ms / 1e3)
    path.write_text(path.read_text().replace(network + "\n", seconds.text()))
    answer = api.check_table(path)
    assert answer["exit_code"] == 1
    assert {entry["kind"] for entry in answer["quarantined"]} == {"network", "in_place"}
    assert all("another unit" in entry["reason"] for entry in answer["quarantined"])
    assert LatencyTable.read(path).rows("network") == []


def test_a_clock_that_drifted_is_said_by_check_and_show(tmp_path, capsys):
    path = measured(
        tmp_path / "t.csv", drift=lambda timed: 1 + 0.2 * min(max(timed - 12, 0) / 20, 1)
    )
    answer = api.check_table(path)
    assert answer["exit_code"] == 1
    assert [f["what"] for f in answer["findings"]] == ["drift"]
    assert run(["table", "show", str(path)]) == 0
    assert "the clock drifted" in capsys.readouterr().out


def test_a_table_that_is_being_written_is_not_quarantined(tmp_path):
    path = measured(tmp_path / "t.csv")
    spoil(path, KERNELS[9], 4.0)
    device = SimulatedDevice(noise=0.02)
    with LatencyTable.open(path, device.profile, device.describe()):
        assert "being written" in fault(api.check_table, path)
    assert not quarantine_path(path).exists()


def test_merge_keeps_every_row_and_quarantines_what_disagrees(tmp_path, capsys):
    a = measured(tmp_path / "a.csv", KERNELS[:24])
    b = measured(tmp_path / "b.csv", KERNELS[8:])
    spoil(b, KERNELS[9], 4.0)
    out = tmp_path / "m.csv"
    answer = api.merge_tables([a, b], out=out)
    merged = LatencyTable.read(out)
    assert {row.key for row in merged.rows("kernel")} == {str(k) for k in KERNELS}
    (entry,) = answer["quarantined"]
    assert entry["key"] == str(KERNELS[9])
    assert merged.get("kernel", str(KERNELS[9])).median_ms == pytest.approx(
        LatencyTable.read(a).get("kernel", str(KERNELS[9])).median_ms
    )
    assert [part["table"] for part in merged.header["merged"]] == ["a.csv", "b.csv"]
    blocks = [part["blocks"] for part in merged.header["merged"]]
    assert blocks[0][1] < blocks[1][0]
    again = api.merge_tables([out, a], out=tmp_path / "again.csv")
    assert again["doubled"] == len(LatencyTable.read(a).all_rows())
    assert len(LatencyTable.read(tmp_path / "again.csv").all_rows()) == len(merged.all_rows())
    assert LatencyTable.read(tmp_path / "again.csv").get("kernel", str(KERNELS[9])) is not None
    assert "is there already" in fault(api.merge_tables, [a, b], out=out)
    assert run(["table", "merge", str(a), str(b), "--out", str(out), "--replace"]) == 0
    assert "into quarantine" in capsys.readouterr().out


def test_tables_of_two_chips_or_speeds_are_not_merged(tmp_path):
    a = measured(tmp_path / "a.csv")
    other = measured(tmp_path / "b.csv", roofline=Roofline(overhead_ms=0.5))
    text = fault(api.merge_tables, [a, other], out=tmp_path / "m.csv")
    assert "not tables of one chip" in text
    assert "chip 'simulated" in text
    slow = measured(tmp_path / "c.csv", drift=lambda timed: 1.3)
    text = fault(api.merge_tables, [a, slow], out=tmp_path / "m.csv")
    assert "1.30 times as long" in text
    assert not (tmp_path / "m.csv").exists()
    assert "--out" in fault(api.merge_tables, [a])


def test_compare_finds_the_ratio_and_the_odd_one(tmp_path, capsys):
    a = measured(tmp_path / "a.csv")
    b = measured(tmp_path / "b.csv", drift=lambda timed: 1.5)
    spoil(b, KERNELS[4], 2.0)
    answer = api.compare_tables(a, b, biggest=3)
    found = answer["kinds"]["kernel"]
    assert found["common"] == len(KERNELS)
    assert found["median_ratio"] == pytest.approx(1.5, rel=1e-6)
    assert found["biggest"][0]["key"] == str(KERNELS[4])
    assert found["biggest"][0]["ratio"] == pytest.approx(3.0, rel=1e-5)
    assert 0.9 < found["rank_correlation"] < 1
    assert len(found["biggest"]) == 3
    assert answer["differing"] == {}
    other = measured(tmp_path / "c.csv", roofline=Roofline(ms_per_mmac=0.2))
    assert list(api.compare_tables(a, other)["differing"]) == ["chip"]
    assert run(["table", "compare", str(a), str(b)]) == 0
    assert "b takes 1.500 times as long" in capsys.readouterr().out
    empty = measured(tmp_path / "d.csv", [conv(8, 8, 4)])
    empty.write_text("".join(line for line in empty.read_text().splitlines(keepends=True)
                             if not line.startswith(("network", "in_place"))))  # fmt: skip
    assert "no kernel or network in common" in fault(api.compare_tables, a, empty)


MAPPING = """
schema_version = 1

[table]
device = "phone-tflite"
chip = "Some phone SoC"
runtime = "tflite"
runtime_version = "2.14"
threads = 4
source = "a lab's spreadsheet"

[columns]
median = "latency_us"
unit = "us"
runs = "n"
operator = "type"

[operators.conv]
op = "Conv"
x = "1x{cin}x{hw}x{hw}"
w = "{cout}x{cin}x{k}x{k}"
attrs = { s = "{stride}", p = "{(k-1)//2}", d = "1", g = "1", act = "{act}" }

[operators.dw]
op = "Conv"
x = "1x{cin}x{hw}x{hw}"
w = "{cin}x1x{k}x{k}"
attrs = { s = "{stride}", p = "{k//2}", d = "1", g = "{cin}", act = "{act}" }

[values.act]
RELU6 = "clip6"
NONE = "none"

[skip]
type = ["softmax"]
"""


def foreign(folder, mapping=MAPPING, more=""):
    rows = ["type,cin,cout,hw,k,stride,act,latency_us,n"]
    for a in (16, 32, 48, 64):
        for b in (16, 32, 64, 96):
            rows.append(f"conv,{a},{b},14,3,1,RELU6,{0.002 * a * b * 196 * 9 / 10 + 20:.1f},50")
        rows.append(f"dw,{a},{a},14,5,2,NONE,{30 + a},50")
    rows.append("softmax,10,10,1,1,1,NONE,3,50")
    (folder / "foreign.csv").write_text("\n".join(rows) + "\n" + more)
    (folder / "map.toml").write_text(textwrap.dedent(mapping))
    return {"file": folder / "foreign.csv", "mapping": folder / "map.toml"}


def test_an_imported_table_is_labelled_fitted_and_predicted_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    answer = api.import_table(**foreign(tmp_path, more="conv,1,2\nfc,1,1,1,1,1,NONE,3,1\n"))
    assert (answer["kernels"], answer["skipped"], len(answer["refused"])) == (20, 1, 2)
    assert answer["refused"][1].startswith("line 24: operator 'fc' has no pattern")
    table = LatencyTable.read(answer["table"])
    kernel = "Conv(x=1x16x14x14,w=16x1x5x5,s=2,p=2,d=1,g=16,act=none,dtype=f32)"
    assert table.get("kernel", kernel).median_ms == pytest.approx(0.046)
    assert api.show_table("phone-tflite")["imported"]["source"] == "a lab's spreadsheet"
    assert run(["fit", "--device", "phone-tflite"]) == 0
    from factory.graph.opgraph import GraphBuilder

    builder = GraphBuilder()
    x = builder.conv(builder.input("image", (1, 16, 14, 14)), 32, 3, padding=1)
    (tmp_path / "m.onnx").write_bytes(to_onnx(builder.finish([x])).SerializeToString())
    said = api.predict(tmp_path / "m.onnx", "phone-tflite")
    assert said["latency_ms"] == pytest.approx(0.2, rel=0.3)
    assert "imported, not measured by the factory" in said["warnings"][0]
    assert "imported table only" in fault(open_device, load_profile("phone-tflite"))
    assert "is there already" in fault(api.import_table, **foreign(tmp_path))
    assert api.import_table(**foreign(tmp_path), replace=True)["kernels"] == 20
    capsys.readouterr()
    assert run(["table"]) == 0
    assert "phone-tflite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('unit = "us"', 'unit = "minutes"', "columns.unit"),
        ('unit = "us"', 'unit = "s"', "G MACs/s"),
        ('"latency_us"', '"latency"', "no column 'latency'"),
        ("{(k-1)//2}", "{k.real}", "not arithmetic"),
        ("{(k-1)//2}", "{kk-1}", "names no column"),
        ("{(k-1)//2}", "{k//(k-3)}", "divides by zero"),
        ('operator = "type"', "", "how a row becomes a kernel"),
        ('chip = "Some phone SoC"', 'chip = "local"', "not the chip of an imported table"),
        ("schema_version = 1", "schema_version = 7", "schema_version"),
        ('source = "a lab\'s spreadsheet"', "", "'table.source' is missing"),
        ("[operators.dw]", "[operators.dw", "not valid TOML"),
    ],
)
def test_a_wrong_mapping_is_told_in_one_sentence(tmp_path, monkeypatch, old, new, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    assert old in MAPPING
    text = MAPPING.replace(old, new)
    if "k" in new and "{" in new:  # leave only the pattern that is wrong
        text = text.replace("[operators.dw]", "[operators.none]")
    assert words in fault(api.import_table, **foreign(tmp_path, text))
    assert not (tmp_path / "latency_tables").exists()


def test_times_that_are_none_are_refused_row_by_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    more = "".join(f"conv,16,16,7,3,1,NONE,{ms},5\n" for ms in ("nan", "-3", "0", "x", "inf"))
    refused = api.import_table(**foreign(tmp_path, more=more))["refused"]
    assert [line.partition(":")[0] for line in refused] == [f"line {n}" for n in range(23, 28)]
    assert "nan" in refused[0]
    assert "negative" in refused[1]
