"""The farm: equal devices share the work, a lost one's is taken over, rows are merged once."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from factory.core.errors import InputError
from factory.core.files import sha256_file
from factory.core.reading import read_json
from factory.devices.base import open_device
from factory.devices.profile import DeviceProfile
from factory.devices.simulated import Roofline, SimulatedDevice
from factory.graph.fusion import parse_rules
from factory.latency.facts import parse_counts
from factory.pipeline.farm import run_farm
from factory.pipeline.farm_merge import sources_path
from factory.pipeline.farm_turns import Turns
from factory.pipeline.profiling_plan import kernels_of
from factory.pipeline.shapes import cell_space
from factory.profiling.fusion_rules import fusion_rules
from factory.profiling.fusion_tests import fusion_models
from factory.profiling.table import LatencyTable

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))
from running_agent import RunningAgent

SPEC = cell_space(4, 3, "3x8x8", "cifar", 10)
KERNELS = len(kernels_of([SPEC], "f32"))
NETWORKS = 3
TOTAL = KERNELS + NETWORKS


class Rack:
    """Opens simulated devices that remember what they measured and can be lost."""

    def __init__(self, lost_after=None, rooflines=None, away=(), at_once=1, fuses=None) -> None:
        self.fuses = fuses  # not None: the devices compile networks and fold by these rules
        self.lost_after, self.rooflines, self.away = lost_after or {}, rooflines or {}, away
        self.all_at_work = threading.Barrier(at_once)  # nobody measures before all of them can
        self.lost, self.all_lost = set(), threading.Event()
        self.calls: Counter[str] = Counter()
        self.models: list[tuple[str, bytes]] = []

    def open(self, profile):
        if profile.id in self.away:
            raise InputError(f"device {profile.id!r} is switched off")
        rack = self

        class Member(SimulatedDevice):
            def time_many(self, models, plan, *, rounds=1):
                if len(models) in (
                    1,
                    plan.references,
                ):  # a look at what the device shows, before the work begins
                    return super().time_many(models, plan, rounds=rounds)
                rack.calls[profile.id] += 1
                if rack.calls[profile.id] == 1:
                    rack.all_at_work.wait(200)
                if rack.lost_after and profile.id not in rack.lost_after:
                    assert rack.all_lost.wait(200)  # the others leave work undone
                if rack.calls[profile.id] > rack.lost_after.get(profile.id, 10**9):
                    rack.lost.add(profile.id)
                    if rack.lost == set(rack.lost_after):
                        rack.all_lost.set()
                    raise InputError("somebody pulled the plug")
                time.sleep(0.002)
                own = models[: len(models) - plan.references]
                rack.models += [(profile.id, model) for model in own]
                return super().time_many(models, plan, rounds=rounds)

        roofline = self.rooflines.get(profile.id, Roofline())
        if self.fuses is None:
            return Member(profile, roofline=roofline)
        return Member(profile, roofline=roofline, fuses=self.fuses, compiles=True)


def profiles(*ids):
    return [DeviceProfile(id=i, chip="simulated", transport="simulated", threads=1) for i in ids]


def run(folder, rack, *ids):
    return run_farm(
        profiles(*ids),
        [SPEC],
        folder,
        networks=NETWORKS,
        pool=16,
        effort="quick",
        seed=0,
        opener=rack.open,
    )


def test_equal_devices_share_one_plan_and_end_in_one_table(tmp_path):
    rack = Rack(at_once=3)
    [group] = run(tmp_path, rack, "a", "b", "c")
    assert (group["rows"], group["of"]) == (TOTAL, TOTAL)
    assert all(entry["measured"] > 0 for entry in group["devices"])
    assert sum(entry["measured"] for entry in group["devices"]) == TOTAL
    table = LatencyTable.read(Path(group["table"]))
    assert table.device_id == "a"
    assert len(table.rows("kernel")) == KERNELS
    assert len(table.rows("network")) == NETWORKS
    record = read_json(sources_path(table.path))
    owner = {}
    for source in record["sources"]:
        assert source["simulated"] is True
        assert source["sha256"] == sha256_file(tmp_path / source["table"])
        own = LatencyTable.read(tmp_path / source["table"])
        for old, new in source["blocks"].items():
            owner[new] = (own, int(old))
    for row in table.rows():
        own, block = owner[row.block]
        if row.kind == "reference":
            assert row.median_ms in [r.median_ms for r in own.rows("reference")]
        else:
            assert own.get(row.kind, row.key).median_ms == row.median_ms
            assert own.get(row.kind, row.key).block == block
    assert {row.block for row in table.rows("kernel")} <= {
        row.block for row in table.rows("reference")
    }


def test_the_work_of_a_lost_device_is_taken_over_and_nothing_is_measured_twice(tmp_path):
    rack = Rack(lost_after={"b": 4})
    [group] = run(tmp_path, rack, "a", "b")
    lost = {entry["device"]: entry["lost"] for entry in group["devices"]}
    assert lost["a"] == ""
    assert "pulled the plug" in lost["b"]
    assert group["rows"] == TOTAL
    assert max(Counter(m for _, m in rack.models).values()) == 1
    assert all(row.ok for row in LatencyTable.read(Path(group["table"])).rows())


def test_devices_that_fold_are_tested_once_and_all_networks_counted_by_it(tmp_path):
    """Also when the device that was tested is lost, and another one goes on without it."""
    rules = parse_rules(["conv_pointwise+Add", "conv_depthwise+Add"])
    blocks = -(-len(fusion_models("f32")) // 8)
    first = Rack(lost_after={"a": blocks + 2, "b": 1}, fuses=rules)
    with pytest.raises(InputError, match="rows are not measured"):
        run(tmp_path, first, "a", "b")
    second = Rack(fuses=rules)
    [group] = run(tmp_path, second, "b", "c")
    assert group["rows"] == TOTAL
    tests = {build() for build in fusion_models("f32").values()}
    assert tests - {model for _, model in first.models} == set()
    assert tests & {model for _, model in second.models} == set()  # not tested again
    device = SimulatedDevice(fuses=rules)
    tables = [LatencyTable.read(path) for path in (tmp_path / "farm").glob("*.csv")]
    merged = LatencyTable.read(Path(group["table"]))
    for table in [*tables, merged]:
        assert fusion_rules(table) == rules
        for row in table.rows("network"):
            truth_ms = device.truth_ms(parse_counts(row.kernels))
            assert truth_ms == pytest.approx(row.median_ms, rel=1e-5)
    assert len(merged.rows("network")) == NETWORKS


def test_a_device_lost_in_its_fusion_tests_leaves_them_to_another(tmp_path):
    rules = parse_rules(["conv_pointwise+Add"])
    rack = Rack(lost_after={"a": 3}, fuses=rules)
    [group] = run(tmp_path, rack, "a", "b")
    assert group["rows"] == TOTAL
    assert fusion_rules(LatencyTable.read(Path(group["table"]))) == rules


def test_a_farm_that_lost_everybody_goes_on_where_it_was(tmp_path):
    first = Rack(lost_after={"a": 5, "b": 4})
    with pytest.raises(InputError, match=r"rows are not measured.*pulled the plug.*goes on"):
        run(tmp_path, first, "a", "b")
    second = Rack()
    [group] = run(tmp_path, second, "b", "c")
    assert group["rows"] == TOTAL
    # What b had measured is not measured again; a took no part in the second run.
    twice = {m for i, m in first.models if i == "b"} & {m for _, m in second.models}
    assert not twice
    third = Rack()
    [group] = run(tmp_path, third, "a", "b", "c")
    assert group["rows"] == TOTAL
    assert not third.models
    table = LatencyTable.read(Path(group["table"]))
    assert table.device_id == "a"
    assert len(table.rows("kernel")) == KERNELS
    assert len(table.rows("network")) == NETWORKS


def test_other_chips_get_tables_of_their_own_and_absent_ones_take_no_part(tmp_path):
    rack = Rack(rooflines={"fast": Roofline(overhead_ms=0.001)}, away=("gone",))
    groups = run(tmp_path, rack, "slow", "fast", "gone")
    assert [entry["rows"] for entry in groups] == [TOTAL, TOTAL]
    tables = [LatencyTable.read(Path(group["table"])) for group in groups]
    assert [table.device_id for table in tables] == ["slow", "fast"]
    with pytest.raises(InputError, match=r"no device .* reached .*switched off"):
        run(tmp_path, rack, "gone")
    with pytest.raises(InputError, match="'slow' is named twice"):
        run(tmp_path, rack, "slow", "slow")


def test_merging_again_changes_nothing(tmp_path):
    [group] = run(tmp_path, Rack(), "a", "b")
    path = Path(group["table"])
    before = path.read_bytes(), json.loads(sources_path(path).read_text())
    run(tmp_path, Rack(), "a", "b")
    assert path.read_bytes() == before[0]
    after = json.loads(sources_path(path).read_text())
    assert [s["blocks"] for s in after["sources"]] == [s["blocks"] for s in before[1]["sources"]]


def test_turns_are_taken_one_at_a_time_and_in_order():
    turns, inside, order = Turns(), [], []
    left = dict.fromkeys(range(3), 5)

    def work(name: int) -> None:
        while left[name]:
            with turns:
                inside.append(name)
                assert len(inside) == 1
                order.append(name)
                left[name] -= 1
                others = sum(1 for other in left if other != name and left[other])
                deadline = time.monotonic() + 60
                while len(turns._waiting) <= others and time.monotonic() < deadline:
                    time.sleep(0.0005)  # until everybody else stands in the queue
                inside.remove(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == sorted([0, 1, 2] * 5)
    assert order == order[:3] * 5  # nobody works alone


@pytest.mark.heavy
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_two_agents_and_this_machine_with_one_killed_on_the_way(tmp_path):
    with RunningAgent() as first, RunningAgent() as second:
        chip = DeviceProfile(id="here", threads=1)
        members = [chip, first.profile("there-1", patience_s=1.0), second.profile("there-2")]
        killed = threading.Event()

        def opener(profile):
            """The first agent is killed in its second block; the others wait in their first."""
            device = open_device(profile)
            describe, time_many, calls = device.describe, device.time_many, []

            def timed(models, plan, *, rounds=1):
                if len(models) > 1:  # a block: a reference model is at its end
                    calls.append(models)
                    if profile.id != "there-1":
                        assert killed.wait(200)
                    elif len(calls) == 2:
                        threading.Timer(0.05, accident).start()
                return time_many(models, plan, rounds=rounds)

            # Who waits must not keep the turn of this machine.
            device.describe = lambda: {**describe(), "machine": profile.id}
            device.time_many = timed
            return device

        def accident() -> None:
            first.kill()
            killed.set()

        [group] = run_farm(
            members,
            [SPEC],
            tmp_path,
            networks=NETWORKS,
            pool=16,
            effort="quick",
            seed=0,
            opener=opener,
        )
    assert group["rows"] == TOTAL
    lost = {entry["device"]: entry["lost"] for entry in group["devices"]}
    assert "does not answer" in lost["there-1"]
    assert (lost["here"], lost["there-2"]) == ("", "")
    tables = [LatencyTable.read(p) for p in (tmp_path / "farm").glob("*.csv")]
    keys = Counter(r.key for t in tables for r in t.rows() if r.kind != "reference")
    assert set(keys.values()) == {1}
    merged = LatencyTable.read(Path(group["table"]))
    assert len(merged.rows("kernel")) == KERNELS
    assert all(row.ok for row in merged.rows())
