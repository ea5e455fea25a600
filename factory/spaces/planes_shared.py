"""Loops over planes for what has no depthwise kernel: pools, reduced skips, sums and bypass.

Conventions and legend as in :mod:`factory.spaces.planes`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import numpy as np

from factory.spaces.planes import loop, moments, norm_grad, pointwise, pointwise_grad


@loop
def border(plane_HW, value, padded):
    """A plane with a border of one ``value`` around it, as one long row; see :func:`pools`."""
    height, width = plane_HW.shape
    pitch = width + 2
    padded[:] = value
    for h in range(height):
        start = (h + 1) * pitch + 1
        for w in range(width):
            padded[start + w] = plane_HW[h, w]


@loop
def pools(x, c, stride, share, peak, mean, sums, lo, hi):
    """3x3 max-pool and avg-pool of the first c channels.

    share [P]: one over the pixels of a window inside the picture; peak, mean [N, c, P]; sums
    [2, N, c, 2]. Every window of a plane is computed in one long loop, with stride 2 a quarter of
    them is kept.
    """
    height, width = x.shape[2], x.shape[3]
    pitch, narrow = width + 2, (width + stride - 1) // stride
    n_all = height * pitch
    low = np.empty((height + 2) * pitch + 2, x.dtype)
    zeros = np.empty_like(low)
    best, total = np.empty(n_all, x.dtype), np.empty(n_all, x.dtype)
    l0, l1, l2 = low[:n_all], low[1 : n_all + 1], low[2 : n_all + 2]
    l3, l4 = low[pitch : pitch + n_all], low[pitch + 1 : pitch + 1 + n_all]
    l5, l6 = low[pitch + 2 : pitch + 2 + n_all], low[2 * pitch : 2 * pitch + n_all]
    l7, l8 = low[2 * pitch + 1 : 2 * pitch + 1 + n_all], low[2 * pitch + 2 :]
    z0, z1, z2 = zeros[:n_all], zeros[1 : n_all + 1], zeros[2 : n_all + 2]
    z3, z4 = zeros[pitch : pitch + n_all], zeros[pitch + 1 : pitch + 1 + n_all]
    z5, z6 = zeros[pitch + 2 : pitch + 2 + n_all], zeros[2 * pitch : 2 * pitch + n_all]
    z7, z8 = zeros[2 * pitch + 1 : 2 * pitch + 1 + n_all], zeros[2 * pitch + 2 :]
    for n in range(lo, hi):
        for j in range(c):
            border(x[n, j], -np.inf, low)
            border(x[n, j], 0.0, zeros)
            for p in range(n_all):
                v = l1[p] if l1[p] > l0[p] else l0[p]
                v = l2[p] if l2[p] > v else v
                v = l3[p] if l3[p] > v else v
                v = l4[p] if l4[p] > v else v
                v = l5[p] if l5[p] > v else v
                v = l6[p] if l6[p] > v else v
                v = l7[p] if l7[p] > v else v
                best[p] = l8[p] if l8[p] > v else v
            for p in range(n_all):
                total[p] = (
                    ((z0[p] + z1[p]) + (z2[p] + z3[p]))
                    + ((z4[p] + z5[p]) + (z6[p] + z7[p]))
                    + z8[p]
                )
            top, middle = peak[n, j], mean[n, j]
            if stride == 1:
                for h in range(height):
                    for w in range(width):
                        top[h * width + w] = best[h * pitch + w]
                        middle[h * width + w] = total[h * pitch + w] * share[h * width + w]
            else:
                for h in range((height + 1) // 2):
                    for w in range(narrow):
                        p, q = h * narrow + w, 2 * (h * pitch + w)
                        top[p] = best[q]
                        middle[p] = total[q] * share[p]
        moments(peak[n], peak[n], sums[0, n])
        moments(mean[n], mean[n], sums[1, n])


@loop
def pools_grad(x, g, first, step, coefs, share, peak, mean, stride, gx, lo, hi):
    """Gradient of both pools, normalised and weighted, of all edges; added to gx [N, C, H, W].

    That of a maximum goes to the first of the nine pixels that has it.
    """
    height, width = gx.shape[2], gx.shape[3]
    m, c, pixels = coefs.shape[2], coefs.shape[3], peak.shape[2]
    pitch, narrow = width + 2, (width + stride - 1) // stride
    n_all = height * pitch
    low = np.empty((height + 2) * pitch + 2, gx.dtype)
    spread = np.empty_like(low)
    to_peak, to_mean = np.empty(pixels, gx.dtype), np.empty(pixels, gx.dtype)
    rest, even, best = (
        np.empty(n_all, gx.dtype),
        np.empty(n_all, gx.dtype),
        np.empty(n_all, gx.dtype),
    )
    best[:] = 0
    zero = gx.dtype.type(0)
    for n in range(lo, hi):
        for j in range(c):
            to_peak[:] = 0
            to_mean[:] = 0
            top, middle = peak[n, j], mean[n, j]
            for e in range(m):
                a0, a1, a2 = coefs[0, 4, e, j], coefs[1, 4, e, j], coefs[2, 4, e, j]
                b0, b1, b2 = coefs[0, 5, e, j], coefs[1, 5, e, j], coefs[2, 5, e, j]
                up = g[first + e, n, j * step]
                for p in range(pixels):
                    to_peak[p] += a0 * up[p] + a1 * top[p] + a2
                    to_mean[p] += b0 * up[p] + b1 * middle[p] + b2
            border(x[n, j], -np.inf, low)
            spread[:] = 0
            rest[:] = 0
            even[:] = 0
            for h in range((height + stride - 1) // stride):
                for w in range(narrow):
                    p, q = h * narrow + w, (h * pitch + w) * stride
                    rest[q], even[q], best[q] = to_peak[p], to_mean[p] * share[p], top[p]
            for k in range(9):
                start = (k // 3) * pitch + k % 3
                read, target = low[start : start + n_all], spread[start : start + n_all]
                for q in range(n_all):
                    left = rest[q]
                    here = read[q] == best[q]
                    target[q] += even[q] + (left if here else zero)
                    rest[q] = zero if here else left
            for h in range(height):
                start = (h + 1) * pitch + 1
                row = gx[n, j, h]
                for w in range(width):
                    row[w] += spread[start + w]


@loop
def phase(x_HW, offset, out_P):
    """relu of every second pixel from ``offset``; zeros beyond the border."""
    height, width = x_HW.shape
    narrow = (width + 1) // 2
    zero = x_HW.dtype.type(0)
    for h in range((height + 1) // 2):
        for w in range(narrow):
            y, z = 2 * h + offset, 2 * w + offset
            v = x_HW[y, z] if y < height and z < width else zero
            out_P[h * narrow + w] = zero if v <= zero else v


@loop
def reduced_skip(x, even, odd, zs, sums, lo, hi):
    """Factorised reduction of all edges: two 1x1 convolutions of stride 2, one shifted by a pixel.

    even [m, c - c // 2, c], odd [m, c // 2, c]; zs [m, N, c, P]; sums [m, N, c, 2].
    """
    m, front, c = even.shape
    parts = np.empty((2, c, zs.shape[3]), x.dtype)
    for n in range(lo, hi):
        for j in range(c):
            phase(x[n, j], 0, parts[0, j])
            phase(x[n, j], 1, parts[1, j])
        for e in range(m):
            pointwise(parts[0], even[e], zs[e, n, :front], False)
            pointwise(parts[1], odd[e], zs[e, n, front:], False)
            moments(zs[e, n], zs[e, n], sums[e, n])


@loop
def reduced_skip_grad(x, g, first, step, coefs, zs, even, odd, gx, w_even, w_odd, weights, lo, hi):
    """Gradient of :func:`reduced_skip`, normalised and weighted; even, odd transposed."""
    m, c, front = even.shape
    height, width, pixels = x.shape[2], x.shape[3], zs.shape[3]
    narrow = (width + 1) // 2
    parts, back = np.empty((2, c, pixels), x.dtype), np.zeros((2, c, pixels), x.dtype)
    gz = np.empty((c, pixels), x.dtype)
    zero = x.dtype.type(0)
    for n in range(lo, hi):
        back[:] = 0
        for j in range(c):
            phase(x[n, j], 0, parts[0, j])
            phase(x[n, j], 1, parts[1, j])
        for e in range(m):
            for j in range(c):
                norm_grad(
                    g[first + e, n, j * step], zs[e, n, j], coefs[0, 6, e, j], coefs[1, 6, e, j],
                    coefs[2, 6, e, j], gz[j],
                )  # fmt: skip
            pointwise(gz[:front], even[e], back[0], True)
            pointwise(gz[front:], odd[e], back[1], True)
            if weights:
                pointwise_grad(gz[:front], parts[0], w_even[e])
                pointwise_grad(gz[front:], parts[1], w_odd[e])
        for i in range(2):
            for j in range(c):
                for h in range(i, height, 2):
                    for w in range(i, width, 2):
                        if not x[n, j, h, w] <= zero:
                            gx[n, j, h, w] += back[i, j, (h // 2) * narrow + w // 2]


@loop
def bypass_pool(x, c, out, index, lo, hi):
    """2x2 max-pool (sizes rounded up) of the channels from c on: out, index [N, C, P]."""
    height, width = x.shape[2], x.shape[3]
    narrow = (width + 1) // 2
    for n in range(lo, hi):
        for r in range(c, x.shape[1]):
            for h in range((height + 1) // 2):
                for w in range(narrow):
                    best, which = x[n, r, 2 * h, 2 * w], 0
                    for k in range(1, 4):
                        y, z = 2 * h + k // 2, 2 * w + k % 2
                        if y < height and z < width and not x[n, r, y, z] <= best:
                            best, which = x[n, r, y, z], k
                    out[n, r, h * narrow + w] = best
                    index[n, r, h * narrow + w] = which


@loop
def collect(skip, per_edge, z1, z2, peak, mean, weight, offset, out, first, step, lo, hi):
    """Add all weighted operators of all edges of a state to its nodes.

    skip [m or 1, N, c.., P]; weight [7, m, c] in the order sep 3, sep 5, dil 3, dil 5, max, avg,
    skip; offset [m, c]; out [4, N, C, P].
    """
    _, m, c = weight.shape
    for n in range(lo, hi):
        for e in range(m):
            for j in range(c):
                target = out[first + e, n, j * step]
                a, b, d, f = z2[0, e, n, j], z2[1, e, n, j], z1[2, e, n, j], z1[3, e, n, j]
                t, u, s = peak[n, j], mean[n, j], skip[e * per_edge, n, j]
                wa, wb, wd, wf = weight[0, e, j], weight[1, e, j], weight[2, e, j], weight[3, e, j]
                wt, wu, ws, o = weight[4, e, j], weight[5, e, j], weight[6, e, j], offset[e, j]
                for p in range(len(target)):
                    target[p] += wa * a[p] + wb * b[p] + wd * d[p] + wf * f[p] + o
                for p in range(len(target)):
                    target[p] += wt * t[p] + wu * u[p] + ws * s[p]


@loop
def collect_sums(g, skip, per_edge, z1, z2, peak, mean, first, step, sums, lo, hi):
    """Per edge, picture and channel: sum of g and its products with the seven; [m, N, c, 8]."""
    m, _, c, _ = sums.shape
    zero = g.dtype.type(0)
    for n in range(lo, hi):
        for e in range(m):
            for j in range(c):
                up = g[first + e, n, j * step]
                a, b, d, f = z2[0, e, n, j], z2[1, e, n, j], z1[2, e, n, j], z1[3, e, n, j]
                t, u, s = peak[n, j], mean[n, j], skip[e * per_edge, n, j]
                total, sa, sb, sd, sf = zero, zero, zero, zero, zero
                st, su, ss = zero, zero, zero
                for p in range(len(up)):
                    total += up[p]
                    sa += up[p] * a[p]
                    sb += up[p] * b[p]
                    sd += up[p] * d[p]
                    sf += up[p] * f[p]
                    st += up[p] * t[p]
                    su += up[p] * u[p]
                    ss += up[p] * s[p]
                found = sums[e, n, j]
                found[0], found[1], found[2], found[3], found[4] = sa, sb, sd, sf, st
                found[5], found[6], found[7] = su, ss, total


@loop
def bypass(x, c, beta, out, first, step, lo, hi):
    """Add beta_e times what passes the operators by: x [N, C, P] from channel c on."""
    for n in range(lo, hi):
        for e in range(len(beta)):
            for r in range(c, x.shape[1]):
                target, source = out[first + e, n, (r % c) * step + r // c], x[n, r]
                for p in range(len(target)):
                    target[p] += beta[e] * source[p]


@loop
def bypass_grad(g, x, index, c, beta, first, step, stride, gx, sums, lo, hi):
    """Gradient of :func:`bypass` added to gx [N, C, H, W]; sums [m, N]: that of beta."""
    width = gx.shape[3]
    narrow = (width + stride - 1) // stride
    pixels = x.shape[2]
    zero = g.dtype.type(0)
    back = np.empty(pixels, g.dtype)
    for n in range(lo, hi):
        sums[:, n] = 0
        for r in range(c, gx.shape[1]):
            back[:] = 0
            source = x[n, r]
            for e in range(len(beta)):
                up = g[first + e, n, (r % c) * step + r // c]
                total = zero
                for p in range(pixels):
                    back[p] += beta[e] * up[p]
                    total += up[p] * source[p]
                sums[e, n] += total
            if stride == 1:
                target = gx[n, r].reshape(-1)
                for p in range(pixels):
                    target[p] += back[p]
            else:
                for p in range(pixels):
                    k = np.int64(index[n, r, p])
                    h, w = 2 * (p // narrow) + k // 2, 2 * (p % narrow) + k % 2
                    gx[n, r, h, w] += back[p]


@loop
def skip_grad(g, first, step, weight, gx, lo, hi):
    """Gradient of the identity of all edges, added to gx [N, C, H, W]; weight [m, c]."""
    m, c = weight.shape
    for n in range(lo, hi):
        for j in range(c):
            target = gx[n, j].reshape(-1)
            for e in range(m):
                up = g[first + e, n, j * step]
                for p in range(len(target)):
                    target[p] += weight[e, j] * up[p]
