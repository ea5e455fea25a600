"""One handler an operator: what an ONNX node becomes in an :class:`OpGraph`.

To read an operator in a way of its own, write a function under ``@HANDLERS.register(name)``.
"""

from __future__ import annotations

from dataclasses import replace

import onnx

from factory.core.registry import Registry
from factory.graph.onnx_attributes import attribute_values, conv_attrs, number_text, pool_attrs
from factory.graph.onnx_reader import Handler, Reader, generic
from factory.graph.opgraph import Attrs, Node
from factory.graph.shapes import Shape, elements, pads_text, shape_text, spatial_text

HANDLERS: Registry[Handler] = Registry("operator to read")

BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu")
SHAPED = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand")


@HANDLERS.register("Conv")
def _conv(reader: Reader, proto: onnx.NodeProto) -> Node:
    x, weight = reader.shape(proto.input[0]), reader.shape(proto.input[1])
    bias = weight[0] if len(proto.input) > 2 and proto.input[2] else 0
    return reader.node(
        proto,
        conv_attrs(attribute_values(proto), x, weight),
        weight=weight,
        weight_id=proto.input[1],
        params=elements(weight) + bias,
    )


@HANDLERS.register("ConvInteger")
def _conv_integer(reader: Reader, proto: onnx.NodeProto) -> Node:
    """Of a dynamically quantised file: the scale and zero point of its input are no kernels."""
    node = reader.node(
        proto,
        conv_attrs(
            attribute_values(proto), reader.shape(proto.input[0]), reader.shape(proto.input[1])
        ),
        inputs=[proto.input[0]],
        weight=reader.shape(proto.input[1]),
        weight_id=proto.input[1],
        params=elements(reader.shape(proto.input[1])),
    )
    return replace(node, dtype="i8")


@HANDLERS.register("MatMulInteger")
def _matmul_integer(reader: Reader, proto: onnx.NodeProto) -> Node:
    weight = reader.constant_shape(proto, 1)
    if weight is None:
        return replace(reader.node(proto, inputs=list(proto.input[:2])), dtype="i8")
    node = reader.node(
        proto,
        inputs=[proto.input[0]],
        weight=weight,
        weight_id=proto.input[1],
        params=elements(weight),
    )
    return replace(node, dtype="i8")


@HANDLERS.register("BatchNormalization")
def _batch_norm(reader: Reader, proto: onnx.NodeProto) -> Node:
    source = proto.input[0]
    channels = reader.shape(source)[1]
    producer = reader.nodes.get(reader.resolve(source))
    if producer is not None and producer.op == "Conv" and reader.uses[source] == 1:
        del reader.nodes[producer.output]
        return replace(
            producer,
            output=proto.output[0],
            params=producer.params + 2 * channels,
            bn_elements=elements(producer.out_shape),
        )
    node = reader.node(proto, weight=(channels,), weight_id=proto.input[1], params=2 * channels)
    return replace(node, bn_elements=elements(node.out_shape))


def _pool(reader: Reader, proto: onnx.NodeProto) -> Node:
    return reader.node(proto, pool_attrs(attribute_values(proto), reader.shape(proto.input[0])))


HANDLERS.add("MaxPool", _pool)
HANDLERS.add("AveragePool", _pool)


def _reduce(reader: Reader, proto: onnx.NodeProto) -> Node:
    x = reader.shape(proto.input[0])
    axes = reader.integers(proto, 1, "axes")
    given = sorted(axis % len(x) for axis in axes) if axes else list(range(len(x)))
    if proto.op_type == "ReduceMean" and len(x) == 4 and given == [2, 3]:
        shape = (x[0], x[1], 1, 1)
        return reader.node(proto, op="GlobalAveragePool", out_shape=shape)
    keep = str(attribute_values(proto).get("keepdims", 1))
    attrs: Attrs = (("axes", "x".join(map(str, given))), ("keepdims", keep))
    return reader.node(proto, attrs, inputs=[proto.input[0]])


for _op in ("Mean", "Sum", "Max", "Min", "L2", "L1", "Prod", "SumSquare", "LogSumExp"):
    HANDLERS.add(f"Reduce{_op}", _reduce)


@HANDLERS.register("Gemm")
def _gemm(reader: Reader, proto: onnx.NodeProto) -> Node:
    weight = reader.constant_shape(proto, 1)
    values = attribute_values(proto)
    if weight is None or values.get("transA") or len(reader.activations(proto)) != 1:
        return reader.node(proto, op="MatMul")
    weight = weight if values.get("transB") else weight[::-1]
    bias = weight[0] if len(proto.input) > 2 and proto.input[2] else 0
    params = elements(weight) + bias
    act = (("act", "none"),)
    return reader.node(proto, act, weight=weight, weight_id=proto.input[1], params=params)


@HANDLERS.register("MatMul")
def _matmul(reader: Reader, proto: onnx.NodeProto) -> Node:
    weight = reader.constant_shape(proto, 1)
    if weight is None:
        return reader.node(proto)
    params = elements(weight)
    return reader.node(proto, weight=weight, weight_id=proto.input[1], params=params)


_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


def _neutral(reader: Reader, proto: onnx.NodeProto, constant: str) -> bool:
    """Whether one number changes nothing: a runtime takes such an operator out."""
    if proto.op_type not in _NEUTRAL or reader.facts.elements(constant) != 1:
        return False
    first = proto.input[0] == constant
    if first and proto.op_type in ("Sub", "Div"):
        return False
    same = reader.shape(proto.output[0]) == reader.shape(proto.input[1 if first else 0])
    value = reader.numbers(proto, 0 if first else 1)
    return same and value == [_NEUTRAL[proto.op_type]]


def _binary(reader: Reader, proto: onnx.NodeProto) -> Node | None:
    constants = [name for name in proto.input if name in reader.facts.constants]
    if not constants:
        return reader.node(proto)
    if _neutral(reader, proto, constants[0]):
        reader.alias(proto.output[0], reader.activations(proto)[0])
        return None
    if proto.op_type == "Pow" and reader.facts.elements(constants[0]) == 1:
        return generic(reader, proto)  # a square takes a fraction of what any other power does
    weight = reader.shape(constants[0])
    inputs = reader.activations(proto)
    producer = reader.nodes.get(reader.resolve(inputs[0])) if inputs else None
    if proto.op_type == "Add" and producer is not None and producer.op == "MatMul":
        linear = _linear(reader, proto, producer, weight)
        if linear is not None and reader.uses[inputs[0]] == 1:
            del reader.nodes[producer.output]
            return linear
    params = elements(weight) if elements(weight) > 1 else 0
    return reader.node(proto, weight=weight, weight_id=constants[0], params=params)


def _linear(reader: Reader, proto: onnx.NodeProto, producer: Node, bias: Shape) -> Node | None:
    """MatMul and Add of a bias -> Gemm; a runtime sees the rows of a longer tensor as a matrix."""
    weight = producer.weight
    if weight is None or len(weight) != 2 or len(producer.inputs) != 1:
        return None
    if elements(bias) != weight[1] or bias[-1] != weight[1]:
        return None
    return replace(
        producer,
        op="Gemm",
        output=proto.output[0],
        attrs=(("act", "none"),),
        weight=weight[::-1],
        params=producer.params + weight[1],
    )


for _op in BINARY:
    HANDLERS.add(_op, _binary)


@HANDLERS.register("LayerNormalization")
def _layer_norm(reader: Reader, proto: onnx.NodeProto) -> Node:
    rank = len(reader.shape(proto.input[0]))
    axis = int(attribute_values(proto).get("axis", -1)) % rank
    attrs: Attrs = () if axis == rank - 1 else (("axis", str(axis)),)
    return _normalisation(reader, proto, attrs)


def _normalisation(reader: Reader, proto: onnx.NodeProto, attrs: Attrs = ()) -> Node:
    weight = reader.constant_shape(proto, 1)
    params = sum(reader.facts.elements(name) for name in proto.input[1:] if name)
    name = proto.input[1] if weight is not None else None
    return reader.node(
        proto, attrs, inputs=[proto.input[0]], weight=weight, weight_id=name, params=params
    )


HANDLERS.add("InstanceNormalization", _normalisation)


def _softmax(reader: Reader, proto: onnx.NodeProto) -> Node:
    axis = int(attribute_values(proto).get("axis", -1)) % len(reader.shape(proto.input[0]))
    return reader.node(proto, (("axis", str(axis)),))


HANDLERS.add("Softmax", _softmax)
HANDLERS.add("LogSoftmax", _softmax)


@HANDLERS.register("ConvTranspose")
def _conv_transpose(reader: Reader, proto: onnx.NodeProto) -> Node:
    weight = reader.constant_shape(proto, 1)
    if weight is None:
        return generic(reader, proto)
    values = attribute_values(proto)
    y = reader.shape(proto.output[0])
    axes = len(weight) - 2
    stride = list(values.get("strides") or [1] * axes)
    dilation = list(values.get("dilations") or [1] * axes)
    group = int(values.get("group", 1))
    attrs: Attrs = (("strides", spatial_text(stride)), ("group", str(group)))
    pads = list(values.get("pads") or [])
    if not pads and values.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"):
        pads = [0] * (2 * axes)
    if pads:
        attrs = (*attrs, ("pads", pads_text(pads)))
    if set(dilation) != {1}:
        attrs = (*attrs, ("dilations", spatial_text(dilation)))
    bias = y[1] if len(proto.input) > 2 and proto.input[2] else 0
    return reader.node(
        proto,
        (*attrs, ("y", shape_text(y))),
        inputs=[proto.input[0]],
        weight=weight,
        weight_id=proto.input[1],
        params=elements(weight) + bias,
    )


def _recurrent(reader: Reader, proto: onnx.NodeProto) -> Node:
    weight = reader.constant_shape(proto, 1)
    if weight is None or int(attribute_values(proto).get("layout", 0)):
        return generic(reader, proto)
    values = attribute_values(proto)
    attrs: list[tuple[str, str]] = [("hidden_size", str(values["hidden_size"]))]
    if values.get("direction", "forward") != "forward":
        attrs.append(("direction", str(values["direction"])))
    if values.get("linear_before_reset"):
        attrs.append(("linear_before_reset", "1"))
    hidden = int(values["hidden_size"])
    attrs.append(
        (
            "y",
            shape_text(
                (
                    *reader.shape(proto.input[0])[:1],
                    weight[0],
                    reader.shape(proto.input[0])[1],
                    hidden,
                )
            ),
        )
    )
    params = sum(reader.facts.elements(name) for name in proto.input[1:4] if name)
    return reader.node(
        proto,
        tuple(attrs),
        inputs=[proto.input[0]],
        weight=weight,
        weight_id=proto.input[1],
        params=params,
    )


for _op in ("LSTM", "GRU", "RNN"):
    HANDLERS.add(_op, _recurrent)


@HANDLERS.register("Resize")
def _resize(reader: Reader, proto: onnx.NodeProto) -> Node:
    """By scales or by sizes: only with whole scales it runs in the blocked layout."""
    values = attribute_values(proto)
    attrs: list[tuple[str, str]] = [("mode", str(values.get("mode", "nearest")))]
    coordinates = str(values.get("coordinate_transformation_mode", "half_pixel"))
    attrs.append(("coordinate_transformation_mode", coordinates))
    if values.get("antialias"):
        attrs.append(("antialias", "1"))
    sized = len(proto.input) > 3 and bool(proto.input[3])
    attrs.append(("scaled", "0" if sized else "1"))
    attrs.append(("y", shape_text(reader.shape(proto.output[0]))))
    return reader.node(proto, tuple(attrs), inputs=[proto.input[0]])


@HANDLERS.register("Concat")
def _concat(reader: Reader, proto: onnx.NodeProto) -> Node:
    axis = int(attribute_values(proto)["axis"]) % len(reader.shape(proto.output[0]))
    constants = [name for name in proto.input if name in reader.facts.constants]
    weight = reader.shape(constants[0]) if constants else None
    name = constants[0] if constants else None
    return reader.node(proto, (("axis", str(axis)),), weight=weight, weight_id=name)


@HANDLERS.register("Slice")
def _slice(reader: Reader, proto: onnx.NodeProto) -> Node:
    x, y = reader.shape(proto.input[0]), reader.shape(proto.output[0])
    starts = reader.integers(proto, 1, "starts")
    if starts is None:
        return generic(reader, proto)
    axes = reader.integers(proto, 3, "axes") or list(range(len(starts)))
    steps = reader.integers(proto, 4, "steps") or [1] * len(starts)
    begin, step = [0] * len(x), [1] * len(x)
    for axis, start, stride in zip(axes, starts, steps, strict=True):
        size = x[axis % len(x)]
        begin[axis % len(x)] = max(0, min(start + size if start < 0 else start, size))
        step[axis % len(x)] = stride
    plain = all(s == 1 for s in step) and len(x) == 4 and begin[:2] == [0, 0]
    if plain and y == (*x[:2], x[2] - begin[2], x[3] - begin[3]):
        return reader.node(proto, (("start", spatial_text(begin[2:])),))
    attrs: Attrs = (("start", spatial_text(begin)),)
    if set(step) != {1}:
        attrs = (*attrs, ("step", spatial_text(step)))
    return reader.node(proto, (*attrs, ("y", shape_text(y))))


@HANDLERS.register("Pad")
def _pad(reader: Reader, proto: onnx.NodeProto) -> Node:
    values = attribute_values(proto)
    pads = reader.integers(proto, 1, "pads")
    fill = reader.numbers(proto, 2) or [0.0]
    axes = reader.integers(proto, 3, "axes")
    simple = values.get("mode", "constant") == "constant" and not any(fill)
    rank = len(reader.shape(proto.input[0]))
    if pads is not None and axes is not None:
        whole = [0] * (2 * rank)
        for i, axis in enumerate(axes):
            whole[axis % rank], whole[rank + axis % rank] = pads[i], pads[len(axes) + i]
        pads = whole
    if pads is None or not simple or rank != 4 or min(pads) < 0 or any(pads[:2] + pads[4:6]):
        return generic(reader, proto)
    return reader.node(proto, (("p", pads_text(pads[2:4] + pads[6:8])),))


@HANDLERS.register("Split")
def _split(reader: Reader, proto: onnx.NodeProto) -> Node:
    axis = int(attribute_values(proto).get("axis", 0)) % len(reader.shape(proto.input[0]))
    sizes = "x".join(str(reader.shape(name)[axis]) for name in proto.output if name)
    return reader.node(proto, (("axis", str(axis)), ("sizes", sizes)))


@HANDLERS.register("Clip")
def _clip(reader: Reader, proto: onnx.NodeProto) -> Node:
    values, attrs = attribute_values(proto), []
    for index, name in ((1, "min"), (2, "max")):
        found = reader.numbers(proto, index)
        limit = found[0] if found else values.get(name)
        if limit is not None and abs(float(limit)) < 1e30:
            attrs.append((name, number_text(float(limit))))
    return reader.node(proto, tuple(attrs), inputs=[proto.input[0]])


@HANDLERS.register("HardSigmoid")
def _hard_sigmoid(reader: Reader, proto: onnx.NodeProto) -> Node:
    values = attribute_values(proto)
    slope, shift = float(values.get("alpha", 0.2)), float(values.get("beta", 0.5))
    if abs(slope - 1 / 6) < 1e-4 and shift == 0.5:  # the one that networks use
        return reader.node(proto)
    return reader.node(proto, (("alpha", number_text(slope)), ("beta", number_text(shift))))


@HANDLERS.register("Cast")
def _cast(reader: Reader, proto: onnx.NodeProto) -> Node:
    kind = int(attribute_values(proto)["to"])
    if reader.facts.types.get(proto.input[0]) == kind:
        return reader.node(proto, (("noop", "1"),))
    return reader.node(proto, (("to", str(kind)),))


def _shaped(reader: Reader, proto: onnx.NodeProto) -> Node:
    shape = shape_text(reader.shape(proto.output[0]))
    return reader.node(proto, (("y", shape),), inputs=[proto.input[0]])


for _op in SHAPED:
    HANDLERS.add(_op, _shaped)


def _plain(reader: Reader, proto: onnx.NodeProto) -> Node:
    return reader.node(proto, inputs=[proto.input[0]])


for _op in (
    "Identity",
    "Dropout",
    "Relu",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSwish",
    "Gelu",
):
    HANDLERS.add(_op, _plain)


@HANDLERS.register("QuantizeLinear")
def _quantise(reader: Reader, proto: onnx.NodeProto) -> Node | None:
    if proto.output[0] in reader.quantised.relus:
        node = reader.node(proto, op="Relu", inputs=[proto.input[0]])
        return replace(node, dtype="i8")
    if reader.quantised.from_floats(proto):
        attrs = (("to", reader.quantised.type_made(proto)),)
        return reader.node(proto, attrs, inputs=[proto.input[0]])
    reader.alias(proto.output[0], proto.input[0])
    return None


@HANDLERS.register("DequantizeLinear")
def _dequantise(reader: Reader, proto: onnx.NodeProto) -> None:
    """Part of the operators that read it, or a node for each that runs in floats."""
    reader.alias(proto.output[0], proto.input[0])
