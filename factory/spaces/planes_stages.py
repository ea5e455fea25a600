"""Loops over planes: both stages of the candidate convolutions of a state, forward and backward.

Conventions and legend as in :mod:`factory.spaces.planes`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import numpy as np

from factory.spaces.planes import (
    PAD,
    convolve,
    convolve_back,
    convolve_grad,
    cut,
    loop,
    moments,
    norm_grad,
    pad,
    pad_affine_relu,
    pointwise,
    pointwise_grad,
)


@loop
def first_stage(x, taps, table, length, pw, z, sums, stride, lo, hi):
    """ReLU, depthwise and pointwise convolution of the four operators of the edges of a state.

    x [N, C, H, W]; taps [4, m c, 25]; pw [4, m, c, c]; z [4, m, N, c, P]; sums [4, m, N, c, 2].
    """
    width = x.shape[3]
    m, c, pixels = pw.shape[1], pw.shape[2], z.shape[4]
    narrow = (width + stride - 1) // stride
    padded = np.zeros((c, stride * stride, length), x.dtype)
    flat = np.empty(pixels // narrow * (narrow + PAD), x.dtype)
    y = np.empty((c, pixels), x.dtype)
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for n in range(lo, hi):
        for j in range(c):
            pad_affine_relu(x[n, j].reshape(-1), one, zero, padded[j], width, stride)
        for e in range(m):
            for k in range(4):
                starts = table[k, 0, : 9 if k % 2 == 0 else 25]
                for j in range(c):
                    convolve(padded[j].reshape(-1), taps[k, e * c + j], starts, flat, False)
                    cut(flat, y[j], narrow)
                pointwise(y, pw[k, e], z[k, e, n], False)
                moments(z[k, e, n], z[k, e, n], sums[k, e, n])


@loop
def second_stage(z1, slope, offset, taps, table, length, pw, z, sums, width, lo, hi):
    """Second half of the separable operators: normalised z1, ReLU, depthwise, pointwise.

    slope, offset [4, m, c]; taps [2, m c, 25]; pw [2, m, c, c]; z [2, m, N, c, P]; sums
    [2, m, N, c, 2].
    """
    m, c, pixels = pw.shape[1], pw.shape[2], z.shape[4]
    padded = np.zeros((1, length), z.dtype)
    flat = np.empty(pixels // width * (width + PAD), z.dtype)
    y = np.empty((c, pixels), z.dtype)
    for n in range(lo, hi):
        for e in range(m):
            for k in range(2):
                starts = table[k, 0, : 9 if k == 0 else 25]
                for j in range(c):
                    a, b = slope[k, e, j], offset[k, e, j]
                    pad_affine_relu(z1[k, e, n, j], a, b, padded, width, 1)
                    convolve(padded[0], taps[k, e * c + j], starts, flat, False)
                    cut(flat, y[j], width)
                pointwise(y, pw[k, e], z[k, e, n], False)
                moments(z[k, e, n], z[k, e, n], sums[k, e, n])


@loop
def second_stage_grad(
    g, first, step, coefs, z1, z2, slope, offset, taps, flipped, table, length, pw, gh, sums, wt,
    wp, weights, width, lo, hi,
):  # fmt: skip
    """Gradient of :func:`second_stage` and of its normalised, weighted output.

    g [4, N, C, P] of the nodes, from node ``first``, every ``step``-th channel; coefs [3, 7, m, c]
    of :func:`norm_grad`; flipped: taps from last to first; pw transposed; gh: gradient of what the
    ReLU read, with its sums; wt, wp: gradients of taps and of pw (as it was), where ``weights``.
    """
    m, c, pixels = pw.shape[1], pw.shape[2], z2.shape[4]
    pitch = width + PAD
    padded, hidden = np.zeros(length, z2.dtype), np.zeros((c, 1, length), z2.dtype)
    total = np.empty(pixels // width * pitch, z2.dtype)
    gz, gy = np.empty((c, pixels), z2.dtype), np.empty((c, pixels), z2.dtype)
    y = np.empty((c, pixels), z2.dtype)
    zero = z2.dtype.type(0)
    for n in range(lo, hi):
        for e in range(m):
            for k in range(2):
                starts = table[k, 0, : 9 if k == 0 else 25]
                for j in range(c):
                    norm_grad(
                        g[first + e, n, j * step], z2[k, e, n, j], coefs[0, k, e, j],
                        coefs[1, k, e, j], coefs[2, k, e, j], gz[j],
                    )  # fmt: skip
                pointwise(gz, pw[k, e], gy, False)
                if weights:  # what the forward pass did not keep, once more
                    for j in range(c):
                        a, b = slope[k, e, j], offset[k, e, j]
                        pad_affine_relu(z1[k, e, n, j], a, b, hidden[j], width, 1)
                        convolve(hidden[j, 0], taps[k, e * c + j], starts, total, False)
                        cut(total, y[j], width)
                    pointwise_grad(gz, y, wp[k, e])
                for j in range(c):
                    r = e * c + j
                    pad(gy[j], padded, width)
                    convolve(padded, flipped[k, r], starts, total, False)
                    plane, out = z1[k, e, n, j], gh[k, e, n, j]
                    a, b = slope[k, e, j], offset[k, e, j]
                    cut(total, out, width)
                    for p in range(pixels):
                        out[p] = zero if a * plane[p] + b <= zero else out[p]
                    if weights:
                        convolve_grad(padded, hidden[j, 0], starts, pitch, len(total), wt[k, r])
                moments(gh[k, e, n], z1[k, e, n], sums[k, e, n])


@loop
def first_stage_grad(
    x, g, first, step, coefs, z1, gh, taps, flipped, table, length, pw, gx, wt, wp, weights,
    stride, lo, hi,
):  # fmt: skip
    """Gradient of :func:`first_stage`, added to gx [N, C, H, W]; arguments as above."""
    height, width = x.shape[2], x.shape[3]
    m, c, pixels = pw.shape[1], pw.shape[2], z1.shape[4]
    narrow = (width + stride - 1) // stride
    pitch = narrow + PAD
    size, phases = pixels // narrow * pitch, stride * stride
    active, padded = np.zeros((c, phases, length), x.dtype), np.zeros(length, x.dtype)
    total = np.empty((c, phases, size), x.dtype)
    gz, gy = np.empty((c, pixels), x.dtype), np.empty((c, pixels), x.dtype)
    y, flat = np.empty((c, pixels), x.dtype), np.empty(size, x.dtype)
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for n in range(lo, hi):
        total[:] = 0
        if weights:
            for j in range(c):
                pad_affine_relu(x[n, j].reshape(-1), one, zero, active[j], width, stride)
        for e in range(m):
            for k in range(4):
                for j in range(c):
                    source = gh[k, e, n, j] if k < 2 else g[first + e, n, j * step]
                    norm_grad(
                        source, z1[k, e, n, j], coefs[0, k, e, j], coefs[1, k, e, j],
                        coefs[2, k, e, j], gz[j],
                    )  # fmt: skip
                pointwise(gz, pw[k, e], gy, False)
                starts = table[k, 0, : 9 if k % 2 == 0 else 25]
                if weights:
                    for j in range(c):
                        convolve(active[j].reshape(-1), taps[k, e * c + j], starts, flat, False)
                        cut(flat, y[j], narrow)
                    pointwise_grad(gz, y, wp[k, e])
                for j in range(c):
                    r = e * c + j
                    pad(gy[j], padded, narrow)
                    if stride == 1:
                        convolve(padded, flipped[k, r], starts, total[j, 0], True)
                    else:
                        convolve_back(padded, taps[k, r], table[k], stride, total[j])
                    if weights:
                        active_j = active[j].reshape(-1)
                        convolve_grad(padded, active_j, starts, pitch, size, wt[k, r])
        for j in range(c):
            for h in range(height):
                for b in range(stride):
                    row = total[j, (h % stride) * stride + b, (h // stride) * pitch :]
                    for w in range(b, width, stride):
                        if not x[n, j, h, w] <= zero:
                            gx[n, j, h, w] += row[w // stride]
