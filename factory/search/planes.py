"""Loops over planes: what one cell of the supernet computes, compiled by numba for the CPU.

A plane is one channel of one picture, at most a few kB: it stays in the first cache while a kernel
slides over it, in any number of channels. Each loop takes the pictures ``lo`` to ``hi``, so that
several threads share a batch; sums over the batch are left per picture and added by the caller.
A padded plane has rows of W numbers and 4 zeros, 4 rows of zeros above and below; a convolution
over it is one long loop for a whole plane, the columns in between are dropped afterwards.
Numbers that are not finite keep their meaning (no ``nnan``); only sums may be reordered.
Legend: N pictures, c channels, m edges, P pixels of a plane, S stages.
"""

from __future__ import annotations

import numpy as np
from numba import njit

PAD = 4  # what a dilated 5x5 kernel reads beyond the border
loop = njit(
    fastmath={"reassoc", "contract", "nsz", "arcp"}, nogil=True, error_model="numpy", cache=True
)


@loop
def pad_affine_relu(plane_P, slope, offset, padded, width, pitch):
    """relu(slope * plane + offset) into the inner part of a padded plane."""
    zero = plane_P.dtype.type(0)
    inner = padded[PAD * pitch + PAD :]
    for h in range(len(plane_P) // width):
        for w in range(width):
            v = slope * plane_P[h * width + w] + offset
            inner[h * pitch + w] = zero if v <= zero else v


@loop
def pad_spread(plane_P, padded, width, pitch, stride):
    """A plane into every ``stride``-th row and column of a padded one."""
    inner = padded[PAD * pitch + PAD :]
    if stride == 1:
        for h in range(len(plane_P) // width):
            for w in range(width):
                inner[h * pitch + w] = plane_P[h * width + w]
    else:
        for h in range(len(plane_P) // width):
            for w in range(width):
                inner[h * stride * pitch + w * stride] = plane_P[h * width + w]


@loop
def cut(flat, plane_P, width, pitch, stride):
    """Every ``stride``-th row and column of the result of a convolution."""
    if stride == 1:
        for h in range(len(plane_P) // width):
            for w in range(width):
                plane_P[h * width + w] = flat[h * pitch + w]
    else:
        for h in range(len(plane_P) // width):
            for w in range(width):
                plane_P[h * width + w] = flat[h * stride * pitch + w * stride]


@loop
def convolve(padded, taps, size, dilation, pitch, flat, add):
    """Convolution of a padded plane (``size`` 3 or 5), written or added to ``flat``."""
    n = len(flat)
    corner = PAD * pitch + PAD - (size // 2) * dilation * (pitch + 1)
    for i in range(size):
        s = corner + i * dilation * pitch
        k = i * size
        a0, a1, a2 = taps[k], taps[k + 1], taps[k + 2]
        r0, r1 = padded[s : s + n], padded[s + dilation : s + dilation + n]
        r2 = padded[s + 2 * dilation : s + 2 * dilation + n]
        if size == 3:
            if i == 0 and not add:
                for p in range(n):
                    flat[p] = a0 * r0[p] + a1 * r1[p] + a2 * r2[p]
            else:
                for p in range(n):
                    flat[p] += a0 * r0[p] + a1 * r1[p] + a2 * r2[p]
        else:
            a3, a4 = taps[k + 3], taps[k + 4]
            r3 = padded[s + 3 * dilation : s + 3 * dilation + n]
            r4 = padded[s + 4 * dilation : s + 4 * dilation + n]
            if i == 0 and not add:
                for p in range(n):
                    flat[p] = a0 * r0[p] + a1 * r1[p] + a2 * r2[p] + a3 * r3[p] + a4 * r4[p]
            else:
                for p in range(n):
                    flat[p] += a0 * r0[p] + a1 * r1[p] + a2 * r2[p] + a3 * r3[p] + a4 * r4[p]


@loop
def convolve_grad(grad_padded, padded, size, dilation, pitch, n, grad_taps):
    """Gradient of the taps of :func:`convolve`, added to ``grad_taps``; ``n`` as len(flat)."""
    zero = padded.dtype.type(0)
    base = PAD * pitch + PAD
    corner = base - (size // 2) * dilation * (pitch + 1)
    g = grad_padded[base : base + n]
    for i in range(size):
        s = corner + i * dilation * pitch
        k = i * size
        r0, r1 = padded[s : s + n], padded[s + dilation : s + dilation + n]
        r2 = padded[s + 2 * dilation : s + 2 * dilation + n]
        b0, b1, b2, b3, b4 = zero, zero, zero, zero, zero
        if size == 3:
            for p in range(n):
                b0 += g[p] * r0[p]
                b1 += g[p] * r1[p]
                b2 += g[p] * r2[p]
        else:
            r3 = padded[s + 3 * dilation : s + 3 * dilation + n]
            r4 = padded[s + 4 * dilation : s + 4 * dilation + n]
            for p in range(n):
                b0 += g[p] * r0[p]
                b1 += g[p] * r1[p]
                b2 += g[p] * r2[p]
                b3 += g[p] * r3[p]
                b4 += g[p] * r4[p]
            grad_taps[k + 3] += b3
            grad_taps[k + 4] += b4
        grad_taps[k] += b0
        grad_taps[k + 1] += b1
        grad_taps[k + 2] += b2


@loop
def pointwise(x_IP, weight_OI, out_OP, add):
    """1x1 convolution of one picture, written or added to ``out_OP``."""
    pixels = x_IP.shape[1]
    inputs = x_IP.shape[0]
    whole = inputs - inputs % 4
    for o in range(weight_OI.shape[0]):
        out = out_OP[o]
        if not add and whole == 0:
            out[:] = 0
        for i in range(0, whole, 4):
            w0, w1 = weight_OI[o, i], weight_OI[o, i + 1]
            w2, w3 = weight_OI[o, i + 2], weight_OI[o, i + 3]
            x0, x1, x2, x3 = x_IP[i], x_IP[i + 1], x_IP[i + 2], x_IP[i + 3]
            if i == 0 and not add:
                for p in range(pixels):
                    out[p] = w0 * x0[p] + w1 * x1[p] + w2 * x2[p] + w3 * x3[p]
            else:
                for p in range(pixels):
                    out[p] += w0 * x0[p] + w1 * x1[p] + w2 * x2[p] + w3 * x3[p]
        for i in range(whole, inputs):
            w0, x0 = weight_OI[o, i], x_IP[i]
            for p in range(pixels):
                out[p] += w0 * x0[p]


@loop
def pointwise_grad(grad_OP, x_IP, grad_OI):
    """Gradient of the weights of :func:`pointwise`, added to ``grad_OI``."""
    zero = x_IP.dtype.type(0)
    pixels = x_IP.shape[1]
    inputs = x_IP.shape[0]
    whole = inputs - inputs % 4
    for o in range(grad_OP.shape[0]):
        g = grad_OP[o]
        for i in range(0, whole, 4):
            x0, x1, x2, x3 = x_IP[i], x_IP[i + 1], x_IP[i + 2], x_IP[i + 3]
            a0, a1, a2, a3 = zero, zero, zero, zero
            for p in range(pixels):
                a0 += g[p] * x0[p]
                a1 += g[p] * x1[p]
                a2 += g[p] * x2[p]
                a3 += g[p] * x3[p]
            grad_OI[o, i] += a0
            grad_OI[o, i + 1] += a1
            grad_OI[o, i + 2] += a2
            grad_OI[o, i + 3] += a3
        for i in range(whole, inputs):
            x0 = x_IP[i]
            a0 = zero
            for p in range(pixels):
                a0 += g[p] * x0[p]
            grad_OI[o, i] += a0


@loop
def moments(first_cP, second_cP, sums_c2):
    """Per channel: sum of the first, and of the product of both."""
    zero = first_cP.dtype.type(0)
    for j in range(len(first_cP)):
        a, b = first_cP[j], second_cP[j]
        total, product = zero, zero
        for p in range(len(a)):
            total += a[p]
            product += a[p] * b[p]
        sums_c2[j, 0] = total
        sums_c2[j, 1] = product


@loop
def norm_grad(g, z, slope, by_z, offset, out):
    """Gradient of a normalised plane: slope * g + by_z * z + offset."""
    for p in range(len(g)):
        out[p] = slope * g[p] + by_z * z[p] + offset


@loop
def first_stage(x, dw3, dw5, dil3, dil5, pw, y, z, sums, stride, lo, hi):
    """ReLU, depthwise and pointwise convolution of the four operators of the edges of a state.

    x [N, C, H, W]; taps [m c, k k]; pw [4, m, c, c]; y, z [4, m, N, c, P]; sums [4, m, N, c, 2].
    """
    height, width = x.shape[2], x.shape[3]
    m, c = pw.shape[1], pw.shape[2]
    pitch = width + PAD
    narrow = (width + stride - 1) // stride
    padded = np.zeros((c, (height + 2 * PAD) * pitch + 2 * PAD), x.dtype)
    flat = np.empty(height * pitch, x.dtype)
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for n in range(lo, hi):
        for j in range(c):
            pad_affine_relu(x[n, j].reshape(-1), one, zero, padded[j], width, pitch)
        for e in range(m):
            for k in range(4):
                y_cP = y[k, e, n]
                for j in range(c):
                    r = e * c + j
                    if k == 0:
                        convolve(padded[j], dw3[r], 3, 1, pitch, flat, False)
                    elif k == 1:
                        convolve(padded[j], dw5[r], 5, 1, pitch, flat, False)
                    elif k == 2:
                        convolve(padded[j], dil3[r], 3, 2, pitch, flat, False)
                    else:
                        convolve(padded[j], dil5[r], 5, 2, pitch, flat, False)
                    cut(flat, y_cP[j], narrow, pitch, stride)
                pointwise(y_cP, pw[k, e], z[k, e, n], False)
                moments(z[k, e, n], z[k, e, n], sums[k, e, n])


@loop
def second_stage(z1, slope, offset, dw3, dw5, pw, y, z, sums, width, lo, hi):
    """Second half of the separable operators: normalised z1, ReLU, depthwise, pointwise.

    slope, offset [4, m, c]; pw [2, m, c, c]; y, z [2, m, N, c, P]; sums [2, m, N, c, 2].
    """
    m, c = pw.shape[1], pw.shape[2]
    height = z.shape[4] // width
    pitch = width + PAD
    padded = np.zeros((height + 2 * PAD) * pitch + 2 * PAD, z.dtype)
    flat = np.empty(height * pitch, z.dtype)
    for n in range(lo, hi):
        for e in range(m):
            for k in range(2):
                for j in range(c):
                    plane = z1[k, e, n, j]
                    pad_affine_relu(plane, slope[k, e, j], offset[k, e, j], padded, width, pitch)
                    if k == 0:
                        convolve(padded, dw3[e * c + j], 3, 1, pitch, flat, False)
                    else:
                        convolve(padded, dw5[e * c + j], 5, 1, pitch, flat, False)
                    cut(flat, y[k, e, n, j], width, pitch, 1)
                pointwise(y[k, e, n], pw[k, e], z[k, e, n], False)
                moments(z[k, e, n], z[k, e, n], sums[k, e, n])


@loop
def second_stage_grad(
    g, first, step, coefs, z1, z2, y2, slope, offset, dw3, dw5, pw, gh, sums, w3, w5, wp, weights,
    width, lo, hi,
):  # fmt: skip
    """Gradient of :func:`second_stage` and of its normalised, weighted output.

    g [4, N, C, P] of the nodes, from node ``first``, every ``step``-th channel; coefs [3, 7, m, c]
    of :func:`norm_grad`; dw3, dw5 flipped, pw transposed; gh: gradient before the ReLU's input was
    normalised, with its sums; w3, w5, wp: gradients of the weights, where ``weights``.
    """
    m, c, pixels = pw.shape[1], pw.shape[2], z2.shape[4]
    height = pixels // width
    pitch = width + PAD
    length = (height + 2 * PAD) * pitch + 2 * PAD
    padded, hidden = np.zeros(length, z2.dtype), np.zeros(length, z2.dtype)
    flat = np.empty(height * pitch, z2.dtype)
    gz, gy = np.empty((c, pixels), z2.dtype), np.empty((c, pixels), z2.dtype)
    zero = z2.dtype.type(0)
    for n in range(lo, hi):
        for e in range(m):
            for k in range(2):
                for j in range(c):
                    norm_grad(
                        g[first + e, n, j * step], z2[k, e, n, j], coefs[0, k, e, j],
                        coefs[1, k, e, j], coefs[2, k, e, j], gz[j],
                    )  # fmt: skip
                pointwise(gz, pw[k, e], gy, False)
                if weights:
                    pointwise_grad(gz, y2[k, e, n], wp[k, e])
                for j in range(c):
                    r = e * c + j
                    pad_spread(gy[j], padded, width, pitch, 1)
                    if k == 0:
                        convolve(padded, dw3[r], 3, 1, pitch, flat, False)
                    else:
                        convolve(padded, dw5[r], 5, 1, pitch, flat, False)
                    plane, out = z1[k, e, n, j], gh[k, e, n, j]
                    a, b = slope[k, e, j], offset[k, e, j]
                    cut(flat, out, width, pitch, 1)
                    for p in range(pixels):
                        out[p] = zero if a * plane[p] + b <= zero else out[p]
                    if weights:
                        pad_affine_relu(plane, a, b, hidden, width, pitch)
                        if k == 0:
                            convolve_grad(padded, hidden, 3, 1, pitch, len(flat), w3[r])
                        else:
                            convolve_grad(padded, hidden, 5, 1, pitch, len(flat), w5[r])
                moments(gh[k, e, n], z1[k, e, n], sums[k, e, n])


@loop
def first_stage_grad(
    x, g, first, step, coefs, z1, y1, gh, dw3, dw5, dil3, dil5, pw, gx, w3, w5, v3, v5, wp,
    weights, stride, lo, hi,
):  # fmt: skip
    """Gradient of :func:`first_stage`, added to gx [N, C, H, W]; arguments as above."""
    height, width = x.shape[2], x.shape[3]
    m, c, pixels = pw.shape[1], pw.shape[2], z1.shape[4]
    pitch = width + PAD
    narrow = (width + stride - 1) // stride
    length = (height + 2 * PAD) * pitch + 2 * PAD
    active, padded = np.zeros((c, length), x.dtype), np.zeros(length, x.dtype)
    total = np.empty((c, height * pitch), x.dtype)
    gz, gy = np.empty((c, pixels), x.dtype), np.empty((c, pixels), x.dtype)
    one, zero = x.dtype.type(1), x.dtype.type(0)
    size = height * pitch
    for n in range(lo, hi):
        total[:] = 0
        if weights:
            for j in range(c):
                pad_affine_relu(x[n, j].reshape(-1), one, zero, active[j], width, pitch)
        for e in range(m):
            for k in range(4):
                for j in range(c):
                    source = gh[k, e, n, j] if k < 2 else g[first + e, n, j * step]
                    norm_grad(
                        source, z1[k, e, n, j], coefs[0, k, e, j], coefs[1, k, e, j],
                        coefs[2, k, e, j], gz[j],
                    )  # fmt: skip
                pointwise(gz, pw[k, e], gy, False)
                if weights:
                    pointwise_grad(gz, y1[k, e, n], wp[k, e])
                for j in range(c):
                    r = e * c + j
                    pad_spread(gy[j], padded, narrow, pitch, stride)
                    if k == 0:
                        convolve(padded, dw3[r], 3, 1, pitch, total[j], True)
                    elif k == 1:
                        convolve(padded, dw5[r], 5, 1, pitch, total[j], True)
                    elif k == 2:
                        convolve(padded, dil3[r], 3, 2, pitch, total[j], True)
                    else:
                        convolve(padded, dil5[r], 5, 2, pitch, total[j], True)
                    if weights:
                        if k == 0:
                            convolve_grad(padded, active[j], 3, 1, pitch, size, w3[r])
                        elif k == 1:
                            convolve_grad(padded, active[j], 5, 1, pitch, size, w5[r])
                        elif k == 2:
                            convolve_grad(padded, active[j], 3, 2, pitch, size, v3[r])
                        else:
                            convolve_grad(padded, active[j], 5, 2, pitch, size, v5[r])
        for j in range(c):
            for h in range(height):
                row, source, out = total[j, h * pitch : h * pitch + width], x[n, j, h], gx[n, j, h]
                for w in range(width):
                    out[w] += zero if source[w] <= zero else row[w]
