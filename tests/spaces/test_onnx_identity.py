"""The identity of the house: canonical kernels of the space = those of the exported ONNX graph."""

import numpy as np
import pytest
import torch

from factory.deployment.export import build_onnx
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_import import from_onnx
from factory.graph.opgraph import OpGraph
from factory.spaces import CellSpace, Genotype, NetworkSpec
from factory.spaces.cell_network import CellNetwork
from factory.spaces.genotype import PUBLISHED

CASES = {
    "cifar": (NetworkSpec(8, 8, "cifar", (3, 32, 32), 10), "PC_DARTS_cifar"),
    "imagenet-odd": (NetworkSpec(4, 3, "imagenet", (3, 56, 44), 7), "PDARTS"),
}


def structure(graph: OpGraph) -> list[int]:
    """Each output as a hash of the kernels on its paths: who feeds whom, names aside."""
    labels = {name: hash(("input", shape)) for name, shape in graph.inputs.items()}
    for node in graph.nodes:
        feeds = [labels[name] for name in node.inputs]
        feeds = sorted(feeds) if node.op == "Add" else feeds
        labels[node.output] = hash((str(node.kernel()), *feeds))
    return [labels[name] for name in graph.outputs]


def assert_identity(spec: NetworkSpec, genotype: Genotype) -> None:
    torch.set_num_threads(1)
    network = CellNetwork(genotype, spec, auxiliary=True, drop_path=0.2).initialise(0)
    model = build_onnx(network, spec.input_shape)
    graph = canonicalise(from_onnx(model))
    exported, promised = kernel_counts(graph), CellSpace(spec).kernels(genotype)
    assert exported == promised, {"missing": promised - exported, "extra": exported - promised}
    assert structure(graph) == structure(canonicalise(CellSpace(spec).lower(genotype)))


def test_exported_graph_has_the_kernels_of_the_space() -> None:
    spec = NetworkSpec(4, 3, "cifar", (3, 7, 7), 4)
    assert_identity(spec, PUBLISHED["PC_DARTS_image"])


@pytest.mark.heavy
@pytest.mark.parametrize(("spec", "published"), CASES.values(), ids=CASES)
def test_identity_of_published_and_random_genotypes(spec: NetworkSpec, published: str) -> None:
    rng = np.random.default_rng(0)
    for genotype in (PUBLISHED[published], CellSpace(spec).random(rng)):
        assert_identity(spec, genotype)
