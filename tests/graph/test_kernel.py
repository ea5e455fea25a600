import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import InputError
from factory.graph.kernel import KINDS, Kernel
from factory.graph.shapes import pads_text, pads_values, parse_shape, shape_text, spatial_text

CONV = "Conv(x=1x16x32x32,w=32x16x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)"

dims = st.integers(1, 64)
images = st.tuples(st.just(1), dims, dims, dims)
dtypes = st.sampled_from(["f32", "i8"])


@st.composite
def convs(draw):
    groups = draw(st.sampled_from([1, 2, 3]))
    per_group, out = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    pads = tuple(draw(st.integers(0, 3)) for _ in range(4))
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    x = (1, per_group * groups, draw(st.integers(10, 40)), draw(st.integers(10, 40)))
    attrs = (
        ("s", spatial_text(strides)),
        ("p", pads_text(pads)),
        ("d", draw(st.sampled_from(["1", "2", "1x2"]))),
        ("g", str(groups)),
        ("act", draw(st.sampled_from(["none", "relu", "clip6", "clip-1_1", "hswish"]))),
    )
    return Kernel("Conv", (x,), (out * groups, per_group, *kernel), attrs, draw(dtypes))


@st.composite
def others(draw):
    x, dtype = draw(images), draw(dtypes)
    pool = (("k", "3"), ("s", "2"), ("p", "1"))
    return draw(
        st.sampled_from(
            [
                Kernel("Add", (x, x), dtype=dtype),
                Kernel("Mul", (x, (1, x[1], 1, 1)), dtype=dtype),
                Kernel("Mul", (x,), (), dtype=dtype),
                Kernel("Relu", (x,), dtype=dtype),
                Kernel("MaxPool", (x,), None, pool, dtype),
                Kernel("AveragePool", (x,), None, (*pool, ("ceil", "1")), dtype),
                Kernel("GlobalAveragePool", (x,), dtype=dtype),
                Kernel("Concat", (x, x), None, (("axis", "1"),), dtype),
                Kernel("Gemm", (x[:2],), (10, x[1]), (("act", "none"),), dtype),
                Kernel("Softmax", (x[:2],), None, (("axis", "-1"),), dtype),
                Kernel("LeakyRelu", (x,), None, (("alpha", "1e-05"),), dtype),
                Kernel("Resize", (x,), None, (("mode", "cubic"), ("y", shape_text(x))), dtype),
            ]
        )
    )


@given(st.one_of(convs(), others()))
def test_text_round_trip(kernel):
    text = str(kernel)
    assert " " not in text
    assert Kernel.parse(text) == kernel
    assert hash(Kernel.parse(text)) == hash(kernel)
    assert kernel.macs >= 0
    assert kernel.kind in KINDS
    assert kernel.output_bytes > 0
    assert kernel.with_dtype("i8").with_dtype(kernel.dtype) == kernel


@given(st.lists(st.one_of(convs(), others()), max_size=6))
def test_kernels_sort(kernels):
    ordered = sorted(kernels)
    assert all(a <= b for a, b in itertools.pairwise(ordered))


def test_costs_by_hand():
    kernel = Kernel.parse(CONV)
    assert str(kernel) == CONV
    assert kernel.output_shape == (1, 32, 32, 32)
    assert kernel.macs == 32 * 32 * 32 * 16 * 9
    assert kernel.params == 32 * 16 * 9 + 32
    assert kernel.input_bytes == 16 * 32 * 32 * 4
    assert kernel.weight_bytes == kernel.params * 4
    small = kernel.with_dtype("i8")
    assert small.input_bytes == 16 * 32 * 32
    assert small.weight_bytes == 32 * 16 * 9 + 32 * 4
    gemm = Kernel.parse("Gemm(x=1x64,w=10x64,act=none,dtype=f32)")
    assert (gemm.macs, gemm.params, gemm.output_shape) == (640, 650, (1, 10))
    attention = Kernel.parse("MatMul(x=1x4x9x8+1x4x8x9,dtype=f32)")
    assert (attention.macs, attention.output_shape) == (4 * 9 * 8 * 9, (1, 4, 9, 9))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (CONV, "conv_dense"),
        ("Conv(x=1x8x9x9,w=8x1x3x3,s=1,p=2,d=2,g=8,act=none,dtype=f32)", "conv_depthwise"),
        ("Conv(x=1x8x9x9,w=16x8x1x1,s=2,p=0,d=1,g=1,act=none,dtype=i8)", "conv_pointwise"),
        ("Conv(x=1x8x9x9,w=8x4x3x3,s=1,p=1,d=1,g=2,act=none,dtype=f32)", "conv_grouped"),
        ("Gemm(x=1x64,w=10x64,act=none,dtype=f32)", "gemm"),
        ("MaxPool(x=1x8x9x9,k=3,s=2,p=1,dtype=f32)", "pool"),
        ("Add(x=1x8x9x9+1x8x9x9,dtype=f32)", "elementwise"),
        ("Concat(x=1x8x9x9+1x8x9x9,axis=1,dtype=f32)", "concat"),
        ("GlobalAveragePool(x=1x8x9x9,dtype=f32)", "global_pool"),
        ("Slice(x=1x8x9x9,start=1,dtype=f32)", "copy"),
        ("Einsum(x=1x8,dtype=f32)", "other"),
    ],
)
def test_kind(text, kind):
    assert Kernel.parse(text).kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Conv",
        "Conv()",
        CONV + " ",
        CONV.replace(",", ", "),
        CONV.replace("dtype=f32", "dtype=f16"),
        CONV.replace("1x16x32x32", "1x16x032x32"),
        CONV.replace("1x16x32x32", "1x0x32x32"),
        CONV.replace("1x16x32x32", "1x8x32x32"),  # channels do not match the weight
        CONV.replace("1x16x32x32", "1x16xax32"),
        CONV.replace("s=1,p=1", "p=1,s=1"),
        CONV.replace("s=1,", ""),
        CONV.replace("s=1", "s=0"),
        CONV.replace("s=1", "s=1x1x1"),
        CONV.replace("s=1", "s="),
        CONV.replace("s=1,", "s=1,s=1,"),
        CONV.replace(",dtype=f32", ""),
        CONV.replace("g=1", "g=1,z=1"),
        "Conv(x=1x16x2x2,w=32x16x5x5,s=1,p=0,d=1,g=1,act=relu,dtype=f32)",  # empty output
        "Relu(w=1,x=1x2x3x4,dtype=f32)",
        "Add(x=1x2x3x4+1x3x3x4,dtype=f32)",
        "Concat(x=1x2+1x2,axis=2,dtype=f32)",
    ],
)
def test_bad_text_is_one_sentence(text):
    with pytest.raises(InputError) as error:
        Kernel.parse(text)
    assert "is not a kernel" in str(error.value)


def test_non_square_and_asymmetric_values():
    text = "Conv(x=1x3x9x8,w=4x3x3x1,s=2x1,p=1x0x0x0,d=1,g=1,act=none,dtype=f32)"
    kernel = Kernel.parse(text)
    assert kernel.output_shape == (1, 4, 4, 8)
    assert pads_values("1x0x0x0", 2) == (1, 0, 0, 0)
    assert pads_text((1, 2, 1, 2)) == "1x2"
    assert pads_values("1x2", 2) == (1, 2, 1, 2)
    assert parse_shape("scalar") == ()


def test_ceil_mode_drops_windows_that_start_in_the_padding():
    text = "MaxPool(x=1x4x{0}x{0},k=2,s=2,p=1,ceil=1,dtype=f32)"
    assert Kernel.parse(text.format(4)).output_shape == (1, 4, 3, 3)
    assert Kernel.parse(text.format(5)).output_shape == (1, 4, 3, 3)
    squeezenet = "MaxPool(x=1x64x112x112,k=3,s=2,p=0,ceil=1,dtype=f32)"
    assert Kernel.parse(squeezenet).output_shape == (1, 64, 56, 56)


def test_an_operator_without_activations_has_a_text():
    kernel = Kernel("ReduceSum", (), attrs=(("axes", "1"), ("y", "2x1")))
    assert str(kernel) == "ReduceSum(x=none,axes=1,y=2x1,dtype=f32)"
    assert Kernel.parse(str(kernel)) == kernel
