"""CellNetwork and the operator graph describe one network: parameters, MACs, ONNX kernels."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from factory.core.errors import InputError
from factory.spaces import CellSpace, Genotype, NetworkSpec
from factory.spaces.cell_network import CellNetwork, drop_path
from factory.spaces.genotype import NODES, PUBLISHED

TINY = NetworkSpec(4, 5, "cifar", (3, 16, 16), 10)
TINY_IMAGENET = NetworkSpec(4, 3, "imagenet", (3, 56, 56), 7)  # maps 7x7 -> 4x4 -> 2x2
CIFAR = NetworkSpec(36, 20, "cifar", (3, 32, 32), 10)
IMAGENET = NetworkSpec(48, 14, "imagenet", (3, 224, 224), 1000)
SKIPS = Genotype(
    tuple(("skip_connect", source) for _ in NODES for source in (0, 1)),
    NODES,
    tuple(("skip_connect", source) for _ in NODES for source in (0, 1)),
    NODES,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def image(spec: NetworkSpec, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, *spec.input_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("spec", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])
def test_parameters_and_macs_are_those_of_the_lowering(name: str, spec: NetworkSpec) -> None:
    counts = CellSpace(spec).counts(PUBLISHED[name])
    with torch.device("meta"):
        network = CellNetwork(PUBLISHED[name], spec).eval()
        x = torch.empty(1, *spec.input_shape)
    assert sum(p.numel() for p in network.parameters()) == counts.params
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(x)
    assert flops.get_total_flops() == 2 * counts.macs


@pytest.mark.parametrize("spec", [TINY, TINY_IMAGENET], ids=["cifar", "imagenet"])
def test_training_returns_both_heads_and_every_parameter_has_a_gradient(spec: NetworkSpec) -> None:
    network = CellNetwork(PUBLISHED["PC_DARTS_image"], spec, auxiliary=True, drop_path=0.3)
    network.initialise(0)
    logits, auxiliary = network(image(spec, 4))
    assert logits.shape == auxiliary.shape == (4, spec.num_classes)
    (logits.sum() + auxiliary.sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.eval()(image(spec, 4)).shape == (4, spec.num_classes)


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (28, 36), (64, 64)])
def test_auxiliary_head_works_at_any_map_size(size: tuple[int, int]) -> None:
    spec = NetworkSpec(2, 3, "cifar", (1, *size), 3)
    _, auxiliary = CellNetwork(PUBLISHED["DARTS_V2"], spec, auxiliary=True)(image(spec, 2))
    assert auxiliary.shape == (2, 3)


def test_initialise_depends_on_the_seed_alone() -> None:
    first = CellNetwork(PUBLISHED["PDARTS"], TINY).initialise(3)
    torch.manual_seed(99)
    second = CellNetwork(PUBLISHED["PDARTS"], TINY)
    second(image(TINY, 4))  # moves the running statistics
    second.initialise(3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    other = CellNetwork(PUBLISHED["PDARTS"], TINY).initialise(4)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    y = drop_path(torch.ones(4000, 2, 3, 3), 0.25)
    per_sample = y.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(np.round(per_sample[:, 0].unique().tolist(), 4)) == {0.0, 1.3333}
    assert abs(y.mean().item() - 1) < 0.05


def test_identities_are_never_dropped() -> None:
    network = CellNetwork(SKIPS, TINY, drop_path=0.9).initialise(0)
    cell = network.cells[0]
    s = torch.randn(2, 12, 16, 16)
    torch.testing.assert_close(cell(s, s, 0.9), cell(s, s, 0.0))


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_drop_path_bounds(value: float) -> None:
    network = CellNetwork(SKIPS, TINY)
    with pytest.raises(InputError, match="drop path"):
        network.drop_path_prob = value


def test_memory_formats_agree() -> None:
    network = CellNetwork(PUBLISHED["PC_DARTS_cifar"], TINY).initialise(0).eval()
    x = image(TINY, 3)
    with torch.no_grad():
        expected = network(x)
        last = network.to(memory_format=torch.channels_last)(
            x.to(memory_format=torch.channels_last)
        )
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
