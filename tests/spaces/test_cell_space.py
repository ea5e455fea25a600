"""The identities of the space: oracle, one-hot presence = kernels of the lowered network."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from factory.core.errors import InputError
from factory.spaces import SPACES, CellSpace, Genotype, NetworkSpec
from factory.spaces.genotype import NODES, PUBLISHED, SELECTABLE_OPS

CIFAR = NetworkSpec(36, 20, "cifar", (3, 32, 32), 10)
IMAGENET = NetworkSpec(48, 14, "imagenet", (3, 224, 224), 1000)
ORACLE = {  # (M params, M MACs) on CIFAR and ImageNet sizes
    "DARTS_V2": ((3.3493, 528.36), (4.7188, 529.91)),
    "PC_DARTS_cifar": ((3.6347, 556.67), (5.2706, 571.14)),
    "PC_DARTS_image": ((3.7215, 570.47), (5.3425, 581.63)),
    "PDARTS": ((3.4338, 532.17), (4.9444, 542.82)),
}
DARTS_PAPER_MACS_M = {"PC_DARTS_image": 597.06, "PDARTS": 557.12}
SPECS = {
    "cifar": NetworkSpec(8, 8, "cifar", (3, 32, 32), 10),
    "cifar-odd": NetworkSpec(6, 5, "cifar", (1, 15, 13), 7),
    "cifar-mixed": NetworkSpec(4, 3, "cifar", (3, 10, 7), 2),
    "cifar-4": NetworkSpec(4, 4, "cifar", (3, 16, 16), 2),
    "cifar-1": NetworkSpec(4, 1, "cifar", (3, 8, 8), 2),
    "imagenet": NetworkSpec(8, 8, "imagenet", (3, 64, 64), 10),
    "imagenet-odd": NetworkSpec(8, 5, "imagenet", (3, 112, 100), 10),
    "imagenet-3": NetworkSpec(4, 3, "imagenet", (3, 50, 50), 10),
    "imagenet-2": NetworkSpec(4, 2, "imagenet", (3, 33, 64), 10),
}


@pytest.mark.parametrize("name", ORACLE)
@pytest.mark.parametrize("size", [0, 1], ids=["cifar", "imagenet"])
def test_oracle(name: str, size: int) -> None:
    counts = CellSpace((CIFAR, IMAGENET)[size]).counts(PUBLISHED[name])
    params_m, macs_m = ORACLE[name][size]
    assert round(counts.params / 1e6, 4) == params_m
    assert round(counts.macs / 1e6, 2) == macs_m
    if size == 1 and name in DARTS_PAPER_MACS_M:
        assert round(counts.macs_darts_paper / 1e6, 2) == DARTS_PAPER_MACS_M[name]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_one_hot_presence_is_the_derived_network(spec: NetworkSpec) -> None:
    space = CellSpace(spec)
    presence = space.presence()
    rng = np.random.default_rng(7)
    genotypes = [space.random(rng) for _ in range(300 // spec.layers)]
    genotypes += PUBLISHED.values()
    for genotype in genotypes:
        assert presence.counter(space.one_hot(genotype)) == space.kernels(genotype), str(genotype)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_one_operator_everywhere(stem: str) -> None:
    """Uniform genotypes reach every sharing rule at its extreme."""
    space = CellSpace(SPECS[stem])
    for op, other in itertools.product(SELECTABLE_OPS, repeat=2):
        for sources in ((0, 1, 0, 1, 0, 1, 0, 1), (0, 1, 1, 2, 2, 3, 3, 4)):
            pairs = tuple(((op, other)[i % 2], s) for i, s in enumerate(sources))
            genotype = Genotype(pairs, NODES, pairs, NODES)
            counted = space.presence().counter(space.one_hot(genotype))
            assert counted == space.kernels(genotype), str(genotype)


def test_presence_takes_a_batch_of_choices() -> None:
    space = CellSpace(SPECS["cifar"])
    rng = np.random.default_rng(3)
    genotypes = [space.random(rng) for _ in range(5)]
    presence = space.presence("i8")
    counts = presence.counts(space.one_hot_many(genotypes))
    for row, genotype in zip(counts, genotypes, strict=True):
        kernels = space.kernels(genotype, "i8")
        assert [kernels[k] for k in presence.kernels] == np.round(row).tolist()


@pytest.mark.parametrize("name", ["cifar", "cifar-odd", "imagenet"])
def test_all_kernels_are_those_that_appear(name: str) -> None:
    space = CellSpace(SPECS[name])
    listed = space.all_kernels()
    assert len(listed) == len(set(listed))
    rng = np.random.default_rng(0)
    q = space.one_hot_many([space.random(rng) for _ in range(1000)])
    counts = np.round(space.presence().counts(q))
    assert counts.min() == 0
    assert (counts.max(axis=0) > 0).all()
    assert {kernel.dtype for kernel in space.all_kernels("i8")} == {"i8"}


def test_soft_choice_stays_between_the_extremes() -> None:
    space = CellSpace(SPECS["cifar"])
    rng = np.random.default_rng(0)
    genotypes = [space.random(rng) for _ in range(50)]
    choices = space.one_hot_many(genotypes)
    for shares in rng.dirichlet(np.ones(50), size=5):
        q = {name: np.tensordot(shares, array, 1) for name, array in choices.items()}
        counts = space.presence().counts(q)
        assert (counts >= -1e-9).all()
        convs = [k.op == "Conv" and k.attr("g") != "1" for k in space.all_kernels()]
        expected = shares @ space.presence().counts(choices)
        np.testing.assert_allclose(counts[convs], expected[convs])


@pytest.mark.parametrize(("name", "convolutions"), [("cifar", 1), ("imagenet", 3)])
def test_stem_convolutions_take_their_relus_in(name: str, convolutions: int) -> None:
    kernels = CellSpace(SPECS[name]).kernels(PUBLISHED["DARTS_V2"])
    stem = [kernel for kernel in kernels.elements() if kernel.kind == "conv_dense"]
    assert len(stem) == convolutions
    assert all(kernel.attr("act") == "relu" for kernel in stem)


def test_random_is_reproducible_and_spreads() -> None:
    space = CellSpace(SPECS["cifar"])
    first = [space.random(np.random.default_rng(5)) for _ in range(2)]
    assert first[0] == first[1]
    rng = np.random.default_rng(5)
    seen = [space.random(rng) for _ in range(200)]
    assert len(set(seen)) == 200
    assert {op for genotype in seen for op, _ in genotype.normal} == set(SELECTABLE_OPS)


def test_neighbours_differ_in_one_variable() -> None:
    space = CellSpace(SPECS["cifar"])
    genotype = PUBLISHED["PDARTS"]
    neighbours = space.neighbours(genotype)
    assert len(set(neighbours)) == len(neighbours)
    assert genotype not in neighbours
    # six other operators an edge; 0, 2, 5 and 9 other pairs of sources of nodes 2 to 5
    assert len(neighbours) == 2 * (8 * 6 + 0 + 2 + 5 + 9)
    own = space.choices(genotype)
    for other in neighbours:
        assert sum(a != b for a, b in zip(own, space.choices(other), strict=True)) == 1


def test_every_convolution_has_a_weight_of_its_own() -> None:
    for name in PUBLISHED:
        graph = CellSpace(SPECS["cifar"]).lower(PUBLISHED[name])
        ids = [node.weight_id for node in graph.nodes if node.weight is not None]
        assert None not in ids
        assert len(set(ids)) == len(ids)


def test_unknown_space() -> None:
    with pytest.raises(InputError, match="unknown search space 'cells'"):
        SPACES.get("cells")


def test_the_space_needs_no_torch() -> None:
    code = "import sys, factory.spaces, factory.spaces.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
