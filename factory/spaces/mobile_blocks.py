"""Blocks of mobile networks: each is declared once, as the layers that it is made of.

A block says its layers for a given input width. Two readers turn layers into a network:
:func:`lower` into an operator graph, and factory/spaces/mobile_network.py into a torch module. So
the two cannot drift apart, and a new block is one class here.

Vocabulary: universal inverted bottleneck and fused inverted bottleneck (MobileNetV4, arXiv
2404.10518; MobileNetV2, arXiv 1801.04381), squeeze and excitation (arXiv 1709.01507, in the form of
MobileNetV3, arXiv 1905.02244), plain convolutions, and the classifier heads of these networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from factory.graph.opgraph import GraphBuilder, OpGraph
from factory.spaces.activations import emit_activation


@dataclass(frozen=True)
class ConvLayer:
    """Convolution that keeps the map's size but for its stride, BatchNorm, activation."""

    channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = "none"


@dataclass(frozen=True)
class Squeeze:
    """x * gate(conv(activation(conv(mean(x))))), both convolutions 1x1 with a bias."""

    channels: int
    activation: str = "relu"
    gate: str = "hardsigmoid"


@dataclass(frozen=True)
class PoolLayer:
    """Mean over each channel's map, (N, C, 1, 1)."""


@dataclass(frozen=True)
class LinearLayer:
    """Fully connected layer with a bias, and an activation."""

    features: int
    activation: str = "none"


Layer = ConvLayer | Squeeze | PoolLayer | LinearLayer


@dataclass(frozen=True)
class Conv:
    """A plain convolution with BatchNorm and activation, never with a shortcut."""

    channels: int
    kernel: int
    stride: int = 1
    activation: str = "relu"

    def layers(self, width: int) -> Iterator[Layer]:
        """One layer."""
        yield ConvLayer(self.channels, self.kernel, self.stride, activation=self.activation)

    def has_shortcut(self, width: int) -> bool:
        """No."""
        return False


@dataclass(frozen=True)
class Bottleneck:
    """Universal inverted bottleneck, with a shortcut where stride is 1 and widths are equal.

    Attributes:
        channels: width of the output.
        hidden: width inside; 0: the input's width, and no expanding convolution.
        start: kernel of the depthwise convolution before the expansion; 0: none.
        middle: kernel of the one after it; 0: none.
        stride: on the middle depthwise convolution, else on the first one.
        activation: after the expansion and after the middle depthwise convolution.
        squeeze: squeeze and excitation before the projection.
    """

    channels: int
    hidden: int = 0
    start: int = 0
    middle: int = 3
    stride: int = 1
    activation: str = "relu"
    squeeze: Squeeze | None = None

    def layers(self, width: int) -> Iterator[Layer]:
        """Start, expansion, middle, squeeze, projection: those that there are."""
        hidden = self.hidden or width
        if self.start:
            stride = 1 if self.middle else self.stride
            yield ConvLayer(width, self.start, stride, groups=width)
        if self.hidden:
            yield ConvLayer(hidden, activation=self.activation)
        if self.middle:
            yield ConvLayer(
                hidden, self.middle, self.stride, groups=hidden, activation=self.activation
            )
        if self.squeeze is not None:
            yield self.squeeze
        yield ConvLayer(self.channels)

    def has_shortcut(self, width: int) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and width == self.channels


@dataclass(frozen=True)
class FusedBottleneck:
    """Fused inverted bottleneck: one dense convolution expands, a pointwise one projects."""

    channels: int
    hidden: int
    kernel: int = 3
    stride: int = 1
    activation: str = "relu"

    def layers(self, width: int) -> Iterator[Layer]:
        """Expansion, projection."""
        yield ConvLayer(self.hidden, self.kernel, self.stride, activation=self.activation)
        yield ConvLayer(self.channels)

    def has_shortcut(self, width: int) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and width == self.channels


Block = Conv | Bottleneck | FusedBottleneck


@dataclass(frozen=True)
class Head:
    """Mean over the map and classifier, with what stands before and between them.

    Attributes:
        channels: width of a 1x1 convolution before the mean; 0: none.
        activation: of the convolution and of the hidden layer.
        hidden: width between the mean and the classifier; 0: none.
        hidden_conv: the hidden layer is a 1x1 convolution with BatchNorm, not a linear layer.
    """

    channels: int = 0
    activation: str = "relu"
    hidden: int = 0
    hidden_conv: bool = False

    def layers(self, classes: int) -> Iterator[Layer]:
        """The layers up to the logits."""
        if self.channels:
            yield ConvLayer(self.channels, activation=self.activation)
        yield PoolLayer()
        if self.hidden and self.hidden_conv:
            yield ConvLayer(self.hidden, activation=self.activation)
        elif self.hidden:
            yield LinearLayer(self.hidden, self.activation)
        yield LinearLayer(classes)


@dataclass(frozen=True)
class MobileNetwork:
    """A whole network: blocks in order (the first one is the stem) and a head.

    Attributes:
        name: what it is called.
        blocks: stem and body.
        head: what follows.
        side: height and width in pixels of the pictures that it was made for.
        batch_norm_eps: of every BatchNorm.
        batch_norm_momentum: the same.
    """

    name: str
    blocks: tuple[Block, ...]
    head: Head
    side: int = 224
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1


def lower(network: MobileNetwork, input_shape: tuple[int, int, int], classes: int) -> OpGraph:
    """The raw operator graph, BatchNorm folded into the convolutions.

    Args:
        network: the blocks.
        input_shape: (channels, height, width) of one picture.
        classes: outputs of the classifier.
    """
    b = GraphBuilder(network.name)
    x = b.input("image", (1, *input_shape))
    for index, block in enumerate(network.blocks):
        width = b.shape(x)[1]
        y = x
        for place, layer in enumerate(block.layers(width)):
            y = _emit(b, layer, y, f"blocks.{index}.{place}")
        x = b.add(y, x) if block.has_shortcut(width) else y
    for place, layer in enumerate(network.head.layers(classes)):
        x = _emit(b, layer, x, f"head.{place}")
    return b.finish([x])


def rounded(width: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor`` that is not below 90 % of ``width``."""
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


def _emit(b: GraphBuilder, layer: Layer, x: str, name: str) -> str:
    """One layer on the tensor ``x``."""
    if isinstance(layer, PoolLayer):
        return b.global_avg_pool(x)
    if isinstance(layer, LinearLayer):
        return activate(b, b.linear(x, layer.features, name), layer.activation)
    if isinstance(layer, Squeeze):
        width = b.shape(x)[1]
        y = b.conv(
            b.global_avg_pool(x), layer.channels, 1, bn=False, bias=True, weight_id=f"{name}.0"
        )
        y = activate(b, y, layer.activation)
        y = b.conv(y, width, 1, bn=False, bias=True, weight_id=f"{name}.1")
        return b.mul(activate(b, y, layer.gate), x)
    y = b.conv(
        x,
        layer.channels,
        layer.kernel,
        stride=layer.stride,
        padding=layer.kernel // 2,
        groups=layer.groups,
        weight_id=name,
    )
    return activate(b, y, layer.activation)


def activate(b: GraphBuilder, x: str, name: str) -> str:
    """The activation called ``name`` of a tensor: one of :mod:`factory.spaces.activations`,
    "hardswish", "sigmoid", "hardsigmoid" or "none".
    """
    if name == "none":
        return x
    return b.unary(_OPERATORS[name], x) if name in _OPERATORS else emit_activation(b, name, x)


_OPERATORS = {"hardswish": "HardSwish", "sigmoid": "Sigmoid", "hardsigmoid": "HardSigmoid"}
