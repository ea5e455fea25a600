"""Random networks of all kinds: reproducible, varied, and the same kernels after a trip to ONNX."""

import numpy as np
import onnxruntime
import pytest

from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.counts import count
from factory.graph.onnx_build import to_onnx
from factory.graph.onnx_import import from_onnx
from factory.latency.features import family
from factory.spaces.map_blocks import MAP_BLOCKS
from factory.spaces.mixed import MOST_MACS, MOST_PARAMS, random_mixed_network
from factory.spaces.mixed_drawing import MixedDrawer
from factory.spaces.token_blocks import TOKEN_MIXERS, token_block


def draw(seed):
    return random_mixed_network(np.random.default_rng(seed))


def blocks():
    """A drawer and a map or tokens of it, of every block, for some seeds."""
    for name, (_, block) in MAP_BLOCKS.items():
        yield name, lambda d, block=block: block(d, d.builder.input("x", (1, 48, 12, 12)))
    for name in TOKEN_MIXERS:
        yield (
            name,
            lambda d, name=name: token_block(d, d.builder.input("x", (1, 144, 48)), name, 12, 12),
        )


@pytest.mark.parametrize(("name", "make"), list(blocks()), ids=[name for name, _ in blocks()])
def test_every_block_runs_and_is_read_back_as_it_was_drawn(name, make):
    for seed in range(4):
        d = MixedDrawer(np.random.default_rng(seed), name)
        graph = canonicalise(d.builder.finish([make(d)]))
        model = to_onnx(graph)
        assert kernel_counts(canonicalise(from_onnx(model))) == kernel_counts(graph)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        assert session.get_outputs()[0].shape == list(graph.nodes[-1].out_shape)


@pytest.mark.parametrize("seed", range(3))
def test_onnx_gives_the_same_kernels(seed):
    graph = canonicalise(draw(seed))
    assert kernel_counts(canonicalise(from_onnx(to_onnx(graph)))) == kernel_counts(graph)


@pytest.mark.parametrize("seed", range(3))
def test_the_quantised_form_runs(seed):
    model = to_onnx(canonicalise(draw(seed)), "i8")
    onnxruntime.InferenceSession(model.SerializeToString())
    counts = kernel_counts(canonicalise(from_onnx(model)))
    convolutions = [kernel for kernel in counts if kernel.op == "Conv"]
    assert {kernel.dtype for kernel in convolutions} == {"i8"}


def test_same_seed_same_network_within_limits():
    for seed in range(4):
        first, second = draw(seed), draw(seed)
        assert first.nodes == second.nodes
        assert count(first).macs <= MOST_MACS[1]
        assert count(first).params <= MOST_PARAMS


def test_all_that_is_deployed_occurs():
    graphs = [canonicalise(draw(seed)) for seed in range(150)]
    kernels = {kernel for graph in graphs for kernel in kernel_counts(graph)}
    families = {family(kernel) for kernel in kernels}
    wanted = "matmul linear gemm softmax norm reduce transpose transpose_last slice split gather "
    wanted += "resize resize_blocked conv_transpose recurrent conv_depthwise conv_grouped max_pool "
    wanted += "concat_flat pad unary_flat binary_flat"
    assert set(wanted.split()) <= families
    assert {"Gelu", "Erf", "LSTM", "GRU", "HardSwish", "Tanh"} - {k.op for k in kernels} == {"Erf"}
    assert any(int(k.attr("d", "1")) > 1 for k in kernels if k.op == "Conv")
    assert {7, 9, 11, 13} <= {k.weight[2] for k in kernels if k.kind == "conv_depthwise"}
    sides = [next(iter(graph.inputs.values()))[2:] for graph in graphs]
    assert min(map(min, sides)) >= 96
    assert max(map(max, sides)) > 512
    assert any(height != width for height, width in sides)
