"""A cell of the supernet as one function of autograd, on the kernels of planes.py.

The same mathematics as :class:`factory.spaces.cell_supernet.SuperCell`, which is the other path
and the text to read first. State by state: both stages of the convolutions of all its edges, pools,
skips and bypass, then one weighted sum into the nodes; backwards in reverse. Normalisation is
folded into the loops that read a map: only the maps before it are kept; what lies between is
computed once more where the weights' gradient needs it. Maps return to a stock (fresh memory costs
time). Results depend on the number of threads, as torch's do, and on nothing else.
Legend: N pictures, C channels, c = C / K, P pixels, m edges of a state, E edges, O operators.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factory.spaces import planes, planes_shared, planes_stages
from factory.spaces.cell_space import EDGES, OPS

Array = np.ndarray
EPS = 1e-5
COLUMNS = [
    OPS.index(name)
    for name in (
        "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
        "max_pool_3x3", "avg_pool_3x3", "skip_connect",
    )
]  # fmt: skip
DEPTHWISE = ("sep3_1", "sep5_1", "dil3", "dil5", "sep3_2", "sep5_2")
SIZES = (9, 25, 9, 25, 9, 25)  # taps of each
_NO_INDEX = np.empty((0, 0, 0), np.uint8)
STATES = 5  # that have edges leaving them: two inputs, three nodes


@dataclass(frozen=True)
class Layout:
    """What a cell's loops must know of it; ``step`` is K, channel j of c is j * K of a node."""

    channels: int
    step: int
    stride: int  # of the edges that leave inputs 0 and 1

    @property
    def width(self) -> int:
        """Channels of an edge, c."""
        return self.channels // self.step


class PerThread(list[Array]):
    """One array for each thread, to be added up afterwards."""

    @classmethod
    def zeros(cls, threads: int, shape: Sequence[int], dtype: Any) -> PerThread:
        """As many arrays as threads."""
        return cls(np.zeros((threads, *shape), dtype))


@cache
def _workers(pid: int, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="planes")


def _threads(pictures: int) -> int:
    return max(1, min(pictures, torch.get_num_threads()))


def _run(kernel: Callable[..., None], pictures: int, *args: Any) -> None:
    """A kernel on every picture, shared among threads in equal parts."""
    threads = _threads(pictures)
    bounds = [pictures * i // threads for i in range(threads + 1)]

    def part(i: int) -> None:
        own = [a[i] if isinstance(a, PerThread) else a for a in args]
        kernel(*own, bounds[i], bounds[i + 1])

    others = [_workers(os.getpid(), threads).submit(part, i) for i in range(1, threads)]
    part(0)
    for other in others:
        other.result()


class _Stock:
    """Arrays that are used again; one goes back when the last to hold a :class:`_Kept` is gone."""

    def __init__(self) -> None:
        self.free: dict[tuple[Any, ...], list[Array]] = defaultdict(list)

    def take(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array with undefined content."""
        found = self.free[(shape, np.dtype(dtype))]
        return found.pop() if found else np.empty(shape, dtype)


_STOCK = _Stock()


class _Kept:
    """Arrays between a forward pass and its backward pass."""

    def __init__(self) -> None:
        self.taken: list[Array] = []

    def take(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array that goes back to the stock with this object."""
        array = _STOCK.take(shape, dtype)
        self.taken.append(array)
        return array

    def __del__(self) -> None:
        for array in self.taken:
            _STOCK.free[(array.shape, array.dtype)].append(array)


@cache
def _shares(height: int, width: int, stride: int, dtype: Any) -> Array:
    """One over the number of pixels of each 3x3 window that lie inside a map, [P]."""

    def count(length: int) -> Array:
        at = np.arange(0, length, stride)
        return np.minimum(at + 1, length - 1) - np.maximum(at - 1, 0) + 1

    return (1.0 / np.outer(count(height), count(width))).reshape(-1).astype(dtype)


def _normal(sums: Array, axis: int, count: int) -> tuple[Array, Array]:
    """Mean and 1 / standard deviation from sums per picture; float64."""
    total = sums.sum(axis) / count
    mean = total[..., 0]
    variance = np.maximum(total[..., 1] - mean * mean, 0.0)
    return mean, 1.0 / np.sqrt(variance + EPS)


def _grad_coefs(slope: Array, inverse: Array, mean: Array, total: Array, product: Array,
                count: int) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """For norm_grad: (slope, by_z, offset), and the gradient of the weight of the output."""
    correlation = (product - mean * total) * inverse
    by_z = -slope * inverse * correlation / count
    return slope, by_z, -slope * total / count - by_z * mean, correlation


class _State:
    """All that leaves one state of a cell: forward, kept arrays, backward."""

    def __init__(self, state: int, layout: Layout, weights: Sequence[Array]) -> None:
        self.first = max(0, state - 1)  # the first node that reads it
        self.edges = [e for n, e in sorted((n, e) for e, (n, s) in enumerate(EDGES) if s == state)]
        self.layout = layout
        self.stride = layout.stride if state < 2 else 1
        m, c = len(self.edges), layout.width
        self.group_edges = 8 if state < 2 else m
        rows = self.rows = slice(4, 8) if state == 1 else slice(0, m)  # in its group's weights
        self.taps = np.zeros((6, m * c, 25), weights[0].dtype)
        for taps, w in zip(self.taps, weights[:6], strict=True):
            own = w.reshape(self.group_edges * c, -1)[rows.start * c : rows.stop * c]
            taps[:, : own.shape[1]] = own
        self.mix1, self.mix2 = (
            np.ascontiguousarray(w.reshape(len(w), -1, c, c)[:, rows]) for w in weights[6:8]
        )
        self.even, self.odd = (
            w.reshape(self.group_edges, w.size // (self.group_edges * c), c)[rows]
            for w in weights[8:10]
        )

    def forward(self, x: Array, mixed: Array, beta: Array, out: Array, kept: _Kept) -> None:
        """Add to the nodes ``out`` [4, N, C, P] what this state gives them."""
        n, channels, height, width = x.shape
        m, c, dtype, stride = len(self.edges), self.layout.width, x.dtype, self.stride
        self.narrow = (width + stride - 1) // stride
        pixels = self.narrow * ((height + stride - 1) // stride)
        self.count = n * pixels
        self.x = x
        take = kept.take
        self.z1 = take((4, m, n, c, pixels), dtype)
        self.z2 = take((2, m, n, c, pixels), dtype)
        self.peak, self.mean_ = (take((n, c, pixels), dtype) for _ in range(2))
        sums = np.empty((4, m, n, c, 2))
        self.table1 = planes.tables(height, width, stride)
        self.length1 = planes.padded_length(height, width, stride)
        small = (pixels // self.narrow, self.narrow, 1)
        self.table2, self.length2 = planes.tables(*small), planes.padded_length(*small)
        _run(
            planes_stages.first_stage,
            n,
            x,
            self.taps[:4],
            self.table1,
            self.length1,
            self.mix1,
            self.z1,
            sums,
            stride,
        )
        self.mean1, self.inv1 = _normal(sums, 2, self.count)
        self.slope1 = self.inv1.astype(dtype)
        self.offset1 = (-self.inv1 * self.mean1).astype(dtype)
        sums = np.empty((2, m, n, c, 2))
        _run(planes_stages.second_stage, n, self.z1, self.slope1, self.offset1, self.taps[4:],
             self.table2, self.length2, self.mix2, self.z2, sums, self.narrow)  # fmt: skip
        mean2, inv2 = _normal(sums, 2, self.count)
        sums = np.empty((2, n, c, 2))
        self.share = _shares(height, width, stride, dtype)
        _run(planes_shared.pools, n, x, c, stride, self.share, self.peak, self.mean_,
             sums)  # fmt: skip
        pool_mean, pool_inv = _normal(sums, 1, self.count)
        skip_mean, skip_inv = np.zeros((m, c)), np.ones((m, c))
        if stride == 1:
            self.skip = x.reshape(1, n, channels, pixels)
        else:
            self.skip = take((m, n, c, pixels), dtype)
            sums = np.empty((m, n, c, 2))
            _run(planes_shared.reduced_skip, n, x, self.even, self.odd, self.skip, sums)
            skip_mean, skip_inv = _normal(sums, 1, self.count)

        def both(a: Array) -> Array:
            return np.broadcast_to(a[:, None], (2, m, c))

        self.mean = np.concatenate([mean2, self.mean1[2:], both(pool_mean), skip_mean[None]])
        self.inv = np.concatenate([inv2, self.inv1[2:], both(pool_inv), skip_inv[None]])
        self.slope = mixed[self.edges][:, COLUMNS].T[:, :, None] * self.inv
        offset = -(self.slope * self.mean).sum(0)
        _run(planes_shared.collect, n, self.skip, int(stride == 2), self.z1, self.z2, self.peak,
             self.mean_, self.slope.astype(dtype), offset.astype(dtype), out, self.first,
             self.layout.step)  # fmt: skip
        self.beta = beta[self.edges].astype(dtype)
        if self.layout.step > 1:
            self.past, self.past_index = x.reshape(n, channels, -1), _NO_INDEX
            if stride == 2:
                self.past = take((n, channels, pixels), dtype)
                self.past_index = take((n, channels, pixels), np.uint8)
                _run(planes_shared.bypass_pool, n, x, c, self.past, self.past_index)
            _run(planes_shared.bypass, n, self.past, c, self.beta, out, self.first,
                 self.layout.step)  # fmt: skip

    def backward(
        self, g: Array, gx: Array, g_mixed: Array, g_beta: Array, g_weights: list[Array] | None
    ) -> None:
        """Add to the gradients of the state (gx [N, C, H, W]), mixing and weights."""
        x, first, step, dtype = self.x, self.first, self.layout.step, self.x.dtype
        n, m, c, threads = len(x), len(self.edges), self.layout.width, _threads(len(x))
        weights = g_weights is not None
        sums = np.empty((m, n, c, 8))
        per_edge = int(self.stride == 2)
        _run(planes_shared.collect_sums, n, g, self.skip, per_edge, self.z1, self.z2, self.peak,
             self.mean_, first, step, sums)  # fmt: skip
        found = sums.sum(1)  # [m, c, 8]
        product, total = found[..., :7].transpose(2, 0, 1), found[..., 7][None]
        coefs64 = _grad_coefs(self.slope, self.inv, self.mean, total, product, self.count)
        g_mixed[np.ix_(self.edges, COLUMNS)] += coefs64[3].sum(2).T
        coefs = np.stack(coefs64[:3]).astype(dtype)
        kept = _Kept()
        gh = kept.take((2, m, n, c, self.z1.shape[4]), dtype)
        sums = np.empty((2, m, n, c, 2))
        grads = [PerThread.zeros(threads, t.shape, dtype) for t in (self.taps[:4], self.taps[4:])]
        mixes = [PerThread.zeros(threads, t.shape, dtype) for t in (self.mix1, self.mix2)]
        flipped = np.zeros_like(self.taps)
        for turned, taps, size in zip(flipped, self.taps, SIZES, strict=True):
            turned[:, :size] = taps[:, size - 1 :: -1]
        back1, back2 = (
            np.ascontiguousarray(w.transpose(0, 1, 3, 2)) for w in (self.mix1, self.mix2)
        )
        _run(planes_stages.second_stage_grad, n, g, first, step, coefs, self.z1, self.z2,
             self.slope1, self.offset1, self.taps[4:], flipped[4:], self.table2, self.length2,
             back2, gh, sums, grads[1], mixes[1], weights, self.narrow)  # fmt: skip
        found = sums.sum(2)
        inner = _grad_coefs(self.inv1[:2], self.inv1[:2], self.mean1[:2], found[..., 0],
                            found[..., 1], self.count)  # fmt: skip
        coefs1 = np.concatenate([np.stack(inner[:3]), np.stack(coefs64[:3])[:, 2:4]], 1)
        _run(planes_stages.first_stage_grad, n, x, g, first, step, coefs1.astype(dtype),
             self.z1, gh, self.taps[:4], flipped[:4], self.table1, self.length1, back1, gx,
             grads[0], mixes[0], weights, self.stride)  # fmt: skip
        _run(planes_shared.pools_grad, n, x, g, first, step, coefs, self.share, self.peak,
             self.mean_, self.stride, gx)  # fmt: skip
        both_stages = np.concatenate([sum(p) for p in grads])
        results = [t[:, :size] for t, size in zip(both_stages, SIZES, strict=True)]
        results += [sum(p) for p in mixes]
        if self.stride == 1:
            _run(planes_shared.skip_grad, n, g, first, step, coefs[0, 6], gx)
        else:
            pair = [PerThread.zeros(threads, t.shape, dtype) for t in (self.even, self.odd)]
            back = (np.ascontiguousarray(t.transpose(0, 2, 1)) for t in (self.even, self.odd))
            _run(planes_shared.reduced_skip_grad, n, x, g, first, step, coefs, self.skip, *back,
                 gx, *pair, weights)  # fmt: skip
            results += [sum(p) for p in pair]
        if step > 1:
            sums = np.empty((m, n))
            _run(planes_shared.bypass_grad, n, g, self.past, self.past_index, c, self.beta, first,
                 step, self.stride, gx, sums)  # fmt: skip
            g_beta[self.edges] += sums.sum(1)
        if g_weights is not None:
            self._put(g_weights, results)

    def _put(self, g_weights: list[Array], results: list[Any]) -> None:
        """Into this state's rows of the gradients of its group's weights."""
        for i, (target, value) in enumerate(zip(g_weights, results, strict=False)):
            if i in (6, 7):
                target.reshape(len(value), -1, *value.shape[2:])[:, self.rows] = value
            else:
                per_edge = target.size // self.group_edges
                rows = target.reshape(self.group_edges, per_edge)[self.rows]
                rows[:] = value.reshape(rows.shape)


class _FusedCell(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layout: Layout, x0: Tensor, x1: Tensor, mixed_EO: Tensor, beta_E: Tensor,
        *weights: Tensor,
    ) -> Tensor:  # fmt: skip
        """``weights``: ten for each of the four groups, in the order of :class:`_State`."""
        kept = _Kept()
        inputs = [t.detach().contiguous().numpy() for t in (x0, x1)]
        mixed, beta = (t.detach().double().numpy() for t in (mixed_EO, beta_E))
        arrays = [w.detach().contiguous().numpy() for w in weights]
        n, channels, height, width = inputs[0].shape
        narrow = tuple((v + layout.stride - 1) // layout.stride for v in (height, width))
        pixels = narrow[0] * narrow[1]
        out = kept.take((4, n, channels, pixels), inputs[0].dtype)
        out[:] = 0
        states = []
        for s in range(STATES):
            group = max(0, s - 1)
            state = _State(s, layout, arrays[10 * group : 10 * group + 10])
            x = inputs[s] if s < 2 else out[s - 2].reshape(n, channels, *narrow)
            state.forward(x, mixed, beta, out, kept)
            states.append(state)
        ctx.states, ctx.kept, ctx.shapes = states, kept, [w.shape for w in weights]
        ctx.dtypes = mixed_EO.dtype, beta_E.dtype
        result = torch.from_numpy(out).permute(1, 0, 2, 3)
        return result.reshape(n, 4 * channels, *narrow)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states: list[_State] = ctx.states
        n, width, *size = grad.shape
        g_map = grad.reshape(n, 4, width // 4, -1).permute(1, 0, 2, 3).contiguous()
        if g_map.data_ptr() == grad.data_ptr():
            g_map = g_map.clone()
        g = g_map.numpy()
        g_mixed, g_beta = np.zeros((len(EDGES), len(OPS))), np.zeros(len(EDGES))
        wanted = any(ctx.needs_input_grad[5:])
        g_weights = [np.zeros(s, g.dtype) for s in ctx.shapes] if wanted else None
        inputs: list[Array] = []
        for s in reversed(range(STATES)):
            gx = np.zeros_like(states[s].x) if s < 2 else g[s - 2].reshape(n, width // 4, *size)
            group = max(0, s - 1)
            part = None if g_weights is None else g_weights[10 * group : 10 * group + 10]
            states[s].backward(g, gx, g_mixed, g_beta, part)
            if s < 2:
                inputs.insert(0, gx)
        of_weights = [None] * len(ctx.shapes) if g_weights is None else g_weights
        of_mixing = [
            torch.from_numpy(v).to(d) for v, d in zip((g_mixed, g_beta), ctx.dtypes, strict=True)
        ]
        return (
            None,
            *(torch.from_numpy(v) for v in inputs),
            *of_mixing,
            *(None if w is None else torch.from_numpy(w) for w in of_weights),
        )


def fused_cell(
    layout: Layout, x0: Tensor, x1: Tensor, mixed_EO: Tensor, beta_E: Tensor,
    groups: Sequence[Any],
) -> Tensor:  # fmt: skip
    """The nodes of a cell [N, 4 C, H, W] from its two preprocessed inputs [N, C, H, W].

    ``groups``: the cell's modules with the weights of its edges; ``mixed_EO`` = alpha * beta.
    """
    weights: list[Tensor] = []
    for group in groups:
        weights += [group.depthwise[name] for name in DEPTHWISE]
        weights += [group.pointwise1, group.pointwise2]
        none = group.pointwise1.new_empty(0)
        weights += [none if w is None else w for w in (group.skip_even, group.skip_odd)]
    result = _FusedCell.apply(layout, x0, x1, mixed_EO, beta_E, *weights)
    assert isinstance(result, Tensor)
    return result
