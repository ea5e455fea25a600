"""Channel padding: hidden widths brought up to the multiple that a chip's kernels work in.

``Conv -> [elementwise, depthwise, pooling] -> Conv``: the values between share one width C. Zero
filters are added to every convolution that writes them, zero columns to every one that reads
them, until C is a multiple; the added channels meet zero weights only, so the outputs stay the
same. More multiply-adds for fuller vectors: worth it on some chips and widths, so the pass runs
only where it was measured to help (:mod:`factory.deployment.selection`).
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from factory.deployment.passes.base import add_initialiser, constant, static_shape

SAME_WIDTH = {
    "Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Gelu",
    "Softplus", "Mul", "Add", "Sub", "MaxPool", "AveragePool", "GlobalAveragePool",
    "GlobalMaxPool",
}  # fmt: skip
LARGEST_GROWTH = 1.5  # a width is not more than half as much again


def pad_channels_8(model: ir.Model) -> bool:
    """Hidden widths to multiples of 8."""
    return pad_channels(model, 8)


def pad_channels_16(model: ir.Model) -> bool:
    """Hidden widths to multiples of 16."""
    return pad_channels(model, 16)


def pad_channels(model: ir.Model, multiple: int) -> bool:
    """Pad every group of values between convolutions whose width is no multiple.

    Conditions for a group: (1) every writer is a Conv of one group or a depthwise one within the
    group; (2) every reader is a Conv of one group or keeps the width; (3) all weights are
    constant; (4) no value of it is an input or output of the graph.
    """
    changed = False
    for group in _groups(model):
        width = group.width
        target = -(-width // multiple) * multiple
        if target == width or target > LARGEST_GROWTH * width:
            continue
        group.pad(model, target)
        changed = True
    if changed:
        for node in model.graph:
            for value in node.outputs:
                value.shape = None  # inferred again by whoever asked for the pass
    return changed


class _Group:
    """Values of one width that must be padded together."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.writers: list[ir.Node] = []
        self.readers: list[ir.Node] = []
        self.depthwise: list[ir.Node] = []

    def pad(self, model: ir.Model, target: int) -> None:
        """Grow the weights of every convolution at the border and inside."""
        extra = target - self.width
        for node in [*self.writers, *self.depthwise]:
            _grow(model, node, 1, axis=0, extra=extra)
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                _grow(model, node, 2, axis=0, extra=extra)
        for node in self.depthwise:
            node.attributes["group"] = ir.AttrInt64("group", target)
        for node in self.readers:
            _grow(model, node, 1, axis=1, extra=extra)


def _grow(model: ir.Model, node: ir.Node, index: int, axis: int, extra: int) -> None:
    value = node.inputs[index]
    array = constant(value)
    assert array is not None
    assert value is not None
    widths = [(0, extra if a == axis else 0) for a in range(array.ndim)]
    grown = np.pad(array, widths)
    node.replace_input_with(index, add_initialiser(model, f"{value.name}_padded", grown))


def _groups(model: ir.Model) -> list[_Group]:
    """The groups that meet the conditions."""
    parent: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        parent.setdefault(value, value)
        while parent[value] is not value:
            parent[value] = parent[parent[value]]
            value = parent[value]
        return value

    bad: set[ir.Value] = set()
    for node in model.graph:
        values = [v for v in [*node.inputs, *node.outputs] if v is not None and _width(v)]
        if node.op_type in SAME_WIDTH and not node.domain:
            wide = [v for v in values if not _is_constant(v)]
            for value in values:
                if _is_constant(value) and (static_shape(value) or ()) not in ((), (1,)):
                    bad.update(wide)
            if len({_width(v) for v in wide}) > 1:  # a broadcast over channels
                bad.update(wide)
            for value in wide[1:]:
                parent[root(value)] = root(wide[0])
        elif _depthwise(node):
            assert node.inputs[0] is not None
            parent[root(node.outputs[0])] = root(node.inputs[0])
        elif not _dense_conv(node):
            bad.update(values)
    bad.update(model.graph.inputs)
    bad.update(model.graph.outputs)
    spoilt = {root(value) for value in bad}
    found: dict[ir.Value, _Group] = {}
    widths: dict[ir.Value, set[int]] = defaultdict(set)
    for node in model.graph:
        if _dense_conv(node) or _depthwise(node):
            source = node.inputs[0]
            assert source is not None
            for value, role in ((node.outputs[0], "writers"), (source, "readers")):
                key = root(value)
                group = found.setdefault(key, _Group(_width(value) or 0))
                widths[key].add(_width(value) or 0)
                if _depthwise(node):
                    if role == "writers":
                        group.depthwise.append(node)
                else:
                    getattr(group, role).append(node)
    return [
        group
        for key, group in found.items()
        if key not in spoilt and len(widths[key]) == 1 and group.width and group.writers
    ]


def _width(value: ir.Value) -> int | None:
    """Channels of an activation [N,C,H,W]; None for anything else."""
    shape = static_shape(value)
    return shape[1] if shape is not None and len(shape) == 4 else None


def _is_constant(value: ir.Value) -> bool:
    return constant(value) is not None


def _conv_weight(node: ir.Node) -> np.ndarray | None:
    if node.op_type != "Conv" or node.domain:
        return None
    weight = constant(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None or weight.ndim != 4 or (bias is not None and constant(bias) is None):
        return None
    return weight


def _groups_of(node: ir.Node) -> int:
    group = node.attributes.get("group")
    return 1 if group is None else int(group.as_int())


def _dense_conv(node: ir.Node) -> bool:
    return _conv_weight(node) is not None and _groups_of(node) == 1


def _depthwise(node: ir.Node) -> bool:
    weight = _conv_weight(node)
    if weight is None or weight.shape[1] != 1:
        return False
    return _groups_of(node) == weight.shape[0] == _width(node.inputs[0])  # type: ignore[arg-type]
