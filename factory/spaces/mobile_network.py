"""A network of mobile blocks as a torch module, and published weights loaded into it.

The layers come from factory/spaces/mobile_blocks.py, in the order in which they run. That is also
the order of the parameters in the networks of torchvision and timm, so their weights are matched by
order and shape, whatever their names are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from factory.core.errors import InputError
from factory.spaces.mobile_blocks import (
    Block,
    ConvLayer,
    Layer,
    LinearLayer,
    MobileNetwork,
    PoolLayer,
    Squeeze,
)
from factory.spaces.torch_initialise import initialise

BN_EPS, BN_MOMENTUM = 1e-5, 0.1  # torch's own
_FUNCTIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
}


class SqueezeExcite(nn.Module):
    """Squeeze and excitation of ``width`` channels (arXiv 1709.01507)."""

    def __init__(self, layer: Squeeze, width: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(width, layer.channels, 1)
        self.activation = _FUNCTIONS[layer.activation]()
        self.expand = nn.Conv2d(layer.channels, width, 1)
        self.gate = _FUNCTIONS[layer.gate]()

    def forward(self, x_NCHW: Tensor, mask_C: Tensor | None = None) -> Tensor:
        """Channels scaled by what their means say; ``mask_C`` weighs the reduced channels."""
        y = self.activation(self.reduce(self.pool(x_NCHW)))
        y = y if mask_C is None else y * mask_C[:, None, None]
        return self.gate(self.expand(y)) * x_NCHW


class BlockModule(nn.Module):
    """One block on an input of ``width`` channels."""

    def __init__(
        self, block: Block, width: int, eps: float = BN_EPS, momentum: float = BN_MOMENTUM
    ) -> None:
        super().__init__()
        self.layers, self.width = layer_sequence(block.layers(width), width, eps, momentum)
        self.shortcut = block.has_shortcut(width)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Output of the block."""
        y_NCHW = self.layers(x_NCHW)
        return y_NCHW + x_NCHW if self.shortcut else y_NCHW


class TorchMobileNetwork(nn.Module):
    """The network of ``network``, trainable and exportable; logits (N, classes)."""

    def __init__(
        self,
        network: MobileNetwork,
        classes: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        eps, momentum = network.batch_norm_eps, network.batch_norm_momentum
        width = in_channels
        blocks = []
        for block in network.blocks:
            blocks.append(BlockModule(block, width, eps, momentum))
            width = blocks[-1].width
        self.blocks = nn.ModuleList(blocks)
        self.head, _ = layer_sequence(network.head.layers(classes), width, eps, momentum)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Logits of a batch of pictures."""
        x = image_NCHW
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    @torch.no_grad()
    def initialise(self, seed: int) -> TorchMobileNetwork:
        """Set every parameter and buffer from ``seed`` alone; returns the network."""
        initialise(self, seed)
        return self

    @torch.no_grad()
    def load_published(self, weights: Mapping[str, Tensor], name: str = "the weights") -> None:
        """Take the weights of the same network in torchvision or timm, in their order.

        A classifier of another number of classes is left as it is.

        Raises:
            InputError: they are of another network.
        """
        own = {key: value for key, value in self.state_dict().items() if _counts(key)}
        given = {key: value for key, value in weights.items() if _counts(key)}
        if len(own) != len(given):
            raise InputError(
                f"{name} do not fit {self.network.name}",
                why=f"they hold {len(given)} tensors, the network has {len(own)}",
                fix="give the state_dict of the same network",
            )
        last = list(own)[-2:]  # weight and bias of the classifier
        for (key, mine), (other, theirs) in zip(own.items(), given.items(), strict=True):
            if mine.numel() == theirs.numel():
                mine.copy_(theirs.reshape(mine.shape))
            elif key not in last:
                raise InputError(
                    f"{name} do not fit {self.network.name}",
                    why=f"{other} has shape {tuple(theirs.shape)}, {key} {tuple(mine.shape)}",
                    fix="give the state_dict of the same network",
                )


def _counts(key: str) -> bool:
    """Whether an entry of a state_dict is a weight or a statistic, not a counter."""
    return not key.endswith("num_batches_tracked")


def layer_sequence(
    layers: Iterable[Layer], width: int, eps: float = BN_EPS, momentum: float = BN_MOMENTUM
) -> tuple[nn.Sequential, int]:
    """The layers one after the other, and the width of their output."""
    modules: list[nn.Module] = []
    for layer in layers:
        modules += _modules(layer, width, eps, momentum)
        if isinstance(layer, ConvLayer):
            width = layer.channels
        elif isinstance(layer, LinearLayer):
            width = layer.features
    return nn.Sequential(*modules), width


def _modules(layer: Layer, width: int, eps: float, momentum: float) -> list[nn.Module]:
    if isinstance(layer, PoolLayer):
        return [nn.AdaptiveAvgPool2d(1)]
    if isinstance(layer, Squeeze):
        return [SqueezeExcite(layer, width)]
    if isinstance(layer, LinearLayer):
        made: list[nn.Module] = [nn.Flatten(), nn.Linear(width, layer.features)]
    else:
        made = [
            nn.Conv2d(
                width,
                layer.channels,
                layer.kernel,
                stride=layer.stride,
                padding=layer.kernel // 2,
                groups=layer.groups,
                bias=False,
            ),
            nn.BatchNorm2d(layer.channels, eps=eps, momentum=momentum),
        ]
    if layer.activation != "none":
        made.append(_FUNCTIONS[layer.activation]())
    return made
