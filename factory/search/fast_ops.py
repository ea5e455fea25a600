"""Layer functions of the supernet, arranged for what a CPU does well.

The mathematics is that of torch.nn.functional; measured on two x86-64 cores with torch 2.15:
- depthwise convolutions run 6-10 times faster in channels_last, but their backward passes have a
  fast path only for dense 3x3 kernels. The data gradient of any stride-1 depthwise convolution is
  a forward convolution with the flipped kernel (6-15 times faster when dilated); the weight
  gradient of a 5x5 is four 3x3 weight gradients on shifted windows, that of a dilated kernel is
  one of a dense kernel on the four phases of the image.
- a stride-2, dilation-2 "same" convolution is a dense one on every second pixel.
- batch normalisation of few channels reduces rows of several pixels at once; its affine-free
  output times a scalar per channel is one call, and the scalar's gradient comes with it.
On an accelerator the plain functions are used. Legend: N batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CL = torch.channels_last
DENSE_BELOW = 8  # a grouped 1x1 convolution with fewer channels a group runs as a dense one


def _fast(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


# ---------------------------------------------------------------- depthwise convolution


def depthwise(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Depthwise "same" convolution (padding = dilation * (k - 1) / 2); weight [C, 1, k, k]."""
    if stride == 2 and dilation == 2:
        x, stride, dilation = x[:, :, ::2, ::2].contiguous(memory_format=CL), 1, 1
    padding = dilation * (weight.shape[-1] - 1) // 2
    if stride != 1 or not _fast(x):
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])
    return _Depthwise.apply(x, weight, dilation)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        padding = dilation * (weight.shape[-1] - 1) // 2
        return F.conv2d(x, weight, None, 1, padding, dilation, x.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=CL)
        padding = ctx.dilation * (weight.shape[-1] - 1) // 2
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            flipped = weight.flip(2, 3)
            grad_x = F.conv2d(grad, flipped, None, 1, padding, ctx.dilation, x.shape[1])
        if ctx.needs_input_grad[1]:
            grad_weight = _depthwise_weight_grad(x, grad, weight, ctx.dilation)
        return grad_x, grad_weight, None


def _depthwise_weight_grad(x: Tensor, grad: Tensor, weight: Tensor, dilation: int) -> Tensor:
    h, w = x.shape[2:]
    size = weight.shape[-1]
    if dilation == 2 and h % 2 == 0 and w % 2 == 0 and min(h, w) > 2 and (size == 3 or h <= 16):
        return _depthwise_weight_grad(_phases(x), _phases(grad), weight, 1)
    if dilation != 1 or size != 5:
        padding = dilation * (size - 1) // 2
        return _native_weight_grad(x, grad, weight, padding, dilation)
    padded = F.pad(x, (2, 2, 2, 2)).contiguous(memory_format=CL)
    result = torch.empty_like(weight, memory_format=torch.contiguous_format)
    corner = weight[:, :, :3, :3]
    for i in (0, 2):
        for j in (0, 2):
            window = padded[:, :, i : i + h + 2, j : j + w + 2]
            result[:, :, i : i + 3, j : j + 3] = _native_weight_grad(window, grad, corner, 0, 1)
    return result


def _native_weight_grad(
    x: Tensor, grad: Tensor, weight: Tensor, padding: int, dilation: int
) -> Tensor:
    p, d, c = [padding] * 2, [dilation] * 2, x.shape[1]
    mask = [False, True, False]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], p, d, False, [0, 0], c, mask
    )[1]


def _phases(x: Tensor) -> Tensor:
    """The four images of every second pixel, stacked along the batch."""
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c).permute(2, 4, 0, 1, 3, 5)
    return x.reshape(4 * n, h // 2, w // 2, c).permute(0, 3, 1, 2)


# ---------------------------------------------------------------- pointwise convolution


def pointwise(x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """1x1 convolution; weight [C_out, C_in / groups]."""
    c_out, c_in = weight.shape
    if groups > 1 and c_in < DENSE_BELOW and _fast(x):
        blocks = weight.view(groups, c_out // groups, 1, c_in) * _block_mask(groups, weight.dtype)
        weight, groups = blocks.reshape(c_out, groups * c_in), 1
    return F.conv2d(x, weight[:, :, None, None], None, 1, 0, 1, groups)


def repeat_channels(x: Tensor, blocks: Sequence[int], times: Sequence[int]) -> Tensor:
    """Channel block i of ``x`` (``blocks[i]`` channels) ``times[i]`` times in a row, in order."""
    if sum(times) == 1:
        return x
    if max(blocks) <= DENSE_BELOW and _fast(x):
        index = _repeated(tuple(blocks), tuple(times))
        return F.conv2d(x, _selection(index, x.shape[1], x.dtype))
    parts = [part for part, n in zip(x.split(list(blocks), 1), times, strict=True) for _ in range(n)]
    return torch.cat(parts, 1)


@lru_cache(maxsize=64)
def _repeated(blocks: tuple[int, ...], times: tuple[int, ...]) -> tuple[int, ...]:
    index: list[int] = []
    start = 0
    for block, n in zip(blocks, times, strict=True):
        index += list(range(start, start + block)) * n
        start += block
    return tuple(index)


@lru_cache(maxsize=64)
def _block_mask(groups: int, dtype: torch.dtype) -> Tensor:
    return torch.eye(groups, dtype=dtype).view(groups, 1, groups, 1)


@lru_cache(maxsize=256)
def _selection(index: tuple[int, ...], channels: int, dtype: torch.dtype) -> Tensor:
    """1x1 convolution weight that copies channels ``index`` (exact: factors 0 and 1)."""
    matrix = torch.zeros(len(index), channels, dtype=dtype)
    matrix[torch.arange(len(index)), torch.tensor(index)] = 1.0
    return matrix[:, :, None, None]


def select_channels(x: Tensor, index: tuple[int, ...]) -> Tensor:
    """Channels ``index`` of ``x``, dense."""
    if _fast(x) and x.shape[1] <= 32:
        return F.conv2d(x, _selection(index, x.shape[1], x.dtype))
    indices = torch.tensor(index, device=x.device)
    return x.index_select(1, indices).contiguous(memory_format=CL)


# ---------------------------------------------------------------- batch normalisation


def batch_norm(x: Tensor, scale: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Batch statistics, no offset, times ``scale`` [C] where given."""
    if not _fast(x):
        return F.batch_norm(x, None, None, scale, None, True, 0.0, eps)
    return _BatchNorm.apply(x.contiguous(memory_format=CL), scale, eps)


def _fold(rows: int, channels: int) -> int:
    """How many pixels make one wide row: at least 128 numbers where the count allows it."""
    fold = 1
    while fold * channels < 128 and rows % (2 * fold) == 0:
        fold *= 2
    return fold


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, eps: float) -> Tensor:
        n, c, h, w = x.shape
        rows = n * h * w
        fold = _fold(rows, c)
        wide = x.permute(0, 2, 3, 1).reshape(rows // fold, fold * c)
        mean, square = _column_sums(wide, wide.square(), fold).div_(rows)
        inverse = torch.addcmul(square, mean, mean, value=-1.0).clamp_min_(0.0).add_(eps).rsqrt_()
        slope = inverse if scale is None else inverse * scale
        a, b = torch.stack([slope, -mean * slope]).to(x.dtype).repeat(1, fold)
        ctx.save_for_backward(wide, mean, inverse, slope)
        ctx.shape, ctx.fold, ctx.scaled = (n, h, w, c), fold, scale is not None
        return torch.addcmul(b, wide, a).view(n, h, w, c).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        wide, mean, inverse, slope = ctx.saved_tensors
        n, h, w, c = ctx.shape
        rows, fold = n * h * w, ctx.fold
        grad = grad.contiguous(memory_format=CL).permute(0, 2, 3, 1).reshape(wide.shape)
        total, product = _column_sums(grad, grad * wide, fold)
        correlation = torch.addcmul(product, mean, total, value=-1.0) * inverse
        grad_x = grad_scale = None
        if ctx.needs_input_grad[0]:
            b = slope * inverse * correlation / -rows
            d = torch.addcmul(slope * total / rows, b, mean).neg_()
            wide_d, wide_slope, wide_b = torch.stack([d, slope, b]).to(grad.dtype).repeat(1, fold)
            result = torch.addcmul(wide_d, grad, wide_slope).addcmul_(wide, wide_b)
            grad_x = result.view(n, h, w, c).permute(0, 3, 1, 2)
        if ctx.scaled and ctx.needs_input_grad[1]:
            grad_scale = correlation.to(grad.dtype)
        return grad_x, grad_scale, None


def _column_sums(first: Tensor, second: Tensor, fold: int) -> Tensor:
    """Sums [2, C] in float64 of two tensors of wide rows (``fold`` pixels of C channels)."""
    sums = torch.stack([first.sum(0), second.sum(0)])
    return sums.view(2, fold, -1).sum(1, dtype=torch.float64)


# ---------------------------------------------------------------- pools and sums


def avg_pool(x: Tensor, stride: int) -> Tensor:
    """3x3 average pool, padding not counted."""
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def max_pool(x: Tensor, stride: int) -> Tensor:
    """3x3 max pool."""
    return F.max_pool2d(x, 3, stride, 1)


def weighted_sum(tensors: Sequence[Tensor], weights: Tensor) -> Tensor:
    """sum_i weights[i] * tensors[i]; tensors of one shape, weights a vector."""
    if not _fast(tensors[0]):
        return sum((w * t for w, t in zip(weights, tensors, strict=True)), start=torch.zeros(
            (), dtype=tensors[0].dtype, device=tensors[0].device
        ))
    return _WeightedSum.apply(weights, *(t.contiguous(memory_format=CL) for t in tensors))


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *tensors: Tensor) -> Tensor:
        factors = weights.tolist()
        result = tensors[0] * factors[0]
        for factor, tensor in zip(factors[1:], tensors[1:], strict=True):
            result.add_(tensor, alpha=factor)
        ctx.factors = factors
        ctx.dtype = weights.dtype
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*tensors)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous(memory_format=CL)
        grad_weights = None
        if ctx.needs_input_grad[0]:
            dots = [torch.dot(_flat(grad), _flat(t)) for t in ctx.saved_tensors]
            grad_weights = torch.stack(dots).to(ctx.dtype)
        needed = ctx.needs_input_grad[1:]
        grads = [
            grad * f if need else None for f, need in zip(ctx.factors, needed, strict=True)
        ]
        return grad_weights, *grads
