"""Quantised ONNX models: which operators run in int8, whichever way the file says it.

QOperator files (QLinearConv, com.microsoft.QGemm, ...) are rewritten to QDQ form first. In QDQ form
an operator is int8 when all its activations come dequantised and its result is quantised again,
all of them of a type for which the runtime has integer operators. ONNX Runtime's CPU provider on
x86 has them for uint8 activations with 8-bit weights; int8 activations it turns into uint8 where
one operator alone reads them (its QDQSelectors and QDQS8ToU8Transformer); it has none for 16-bit
activations or 4-bit weights. Every other operator runs in floats, between QuantizeLinear and
DequantizeLinear operators that run too, those of its weights included.
A ReLU that the quantiser removed, because the zero point of the next tensor already cuts off what
is negative, is put back: the kernels are then those of the network that was quantised.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from factory.graph.as_quantised import KEEP_FLOAT_WEIGHTS, RENAMES

# operator -> (float operator, positions of (tensor, scale, zero point) inputs, of the output's
# scale, of a bias); QLinearConcat is special.
_QLINEAR: dict[str, tuple[str, tuple[int, ...], int, int | None]] = {
    "QLinearConv": ("Conv", (0, 3), 6, 8),
    "QLinearMatMul": ("MatMul", (0, 3), 6, None),
    "QLinearAdd": ("Add", (0, 3), 6, None),
    "QLinearMul": ("Mul", (0, 3), 6, None),
    "QGemm": ("Gemm", (0, 3), 7, 6),
    "QLinearAveragePool": ("AveragePool", (0,), 3, None),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,), 3, None),
    "QLinearLeakyRelu": ("LeakyRelu", (0,), 3, None),
    "QLinearSigmoid": ("Sigmoid", (0,), 3, None),
    "QLinearSoftmax": ("Softmax", (0,), 3, None),
}
AS_STANDARD = frozenset({"QuantizeLinear", "DequantizeLinear", "Gelu"})
"""Operators of com.microsoft that do what the standard ones do."""
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
MICROSOFT_OPS = frozenset({*_QLINEAR, "QLinearConcat", "FusedConv", "FusedGemm"}) | QUANTISERS
_DROPPED = frozenset({"channels_last", "opset"})

TRANSPARENT = RENAMES | {"Relu", "Clip"}
HIDES_RELU = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Concat"})
ALWAYS_SIGNED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})


def to_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with QOperator and com.microsoft operators rewritten to standard QDQ form."""
    if not any(n.domain == "com.microsoft" or n.op_type in _QLINEAR for n in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for node in model.graph.node:
        result.graph.node.extend(_rewrite(node))
    return result


def _rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if node.op_type == "FusedConv":
        return _unfuse(node, "Conv")
    if node.op_type == "FusedGemm":
        return _unfuse(node, "Gemm")
    if node.op_type == "QLinearConcat":
        starts: tuple[int, ...] = tuple(range(2, len(node.input), 3))
        return _expand(node, "Concat", starts, 0, None)
    if node.op_type in _QLINEAR:
        return _expand(node, *_QLINEAR[node.op_type])
    if node.domain == "com.microsoft" and node.op_type in AS_STANDARD:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.domain = ""
        return [copy]
    return [node]


def _expand(
    node: onnx.NodeProto, op: str, starts: tuple[int, ...], scale: int, bias: int | None
) -> list[onnx.NodeProto]:
    if any(a.name == "channels_last" and a.i for a in node.attribute):
        return [node]  # already optimised for one runtime
    output, names, nodes = node.output[0], [], []
    for number, start in enumerate(starts):
        read = f"{output}__in{number}"
        nodes.append(
            helper.make_node("DequantizeLinear", list(node.input[start : start + 3]), [read])
        )
        names.append(read)
    if bias is not None and bias < len(node.input) and node.input[bias]:
        names.append(node.input[bias])
    quantised = scale < len(node.input) and bool(node.input[scale])
    raw = f"{output}__float" if quantised else output
    main = helper.make_node(op, names, [raw], name=node.name, doc_string=node.op_type)
    main.attribute.extend(a for a in node.attribute if a.name not in _DROPPED)
    nodes.append(main)
    if quantised:
        inputs = [raw, *node.input[scale : scale + 2]]
        nodes.append(helper.make_node("QuantizeLinear", inputs, [output]))
    return nodes


def _unfuse(node: onnx.NodeProto, op: str) -> list[onnx.NodeProto]:
    activation = next((a.s.decode() for a in node.attribute if a.name == "activation"), "")
    params = next((list(a.floats) for a in node.attribute if a.name == "activation_params"), [])
    raw = f"{node.output[0]}__linear" if activation else node.output[0]
    added = len(node.input) > 3 and bool(node.input[3])  # FusedConv adds a tensor before that
    made = f"{node.output[0]}__sum" if added else raw
    main = helper.make_node(op, list(node.input[:3]), [made], name=node.name)
    main.attribute.extend(a for a in node.attribute if not a.name.startswith("activation"))
    nodes = [main]
    if added:
        nodes.append(helper.make_node("Add", [made, node.input[3]], [raw]))
    if not activation:
        return nodes
    extra: list[str] = []
    attributes: dict[str, Any] = {}
    if activation == "Clip":
        for value in params:
            name = f"{node.output[0]}__limit{len(extra)}"
            nodes.append(helper.make_node("Constant", [], [name], value_float=value))
            extra.append(name)
    elif activation == "HardSigmoid":
        attributes = dict(zip(("alpha", "beta"), params, strict=False))
    elif activation == "LeakyRelu":
        attributes = dict(zip(("alpha",), params, strict=False))
    final = helper.make_node(activation, [raw, *extra], list(node.output), **attributes)
    return [*nodes, final]


class Quantised:
    """What a QDQ graph runs in int8.

    Attributes:
        outputs: first output of every int8 operator -> its dtype as a kernel has it.
        relus: results of QuantizeLinear nodes behind which a removed ReLU is hidden.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        constants: set[str],
        value: Callable[[str], np.ndarray | None],
        types: Mapping[str, int],
    ) -> None:
        self._constants, self._value, self._types = constants, value, types
        self._producer = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._results = {value.name for value in graph.output}
        self._ends: dict[str, bool] = {}
        self._whole: set[str] = set()
        self.outputs: dict[str, str] = {}
        self.relus: set[str] = set()
        if not any(node.op_type == "QuantizeLinear" for node in graph.node):
            return
        for node in reversed(graph.node):
            if node.output:
                self._ends[node.output[0]] = self._quantised_next(node.output[0])
        for node in graph.node:
            if node.output and self._is_int8(node):
                dtype = self._dtype(node)
                if dtype is not None:
                    self.outputs[node.output[0]] = dtype
        for node in graph.node:
            if node.op_type == "QuantizeLinear" and self._hides_relu(node):
                self.relus.add(node.output[0])

    def border(self, name: str) -> str | None:
        """Type of the integers of a tensor that a DequantizeLinear node of the file makes."""
        node = self._producer.get(name)
        while node is not None and node.op_type == "Identity":
            node = self._producer.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return self._type(node.input[0])

    def from_floats(self, node: onnx.NodeProto) -> bool:
        """Whether a QuantizeLinear node reads what an operator that runs in floats makes."""
        source = self._producer.get(node.input[0])
        if source is None or source.op_type == "DequantizeLinear":
            return False
        return source.output[0] not in self.outputs

    def type_made(self, node: onnx.NodeProto) -> str:
        """Type of the integers that a QuantizeLinear node makes."""
        return self._type(node.output[0])

    def _type(self, name: str) -> str:
        """'u8', 'i16', ... of a tensor."""
        kind = self._types.get(name, TensorProto.UINT8)
        text = TensorProto.DataType.Name(kind).lower()
        return text.replace("uint", "u").replace("int", "i")

    def _activation_type(self, name: str, from_qdq: bool) -> str:
        """Type of the integers that ONNX Runtime keeps in the quantised tensor ``name``."""
        kind = self._type(name)
        if kind == "i8" and from_qdq:
            readers = [
                reader
                for node in self._readers[name]
                if node.op_type == "DequantizeLinear"
                for reader in self._readers[node.output[0]]
            ]
            return "u8" if len(readers) < 2 else kind
        return kind

    def _quantised_as(self, name: str) -> list[str]:
        """The quantised forms of a tensor, behind operators that stay fused with its own."""
        found = []
        for reader in self._readers[name]:
            if reader.op_type == "QuantizeLinear":
                found.append(reader.output[0])
            elif reader.op_type in TRANSPARENT:
                found += self._quantised_as(reader.output[0])
        return found

    def _dtype(self, node: onnx.NodeProto) -> str | None:
        """Dtype of the fused operator that runs an operator enclosed in Q and DQ; None: floats."""
        from_qdq = not node.doc_string  # _expand notes the operator that it was
        kinds, weight = set(), "i8"
        for index, name in enumerate(node.input):
            made = self._producer.get(name)
            if made is None or made.op_type != "DequantizeLinear":
                continue
            if name not in self._constants:
                kinds.add(self._activation_type(made.input[0], from_qdq))
            elif index == 1 and node.op_type in WEIGHTED:
                weight = self._type(made.input[0])
        for name in self._quantised_as(node.output[0]):
            kinds.add(self._activation_type(name, from_qdq))
        if not kinds <= {"u8", "i8"} or weight not in ("u8", "i8"):
            return None
        if kinds == {"i8"} and not from_qdq:
            return "s8"
        if "i8" in kinds:
            return None
        return "u8" if weight == "u8" else "i8"

    def _quantised_next(self, name: str) -> bool:
        readers = self._readers.get(name, [])
        return (
            bool(readers)
            and name not in self._results
            and all(
                reader.op_type == "QuantizeLinear"
                or (reader.op_type in TRANSPARENT and self._ends.get(reader.output[0], False))
                for reader in readers
            )
        )

    def _from_int8(self, name: str) -> bool:
        node = self._producer.get(name)
        return node is not None and (
            node.op_type == "DequantizeLinear" or node.output[0] in self.outputs
        )

    def _is_whole(self, name: str) -> bool:
        """Whether the tensor itself holds 8-bit integers (pools and copies of QOperator files)."""
        node = self._producer.get(name)
        return name in self._whole or (node is not None and node.op_type == "QuantizeLinear")

    def _is_int8(self, node: onnx.NodeProto) -> bool:
        if node.op_type in QUANTISERS:
            return False
        activations = [name for name in node.input if name and name not in self._constants]
        if activations and all(map(self._is_whole, activations)):
            self._whole.add(node.output[0])
            return True
        if not activations or not all(map(self._from_int8, activations)):
            return False
        if node.op_type in WEIGHTED | KEEP_FLOAT_WEIGHTS:
            made = [self._producer.get(name) for name in node.input[1:] if name in self._constants]
            if any(one is not None and one.op_type != "DequantizeLinear" for one in made):
                return False  # such as a bias that Identity hands to several convolutions
            if made and made[0] is None:  # float weights: the runtime quantises those of a Conv
                return node.op_type not in KEEP_FLOAT_WEIGHTS and self._ends[node.output[0]]
        return self._ends[node.output[0]] or node.op_type in ("Gemm", "MatMul")

    def _hides_relu(self, node: onnx.NodeProto) -> bool:
        source = self._producer.get(node.input[0])
        if source is None or source.op_type not in HIDES_RELU:
            return False
        if source.output[0] not in self.outputs or len(self._readers[node.input[0]]) != 1:
            return False
        if not self._starts_at_zero(node):
            return False
        if source.op_type in ALWAYS_SIGNED:
            return True
        return any(
            producer.op_type == "DequantizeLinear" and not self._starts_at_zero(producer)
            for producer in map(self._producer.get, source.input)
            if producer is not None
        )

    def _starts_at_zero(self, node: onnx.NodeProto) -> bool:
        zero = self._value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is None or zero.size != 1 or zero.dtype.kind not in "iu":
            return False
        return int(zero.reshape(-1)[0]) == int(np.iinfo(zero.dtype).min)
