"""Random networks of all kinds at random sizes: what a chip is profiled with and judged
on. A sample is named by (space, seed), so that it can be made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from factory.core.errors import unknown_name
from factory.graph.as_quantised import as_quantised
from factory.graph.canonical import canonicalise
from factory.graph.opgraph import Node, OpGraph
from factory.spaces.cell_space import CellSpace
from factory.spaces.mixed import random_mixed_network
from factory.spaces.mobile import random_mobile_network
from factory.spaces.network_spec import NetworkSpec

CIFAR_SIDES = (24, 28, 32, 40, 48, 64)
IMAGENET_SIDES = (96, 128, 160, 192, 224)


def _cell(rng: np.random.Generator) -> OpGraph:
    imagenet = rng.random() < 0.3
    side = int(rng.choice(IMAGENET_SIDES if imagenet else CIFAR_SIDES))
    spec = NetworkSpec(
        channels=2 * int(rng.integers(3, 19)),
        layers=int(rng.integers(4, 13)),
        stem="imagenet" if imagenet else "cifar",
        input_shape=(3, side, side),
        num_classes=int(rng.choice((10, 100, 1000))),
    )
    space = CellSpace(spec)
    return space.lower(space.random(rng))


def _mobile(rng: np.random.Generator) -> OpGraph:
    return random_mobile_network(rng)


def _mixed(rng: np.random.Generator) -> OpGraph:
    return random_mixed_network(rng)


SAMPLERS: dict[str, Callable[[np.random.Generator], OpGraph]] = {
    "cell": _cell,
    "mobile": _mobile,
    "mixed": _mixed,
}


def sample_network(space: str, *seed: int) -> OpGraph:
    """Random network number ``seed`` of a space, canonical."""
    if space not in SAMPLERS:
        raise unknown_name("space to sample", space, SAMPLERS)
    number = list(SAMPLERS).index(space)
    return canonicalise(SAMPLERS[space](np.random.default_rng([number, *seed])))


GELUS_WRITTEN_OUT = 0.8  # of the int8 networks: files of before opset 20
WITH_FLOATS = 0.35  # of the int8 networks
SHARES_IN_FLOATS = (0.1, 0.6)  # of their operators


def quantised_sample(graph: OpGraph, *seed: int) -> OpGraph:
    """A sampled network in int8, as the export makes it.

    In a part of the networks a stretch of operators stays in floats, as layers do that lose too
    much in 8 bits: its kernels and the changes of type at its borders are what int8 files hold
    beside integer operators.
    """
    rng = np.random.default_rng([len(SAMPLERS), *seed])
    if rng.random() < GELUS_WRITTEN_OUT:
        graph = _without_gelu(graph)
    if rng.random() >= WITH_FLOATS:
        return canonicalise(as_quantised(graph))
    names = [node.output for node in graph.nodes]
    number = max(1, round(rng.uniform(*SHARES_IN_FLOATS) * len(names)))
    first = int(rng.integers(0, len(names) - number + 1))
    return canonicalise(as_quantised(graph, names[first : first + number]))


def _without_gelu(graph: OpGraph) -> OpGraph:
    """``graph`` with x * (1 + erf(x / sqrt 2)) / 2 written out, as a quantiser finds it."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != "Gelu" or node.attrs:
            nodes.append(node)
            continue
        x, shape = node.inputs[0], node.in_shapes[0]
        steps = (("Div", (x,)), ("Erf", ()), ("Add", ()), ("Mul", (x,)), ("Mul", ()))
        before = ""
        for index, (op, more) in enumerate(steps):
            inputs = tuple(filter(None, (before, *more)))
            last = index == len(steps) - 1
            before = node.output if last else f"{node.output}/{index}"
            number = op in ("Div", "Add") or last
            nodes.append(
                Node(
                    op, inputs, before, (), (shape,) * len(inputs), shape,
                    () if number else None, f"{before}.number" if number else None,
                )
            )  # fmt: skip
    return replace(graph, nodes=nodes)
