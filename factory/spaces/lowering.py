"""From a genotype to the operators of its evaluation network, as an operator graph (no torch).

The raw graph is that of DARTS' evaluation network (arXiv 1806.09055) in inference mode: no
auxiliary head, no drop path, BatchNorm folded into its convolution, every edge with a ReLU of its
own (the canonicaliser merges what a runtime shares). The factorised reduction has its BatchNorm
after the concatenation; per channel that is one BatchNorm on either half, which is how it is
written here. On maps of odd size the shifted half is padded by one row and column of zeros.
"""

from __future__ import annotations

from collections.abc import Callable

from factory.core.errors import unknown_name
from factory.graph.opgraph import GraphBuilder, OpGraph
from factory.spaces.activations import RELU, emit_activation
from factory.spaces.genotype import NODES, NONE, SELECTABLE_OPS, Genotype
from factory.spaces.network_spec import CellPlan, NetworkSpec, Size

_POOLS = ("max_pool_3x3", "avg_pool_3x3")
_DEPTHWISE: dict[str, tuple[int, int]] = {  # operator -> kernel size, dilation
    "sep_conv_3x3": (3, 1),
    "sep_conv_5x5": (5, 1),
    "dil_conv_3x3": (3, 2),
    "dil_conv_5x5": (5, 2),
}


CONVOLUTIONS = tuple(_DEPTHWISE)  # operators that end in a pointwise convolution


def leads_with_relu(op: str, stride: int) -> bool:
    """Whether the operator starts with a ReLU (or another activation) of its source."""
    return op in _DEPTHWISE or (op == "skip_connect" and stride == 2)


def emit_factorised_reduction(
    b: GraphBuilder, x: str, size: Size, out_channels: int, name: str
) -> str:
    """Halve the map of an activated ``x``: two 1x1 convolutions, one shifted by a pixel."""
    half = out_channels // 2
    left = b.conv(x, half, 1, stride=2, weight_id=f"{name}.left")
    shifted = b.slice_hw(x, 1)
    odd = (size[0] % 2, size[1] % 2)
    if any(odd):
        shifted = b.pad_hw(shifted, odd)
    right = b.conv(
        shifted, out_channels - out_channels // 2, 1, stride=2, weight_id=f"{name}.right"
    )
    return b.concat([left, right])


def emit_preprocess(b: GraphBuilder, x: str, cell: CellPlan, which: int) -> str:
    """Bring an activated cell input 0 or 1 to the cell's channels and map size."""
    name = f"cells.{cell.index}.preprocess{which}"
    if which == 0 and cell.reduction_prev:
        return emit_factorised_reduction(b, x, cell.in_sizes[0], cell.channels, name)
    return b.conv(x, cell.channels, 1, weight_id=name)


def emit_op(
    b: GraphBuilder,
    op: str,
    x: str,
    size: Size,
    channels: int,
    stride: int,
    name: str,
    activation: str = RELU,
) -> str:
    """One operator on ``x`` (already activated where the operator leads with a ReLU)."""
    if op in _POOLS:
        pool = b.max_pool if op == "max_pool_3x3" else b.avg_pool
        return pool(x, 3, stride, 1)
    if op == "skip_connect":
        return x if stride == 1 else emit_factorised_reduction(b, x, size, channels, name)
    if op not in _DEPTHWISE:
        raise unknown_name("operator", op, SELECTABLE_OPS)
    kernel, dilation = _DEPTHWISE[op]
    padding = dilation * (kernel - 1) // 2

    def block(x: str, stride: int, part: str) -> str:
        x = b.conv(
            x,
            channels,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=channels,
            bn=False,
            weight_id=f"{name}.{part}.depthwise",
        )
        return b.conv(x, channels, 1, weight_id=f"{name}.{part}.pointwise")

    x = block(x, stride, "first")
    return block(emit_activation(b, activation, x), 1, "second") if op.startswith("sep_") else x


def emit_stem(b: GraphBuilder, spec: NetworkSpec, image: str) -> tuple[str, str]:
    """The stem: inputs 0 and 1 of the first cell."""
    if spec.stem == "cifar":
        x = b.conv(image, spec.stem_channels, 3, padding=1, weight_id="stem")
        return x, x

    def halving(x: str, channels: int, name: str) -> str:
        return b.conv(x, channels, 3, stride=2, padding=1, weight_id=name)

    x = b.relu(halving(image, spec.stem_channels // 2, "stem0.first"))
    s0 = halving(x, spec.stem_channels, "stem0.second")
    return s0, halving(b.relu(s0), spec.stem_channels, "stem1")


def emit_classifier(b: GraphBuilder, spec: NetworkSpec, x: str) -> str:
    """Global average pool and linear layer."""
    return b.linear(b.global_avg_pool(x), spec.num_classes)


def emit_cell(b: GraphBuilder, cell: CellPlan, genotype: Genotype, s0: str, s1: str) -> str:
    """One cell: preprocessing, four nodes of two operators each, concatenation."""
    states = [emit_preprocess(b, b.relu(x), cell, which) for which, x in enumerate((s0, s1))]
    pairs, activations = genotype.cell(cell.cell_type), genotype.activations(cell.cell_type)
    for position, node in enumerate(NODES):
        parts = []
        for slot in range(2):
            op, source = pairs[2 * position + slot]
            if op == NONE:
                continue
            activation = activations[2 * position + slot]
            stride = cell.stride(source)
            x = states[source]
            if leads_with_relu(op, stride):
                x = emit_activation(b, activation, x)
            size = cell.source_size if source < 2 else cell.node_size
            name = f"cells.{cell.index}.nodes.{node}.{slot}"
            parts.append(emit_op(b, op, x, size, cell.channels, stride, name, activation))
        states.append(b.add(*parts) if len(parts) == 2 else parts[0])
    return b.concat(states[2:])


def lower(spec: NetworkSpec, genotype: Genotype) -> OpGraph:
    """The raw operator graph of the derived network."""
    b = GraphBuilder()
    s0, s1 = emit_stem(b, spec, b.input("image", (1, *spec.input_shape)))
    for cell in spec.plan:
        s0, s1 = s1, emit_cell(b, cell, genotype, s0, s1)
    return b.finish([emit_classifier(b, spec, s1)])


def build(emit: Callable[..., list[str]], *shapes: tuple[int, ...]) -> OpGraph:
    """A small graph: ``emit(builder, *inputs)`` returns the outputs; one input a shape."""
    b = GraphBuilder()
    inputs = [b.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    return b.finish(emit(b, *inputs))
