"""The model that a kernel is timed in: an 8-bit pool runs as it would in a network."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from factory.devices.base import TimingPlan
from factory.devices.context import CONTEXT
from factory.devices.local import LocalDevice
from factory.devices.profile import DeviceProfile
from factory.devices.simulated import SimulatedDevice
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import kernel_to_onnx
from factory.profiling.kernel_model import LAYOUT_SENSITIVE, kernel_model

PLAN = TimingPlan(min_runs=20, max_runs=100, min_time_ms=5.0, profile_runs=20)
KERNELS = [
    "MaxPool(x=1x16x32x32,k=3,s=1,p=1,dtype=i8)",
    "AveragePool(x=1x16x32x32,k=3,s=2,p=1,dtype=i8)",
    "GlobalAveragePool(x=1x16x8x8,dtype=i8)",
    "Concat(x=1x16x8x8+1x8x8x8,axis=1,dtype=i8)",
    "Slice(x=1x16x8x8,start=1,dtype=i8)",
    "Relu(x=1x16x8x8,dtype=i8)",
    "Add(x=1x16x8x8+1x16x8x8,dtype=i8)",
    "Conv(x=1x16x8x8,w=16x16x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=i8)",
]


@pytest.fixture(scope="module")
def device():
    with LocalDevice(DeviceProfile(id="t1", threads=1, precision="int8")) as device:
        yield device


def test_every_8_bit_kernel_runs_and_keeps_some_time(device):
    kernels = [Kernel.parse(text) for text in KERNELS]
    timings = device.time_many([kernel_model(kernel) for kernel in kernels], PLAN)
    for kernel, timing in zip(kernels, timings, strict=True):
        assert timing.ok, timing.reason
        assert 0 <= timing.reorder_share < 1
        marked = [node for node in timing.nodes if CONTEXT in node["name"]]
        assert bool(marked) == (kernel.op in LAYOUT_SENSITIVE)
        added = sum(n["share"] for n in timing.nodes if n["op"] == "Transpose" or n in marked)
        assert timing.reorder_share == pytest.approx(added)


def test_an_8_bit_pool_gets_the_layout_of_a_network(device):
    """On x86 a lone 8-bit MaxPool is an NCHW one, which no network with 8-bit convs has."""
    kernel = Kernel.parse(KERNELS[0])
    model = kernel_model(kernel)
    alone = kernel_to_onnx(kernel).SerializeToString()
    within, lone = device.time_many([model, alone], PLAN)
    ops = {node["op"] for node in within.nodes}
    if "NhwcMaxPool" not in ops:
        pytest.skip("this runtime keeps 8-bit pools in NCHW")
    assert within.median_ms * (1 - within.reorder_share) < lone.median_ms


def test_the_result_has_the_kernels_shape_and_stays_8_bit(device):
    kernel = Kernel.parse(KERNELS[0])
    x = np.random.default_rng(0).integers(0, 256, (1, 16, 32, 32), dtype=np.uint8)
    (result,) = device.run(kernel_model(kernel), {"x0": x}).values()
    assert result.shape == kernel.output_shape
    assert result.dtype == np.uint8


def test_floats_and_flat_inputs_are_measured_alone():
    for text in ("MaxPool(x=1x8x8x8,k=3,s=1,p=1,dtype=f32)", "Concat(x=1x8+1x8,axis=1,dtype=i8)"):
        kernel = Kernel.parse(text)
        assert kernel_model(kernel) == kernel_to_onnx(kernel).SerializeToString()
        assert len(onnx.load_from_string(kernel_model(kernel)).graph.output) == 1


@pytest.mark.parametrize("text", KERNELS)
def test_the_simulated_device_takes_the_context_off_again(text):
    kernel, device = Kernel.parse(text), SimulatedDevice()
    timing = device.time_many([kernel_model(kernel)], PLAN)[0]
    truth_ms = device.roofline.kernel_ms(kernel)
    assert timing.median_ms * (1 - timing.reorder_share) == pytest.approx(truth_ms)
