"""Which networks are measured: half by design, the same ones when a profile goes on."""

import dataclasses

import numpy as np
import pytest

from factory.pipeline.profiling_plan import kernels_of, planned_genotypes
from factory.spaces.cell_space import CellSpace
from factory.spaces.genotype import PC_DARTS_cifar
from factory.spaces.network_spec import NetworkSpec


@pytest.fixture(scope="module")
def space():
    return CellSpace(
        NetworkSpec(channels=8, layers=5, stem="cifar", input_shape=(3, 32, 32), num_classes=10)
    )


def information(space, genotypes):
    """Log determinant of the information about kernels that measuring these networks gives."""
    presence = space.presence()
    counts_NK = presence.counts(space.one_hot_many(genotypes))
    shares_NK = counts_NK / counts_NK.sum(axis=1, keepdims=True)
    gram = shares_NK @ shares_NK.T + 1e-6 * np.eye(len(genotypes))
    return np.linalg.slogdet(gram)[1]


def test_the_choice_is_repeated_and_distinct(space):
    first = planned_genotypes(space, 16, 64, seed=3)
    assert first == planned_genotypes(space, 16, 64, seed=3)
    assert len(set(first)) == len(first) == 16
    assert first != planned_genotypes(space, 16, 64, seed=4)


def test_the_designed_half_tells_more_than_random_networks(space):
    designed = planned_genotypes(space, 16, 64, seed=0)[8:]
    rng = np.random.default_rng(1)
    by_chance = [information(space, [space.random(rng) for _ in range(8)]) for _ in range(20)]
    assert information(space, designed) > max(by_chance)


def test_one_network_needs_no_design(space):
    assert len(planned_genotypes(space, 1, 16, seed=0)) == 1


def test_a_factorised_search_profiles_the_kernels_of_its_activations(space):
    plain = set(kernels_of([space], "f32"))
    more = set(kernels_of([space], "f32", ("relu", "hard_swish")))
    assert plain < more
    swish = [kernel for kernel in more - plain if kernel.op == "HardSwish"]
    assert swish  # those that read a node; the others fold into a convolution
    named = dataclasses.replace(PC_DARTS_cifar, normal_activations=("hard_swish", "relu") * 4)
    assert set(space.kernels(named, "f32")) <= more
