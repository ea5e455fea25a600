"""Features of kernels: what a regressor must be able to tell apart."""

import math

import numpy as np
import pytest

from factory.graph.kernel import Kernel
from factory.latency.features import (
    NUMERIC,
    FeatureSpace,
    family,
    numeric_features,
    relatives,
)


def conv(channels_in, channels_out, side=14, k=1, groups=1, stride=1):
    return Kernel.parse(
        f"Conv(x=1x{channels_in}x{side}x{side},w={channels_out}x{channels_in // groups}x{k}x{k},"
        f"s={stride},p={k // 2},d=1,g={groups},act=none,dtype=f32)"
    )


def named(kernel):
    return dict(zip(NUMERIC, numeric_features(kernel), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "Gemm(x=1x640,w=1000x640,act=none,dtype=f32)",
        "GlobalAveragePool(x=1x96x7x7,dtype=f32)",
        "MaxPool(x=1x16x32x32,k=3,s=2,p=1,dtype=f32)",
        "Add(x=1x16x32x32+1x16x32x32,dtype=i8)",
        "Concat(x=1x16x8x8+1x16x8x8,axis=1,dtype=f32)",
        str(conv(3, 16, 32, 3, stride=2)),
        str(conv(32, 32, 7, 5, groups=32)),
    ],
)
def test_every_kernel_has_every_column(text):
    row = numeric_features(Kernel.parse(text))
    assert len(row) == len(NUMERIC) == len(set(NUMERIC))
    assert np.all(np.isfinite(row))
    assert FeatureSpace.of([Kernel.parse(text)]).matrix([Kernel.parse(text)]).shape[0] == 1


def test_what_is_left_over_at_the_end_of_a_narrow_block_has_its_columns():
    full, ragged = named(conv(64, 40)), named(conv(64, 44))
    assert full["out_ragged_narrow"] == 0
    assert full["narrow_padding_ratio"] == 1
    assert ragged["out_ragged_narrow"] == 1
    assert ragged["narrow_padding_ratio"] == pytest.approx(48 / 44)
    assert full["out_ragged_block"] == 1, "the wide block has a rest there"
    assert full["narrow_set_rest"] == 1, "five blocks are one set of four and one more"


def test_columns_of_padding_are_counted_apart():
    row = named(conv(16, 16, side=4, k=5, groups=16))
    assert row["log_edge_columns"] == pytest.approx(math.log1p(4))
    assert named(conv(16, 16, side=4))["log_edge_columns"] == 0


def test_caches_show_only_above_their_size():
    small, large = named(conv(16, 16, side=8)), named(conv(64, 64, side=112))
    assert small["input_over_l2"] == small["input_over_l1"] == 0
    assert large["input_over_l2"] == pytest.approx(math.log1p(64 * 112 * 112 * 4) - math.log(2**19))


def test_grouped_convolutions_of_broken_blocks_have_a_family_of_their_own():
    assert family(conv(64, 64, k=3, groups=4)) == "conv_grouped"
    assert family(conv(48, 48, k=3, groups=4)) == "conv_grouped_ragged"
    assert family(conv(6, 16, k=3)) == "conv_dense", "few channels are read plain"
    assert family(conv(10, 16, k=3)) == "conv_dense_ragged"


def test_average_pools_of_broken_blocks_have_families_of_their_own():
    def pool(channels, op="AveragePool"):
        return Kernel.parse(f"{op}(x=1x{channels}x8x8,k=3,s=1,p=1,dtype=f32)")

    names = {channels: family(pool(channels)) for channels in (32, 24, 20)}
    assert names == {32: "avg_pool", 24: "avg_pool_half_block", 20: "avg_pool_ragged"}
    assert family(pool(20, "MaxPool")) == "max_pool"
    for name in names.values():
        assert relatives(name)[0] == name
        assert set(names.values()) <= set(relatives(name))
    assert relatives("conv_dense_ragged")[:2] == ["conv_dense_ragged", "conv_dense"]
