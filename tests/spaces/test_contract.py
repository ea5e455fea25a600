"""What every search space promises, over all of them."""

from typing import Any

import numpy as np
import pytest
import torch

from factory.core.errors import InputError
from factory.deployment.export import build_onnx
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_import import from_onnx
from factory.spaces import SPACES, SearchSpace, SpaceConfig
from factory.spaces.config import space_settings

SPACE_KINDS = SPACES.names()
# Small networks of each kind.
SIZES = {"mobile": {"width_multiplier": 0.5}, "toy": {}}


@pytest.fixture(scope="module", params=SPACE_KINDS)
def space(request: pytest.FixtureRequest) -> SearchSpace[Any]:
    size = SIZES.get(request.param, {"channels": 4, "layers": 3})
    return space_settings({"kind": request.param, **size}).space((3, 8, 8), 5)


def sample(space: SearchSpace[Any], count: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [space.random(rng) for _ in range(count)]


def test_choices_are_a_bijection(space: SearchSpace[Any]) -> None:
    rng = np.random.default_rng(1)
    for architecture in sample(space, 50):
        choices = space.choices(architecture)
        assert len(choices) == len(space.cardinalities)
        assert space.from_choices(choices) == architecture
    for _ in range(50):
        choices = tuple(int(rng.integers(n)) for n in space.cardinalities)
        assert space.choices(space.from_choices(choices)) == choices


def test_presence_at_a_choice_is_the_derived_network(space: SearchSpace[Any]) -> None:
    architectures = sample(space, 40)
    presence = space.presence()
    counts = presence.counts(space.one_hot_many(architectures))
    for row, architecture in zip(counts, architectures, strict=True):
        kernels = space.kernels(architecture)
        assert set(kernels) <= set(presence.kernels)
        assert [kernels[kernel] for kernel in presence.kernels] == np.round(row, 9).tolist()
    assert set(space.all_kernels("i8")) == {k.with_dtype("i8") for k in presence.kernels}


def test_macs_are_those_of_the_kernels(space: SearchSpace[Any]) -> None:
    for architecture in sample(space, 20):
        kernels = space.kernels(architecture)
        assert space.counts(architecture).macs == sum(k.macs * n for k, n in kernels.items())


def test_neighbours_differ_in_one_decision(space: SearchSpace[Any]) -> None:
    architecture = sample(space, 1)[0]
    neighbours = space.neighbours(architecture)
    assert len(set(neighbours)) == len(neighbours) > 0
    assert architecture not in neighbours
    assert all(space.buildable(other) for other in neighbours)
    assert neighbours == space.neighbours(architecture)


def test_features_tell_architectures_apart(space: SearchSpace[Any]) -> None:
    architectures = sample(space, 30)
    features = space.features(architectures)
    assert features.shape[0] == 30
    assert np.isfinite(features).all()
    distinct = {tuple(row) for row in features.tolist()}
    assert len(distinct) > 20
    np.testing.assert_array_equal(features[3], space.features(architectures[3:4])[0])


def test_json_form(space: SearchSpace[Any], tmp_path: Any) -> None:
    import json

    path = tmp_path / "architecture.json"
    architecture = sample(space, 1)[0]
    path.write_text(json.dumps(space.to_dict(architecture)))
    assert space.load(path) == architecture
    path.write_text("{}")
    with pytest.raises(InputError, match=r"architecture\.json"):
        space.load(path)


def test_exported_network_has_the_kernels_of_the_space(space: SearchSpace[Any]) -> None:
    """The identity of the house: canonical kernels of the space = those of the ONNX file."""
    torch.set_num_threads(1)
    architecture = sample(space, 1, seed=4)[0]
    network = space.network(architecture).initialise(0)  # type: ignore[operator]
    graph = canonicalise(from_onnx(build_onnx(network, (3, 8, 8))))
    exported, promised = kernel_counts(graph), space.kernels(architecture)
    assert exported == promised, {"missing": promised - exported, "extra": exported - promised}


def test_network_trains_and_has_the_counted_parameters(space: SearchSpace[Any]) -> None:
    architecture = sample(space, 1, seed=2)[0]
    network = space.network(architecture).initialise(3)  # type: ignore[operator]
    again = space.network(architecture).initialise(3)  # type: ignore[operator]
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    trainable = sum(p.numel() for p in network.parameters())
    assert trainable == space.counts(architecture).params
    logits = network(torch.randn(2, 3, 8, 8))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 8}, "no multiple of 3"),
        ({"layers": 9, "stem": "imagenet"}, "has no 'imagenet' stem"),
    ],
)
def test_nas_bench_201_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpaceConfig(kind="nas_bench_201", **changes)
