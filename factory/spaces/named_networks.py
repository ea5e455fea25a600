"""Networks that people take from a shelf, in the vocabulary of factory/spaces/mobile_blocks.py.

Each equals its published form in parameters and MACs at any input size: MobileNetV2 (arXiv
1801.04381), MobileNetV3 (arXiv 1905.02244), MobileNetV4 (arXiv 2404.10518), MnasNet (arXiv
1807.11626), EfficientNet (arXiv 1905.11946) and its "lite" form, FBNet-C (arXiv 1812.03443), as
torchvision and timm have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from factory.core.registry import Registry
from factory.spaces.mobile_blocks import (
    Block,
    Bottleneck,
    Conv,
    FusedBottleneck,
    Head,
    MobileNetwork,
    Squeeze,
    rounded,
)

NAMED: Registry[Callable[[], MobileNetwork]] = Registry("named network")


def named_network(name: str) -> MobileNetwork:
    """The network of that name; InputError on another name."""
    return NAMED.get(name)()


def _stages(
    width: int,
    rows: Iterable[tuple[int, int, int, int, int]],
    *,
    activation: str = "relu",
    squeeze: Squeeze | None = None,
    expands_by_one: bool = False,
) -> Iterator[Bottleneck]:
    """Inverted bottlenecks from rows of (kernel, stride, expansion, channels, repeats).

    A block of expansion 1 has no expanding convolution, unless ``expands_by_one``.
    """
    for kernel, stride, expansion, channels, repeats in rows:
        for index in range(repeats):
            yield Bottleneck(
                channels,
                0 if expansion == 1 and not expands_by_one else width * expansion,
                middle=kernel,
                stride=1 if index else stride,
                activation=activation,
                squeeze=squeeze,
            )
            width = channels


@NAMED.register("mobilenet_v2")
def _mobilenet_v2() -> MobileNetwork:
    rows = [
        (3, 1, 1, 16, 1),
        (3, 2, 6, 24, 2),
        (3, 2, 6, 32, 3),
        (3, 2, 6, 64, 4),
        (3, 1, 6, 96, 3),
        (3, 2, 6, 160, 3),
        (3, 1, 6, 320, 1),
    ]
    body = _stages(32, rows, activation="relu6")
    return MobileNetwork(
        "mobilenet_v2", (Conv(32, 3, 2, "relu6"), *body), Head(1280, activation="relu6")
    )


# (kernel, hidden width, channels, squeeze, hardswish, stride)
_V3_LARGE = (
    (3, 16, 16, 0, 0, 1),
    (3, 64, 24, 0, 0, 2),
    (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1),
    (3, 240, 80, 0, 1, 2),
    (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1),
    (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2),
    (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)
_V3_SMALL = (
    (3, 16, 16, 1, 0, 2),
    (3, 72, 24, 0, 0, 2),
    (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1),
    (5, 120, 48, 1, 1, 1),
    (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2),
    (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)


def _mobilenet_v3(
    name: str, rows: tuple[tuple[int, ...], ...], last: int, hidden: int
) -> MobileNetwork:
    blocks: list[Block] = [Conv(16, 3, 2, "hardswish")]
    width = 16
    for kernel, inner, channels, squeezed, hard, stride in rows:
        blocks.append(
            Bottleneck(
                channels,
                0 if inner == width else inner,
                middle=kernel,
                stride=stride,
                activation="hardswish" if hard else "relu",
                squeeze=Squeeze(rounded(inner / 4)) if squeezed else None,
            )
        )
        width = channels
    head = Head(last, activation="hardswish", hidden=hidden)
    return MobileNetwork(name, tuple(blocks), head, batch_norm_eps=1e-3, batch_norm_momentum=0.01)


@NAMED.register("mobilenet_v3_large")
def _mobilenet_v3_large() -> MobileNetwork:
    return _mobilenet_v3("mobilenet_v3_large", _V3_LARGE, 960, 1280)


@NAMED.register("mobilenet_v3_small")
def _mobilenet_v3_small() -> MobileNetwork:
    return _mobilenet_v3("mobilenet_v3_small", _V3_SMALL, 576, 1024)


@NAMED.register("mnasnet1_0")
def _mnasnet1_0() -> MobileNetwork:
    rows = [
        (3, 2, 3, 24, 3),
        (5, 2, 3, 40, 3),
        (5, 2, 6, 80, 3),
        (3, 1, 6, 96, 2),
        (5, 2, 6, 192, 4),
        (3, 1, 6, 320, 1),
    ]
    stem = (Conv(32, 3, 2), Bottleneck(16, 0))
    return MobileNetwork(
        "mnasnet1_0",
        (*stem, *_stages(16, rows)),
        Head(1280),
        batch_norm_momentum=0.0003,
    )


_EFFICIENTNET_B0 = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


@NAMED.register("efficientnet_b0")
def _efficientnet_b0() -> MobileNetwork:
    blocks: list[Block] = [Conv(32, 3, 2, "silu")]
    width = 32
    for row in _EFFICIENTNET_B0:
        for index in range(row[-1]):
            kernel, stride, expansion, channels, _ = row
            one = (kernel, 1 if index else stride, expansion, channels, 1)
            squeeze = Squeeze(width // 4, "silu", "sigmoid")
            blocks += _stages(width, [one], activation="silu", squeeze=squeeze)
            width = row[3]
    return MobileNetwork("efficientnet_b0", tuple(blocks), Head(1280, activation="silu"))


@NAMED.register("efficientnet_lite0")
def _efficientnet_lite0() -> MobileNetwork:
    body = _stages(32, _EFFICIENTNET_B0, activation="relu6")
    return MobileNetwork(
        "efficientnet_lite0", (Conv(32, 3, 2, "relu6"), *body), Head(1280, activation="relu6")
    )


@NAMED.register("fbnetc_100")
def _fbnetc_100() -> MobileNetwork:
    rows = [
        (3, 1, 1, 16, 1),
        (3, 2, 6, 24, 1),
        (3, 1, 1, 24, 2),
        (5, 2, 6, 32, 1),
        (5, 1, 3, 32, 1),
        (5, 1, 6, 32, 1),
        (3, 1, 6, 32, 1),
        (5, 2, 6, 64, 1),
        (5, 1, 3, 64, 1),
        (5, 1, 6, 64, 2),
        (5, 1, 6, 112, 3),
        (5, 1, 3, 112, 1),
        (5, 2, 6, 184, 4),
        (3, 1, 6, 352, 1),
    ]
    body = _stages(16, rows, expands_by_one=True)
    return MobileNetwork("fbnetc_100", (Conv(16, 3, 2), *body), Head(1984))


# Blocks of MobileNetV4 as (start, middle, stride, expansion, channels).
_V4_SMALL = (
    (5, 5, 2, 3, 96),
    *[(0, 3, 1, 2, 96)] * 4,
    (3, 0, 1, 4, 96),
    (3, 3, 2, 6, 128),
    (5, 5, 1, 4, 128),
    (0, 5, 1, 4, 128),
    (0, 5, 1, 3, 128),
    *[(0, 3, 1, 4, 128)] * 2,
)
_V4_MEDIUM = (
    (3, 5, 2, 4, 80),
    (3, 3, 1, 2, 80),
    (3, 5, 2, 6, 160),
    (3, 3, 1, 4, 160),
    (3, 3, 1, 4, 160),
    (3, 5, 1, 4, 160),
    (3, 3, 1, 4, 160),
    (3, 0, 1, 4, 160),
    (0, 0, 1, 2, 160),
    (3, 0, 1, 4, 160),
    (5, 5, 2, 6, 256),
    (5, 5, 1, 4, 256),
    (3, 5, 1, 4, 256),
    (3, 5, 1, 4, 256),
    (0, 0, 1, 4, 256),
    (3, 0, 1, 4, 256),
    (3, 5, 1, 2, 256),
    (5, 5, 1, 4, 256),
    (0, 0, 1, 4, 256),
    (0, 0, 1, 4, 256),
    (5, 0, 1, 2, 256),
)


def _universal(
    width: int, rows: tuple[tuple[int, int, int, int, int], ...], scale: Callable[[float], int]
) -> Iterator[Bottleneck]:
    for start, middle, stride, expansion, channels in rows:
        hidden = rounded(width * expansion)
        yield Bottleneck(scale(channels), hidden, start, middle, stride)
        width = scale(channels)


def _mobilenetv4_conv_small(name: str, multiplier: float) -> MobileNetwork:
    """Stem and hidden layer of the head keep their width at any multiplier."""

    def scale(width: float) -> int:
        return rounded(width * multiplier)

    body: tuple[Block, ...] = (
        Conv(scale(32), 3, 2),
        Conv(scale(32), 1),
        Conv(scale(96), 3, 2),
        Conv(scale(64), 1),
        *_universal(scale(64), _V4_SMALL, scale),
    )
    head = Head(scale(960), hidden=1280, hidden_conv=True)
    return MobileNetwork(name, (Conv(32, 3, 2), *body), head)


@NAMED.register("mobilenetv4_conv_small")
def _conv_small() -> MobileNetwork:
    return _mobilenetv4_conv_small("mobilenetv4_conv_small", 1.0)


@NAMED.register("mobilenetv4_conv_small_050")
def _conv_small_050() -> MobileNetwork:
    return _mobilenetv4_conv_small("mobilenetv4_conv_small_050", 0.5)


@NAMED.register("mobilenetv4_conv_medium")
def _conv_medium() -> MobileNetwork:
    blocks: tuple[Block, ...] = (
        Conv(32, 3, 2),
        FusedBottleneck(48, 128, stride=2),
        *_universal(48, _V4_MEDIUM, round),
    )
    head = Head(960, hidden=1280, hidden_conv=True)
    return MobileNetwork("mobilenetv4_conv_medium", blocks, head)
