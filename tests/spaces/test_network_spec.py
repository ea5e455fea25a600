"""The plan of the cells and the checks of sizes that cannot be built."""

from typing import Any

import pytest
from pydantic import ValidationError

from factory.core.errors import InputError
from factory.spaces.config import SpaceConfig
from factory.spaces.network_spec import NetworkSpec


def test_cifar_plan() -> None:
    plan = NetworkSpec(36, 20, "cifar", (3, 32, 32), 10).plan
    assert [cell.index for cell in plan if cell.reduction] == [6, 13]
    assert (plan[0].in_channels, plan[0].in_sizes) == ((108, 108), ((32, 32), (32, 32)))
    assert [cell.index for cell in plan if cell.reduction_prev] == [7, 14]
    assert (plan[-1].out_channels, plan[-1].node_size) == (576, (8, 8))


def test_imagenet_plan() -> None:
    spec = NetworkSpec(48, 14, "imagenet", (3, 224, 224), 1000)
    assert spec.plan[0].reduction_prev
    assert spec.plan[0].in_sizes == ((56, 56), (28, 28))
    assert (spec.plan[-1].out_channels, spec.plan[-1].node_size) == (768, (7, 7))
    assert spec.auxiliary_cell == 9


def test_odd_sizes_round_up() -> None:
    plan = NetworkSpec(4, 3, "cifar", (1, 7, 10), 2).plan
    assert [cell.node_size for cell in plan] == [(7, 10), (4, 5), (2, 3)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 7}, "even"),
        ({"channels": 0}, "even"),
        ({"layers": 0}, "layers = 0"),
        ({"num_classes": 0}, "num_classes = 0"),
        ({"stem": "imagnet"}, "did you mean 'imagenet'"),
        ({"input_shape": (3, 32)}, "3x32x32"),
        ({"input_shape": (3, 2, 2)}, "too small"),
        ({"stem": "imagenet", "input_shape": (3, 8, 8)}, "or the cifar stem"),
    ],
)
def test_impossible_sizes(changes: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {
        "channels": 8,
        "layers": 5,
        "stem": "cifar",
        "input_shape": (3, 32, 32),
        "num_classes": 10,
    }
    with pytest.raises(InputError, match=words):
        NetworkSpec(**{**values, **changes})


def test_config_makes_the_spec() -> None:
    config = SpaceConfig(channels=8, layers=5)
    assert config.network_spec((3, 32, 32), 10) == NetworkSpec(8, 5, "cifar", (3, 32, 32), 10)


@pytest.mark.parametrize("wrong", [{"channels": 3}, {"layers": 0}, {"kind": "x"}, {"layer": 8}])
def test_config_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SpaceConfig(**wrong)


def test_every_field_has_a_help_text() -> None:
    assert all(field.description for field in SpaceConfig.model_fields.values())
