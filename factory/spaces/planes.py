"""Loops over planes: what one cell of the supernet computes, compiled by numba for the CPU.

A plane is one channel of one picture, at most a few kB: it stays in the first cache while a kernel
slides over it, in any number of channels. Each loop takes the pictures ``lo`` to ``hi``, so that
several threads share a batch; sums over the batch are left per picture and added by the caller.
A padded plane has rows of W numbers and 4 zeros, 4 rows of zeros above and below; a convolution
over it is one long loop for a whole plane, the columns in between are dropped afterwards. With
stride 2 the four phases of a plane (every second row and column) are padded planes in a row, and
each tap reads one of them: :func:`tables` says where.
The machine code is kept on disk by numba, per source file: whoever changes a loop here removes
``__pycache__``, for the loops of planes_stages.py and planes_shared.py contain it.
Numbers that are not finite keep their meaning (no ``nnan``); only sums may be reordered.
Legend: N pictures, c channels, m edges, P pixels of a plane, k operators in the order sep 3, sep 5,
dil 3, dil 5.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit

PAD = 4  # what a dilated 5x5 kernel reads beyond the border
loop = njit(
    fastmath={"reassoc", "contract", "nsz", "arcp"}, nogil=True, error_model="numpy", cache=True
)


KINDS = ((3, 1), (5, 1), (3, 2), (5, 2))  # size and dilation of the operators


def padded_length(height: int, width: int, stride: int) -> int:
    """Numbers of one padded phase of a map."""
    rows, columns = -(-height // stride), -(-width // stride)
    return (rows + 2 * PAD) * (columns + PAD) + 2 * PAD


@cache
def tables(height: int, width: int, stride: int) -> np.ndarray:
    """Where the taps of each kind read: [kinds, 4, 26].

    Rows: start of each tap in the padded planes of the input; then for the gradient of the input
    the taps phase by phase, where each starts in the padded gradient, and the first of each phase.
    """
    pitch, length = -(-width // stride) + PAD, padded_length(height, width, stride)
    result = np.zeros((len(KINDS), 4, 26), np.int64)
    corner = PAD * pitch + PAD
    for kind, (size, dilation) in enumerate(KINDS):
        found: list[list[tuple[int, int]]] = [[] for _ in range(stride * stride)]
        for tap in range(size * size):
            rows, columns = ((v - size // 2) * dilation for v in divmod(tap, size))
            phase = (rows % stride) * stride + columns % stride
            shift = rows // stride * pitch + columns // stride
            result[kind, 0, tap] = phase * length + corner + shift
            found[phase].append((tap, corner - shift))
        flat = [pair for pairs in found for pair in pairs]
        result[kind, 1, : len(flat)] = [tap for tap, _ in flat]
        result[kind, 2, : len(flat)] = [start for _, start in flat]
        counts = [0, *(len(pairs) for pairs in found)]
        result[kind, 3, : len(counts)] = np.cumsum(counts)
    return result


@loop
def pad_affine_relu(plane_P, slope, offset, padded, width, stride):
    """relu(slope * plane + offset) into the inner part of its padded phases [stride^2, length]."""
    zero = plane_P.dtype.type(0)
    pitch = (width + stride - 1) // stride + PAD
    corner = PAD * pitch + PAD
    if stride == 1:
        inner = padded[0, corner:]
        for h in range(len(plane_P) // width):
            for w in range(width):
                v = slope * plane_P[h * width + w] + offset
                inner[h * pitch + w] = zero if v <= zero else v
    else:
        for h in range(len(plane_P) // width):
            for b in range(2):
                inner = padded[(h % 2) * 2 + b, corner + (h // 2) * pitch :]
                row = plane_P[h * width + b :]
                for w in range((width + 1 - b) // 2):
                    v = slope * row[2 * w] + offset
                    inner[w] = zero if v <= zero else v


@loop
def pad(plane_P, padded, width):
    """A plane into the inner part of a padded one."""
    pitch = width + PAD
    inner = padded[PAD * pitch + PAD :]
    for h in range(len(plane_P) // width):
        for w in range(width):
            inner[h * pitch + w] = plane_P[h * width + w]


@loop
def cut(flat, plane_P, width):
    """The result of a convolution without the columns in between."""
    pitch = width + PAD
    for h in range(len(plane_P) // width):
        for w in range(width):
            plane_P[h * width + w] = flat[h * pitch + w]


@loop
def convolve(padded, taps, starts, flat, add):
    """The sum of shifted reads of padded planes, 9 or 25, written or added to ``flat``."""
    n = len(flat)
    if len(starts) == 9:
        a0, a1, a2, a3, a4 = taps[0], taps[1], taps[2], taps[3], taps[4]
        a5, a6, a7, a8 = taps[5], taps[6], taps[7], taps[8]
        r0, r1 = padded[starts[0] : starts[0] + n], padded[starts[1] : starts[1] + n]
        r2, r3 = padded[starts[2] : starts[2] + n], padded[starts[3] : starts[3] + n]
        r4, r5 = padded[starts[4] : starts[4] + n], padded[starts[5] : starts[5] + n]
        r6, r7 = padded[starts[6] : starts[6] + n], padded[starts[7] : starts[7] + n]
        r8 = padded[starts[8] : starts[8] + n]
        if add:
            for p in range(n):
                flat[p] += (
                    (a0 * r0[p] + a1 * r1[p] + a2 * r2[p])
                    + (a3 * r3[p] + a4 * r4[p] + a5 * r5[p])
                    + (a6 * r6[p] + a7 * r7[p] + a8 * r8[p])
                )
        else:
            for p in range(n):
                flat[p] = (
                    (a0 * r0[p] + a1 * r1[p] + a2 * r2[p])
                    + (a3 * r3[p] + a4 * r4[p] + a5 * r5[p])
                    + (a6 * r6[p] + a7 * r7[p] + a8 * r8[p])
                )
        return
    for k in range(0, len(starts), 5):
        a0, a1, a2, a3, a4 = taps[k], taps[k + 1], taps[k + 2], taps[k + 3], taps[k + 4]
        r0, r1 = padded[starts[k] : starts[k] + n], padded[starts[k + 1] : starts[k + 1] + n]
        r2, r3 = (
            padded[starts[k + 2] : starts[k + 2] + n],
            padded[starts[k + 3] : starts[k + 3] + n],
        )
        r4 = padded[starts[k + 4] : starts[k + 4] + n]
        if k == 0 and not add:
            for p in range(n):
                flat[p] = a0 * r0[p] + a1 * r1[p] + a2 * r2[p] + a3 * r3[p] + a4 * r4[p]
        else:
            for p in range(n):
                flat[p] += a0 * r0[p] + a1 * r1[p] + a2 * r2[p] + a3 * r3[p] + a4 * r4[p]


@loop
def convolve_back(padded, taps, table, stride, total):
    """Gradient of the input of a convolution, added to total [stride^2, n]."""
    n = total.shape[1]
    order, starts, firsts = table[1], table[2], table[3]
    for f in range(stride * stride):
        flat, end = total[f], firsts[f + 1]
        k = firsts[f]
        while k < end:
            s0 = starts[k]
            a0, r0 = taps[order[k]], padded[s0 : s0 + n]
            if end - k >= 5:
                s1, s2, s3, s4 = starts[k + 1], starts[k + 2], starts[k + 3], starts[k + 4]
                a1, r1 = taps[order[k + 1]], padded[s1 : s1 + n]
                a2, r2 = taps[order[k + 2]], padded[s2 : s2 + n]
                a3, r3 = taps[order[k + 3]], padded[s3 : s3 + n]
                a4, r4 = taps[order[k + 4]], padded[s4 : s4 + n]
                for p in range(n):
                    flat[p] += a0 * r0[p] + a1 * r1[p] + a2 * r2[p] + a3 * r3[p] + a4 * r4[p]
                k += 5
            elif end - k >= 2:
                s1 = starts[k + 1]
                a1, r1 = taps[order[k + 1]], padded[s1 : s1 + n]
                for p in range(n):
                    flat[p] += a0 * r0[p] + a1 * r1[p]
                k += 2
            else:
                for p in range(n):
                    flat[p] += a0 * r0[p]
                k += 1


@loop
def convolve_grad(grad_padded, padded, starts, pitch, n, grad_taps):
    """Gradient of the taps of :func:`convolve`, added to ``grad_taps``; ``n`` as len(flat)."""
    zero = padded.dtype.type(0)
    base = PAD * pitch + PAD
    g = grad_padded[base : base + n]
    step = 3 if len(starts) == 9 else 5
    for k in range(0, len(starts), step):
        r0, r1 = padded[starts[k] : starts[k] + n], padded[starts[k + 1] : starts[k + 1] + n]
        r2 = padded[starts[k + 2] : starts[k + 2] + n]
        b0, b1, b2, b3, b4 = zero, zero, zero, zero, zero
        if step == 3:
            for p in range(n):
                b0 += g[p] * r0[p]
                b1 += g[p] * r1[p]
                b2 += g[p] * r2[p]
        else:
            r3 = padded[starts[k + 3] : starts[k + 3] + n]
            r4 = padded[starts[k + 4] : starts[k + 4] + n]
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
    """1x1 convolution of one picture, written or added to ``out_OP``; four by four if it can be."""
    inputs, pixels = x_IP.shape
    outputs = len(weight_OI)
    if inputs % 4 == 0 and outputs % 4 == 0:
        for o in range(0, outputs, 4):
            o0, o1, o2, o3 = out_OP[o], out_OP[o + 1], out_OP[o + 2], out_OP[o + 3]
            for i in range(0, inputs, 4):
                x0, x1, x2, x3 = x_IP[i], x_IP[i + 1], x_IP[i + 2], x_IP[i + 3]
                w0, w1 = weight_OI[o, i : i + 4], weight_OI[o + 1, i : i + 4]
                w2, w3 = weight_OI[o + 2, i : i + 4], weight_OI[o + 3, i : i + 4]
                v00, v01, v02, v03 = w0[0], w0[1], w0[2], w0[3]
                v10, v11, v12, v13 = w1[0], w1[1], w1[2], w1[3]
                v20, v21, v22, v23 = w2[0], w2[1], w2[2], w2[3]
                v30, v31, v32, v33 = w3[0], w3[1], w3[2], w3[3]
                if i == 0 and not add:
                    for p in range(pixels):
                        o0[p] = v00 * x0[p] + v01 * x1[p] + v02 * x2[p] + v03 * x3[p]
                        o1[p] = v10 * x0[p] + v11 * x1[p] + v12 * x2[p] + v13 * x3[p]
                        o2[p] = v20 * x0[p] + v21 * x1[p] + v22 * x2[p] + v23 * x3[p]
                        o3[p] = v30 * x0[p] + v31 * x1[p] + v32 * x2[p] + v33 * x3[p]
                else:
                    for p in range(pixels):
                        o0[p] += v00 * x0[p] + v01 * x1[p] + v02 * x2[p] + v03 * x3[p]
                        o1[p] += v10 * x0[p] + v11 * x1[p] + v12 * x2[p] + v13 * x3[p]
                        o2[p] += v20 * x0[p] + v21 * x1[p] + v22 * x2[p] + v23 * x3[p]
                        o3[p] += v30 * x0[p] + v31 * x1[p] + v32 * x2[p] + v33 * x3[p]
        return
    for o in range(outputs):
        out = out_OP[o]
        if not add:
            out[:] = 0
        for i in range(inputs):
            w, x = weight_OI[o, i], x_IP[i]
            for p in range(pixels):
                out[p] += w * x[p]


@loop
def pointwise_grad(grad_OP, x_IP, grad_OI):
    """Gradient of the weights of :func:`pointwise`, added to ``grad_OI``."""
    zero = x_IP.dtype.type(0)
    inputs, pixels = x_IP.shape
    outputs = len(grad_OP)
    if inputs % 2 == 0 and outputs % 4 == 0:  # eight sums fit the registers of AVX2
        for o in range(0, outputs, 4):
            g0, g1, g2, g3 = grad_OP[o], grad_OP[o + 1], grad_OP[o + 2], grad_OP[o + 3]
            for i in range(0, inputs, 2):
                x0, x1 = x_IP[i], x_IP[i + 1]
                a00, a01, a10, a11 = zero, zero, zero, zero
                a20, a21, a30, a31 = zero, zero, zero, zero
                for p in range(pixels):
                    a00 += g0[p] * x0[p]
                    a01 += g0[p] * x1[p]
                    a10 += g1[p] * x0[p]
                    a11 += g1[p] * x1[p]
                    a20 += g2[p] * x0[p]
                    a21 += g2[p] * x1[p]
                    a30 += g3[p] * x0[p]
                    a31 += g3[p] * x1[p]
                grad_OI[o, i] += a00
                grad_OI[o, i + 1] += a01
                grad_OI[o + 1, i] += a10
                grad_OI[o + 1, i + 1] += a11
                grad_OI[o + 2, i] += a20
                grad_OI[o + 2, i + 1] += a21
                grad_OI[o + 3, i] += a30
                grad_OI[o + 3, i + 1] += a31
        return
    for o in range(outputs):
        g = grad_OP[o]
        for i in range(inputs):
            x = x_IP[i]
            total = zero
            for p in range(pixels):
                total += g[p] * x[p]
            grad_OI[o, i] += total


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
