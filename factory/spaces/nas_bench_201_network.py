"""The network of a NAS-Bench-201 cell as a torch module, trainable and exportable.

Layout: nas_bench_201_space.py, whose operator graph describes the same network (a test exports one
and compares it with the other). Initialised as the cell space's networks are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from factory.spaces.nas_bench_201 import EDGES, OPS, Cell201
from factory.spaces.nas_bench_201_space import STAGES, Spec201
from factory.spaces.torch_initialise import initialise


class ReluConvBn(nn.Sequential):
    """ReLU, convolution, BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        )


def build_op(op: str, channels: int) -> nn.Module:
    """The torch module of an operator (not of ``none``)."""
    if op == "skip_connect":
        return nn.Identity()
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return ReluConvBn(channels, channels, 3 if op == "nor_conv_3x3" else 1)


class CellModule(nn.Module):
    """One live cell."""

    def __init__(self, cell: Cell201, channels: int) -> None:
        super().__init__()
        chosen = [(edge, op) for edge, op in zip(EDGES, cell.ops, strict=True) if op != OPS[0]]
        self.edges = tuple(edge for edge, _ in chosen)
        self.operators = nn.ModuleList(build_op(op, channels) for _, op in chosen)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Apply to the previous output."""
        states = {0: x_NCHW}
        for (node, source), operator in zip(self.edges, self.operators, strict=True):
            y = operator(states[source])
            states[node] = states[node] + y if node in states else y
        return states[self.edges[-1][0]]


class ResidualBlock(nn.Module):
    """Half the map, more channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.a = ReluConvBn(in_channels, out_channels, 3, stride=2)
        self.b = ReluConvBn(out_channels, out_channels, 3)
        shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), shortcut)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Apply to the last output of a stage."""
        return self.shortcut(x_NCHW) + self.b(self.a(x_NCHW))


class Frame201(nn.Module):
    """What every network of the space has around its cells: stem, stages, classifier."""

    def __init__(self, spec: Spec201, cell: Callable[[int], nn.Module]) -> None:
        """``cell(channels)`` makes one of the stacked cells."""
        super().__init__()
        self.spec = spec
        channels = spec.channels
        self.stem = nn.Sequential(
            nn.Conv2d(spec.input_shape[0], channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        layers: list[nn.Module] = []
        for stage in range(STAGES):
            channels = spec.stage_channels(stage)
            if stage:
                layers.append(ResidualBlock(channels // 2, channels))
            layers += [cell(channels) for _ in range(spec.cells_per_stage)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels, spec.num_classes)


class Network201(Frame201):
    """The network of a live cell at the size of ``spec``; ``forward`` returns logits."""

    def __init__(self, cell: Cell201, spec: Spec201) -> None:
        super().__init__(spec, lambda channels: CellModule(cell, channels))
        self.cell = cell

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.classifier(self.last(self.layers(self.stem(image_NCHW))).flatten(1))

    @torch.no_grad()
    def initialise(self, seed: int) -> Network201:
        """Set every parameter and buffer from ``seed`` alone; returns the network."""
        initialise(self, seed)
        return self
