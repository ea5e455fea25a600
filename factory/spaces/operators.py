"""The candidate operators as torch modules: one operator, one class.

DARTS (arXiv 1806.09055). Every operator maps [N, C, H, W] to [N, C, H/stride, W/stride] (rounded
up). A new candidate is one class here, its name in genotype.OPS and its lowering in lowering.py;
a test holds the two sides together. Deviations from the paper's code, both exact: the factorised
reduction normalises its two halves before they are joined (BatchNorm is per channel), so that an
exporter folds it; and it pads its shifted half, so that it works on maps of odd size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.core.registry import Registry
from factory.spaces.activation_functions import FUNCTIONS

OperatorFactory = Callable[[int, int, bool], nn.Module]
OPERATORS: Registry[OperatorFactory] = Registry("operator")


def build_op(
    name: str, channels: int, stride: int, affine: bool = True, activation: str = "relu"
) -> nn.Module:
    """The operator called ``name``.

    ``affine`` is that of its BatchNorms; ``activation`` leads its convolutions.
    """
    operator = OPERATORS.get(name)(channels, stride, affine)
    for module in operator.modules():
        if isinstance(module, FactorizedReduce | SeparableBlock):
            module.activation = FUNCTIONS.get(activation)
    return operator


class ReluConvBn(nn.Module):
    """ReLU, 1x1 convolution, BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Apply to a map."""
        return self.bn(self.conv(F.relu(x_NCHW)))


class FactorizedReduce(nn.Module):
    """Halve the map: ReLU, two 1x1 convolutions of stride 2, the second shifted by one pixel."""

    activation: Callable[[Tensor], Tensor]

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True) -> None:
        super().__init__()
        self.activation = F.relu
        left, right = out_channels // 2, out_channels - out_channels // 2
        self.left = nn.Conv2d(in_channels, left, 1, stride=2, bias=False)
        self.right = nn.Conv2d(in_channels, right, 1, stride=2, bias=False)
        self.left_bn = nn.BatchNorm2d(left, affine=affine)
        self.right_bn = nn.BatchNorm2d(right, affine=affine)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Apply to a map of any size; the output's size is rounded up."""
        x = self.activation(x_NCHW)
        shifted = x[:, :, 1:, 1:]
        odd_h, odd_w = x.shape[2] % 2, x.shape[3] % 2
        if odd_h or odd_w:
            shifted = F.pad(shifted, (0, odd_w, 0, odd_h))
        return torch.cat([self.left_bn(self.left(x)), self.right_bn(self.right(shifted))], dim=1)


class SeparableBlock(nn.Module):
    """ReLU, depthwise convolution, pointwise convolution, BatchNorm."""

    activation: Callable[[Tensor], Tensor]

    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int = 1, affine: bool = True
    ) -> None:
        super().__init__()
        self.activation = F.relu
        self.depthwise = nn.Conv2d(
            channels,
            channels,
            kernel,
            stride=stride,
            padding=dilation * (kernel - 1) // 2,
            dilation=dilation,
            groups=channels,
            bias=False,
        )
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Apply to a map."""
        return self.bn(self.pointwise(self.depthwise(self.activation(x_NCHW))))


class MaxPool(nn.MaxPool2d):
    """3x3 max pool."""

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride=stride, padding=1)


class AveragePool(nn.AvgPool2d):
    """3x3 average pool over the pixels that exist."""

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride=stride, padding=1, count_include_pad=False)


class SepConv(nn.Sequential):
    """Two separable blocks; the first has the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__(
            SeparableBlock(channels, kernel, stride, affine=affine),
            SeparableBlock(channels, kernel, 1, affine=affine),
        )


class DilConv(SeparableBlock):
    """One separable block of dilation 2."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__(channels, kernel, stride, dilation=2, affine=affine)


class Zero(nn.Module):
    """The candidate ``none`` of a search: zeros of the right size."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Zeros like the (strided) map."""
        return torch.zeros_like(x_NCHW[:, :, :: self.stride, :: self.stride])


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


OPERATORS.add("none", lambda channels, stride, affine: Zero(stride))
OPERATORS.add("max_pool_3x3", lambda channels, stride, affine: MaxPool(stride))
OPERATORS.add("avg_pool_3x3", lambda channels, stride, affine: AveragePool(stride))
OPERATORS.add("skip_connect", _skip)
OPERATORS.add("sep_conv_3x3", lambda channels, stride, affine: SepConv(channels, 3, stride, affine))
OPERATORS.add("sep_conv_5x5", lambda channels, stride, affine: SepConv(channels, 5, stride, affine))
OPERATORS.add("dil_conv_3x3", lambda channels, stride, affine: DilConv(channels, 3, stride, affine))
OPERATORS.add("dil_conv_5x5", lambda channels, stride, affine: DilConv(channels, 5, stride, affine))
