"""What rules fold in a graph: a reader that is alone, and of the same shape."""

from collections import Counter

import pytest

from factory.core.errors import InputError
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.fusion import NO_RULES, PAIRS, FusionRule, folded, parse_rules, rule_texts
from factory.graph.opgraph import GraphBuilder


def gone(graph, *texts):
    """Operators that the rules fold, by their names."""
    canonical = canonicalise(graph)
    rules = parse_rules(texts)
    left = kernel_counts(canonical, fusion=rules)
    return Counter(k.op for k in (kernel_counts(canonical) - left).elements())


def test_a_residual_addition_goes_into_the_convolution_that_ends_the_block(b, x):
    graph = b.finish([b.add(b.conv(b.relu(b.conv(x, 8, 1)), 8, 3, padding=1), x)])
    assert gone(graph, "conv_dense+Add") == {"Add": 1}
    assert gone(graph, "conv_pointwise+Add") == {}  # it ends in a dense one
    assert gone(graph, "Add+Relu", "conv_dense+Mul") == {}


def test_a_chain_folds_link_by_link(b, x):
    y = b.relu(b.add(b.conv(x, 8, 1), b.max_pool(x, 3, 1, 1)))
    graph = b.finish([y])
    assert gone(graph, "conv_pointwise+Add") == {"Add": 1}
    assert gone(graph, "conv_pointwise+Add", "Add+Relu") == {"Add": 1, "Relu": 1}
    assert gone(graph, "Add+Relu") == {"Relu": 1}


def test_what_somebody_else_reads_is_left_standing(b, x):
    y = b.conv(x, 8, 1)
    both = b.finish([b.add(y, x), b.max_pool(y, 3, 1, 1)])
    assert gone(both, "conv_pointwise+Add") == {}
    c = GraphBuilder("output")
    z = c.conv(c.input("x", (1, 8, 9, 9)), 8, 1)
    assert gone(c.finish([c.add(z, "x"), z]), "conv_pointwise+Add") == {}


def test_a_convolution_with_an_activation_takes_nothing_more_in(b, x):
    graph = b.finish([b.add(b.relu(b.conv(x, 8, 1)), x)])
    assert gone(graph, "conv_pointwise+Add") == {}


def test_a_gate_of_another_shape_is_no_pair(b, x):
    gate = b.conv(b.global_avg_pool(x), 8, 1)
    assert gone(b.finish([b.mul(x, gate)]), "conv_pointwise+Mul") == {}
    c = GraphBuilder("same shape")
    y = c.input("y", (1, 8, 9, 9))
    assert gone(c.finish([c.mul(c.conv(y, 8, 1), y)]), "conv_pointwise+Mul") == {"Mul": 1}


def test_silu_is_one_operator_of_two_nodes(b, x):
    y = b.conv(x, 8, 3, padding=1, groups=8)
    graph = b.finish([b.mul(y, b.unary("Sigmoid", y))])
    assert gone(graph, "conv_depthwise+Silu") == {"Sigmoid": 1, "Mul": 1}
    assert gone(graph, "conv_depthwise+Mul") == {}  # two read the convolution
    c = GraphBuilder("three readers")
    z = c.conv(c.input("x", (1, 8, 9, 9)), 8, 3, padding=1, groups=8)
    outputs = [c.mul(z, c.unary("Sigmoid", z)), c.max_pool(z, 3, 1, 1)]
    assert gone(c.finish(outputs), "conv_depthwise+Silu") == {}


def test_a_sum_with_itself_has_two_readers(b, x):
    y = b.conv(x, 8, 1)
    assert gone(b.finish([b.add(y, y)]), "conv_pointwise+Add") == {}


def test_rules_are_text_and_back_and_unknown_ones_are_refused():
    rules = frozenset(PAIRS)
    assert parse_rules(rule_texts(rules)) == rules
    assert folded(canonicalise(GraphBuilder("empty").finish([])), NO_RULES) == frozenset()
    for text in ("conv_dense", "conv_dense+Relu", "a+b", "+", "Add+Add+Add"):
        with pytest.raises(InputError, match="not a fusion rule"):
            FusionRule.parse(text)
