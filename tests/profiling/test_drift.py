"""A clock that moves is noticed, fast or slowly, up or down; noise is not."""

import numpy as np
import pytest

from factory.core.progress import SilentProgress
from factory.devices.simulated import SimulatedDevice
from factory.graph.kernel import Kernel
from factory.profiling.drift import clock_drift
from factory.profiling.profiler import profile_kernels
from factory.profiling.settings import ProfileSettings
from factory.profiling.table import LatencyTable

KERNELS = [
    Kernel.parse(f"Conv(x=1x8x8x8,w={8 * n}x8x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)")
    for n in range(1, 81)
]


class Said(SilentProgress):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def profiled(tmp_path, drift):
    device, said = SimulatedDevice(drift=drift), Said()
    with LatencyTable.open(tmp_path / "t.csv", device.profile, device.describe()) as table:
        summary = profile_kernels(device, KERNELS, table, ProfileSettings(block_size=4), said)
    return summary, said.lines


@pytest.mark.parametrize("size", [0.2, -0.2])
def test_a_slow_drift_by_a_fifth_is_said_although_no_block_is_repeated(tmp_path, size):
    summary, lines = profiled(tmp_path, lambda timed: 1 + size * min(max(timed - 21, 0) / 84, 1))
    assert summary.repeated_blocks == 0
    assert sum("the clock drifted: the reference model took" in line for line in lines) == 1
    assert f"{round(100 * size):+d} %" in summary.drift


def test_a_steady_clock_and_one_burst_are_no_drift(tmp_path):
    summary, lines = profiled(tmp_path, lambda timed: 1.5 if 44 <= timed < 51 else 1.0)
    assert (summary.drift, summary.repeated_blocks) == ("", 1)
    assert len(lines) == 1


def test_noise_of_a_few_percent_is_no_drift():
    times = 0.2 * (1 + 0.03 * np.random.default_rng(0).standard_normal(60))
    assert not clock_drift(times.tolist()).noticed
    assert clock_drift([0.2, 0.2]) is None
    assert clock_drift([0.2, 0.2, 0.2]).percent == 0
