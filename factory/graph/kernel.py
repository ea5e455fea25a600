"""Kernel: a fused operator as a runtime executes it, with static shapes; the factory's join key.

A measured row, a feature of a predictor, a choice of a search space and a line of a report are
all keyed by it. Its text form is a public format (docs/formats/kernels.md):
``Conv(x=1x16x32x32,w=32x16x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)``. MACs are multiply-adds of
convolutions and matrix products only.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

from factory.core.errors import InputError
from factory.graph.shapes import (
    ELEMENTWISE,
    Shape,
    elements,
    output_shape,
    parse_shape,
    shape_text,
)

# f32; and 8-bit operators, by the types of their activations and weights: i8 is uint8 with int8 as
# quantisers write it by default, u8 is uint8 with uint8, s8 is int8 with int8.
DTYPES = ("f32", "i8", "u8", "s8")
BYTES = {"f32": 4, "i8": 1, "u8": 1, "s8": 1}
BIAS_BYTES = 4
NO_INPUT = "none"  # of an operator whose inputs are constants, or have no element
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
CONVOLUTIONS = frozenset({"Conv", "ConvInteger"})
COMMUTATIVE = frozenset({"Add", "Mul", "Min", "Max", "Sum", "Mean"})

# Attributes in the order in which they are written; those after "|" only when not the default.
ATTRIBUTE_ORDER: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Conv": (("s", "p", "d", "g", "act"), ()),
    "ConvInteger": (("s", "p", "d", "g", "act"), ()),
    "Gemm": (("act",), ()),
    "MaxPool": (("k", "s", "p"), ("d", "ceil")),
    "AveragePool": (("k", "s", "p"), ("d", "ceil", "incl")),
    "Concat": (("axis",), ("y",)),
}

_COPIES = (
    "Slice Pad Transpose Reshape Flatten Squeeze Unsqueeze Split Expand Tile Gather Identity "
    "DepthToSpace SpaceToDepth Resize"
)
COPIES = frozenset(_COPIES.split())

_TEXT = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)\(([^()\s]*)\)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE = re.compile(r"[A-Za-z0-9_.+:-]+")


@functools.total_ordering
@dataclass(frozen=True)
class Kernel:
    """One fused operator.

    Attributes:
        op: name of the ONNX operator.
        inputs: shapes of the activation inputs (batch 1, NCHW).
        weight: shape of the weight, where there is one; Conv (out, in/groups, kh, kw), Gemm
            (out, in). Conv and Gemm always have a bias.
        attrs: (name, value) pairs in the fixed order of the operator.
        dtype: "f32", or one of the 8-bit forms (32-bit bias): see DTYPES.
    """

    op: str
    inputs: tuple[Shape, ...]
    weight: Shape | None = None
    attrs: tuple[tuple[str, str], ...] = ()
    dtype: str = "f32"

    def __str__(self) -> str:
        parts = ["x=" + ("+".join(map(shape_text, self.inputs)) or NO_INPUT)]
        if self.weight is not None:
            parts.append("w=" + shape_text(self.weight))
        parts += [f"{name}={value}" for name, value in self.attrs]
        parts.append(f"dtype={self.dtype}")
        return f"{self.op}({','.join(parts)})"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Kernel):
            return NotImplemented
        return self._order() < other._order()

    def _order(self) -> tuple[object, ...]:
        weight = (-1,) if self.weight is None else self.weight
        return (self.op, self.inputs, weight, self.attrs, self.dtype)

    @classmethod
    def parse(cls, text: str) -> Kernel:
        """The kernel that prints as ``text``; raises InputError on any other text."""
        try:
            kernel = _parse(text)
        except ValueError as error:
            raise InputError(
                f"{text!r} is not a kernel",
                why=str(error),
                fix="write it as Conv(x=1x16x32x32,w=32x16x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)",
            ) from None
        return kernel

    def attr(self, name: str, default: str = "") -> str:
        """Value of the attribute ``name``, or ``default``."""
        for key, value in self.attrs:
            if key == name:
                return value
        return default

    def with_dtype(self, dtype: str) -> Kernel:
        """The same operator in another precision."""
        return self if dtype == self.dtype else replace(self, dtype=dtype)

    @property
    def output_shape(self) -> Shape:
        """Shape of the (first) output."""
        return output_shape(self.op, self.inputs, self.weight, dict(self.attrs))

    @property
    def macs(self) -> int:
        """Multiply-adds: those of convolutions and matrix products follow from the shapes, others
        are the attribute ``macs``; 0 without it."""
        if told := self.attr("macs"):
            return int(told)
        if self.op in CONVOLUTIONS and self.weight is not None:
            return elements(self.output_shape) * elements(self.weight[1:])
        if self.op == "ConvTranspose" and self.weight is not None:
            return elements(self.inputs[0]) * elements(self.weight[1:])
        if self.op in ("Gemm", "MatMul", "MatMulInteger"):
            return elements(self.output_shape) * self.inputs[0][-1]
        return 0

    @property
    def opaque(self) -> bool:
        """Whether nothing is known of the operator but its name: ONNX does not define it, or what
        it does lies in a body of its own."""
        return "." in self.op or self.op in CONTROL

    @property
    def bias(self) -> int:
        """Number of bias elements (Conv and Gemm have one an output channel)."""
        return self.weight[0] if self.op in ("Conv", "Gemm") and self.weight else 0

    @property
    def params(self) -> int:
        """Weight and bias elements."""
        return 0 if self.weight is None else elements(self.weight) + self.bias

    @property
    def input_bytes(self) -> int:
        """Bytes of the activation inputs."""
        return sum(map(elements, self.inputs)) * BYTES[self.dtype]

    @property
    def weight_bytes(self) -> int:
        """Bytes of weight and bias (the bias of an i8 kernel is 32-bit)."""
        if self.weight is None:
            return 0
        return elements(self.weight) * BYTES[self.dtype] + self.bias * BIAS_BYTES

    @property
    def output_bytes(self) -> int:
        """Bytes of the output."""
        return elements(self.output_shape) * BYTES[self.dtype]

    @property
    def kind(self) -> str:
        """Group for predictors: conv_depthwise, conv_pointwise, conv_dense, conv_grouped, gemm,
        pool, elementwise, concat, global_pool, copy, quantise or other.
        """
        if self.op in CONVOLUTIONS and self.weight is not None:
            groups = self.inputs[0][1] // self.weight[1]
            if groups > 1:
                return "conv_depthwise" if self.weight[1] == 1 else "conv_grouped"
            return "conv_pointwise" if elements(self.weight[2:]) == 1 else "conv_dense"
        if self.op in COPIES:
            return "copy"
        if self.op in ELEMENTWISE:
            return "elementwise"
        return _KINDS.get(self.op, "other")


_KINDS = {
    "Gemm": "gemm",
    "MatMul": "gemm",
    "MatMulInteger": "gemm",
    "MaxPool": "pool",
    "AveragePool": "pool",
    "Concat": "concat",
    "GlobalAveragePool": "global_pool",
    "GlobalMaxPool": "global_pool",
    "ReduceMean": "global_pool",
    "QuantizeLinear": "quantise",
    "DequantizeLinear": "quantise",
    "DynamicQuantizeLinear": "quantise",
}
KINDS = (
    "conv_depthwise",
    "conv_pointwise",
    "conv_dense",
    "conv_grouped",
    "gemm",
    "pool",
    "elementwise",
    "concat",
    "global_pool",
    "copy",
    "quantise",
    "other",
)


def _parse(text: str) -> Kernel:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError("expected Op(x=...,dtype=...) without blanks")
    op, body = match.groups()
    pairs = []
    for item in body.split(","):
        name, equals, value = item.partition("=")
        if not equals or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"{item!r} is not name=value")
        pairs.append((name, value))
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("an attribute is given twice")
    if names[0] != "x" or names[-1] != "dtype":
        raise ValueError("the first item must be x=..., the last dtype=...")
    if pairs[-1][1] not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}")
    shapes = () if pairs[0][1] == NO_INPUT else pairs[0][1].split("+")
    inputs = tuple(map(parse_shape, shapes))
    weight = None
    rest = pairs[1:-1]
    if rest and rest[0][0] == "w":
        weight = parse_shape(rest[0][1])
        rest = rest[1:]
    if {"x", "w", "dtype"} & {name for name, _ in rest}:
        raise ValueError("x, w and dtype have fixed places: first, second and last")
    _check_order(op, [name for name, _ in rest])
    kernel = Kernel(op, inputs, weight, tuple(rest), pairs[-1][1])
    kernel.output_shape, kernel.macs  # noqa: B018  raise ValueError where shapes do not fit
    return kernel


def _check_order(op: str, names: list[str]) -> None:
    if op not in ATTRIBUTE_ORDER:
        return
    required, optional = ATTRIBUTE_ORDER[op]
    allowed = [name for name in (*required, *optional) if name in required or name in names]
    if names != allowed:
        known = ", ".join(required) + (f" [{', '.join(optional)}]" if optional else "")
        raise ValueError(f"the attributes of {op} are, in this order: {known}")
