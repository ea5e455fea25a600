"""MACs and parameters of ONNX operators in all their forms, contributed ones included.

MACs are multiply-adds of convolutions, matrix products, recurrent layers, contractions (Einsum) and
the products inside attention; what an operator multiplies beside that is not counted. Of If the
more costly branch counts, of Scan every step, of Loop one: how often it goes round is not known.

Legend: ``x`` is the shape of an input, ``w`` of a weight, ``y`` of the first output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import onnx
from onnx import TensorProto

from factory.core.registry import Registry
from factory.graph.onnx_attributes import attribute_values
from factory.graph.onnx_constants import Facts
from factory.graph.shapes import Shape, elements

ShapeOf = Callable[[str], "Shape | None"]
Rule = Callable[["Costs"], int]
RULES: Registry[Rule] = Registry("operator with MACs")


class Costs:
    """One operator with the shapes around it; an index beyond its inputs gives ()."""

    def __init__(self, proto: onnx.NodeProto, shape_of: ShapeOf) -> None:
        self.proto, self._shape_of = proto, shape_of
        self.values = attribute_values(proto)

    def x(self, index: int) -> Shape:
        """Shape of the input number ``index``."""
        names = self.proto.input
        return (self._shape_of(names[index]) or ()) if index < len(names) else ()

    def y(self, index: int = 0) -> Shape:
        """Shape of the output number ``index``."""
        names = self.proto.output
        return (self._shape_of(names[index]) or ()) if index < len(names) else ()

    def number(self, name: str, default: int = 0) -> int:
        """An attribute that is a whole number."""
        return int(self.values.get(name, default))


def node_macs(proto: onnx.NodeProto, shape_of: ShapeOf) -> int | None:
    """MACs of one operator; None where it has no rule: it has none of its own."""
    if proto.op_type not in RULES:
        return None
    try:
        return max(0, RULES.get(proto.op_type)(Costs(proto, shape_of)))
    except (IndexError, ZeroDivisionError):  # a shape that is not known, or of another rank
        return None


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        for name in names:
            RULES.add(name, rule)
        return rule

    return add


@_rule("Conv", "ConvInteger", "FusedConv", "NhwcConv", "NhwcFusedConv", "DeformConv")
def _conv(costs: Costs) -> int:
    return elements(costs.y()) * elements(costs.x(1)[1:])


@_rule("QLinearConv")
def _qlinear_conv(costs: Costs) -> int:
    return elements(costs.y()) * elements(costs.x(3)[1:])


@_rule("ConvTranspose", "ConvTransposeWithDynamicPads")
def _conv_transpose(costs: Costs) -> int:
    return elements(costs.x(0)) * elements(costs.x(1)[1:])


@_rule("Gemm", "FusedGemm", "QGemm", "GemmFloat8", "GemmFastGelu")
def _gemm(costs: Costs) -> int:
    return elements(costs.y()) * costs.x(0)[0 if costs.number("transA") else -1]


@_rule(
    "MatMul", "FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", "MatMulInteger",
    "MatMulIntegerToFloat", "MatMulInteger16", "DynamicQuantizeMatMul", "QLinearMatMul",
    "SparseToDenseMatMul",
)  # fmt: skip
def _matmul(costs: Costs) -> int:
    x = costs.x(0)
    inner = x[-2] if costs.number("transA") and len(x) > 1 else x[-1]
    return elements(costs.y()) * inner


@_rule("MatMulNBits", "MatMulBnb4", "MatMulFpQ4")
def _matmul_bits(costs: Costs) -> int:
    return elements(costs.x(0)) * costs.y()[-1]


@_rule("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
def _recurrent(costs: Costs) -> int:
    x, w, r = costs.x(0), costs.x(1), costs.x(2)
    return elements(x) // x[-1] * (elements(w) + elements(r))


@_rule("Einsum")
def _einsum(costs: Costs) -> int:
    count = len(costs.proto.input)
    if count < 2:
        return 0
    sizes = _index_sizes(str(costs.values["equation"]), [costs.x(i) for i in range(count)])
    return math.prod(sizes.values()) * (count - 1)


def _index_sizes(equation: str, shapes: Sequence[Shape]) -> dict[str, int]:
    """Size of every index; the axes of an ellipsis are indices '.0' (the last), '.1', ..."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=False):
        before, ellipsis, after = term.partition("...")
        covered = len(shape) - len(before) - len(after)
        names = [*before, *(f".{i}" for i in reversed(range(covered if ellipsis else 0))), *after]
        for name, size in zip(names, shape, strict=False):
            sizes[name] = max(size, sizes.get(name, 1))
    return sizes


@_rule("MultiHeadAttention", "DecoderMaskedMultiHeadAttention")
def _heads(costs: Costs) -> int:
    """Query [B,S,H]; key [B,L,H] or [B,N,L,D], value likewise; both may be packed into others."""
    query, key, value = costs.x(0), costs.x(1), costs.x(2)
    if len(query) == 5:  # [B,S,N,3,D]: all three
        batch, steps, heads, _, size = query
        return 2 * batch * steps * steps * heads * size
    batch, steps, hidden = query
    if len(key) == 5:  # [B,L,N,2,D]: key and value
        return 2 * batch * steps * key[1] * hidden
    keys = key[2] if len(key) == 4 else key[1] if key else steps
    past = costs.x(6)
    keys += past[2] if len(past) == 4 else 0
    made = value[1] * value[3] if len(value) == 4 else value[-1] if value else hidden
    return batch * steps * keys * (hidden + made)


@_rule("Attention", "QAttention")
def _attention(costs: Costs) -> int:
    """Of com.microsoft: input [B,S,H], weights of query, key and value [H,3N]; else ONNX's."""
    if costs.proto.domain in ("", "ai.onnx"):
        return _standard_attention(costs)
    (batch, steps, _), weight = costs.x(0), costs.x(1)
    sizes = costs.values.get("qkv_hidden_sizes") or [weight[1] // 3] * 3
    keys = steps
    past = costs.x(8 if costs.proto.op_type == "QAttention" else 4)
    keys += past[3] if len(past) == 5 else 0
    projections = batch * steps * elements(weight)
    return projections + batch * steps * keys * (int(sizes[0]) + int(sizes[2]))


def _standard_attention(costs: Costs) -> int:
    query, key, value = costs.x(0), costs.x(1), costs.x(2)
    past = costs.x(4)
    before = past[2] if len(past) == 4 else 0
    if len(query) == 3:
        heads, groups = costs.number("q_num_heads"), costs.number("kv_num_heads")
        keys = key[1] + before
        return query[0] * query[1] * keys * (query[2] + heads * value[2] // groups)
    batch, heads, steps, size = query
    return batch * heads * steps * (key[2] + before) * (size + value[3])


@_rule("GroupQueryAttention", "SparseAttention")
def _grouped_attention(costs: Costs) -> int:
    query, present = costs.x(0), costs.y(1)
    heads, groups = costs.number("num_heads", 1), costs.number("kv_num_heads", 1)
    size = query[2] // (heads if len(costs.x(1)) else heads + 2 * groups)
    keys = present[2] if len(present) == 4 else query[1]
    return 2 * query[0] * query[1] * keys * heads * size


_NO_PARAMETERS = frozenset(
    {"Clip", "Pad", "Resize", "Upsample", "Range", "OneHot", "ConstantOfShape"}
)
_QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_WEIGHT_TYPES = frozenset(
    value
    for name, value in TensorProto.DataType.items()
    if name.startswith(
        ("FLOAT", "DOUBLE", "BFLOAT", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2")
    )
)


def parameters(nodes: Iterable[onnx.NodeProto], facts: Facts) -> int:
    """Elements of all weights and biases that ``nodes`` read, each tensor counted once.

    A weight is a constant of floats, or of 8 or fewer bits, of more than one element; beside a
    weight of a convolution or a matrix product a constant of any type is a bias. Means and
    variances of BatchNormalization, scales and zero points are none.
    """
    counted: dict[str, int] = {}
    inside: dict[str, onnx.TensorProto] = {}
    for node in _with_bodies(nodes, inside):
        if node.op_type in _NO_PARAMETERS or node.op_type in _QUANTISERS:
            continue
        last = 3 if node.op_type == "BatchNormalization" else len(node.input)
        for index, name in enumerate(node.input[:last]):
            if name in inside:
                size, kind = math.prod(inside[name].dims), inside[name].data_type
            elif name in facts.constants:
                size, kind = facts.elements(name), facts.types.get(name, TensorProto.FLOAT)
            else:
                continue
            bias = index == 2 and node.op_type in ("Conv", "Gemm")
            if size > 1 and (bias or kind in _WEIGHT_TYPES):
                counted[_origin(name, facts)] = size
    return sum(counted.values())


def _with_bodies(
    nodes: Iterable[onnx.NodeProto], inside: dict[str, onnx.TensorProto]
) -> Iterator[onnx.NodeProto]:
    """``nodes`` and those in their bodies, whose weights are added to ``inside``."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                inside.update((tensor.name, tensor) for tensor in body.initializer)
                yield from _with_bodies(body.node, inside)


def _origin(name: str, facts: Facts) -> str:
    """The tensor of the file that ``name`` is made of, by a cast, a copy or its dequantising."""
    while (node := facts.producer(name)) is not None:
        if not node.input or node.input[0] not in facts.constants:
            break
        name = node.input[0]
    return name
