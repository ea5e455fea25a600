"""With the fusion rules of a device: the expectation at one choice is still the network."""

import itertools

import numpy as np
import pytest

from factory.graph.fusion import NO_RULES, PAIRS, parse_rules
from factory.spaces import CellSpace, Genotype, NetworkSpec
from factory.spaces.cell_space import CELL_TYPES, EDGES
from factory.spaces.genotype import NODES, SELECTABLE_OPS
from factory.spaces.nas_bench_201_space import NasBench201Space, Spec201

SPECS = {
    "cifar": NetworkSpec(4, 4, "cifar", (3, 16, 16), 3),
    "cifar-odd": NetworkSpec(4, 3, "cifar", (3, 10, 7), 2),
    "imagenet": NetworkSpec(4, 3, "imagenet", (3, 50, 50), 3),
}
EVERYTHING = frozenset(PAIRS)
RULES = {
    "additions": parse_rules(["conv_pointwise+Add"]),
    "activations": parse_rules(["Concat+Relu", "conv_pointwise+Silu", "conv_pointwise+LeakyRelu"]),
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_one_hot_presence_is_the_derived_network(spec, rules) -> None:
    space, rng = CellSpace(spec), np.random.default_rng(7)
    presence = space.presence(fusion=rules)
    for _ in range(60):
        genotype = space.random(rng)
        kernels = space.kernels(genotype, fusion=rules)
        assert presence.counter(space.one_hot(genotype)) == kernels, str(genotype)


def test_one_operator_everywhere() -> None:
    """Uniform genotypes reach every way to share a state at its extreme."""
    space = CellSpace(SPECS["cifar"])
    presence = space.presence(fusion=EVERYTHING)
    folded = 0
    for op, other in itertools.product(SELECTABLE_OPS, repeat=2):
        for sources in ((0, 1, 0, 1, 0, 1, 0, 1), (0, 1, 1, 2, 2, 3, 3, 4)):
            pairs = tuple(((op, other)[i % 2], s) for i, s in enumerate(sources))
            genotype = Genotype(pairs, NODES, pairs, NODES)
            kernels = space.kernels(genotype, fusion=EVERYTHING)
            assert presence.counter(space.one_hot(genotype)) == kernels, str(genotype)
            folded += space.kernels(genotype).total() - kernels.total()
    assert folded > 0


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("activations", [("relu", "hard_swish", "tanh"), ("silu", "leaky_relu")])
def test_with_the_activations_of_factorised_edges(activations, rules) -> None:
    space, rng = CellSpace(SPECS["cifar"]), np.random.default_rng(0)
    presence = space.presence(activations=activations, fusion=rules)
    for _ in range(30):
        chosen = {name: rng.integers(len(activations), size=len(EDGES)) for name in CELL_TYPES}
        named = {name: [activations[a] for a in chosen[name]] for name in CELL_TYPES}
        genotype = space.with_activations(space.random(rng), named)
        kernels = space.kernels(genotype, fusion=rules)
        given = presence.given(chosen)
        assert given.counter(space.one_hot(genotype)) == kernels, str(genotype)


def test_a_skip_that_alone_reads_a_convolution_takes_the_addition_in() -> None:
    space = CellSpace(SPECS["cifar"])
    rules = RULES["additions"]
    pairs = (("skip_connect", 0), ("max_pool_3x3", 1), *(("max_pool_3x3", s) for s in (1, 2) * 3))
    genotype = Genotype(tuple(pairs), NODES, tuple(pairs), NODES)
    plain, fused = space.kernels(genotype), space.kernels(genotype, fusion=rules)
    gone = plain - fused
    assert {kernel.op for kernel in gone} == {"Add"}
    assert presence_of(space, genotype, rules) == fused


def presence_of(space, genotype, rules):
    return space.presence(fusion=rules).counter(space.one_hot(genotype))


@pytest.mark.heavy
@pytest.mark.parametrize("cells_per_stage", [1, 2, 5])
def test_cells_of_nas_bench_201(cells_per_stage) -> None:
    spec = Spec201(4, cells_per_stage, (3, 16, 16), 5)
    space, rng = NasBench201Space(spec), np.random.default_rng(0)
    presence = space.presence(fusion=EVERYTHING)
    changed = 0
    for _ in range(40):
        cell = space.random(rng)
        q = {name: many[0] for name, many in space.one_hot_many([cell]).items()}
        kernels = space.kernels(cell, fusion=EVERYTHING)
        assert presence.counter(q) == kernels, str(cell)
        changed += kernels != space.kernels(cell)
    assert changed


def test_a_precision_and_no_rules_change_nothing_else() -> None:
    space = CellSpace(SPECS["cifar"])
    plain, none = space.presence("i8"), space.presence("i8", fusion=NO_RULES)
    assert plain.kernels == none.kernels
    assert np.array_equal(plain.coefficients, none.coefficients)
    fused = space.presence("i8", fusion=EVERYTHING)
    assert {kernel.dtype for kernel in fused.kernels} == {"i8"}
