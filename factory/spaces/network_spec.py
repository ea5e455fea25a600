"""What surrounds the cells: stem, number and width of the cells, input and classes; and the plan.

The plan is the list of cells with the shapes they work at. Lowering, expected counts and the
trainable network all follow it, so that they cannot disagree. Layout of DARTS (arXiv 1806.09055):
reduction cells at layers // 3 and 2 * layers // 3, which double the channels and halve the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from factory.core.errors import InputError, unknown_name

STEMS: tuple[str, ...] = ("cifar", "imagenet")
NODES_PER_CELL = 4
Size = tuple[int, int]


def halve(size: Size) -> Size:
    """The map size after a stride of 2 with "same" padding: rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


@dataclass(frozen=True)
class CellPlan:
    """One cell of the network and the shapes around it.

    Args:
        index: position in the network, from 0.
        reduction: halves the map (stride 2 on edges from sources 0 and 1).
        reduction_prev: input 0 is twice as large as input 1 and is reduced by the preprocessing.
        channels: channels C of every node; the output has 4C.
        in_channels: channels of inputs 0 and 1 before preprocessing.
        in_sizes: map sizes of inputs 0 and 1 before preprocessing.
    """

    index: int
    reduction: bool
    reduction_prev: bool
    channels: int
    in_channels: tuple[int, int]
    in_sizes: tuple[Size, Size]

    @property
    def cell_type(self) -> str:
        """The genotype's half that this cell is built from: "normal" or "reduce"."""
        return "reduce" if self.reduction else "normal"

    @property
    def source_size(self) -> Size:
        """Map size of sources 0 and 1 after preprocessing."""
        return self.in_sizes[1]

    @property
    def node_size(self) -> Size:
        """Map size of the four nodes and of the output."""
        return halve(self.source_size) if self.reduction else self.source_size

    @property
    def out_channels(self) -> int:
        """Channels of the cell's output."""
        return NODES_PER_CELL * self.channels

    def stride(self, source: int) -> int:
        """Stride of an edge that reads ``source``."""
        return 2 if self.reduction and source < 2 else 1


@dataclass(frozen=True)
class NetworkSpec:
    """A network of the cell space without its genotype; checked when it is made.

    Args:
        channels: channels C of the first cells' nodes; even.
        layers: number of cells.
        stem: "cifar" (one 3x3 convolution) or "imagenet" (three of stride 2).
        input_shape: (channels, height, width) of one image.
        num_classes: outputs of the classifier.
        stem_multiplier: the CIFAR stem has stem_multiplier * channels outputs.
    """

    channels: int
    layers: int
    stem: str
    input_shape: tuple[int, int, int]
    num_classes: int
    stem_multiplier: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        where = "the network's size"
        if self.stem not in STEMS:
            raise unknown_name("stem", self.stem, STEMS, where)
        if self.channels < 2 or self.channels % 2:
            raise InputError(
                f"channels = {self.channels} is not a positive even number",
                where=where,
                why="the factorised reduction halves them",
            )
        for name in ("layers", "num_classes", "stem_multiplier"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} is less than 1", where=where)
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise InputError(
                f"input {'x'.join(map(str, self.input_shape))} is not CHANNELSxHEIGHTxWIDTH",
                where=where,
                fix="write for example 3x32x32",
            )
        if any(cell.reduction and min(cell.source_size) < 2 for cell in self.plan):
            raise InputError(
                f"an input of {'x'.join(map(str, self.input_shape))} is too small",
                where=where,
                why="the map has shrunk to one pixel before the last reduction cell",
                fix="use larger images" + ("" if self.stem == "cifar" else " or the cifar stem"),
            )

    @property
    def reductions(self) -> frozenset[int]:
        """Indices of the reduction cells."""
        return frozenset((self.layers // 3, 2 * self.layers // 3))

    @property
    def auxiliary_cell(self) -> int:
        """Index of the cell after which the auxiliary head sits during training."""
        return 2 * self.layers // 3

    @property
    def stem_channels(self) -> int:
        """Channels of the stem's last convolution."""
        return self.channels * (self.stem_multiplier if self.stem == "cifar" else 1)

    @cached_property
    def plan(self) -> tuple[CellPlan, ...]:
        """The cells with their shapes, first to last."""
        size: Size = (self.input_shape[1], self.input_shape[2])
        if self.stem == "imagenet":
            size_0 = halve(halve(size))
            sizes, reduction_prev = (size_0, halve(size_0)), True
        else:
            sizes, reduction_prev = (size, size), False
        in_channels = (self.stem_channels, self.stem_channels)
        channels = self.channels
        cells: list[CellPlan] = []
        for index in range(self.layers):
            reduction = index in self.reductions
            channels *= 2 if reduction else 1
            cell = CellPlan(index, reduction, reduction_prev, channels, in_channels, sizes)
            cells.append(cell)
            in_channels = (in_channels[1], cell.out_channels)
            sizes = (sizes[1], cell.node_size)
            reduction_prev = reduction
        return tuple(cells)
