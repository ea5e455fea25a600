"""The evaluation network of a genotype as a torch module, trainable and exportable.

DARTS (arXiv 1806.09055): stem, cells, global average pool, linear classifier; during training an
auxiliary head after cell 2 * layers // 3 and drop path (FractalNet, arXiv 1605.07648), a whole
operator's output dropped per sample, on every operator but the identity. The operator graph of
lowering.py and this module describe the same network; tests export one and compare it with the
other. Works in either memory format.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.core.errors import InputError
from factory.spaces.genotype import NODES, Genotype
from factory.spaces.network_spec import CellPlan, NetworkSpec, Size
from factory.spaces.operators import FactorizedReduce, ReluConvBn, Zero, build_op
from factory.spaces.torch_initialise import initialise

Output = Tensor | tuple[Tensor, Tensor]


def drop_path(x_NCHW: Tensor, probability: float) -> Tensor:
    """Zero whole samples with ``probability`` and rescale the others."""
    keep = 1.0 - probability
    mask = x_NCHW.new_empty((x_NCHW.shape[0], 1, 1, 1)).bernoulli_(keep)
    return x_NCHW * (mask / keep)


def _conv_bn(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class Stem(nn.Module):
    """From the image to inputs 0 and 1 of the first cell."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        image_channels, channels = spec.input_shape[0], spec.stem_channels
        self.second: nn.Module | None = None
        if spec.stem == "cifar":
            self.first = nn.Sequential(*_conv_bn(image_channels, channels, 1))
        else:
            half = channels // 2
            self.first = nn.Sequential(
                *_conv_bn(image_channels, half, 2), nn.ReLU(), *_conv_bn(half, channels, 2)
            )
            self.second = nn.Sequential(nn.ReLU(), *_conv_bn(channels, channels, 2))

    def forward(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Apply to a batch of images."""
        s0 = self.first(image_NCHW)
        return s0, s0 if self.second is None else self.second(s0)


class Cell(nn.Module):
    """Four nodes, each the sum of two operators on earlier states; output: the nodes joined."""

    def __init__(self, plan: CellPlan, genotype: Genotype) -> None:
        super().__init__()
        pairs = genotype.cell(plan.cell_type)
        in_0, in_1 = plan.in_channels
        preprocess = FactorizedReduce if plan.reduction_prev else ReluConvBn
        self.preprocess0 = preprocess(in_0, plan.channels)
        self.preprocess1 = ReluConvBn(in_1, plan.channels)
        self.sources = tuple(source for _, source in pairs)
        self.operators = nn.ModuleList(
            build_op(op, plan.channels, plan.stride(source), activation=activation)
            for (op, source), activation in zip(
                pairs, genotype.activations(plan.cell_type), strict=True
            )
        )

    def forward(self, s0_NCHW: Tensor, s1_NCHW: Tensor, drop_path_prob: float = 0.0) -> Tensor:
        """Apply to the two previous outputs."""
        states = [self.preprocess0(s0_NCHW), self.preprocess1(s1_NCHW)]
        for first in range(0, 2 * len(NODES), 2):
            edges = [i for i in (first, first + 1) if not isinstance(self.operators[i], Zero)]
            parts = [self._edge(i, states, drop_path_prob) for i in edges]
            states.append(parts[0] + parts[1] if len(parts) == 2 else parts[0])
        return torch.cat(states[2:], dim=1)

    def _edge(self, index: int, states: list[Tensor], drop_path_prob: float) -> Tensor:
        operator = self.operators[index]
        x = operator(states[self.sources[index]])
        if self.training and drop_path_prob > 0 and not isinstance(operator, nn.Identity):
            x = drop_path(x, drop_path_prob)
        return x


class AuxiliaryHead(nn.Module):
    """A second classifier on an inner map, for training only.

    On 8x8 and 7x7 maps its pool is that of the DARTS heads (5x5, stride 3 or 2: a 2x2 map);
    on other sizes it averages adaptively to 2x2.
    """

    def __init__(self, channels: int, size: Size, num_classes: int) -> None:
        super().__init__()
        if size in ((7, 7), (8, 8)):
            self.pool: nn.Module = nn.AvgPool2d(5, stride=size[0] - 5)
        else:
            self.pool = nn.AdaptiveAvgPool2d(2)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits of an inner map."""
        return self.classifier(self.features(self.pool(F.relu(x_NCHW))).flatten(1))


class CellNetwork(nn.Module):
    """The network of ``genotype`` at the size of ``spec``.

    ``forward`` returns logits, and in training with ``auxiliary`` the pair (logits, auxiliary
    logits). ``drop_path_prob`` may be changed at any time, for example by epoch.
    """

    def __init__(
        self,
        genotype: Genotype,
        spec: NetworkSpec,
        auxiliary: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.genotype, self.spec = genotype, spec
        self.drop_path_prob = drop_path
        self.stem = Stem(spec)
        self.cells = nn.ModuleList(Cell(plan, genotype) for plan in spec.plan)
        self.auxiliary: AuxiliaryHead | None = None
        if auxiliary:
            plan = spec.plan[spec.auxiliary_cell]
            self.auxiliary = AuxiliaryHead(plan.out_channels, plan.node_size, spec.num_classes)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(spec.plan[-1].out_channels, spec.num_classes)

    @property
    def drop_path_prob(self) -> float:
        """Probability that an operator's output is dropped in training, per sample."""
        return self._drop_path_prob

    @drop_path_prob.setter
    def drop_path_prob(self, value: float) -> None:
        if not 0.0 <= value < 1.0:
            raise InputError(
                f"drop path probability {value} is not in [0, 1)",
                fix="choose for example 0.2",
            )
        self._drop_path_prob = float(value)

    def forward(self, image_NCHW: Tensor) -> Output:
        """Logits of a batch of images (and auxiliary logits in training)."""
        s0, s1 = self.stem(image_NCHW)
        auxiliary_logits: Tensor | None = None
        for index, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, self._drop_path_prob)
            if self.training and self.auxiliary is not None and index == self.spec.auxiliary_cell:
                auxiliary_logits = self.auxiliary(s1)
        logits = self.classifier(self.pool(s1).flatten(1))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)

    @torch.no_grad()
    def initialise(self, seed: int) -> CellNetwork:
        """Set every parameter and buffer from ``seed`` alone; returns the network."""
        initialise(self, seed)
        return self
