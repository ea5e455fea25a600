"""The NAS-Bench-201 space at one network size: lowering, kernels, counts (no torch).

Network of the benchmark (arXiv 2001.00326): a 3x3 convolution with BatchNorm, three stages of N
equal cells with C, 2C and 4C channels, between them a residual block of stride 2, at the end
BatchNorm, ReLU, global average pool and linear layer. A convolution of a cell is ReLU-Conv-BN.
Deviation: operators that cannot change the output are not built. The benchmark builds, counts and
trains them, so that its parameters and FLOPs agree with ours on live cells only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from factory.core.errors import InputError
from factory.graph.fusion import NO_RULES, FusionRules
from factory.graph.kernel import Kernel
from factory.graph.opgraph import GraphBuilder, OpGraph
from factory.spaces.base import ChoiceMatrix, Choices, Entry, SearchSpace, Variable
from factory.spaces.nas_bench_201 import EDGES, NODES, OPS, OUTPUT, Cell201

if TYPE_CHECKING:
    from torch import nn

    from factory.spaces.mixing import SupernetOptions
    from factory.spaces.nas_bench_201_network import Network201

STAGES = 3
DEEP = 3  # cells per stage above which counts are extrapolated
VARIABLES = tuple(Variable(f"{node} from {source}", OPS) for node, source in EDGES)
MATRIX = ChoiceMatrix(
    "cell", EDGES, OPS, (len(OPS),) * len(EDGES), tuple(node for node, _ in EDGES),
    none=OPS.index("none"), skip=OPS.index("skip_connect"), skips_limited=True,
)  # fmt: skip


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


class NasBench201Space(SearchSpace[Cell201]):
    """All connected cells of NAS-Bench-201 in networks of one :class:`Spec201`."""

    KIND: ClassVar[str] = "nas_bench_201"
    ARCHITECTURE: ClassVar[type[Any]] = Cell201
    UNSUPPORTED: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "relaxation": {"factorised": "its networks have no form for other activations"},
        "schedule": {"progressive": "its stages have no form with fewer candidates"},
        "latency_cost": {"module": "it would be asked for cells that cannot be built"},
    }
    variables = VARIABLES
    matrices = (MATRIX,)

    def lower(self, architecture: Cell201) -> OpGraph:
        """The raw operator graph of the network, dead operators left out."""
        cell = self._checked(architecture)
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

    def network(self, architecture: Cell201, *, auxiliary: bool = False) -> Network201:
        """The torch network; the space has no auxiliary head."""
        from factory.spaces.nas_bench_201_network import Network201

        return Network201(self._checked(architecture), self.spec)

    def supernet(self, options: SupernetOptions) -> nn.Module:
        """All operators of all edges."""
        from factory.spaces.nas_bench_201_supernet import Supernet201

        return Supernet201(self.spec, options.partial_channels, options.seed)

    def kernels(
        self, architecture: Cell201, dtype: str | None = None, fusion: FusionRules = NO_RULES
    ) -> Counter[Kernel]:
        """Canonical kernels; their counts are linear in the cells of a stage from two on."""
        more = self.spec.cells_per_stage - DEEP
        if more <= 0:
            return super().kernels(architecture, dtype, fusion)
        two, three = (
            self._with_cells(n).kernels(architecture, dtype, fusion) for n in (DEEP - 1, DEEP)
        )
        return Counter({kernel: n + more * (n - two[kernel]) for kernel, n in three.items()})

    def peak_memory_mb(self, architecture: Cell201) -> float:
        """Peak activation memory: the largest maps are those of the first stage's first cells."""
        shallow = self._with_cells(min(2, self.spec.cells_per_stage))
        return shallow.counts(architecture).peak_memory_mb

    def _with_cells(self, cells_per_stage: int) -> NasBench201Space:
        return NasBench201Space(replace(self.spec, cells_per_stage=cells_per_stage))

    def entries(self, block: int, choices: Choices) -> tuple[Entry, ...]:
        """The operator of an edge."""
        return ((MATRIX.name, block, choices[0]),)

    def decode(self, values: Mapping[str, Any]) -> Cell201:
        """The cell of its operators."""
        return Cell201(tuple(values.values()))

    def encode(self, architecture: Cell201) -> Mapping[str, Any]:
        """The operator of every edge."""
        return {v.name: op for v, op in zip(VARIABLES, architecture.ops, strict=True)}

    def buildable(self, architecture: Cell201) -> bool:
        """Whether the output depends on the picture."""
        return architecture.connected

    def canonical(self, architecture: Cell201) -> Cell201:
        """One cell for all that are the same network."""
        return architecture.canonical()

    def live(self, architecture: Cell201) -> Cell201:
        """The cell without dead operators."""
        return architecture.live()

    def _checked(self, cell: Cell201) -> Cell201:
        if not cell.connected:
            raise InputError(
                f"the cell {cell} cannot be built",
                why="no operator leads from its input to its output",
                fix="choose a cell with a path from node 0 to node 3 without 'none'",
            )
        return cell.live()
