"""Other activations than ReLU: in the genotype, the graph, the network, the file, the supernet."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from factory.core.errors import InputError
from factory.deployment.export import build_onnx
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_import import from_onnx
from factory.search.relaxation import ArchParameters
from factory.spaces.activation_functions import FUNCTIONS
from factory.spaces.activations import EMITTERS
from factory.spaces.cell_network import CellNetwork
from factory.spaces.cell_space import EDGES, CellSpace
from factory.spaces.edge_supernet import EdgeSupernet
from factory.spaces.genotype import CELL_TYPES, NODES, PUBLISHED, Genotype
from factory.spaces.network_spec import NetworkSpec

SPEC = NetworkSpec(4, 3, "cifar", (3, 8, 8), 3)
NAMES = tuple(EMITTERS.names())
MIXED = dataclasses.replace(
    PUBLISHED["DARTS_V2"],
    normal_activations=("hard_swish", "tanh", "relu", "silu", "relu6", "tanh", "tanh", "relu"),
    reduce_activations=("relu", "relu", "tanh", "relu", "relu", "relu", "leaky_relu", "tanh"),
)


def test_the_graph_and_the_functions_have_the_same_names() -> None:
    assert set(NAMES) == set(FUNCTIONS.names())


def test_a_file_keeps_them_and_operators_without_one_have_relu(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    MIXED.save(path)
    assert Genotype.load(path) == MIXED
    # skips of a normal cell and pools have no activation, and the skips of this reduction cell
    # read nodes: nothing is halved
    assert MIXED.activations("normal")[5:7] == ("relu", "relu")
    assert MIXED.reduce_activations == ()
    plain = PUBLISHED["DARTS_V2"]
    assert "normal_activations" not in plain.to_dict()
    assert dataclasses.replace(plain, normal_activations=("relu",) * 8) == plain
    with pytest.raises(InputError, match=r"unknown activation 'rellu'.*did you mean"):
        dataclasses.replace(plain, normal_activations=("rellu",) * 8)
    with pytest.raises(InputError, match="2 activations for 8 pairs"):
        dataclasses.replace(plain, normal_activations=("relu",) * 2)


def test_the_canonical_form_moves_them_with_their_pairs() -> None:
    swapped = [1, 0, *range(2, 8)]
    other = dataclasses.replace(
        MIXED,
        normal=tuple(MIXED.normal[i] for i in swapped),
        normal_activations=tuple(MIXED.normal_activations[i] for i in swapped),
    )
    space = CellSpace(SPEC)
    assert other != MIXED
    assert space.canonical(other) == space.canonical(MIXED)
    assert space.kernels(other) == space.kernels(MIXED)


@pytest.mark.parametrize("name", NAMES)
def test_the_exported_network_has_the_kernels_of_the_space(name: str) -> None:
    genotype = dataclasses.replace(
        PUBLISHED["PC_DARTS_cifar"], normal_activations=(name,) * 8, reduce_activations=(name,) * 8
    )
    space = CellSpace(SPEC)
    network = space.network(genotype).initialise(0).eval()
    graph = canonicalise(from_onnx(build_onnx(network, SPEC.input_shape)))
    assert kernel_counts(graph) == space.kernels(genotype)


@torch.no_grad()
def test_the_supernet_at_one_hot_is_the_network_that_ships() -> None:
    names = ["relu", "hard_swish", "tanh"]
    reduce = tuple(("skip_connect", s) if i % 2 else ("dil_conv_5x5", s + 1)
                   for i, s in enumerate((0, 0, 0, 0, 1, 1, 2, 0)))  # fmt: skip
    chosen = {name: [names[e % 3] for e in range(len(EDGES))] for name in ("normal", "reduce")}
    plain = Genotype(PUBLISHED["PDARTS"].normal, NODES, reduce, NODES)
    named = {
        f"{cell}_activations": tuple(
            chosen[cell][EDGES.index((NODES[i // 2], source))]
            for i, (_, source) in enumerate(plain.cell(cell))
        )
        for cell in ("normal", "reduce")
    }
    genotype = dataclasses.replace(plain, **named)
    net = EdgeSupernet(SPEC, 1, seed=3, activations=names).double()
    arch = ArchParameters(CellSpace(SPEC), 0, False, None, len(names)).double()
    for cell in chosen:
        for e, activation in enumerate(chosen[cell]):
            arch.gamma[cell][e, names.index(activation)] = 1.0
    derived = CellNetwork(genotype, SPEC).double().train()
    _copy(net, derived)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x, arch.derived_mixing(genotype)), derived(x))
    relus = CellNetwork(plain, SPEC).double().train()
    _copy(net, relus)
    assert (relus(x) - derived(x)).abs().max() > 1e-3  # the activations do make a difference


def _copy(net: EdgeSupernet, derived: CellNetwork) -> None:
    """The supernet's weights into the network; its BatchNorms have slope 1 and offset 0."""
    derived.stem.first[0].weight.copy_(net.stem.weights[0])
    derived.classifier.weight.copy_(net.classifier_weight)
    derived.classifier.bias.copy_(net.classifier_bias)
    for ours, theirs in zip(net.cells, derived.cells, strict=True):
        pairs = [(ours.preprocess0, theirs.preprocess0), (ours.preprocess1, theirs.preprocess1)]
        for mine, other in pairs:
            if mine.skip is None:
                other.conv.weight.copy_(mine.weight[:, :, None, None])
            else:
                _copy_skip(mine.skip, other)
        genotype = derived.genotype.cell(ours.plan.cell_type)
        for i, (op, source) in enumerate(genotype):
            edge = ours.edges[EDGES.index((NODES[i // 2], source))]
            if op not in edge.operators:
                continue
            mine, other = edge.operators[op], theirs.operators[i]
            if op == "skip_connect":
                _copy_skip(mine, other)
                continue
            blocks = other if op.startswith("sep") else [other]
            for block, depthwise, mix in zip(blocks, mine.depthwise, mine.pointwise, strict=True):
                block.depthwise.weight.copy_(depthwise)
                block.pointwise.weight.copy_(mix[:, :, None, None])


def _copy_skip(mine: torch.nn.Module, other: torch.nn.Module) -> None:
    other.left.weight.copy_(mine.even[:, :, None, None])
    other.right.weight.copy_(mine.odd[:, :, None, None])


@pytest.mark.parametrize("activations", [("relu", "hard_swish", "tanh"), ("silu", "leaky_relu")])
def test_one_hot_presence_is_the_derived_network_with_its_activations(activations) -> None:
    """Shared, folded and unfolded activations: the expectation at one choice is the network."""
    space, rng = CellSpace(NetworkSpec(4, 3, "cifar", (3, 8, 8), 3)), np.random.default_rng(0)
    presence = space.presence(activations=activations)
    for _ in range(8):
        chosen = {name: rng.integers(len(activations), size=len(EDGES)) for name in CELL_TYPES}
        named = {name: [activations[a] for a in chosen[name]] for name in CELL_TYPES}
        genotype = space.with_activations(space.random(rng), named)
        q = {name: pairs_of(v, chosen[name], activations)
             for name, v in space.one_hot(genotype).items()}  # fmt: skip
        kernels = space.kernels(genotype)
        assert presence.counter(q) == kernels
        assert presence.given(chosen).counter(space.one_hot(genotype)) == kernels


def pairs_of(q_EO: np.ndarray, chosen_E: np.ndarray, activations: tuple[str, ...]) -> np.ndarray:
    return (q_EO[:, :, None] * np.eye(len(activations))[chosen_E][:, None]).reshape(len(q_EO), -1)


def test_the_candidate_relu_alone_changes_nothing() -> None:
    plain, named = CellSpace(SPEC).presence(), CellSpace(SPEC).presence(activations=("relu",))
    assert named.kernels == plain.kernels
    assert np.array_equal(named.coefficients, plain.coefficients)
