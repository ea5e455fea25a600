"""Columns of the kernels that are no operators on pictures: matrices, normalisations, copies.

What their time depends on is the sizes of the matrices, the axis that is gone over and what lies
outside and inside of it, how long a run of memory a copy moves at once, and how far operands are
broadcast.
"""

from __future__ import annotations

import math

from factory.graph.kernel import Kernel
from factory.graph.shapes import Shape, elements

ROWS, COLUMNS, WIDE = 6, 16, 64  # of a tile of a matrix product, and what is packed at once
LOG_L1, LOG_L2 = math.log(32 << 10), math.log(512 << 10)
RECURRENT = ("LSTM", "GRU", "RNN")
MODES = ("nearest", "linear", "cubic")
_TENSOR = (
    "log_macs log_input_bytes log_weight_bytes log_output_bytes log_traffic traffic_over_l1 "
    "traffic_over_l2 weight_over_l2 log_intensity rank log_last_in log_last_out log_rows "
    "log_batch log_m log_k log_n m_ratio n_ratio n_wide_ratio last_ragged log_axis log_outer "
    "log_inner axis_is_last n_inputs n_outputs broadcast log_second_input second_last "
    "weight_scalar weight_vector weight_channel moves_last log_run log_stride_in step "
    "resize_linear resize_cubic log_scale channels_ragged log_channels_in log_channels_out "
    "log_groups side stride log_steps log_hidden directions"
)
TENSOR = _TENSOR.split()


def integers(text: str) -> list[int]:
    """'0x2x1' -> [0, 2, 1]; whatever is no number is left out."""
    return [int(part) for part in text.split("x") if part.lstrip("-").isdigit()]


def permutation(kernel: Kernel) -> list[int]:
    """The order of a Transpose without axes of one element, by number among those that stay."""
    x = kernel.inputs[0]
    order = integers(kernel.attr("perm")) or list(range(len(x)))[::-1]
    kept = [axis for axis in order if axis < len(x) and x[axis] > 1]
    place = {axis: index for index, axis in enumerate(sorted(kept))}
    return [place[axis] for axis in kept]


def matrix_sizes(kernel: Kernel) -> tuple[int, int, int, int]:
    """(batch, m, k, n) of a matrix product; ones for any other kernel."""
    x, out = kernel.inputs[0], kernel.output_shape
    if kernel.op not in ("Gemm", "MatMul") or len(x) < 2 or len(out) < 2:
        return 1, 1, 1, 1
    if kernel.weight is not None and len(kernel.weight) == 2:
        return 1, elements(out[:-1]), x[-1], out[-1]
    return elements(out[:-2]), out[-2], x[-1], out[-1]


def _axis(kernel: Kernel) -> tuple[int, int, int]:
    """(length of what is gone over, product of the axes before it, product of those after)."""
    x = kernel.inputs[0] if kernel.inputs else (1,)
    axes = integers(kernel.attr("axes", kernel.attr("axis", "-1"))) or [-1]
    if kernel.op in ("InstanceNormalization", "GroupNormalization"):
        axes = list(range(2, len(x)))
    if kernel.op == "BatchNormalization":
        axes = [1] if len(x) > 1 else [0]
    if kernel.op == "LayerNormalization":
        axes = list(range(axes[0] % max(len(x), 1), len(x)))
    rank = max(len(x), 1)
    first, last = min(a % rank for a in axes), max(a % rank for a in axes)
    return elements(x[first : last + 1]), elements(x[:first]), elements(x[last + 1 :])


def _run(kernel: Kernel) -> tuple[bool, int]:
    """Whether the innermost axis moves, and how many elements lie together before and after."""
    x, out = kernel.inputs[0], kernel.output_shape
    if kernel.op == "Transpose":
        order = permutation(kernel)
        sizes = [size for size in x if size > 1]
        run = 1
        for place, axis in zip(range(len(order) - 1, -1, -1), reversed(order), strict=True):
            if place != axis:
                break
            run *= sizes[axis]
        return bool(order) and order[-1] != len(order) - 1, run
    run = 1
    for here, there in zip(reversed(x), reversed(out), strict=False):
        run *= min(here, there)
        if here != there:
            break
    return False, run


def _up(value: int, step: int) -> float:
    return -(-value // step) * step / max(value, 1)


def _weight_kind(weight: Shape | None, x: Shape) -> tuple[bool, bool, bool]:
    """Whether a constant operand is one number, a vector over the last axis, one a channel."""
    if weight is None:
        return False, False, False
    count = elements(weight)
    last = bool(weight) and bool(x) and count == weight[-1] == x[-1] and count > 1
    channel = len(x) > 1 and count == x[1] > 1 and bool(weight) and weight[-1] == 1
    return count == 1, last, channel


def tensor_features(kernel: Kernel) -> list[float]:
    """The columns of one kernel, in the order of TENSOR."""
    log = math.log1p
    x = kernel.inputs[0] if kernel.inputs else (1,)
    out = kernel.output_shape
    batch, m, k, n = matrix_sizes(kernel)
    axis, outer, inner = _axis(kernel)
    moves, run = _run(kernel)
    scalar, vector, channel = _weight_kind(kernel.weight, x)
    macs = kernel.macs
    traffic = kernel.input_bytes + kernel.weight_bytes + kernel.output_bytes
    second = kernel.inputs[1] if len(kernel.inputs) > 1 else ()
    mode = kernel.attr("mode")
    weighted = kernel.weight is not None and len(kernel.weight) > 2 and kernel.op not in RECURRENT
    window = kernel.weight[2:] if weighted and kernel.weight else ()
    order = permutation(kernel) if kernel.op == "Transpose" else []
    sizes = [size for size in x if size > 1]
    stride_in = elements(tuple(sizes[order[-1] + 1 :])) if order else 1
    channels_in = x[1] if len(x) > 1 else 1
    channels_out = out[1] if len(out) > 1 else 1
    return [
        log(macs),
        log(kernel.input_bytes),
        log(kernel.weight_bytes),
        log(kernel.output_bytes),
        log(traffic),
        max(0.0, log(traffic) - LOG_L1),
        max(0.0, log(traffic) - LOG_L2),
        max(0.0, log(kernel.weight_bytes) - LOG_L2),
        log(macs / max(1, traffic)),
        float(len(x)),
        log(x[-1] if x else 1),
        log(out[-1] if out else 1),
        log(elements(out[:-1])),
        log(batch),
        log(m),
        log(k),
        log(n),
        _up(m, ROWS),
        _up(n, COLUMNS),
        _up(n, WIDE),
        float(bool(out) and out[-1] % COLUMNS != 0),
        log(axis),
        log(outer),
        log(inner),
        float(inner == 1),
        float(len(kernel.inputs)),
        float(len(integers(kernel.attr("sizes", "1")))),
        float(len(set(kernel.inputs)) > 1),
        log(elements(second)) if second else 0.0,
        float(bool(second) and bool(x) and second[-1] == x[-1]),
        float(scalar),
        float(vector),
        float(channel),
        float(moves),
        log(run),
        log(stride_in),
        float(max(integers(kernel.attr("step", "1")), default=1)),
        float(mode == "linear"),
        float(mode == "cubic"),
        math.log(max(1, elements(out)) / max(1, elements(x))),
        float(channels_in % COLUMNS != 0),
        log(channels_in),
        log(channels_out),
        log(int(kernel.attr("group", "1"))) if kernel.attr("group", "1").isdigit() else 0.0,
        float(max(window, default=1)),
        float(max(integers(kernel.attr("strides", "1")), default=1)),
        log(x[0]) if kernel.op in RECURRENT else 0.0,
        log(out[-1]) if kernel.op in RECURRENT else 0.0,
        float(len(out) == 4 and out[1] == 2 and kernel.op in RECURRENT),
    ]
