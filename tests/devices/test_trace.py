"""Shares of the nodes from the runtime's trace: interruptions fall on no node."""

from __future__ import annotations

import pytest

from factory.devices.measure import TRACE_WARMUP_RUNS, nodes_of_events

RUNS = 10


def event(name: str, us: int) -> dict:
    args = {"op_name": "Conv", "provider": "CPUExecutionProvider"}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": args}


def trace(times_us: dict[str, list[int]]) -> list[dict]:
    """Events of TRACE_WARMUP_RUNS slow runs, then of the runs given."""
    warm = [event(name, 9000) for _ in range(TRACE_WARMUP_RUNS) for name in times_us]
    runs = zip(*times_us.values(), strict=True)
    return warm + [event(n, us) for run in runs for n, us in zip(times_us, run, strict=True)]


def shares(times_us: dict[str, list[int]]) -> dict[str, float]:
    nodes, _ = nodes_of_events(trace(times_us), RUNS)
    return {node["name"]: node["share"] for node in nodes}


def test_interruptions_that_fall_on_every_run_fall_on_no_node():
    times = {name: [99] * RUNS for name in ("a", "b", "c", "d")}
    for run in range(RUNS):  # each run is interrupted once, somewhere else
        times["abcd"[run % 3]][run] += 5000
    found = shares(times)
    assert found == pytest.approx(dict.fromkeys("abcd", 0.25))


def test_whole_microseconds_are_averaged():
    found = shares({"a": [1, 2] * (RUNS // 2), "b": [9] * RUNS})
    assert found["a"] == pytest.approx(1.5 / (1.5 + 9.5))  # the faster half of [1, 2, ...] is 1


def test_the_time_is_that_of_the_faster_runs():
    _, total_ms = nodes_of_events(trace({"a": [100] * 6 + [900] * 4, "b": [50] * RUNS}), RUNS)
    assert total_ms == pytest.approx(0.151)


def test_a_node_that_does_not_run_every_time_counts_with_its_mean():
    events = [event("a", 100) for _ in range(TRACE_WARMUP_RUNS + RUNS)] + [event("b", 1300)]
    nodes, _ = nodes_of_events(events, RUNS)
    times = {node["name"]: node["share"] for node in nodes}
    assert times["b"] / times["a"] == pytest.approx(1300.5 / (TRACE_WARMUP_RUNS + RUNS) / 100.5)


def test_no_events_no_nodes():
    assert nodes_of_events([], RUNS) == ([], 0.0)
