"""The NAS-Bench-201 space at one network size: lowering, kernels, counts (no torch).

Network of the benchmark (arXiv 2001.00326): a 3x3 convolution with BatchNorm, three stages of N
equal cells with C, 2C and 4C channels, between them a residual block of stride 2, at the end
BatchNorm, ReLU, global average pool and linear layer. A convolution of a cell is ReLU-Conv-BN.
Deviation: operators that cannot change the output are not built. The benchmark builds, counts and
trains them, so that its parameters and FLOPs agree with ours on live cells only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from factory.core.errors import InputError
from factory.core.reading import read_json
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.counts import Counts, count
from factory.graph.fusion import NO_RULES, FusionRules
from factory.graph.kernel import Kernel
from factory.graph.opgraph import GraphBuilder, OpGraph
from factory.latency.presence import PresenceMatrix
from factory.spaces.nas_bench_201 import EDGES, NODES, OPS, OUTPUT, Cell201, one_hot

if TYPE_CHECKING:
    from factory.spaces.nas_bench_201_network import Network201

STAGES = 3


@dataclass(frozen=True)
class Spec201:
    """Size of the networks; checked when it is made.

    Args:
        channels: channels C of the first stage (the benchmark: 16).
        cells_per_stage: cells N of each of the three stages (the benchmark: 5).
        input_shape: (channels, height, width) of one image; height and width multiples of 4.
        num_classes: outputs of the classifier.
    """

    channels: int
    cells_per_stage: int
    input_shape: tuple[int, int, int]
    num_classes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        where = "the network's size"
        for name in ("channels", "cells_per_stage", "num_classes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} is less than 1", where=where)
        shape = self.input_shape
        if len(shape) != 3 or min(shape) < 1 or shape[1] % 4 or shape[2] % 4:
            raise InputError(
                f"input {'x'.join(map(str, shape))} does not fit NAS-Bench-201",
                where=where,
                why="two residual blocks halve the map",
                fix="use images whose height and width are multiples of 4, for example 3x32x32",
            )

    def stage_channels(self, stage: int) -> int:
        """Channels of the cells of stage 0, 1 or 2."""
        return self.channels * 2**stage


def emit_cell(b: GraphBuilder, cell: Cell201, x: str, channels: int, name: str) -> str:
    """One live cell: every node adds its operators, in the order of the sources."""
    states: dict[int, str | None] = {0: x}
    for node in NODES:
        total: str | None = None
        for source in range(node):
            state, op = states[source], cell.op(node, source)
            if state is None or op == "none":
                continue
            if op == "avg_pool_3x3":
                state = b.avg_pool(state, 3, 1, 1)
            elif op != "skip_connect":
                kernel = 3 if op == "nor_conv_3x3" else 1
                weight_id = f"{name}.{node}.{source}"
                padding = kernel // 2
                state = b.conv(
                    b.relu(state), channels, kernel, padding=padding, weight_id=weight_id
                )
            total = state if total is None else b.add(total, state)
        states[node] = total
    output = states[OUTPUT]
    assert output is not None, "not a connected cell"
    return output


def emit_residual(b: GraphBuilder, x: str, channels: int, name: str) -> str:
    """The block between two stages: half the map, ``channels`` channels."""
    y = b.conv(b.relu(x), channels, 3, stride=2, padding=1, weight_id=f"{name}.a")
    y = b.conv(b.relu(y), channels, 3, padding=1, weight_id=f"{name}.b")
    short = b.conv(b.avg_pool(x, 2, 2), channels, 1, bn=False, weight_id=f"{name}.shortcut")
    return b.add(short, y)


class NasBench201Space:
    """All connected cells of NAS-Bench-201 in networks of one :class:`Spec201`."""

    KIND: ClassVar[str] = "nas_bench_201"
    OPS: tuple[str, ...] = OPS
    EDGES: tuple[tuple[int, int], ...] = EDGES
    CELL_TYPES: tuple[str, ...] = ("cell",)

    def __init__(self, spec: Spec201) -> None:
        self.spec = spec

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Five operators on each of the six edges."""
        return (len(OPS),) * len(EDGES)

    def lower(self, architecture: Cell201) -> OpGraph:
        """The raw operator graph of the network, dead operators left out."""
        cell = self._live(architecture)
        spec, b = self.spec, GraphBuilder()
        image = b.input("image", (1, *spec.input_shape))
        x = b.conv(image, spec.channels, 3, padding=1, weight_id="stem")
        for stage in range(STAGES):
            channels = spec.stage_channels(stage)
            if stage:
                x = emit_residual(b, x, channels, f"blocks.{stage}")
            for index in range(spec.cells_per_stage):
                x = emit_cell(b, cell, x, channels, f"stages.{stage}.{index}")
        x = b.relu(b.batch_norm(x))
        return b.finish([b.linear(b.global_avg_pool(x), spec.num_classes)])

    def kernels(
        self, architecture: Cell201, dtype: str | None = None, fusion: FusionRules = NO_RULES
    ) -> Counter[Kernel]:
        """Canonical kernels of the network and how often each runs."""
        return kernel_counts(canonicalise(self.lower(architecture)), dtype, fusion)

    def counts(self, architecture: Cell201) -> Counts:
        """Parameters, MACs and peak memory of the network."""
        return count(self.lower(architecture))

    def presence(
        self,
        dtype: str | None = None,
        activations: tuple[str, ...] = (),
        fusion: FusionRules = NO_RULES,
    ) -> PresenceMatrix:
        """Expected count of every canonical kernel as a polynomial in q["cell"] [6, 5].

        All activations are ReLUs.
        """
        from factory.spaces.nas_bench_201_presence import presence

        return presence(self.spec, dtype, fusion)

    def all_kernels(
        self, dtype: str | None = None, activations: tuple[str, ...] = ()
    ) -> list[Kernel]:
        """Every canonical kernel that some network of the space runs."""
        return list(self.presence(dtype).kernels)

    def one_hot_many(self, architectures: Sequence[Cell201]) -> dict[str, np.ndarray]:
        """The choice q of each cell: {"cell": [B, 6, 5]}."""
        return {"cell": one_hot(architectures)}

    def random(self, rng: np.random.Generator) -> Cell201:
        """A uniform connected cell."""
        while True:  # 98 % are connected
            cell = Cell201.from_choices(rng.integers(len(OPS), size=len(EDGES)).tolist())
            if cell.connected:
                return cell

    def neighbours(self, architecture: Cell201) -> list[Cell201]:
        """All connected cells that differ in one operator, in a fixed order."""
        ops = architecture.ops
        changed = (
            Cell201((*ops[:i], op, *ops[i + 1 :]))
            for i in range(len(EDGES))
            for op in OPS
            if op != ops[i]
        )
        return [cell for cell in changed if cell.connected]

    def choices(self, architecture: Cell201) -> tuple[int, ...]:
        """Position in OPS of the operator of each edge."""
        return architecture.choices

    def from_choices(self, choices: Sequence[int]) -> Cell201:
        """The cell of six positions in OPS."""
        return Cell201.from_choices(choices)

    def buildable(self, architecture: Cell201) -> bool:
        """Whether the output depends on the picture."""
        return architecture.connected

    def canonical(self, architecture: Cell201) -> Cell201:
        """One cell for all that are the same network."""
        return architecture.canonical()

    def features(self, architectures: Sequence[Cell201]) -> np.ndarray:
        """One-hot operators of the canonical cell and how often each occurs, [B, 35]."""
        hot_BEO = one_hot([cell.canonical() for cell in architectures])
        return np.concatenate([hot_BEO.reshape(len(hot_BEO), -1), hot_BEO.sum(axis=1)], axis=1)

    def to_dict(self, architecture: Cell201) -> dict[str, Any]:
        """JSON form of a cell."""
        return architecture.to_dict()

    def load(self, path: Path | str) -> Cell201:
        """Read a cell's JSON file."""
        return Cell201.from_dict(read_json(path, "cell file"), where=str(path))

    def network(self, architecture: Cell201, *, auxiliary: bool = False) -> Network201:
        """The torch network; the space has no auxiliary head."""
        from factory.spaces.nas_bench_201_network import Network201

        return Network201(self._live(architecture), self.spec)

    def _live(self, cell: Cell201) -> Cell201:
        if not cell.connected:
            raise InputError(
                f"the cell {cell} cannot be built",
                why="no operator leads from its input to its output",
                fix="choose a cell with a path from node 0 to node 3 without 'none'",
            )
        return cell.live()
