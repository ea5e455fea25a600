"""Random networks like those that run on phones, as operator graphs: to measure chips with.

Priors for channels, resolutions, kernel sizes, strides, groups and activations, not a list of
known networks: stages of one or several families of blocks, each with a width, a depth and a
stride drawn at random. Families: inverted bottlenecks with or without squeeze-and-excitation
(MobileNetV2 arXiv 1801.04381, V3 arXiv 1905.02244), residual and grouped bottleneck blocks
(ResNet arXiv 1512.03385, RegNet arXiv 2003.13678), channel shuffle (ShuffleNetV2 arXiv
1807.11164), fire modules (SqueezeNet arXiv 1602.07360), depthwise separable and plain blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from factory.graph.counts import count
from factory.graph.opgraph import GraphBuilder, OpGraph
from factory.graph.shapes import shape_text
from factory.spaces.mobile_blocks import activate

ACTIVATIONS = ("relu", "relu6", "hardswish", "silu")
RESOLUTIONS = (64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256)
MIN_SIDE = 4  # maps do not shrink below this many pixels
MAX_TRIES = 200


@dataclass(frozen=True)
class MobileRange:
    """Which random networks are kept: limits on work and on weights."""

    min_macs: float = 15e6
    max_macs: float = 1.2e9
    max_params: float = 20e6


class Drawer:
    """One random network while it is drawn."""

    def __init__(self, rng: np.random.Generator, name: str) -> None:
        self.rng = rng
        self.builder = GraphBuilder(name)
        self.activation = str(rng.choice(ACTIVATIONS, p=(0.4, 0.2, 0.22, 0.18)))
        self.multiple = int(rng.choice((1, 2, 4, 8, 16), p=(0.08, 0.1, 0.17, 0.5, 0.15)))
        self.kernel_sizes = (3,) if rng.random() < 0.35 else (3, 3, 5, 5, 7)
        self.gated = rng.random() < 0.4

    def channels(self, wanted: float) -> int:
        """A width near ``wanted``, a multiple of this network's grain."""
        step = self.multiple
        return max(step, round(wanted / step) * step, 4)

    def kernel(self) -> int:
        """A kernel size."""
        return int(self.rng.choice(self.kernel_sizes))

    def width(self, x: str) -> int:
        """Channels of a tensor."""
        return self.builder.shape(x)[1]

    def side(self, x: str) -> int:
        """Height of a tensor."""
        return self.builder.shape(x)[2]

    def act(self, x: str, name: str | None = None) -> str:
        """The network's activation, or the named one."""
        return activate(self.builder, x, name or self.activation)

    def conv(self, x: str, channels: int, k: int = 1, stride: int = 1, groups: int = 1) -> str:
        """A convolution that keeps the map's size but for its stride."""
        return self.builder.conv(x, channels, k, stride=stride, padding=k // 2, groups=groups)

    def depthwise(self, x: str, k: int, stride: int) -> str:
        """A depthwise convolution."""
        return self.conv(x, self.width(x), k, stride, self.width(x))

    def gate(self, x: str, reduce_from: int) -> str:
        """Squeeze and excitation (arXiv 1709.01507): x * sigmoid(conv(act(conv(mean(x)))))."""
        hard = self.activation == "hardswish"
        ratio = float(self.rng.choice((4, 4, 4, 8, 16)))
        small = max(4, self.channels(reduce_from / ratio))
        y = self.builder.conv(self.builder.global_avg_pool(x), small, 1, bn=False, bias=True)
        y = self.act(y, "silu" if self.activation == "silu" else "relu")
        y = self.builder.conv(y, self.width(x), 1, bn=False, bias=True)
        return self.builder.mul(self.act(y, "hardsigmoid" if hard else "sigmoid"), x)

    def shuffle(self, x: str, groups: int = 2) -> str:
        """Channel shuffle: channels of ``groups`` groups interleaved."""
        n, c, h, w = self.builder.shape(x)
        x = self.builder.reshape(x, (n, groups, c // groups, h, w))
        y = (n, c // groups, groups, h, w)
        attrs = (("perm", "0x2x1x3x4"), ("y", shape_text(y)))
        return self.builder.reshape(self.builder.unary("Transpose", x, attrs), (n, c, h, w))

    def halves(self, x: str) -> tuple[str, str]:
        """The first and the second half of the channels."""
        n, c, h, w = self.builder.shape(x)
        half = shape_text((n, c // 2, h, w))
        first = self.builder.unary("Slice", x, (("start", "0"), ("y", half)))
        start = shape_text((0, c // 2, 0, 0))
        return first, self.builder.unary("Slice", x, (("start", start), ("y", half)))


Block = Callable[[Drawer, str, int, int], str]  # (drawer, input, channels, stride) -> output


def _inverted(d: Drawer, x: str, channels: int, stride: int) -> str:
    expand = float(d.rng.choice((1, 2, 3, 4, 6, 6)))
    inner = d.channels(d.width(x) * expand * d.rng.uniform(0.85, 1.15))
    y = x if expand == 1 else d.act(d.conv(x, inner))
    y = d.act(d.depthwise(y, d.kernel(), stride))
    if d.gated and d.rng.random() < 0.7:
        y = d.gate(y, d.width(y) if d.rng.random() < 0.6 else d.width(x))
    y = d.conv(y, channels)
    keeps = stride == 1 and d.width(x) == channels
    return d.builder.add(y, x) if keeps else y


def _separable(d: Drawer, x: str, channels: int, stride: int) -> str:
    y = d.depthwise(x, d.kernel(), stride)
    y = d.act(y) if d.rng.random() < 0.7 else y
    return d.act(d.conv(y, channels))


def _residual(d: Drawer, x: str, channels: int, stride: int) -> str:
    y = d.conv(d.act(d.conv(x, channels, 3, stride)), channels, 3)
    skip = x if stride == 1 and d.width(x) == channels else d.conv(x, channels, 1, stride)
    return d.act(d.builder.add(y, skip))


def _bottleneck(d: Drawer, x: str, channels: int, stride: int) -> str:
    group = int(d.rng.choice((1, 4, 8, 8, 16, 24)))  # channels a group; 1: one group for all
    ratio = float(d.rng.choice((0.25, 0.5, 1, 1, 2)))
    inner = max(group, round(channels * ratio / group) * group)
    inner = inner if group > 1 else d.channels(channels * ratio)
    y = d.act(d.conv(x, inner))
    y = d.act(d.conv(y, inner, 3, stride, inner // group if group > 1 else 1))
    if d.gated:
        y = d.gate(y, d.width(x))
    y = d.conv(y, channels)
    skip = x if stride == 1 and d.width(x) == channels else d.conv(x, channels, 1, stride)
    return d.act(d.builder.add(y, skip))


def _shuffled(d: Drawer, x: str, channels: int, stride: int) -> str:
    half = max(channels // 2, 4)
    k = 3 if d.rng.random() < 0.7 else 5
    if stride == 1 and d.width(x) == 2 * half:
        left, right = d.halves(x)
    else:
        left, right = d.act(d.conv(d.depthwise(x, k, stride), half)), x
    right = d.act(d.conv(right, half))
    right = d.act(
        d.conv(
            d.depthwise(
                right, k, stride if d.width(left) == half and d.side(left) != d.side(right) else 1
            ),
            half,
        )
    )
    return d.shuffle(d.builder.concat([left, right]))


def _fire(d: Drawer, x: str, channels: int, stride: int) -> str:
    if stride == 2:
        x = d.builder.max_pool(x, 3, 2, 1 if d.rng.random() < 0.5 else 0)
    squeeze = d.channels(channels / float(d.rng.choice((4, 8))))
    half = max(channels // 2, 4)
    y = d.act(d.conv(x, squeeze))
    return d.builder.concat([d.act(d.conv(y, half)), d.act(d.conv(y, half, 3))])


def _plain(d: Drawer, x: str, channels: int, stride: int) -> str:
    return d.act(d.conv(x, channels, d.kernel() if d.width(x) < 64 else 3, stride))


FAMILIES: dict[str, Block] = {
    "inverted": _inverted,
    "separable": _separable,
    "residual": _residual,
    "bottleneck": _bottleneck,
    "shuffle": _shuffled,
    "fire": _fire,
    "plain": _plain,
}
_WEIGHTS = (0.34, 0.1, 0.14, 0.16, 0.12, 0.09, 0.05)


def _stem(d: Drawer, resolution: int) -> str:
    x = d.builder.input("image", (1, 3, resolution, resolution))
    k = int(d.rng.choice((3, 3, 3, 3, 5, 7)))
    stride = 2 if resolution >= 64 or d.rng.random() < 0.3 else 1
    x = d.act(d.conv(x, d.channels(2 ** d.rng.uniform(3.0, 6.0)), k, stride))
    if resolution >= 128 and d.rng.random() < 0.3:
        x = d.builder.max_pool(x, 3, 2, 1)
    return x


def _head(d: Drawer, x: str) -> str:
    rng, b = d.rng, d.builder
    classes = int(rng.choice((10, 100, 1000)))
    if rng.random() < 0.12:
        x = d.act(b.conv(x, classes, 1, bn=False, bias=True))
        return b.global_avg_pool(x)
    if rng.random() < 0.55:
        x = d.act(d.conv(x, d.channels(d.width(x) * 2 ** rng.uniform(0.5, 2.5))))
    x = b.global_avg_pool(x)
    if rng.random() < 0.2:
        x = d.act(b.linear(x, d.channels(2 ** rng.uniform(7, 10.3))))
    return b.linear(x, classes)


def _draw(rng: np.random.Generator, name: str) -> OpGraph:
    d = Drawer(rng, name)
    small = rng.random() < 0.2
    x = _stem(d, int(rng.choice((32, 40, 48, 56)) if small else rng.choice(RESOLUTIONS)))
    families = list(FAMILIES)
    main = str(rng.choice(families, p=_WEIGHTS))
    mixed = rng.random() < 0.35
    channels = d.width(x) * float(rng.uniform(0.6, 2.0))
    for stage in range(int(rng.integers(3, 6))):
        family = str(rng.choice(families, p=_WEIGHTS)) if mixed else main
        width = d.channels(channels)
        width += width % 2
        for index in range(int(rng.integers(1, 5))):
            shrinks = index == 0 and d.side(x) >= 2 * MIN_SIDE and (stage > 0 or d.side(x) > 64)
            x = FAMILIES[family](d, x, width, 2 if shrinks else 1)
        channels = min(channels * float(rng.uniform(1.25, 2.2)), 640.0)
    return d.builder.finish([_head(d, x)])


def random_mobile_network(
    rng: np.random.Generator, limits: MobileRange = MobileRange(), name: str = "mobile"
) -> OpGraph:
    """A random network within ``limits``, as a raw operator graph with one image input."""
    for _ in range(MAX_TRIES):
        graph = _draw(rng, name)
        counts = count(graph)
        if limits.min_macs <= counts.macs <= limits.max_macs and counts.params <= limits.max_params:
            return graph
    raise ValueError(f"no random network within {limits} in {MAX_TRIES} tries")
