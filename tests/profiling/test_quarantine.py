"""The quarantine beside a table: kept out, measured again, released, copied along."""

from __future__ import annotations

import json

import pytest

from factory.core.errors import InputError
from factory.devices.simulated import SimulatedDevice
from factory.graph.kernel import Kernel
from factory.profiling.profiler import profile_kernels
from factory.profiling.quarantine import (
    Entry,
    content_digest,
    load_quarantine,
    quarantine_path,
    row_id,
    save_quarantine,
)
from factory.profiling.rows import Row
from factory.profiling.settings import ProfileSettings
from factory.profiling.table import LatencyTable

DEVICE = SimulatedDevice()
TEXT = "Conv(x=1x8x8x8,w={}x8x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)"
KERNELS = [Kernel.parse(TEXT.format(8 * number)) for number in range(1, 7)]


def measured(path) -> LatencyTable:
    with LatencyTable.open(path, DEVICE.profile, DEVICE.describe()) as table:
        profile_kernels(DEVICE, KERNELS, table, ProfileSettings(block_size=3))
    return LatencyTable.read(path)


def entry(row: Row, **changes) -> Entry:
    values = {
        "kind": row.kind, "key": row.key, "median_ms": row.median_ms, "date": row.date,
        "by": "neighbours", "expected_ms": 1.0, "reason": "too slow",
    }  # fmt: skip
    return Entry(**{**values, **changes})


def test_a_row_in_quarantine_counts_as_not_measured_until_it_is_released(tmp_path):
    path = tmp_path / "t.csv"
    table = measured(path)
    bad = table.rows("kernel")[2]
    before = content_digest(path)
    save_quarantine(path, {row_id(bad): entry(bad)})
    assert content_digest(path) != before
    table = LatencyTable.read(path)
    assert (len(table.rows("kernel")), table.quarantined) == (5, [bad])
    assert table.get("kernel", bad.key) is None
    assert len(table.all_rows()) == len(path.read_text().splitlines()) - 7  # header, column names
    save_quarantine(path, {row_id(bad): entry(bad, released=True)})
    assert bad in LatencyTable.read(path).rows("kernel")
    save_quarantine(path, {})
    assert not quarantine_path(path).exists()
    assert content_digest(path) == before


def test_the_next_profile_measures_it_again_and_the_new_row_counts(tmp_path):
    path = tmp_path / "t.csv"
    bad = measured(path).rows("kernel")[2]
    save_quarantine(path, {row_id(bad): entry(bad, median_ms=bad.median_ms)})
    again = SimulatedDevice()
    again.roofline = DEVICE.roofline
    with LatencyTable.open(path, again.profile, again.describe()) as table:
        other = Row(**{**vars(bad), "median_ms": 7.0})
        table.append(other)  # as if it had been measured anew with another result
    assert LatencyTable.read(path).get("kernel", bad.key).median_ms == 7.0
    with LatencyTable.open(path, again.profile, again.describe()) as table:
        summary = profile_kernels(again, KERNELS, table, ProfileSettings())
    assert summary.measured == 0


def test_the_id_survives_another_block_and_another_version(tmp_path):
    row = Row("kernel", "k", median_ms=1 / 3, runs=3, date="2026-01-01T00:00:00Z", block=4)
    moved = Row(**{**vars(row), "block": 9, "session_ms": 2.0})
    assert row_id(row) == row_id(moved) == row_id(Row.parse(row.text()[:-1]))
    assert row_id(row) != row_id(Row(**{**vars(row), "median_ms": 0.4}))


def test_a_damaged_quarantine_is_one_sentence(tmp_path):
    path = tmp_path / "t.csv"
    row = measured(path).rows("kernel")[0]
    save_quarantine(path, {row_id(row): entry(row)})
    assert list(load_quarantine(path)) == [row_id(row)]
    beside = quarantine_path(path)
    value = json.loads(beside.read_text())
    for change, words in (
        ({"schema_version": 2}, "schema version 1"),
        ({"rows": {"a": {"kind": "kernel"}}}, "missing"),
        ({"more": 1}, "unknown key 'more'"),
    ):
        beside.write_text(json.dumps({**value, **change}))
        with pytest.raises(InputError, match=words):
            LatencyTable.read(path)
    beside.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        LatencyTable.read(path)


def test_a_quarantine_with_a_number_that_is_none_is_refused(tmp_path):
    entry = {
        "kind": "kernel", "key": "k", "median_ms": "9" * 400, "by": "neighbours",
        "expected_ms": 1.0, "reason": "r",
    }  # fmt: skip
    value = {"schema_version": 1, "table": "t.csv", "rows": {"a": entry}}
    (tmp_path / "t.quarantine.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="median_ms"):
        load_quarantine(tmp_path / "t.csv")
