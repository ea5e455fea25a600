"""Rows that disagree: planted ones are found, true ones are left alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from factory.devices.simulated import Roofline
from factory.graph.kernel import Kernel
from factory.latency.neighbours import judge
from factory.profiling.quarantine import row_id
from factory.profiling.rows import Row
from factory.profiling.table import LatencyTable

HEADER = {"schema_version": 3, "device": "d", "dtype": "f32", "fingerprint": {}}
CHIP = Roofline(overhead_ms=0.02)


def conv(inputs, outputs, size, window=3):
    return Kernel.parse(
        f"Conv(x=1x{inputs}x{size}x{size},w={outputs}x{inputs}x{window}x{window},s=1,p="
        f"{window // 2},d=1,g=1,act=relu,dtype=f32)"
    )


def row(kind, key, ms, kernels="", block=0, date="2026-01-01T00:00:00Z"):
    return Row(kind, key, kernels, ms, ms, ms, ms, 20, block=block, date=date)


def alone(noise=0.02):
    rng = np.random.default_rng(0)
    kernels = [conv(a, b, s) for a in (16, 32, 48, 64) for b in (16, 32, 64, 96) for s in (8, 14)]
    times = [CHIP.kernel_ms(k) * (1 + noise * rng.standard_normal()) for k in kernels]
    return [row("kernel", str(k), ms) for k, ms in zip(kernels, times, strict=True)]


def traced(number=16, noise=0.02, per_network=8):
    """Networks of random convolutions, their rows in place before their own."""
    rng = np.random.default_rng(1)
    rows = []
    for index in range(number):
        picks = rng.choice([16, 32, 48, 64, 96], size=(per_network, 2))
        kernels = {conv(int(a), int(b), 14) for a, b in picks}
        times = {k: CHIP.kernel_ms(k) * (1 + noise * rng.standard_normal()) for k in kernels}
        rows += [row("in_place", f"{k}@net:{index}", ms, f"1*{k}") for k, ms in times.items()]
        text = ";".join(f"1*{k}" for k in sorted(kernels))
        rows.append(row("network", f"net:{index}", sum(times.values()), text))
    return rows


def table(rows):
    return LatencyTable(Path("t.csv"), HEADER, rows)


def doubts(rows, believed=frozenset()):
    return {(d.row.kind, d.row.key): d for d in judge(table(rows), believed).doubts}


def changed(rows, index, factor):
    return [
        dataclasses.replace(one, median_ms=one.median_ms * factor) if i == index else one
        for i, one in enumerate(rows)
    ]


def test_true_rows_are_believed():
    rows = [*alone(), *traced()]
    result = judge(table(rows))
    assert result.doubts == []
    assert result.judged > 0.9 * (result.judged + result.unjudged)


@pytest.mark.parametrize("factor", [0.4, 2.5, 1000.0])
def test_a_kernel_that_disagrees_with_its_neighbours_is_found_and_only_it(factor):
    rows = changed(alone(), 9, factor)
    found = doubts(rows)
    assert list(found) == [("kernel", rows[9].key)]
    (doubt,) = found.values()
    assert doubt.by == "neighbours"
    assert doubt.expected_ms == pytest.approx(rows[9].median_ms / factor, rel=0.3)
    assert ("in milliseconds?" in doubt.reason) == (factor == 1000.0)
    assert doubts(rows, {row_id(rows[9])}) == {}  # a person has released it


def test_outliers_do_not_hide_each_other():
    rows = alone()
    for index in (3, 9, 17, 20):
        rows = changed(rows, index, 4.0)
    assert {key for _, key in doubts(rows)} == {rows[i].key for i in (3, 9, 17, 20)}


def test_a_disturbed_network_goes_with_all_its_kernels():
    rows = traced()
    slow = [
        dataclasses.replace(one, median_ms=2 * one.median_ms) if one.key.endswith("net:5") else one
        for one in rows
    ]
    found = doubts(slow)
    assert {key for _, key in found} == {one.key for one in rows if one.key.endswith("net:5")}
    assert "as timed elsewhere" in found["network", "net:5"].reason


def test_of_two_runs_that_disagree_the_one_that_the_others_contradict_goes():
    rows = alone()
    good, bad = rows[9], dataclasses.replace(rows[9], median_ms=1.35 * rows[9].median_ms)
    later = dataclasses.replace(bad, block=7, date="2026-02-01T00:00:00Z")
    found = judge(table([*rows, later])).doubts
    assert [doubt.row for doubt in found] == [later]
    assert found[0].by == "earlier run"
    assert found[0].expected_ms == pytest.approx(good.median_ms)
    earlier = [bad if one is good else one for one in rows]
    again = dataclasses.replace(good, block=7, date="2026-02-01T00:00:00Z")
    assert [doubt.row for doubt in judge(table([*earlier, again])).doubts] == [bad]
    close = dataclasses.replace(good, median_ms=1.05 * good.median_ms, block=7)
    assert judge(table([*rows, close])).doubts == []


def test_few_rows_are_not_judged():
    result = judge(table(changed(alone()[:8], 2, 100.0)))
    assert (result.doubts, result.judged, result.unjudged) == ([], 0, 8)
