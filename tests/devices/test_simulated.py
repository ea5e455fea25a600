"""The simulated device: its times are the stated truth, and its troubles come on demand."""

from __future__ import annotations

import pytest

from factory.devices.base import TimingPlan
from factory.devices.simulated import SimulatedDevice
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import kernel_to_onnx, to_onnx
from factory.graph.opgraph import GraphBuilder

PLAN = TimingPlan()


def network():
    builder = GraphBuilder()
    x = builder.input("image", (1, 3, 16, 16))
    x = builder.relu(builder.conv(x, 8, 3, padding=1))
    y = builder.conv(x, 8, 3, padding=1, groups=8)
    x = builder.global_avg_pool(builder.add(x, y))
    return builder.finish([builder.linear(x, 10)])


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_a_network_takes_the_sum_of_its_kernels(dtype):
    device = SimulatedDevice()
    graph = network()
    counts = kernel_counts(canonicalise(graph), dtype)
    timing = device.time_many([to_onnx(graph, dtype).SerializeToString()], PLAN)[0]
    assert timing.median_ms == pytest.approx(device.truth_ms(counts))
    for kernel in counts:
        alone = device.time_many([kernel_to_onnx(kernel).SerializeToString()], PLAN)[0]
        assert alone.median_ms == pytest.approx(device.roofline.kernel_ms(kernel))


def test_noise_is_the_same_for_the_same_model():
    model = to_onnx(network()).SerializeToString()
    device = SimulatedDevice(noise=0.05)
    first, second = device.time_many([model, model], PLAN)
    assert first == second
    truth = SimulatedDevice().time_many([model], PLAN)[0].median_ms
    assert first.median_ms != truth
    assert first.median_ms == pytest.approx(truth, rel=0.05)


def test_drift_failure_and_hang():
    model = to_onnx(network()).SerializeToString()
    drifting = SimulatedDevice(drift=lambda timed: 2.0 if timed >= 1 else 1.0)
    before, after = drifting.time_many([model, model], PLAN)
    assert after.median_ms == pytest.approx(2 * before.median_ms)

    def refuses(kernel: Kernel) -> str | None:
        return "no such kernel here" if kernel.op == "Add" else None

    assert SimulatedDevice(fails_on=refuses).time_many([model], PLAN)[0].reason == (
        "no such kernel here"
    )
    hanging = SimulatedDevice(hangs_on=lambda kernel: kernel.op == "Gemm")
    assert "timed out" in hanging.time_many([model], PLAN)[0].reason
