"""The mobile space: whole networks of universal inverted bottlenecks (arXiv 2404.10518).

A network has a stem, stages of blocks and a head. Each stage chooses its size (depth and width
together, as in CompOFA, OpenReview IgIk8RRT-Z, or every pair of them) and the form of its blocks:
depthwise kernels before and after the expansion, and the expansion. The blocks are those of
factory/spaces/mobile_blocks.py. The relaxed network is in factory/spaces/mobile_supernet.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from factory.graph.opgraph import OpGraph
from factory.spaces.base import Assignment, SearchSpace, Variable
from factory.spaces.config import SPACES, Shape, SpaceSettings
from factory.spaces.mobile_blocks import (
    Block,
    Bottleneck,
    Conv,
    Head,
    MobileNetwork,
    Squeeze,
    lower,
    rounded,
)

if TYPE_CHECKING:
    from torch import nn

    from factory.spaces.mixing import SupernetOptions
    from factory.spaces.mobile_network import TorchMobileNetwork

SQUEEZE_RATIO = 4  # hidden width over the width of its squeeze


@dataclass(frozen=True, order=True)
class Form:
    """Form of a universal inverted bottleneck: depthwise kernels (0: none) and expansion."""

    start: int
    middle: int
    expansion: int

    def __str__(self) -> str:
        return f"{self.start}-{self.middle}-e{self.expansion}"


@dataclass(frozen=True, order=True)
class Size:
    """Blocks of a stage, and their width."""

    depth: int
    width: int

    def __str__(self) -> str:
        return f"{self.depth}x{self.width}"


@dataclass(frozen=True)
class Stage:
    """What a stage may be.

    Attributes:
        sizes: depth and width.
        forms: of its blocks. The first block of a stage of stride 2 needs a middle kernel.
        stride: of the first block.
        alike: all blocks of the stage have one form.
    """

    sizes: tuple[Size, ...]
    forms: tuple[Form, ...]
    stride: int = 2
    alike: bool = False

    def __post_init__(self) -> None:
        first = self.forms_of(0)
        if not self.sizes or not first:
            raise ValueError("a stage needs a size, and a form that its first block can have")

    @property
    def depth(self) -> int:
        """The largest number of blocks."""
        return max(size.depth for size in self.sizes)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths that occur."""
        return tuple(sorted({size.width for size in self.sizes}))

    def forms_of(self, block: int) -> tuple[Form, ...]:
        """Forms of one block; with stride 2 those whose middle convolution can take the stride."""
        if self.stride == 1 or (block and not self.alike):
            return self.forms
        return tuple(form for form in self.forms if form.middle)


@dataclass(frozen=True)
class MobileSpec:
    """One mobile space: everything that is fixed, and what each stage may be.

    Attributes:
        input_shape: (channels, height, width) of a picture.
        num_classes: outputs of the classifier.
        stem: blocks before the stages; the last one's width is that of the first stage's input.
        stages: in order.
        head: what follows.
        activation: of the bottlenecks.
        squeeze: whether they squeeze and excite.
    """

    input_shape: Shape
    num_classes: int
    stem: tuple[Block, ...]
    stages: tuple[Stage, ...]
    head: Head
    activation: str = "relu"
    squeeze: bool = False


class MobileSpace(SearchSpace[Assignment]):
    """All networks of one :class:`MobileSpec`."""

    KIND: ClassVar[str] = "mobile"
    spec: MobileSpec

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """A size for each stage, then a form for each block (or stage, where they are alike)."""
        found = []
        for i, stage in enumerate(self.spec.stages):
            found.append(Variable(size_name(i), tuple(map(str, stage.sizes))))
            for j in range(1 if stage.alike else stage.depth):
                found.append(Variable(form_name(i, j), tuple(map(str, stage.forms_of(j)))))
        return tuple(found)

    @property
    def interactions(self) -> tuple[tuple[str, ...], ...]:
        """A block depends on its form, its stage's size, and the first one on the width before."""
        groups = []
        for i, stage in enumerate(self.spec.stages):
            before = (size_name(i - 1),) if i and len(self.spec.stages[i - 1].widths) > 1 else ()
            groups += [
                (*(before if j == 0 else ()), size_name(i), form_name(i, j))
                for j in range(1 if stage.alike else stage.depth)
            ]
        return tuple(groups)

    def live(self, architecture: Assignment) -> Assignment:
        """Forms of blocks that the depth leaves out have their first value."""
        values = dict(architecture.values)
        for i, stage in enumerate(self.spec.stages):
            for j in range(self._size(architecture, i).depth, 0 if stage.alike else stage.depth):
                values[form_name(i, j)] = str(stage.forms_of(j)[0])
        return Assignment(architecture.space, tuple(values.items()))

    canonical = live

    def forms(self, architecture: Assignment) -> list[list[Form]]:
        """The forms of the blocks that there are, stage by stage."""
        return [
            [self._form(architecture, i, j) for j in range(self._size(architecture, i).depth)]
            for i in range(len(self.spec.stages))
        ]

    def mobile_network(self, architecture: Assignment) -> MobileNetwork:
        """The network in the vocabulary of blocks."""
        spec, blocks = self.spec, list(self.spec.stem)
        for i, (stage, forms) in enumerate(zip(spec.stages, self.forms(architecture), strict=True)):
            channels = self._size(architecture, i).width
            for j, form in enumerate(forms):
                stride = stage.stride if j == 0 else 1
                blocks.append(bottleneck(spec, blocks[-1].channels, channels, form, stride))
        return MobileNetwork(self.KIND, tuple(blocks), spec.head)

    def lower(self, architecture: Assignment) -> OpGraph:
        """The raw operator graph in inference mode."""
        return lower(
            self.mobile_network(architecture), self.spec.input_shape, self.spec.num_classes
        )

    def network(self, architecture: Assignment, *, auxiliary: bool = False) -> TorchMobileNetwork:
        """The torch network; the space has no auxiliary head."""
        from factory.spaces.mobile_network import TorchMobileNetwork

        network, spec = self.mobile_network(architecture), self.spec
        return TorchMobileNetwork(network, spec.num_classes, spec.input_shape[0])

    def supernet(self, options: SupernetOptions) -> nn.Module:
        """The relaxed network."""
        from factory.spaces.mixing import VariableSupernet
        from factory.spaces.mobile_supernet import MobileSupernet

        return VariableSupernet(self, MobileSupernet(self, options.seed))

    def _size(self, architecture: Assignment, stage: int) -> Size:
        sizes = {str(size): size for size in self.spec.stages[stage].sizes}
        return sizes[architecture[size_name(stage)]]

    def _form(self, architecture: Assignment, stage: int, block: int) -> Form:
        own = self.spec.stages[stage]
        block = 0 if own.alike else block
        forms = {str(form): form for form in own.forms_of(block)}
        return forms[architecture[form_name(stage, block)]]


def size_name(stage: int) -> str:
    """Name of the variable of a stage's size."""
    return f"stage{stage}.size"


def form_name(stage: int, block: int) -> str:
    """Name of the variable of a block's form."""
    return f"stage{stage}.block{block}"


def bottleneck(spec: MobileSpec, width_in: int, width: int, form: Form, stride: int) -> Bottleneck:
    """The block of a form between two widths."""
    hidden = rounded(width_in * form.expansion)
    squeeze = Squeeze(rounded(hidden / SQUEEZE_RATIO)) if spec.squeeze else None
    return Bottleneck(width, hidden, form.start, form.middle, stride, spec.activation, squeeze)


# ---- presets


def _forms(
    starts: Sequence[int], middles: Sequence[int], expansions: Sequence[int]
) -> tuple[Form, ...]:
    return tuple(itertools.starmap(Form, itertools.product(starts, middles, expansions)))


def _tiny(settings: MobileSettings, shape: Shape, classes: int) -> MobileSpec:
    """For small pictures and short trainings: sizes coupled, one form a stage."""

    def width(channels: float) -> int:
        return rounded(channels * settings.width_multiplier)

    forms = _forms((0, 3), (3, 5), (2, 4))
    stages = tuple(
        Stage(
            tuple(Size(depth, width(channels)) for depth, channels in sizes),
            forms,
            stride,
            alike=True,
        )
        for sizes, stride in (
            (((1, 16), (2, 24)), 1),
            (((1, 24), (2, 32), (3, 40)), 2),
            (((1, 48), (2, 64), (3, 80)), 2),
            (((1, 80), (2, 96), (3, 128)), 2),
        )
    )
    stem = (Conv(width(16), 3, settings.stem_stride or 1, settings.activation),)
    head = Head(width(256), settings.activation)
    return MobileSpec(shape, classes, stem, stages, head, settings.activation, settings.squeeze)


def _v4(settings: MobileSettings, shape: Shape, classes: int) -> MobileSpec:
    """Around MobileNetV4-Conv-S: its stem and head, every form of its search in every block."""

    def width(channels: float) -> int:
        return rounded(channels * settings.width_multiplier)

    forms = _forms((0, 3, 5), (0, 3, 5), (2, 3, 4, 6))
    stages = tuple(
        Stage(tuple(Size(depth, width(channels)) for depth in depths), forms, 2)
        for depths, channels in (((2, 4, 6), 96), ((2, 4, 6), 128))
    )
    act = settings.activation
    stem = (
        Conv(width(32), 3, settings.stem_stride or 2, act),
        Conv(width(32), 3, 2, act),
        Conv(width(32), 1, 1, act),
        Conv(width(96), 3, 2, act),
        Conv(width(64), 1, 1, act),
    )
    head = Head(width(960), act, hidden=1280, hidden_conv=True)
    return MobileSpec(shape, classes, stem, stages, head, act, settings.squeeze)


PRESETS = {"tiny": _tiny, "v4": _v4}


class MobileSettings(SpaceSettings):
    """`[space]` of a recipe with kind = "mobile"."""

    kind: Literal["mobile"] = Field(
        "mobile", description="whole networks of universal inverted bottlenecks"
    )
    preset: Literal["tiny", "v4"] = Field(
        "tiny",
        description="tiny: for pictures of 32 to 96 pixels and short trainings; v4: around "
        "MobileNetV4-Conv-S, for 224 pixels",
    )
    width_multiplier: float = Field(1.0, ge=0.25, le=4, description="scales all widths")
    stem_stride: Literal[1, 2] | None = Field(
        None, description="of the first convolution; by default 1 (tiny) or 2 (v4)"
    )
    activation: Literal["relu", "relu6", "hardswish", "silu"] = Field(
        "relu", description="of all blocks"
    )
    squeeze: bool = Field(False, description="squeeze and excitation in every block")

    def space(self, input_shape: Shape, num_classes: int) -> SearchSpace[Any]:
        """The space of this preset for images of ``input_shape`` (C, H, W)."""
        return MobileSpace(PRESETS[self.preset](self, input_shape, num_classes))


SPACES.add(MobileSpace.KIND, (MobileSpace, MobileSettings))
