"""The latency table: nothing is lost at any cut, and every other fault is told by its line."""

from __future__ import annotations

import csv
import errno
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.errors import InputError
from factory.devices.profile import DeviceProfile
from factory.devices.simulated import Roofline, SimulatedDevice
from factory.profiling import table_file
from factory.profiling.rows import COLUMNS, Row
from factory.profiling.table import LatencyTable, check_fingerprint, find_tables, table_name

DEVICE = SimulatedDevice()
PROFILE, FACTS = DEVICE.profile, DEVICE.describe()
KEY = "Conv(x=1x8x4x4,w=8x8x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)"


def row(number: int, **changes) -> Row:
    values = {
        "kind": "kernel",
        "key": f"{KEY[:-1]},n={number})",
        "median_ms": 0.125 + number,
        "p10_ms": 0.1,
        "p90_ms": 0.5,
        "min_ms": 0.09,
        "runs": 20,
        "block": number,
        "reference_ms": 0.25,
        "date": "2026-01-01T00:00:00Z",
    }
    return Row(**{**values, **changes})


def test_a_count_that_no_float_holds_is_a_fault():
    assert row(1).fault() == ""
    assert row(1, runs=10**400).fault() == "runs is more than any count"


FAILED = Row("kernel", "k7", status="failed", reason='it said "no", twice, süß', block=3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tables" / table_name(FACTS)


def opened(path) -> LatencyTable:
    return LatencyTable.open(path, PROFILE, FACTS)


def fault(act, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        act(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_rows_come_back_as_written(path):
    rows = [row(0), FAILED, row(1, kind="network", kernels=f"2*{KEY};1*Relu(x=1,dtype=f32)")]
    with opened(path) as table:
        for one in rows:
            table.append(one)
        assert table.rows() == rows
    again = LatencyTable.read(path)
    assert again.rows() == rows
    assert again.rows("network") == rows[2:]
    assert (again.device_id, again.dtype, again.cut_tail) == ("simulated", "f32", False)
    assert again.header["provenance"]["packages"]
    assert again.header["describe"]["empty_run_ms"] == 0
    assert again.has(rows[0].key)
    assert again.has("k7")
    assert not again.has("k8")
    assert path.name == "simulated__onnxruntime-0-simulated__cpu__fp32.csv"


def test_a_reader_gets_the_same_digits_as_the_writer(path):
    with opened(path) as table:
        table.append(row(0, median_ms=1 / 3))
        written = table.rows()
    assert LatencyTable.read(path).rows() == written


def test_the_newest_row_of_a_key_counts_and_references_all_stay(path):
    with opened(path) as table:
        table.append(FAILED)
        table.append(row(0, key="k7"))
        table.append(row(0, kind="reference", key="reference"))
        table.append(row(1, kind="reference", key="reference"))
        assert [one.status for one in table.rows("kernel")] == ["ok"]
        assert len(table.rows("reference")) == 2
        assert not table.has("reference")


def test_an_outline_has_the_header_and_the_kernels_asked_for(path):
    plain, quoted = "Relu(x=1)", KEY
    with opened(path) as table:
        table.append(row(0))
        for number, kernel in enumerate((plain, quoted, "Relu(x=2)")):
            for network in ("net:a", "net:b"):
                table.append(row(number, kind="in_place", key=f"{kernel}@{network}"))
        table.append(row(9, kind="in_place", key=f"{quoted}@net:a"))  # the newest counts
    whole = LatencyTable.read(path)
    assert LatencyTable.outline(path).header == whole.header
    assert LatencyTable.outline(path).rows() == []
    found = LatencyTable.outline(path, {plain, quoted})
    wanted = [one for one in whole.rows("in_place") if not one.key.startswith("Relu(x=2)")]
    assert found.rows() == wanted
    assert len(wanted) == 4
    path.write_text(path.read_text().replace("kernel,", "kernel,,", 1))  # not one of these rows
    assert LatencyTable.outline(path, {plain, quoted}).rows() == wanted
    assert "is damaged" in fault(LatencyTable.read, path)


def test_the_frame_has_no_numbers_for_failures(path):
    with opened(path) as table:
        table.append(row(0))
        table.append(FAILED)
        frame = table.frame()
    assert list(frame.columns) == list(COLUMNS)
    assert frame["median_ms"].isna().tolist() == [False, True]


def test_a_cut_at_every_byte_loses_only_the_cut_row(path):
    rows = [row(0), row(1), FAILED, row(2, kind="network", kernels=f"3*{KEY}")]
    with opened(path) as table:
        sizes = [path.stat().st_size]
        for one in rows:
            table.append(one)
            sizes.append(path.stat().st_size)
    whole = path.read_bytes()
    for length in range(sizes[0], len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = sum(size <= length for size in sizes[1:])
        read = LatencyTable.read(path)
        assert read.rows() == rows[:kept]
        assert read.cut_tail == (length not in sizes)
        with opened(path) as table:
            assert table.rows() == rows[:kept]
            if kept < len(rows):
                table.append(rows[kept])
        assert LatencyTable.read(path).rows() == rows[: kept + 1]


def test_a_cut_header_is_written_again(path):
    opened(path).close()
    whole = path.read_bytes()
    for length in {*range(30), *range(0, len(whole), 13), *range(len(whole) - 30, len(whole))}:
        path.write_bytes(whole[:length])
        with opened(path) as table:
            table.append(row(0))
        assert LatencyTable.read(path).rows() == [row(0)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1.125,", "nan,", "median_ms is nan"),
        ("1.125,", "inf,", "median_ms is inf"),
        ("1.125,", "-1.125,", "negative"),
        ("1.125,", "abc,", "not a number"),
        ("1.125,", ",", "a number is missing"),
        ("1.125,", "0,", "no time"),
        ("1.125,0.1,", "1.1", "cells instead of"),
        (",ok,", ",fine,", "status is 'fine'"),
        ("kernel,", "karnel,", "kind is 'karnel'"),
        ("2026-01-01T00:00:00Z,,,,,\n", "2026-01-", "cells instead of"),
    ],
)
def test_damage_in_the_middle_is_told_by_its_line(path, old, new, said):
    with opened(path) as table:
        for number in range(3):
            table.append(row(number))
    lines = path.read_text().splitlines(keepends=True)
    middle = len(lines) - 2
    assert old in lines[middle]
    lines[middle] = lines[middle].replace(old, new, 1)
    path.write_text("".join(lines))
    before = path.read_bytes()
    for act in (LatencyTable.read, opened):
        text = fault(act, path)
        assert f"line {middle + 1} of latency table" in text
        assert said in text
    assert path.read_bytes() == before


def test_other_schema_columns_and_files(path):
    opened(path).close()
    good = path.read_text()
    path.write_text(good.replace("# schema_version: 4", "# schema_version: 5"))
    assert "schema version 5" in fault(opened, path)
    path.write_text(good.replace("p10_ms", "p11_ms"))
    assert "column names differ" in fault(opened, path)
    path.write_text(good.replace('# dtype: "f32"\n', ""))
    assert "cut in its header (no 'dtype')" in fault(opened, path)
    path.write_text(good.replace('# dtype: "f32"', "# dtype: f32"))
    assert "the value of 'dtype' is not JSON" in fault(opened, path)
    path.write_text("a,b\n1,2\n")
    assert "is not a latency table" in fault(opened, path)
    assert path.read_text() == "a,b\n1,2\n"
    path.write_bytes(b"\x89PNG\xff\xfe\n\x00")
    assert "not UTF-8" in fault(LatencyTable.read, path)


def test_paths_that_are_no_tables(tmp_path):
    assert "does not exist" in fault(LatencyTable.read, tmp_path / "none.csv")
    assert "is a folder" in fault(LatencyTable.read, tmp_path)
    assert "Is a directory" in fault(opened, tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot write" in fault(opened, tmp_path / "file" / "table.csv")


def test_a_table_of_another_chip_device_or_setting_is_refused(path):
    opened(path).close()
    other = SimulatedDevice(roofline=Roofline(overhead_ms=1.0)).describe()
    text = fault(LatencyTable.open, path, PROFILE, other)
    assert "another chip" in text
    assert "factory profile" in text
    threads = {**FACTS, "fingerprint": {**FACTS["fingerprint"], "threads": 4}}
    assert "another threads" in fault(check_fingerprint, LatencyTable.read(path), threads)
    renamed = DeviceProfile(id="other", transport="simulated", threads=1)
    assert "belongs to device 'simulated'" in fault(LatencyTable.open, path, renamed, FACTS)


@pytest.mark.skipif(table_file.fcntl is None, reason="no locks here")
def test_a_second_writer_is_refused_also_from_another_process(path):
    with opened(path):
        assert "being written by another process" in fault(opened, path)
        code = (
            "import sys; from factory.devices.simulated import SimulatedDevice as S;"
            "from factory.profiling.table import LatencyTable as T; d = S();"
            "T.open(sys.argv[1], d.profile, d.describe())"
        )
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        assert "being written by another process" in done.stderr
        assert LatencyTable.read(path).rows() == []
    opened(path).close()


def test_a_full_disk_keeps_the_earlier_rows(path, monkeypatch):
    real = os.write

    def full(handle, content):
        if len(content) > 20:
            return real(handle, content[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(path) as table:
        table.append(row(0))
        before = path.read_bytes()
        monkeypatch.setattr(table_file.os, "write", full)
        text = fault(table.append, row(1))
        assert "the disk is full" in text
        assert path.read_bytes() == before
        assert table.rows() == [row(0)]
        monkeypatch.undo()
        table.append(row(2))
    assert LatencyTable.read(path).rows() == [row(0), row(2)]


def test_impossible_rows_are_not_written(path):
    with opened(path) as table:
        for bad in (row(0, median_ms=float("nan")), row(0, p10_ms=-1.0), row(0, key="")):
            with pytest.raises(ValueError, match="must not be written"):
                table.append(bad)
        assert table.rows() == []
    with pytest.raises(RuntimeError, match="for reading"):
        LatencyTable.read(path).append(row(0))


@settings(max_examples=80, deadline=None)
@given(
    reason=st.text(max_size=60),
    median_ms=st.floats(1e-6, 1e6),
    share=st.floats(0, 1),
    status=st.sampled_from(["ok", "failed"]),
)
def test_any_reason_stays_on_one_line(reason, median_ms, share, status):
    reason = reason.encode("utf-8", "replace").decode()
    measured = {"median_ms": median_ms, "reorder_share": share, "runs": 3}
    one = Row("kernel", "k", status=status, reason=reason, **(measured if status == "ok" else {}))
    text = one.text()
    assert text.count("\n") == 1
    assert "\r" not in text
    back = Row.parse(text[:-1])
    assert back.median_ms == pytest.approx(one.median_ms, rel=1e-6)
    assert back.text() == text


def test_tables_are_found_by_device(tmp_path, monkeypatch):
    folder = tmp_path / "latency_tables"
    path = folder / table_name(FACTS)
    opened(path).close()
    monkeypatch.chdir(tmp_path)
    assert find_tables("simulated") == [path]
    assert find_tables("simul") == []


def test_a_table_of_version_2_is_read_and_goes_on_as_it_is(path):
    opened(path).close()
    header = path.read_text().replace("# schema_version: 4", "# schema_version: 2")
    header = header.replace(
        ",date,session_ms,first_run_ms,peak_memory_mb,model_mb,mean_ms", ",date"
    )
    old = "kernel,k,,1,0.9,1.1,0.8,20,0,ok,,0,0.25,2026-01-01T00:00:00Z\n"
    path.write_text(header + old)
    with opened(path) as table:
        assert table.get("kernel", "k").session_ms == 0
        table.append(row(1, session_ms=3.0, model_mb=2.0))
    lines = path.read_text().splitlines()
    assert lines[-2] + "\n" == old
    assert [len(next(csv.reader([line]))) for line in lines[-3:]] == [14, 14, 14]
    assert LatencyTable.read(path).rows()[1] == row(1)
    for length in range(len(header) - 120, len(header)):
        path.write_text(header[:length])
        opened(path).close()
        assert LatencyTable.read(path).rows() == []


def test_what_is_known_of_the_start_is_kept_and_the_rest_is_empty(path):
    with opened(path) as table:
        table.append(row(0, session_ms=12.5, model_mb=1.25, mean_ms=1.5))
        with pytest.raises(ValueError, match="peak_memory_mb is negative"):
            table.append(row(1, peak_memory_mb=-1.0))
    assert path.read_text().endswith(",12.5,,,1.25,1.5\n")
    assert LatencyTable.read(path).rows() == [row(0, session_ms=12.5, model_mb=1.25, mean_ms=1.5)]
