"""The torch operators: sizes on even and odd maps, the factorised reduction, determinism."""

import pytest
import torch
import torch.nn.functional as F

from factory.core.errors import InputError
from factory.spaces.genotype import OPS
from factory.spaces.operators import OPERATORS, FactorizedReduce, build_op


def test_registry_has_every_candidate() -> None:
    assert OPERATORS.names() == list(OPS)
    with pytest.raises(InputError, match="did you mean 'sep_conv_3x3'"):
        build_op("sepconv_3x3", 4, 1)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 6), (2, 2)])
def test_output_size_is_rounded_up(name: str, stride: int, size: tuple[int, int]) -> None:
    y = build_op(name, 4, stride)(torch.randn(3, 4, *size))
    assert y.shape == (3, 4, -(-size[0] // stride), -(-size[1] // stride))


def _with_statistics(module: torch.nn.Module) -> torch.nn.Module:
    """A little training, so that running means and variances are not trivial."""
    generator = torch.Generator().manual_seed(0)
    for submodule in module.modules():
        if isinstance(submodule, torch.nn.BatchNorm2d):
            shape = submodule.running_mean.shape
            submodule.running_mean.copy_(torch.randn(shape, generator=generator))
            submodule.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)
    return module


@pytest.mark.parametrize("training", [True, False])
def test_factorised_reduction_is_one_batchnorm_after_the_join(training: bool) -> None:
    reduce = _with_statistics(FactorizedReduce(6, 8)).train(training)
    x = torch.randn(4, 6, 8, 8)
    relu = torch.relu(x)
    joined = torch.cat(
        [
            F.conv2d(relu, reduce.left.weight, stride=2),
            F.conv2d(relu[:, :, 1:, 1:], reduce.right.weight, stride=2),
        ],
        dim=1,
    )
    mean = torch.cat([reduce.left_bn.running_mean, reduce.right_bn.running_mean])
    var = torch.cat([reduce.left_bn.running_var, reduce.right_bn.running_var])
    expected = F.batch_norm(joined, mean.clone(), var.clone(), training=training)
    torch.testing.assert_close(reduce(x), expected)


def test_factorised_reduction_of_an_odd_map() -> None:
    reduce = FactorizedReduce(3, 4).eval()
    x = torch.randn(2, 3, 7, 7)
    y = reduce(x)
    assert y.shape == (2, 4, 4, 4)
    # the unshifted half and the inner part of the shifted one are those of the 8x8 padded map
    padded = reduce(F.pad(x, (0, 1, 0, 1)))
    torch.testing.assert_close(y, padded)


def test_affine_false_has_no_batchnorm_parameters() -> None:
    names = [name for name, _ in build_op("sep_conv_5x5", 4, 2, affine=False).named_parameters()]
    assert len(names) == 4
    assert not any("bn" in name for name in names)


def test_memory_formats_agree() -> None:
    x = torch.randn(2, 8, 9, 9)
    for name in OPS:
        operator = build_op(name, 8, 2).eval()
        last = operator.to(memory_format=torch.channels_last)(
            x.to(memory_format=torch.channels_last)
        )
        torch.testing.assert_close(last, operator(x), rtol=1e-4, atol=1e-5)
