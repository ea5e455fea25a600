"""One emitter an operator: from a :class:`Node` to ONNX nodes, with the attributes decoded.

To add an operator, write a function under ``@EMITTERS.register(name)``; an operator without one is
written from its attributes by the ONNX schema, which covers whatever has no weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import defs

from factory.core.registry import Registry
from factory.graph.onnx_writer import (
    OPSET,
    POSITIVE,
    SIGNED,
    Quantisation,
    Writer,
)
from factory.graph.opgraph import Node
from factory.graph.shapes import Shape, elements, pads_values, spatial_values

# (writer, node, names to read, name to write) -> range of the result where quantised
Emitter = Callable[[Writer, Node, list[str], str], Quantisation]
EMITTERS: Registry[Emitter] = Registry("operator to write")

PRODUCT_SCALE = 1e-9  # of the mean product of two activations
_FUSED = {"relu": "Relu", "hswish": "HardSwish", "sigmoid": "Sigmoid", "tanh": "Tanh"}
_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu")
_KEEPS_RANGE = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Slice", "Pad", "Reshape"}
    | {"Transpose", "Flatten", "Identity", "Split", "Gather", "Resize", "Squeeze", "Unsqueeze"}
    | {"Expand", "Tile", "DepthToSpace", "SpaceToDepth"}
)


def emit(writer: Writer, node: Node, *, whole: bool = False, ranged: bool = False) -> bool:
    """Write ``node``; with ``whole`` a quantised result stays uint8 (single-kernel models).

    ``ranged``: where the range of its quantised result can stand for a ReLU behind it, let it; the
    answer is whether it does. That is so where a sum or a Concat of something signed would be
    negative at times.
    """
    inputs = [
        writer.read(name, shape) for name, shape in zip(node.inputs, node.in_shapes, strict=True)
    ]
    emitter = EMITTERS.get(node.op) if node.op in EMITTERS else _generic
    range_ = emitter(writer, node, inputs, writer.result(node.output))
    if node.op in _KEEPS_RANGE:
        range_ = writer.ranges.get(node.inputs[0], SIGNED)
    ranged = ranged and any(writer.ranges.get(name, SIGNED)[1] > 0 for name in node.inputs)
    range_ = POSITIVE if ranged else range_
    writer.finish(node.output, node.out_shape, range_, whole=whole)
    for name, shape in node.more_outputs:
        writer.finish(name, shape, range_, whole=whole)
    return ranged


def _activate(writer: Writer, act: str, x: str, out: str) -> Quantisation:
    if act.startswith("clip"):
        low, high = clip_limits(act)
        writer.node("Clip", [x, *_limits(writer, low, high)], [out])
        return _clip_range(low, high)
    x = x if act == "relu" else writer.between(x)
    if act == "hsigmoid":
        writer.node("HardSigmoid", [x], [out], alpha=1 / 6, beta=0.5)
        return (1 / 255, 0)
    if act not in _FUSED:
        raise ValueError(f"unknown activation {act!r}")
    writer.node(_FUSED[act], [x], [out])
    return POSITIVE if act == "relu" else (1 / 255, 0) if act == "sigmoid" else SIGNED


def clip_limits(act: str) -> tuple[float, float]:
    """'clip6' -> (0, 6); 'clip-1_1' -> (-1, 1)."""
    first, _, second = act.removeprefix("clip").partition("_")
    return (float(first), float(second)) if second else (0.0, float(first))


def _limits(writer: Writer, low: float | None, high: float | None) -> list[str]:
    return [
        "" if value is None else writer.constant(np.asarray(value, np.float32))
        for value in (low, high)
    ]


def _clip_range(low: float | None, high: float | None) -> Quantisation:
    if low is None or high is None or not low <= 0 < high:
        return SIGNED
    scale = (high - low) / 255
    return scale, round(-low / scale)


def _axes(shape: Shape) -> int:
    return len(shape) - 2


@EMITTERS.register("Conv")
def _conv(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    assert node.weight is not None
    axes = _axes(node.in_shapes[0])
    name = node.weight_id or f"{node.output}.weight"
    weight, scale = writer.weight(name, node.weight, elements(node.weight[1:]))
    x_scale = np.float32(writer.ranges.get(node.inputs[0], SIGNED)[0])
    bias = writer.bias(f"{name}.bias", node.weight[0], scale * x_scale)
    act = node.attr("act", "none")
    raw = out if act == "none" else f"{out}_linear"
    writer.node(
        "Conv",
        [inputs[0], weight, bias],
        [raw],
        kernel_shape=list(node.weight[2:]),
        strides=list(spatial_values(node.attr("s"), axes)),
        pads=list(pads_values(node.attr("p"), axes)),
        dilations=list(spatial_values(node.attr("d"), axes)),
        group=int(node.attr("g")),
    )
    return SIGNED if act == "none" else _activate(writer, act, raw, out)


@EMITTERS.register("Gemm")
def _gemm(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    assert node.weight is not None
    name = node.weight_id or f"{node.output}.weight"
    if len(node.in_shapes[0]) == 2:
        weight, scale = writer.weight(name, node.weight, node.weight[1])
    else:
        weight, scale = writer.weight(name, node.weight[::-1], node.weight[1], axis=1)
    x_scale = np.float32(writer.ranges.get(node.inputs[0], SIGNED)[0])
    bias = writer.bias(f"{name}.bias", node.weight[0], scale * x_scale)
    act = node.attr("act", "none")
    raw = out if act == "none" else f"{out}_linear"
    if len(node.in_shapes[0]) == 2:
        writer.node("Gemm", [inputs[0], weight, bias], [raw], transB=1)
    else:
        writer.node("MatMul", [inputs[0], weight], [f"{out}_product"])
        writer.node("Add", [f"{out}_product", bias], [raw])
    return SIGNED if act == "none" else _activate(writer, act, raw, out)


@EMITTERS.register("MatMul")
def _matmul(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    if node.weight is not None:
        name = node.weight_id or f"{node.output}.weight"
        rank = len(node.weight)
        weight, _ = writer.weight(name, node.weight, node.weight[-2], axis=rank - 1)
        inputs = [*inputs, weight]
    if node.weight is not None or writer.quantised:
        writer.node("MatMul", inputs, [out])
        return SIGNED
    # A factor costs nothing; without it softmax meets numbers whose powers vanish, and is slow.
    writer.node("MatMul", inputs, [f"{out}_product"])
    factor = writer.constant(np.asarray(PRODUCT_SCALE / node.in_shapes[0][-1], np.float32))
    writer.node("Mul", [f"{out}_product", factor], [out])
    return SIGNED


def _pool(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    axes = _axes(node.in_shapes[0])
    attributes: dict[str, Any] = {
        "kernel_shape": list(spatial_values(node.attr("k"), axes)),
        "strides": list(spatial_values(node.attr("s"), axes)),
        "pads": list(pads_values(node.attr("p"), axes)),
    }
    if node.attr("ceil") == "1":
        attributes["ceil_mode"] = 1
    if node.attr("d"):
        attributes["dilations"] = list(spatial_values(node.attr("d"), axes))
    if node.attr("incl") == "1":
        attributes["count_include_pad"] = 1
    writer.node(node.op, inputs, [out], **attributes)
    return SIGNED


EMITTERS.add("MaxPool", _pool)
EMITTERS.add("AveragePool", _pool)


def _binary(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    if node.attr("c0") or node.attr("c1"):
        return _generic(writer, node, inputs, out)
    if node.weight is not None:
        name = node.weight_id or f"{node.output}.weight"
        inputs = [*inputs, writer.operand(name, node.weight)]
    writer.node(node.op, inputs, [out])
    return SIGNED


for _op in _BINARY:
    EMITTERS.add(_op, _binary)


@EMITTERS.register("Concat")
def _concat(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    axis = int(node.attr("axis"))
    if node.weight is not None:
        name = node.weight_id or f"{node.output}.weight"
        inputs = [*inputs, writer.operand(name, node.weight)]
    writer.node("Concat", inputs, [out], axis=axis)
    ranges = {writer.ranges.get(name, SIGNED) for name in node.inputs}
    return ranges.pop() if len(ranges) == 1 else SIGNED


@EMITTERS.register("Relu")
def _relu(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    writer.node("Relu", inputs, [out])
    return POSITIVE


@EMITTERS.register("Clip")
def _clip(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    low, high = (float(node.attr(key)) if node.attr(key) else None for key in ("min", "max"))
    writer.node("Clip", [*inputs, *_limits(writer, low, high)], [out])
    return _clip_range(low, high)


@EMITTERS.register("Slice")
def _slice(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    shape = node.in_shapes[0]
    text = node.attr("start")
    if node.attr("y"):
        start = spatial_values(text, len(shape))
        step = spatial_values(node.attr("step", "1"), len(shape))
    else:
        start = (0, 0, *spatial_values(text, _axes(shape)))
        step = (1,) * len(shape)
    ends = [b + (n - 1) * s + 1 for b, n, s in zip(start, node.out_shape, step, strict=True)]
    axes = [i for i in range(len(shape)) if node.out_shape[i] != shape[i]]
    parts = [[values[i] for i in axes] for values in (start, ends, range(len(shape)), step)]
    writer.node("Slice", [*inputs, *map(writer.ints, parts)], [out])
    return SIGNED


@EMITTERS.register("Pad")
def _pad(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    if not node.attr("p"):
        return _generic(writer, node, inputs, out)
    axes = _axes(node.in_shapes[0])
    pads = pads_values(node.attr("p"), axes)
    values = writer.ints((0, 0, *pads[:axes], 0, 0, *pads[axes:]))
    writer.node("Pad", [*inputs, values], [out], mode="constant")
    return SIGNED


@EMITTERS.register("Split")
def _split(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    sizes = [int(part) for part in node.attr("sizes").split("x")]
    outputs = [out, *(writer.result(name) for name, _ in node.more_outputs)]
    outputs += [f"{out}_unused_{i}" for i in range(len(outputs), len(sizes))]
    axis = int(node.attr("axis"))
    writer.node("Split", [*inputs, writer.ints(sizes)], outputs, axis=axis)
    return SIGNED


def _shaped(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    op = "Expand" if node.op == "Expand" else "Reshape"
    writer.node(op, [*inputs, writer.ints(node.out_shape)], [out])
    return SIGNED


for _op in ("Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze"):
    EMITTERS.add(_op, _shaped)


@EMITTERS.register("Resize")
def _resize(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    attributes = _attributes(node, skip=("sizes", "scales", "axes"))
    if attributes.get("mode") == "nearest":
        attributes["nearest_mode"] = "floor"
    sizes = ["", "", writer.ints(node.out_shape)]
    if node.attr("scaled") == "1":
        pairs = zip(node.out_shape, node.in_shapes[0], strict=True)
        sizes = ["", writer.constant(np.asarray([y / x for y, x in pairs], np.float32))]
    writer.node("Resize", [inputs[0], *sizes], [out], **attributes)
    return SIGNED


@EMITTERS.register("ConvTranspose")
def _conv_transpose(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    assert node.weight is not None
    axes = _axes(node.in_shapes[0])
    name = node.weight_id or f"{node.output}.weight"
    weight, scale = writer.weight(name, node.weight, elements(node.weight[1:]), axis=1)
    x_scale = np.float32(writer.ranges.get(node.inputs[0], SIGNED)[0])
    group = int(node.attr("group", "1"))
    scale = np.tile(scale, group) if writer.quantised else scale
    bias = writer.bias(f"{name}.bias", node.weight[1] * group, scale * x_scale)
    stride = list(spatial_values(node.attr("strides", "1"), axes))
    pads = list(pads_values(node.attr("pads", "0"), axes))
    dilation = list(spatial_values(node.attr("dilations", "1"), axes))
    x, y = node.in_shapes[0], node.out_shape
    more = [
        y[2 + i]
        - (stride[i] * (x[2 + i] - 1) + dilation[i] * (node.weight[2 + i] - 1) + 1)
        + pads[i]
        + pads[axes + i]
        for i in range(axes)
    ]
    writer.node(
        "ConvTranspose",
        [inputs[0], weight, bias],
        [out],
        kernel_shape=list(node.weight[2:]),
        strides=stride,
        pads=pads,
        dilations=dilation,
        output_padding=more,
        group=group,
    )
    return SIGNED


def _recurrent(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    if node.weight is None:
        raise ValueError("an operator of this kind cannot be written on its own")
    hidden = int(node.attr("hidden_size"))
    directions, gates, _ = node.weight
    name = node.weight_id or f"{node.output}.weight"
    weights = [
        writer.constant(writer.random(shape, hidden), f"{name}.{key}")
        for key, shape in (
            ("input", node.weight),
            ("state", (directions, gates, hidden)),
            ("bias", (directions, 2 * gates)),
        )
    ]
    attributes = _attributes(node)
    outputs = [out, *(writer.result(more) for more, _ in node.more_outputs)]
    writer.node(node.op, [inputs[0], *weights], outputs, **attributes)
    return SIGNED


for _op in ("LSTM", "GRU", "RNN"):
    EMITTERS.add(_op, _recurrent)


def _reduce(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    """The axes are an input in the opset that is written, whatever they were read from."""
    axes = [int(part) for part in (node.attr("axes") or node.attr("c1")).split("x") if part]
    names = [inputs[0], writer.ints(axes)] if axes else [inputs[0]]
    writer.node(node.op, names, [out], keepdims=int(node.attr("keepdims", "1")))
    return SIGNED


for _op in ("Mean", "Sum", "Max", "Min", "L2", "L1", "Prod", "SumSquare", "LogSumExp"):
    EMITTERS.add(f"Reduce{_op}", _reduce)


@EMITTERS.register("InstanceNormalization")
def _instance_norm(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    size, name = node.in_shapes[0][1], f"{node.output}.in"
    constants = [writer.filled(f"{name}.{k}", (size,), v) for k, v in (("g", 1.0), ("b", 0.0))]
    writer.node("InstanceNormalization", [*inputs, *constants], [out])
    return SIGNED


@EMITTERS.register("BatchNormalization")
def _batch_norm(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    size, name = node.in_shapes[0][1], f"{node.output}.bn"
    values = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "variance": 1.0}
    constants = [writer.filled(f"{name}.{key}", (size,), value) for key, value in values.items()]
    writer.node("BatchNormalization", [*inputs, *constants], [out])
    return SIGNED


@EMITTERS.register("QuantizeLinear")
def _quantise(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    range_ = writer.ranges.get(node.inputs[0], SIGNED)
    writer.requantise(out, inputs[0], range_)
    return range_


@EMITTERS.register("DequantizeLinear")
def _dequantise(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    writer.same(out, inputs[0])
    return writer.ranges.get(node.inputs[0], SIGNED)


@EMITTERS.register("LayerNormalization")
def _layer_norm(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    shape, name = node.in_shapes[0], f"{node.output}.ln"
    size = shape[int(node.attr("axis", "-1")) :]
    constants = [
        writer.filled(f"{name}.{key}", size, value) for key, value in (("g", 1.0), ("b", 0.0))
    ]
    axis = int(node.attr("axis", "-1"))
    writer.node("LayerNormalization", [*inputs, *constants], [out], axis=axis)
    return SIGNED


def _attributes(node: Node, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    schema = defs.get_schema(node.op, OPSET, "")
    decode: dict[Any, Callable[[str], Any]] = {
        defs.OpSchema.AttrType.INT: int,
        defs.OpSchema.AttrType.FLOAT: float,
        defs.OpSchema.AttrType.STRING: str,
        defs.OpSchema.AttrType.INTS: lambda text: [int(part) for part in text.split("x")],
        defs.OpSchema.AttrType.FLOATS: lambda text: [float(part) for part in text.split("x")],
    }
    return {
        name: decode[schema.attributes[name].type](value)
        for name, value in node.attrs
        if name in schema.attributes and name not in skip
    }


def _generic(writer: Writer, node: Node, inputs: list[str], out: str) -> Quantisation:
    """By the ONNX schema: attributes by their type, ``c<i>`` as the constant input number i."""
    if node.weight is not None or node.more_outputs or not defs.has(node.op):
        raise ValueError("an operator of this kind cannot be written on its own")
    slots: dict[int, str] = {}
    for name, value in node.attrs:
        if name[:1] == "c" and name[1:].isdigit():
            slots[int(name[1:])] = writer.constant(decode_constant(value))
    names, position = [], 0
    remaining = list(inputs)
    while remaining or position <= max(slots, default=-1):
        if position in slots:
            names.append(slots[position])
        else:
            names.append(remaining.pop(0) if remaining else "")
        position += 1
    writer.node(node.op, names, [out], **_attributes(node))
    return SIGNED


def encode_constant(values: np.ndarray) -> str:
    """A short constant as text: '1x-2' for integers, '1.0x0.5' for floats."""
    flat = values.reshape(-1)
    if flat.dtype.kind == "f":
        parts = [repr(float(f"{value:.6g}")) for value in flat.tolist()]
    else:
        parts = [str(int(value)) for value in flat.tolist()]
    return "x".join(parts) + ("" if values.ndim else "s")


def decode_constant(text: str) -> np.ndarray:
    """Inverse of :func:`encode_constant`: int64 or float32, a scalar where it ends with 's'."""
    parts = text.removesuffix("s").split("x")
    try:
        values = np.asarray([int(part) for part in parts], np.int64)
    except ValueError:
        values = np.asarray([float(part) for part in parts], np.float32)
    return values.reshape(()) if text.endswith("s") else values
