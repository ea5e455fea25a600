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
This path needs torch alone; where numba can be had, :func:`use_planes` takes the faster loops of
planes.py. On an accelerator the plain functions are used.
Legend: N batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CL = torch.channels_last
DENSE_BELOW = 8  # a grouped 1x1 convolution with fewer channels a group runs as a dense one
MATRIX_UP_TO = 32  # channels that are copied by a product with a matrix of zeros and ones
PLANES = True  # compiled loops where they can run
PLANES_FROM = 1 << 14  # numbers in a batch of pictures from which compiled loops are worth it
SPLIT_FROM = 1 << 18  # numbers in a map from which a weight gradient is worth splitting up


def _fast(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


@cache
def _have_planes() -> bool:
    try:
        import_module("factory.spaces.fused_cell")
    except (ImportError, RuntimeError):  # no numba for this Python, or no folder for its cache
        return False
    return True


def use_planes(x: Tensor) -> bool:
    """Whether cells run on the compiled loops of planes.py for this input (CPU with numba)."""
    return PLANES and _fast(x) and x.numel() >= PLANES_FROM and _have_planes()


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
    if x.numel() < SPLIT_FROM:
        return _native_weight_grad(x, grad, weight, dilation * (size - 1) // 2, dilation)
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


# ---------------------------------------------------------------- pixels as rows


def pixels(x_NCHW: Tensor) -> Tensor:
    """A map as rows of pixels [R, C]; a view where the map is channels_last."""
    return x_NCHW.permute(0, 2, 3, 1).reshape(-1, x_NCHW.shape[1])


def image(x_RC: Tensor, size: tuple[int, int]) -> Tensor:
    """Rows of pixels as a channels_last map [N, C, H, W] of ``size`` (H, W); a view."""
    return x_RC.reshape(-1, *size, x_RC.shape[-1]).permute(0, 3, 1, 2)


def mix(x_BRC: Tensor, weight_BOI: Tensor, groups: int = 1) -> Tensor:
    """1x1 convolutions of B maps at once: [B, R, C_in] x [B, C_out, C_in / groups].

    With few channels a group the blocks are written into one dense matrix: its product costs more
    multiplications and less time than many narrow ones.
    """
    b, c_out, c_in = weight_BOI.shape
    if groups == 1:
        return torch.bmm(x_BRC, weight_BOI.transpose(1, 2))
    if c_in < DENSE_BELOW:
        blocks = weight_BOI.reshape(b, groups, c_out // groups, 1, c_in)
        mask = _block_mask(groups, weight_BOI.dtype, weight_BOI.device)
        return torch.bmm(x_BRC, (blocks * mask).reshape(b, c_out, -1).transpose(1, 2))
    pairs = zip(x_BRC.unbind(0), weight_BOI.unbind(0), strict=True)
    return torch.stack([_grouped(x, w, groups) for x, w in pairs])


def _grouped(x_RC: Tensor, weight_OI: Tensor, groups: int) -> Tensor:
    as_map = x_RC.view(1, -1, 1, x_RC.shape[1]).permute(0, 3, 1, 2)
    return pixels(F.conv2d(as_map, weight_OI[:, :, None, None], groups=groups))


@lru_cache(maxsize=64)
def _block_mask(groups: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.eye(groups, dtype=dtype, device=device).view(1, groups, 1, groups, 1)


@lru_cache(maxsize=256)
def _selection(
    index: tuple[int, ...], channels: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[C, len(index)]: the product with it copies channels (exact: factors 0 and 1)."""
    matrix = torch.zeros(channels, len(index), dtype=dtype)
    matrix[torch.tensor(index), torch.arange(len(index))] = 1.0
    return matrix.to(device)


def select_channels(x_RC: Tensor, index: tuple[int, ...]) -> Tensor:
    """Channels ``index`` of every pixel."""
    if _fast(x_RC) and x_RC.shape[1] <= MATRIX_UP_TO:
        return x_RC @ _selection(index, x_RC.shape[1], x_RC.dtype, x_RC.device)
    return x_RC.index_select(1, torch.tensor(index, device=x_RC.device))


def repeat_channels(x_RC: Tensor, blocks: int, times: int) -> Tensor:
    """Each of ``blocks`` equal blocks of channels ``times`` times in a row."""
    rows, channels = x_RC.shape
    if blocks == times == 1:
        return x_RC
    width = channels // blocks
    if _fast(x_RC) and channels <= MATRIX_UP_TO:
        index = [b * width + c for b in range(blocks) for _ in range(times) for c in range(width)]
        return x_RC @ _selection(tuple(index), channels, x_RC.dtype, x_RC.device)
    wide = x_RC.view(rows, blocks, 1, width).expand(rows, blocks, times, width)
    return wide.reshape(rows, times * channels)


# ---------------------------------------------------------------- batch normalisation


def batch_norm(x_BRC: Tensor, scale_BC: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """B maps normalised by their own batch's statistics, no offset, times ``scale_BC``."""
    if _fast(x_BRC):
        return _BatchNorm.apply(x_BRC.contiguous(), scale_BC, eps)
    variance, mean = torch.var_mean(x_BRC.float(), dim=1, correction=0, keepdim=True)
    slope = torch.rsqrt(variance + eps)
    if scale_BC is not None:
        slope = slope * scale_BC[:, None, :]
    return ((x_BRC - mean) * slope).to(x_BRC.dtype)


def _fold(rows: int, channels: int) -> int:
    """How many pixels make one wide row: at least 128 numbers where the count allows it."""
    fold = 1
    while fold * channels < 128 and rows % (2 * fold) == 0:
        fold *= 2
    return fold


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, eps: float) -> Tensor:
        b, rows, c = x.shape
        fold = _fold(rows, c)
        wide = x.view(b, rows // fold, fold * c)
        mean, square = _column_sums(wide, wide.square(), fold).div_(rows)
        inverse = torch.addcmul(square, mean, mean, value=-1.0).clamp_min_(0.0).add_(eps).rsqrt_()
        slope = inverse if scale is None else inverse * scale
        factor, offset = _spread(torch.stack([slope, -mean * slope]), fold, x.dtype)
        ctx.save_for_backward(x, mean, inverse, slope)
        ctx.fold, ctx.scaled = fold, scale is not None
        return torch.addcmul(offset, wide, factor).view(b, rows, c)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, mean, inverse, slope = ctx.saved_tensors
        b, rows, c = x.shape
        wide = x.view(b, rows // ctx.fold, ctx.fold * c)
        grad = grad.reshape(wide.shape)
        total, product = _column_sums(grad, grad * wide, ctx.fold)
        correlation = torch.addcmul(product, mean, total, value=-1.0) * inverse
        grad_x = grad_scale = None
        if ctx.needs_input_grad[0]:
            by_x = slope * inverse * correlation / -rows
            offset = torch.addcmul(slope * total / rows, by_x, mean).neg_()
            stacked = torch.stack([offset, slope, by_x])
            offset, by_grad, by_x = _spread(stacked, ctx.fold, grad.dtype)
            grad_x = torch.addcmul(offset, grad, by_grad).addcmul_(wide, by_x).view(x.shape)
        if ctx.scaled and ctx.needs_input_grad[1]:
            grad_scale = correlation.to(grad.dtype)
        return grad_x, grad_scale, None


def _column_sums(first: Tensor, second: Tensor, fold: int) -> Tensor:
    """Sums [2, B, C] in float64 of two [B, R / fold, fold * C]."""
    sums = torch.stack([first.sum(1), second.sum(1)])
    return sums.view(2, sums.shape[1], fold, -1).sum(2, dtype=torch.float64)


def _spread(values_XBC: Tensor, fold: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Every [B, C] of the stack as [B, 1, fold * C], to be used on wide rows."""
    x, b, c = values_XBC.shape
    wide = values_XBC.to(dtype).view(x, b, 1, c).expand(x, b, fold, c)
    return wide.reshape(x, b, 1, fold * c).unbind(0)


# ---------------------------------------------------------------- sums


def weighted_sum(tensors: Sequence[Tensor], weights: Tensor) -> Tensor:
    """sum_i weights[i] * tensors[i]; tensors [R, C] of one shape, weights a vector."""
    if _fast(tensors[0]):
        return _WeightedSum.apply(weights, *tensors)
    total = weights[0] * tensors[0]
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        total = total + weight * tensor
    return total


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
        grad = grad.contiguous()
        grad_weights = None
        if ctx.needs_input_grad[0]:
            dots = [torch.dot(grad.view(-1), t.reshape(-1)) for t in ctx.saved_tensors]
            grad_weights = torch.stack(dots).to(ctx.dtype)
        needed = ctx.needs_input_grad[1:]
        grads = [grad * f if need else None for f, need in zip(ctx.factors, needed, strict=True)]
        return grad_weights, *grads
