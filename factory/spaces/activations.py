"""The activations that may lead an operator, as operators of a graph (no torch).

Their torch functions are in activation_functions.py; a test holds the two together. The slope of
the leaky ReLU below zero is 0.1, silu is x sigmoid(x) (arXiv 1710.05941), hard_swish is
x relu6(x + 3) / 6 (arXiv 1905.02244).
"""

from __future__ import annotations

from collections.abc import Callable

from factory.core.registry import Registry
from factory.graph.opgraph import GraphBuilder

RELU = "relu"
EMITTERS: Registry[Callable[[GraphBuilder, str], str]] = Registry("activation")
EMITTERS.add(RELU, lambda b, x: b.relu(x))
EMITTERS.add("leaky_relu", lambda b, x: b.unary("LeakyRelu", x, (("alpha", "0.1"),)))
EMITTERS.add("relu6", lambda b, x: b.unary("Clip", x, (("min", "0"), ("max", "6"))))
EMITTERS.add("hard_swish", lambda b, x: b.unary("HardSwish", x))
EMITTERS.add("silu", lambda b, x: b.mul(x, b.unary("Sigmoid", x)))
EMITTERS.add("tanh", lambda b, x: b.unary("Tanh", x))


def emit_activation(b: GraphBuilder, name: str, x: str) -> str:
    """The activation called ``name`` of a tensor."""
    return EMITTERS.get(name)(b, x)
