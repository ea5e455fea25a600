"""Features of a kernel that its running time depends on, for the regressors.

Amounts of work and traffic enter as logarithms, because times are fitted in log space: a kernel
with twice the work should cost a constant more. Vector runtimes compute in blocks of channels
(16 with AVX-512, 8 with AVX2) and go over sets of four blocks and tiles of columns, so what is left
over at the end of each has columns of its own, for both widths. What does not fit into the first
or the second cache has columns that are zero below its size. Categories
(operator, fused activation) are one column each and are listed in a :class:`FeatureSpace`, so that
a saved predictor keeps its columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.graph.kernel import COPIES, DTYPES, Kernel
from factory.graph.shapes import elements
from factory.latency.tensor_features import GATES, TENSOR, permutation, tensor_features

BLOCK = 16  # channels a block of the widest vectors
NARROW = 8  # and of vectors half as wide
SET = 4  # blocks of output channels that are computed in one go
BATCH = 128  # input channels that a pointwise convolution adds up in one go
LOG_L1, LOG_L2 = math.log(32 << 10), math.log(512 << 10)
LOG_CACHE = math.log(1 << 20)  # from about here on a kernel's data leave the core's cache
EIGHT_BIT = tuple(f"_{dtype}" for dtype in DTYPES if dtype != "f32")  # endings of families
RAGGED, HALF, FLAT = "_ragged", "_half_block", "_flat"  # and of those of one precision
COLUMN_TILE = 6  # output columns that a convolution kernel computes at once
_NUMERIC = (
    "log_macs log_padded_macs log_input_bytes log_weight_bytes log_output_bytes log_traffic "
    "log_channels_in log_channels_out log_group_width log_groups log_height_in log_height_out "
    "log_width_out log_pixels_out log_window window stride dilation log_intensity padding_ratio "
    "in_mod_block out_mod_block in_ragged_block out_ragged_block in_ragged_4 out_ragged_4 "
    "group_ragged_block out_blocks_mod_4 out_tile_ratio column_ratio few_channels_in n_inputs "
    "broadcast log_second_input log_smallest_input split_ragged rank changes_channels from_start "
    "log_work_over_cache "
    "log_narrow_macs narrow_padding_ratio narrow_set_ratio narrow_set_rest log_narrow_blocks_out "
    "log_narrow_blocks_in in_ragged_narrow out_ragged_narrow group_ragged_narrow "
    "out_narrow_ratio group_narrow_ratio columns_2_ratio columns_3_ratio pixels_3_ratio "
    "pixels_6_ratio log_batches batch_ratio inner_columns_ratio log_edge_columns "
    "log_inner_columns input_over_l2 weight_over_l2 output_over_l2 input_over_l1 weight_over_l1 "
    "set_over_l1 log_set_weight log_input_rows maps_over_l2 log_weight_over_maps out_block_ratio "
    "pixels_16_ratio out_rest log_width_in padding log_output_over_input"
)
NUMERIC = _NUMERIC.split()


def family(kernel: Kernel) -> str:
    """The group of kernels that shares a regressor: one of :func:`_family`, and the precision."""
    ending = "" if kernel.dtype == "f32" else f"_{kernel.dtype}"
    return _family(kernel) + ending


def _family(kernel: Kernel) -> str:
    """The family whatever the precision.

    Finer than the kind: convolutions whose channels do not fill whole quarters of a block run
    through another algorithm, and those on a single pixel are matrix products. Average pools over
    channels that do not fill whole blocks, of 16 or of 8 by the chip, take ten to forty times as
    long (measured with AVX2: 16 ns an element, 0.2 to 0.9 in whole blocks). Sums and activations of
    pictures are often folded into a convolution, those of sequences are not.
    """
    kind, op = kernel.kind, kernel.op
    if op == "Conv" and kernel.weight is not None and len(kernel.inputs[0]) == 4:
        return _conv_family(kernel)
    if kind == "pool":
        if op == "MaxPool":
            return "max_pool"
        channels = kernel.inputs[0][1]
        if channels % NARROW:
            return f"avg_pool{RAGGED}"
        return f"avg_pool{HALF}" if channels % BLOCK else "avg_pool"
    if op in COPIES:
        return _copy_family(kernel)
    if op in _FAMILY_OF_OPERATOR:
        return _FAMILY_OF_OPERATOR[op]
    if kind == "gemm":
        if kernel.weight is None:
            return "matmul"
        return "gemm" if elements(kernel.inputs[0][:-1]) == 1 else "linear"
    if op.startswith(("Reduce", "Arg")) and op != "ReduceMean":
        return "reduce"
    flat = "" if len(kernel.inputs[0] if kernel.inputs else ()) == 4 else FLAT
    if kind == "elementwise":
        return ("binary" if len(kernel.inputs) > 1 else "unary") + flat
    if kind == "concat":
        return kind + flat
    return kind


def _conv_family(kernel: Kernel) -> str:
    kind, out = kernel.kind, kernel.output_shape
    assert kernel.weight is not None
    if kind == "conv_pointwise" and out[2] * out[3] == 1:
        return "conv_pixel"
    channels_in = kernel.inputs[0][1]
    blocked_input = kind != "conv_dense" or channels_in >= NARROW  # few channels: read plain
    if kind == "conv_grouped":
        groups = channels_in // kernel.weight[1]
        if kernel.weight[1] % NARROW or (out[1] // groups) % NARROW:
            return f"{kind}{RAGGED}"
    if out[1] % 4 or (blocked_input and channels_in % 4):
        return f"{kind}{RAGGED}"
    return kind


_FAMILY_OF_OPERATOR = {
    "ConvTranspose": "conv_transpose",
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "LayerNormalization": "norm",
    "InstanceNormalization": "norm",
    "GroupNormalization": "norm",
    "BatchNormalization": "norm",
    "LpNormalization": "norm",
    "ReduceMean": "reduce",
    **dict.fromkeys(GATES, "recurrent"),
}


def _copy_family(kernel: Kernel) -> str:
    """By what is moved: a Reshape moves nothing, and a runtime's blocked layout takes in some."""
    if kernel.op == "Transpose":
        order = permutation(kernel)
        last = [*range(len(order) - 2), len(order) - 1, len(order) - 2]
        if order == sorted(order):
            return "reshape"  # only axes of one element move
        return "transpose_last" if order == last else "transpose"
    if kernel.op == "Resize":
        x, out = kernel.inputs[0], kernel.output_shape
        whole = len(x) == 4 and x[:2] == out[:2] and not (out[2] % x[2] or out[3] % x[3])
        blocked = (
            whole and kernel.attr("scaled") == "1" and kernel.attr("mode") in ("nearest", "linear")
        )
        if kernel.attr("mode") == "cubic":
            return "resize_cubic"  # a hundred times the others
        return "resize_blocked" if blocked else "resize"
    return _FAMILY_OF_COPY.get(kernel.op, "copy")


_FAMILY_OF_COPY = {
    "Reshape": "reshape",
    "Flatten": "reshape",
    "Squeeze": "reshape",
    "Unsqueeze": "reshape",
    "Identity": "reshape",
    "Slice": "slice",
    "Split": "split",
    "Gather": "gather",
    "Pad": "pad",
}
# Families that stand in for each other where one was not measured, the nearest ones together.
_NEAR = (
    ("linear", "gemm", "matmul", "conv_pointwise", "conv_pixel"),
    ("recurrent", "gemm", "linear", "conv_pixel"),
    ("conv_transpose", "conv_dense", "conv_grouped"),
    ("norm", "softmax", "reduce", f"unary{FLAT}", "unary", "global_pool"),
    ("transpose", "transpose_last", "slice", "split", "copy"),
    ("resize", "resize_blocked", "resize_cubic", "copy", "pad"),
    ("slice", "split", "gather", "pad", "copy", f"concat{FLAT}", "concat"),
    ("unary", f"unary{FLAT}", "binary", f"binary{FLAT}"),
    ("max_pool", "avg_pool"),
    ("conv_dense", "conv_grouped", "conv_pointwise", "conv_pixel"),
    ("conv_depthwise", "conv_grouped"),
)
_IMAGE = ("conv_", "max_pool", "avg_pool", "global_pool")


def relatives(name: str) -> list[str]:
    """The family, then those that stand in where it was not measured, the nearest first.

    Of its own precision first, then of the other 8-bit forms.
    """
    ending = next((one for one in EIGHT_BIT if name.endswith(one)), "")
    plain = name.removesuffix(ending)
    base = plain.removesuffix(RAGGED).removesuffix(HALF).removesuffix(FLAT)
    found = [plain, base, base + HALF, base + RAGGED, base + FLAT]
    for group in _NEAR:
        if plain in group or base in group:
            found += group
    endings = dict.fromkeys([ending, *(EIGHT_BIT if ending else ())])
    return list(dict.fromkeys(one + ending for ending in endings for one in found))


def columns_of(kernel: Kernel) -> str:
    """Which columns tell about the kernel: "image" or "tensor"."""
    name = _family(kernel)
    if name == "conv_transpose":
        return "tensor"
    return "image" if name.startswith(_IMAGE) or name in ("unary", "binary", "concat") else "tensor"


def _first_int(text: str, default: int) -> int:
    """Largest integer of an attribute text such as '2', '1x2' or '1x1x0x0'."""
    numbers = [int(part) for part in text.split("x") if part.lstrip("-").isdigit()]
    return max(numbers) if numbers else default


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def numeric_features(kernel: Kernel) -> list[float]:
    """The numeric columns of one kernel, in the order of NUMERIC."""
    x = kernel.inputs[0] if kernel.inputs else (1,)
    out = kernel.output_shape
    channels_in = x[1] if len(x) > 1 else 1
    channels_out = out[1] if len(out) > 1 else 1
    height_in = x[2] if len(x) > 2 else 1
    height_out = out[2] if len(out) > 2 else 1
    width_out = out[3] if len(out) > 3 else 1
    pixels_out = elements(out[2:])
    if kernel.weight is not None and len(kernel.weight) > 2:
        window, group_width = elements(kernel.weight[2:]), kernel.weight[1]
        side = max(kernel.weight[2:])
    else:
        side = _first_int(kernel.attr("k", "1"), 1)
        window, group_width = side * side, channels_in
    groups = max(1, channels_in // max(group_width, 1))
    depthwise = groups > 1 and group_width == 1
    traffic = kernel.input_bytes + kernel.weight_bytes + kernel.output_bytes
    macs = kernel.macs
    padded_in = channels_in if channels_in < BLOCK else _up(channels_in, BLOCK)
    padded_out = _up(channels_out, BLOCK)
    padded = padded_out * pixels_out * window
    if macs and not depthwise:
        padded = padded * padded_in // groups
    padded = padded if macs else 0
    blocks = padded_out // BLOCK
    second = elements(kernel.inputs[1]) if len(kernel.inputs) > 1 else 0
    log = math.log1p
    return [
        log(macs),
        log(padded),
        log(kernel.input_bytes),
        log(kernel.weight_bytes),
        log(kernel.output_bytes),
        log(traffic),
        log(channels_in),
        log(channels_out),
        log(group_width),
        log(groups),
        log(height_in),
        log(height_out),
        log(width_out),
        log(pixels_out),
        log(window),
        float(side),
        float(_first_int(kernel.attr("s", "1"), 1)),
        float(_first_int(kernel.attr("d", "1"), 1)),
        log(macs / max(1, traffic)),
        padded / macs if macs else 1.0,
        channels_in % BLOCK / BLOCK,
        channels_out % BLOCK / BLOCK,
        float(channels_in % BLOCK != 0),
        float(channels_out % BLOCK != 0),
        float(channels_in % 4 != 0),
        float(channels_out % 4 != 0),
        float(group_width % BLOCK != 0),
        float(blocks % 4),
        _up(blocks, 4) / max(blocks, 1),
        _up(width_out, COLUMN_TILE) / width_out,
        float(channels_in < BLOCK),
        float(len(kernel.inputs)),
        float(len(set(kernel.inputs)) > 1),
        log(second),
        log(min((elements(shape) for shape in kernel.inputs), default=0)),
        float(any(len(shape) > 1 and shape[1] % BLOCK for shape in kernel.inputs)),
        float(len(x)),
        float(channels_in != channels_out),
        float(_first_int(kernel.attr("start", "0"), 0) == 0),
        max(0.0, log(traffic) - LOG_CACHE),
        *_blocking_features(kernel, window, group_width, groups),
    ]


def _ratio(value: int, step: int) -> float:
    """How much rounding up to whole steps adds: 1 where nothing is left over."""
    return _up(value, step) / max(value, 1)


def _blocking_features(kernel: Kernel, window: int, group_width: int, groups: int) -> list[float]:
    """Columns about narrow blocks, tiles of the output, its edges and caches, as in NUMERIC."""
    x = kernel.inputs[0] if kernel.inputs else (1,)
    out = kernel.output_shape
    channels_in = x[1] if len(x) > 1 else 1
    channels_out = out[1] if len(out) > 1 else 1
    width_in = x[3] if len(x) > 3 else 1
    width_out = out[3] if len(out) > 3 else 1
    pixels_out = elements(out[2:])
    weighted = kernel.weight is not None and len(kernel.weight) > 2
    window = window if weighted else 1
    side = round(math.sqrt(window))
    blocks_out, blocks_in = -(-channels_out // NARROW), -(-group_width // NARROW)
    padded = 0
    if kernel.macs:
        padded = _up(channels_out, NARROW) * pixels_out * window
        if not (groups > 1 and group_width == 1):
            padded *= group_width if channels_in < NARROW else _up(group_width, NARROW)
    stride = max(1, _first_int(kernel.attr("s", "1"), 1))
    inner = width_out
    if kernel.op in ("Conv", "MaxPool", "AveragePool"):  # columns whose window needs no padding
        inner = min(width_out, max(0, (width_in - side) // stride + 1))
    log = math.log1p
    in_bytes, weight_bytes, out_bytes = (
        kernel.input_bytes,
        kernel.weight_bytes,
        kernel.output_bytes,
    )
    set_weight = log(4 * group_width * window * min(channels_out, SET * NARROW))

    def over(size: int, log_cache: float) -> float:
        return max(0.0, log(size) - log_cache)

    return [
        log(padded),
        padded / kernel.macs if kernel.macs else 1.0,
        _ratio(blocks_out, SET),
        float(blocks_out % SET),
        log(blocks_out),
        log(blocks_in),
        float(channels_in % NARROW != 0),
        float(channels_out % NARROW != 0),
        float(group_width % NARROW != 0),
        _ratio(channels_out, NARROW),
        _ratio(group_width, NARROW),
        _ratio(width_out, 2),
        _ratio(width_out, 3),
        _ratio(pixels_out, 3),
        _ratio(pixels_out, COLUMN_TILE),
        log(-(-group_width // BATCH)),
        _ratio(group_width, BATCH),
        inner / max(width_out, 1),
        log(width_out - inner),
        log(inner),
        over(in_bytes, LOG_L2),
        over(weight_bytes, LOG_L2),
        over(out_bytes, LOG_L2),
        over(in_bytes, LOG_L1),
        over(weight_bytes, LOG_L1),
        max(0.0, set_weight - LOG_L1),
        set_weight,
        log(4 * width_in * min(group_width, NARROW) * side),
        over(in_bytes + out_bytes, LOG_L2),
        math.log(weight_bytes / max(1, in_bytes + out_bytes)) if weight_bytes else 0.0,
        _ratio(channels_out, BLOCK),
        _ratio(pixels_out, BLOCK),
        float(channels_out % BLOCK),
        log(width_in),
        float(_first_int(kernel.attr("p", "0"), 0)),
        math.log(max(1, out_bytes) / max(1, in_bytes)),
    ]


COLUMNS = {"image": (NUMERIC, numeric_features), "tensor": (TENSOR, tensor_features)}


@dataclass(frozen=True)
class FeatureSpace:
    """The columns of one regressor: the numeric ones, then one per known operator, activation.

    Attributes:
        columns: which numeric columns, a key of :data:`COLUMNS`.
    """

    operators: tuple[str, ...]
    activations: tuple[str, ...]
    columns: str = "image"

    @classmethod
    def of(cls, kernels: Sequence[Kernel]) -> FeatureSpace:
        """The categories that occur in ``kernels``; of several families the image's columns."""
        kinds = {columns_of(k) for k in kernels}
        return cls(
            tuple(sorted({k.op for k in kernels})),
            tuple(sorted({k.attr("act", "none") for k in kernels})),
            kinds.pop() if len(kinds) == 1 else "image",
        )

    @property
    def numeric(self) -> int:
        """Number of numeric columns; they come first."""
        return len(COLUMNS[self.columns][0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.numeric + len(self.operators) + len(self.activations)

    def matrix(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """One row a kernel; an unknown category is all zeros in its columns."""
        rows = []
        numbers = COLUMNS[self.columns][1]
        for kernel in kernels:
            activation = kernel.attr("act", "none")
            rows.append(
                numbers(kernel)
                + [float(kernel.op == name) for name in self.operators]
                + [float(activation == name) for name in self.activations]
            )
        return np.asarray(rows, dtype=float).reshape(len(kernels), self.width)

    def knows(self, kernel: Kernel) -> bool:
        """True when the kernel's operator was among those fitted."""
        return kernel.op in self.operators

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {
            "operators": list(self.operators),
            "activations": list(self.activations),
            "columns": self.columns,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> FeatureSpace:
        """The inverse of :meth:`to_dict`."""
        columns = str(value["columns"])
        if columns not in COLUMNS:
            raise ValueError(f"columns {columns!r}")
        return cls(
            tuple(map(str, value["operators"])), tuple(map(str, value["activations"])), columns
        )
