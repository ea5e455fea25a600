"""Static shapes: their text form and the output shape of every operator that has a rule.

Legend: a shape is a tuple of positive integers, NCHW for images; () is a scalar. ``p`` (pads) are
(begin of each spatial axis..., end of each spatial axis...), as in ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Shape = tuple[int, ...]
Rule = Callable[[Sequence[Shape], "Shape | None", Mapping[str, str]], Shape]

_ELEMENTWISE = (
    "Add Sub Mul Div Pow Min Max Sum Mean Relu Clip Sigmoid HardSigmoid HardSwish LeakyRelu Tanh "
    "Elu Selu Celu PRelu Gelu Swish Mish Softplus Softsign ThresholdedRelu Exp Log Sqrt Abs Neg "
    "Erf Reciprocal Floor Ceil Round Sign Sin Cos Not And Or Xor Equal Greater GreaterOrEqual "
    "Less LessOrEqual Where Mod BatchNormalization InstanceNormalization LayerNormalization "
    "Softmax LogSoftmax Cast"
)
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
MOST_ELEMENTS = 10**12  # of a tensor: terabytes


def elements(shape: Shape) -> int:
    """Number of elements."""
    return math.prod(shape)


def shape_text(shape: Shape) -> str:
    """'1x16x32x32'; a scalar is 'scalar'."""
    return "x".join(map(str, shape)) if shape else "scalar"


def parse_shape(text: str) -> Shape:
    """Inverse of :func:`shape_text`; raises ValueError on anything else."""
    if text == "scalar":
        return ()
    shape = tuple(int(part) for part in text.split("x"))
    if any(size < 1 for size in shape) or shape_text(shape) != text:
        raise ValueError(f"{text!r} is not a shape")
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"{text[:60]!r} has more than {MOST_ELEMENTS:.0e} elements")
    return shape


def spatial_text(values: Sequence[int]) -> str:
    """'3' when all values are equal, else '1x2' (stride, dilation, kernel size, offset)."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def spatial_values(text: str, axes: int) -> tuple[int, ...]:
    """The value of each of ``axes`` spatial axes; inverse of :func:`spatial_text`."""
    values = tuple(int(part) for part in text.split("x"))
    if len(values) == 1:
        values *= axes
    if len(values) != axes or min(values) < 0:
        raise ValueError(f"{text!r} does not give {axes} values")
    return values


def pads_text(pads: Sequence[int]) -> str:
    """'1' all equal, '1x2' symmetric per axis, '0x0x1x1' begins then ends."""
    half = len(pads) // 2
    if tuple(pads[:half]) == tuple(pads[half:]):
        return spatial_text(pads[:half])
    return "x".join(map(str, pads))


def pads_values(text: str, axes: int) -> tuple[int, ...]:
    """Begins then ends of ``axes`` spatial axes; inverse of :func:`pads_text`."""
    if text.count("x") + 1 == 2 * axes and axes > 0:
        return spatial_values(text, 2 * axes)
    return spatial_values(text, axes) * 2


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The common shape of multidirectional broadcasting."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        size = max(sizes)
        if any(other not in (1, size) for other in sizes):
            raise ValueError(f"shapes {' and '.join(map(shape_text, shapes))} do not broadcast")
        result.append(size)
    return tuple(result)


def window_count(
    size: int, kernel: int, stride: int, pad_begin: int, pad_end: int, dilation: int, ceil: bool
) -> int:
    """How many windows fit along one axis (a window must start inside the padded begin)."""
    span = size + pad_begin + pad_end - dilation * (kernel - 1) - 1
    if not ceil:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad_begin else count


def _windows(x: Shape, kernel: Sequence[int], attrs: Mapping[str, str]) -> Shape:
    axes = len(x) - 2
    stride = spatial_values(attrs["s"], axes)
    pads = pads_values(attrs["p"], axes)
    dilation = spatial_values(attrs.get("d", "1"), axes)
    if min(stride) < 1 or min(dilation) < 1 or len(kernel) != axes:
        raise ValueError("stride, dilation and kernel size must be positive, one per axis")
    ceil = attrs.get("ceil", "0") == "1"
    return tuple(
        window_count(x[2 + i], kernel[i], stride[i], pads[i], pads[axes + i], dilation[i], ceil)
        for i in range(axes)
    )


def _conv(inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]) -> Shape:
    x = inputs[0]
    groups = int(attrs["g"])
    if weight is None or len(weight) != len(x) or x[1] != weight[1] * groups:
        raise ValueError("the weight does not match the channels of the input")
    if groups < 1 or weight[0] % groups:
        raise ValueError("the output channels are not a multiple of the groups")
    return (x[0], weight[0], *_windows(x, weight[2:], attrs))


def _pool(inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]) -> Shape:
    x = inputs[0]
    return (*x[:2], *_windows(x, spatial_values(attrs["k"], len(x) - 2), attrs))


def _global(inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]) -> Shape:
    x = inputs[0]
    return (*x[:2], *(1 for _ in x[2:]))


def _gemm(inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]) -> Shape:
    x = inputs[0]
    if weight is None or len(weight) != 2 or x[-1] != weight[1]:
        raise ValueError("the weight does not match the features of the input")
    return (*x[:-1], weight[0])


def _matmul(inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]) -> Shape:
    a, b = (inputs[0], weight) if weight is not None else inputs
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ValueError("the inner sizes of the two matrices differ")
    return (*broadcast([a[:-2], b[:-2]]), a[-2], b[-1])


def _concat(inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]) -> Shape:
    axis, first = int(attrs["axis"]), inputs[0]
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in inputs}
    if not 0 <= axis < len(first) or len(rest) != 1:
        raise ValueError("the inputs of Concat differ outside its axis")
    return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])


def _slice(inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]) -> Shape:
    x = inputs[0]
    start = spatial_values(attrs["start"], len(x) - 2)
    return (*x[:2], *(size - begin for size, begin in zip(x[2:], start, strict=True)))


def _pad(inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]) -> Shape:
    x = inputs[0]
    axes = len(x) - 2
    pads = pads_values(attrs["p"], axes)
    return (*x[:2], *(x[2 + i] + pads[i] + pads[axes + i] for i in range(axes)))


def _same(inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]) -> Shape:
    return inputs[0] if len(inputs) == 1 and weight is None else broadcast(inputs)


RULES: dict[str, Rule] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global,
    "GlobalMaxPool": _global,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Concat": _concat,
    "Slice": _slice,
    "Pad": _pad,
}


def output_shape(
    op: str, inputs: Sequence[Shape], weight: Shape | None, attrs: Mapping[str, str]
) -> Shape:
    """Shape of the (first) output: the attribute ``y`` where given, else the operator's rule.

    Raises:
        ValueError: shapes and attributes do not fit together.
    """
    given = attrs.get("y")
    if given is not None:
        return parse_shape(given)
    rule = RULES.get(op)
    if rule is None:
        if op in ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max") and weight is not None:
            return broadcast([*inputs, weight])
        return _same(inputs, weight, attrs)
    try:
        shape = rule(inputs, weight, attrs)
    except KeyError as error:
        raise ValueError(f"{op} needs the attribute {error.args[0]!r}") from None
    except IndexError:
        raise ValueError(f"an input of {op} has too few axes") from None
    if any(size < 1 for size in shape):
        raise ValueError(f"the output {shape_text(shape)} of {op} is empty")
    if elements(shape) > MOST_ELEMENTS:
        raise ValueError(f"the output of {op} has more than {MOST_ELEMENTS:.0e} elements")
    return shape
