from collections import Counter

import pytest

from factory.core.errors import InputError
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import to_onnx
from factory.graph.onnx_import import from_onnx


def kernels(graph, dtype=None):
    return kernel_counts(canonicalise(graph), dtype)


def ops(graph):
    return Counter(node.op for node in canonicalise(graph).nodes)


def test_shared_relus_merge_and_dead_nodes_vanish(b, x):
    y = b.add(x, x)
    b.conv(y, 8, 1)  # dead
    left = b.conv(b.relu(y), 8, 1)
    right = b.max_pool(b.relu(y), 3, 1, 1)
    twice = b.max_pool(b.relu(y), 3, 1, 1)
    graph = b.finish([b.add(b.add(left, right), twice)])
    assert ops(graph) == {"Add": 3, "Relu": 1, "Conv": 1, "MaxPool": 1}


def test_adds_concats_and_convs_never_merge(b, x):
    graph = b.finish(
        [b.add(x, x), b.add(x, x), b.concat([x, x]), b.concat([x, x]), b.conv(x, 8, 1)]
    )
    assert ops(graph) == {"Add": 2, "Concat": 2, "Conv": 1}


def test_activation_folds_only_into_a_sole_producer(b, x):
    alone = b.relu(b.conv(x, 8, 1))
    assert kernels(b.finish([alone])) == {
        Kernel.parse("Conv(x=1x8x9x9,w=8x8x1x1,s=1,p=0,d=1,g=1,act=relu,dtype=f32)"): 1
    }
    shared = b.conv(x, 8, 1)
    assert ops(b.finish([b.relu(shared), b.max_pool(shared, 3, 1, 1)]))["Relu"] == 1
    output = b.conv(x, 8, 1)
    assert ops(b.finish([output, b.relu(output)]))["Relu"] == 1


def test_relus_of_one_conv_merge_before_they_fold(b, x):
    y = b.conv(x, 8, 1)
    graph = b.finish([b.add(b.max_pool(b.relu(y), 3, 1, 1), b.conv(b.relu(y), 8, 1))])
    assert ops(graph) == {"Conv": 2, "MaxPool": 1, "Add": 1}


def test_a_folded_activation_takes_no_second_one(b, x):
    graph = b.finish([b.unary("Sigmoid", b.relu(b.conv(x, 8, 1)))])
    assert ops(graph) == {"Conv": 1, "Sigmoid": 1}
    (conv,) = (node for node in canonicalise(graph).nodes if node.op == "Conv")
    assert conv.attr("act") == "relu"


@pytest.mark.parametrize(
    ("op", "attrs", "act"),
    [
        ("Relu", (), "relu"),
        ("Clip", (("min", "0"), ("max", "6")), "clip6"),
        ("Clip", (("min", "-1"), ("max", "1")), "clip-1_1"),
        ("HardSwish", (), "hswish"),
        ("HardSigmoid", (), "hsigmoid"),
        ("Sigmoid", (), "sigmoid"),
        ("HardSigmoid", (("alpha", "0.2"), ("beta", "0.5")), None),
        ("LeakyRelu", (("alpha", "0.01"),), None),
    ],
)
def test_names_of_activations(b, x, op, attrs, act):
    graph = b.finish([b.unary(op, b.conv(x, 8, 1), attrs)])
    found = [node.attr("act") for node in canonicalise(graph).nodes if node.op == "Conv"]
    assert found == [act or "none"]


def test_flatten_is_free_and_the_linear_layer_sees_its_own_shape(b, x):
    graph = b.finish([b.linear(b.global_avg_pool(x), 10)])
    assert kernels(graph) == {
        Kernel.parse("GlobalAveragePool(x=1x8x9x9,dtype=f32)"): 1,
        Kernel.parse("Gemm(x=1x8,w=10x8,act=none,dtype=f32)"): 1,
    }


def test_order_of_commutative_inputs_does_not_matter(b, x):
    gate = b.global_avg_pool(x)
    graph = b.finish([b.mul(x, gate), b.mul(gate, x)])
    assert max(kernels(graph).values()) == 2


def test_kernels_in_another_precision(b, x):
    graph = b.finish([b.relu(x)])
    assert kernels(graph, "i8") == {Kernel.parse("Relu(x=1x8x9x9,dtype=i8)"): 1}


@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("seed", range(25))
def test_the_join_builder_and_onnx_file_give_the_same_kernels(random_graph, seed, dtype):
    graph = random_graph(seed)
    canonical = canonicalise(graph)
    assert canonicalise(canonical) == canonical
    expected = kernel_counts(canonical, dtype)
    assert kernels(from_onnx(to_onnx(graph, dtype))) == expected
    assert kernels(from_onnx(to_onnx(canonical, dtype))) == expected


def test_a_size_that_does_not_fit_is_an_input_error(b, x):
    with pytest.raises(InputError, match=r"Conv does not fit its input of shape 1x8x9x9"):
        b.conv(x, 8, 11)
    with pytest.raises(ValueError, match="duplicate tensor"):
        b.input("x", (1, 1))
    b.conv(x, 8, 1, weight_id="w")
    with pytest.raises(ValueError, match="duplicate weight_id"):
        b.conv(x, 8, 1, weight_id="w")
