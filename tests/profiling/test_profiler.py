"""The profiler: truth in, rows out; drift repeated or marked; nothing measured twice."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import pydantic
import pytest

from factory.core.errors import InputError
from factory.core.progress import SilentProgress
from factory.devices.local import LocalDevice
from factory.devices.profile import DeviceProfile
from factory.devices.simulated import SimulatedDevice
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import GraphBuilder
from factory.profiling import drift, table_file, trust
from factory.profiling.profiler import (
    counts_text,
    first_networks_again,
    network_key,
    profile_kernels,
    profile_networks,
)
from factory.profiling.reference import GRAPHS, reference_graph, reference_models, reference_rows
from factory.profiling.settings import ProfileSettings
from factory.profiling.table import LatencyTable

PATIENT = ProfileSettings(block_size=4, rounds=2)
SMALL = PATIENT.model_copy(update={"longest_wait_s": 0.0})


def conv(channels: int, dtype: str = "f32") -> Kernel:
    text = f"Conv(x=1x{channels}x8x8,w={channels}x{channels}x3x3,s=1,p=1,d=1,g=1,act=relu,dtype="
    return Kernel.parse(f"{text}{dtype})")


KERNELS = [conv(8 * number) for number in range(1, 11)]
SET = len(GRAPHS)  # references that are timed with every block
FIRST = 3 * SET  # and before the first of them


def slow_from(block: int, size: int = 4) -> int:
    """Models timed before a block, counted from 0, of so many kernels."""
    return FIRST + block * (size + SET)


def table_of(device, path) -> LatencyTable:
    return LatencyTable.open(path / "table.csv", device.profile, device.describe())


class Said(SilentProgress):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def test_rows_hold_the_truth(tmp_path):
    device = SimulatedDevice()
    with table_of(device, tmp_path) as table:
        summary = profile_kernels(device, [*KERNELS, KERNELS[0]], table, SMALL)
        assert (summary.measured, summary.skipped, summary.failed) == (10, 0, 0)
        for kernel in KERNELS:
            row = table.get("kernel", str(kernel))
            assert row.median_ms == pytest.approx(device.roofline.kernel_ms(kernel), rel=1e-6)
            assert row.reference_ms > 0
        references = table.rows("reference")
        assert len(references) == (3 + 3) * SET  # three at the start, one a block
        assert {row.key for row in references} == set(GRAPHS)
        assert {row.block for row in table.rows("kernel")} == {1, 2, 3}
        assert summary.to_dict()["reference_ms"] == [reference_rows(table)[0].median_ms] * 3


def test_a_second_profile_measures_only_what_is_new(tmp_path):
    device = SimulatedDevice()
    with table_of(device, tmp_path) as table:
        profile_kernels(device, KERNELS[:6], table, SMALL)
        timed = device.timed
        again = profile_kernels(device, KERNELS[:6], table, SMALL)
        assert (again.measured, again.skipped, device.timed) == (0, 6, timed)
    with table_of(device, tmp_path) as table:
        more = profile_kernels(device, KERNELS, table, SMALL)
        assert (more.measured, more.skipped) == (4, 6)
        assert device.timed == timed + 4 + SET  # four kernels and the references, no new baseline
        assert len(table.rows("kernel")) == 10


def test_failures_are_rows_with_reasons_and_can_be_retried(tmp_path):
    broken = {"on": True}
    device = SimulatedDevice(
        fails_on=lambda k: "not today" if broken["on"] and k == KERNELS[2] else None,
        hangs_on=lambda k: broken["on"] and k == KERNELS[3],
    )
    strange = Kernel("Frobnicate", ((1, 8, 8, 8),))
    with table_of(device, tmp_path) as table:
        summary = profile_kernels(device, [*KERNELS, strange], table, SMALL)
        assert summary.failed == 3
        assert table.get("kernel", str(KERNELS[2])).reason == "not today"
        assert "timed out" in table.get("kernel", str(KERNELS[3])).reason
        assert "Frobnicate" in summary.reasons[str(strange)]
        assert profile_kernels(device, KERNELS, table, SMALL).measured == 0
        broken["on"] = False
        retried = profile_kernels(
            device, KERNELS, table, SMALL.model_copy(update={"retry_failed": True})
        )
        assert (retried.measured, retried.failed) == (2, 0)
        assert table.get("kernel", str(KERNELS[2])).ok


def test_a_burst_of_load_repeats_the_block(tmp_path):
    slow = range(slow_from(1), slow_from(2))  # the second block, once
    device = SimulatedDevice(drift=lambda timed: 1.5 if timed in slow else 1.0)
    said = Said()
    with table_of(device, tmp_path) as table:
        summary = profile_kernels(device, KERNELS, table, SMALL, said)
        assert (summary.repeated_blocks, summary.marked_blocks) == (1, 0)
        assert len(said.lines) == 1
        assert "+50%" in said.lines[0]
        for row in table.rows("kernel"):
            truth = device.roofline.kernel_ms(Kernel.parse(row.key))
            assert row.median_ms == pytest.approx(truth, rel=1e-6)
            assert row.reason == ""


def test_a_slow_spell_is_waited_for_before_the_block_is_measured_again(tmp_path, monkeypatch):
    # slow from the second block's first model on, until the references were looked at seven times
    monkeypatch.setattr(trust, "PAUSE_S", 0.0)
    slow = range(slow_from(1), slow_from(2) + 7 * SET)
    device = SimulatedDevice(drift=lambda timed: 1.3 if timed in slow else 1.0)
    said = Said()
    with table_of(device, tmp_path) as table:
        summary = profile_kernels(device, KERNELS, table, PATIENT, said)
        assert (summary.repeated_blocks, summary.marked_blocks) == (1, 0)
        assert len(said.lines) == 1
        # blocks of 4, 4 twice and 2 models, each with the references; 7 + 3 looks
        assert device.timed == FIRST + 3 * (4 + SET) + 2 + SET + 10 * SET
        assert 0 < summary.waited_s <= summary.seconds
        for row in table.rows("kernel"):
            truth = device.roofline.kernel_ms(Kernel.parse(row.key))
            assert row.median_ms == pytest.approx(truth, rel=1e-6)


def test_waiting_ends_and_the_chip_that_stays_slow_is_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "PAUSE_S", 0.01)
    kernels = [conv(8 * number) for number in range(1, 41)]  # ten blocks
    device = SimulatedDevice(drift=lambda timed: 1.3 if timed >= slow_from(1) else 1.0)
    with table_of(device, tmp_path) as table:
        brief = PATIENT.model_copy(update={"longest_wait_s": 0.05})
        summary = profile_kernels(device, kernels, table, brief)
        assert summary.measured == 40
        assert summary.repeated_blocks >= 1
        assert summary.marked_blocks <= 3
        assert not any(row.reason for row in table.rows("kernel")[-16:])


def test_a_reference_that_fails_ends_the_waiting():
    device = SimulatedDevice(fails_on=lambda kernel: "gone")
    timer = trust.SteadyTimer(device, patience_s=60.0)
    assert not timer.wait(SMALL.kernel_plan())
    assert device.timed == SET


class SharedCore(SimulatedDevice):
    """A program takes the core for milliseconds: single runs last longer, short medians stay."""

    def __init__(self, busy, stolen=0.5):
        super().__init__()
        self.busy, self.stolen, self.calls = busy, stolen, 0

    def time_many(self, models, plan, *, rounds=1):
        timings = super().time_many(models, plan, rounds=rounds)
        self.calls += 1
        beyond = 1 + self.stolen if self.calls in self.busy else 1.01
        return [dataclasses.replace(t, mean_ms=beyond * t.median_ms) for t in timings]


def test_load_that_no_median_shows_repeats_the_block(tmp_path):
    kernels = [conv(8 * number) for number in range(1, 25)]  # six blocks after three references
    device = SharedCore(busy=[8])
    said = Said()
    with table_of(device, tmp_path) as table:
        summary = profile_kernels(device, kernels, table, SMALL, said)
        assert (summary.repeated_blocks, summary.marked_blocks) == (1, 0)
        assert any("other programs took 49% of the core's time" in line for line in said.lines)
        assert {round(row.mean_ms / row.median_ms, 6) for row in table.rows("kernel")} == {1.01}


def test_a_program_that_always_takes_the_core_never_becomes_usual(tmp_path):
    device = SharedCore(busy=range(1000))
    with table_of(device, tmp_path) as table:
        assert profile_kernels(device, KERNELS, table, SMALL).marked_blocks == 3
        assert trust.Usual.of_table(table).stolen <= 0.10


@pytest.mark.parametrize(("busy", "remain"), [((8, 9, 10), 0), ((8, 9, 10, 12, 13, 14), 1)])
def test_load_that_stays_is_marked_and_measured_once_more_at_the_end(tmp_path, busy, remain):
    kernels = [conv(8 * number) for number in range(1, 25)]
    device = SharedCore(busy=busy)
    with table_of(device, tmp_path) as table:
        summary = profile_kernels(device, kernels, table, SMALL)
        assert (summary.marked_blocks, summary.remeasured_blocks) == (remain, 1 - remain)
        marked = [row for row in table.rows("kernel") if row.reason]
        assert len(marked) == 4 * remain
        assert all(row.reason.startswith("disturbed: other programs took") for row in marked)
        assert all(row.disturbed for row in marked)


@pytest.mark.parametrize(("first", "later"), [(1.3, 1.0), (0.8, 1.0)])
def test_blocks_at_another_speed_are_measured_once_more_at_the_end(tmp_path, first, later):
    # the first references and two blocks, then four blocks at another speed
    kernels = [conv(8 * number) for number in range(1, 25)]
    device = SimulatedDevice(drift=lambda timed: first if timed < slow_from(2) else later)
    said = Said()
    with table_of(device, tmp_path) as table:
        calm = SMALL.model_copy(update={"drift_limit": 0.5})  # no block is repeated on its own
        summary = profile_kernels(device, kernels, table, calm, said)
        assert (summary.repeated_blocks, summary.remeasured_blocks) == (0, 2)
        assert (summary.measured, len(summary.reference_ms)) == (24, 6)
        assert any("2 of 6 blocks" in line for line in said.lines)
        rows = table.rows("kernel")
        assert len(rows) == 24
        assert len({round(row.reference_ms, 9) for row in rows}) == 1
        for row in rows:
            truth = later * device.roofline.kernel_ms(Kernel.parse(row.key))
            assert row.median_ms == pytest.approx(truth, rel=1e-6)
        timed = device.timed
        assert profile_kernels(device, kernels, table, calm).measured == 0
        assert device.timed == timed


def test_nothing_is_measured_once_more_while_the_machine_has_another_speed(tmp_path):
    kernels = [conv(8 * number) for number in range(1, 25)]
    device = SimulatedDevice(drift=lambda timed: 1.0 if timed < slow_from(4) else 0.8)
    with table_of(device, tmp_path) as table:
        summary = profile_kernels(device, kernels, table, SMALL)
        assert summary.remeasured_blocks == 0
        assert device.timed == slow_from(6)


def test_a_model_that_fails_when_it_is_measured_once_more_keeps_its_row(tmp_path):
    kernels = [conv(8 * number) for number in range(1, 25)]
    late = {"device": None}
    device = SimulatedDevice(
        drift=lambda timed: 1.3 if timed < slow_from(2) else 1.0,
        fails_on=lambda kernel: (
            "not now" if late["device"].timed > slow_from(6) and kernel in kernels else None
        ),
    )
    late["device"] = device
    with table_of(device, tmp_path) as table:
        calm = SMALL.model_copy(update={"drift_limit": 0.5})
        profile_kernels(device, kernels, table, calm)
        assert all(row.ok for row in table.rows("kernel"))


def test_networks(tmp_path):
    device = SimulatedDevice()
    graph = reference_graph()
    counts = kernel_counts(canonicalise(graph))
    model = to_onnx(graph, seed=5).SerializeToString()
    with table_of(device, tmp_path) as table:
        summary = profile_networks(device, [(counts, model), (counts, model)], table)
        assert summary.measured == 1
        assert profile_networks(device, [(counts, model)], table).skipped == 1
        row = table.get("network", network_key(model))
        assert row.median_ms == pytest.approx(device.truth_ms(counts), rel=1e-6)
        assert row.kernels == counts_text(counts)
        from factory.latency.facts import parse_counts

        assert parse_counts(row.kernels) == counts


def test_the_wrong_precision_or_chip_is_refused(tmp_path):
    device = SimulatedDevice()
    with table_of(device, tmp_path) as table:
        with pytest.raises(InputError, match="is i8 but the table is f32"):
            profile_kernels(device, [conv(8, "i8")], table, SMALL)
        other = SimulatedDevice()
        other.describe = lambda: {
            **device.describe(),
            "fingerprint": {**device.describe()["fingerprint"], "chip": "another"},
        }
        with pytest.raises(InputError, match="another chip"):
            profile_kernels(other, KERNELS, table, SMALL)


def test_a_device_that_cannot_run_the_reference_says_so(tmp_path):
    device = SimulatedDevice(fails_on=lambda kernel: "broken chip")
    with table_of(device, tmp_path) as table, pytest.raises(InputError, match="broken chip"):
        profile_kernels(device, KERNELS, table, SMALL)


def test_impossible_settings_are_refused():
    with pytest.raises(pydantic.ValidationError, match="more than max_runs"):
        ProfileSettings(min_runs=5, max_runs=3)
    with pytest.raises(pydantic.ValidationError):
        ProfileSettings(blocksize=3)


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_real_kernels_on_this_machine(tmp_path, dtype):
    profile = DeviceProfile(id="t1", threads=1, precision="int8" if dtype == "i8" else "fp32")
    quick = ProfileSettings(min_runs=5, min_time_ms=3, max_runs=50, trace_runs=5, rounds=2)
    kernels = [
        conv(16, dtype),
        Kernel.parse(f"Add(x=1x16x8x8+1x16x8x8,dtype={dtype})"),
        Kernel.parse(f"MaxPool(x=1x16x8x8,k=3,s=1,p=1,dtype={dtype})"),
    ]
    with LocalDevice(profile) as device, table_of(device, tmp_path) as table:
        summary = profile_kernels(device, kernels, table, quick)
        assert (summary.measured, summary.failed) == (3, 0)
        for row in table.rows("kernel"):
            assert 0 < row.min_ms <= row.p10_ms <= row.median_ms <= row.p90_ms
            assert 0 <= row.reorder_share < 1
        if dtype == "i8":
            assert all(row.reorder_share < 0.9 for row in table.rows("kernel"))
        assert table.header["describe"]["empty_run_ms"] > 0


def test_the_references_never_change():
    macs = []
    for graph in GRAPHS.values():
        counts = kernel_counts(canonicalise(graph()))
        macs.append(sum(kernel.macs * n for kernel, n in counts.items()))
    assert macs == [6_939_264, 0, 139_417_952]
    for dtype in ("f32", "i8"):
        assert list(reference_models(dtype)) == list(GRAPHS)
        assert sum(map(len, reference_models(dtype).values())) < 1e6


def test_the_first_networks_are_measured_again_and_tell_of_drift(tmp_path):
    device = SimulatedDevice(drift=lambda timed: slow["factor"])
    slow = {"factor": 1.0}
    networks = []
    for seed in range(6):
        model = to_onnx(reference_graph(), seed=seed).SerializeToString()
        networks.append((kernel_counts(canonicalise(reference_graph())), model))
    with table_of(device, tmp_path) as table:
        profile_networks(device, networks, table, SMALL)
        before = {row.key: row for row in table.rows("network")}
        again = first_networks_again(device, networks, table, SMALL)
        assert again.drift == ""
        assert drift.network_drift(table).percent == pytest.approx(0.0, abs=1e-3)
        # the references feel nothing: the networks alone are slower
        slow["factor"] = 1.3
        calm = SMALL.model_copy(update={"drift_limit": 0.5})
        again = first_networks_again(device, networks, table, calm)
        assert "4 of the first networks took +30 % at the end" in again.drift
        assert {row.key: row for row in table.rows("network")} == before
        assert [d.what for d in drift.drifts_of(table)] == ["4 of the first networks"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_killed_in_the_middle_and_resumed_measures_nothing_twice(tmp_path):
    """A real process is killed with SIGKILL while it profiles; the next one goes on."""
    script = tmp_path / "profile.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal, sys
            from pathlib import Path
            from factory.devices.simulated import SimulatedDevice
            from factory.graph.kernel import Kernel
            from factory.profiling.profiler import profile_kernels
            from factory.profiling.settings import ProfileSettings
            from factory.profiling.table import LatencyTable

            class Deadly(SimulatedDevice):
                def _time(self, model, plan):
                    if len(table.rows("kernel")) >= int(sys.argv[2]):
                        os.kill(os.getpid(), signal.SIGKILL)
                    return super()._time(model, plan)

            texts = Path(sys.argv[3]).read_text().split()
            device = Deadly()
            with LatencyTable.open(sys.argv[1], device.profile, device.describe()) as table:
                kernels = [Kernel.parse(text) for text in texts]
                summary = profile_kernels(device, kernels, table, ProfileSettings(block_size=3))
                print(summary.measured, summary.skipped)
            """
        )
    )
    kernels = tmp_path / "kernels.txt"
    kernels.write_text("\n".join(map(str, KERNELS)))
    path, straight = tmp_path / "table.csv", tmp_path / "straight.csv"

    def profile(table, rows: int) -> subprocess.CompletedProcess:
        """Killed in the block after so many rows."""
        command = [sys.executable, str(script), str(table), str(rows), str(kernels)]
        return subprocess.run(command, capture_output=True, text=True)

    assert profile(path, 3).returncode == -signal.SIGKILL
    before = LatencyTable.read(path).rows("kernel")
    assert 3 <= len(before) < len(KERNELS)
    second = profile(path, 10**6)
    assert second.stdout.split() == [str(len(KERNELS) - len(before)), str(len(before))]
    assert profile(straight, 10**6).returncode == 0
    text = path.read_text()
    for kernel in KERNELS:
        assert text.count(f'kernel,"{kernel}"') == 1
    ours = {row.key: row.median_ms for row in LatencyTable.read(path).rows("kernel")}
    theirs = {row.key: row.median_ms for row in LatencyTable.read(straight).rows("kernel")}
    assert ours == theirs


class Killed(BaseException):
    """What stands for a kill: nothing is cleaned up after it."""


def test_a_table_is_the_same_wherever_and_however_often_it_was_killed(tmp_path, monkeypatch):
    """Killed in every write of a profile, at its start, in its middle and just after it."""
    networks = []
    for width in (8, 12, 16, 20, 24):
        builder = GraphBuilder("n")
        x = builder.relu(builder.conv(builder.input("x", (1, 8, 8, 8)), width, 3, padding=1))
        graph = builder.finish([builder.linear(builder.global_avg_pool(x), 10)])
        counts = kernel_counts(canonicalise(graph))
        networks.append((counts, to_onnx(graph, seed=3).SerializeToString()))
    settings = ProfileSettings(block_size=4, network_block_size=2)
    write_whole = table_file.write_whole

    def profile(path, kill_at: int = 0, cut: float = 0.0) -> int:
        """Writes made; the one numbered ``kill_at`` is cut after that share, and the last."""
        writes = 0

        def write(handle, content):
            nonlocal writes
            writes += 1
            if writes == kill_at:
                os.write(handle, content[: round(cut * len(content))])
                raise Killed
            write_whole(handle, content)

        monkeypatch.setattr("factory.profiling.table.write_whole", write)
        device = SimulatedDevice()
        table = LatencyTable.open(path, device.profile, device.describe())
        try:
            profile_kernels(device, KERNELS, table, settings)
            profile_networks(device, networks, table, settings)
        finally:
            table.close()
        return writes

    def rows(path):
        return [dataclasses.replace(row, date="") for row in LatencyTable.read(path).all_rows()]

    straight, often = tmp_path / "straight.csv", tmp_path / "often.csv"
    writes = profile(straight)
    assert writes == 1 + 3 + 3 + 3  # the header, the first references, a write a block
    assert {"in_place", "network", "kernel"} <= {row.kind for row in rows(straight)}
    for kill_at in range(1, writes + 1):
        for cut in (0.0, 0.6, 1.0):
            path = tmp_path / f"{kill_at}-{cut}.csv"
            with pytest.raises(Killed):
                profile(path, kill_at, cut)
            profile(path)
            assert rows(path) == rows(straight), (kill_at, cut)
    while True:  # killed in the second write of every start
        try:
            profile(often, 2, 0.6)
            break
        except Killed:
            continue
    assert rows(often) == rows(straight)
