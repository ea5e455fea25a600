"""Random mobile networks: reproducible, varied, and the same kernels after a trip through ONNX."""

import numpy as np
import pytest

from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.counts import count
from factory.graph.onnx_build import to_onnx
from factory.graph.onnx_import import from_onnx
from factory.spaces.mobile import MobileRange, random_mobile_network

SMALL = MobileRange(2e6, 80e6, 3e6)


def draw(seed, limits=SMALL):
    return random_mobile_network(np.random.default_rng(seed), limits)


@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("seed", range(6))
def test_onnx_gives_the_same_kernels(seed, dtype):
    graph = canonicalise(draw(seed))
    again = canonicalise(from_onnx(to_onnx(graph, dtype)))
    assert kernel_counts(again) == kernel_counts(graph, dtype)


def test_same_seed_same_network_within_limits():
    for seed in range(12):
        first, second = draw(seed), draw(seed)
        assert first.nodes == second.nodes
        counts = count(first)
        assert SMALL.min_macs <= counts.macs <= SMALL.max_macs
        assert counts.params <= SMALL.max_params


def test_all_that_mobile_networks_are_made_of_occurs():
    kernels = {k for seed in range(60) for k in kernel_counts(canonicalise(draw(seed)))}
    kinds = {k.kind for k in kernels}
    assert {"conv_depthwise", "conv_pointwise", "conv_dense", "conv_grouped", "gemm"} <= kinds
    assert {"pool", "concat", "global_pool", "copy", "elementwise"} <= kinds
    assert {"relu", "clip6", "hswish"} <= {k.attr("act") for k in kernels}
    assert {"Transpose", "Mul", "Sigmoid", "Slice"} <= {k.op for k in kernels}
    assert any(k.op == "Mul" and len(set(k.inputs)) == 2 for k in kernels)  # a gate
    assert {3, 5, 7} <= {k.weight[2] for k in kernels if k.kind == "conv_depthwise"}


def test_impossible_limits_are_said():
    with pytest.raises(ValueError, match="no random network within"):
        draw(0, MobileRange(1.0, 2.0, 1.0))
