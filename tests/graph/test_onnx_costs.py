"""MACs and parameters of operators in all their forms."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.graph.counts import count
from factory.graph.onnx_import import from_onnx

FLOAT = TensorProto.FLOAT


def counts(nodes, inputs, weights=None, output=None, domain="", opset=18):
    values = [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs.items()]
    y = helper.make_tensor_value_info("y", FLOAT, output)
    tensors = [
        numpy_helper.from_array(np.zeros(v, np.float32) if isinstance(v, tuple) else v, n)
        for n, v in (weights or {}).items()
    ]
    sets = [helper.make_opsetid("", opset)]
    sets += [helper.make_opsetid(domain, 1)] if domain else []
    graph = helper.make_graph(nodes, "g", values, [y], tensors)
    found = count(from_onnx(helper.make_model(graph, opset_imports=sets)))
    return found.macs, found.params


def node(op, *names, **attributes):
    return helper.make_node(op, list(names), ["y"], **attributes)


CASES = {
    "1-D depthwise": (node("Conv", "x", "w", group=4), {"x": (1, 4, 10)}, {"w": (4, 1, 3)},
                      4 * 8 * 3, 12),
    "3-D grouped": (node("Conv", "x", "w", group=2), {"x": (1, 4, 4, 4, 4)},
                    {"w": (6, 2, 2, 2, 2)}, 6 * 27 * 16, 96),
    "transposed, grouped": (node("ConvTranspose", "x", "w", "b", group=2, strides=[2, 2]),
                            {"x": (1, 4, 5, 5)}, {"w": (4, 3, 2, 2), "b": (6,)},
                            4 * 25 * 3 * 4, 48 + 6),
    "Gemm, both transposed": (node("Gemm", "x", "w", transA=1, transB=1), {"x": (8, 2)},
                              {"w": (5, 8)}, 2 * 5 * 8, 40),
    "Gemm, weight first": (node("Gemm", "w", "x"), {"x": (8, 3)}, {"w": (5, 8)}, 5 * 3 * 8, 40),
    "MatMul, weight first": (node("MatMul", "w", "x"), {"x": (8, 3)}, {"w": (5, 8)}, 5 * 3 * 8, 40),
    "MatMul of a vector": (node("MatMul", "x", "w"), {"x": (8,)}, {"w": (8, 3)}, 24, 24),
    "Einsum, weight last": (node("Einsum", "x", "w", equation="bij,jk->bik"), {"x": (2, 3, 4)},
                            {"w": (4, 5)}, 2 * 3 * 4 * 5, 20),
    "Einsum with an ellipsis": (node("Einsum", "w", "x", equation="ij,...j->...i"),
                                {"x": (2, 3, 4)}, {"w": (5, 4)}, 2 * 3 * 4 * 5, 20),
    "Einsum of one operand": (node("Einsum", "x", equation="ij->ji"), {"x": (2, 3)}, {}, 0, 0),
    "LSTM": (node("LSTM", "x", "w", "r", "b", hidden_size=5), {"x": (7, 1, 3)},
             {"w": (1, 20, 3), "r": (1, 20, 5), "b": (1, 40)}, 7 * 20 * 8, 60 + 100 + 40),
    "GRU in both directions": (node("GRU", "x", "w", "r", hidden_size=5, direction="bidirectional"),
                               {"x": (7, 2, 3)}, {"w": (2, 15, 3), "r": (2, 15, 5)},
                               7 * 2 * 2 * 15 * 8, 2 * 15 * 8),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_form_of_an_operator(name):
    operator, inputs, weights, macs, params = CASES[name]
    assert counts([operator], inputs, weights) == (macs, params)


CONTRIBUTED = {
    "FusedConv": (("x", "w"), {"x": (1, 3, 6, 6)}, {"w": (4, 3, 3, 3)}, (1, 4, 4, 4), {},
                  64 * 27, 108),
    "FusedMatMul": (("x", "w"), {"x": (4, 3)}, {"w": (4, 5)}, (3, 5), {"transA": 1}, 3 * 5 * 4, 20),
    "FusedGemm": (("x", "w"), {"x": (2, 4)}, {"w": (4, 5)}, (2, 5), {"activation": "Relu"},
                  40, 20),
    "MultiHeadAttention": (("q", "k", "v"), {"q": (1, 4, 8), "k": (1, 6, 8), "v": (1, 6, 8)}, {},
                           (1, 4, 8), {"num_heads": 2}, 2 * 4 * 6 * 8, 0),
    "SkipLayerNormalization": (("a", "b", "w"), {"a": (1, 4, 8), "b": (1, 4, 8)}, {"w": (8,)},
                               (1, 4, 8), {}, 0, 8),
}  # fmt: skip


@pytest.mark.parametrize("op", sorted(CONTRIBUTED))
def test_contributed_operators(op):
    names, inputs, weights, output, attributes, macs, params = CONTRIBUTED[op]
    made = node(op, *names, domain="com.microsoft", **attributes)
    found = counts([made], inputs, weights, output, domain="com.microsoft")
    assert found == (macs, params)


def test_a_fused_convolution_that_adds_a_tensor_keeps_the_addition():
    made = node("FusedConv", "x", "w", "", "z", domain="com.microsoft", activation="Relu")
    values = [("x", (1, 3, 6, 6)), ("z", (1, 4, 4, 4))]
    inputs = [helper.make_tensor_value_info(n, FLOAT, s) for n, s in values]
    y = helper.make_tensor_value_info("y", FLOAT, (1, 4, 4, 4))
    weight = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    graph = from_onnx(helper.make_model(helper.make_graph([made], "g", inputs, [y], [weight])))
    assert [n.op for n in graph.nodes] == ["Conv", "Add", "Relu"]


def test_a_weight_that_two_operators_read_counts_once():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["y"]),
    ]
    assert counts(nodes, {"x": (1, 3, 4, 4)}, {"w": (3, 3, 1, 1)}) == (2 * 9 * 16, 9)


def body(name, inputs, outputs, nodes, tensors=()):
    def values(of):
        return [helper.make_tensor_value_info(n, kind, s) for n, kind, s in of]

    return helper.make_graph(nodes, name, values(inputs), values(outputs), list(tensors))


def test_bodies_of_if_and_loop_and_scan_are_counted():
    weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "inside")
    product = helper.make_node("MatMul", ["x", "inside"], ["t"])
    then = body("then", [], [("t", FLOAT, [2, 4])], [product], [weight])
    other = body("else", [], [("e", FLOAT, [2, 4])], [helper.make_node("Relu", ["x"], ["e"])])
    is_large = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    zero = {"zero": np.float32(0)}
    assert counts(is_large, {"x": (2, 4)}, zero) == (2 * 4 * 4, 16)

    step = [
        helper.make_node("MatMul", ["s", "w"], ["p"]),
        helper.make_node("Add", ["p", "e"], ["n"]),
    ]
    scan_body = body(
        "step", [("s", FLOAT, [1, 4]), ("e", FLOAT, [1, 4])], [("n", FLOAT, [1, 4])], step
    )
    scan = helper.make_node("Scan", ["x", "many"], ["y"], body=scan_body, num_scan_inputs=1)
    found = counts([scan], {"x": (1, 4), "many": (5, 1, 4)}, {"w": (4, 4)})
    assert found == (5 * 16, 16)

    keep = helper.make_node("Identity", ["go"], ["again"])
    loop_body = body(
        "turn",
        [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("s", FLOAT, None)],
        [("again", TensorProto.BOOL, []), ("n", FLOAT, None)],
        [keep, helper.make_node("MatMul", ["s", "w"], ["n"])],
    )
    loop = helper.make_node("Loop", ["turns", "", "x"], ["y"], body=loop_body)
    weights = {"w": (4, 4), "turns": np.int64(3)}
    assert counts([loop], {"x": (1, 4)}, weights, output=(1, 4)) == (16, 16)
