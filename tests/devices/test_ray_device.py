"""Nodes of a Ray cluster as devices: two on this machine, one lost on the way."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models

from factory.core.errors import InputError
from factory.devices import ray_device
from factory.devices.base import Device, TimingPlan, open_device
from factory.devices.profile import DeviceProfile
from factory.pipeline.farm import run_farm
from factory.pipeline.shapes import cell_space
from factory.profiling.table import LatencyTable

PLAN = TimingPlan(min_runs=6, max_runs=20, min_time_ms=2.0, warmup_time_ms=5.0, profile_runs=4)


def test_without_ray_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"Ray is not installed; pip install"):
        ray_device.connect("auto")


def test_only_local_devices_stand_for_nodes():
    phone = DeviceProfile(id="phone", transport="adb")
    with pytest.raises(InputError, match=r"'phone' is reached by 'adb'"):
        ray_device.ray_profiles(phone, "auto")


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="needs Ray: pip install 'model-factory[ray]'")
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.second = made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.heavy
def test_a_node_is_a_device_and_a_lost_one_costs_nothing(cluster, tmp_path):
    first, second = ray_device.ray_profiles(DeviceProfile(id="t1", threads=1), cluster.address)
    assert (first.id, second.id) == ("t1-node0", "t1-node1")
    with open_device(first) as device:
        assert isinstance(device, Device)
        facts = device.describe()
        json.dumps(facts, allow_nan=False)
        assert (facts["device"], facts["transport"]) == ("t1-node0", "ray")
        good, bad = device.time_many([tiny_models.add(), b"garbage"], PLAN)
        assert (good.status, bad.status) == ("ok", "failed")
        feeds = {name: np.ones((1, 4, 8, 8), np.float32) for name in "ab"}
        np.testing.assert_array_equal(device.run(tiny_models.add(), feeds)["y"], 2)
        with pytest.raises(InputError, match="does not run on device"):
            device.run(b"garbage", {})
    lost = next(p for p in (first, second) if p.ray.node == cluster.second.node_id)

    def accident() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            tables = list((tmp_path / "farm").glob(f"{lost.id}__*.csv"))
            if tables and b"\nkernel," in tables[0].read_bytes():
                break
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    thread = threading.Thread(target=accident)
    thread.start()
    spec = cell_space(4, 3, "3x8x8", "cifar", 10)
    [group] = run_farm(
        [first, second], [spec], tmp_path, networks=2, pool=8, effort="quick", seed=0
    )
    thread.join()
    assert group["rows"] == group["of"]
    told = {entry["device"]: entry["lost"] for entry in group["devices"]}
    assert "is lost" in told[lost.id]
    tables = [LatencyTable.read(path) for path in (tmp_path / "farm").glob("*.csv")]
    keys = Counter(row.key for table in tables for row in table.rows() if row.kind != "reference")
    assert set(keys.values()) == {1}
