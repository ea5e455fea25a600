"""The supernet of the cell space: every candidate of every edge at once, evaluated in batches.

PC-DARTS (arXiv 1907.05737): of each source state the first C/K channels go through the candidate
operators, the others bypass them (max-pooled where the edge has stride 2); both are joined and
their channels shuffled. A node is x_j = sum_e beta_e shuffle([sum_o alpha_eo op_o(x_s), bypass]).
With K = 1 this is the relaxation of DARTS (arXiv 1806.09055).

All edges that leave one source share their input, so its ReLU and its pools are computed once and
one operator of all these edges is one grouped convolution. A last BatchNorm times alpha * beta is
one call. Sources 0 and 1 of a cell are treated together. Shuffling is linear: once per node, after
the sum; at a cell's output it is done by reordering the weights that read it.
Legend: N batch, C channels, H height, W width, E edges, O operators, m edges of a group,
c = C / K channels of an edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.search import fast_ops as ops
from factory.spaces.cell_space import EDGES, OPS
from factory.spaces.genotype import NODES
from factory.spaces.network_spec import CellPlan, NetworkSpec

MAX, AVG, SKIP = (OPS.index(name) for name in ("max_pool_3x3", "avg_pool_3x3", "skip_connect"))
SEP = {size: OPS.index(f"sep_conv_{size}x{size}") for size in (3, 5)}
DIL = {size: OPS.index(f"dil_conv_{size}x{size}") for size in (3, 5)}


@dataclass(frozen=True)
class Mixing:
    """Weights of one cell type: alpha_EO of the operators of an edge, beta_E of the edges."""

    alpha_EO: Tensor
    beta_E: Tensor


@dataclass(frozen=True)
class _Group:
    sources: tuple[int, ...]
    edges: tuple[int, ...]  # ordered by source, then node

    @property
    def nodes(self) -> tuple[int, ...]:
        return tuple(EDGES[e][0] for e in self.edges)

    def times(self) -> list[int]:
        return [sum(EDGES[e][1] == s for e in self.edges) for s in self.sources]


def _group(*sources: int) -> _Group:
    edges = sorted((s, n, e) for e, (n, s) in enumerate(EDGES) if s in sources)
    return _Group(sources, tuple(e for _, _, e in edges))


GROUPS = (_group(0, 1), *(_group(s) for s in NODES[:-1]))


def _uniform(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape))


def shuffle_index(channels: int, partial: int) -> Tensor:
    """Channel shuffle in ``partial`` groups: shuffled[i] = unshuffled[index[i]]."""
    return torch.arange(channels).view(partial, channels // partial).t().reshape(-1)


class _Reduce(nn.Module):
    """Factorised reduction without its ReLU and BN: two offset stride-2 1x1 convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        second = out_channels // 2
        self.even = _uniform(out_channels - second, in_channels)
        self.odd = _uniform(second, in_channels) if second else None

    def forward(self, x: Tensor, order: Tensor | None = None, groups: int = 1) -> list[Tensor]:
        """The two halves of the output channels."""
        halves = []
        for weight, offset in ((self.even, 0), (self.odd, 1)):
            if weight is None:
                continue
            phase = _phase(x, offset)
            halves.append(ops.pointwise(phase, _reorder(weight, order), groups))
        return halves


def _phase(x: Tensor, offset: int) -> Tensor:
    """Every second pixel from ``offset``; sizes rounded up, zeros beyond the border."""
    h, w = x.shape[2:]
    if offset and (h % 2 or w % 2):
        x = F.pad(x, (0, w % 2, 0, h % 2))
    return x[:, :, offset::2, offset::2].contiguous(memory_format=ops.CL)


def _reorder(weight: Tensor, order: Tensor | None) -> Tensor:
    return weight if order is None else weight[:, order.to(weight.device)]


class _Preprocess(nn.Module):
    """Input of a cell to C channels: (ReLU outside) 1x1 convolution or reduction, BN."""

    def __init__(self, in_channels: int, out_channels: int, reduce: bool) -> None:
        super().__init__()
        self.reduce = _Reduce(in_channels, out_channels) if reduce else None
        self.weight = None if reduce else _uniform(out_channels, in_channels)

    def forward(self, x: Tensor, order: Tensor | None) -> Tensor:
        """``order``: the order of the channels of ``x`` relative to the weights'."""
        if self.reduce is not None:
            y = torch.cat(self.reduce(x, order), 1)
        else:
            assert self.weight is not None
            y = ops.pointwise(x, _reorder(self.weight, order))
        return ops.batch_norm(y)


class _EdgeGroup(nn.Module):
    """All candidates of all edges that leave the sources of one group."""

    def __init__(self, group: _Group, channels: int, stride: int) -> None:
        super().__init__()
        self.group, self.channels, self.stride = group, channels, stride
        total = len(group.edges) * channels
        self.weights = nn.ParameterDict()
        for size in SEP:
            for stage in (1, 2):
                self.weights[f"sep{size}_depthwise{stage}"] = _uniform(total, 1, size, size)
                self.weights[f"sep{size}_pointwise{stage}"] = _uniform(total, channels)
        for size in DIL:
            self.weights[f"dil{size}_depthwise"] = _uniform(total, 1, size, size)
            self.weights[f"dil{size}_pointwise"] = _uniform(total, channels)
        if stride == 2:
            second = channels // 2
            self.weights["skip_even"] = _uniform(len(group.edges) * (channels - second), channels)
            if second:
                self.weights["skip_odd"] = _uniform(len(group.edges) * second, channels)

    def forward(self, x: Tensor, mixed_EO: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Per edge the weighted sum of what has weights; and what all edges of a source share.

        ``x`` are the operator channels of the group's sources, side by side.
        """
        w, m, c = self.weights, len(self.group.edges), self.channels
        index = torch.tensor(self.group.edges, device=mixed_EO.device)
        scale_mO = mixed_EO.index_select(0, index)

        def scale(op: int, channels: int = c) -> Tensor:
            return scale_mO[:, op].repeat_interleave(channels)

        active = F.relu(x)
        times = self.group.times()
        spread = ops.repeat_channels(active, [c] * len(times), times)
        total: Tensor | None = None
        for size, op in SEP.items():
            y = ops.depthwise(spread, w[f"sep{size}_depthwise1"], self.stride)
            y = ops.batch_norm(ops.pointwise(y, w[f"sep{size}_pointwise1"], m))
            y = ops.depthwise(F.relu(y), w[f"sep{size}_depthwise2"])
            y = ops.batch_norm(ops.pointwise(y, w[f"sep{size}_pointwise2"], m), scale(op))
            total = y if total is None else total + y
        for size, op in DIL.items():
            y = ops.depthwise(spread, w[f"dil{size}_depthwise"], self.stride, 2)
            y = ops.batch_norm(ops.pointwise(y, w[f"dil{size}_pointwise"], m), scale(op))
            total = y if total is None else total + y
        assert total is not None
        if self.stride == 2:
            total = total + self._reduced_skip(active, scale)
        pooled = [ops.batch_norm(pool(x, self.stride)) for pool in (ops.max_pool, ops.avg_pool)]
        shared = pooled if self.stride == 2 else [*pooled, x]
        per_source = [_dense(part) for t in shared for part in t.chunk(len(times), 1)]
        return list(total.chunk(m, 1)), per_source

    def _reduced_skip(self, active: Tensor, scale: object) -> Tensor:
        assert callable(scale)
        m, c = len(self.group.edges), self.channels
        groups = len(self.group.sources)
        halves = []
        for name, offset, width in (("skip_even", 0, c - c // 2), ("skip_odd", 1, c // 2)):
            if width:
                y = ops.pointwise(_phase(active, offset), self.weights[name], groups)
                y = ops.batch_norm(y, scale(SKIP, width))
                n, _, h, width_px = y.shape
                halves.append(y.permute(0, 2, 3, 1).reshape(n, h, width_px, m, width))
        joined = torch.cat(halves, 4)
        n, h, width_px = joined.shape[:3]
        return joined.reshape(n, h, width_px, m * c).permute(0, 3, 1, 2)


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=ops.CL)


class SuperCell(nn.Module):
    """One cell with all candidates."""

    def __init__(self, plan: CellPlan, partial: int) -> None:
        super().__init__()
        self.plan, self.partial = plan, partial
        c = plan.channels // partial
        self.preprocess0 = _Preprocess(plan.in_channels[0], plan.channels, plan.reduction_prev)
        self.preprocess1 = _Preprocess(plan.in_channels[1], plan.channels, False)
        self.groups = nn.ModuleList(_EdgeGroup(g, c, plan.stride(g.sources[0])) for g in GROUPS)
        shuffle = shuffle_index(plan.channels, partial)
        self.front = tuple(shuffle[:c].tolist())
        self.rest = tuple(shuffle[c:].tolist())
        self.output_order = (
            None
            if partial == 1
            else torch.cat([torch.argsort(shuffle) + i * plan.channels for i in range(len(NODES))])
        )

    def forward(
        self,
        inputs: tuple[Tensor, Tensor],
        orders: tuple[Tensor | None, Tensor | None],
        mixing: Mixing,
    ) -> Tensor:
        """The four nodes side by side, each before its channel shuffle (see output_order).

        ``inputs`` are the outputs of the two cells before, after a ReLU.
        """
        c, device = self.plan.channels // self.partial, mixing.beta_E.device
        mixed_EO = mixing.alpha_EO * mixing.beta_E[:, None]
        states = [self.preprocess0(inputs[0], orders[0]), self.preprocess1(inputs[1], orders[1])]
        halves = [s.split([c, s.shape[1] - c], 1) for s in states]
        front = [torch.cat([half[0] for half in halves], 1)]
        bypass = [_dense(half[1]) for half in halves] if self.partial > 1 else []
        if self.plan.reduction:
            bypass = [F.max_pool2d(b, 2, 2, ceil_mode=True) for b in bypass]
        sums: dict[int, list[Tensor]] = {node: [] for node in NODES}
        terms: dict[int, list[Tensor]] = {node: [] for node in NODES}
        picks: dict[int, list[int]] = {node: [] for node in NODES}
        nodes: list[Tensor] = []
        for module, node in zip(self.groups, NODES, strict=True):
            assert isinstance(module, _EdgeGroup)
            group = module.group
            per_edge, shared = module(_dense(front[-1]), mixed_EO)
            kinds = (MAX, AVG) if module.stride == 2 else (MAX, AVG, SKIP)
            for edge, target, part in zip(group.edges, group.nodes, per_edge, strict=True):
                sums[target].append(part)
                position = group.sources.index(EDGES[edge][1])
                for k, op in enumerate(kinds):
                    terms[target].append(shared[k * len(group.sources) + position])
                    picks[target].append(edge * len(OPS) + op)
            pick = torch.tensor(picks[node], device=device)
            value = ops.weighted_sum(terms[node], mixed_EO.reshape(-1).index_select(0, pick))
            for part in sums[node]:
                value = value + part
            if self.partial > 1:
                edges = [e for e, (n, _) in enumerate(EDGES) if n == node]  # ordered by source
                index = torch.tensor(edges, device=device)
                rest = ops.weighted_sum(bypass, mixing.beta_E.index_select(0, index))
                value = torch.cat([value, rest], 1)
            nodes.append(value)
            if node != NODES[-1]:
                if self.partial == 1:
                    front.append(value)
                else:
                    front.append(ops.select_channels(value, self.front))
                    bypass.append(ops.select_channels(value, self.rest))
        return torch.cat(nodes, 1)


class _Stem(nn.Module):
    """The stem of :class:`NetworkSpec`; returns what cell 0 reads as inputs 0 and 1."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        out, half = spec.stem_channels, max(1, spec.stem_channels // 2)
        image = spec.input_shape[0]
        widths = [(image, out)] if spec.stem == "cifar" else [(image, half), (half, out), (out, out)]
        self.stride = 1 if spec.stem == "cifar" else 2
        self.weights = nn.ParameterList(_uniform(o, i, 3, 3) for i, o in widths)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(o, track_running_stats=False) for _, o in widths
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs 0 and 1 of cell 0 (the same for the CIFAR stem), before the ReLU."""
        states = [x]
        for i, (weight, norm) in enumerate(zip(self.weights, self.norms, strict=True)):
            y = states[-1] if i == 0 else F.relu(states[-1])
            states.append(norm(F.conv2d(y, weight, None, self.stride, 1)))
        return (states[-1], states[-1]) if len(states) == 2 else (states[-2], states[-1])


class Supernet(nn.Module):
    """The supernet of a network size; the architecture comes with every call."""

    def __init__(self, spec: NetworkSpec, partial_channels: int = 4, seed: int = 0) -> None:
        super().__init__()
        if spec.channels % partial_channels:
            raise ValueError(f"{spec.channels} channels cannot be split in {partial_channels}")
        self.spec = spec
        self.stem = _Stem(spec)
        self.cells = nn.ModuleList(SuperCell(plan, partial_channels) for plan in spec.plan)
        features = spec.plan[-1].out_channels
        self.classifier_weight = _uniform(spec.num_classes, features)
        self.classifier_bias = _uniform(spec.num_classes)
        self.initialise(seed)
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Weights uniform in +-1/sqrt(fan-in), drawn from ``seed`` alone."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if ".norms." in name:
                continue
            fan_in = parameter[0].numel() if parameter.dim() > 1 else self.classifier_weight.shape[1]
            bound = 1.0 / math.sqrt(fan_in)
            parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor, mixing: Mapping[str, Mixing]) -> Tensor:
        """Logits; ``mixing`` per cell type."""
        state0, state1 = self.stem(x.contiguous(memory_format=ops.CL))
        last = state1
        inputs = (F.relu(state0), F.relu(state1))
        orders: tuple[Tensor | None, Tensor | None] = (None, None)
        for cell in self.cells:
            assert isinstance(cell, SuperCell)
            last = cell(inputs, orders, mixing[cell.plan.cell_type])
            inputs = (inputs[1], F.relu(last))
            orders = (orders[1], cell.output_order)
        features = last.mean((2, 3))
        return F.linear(features, _reorder(self.classifier_weight, orders[1]), self.classifier_bias)
