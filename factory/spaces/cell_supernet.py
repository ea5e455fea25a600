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
c = C / K channels of an edge, R = N H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.spaces import fast_ops as ops
from factory.spaces.cell_space import EDGES, OPS
from factory.spaces.genotype import NODES
from factory.spaces.mixing import Mixing, SkipDropout
from factory.spaces.network_spec import CellPlan, NetworkSpec
from factory.spaces.torch_initialise import initialise_supernet

MAX, AVG, SKIP = (OPS.index(name) for name in ("max_pool_3x3", "avg_pool_3x3", "skip_connect"))
SEP = (OPS.index("sep_conv_3x3"), OPS.index("sep_conv_5x5"))
DIL = (OPS.index("dil_conv_3x3"), OPS.index("dil_conv_5x5"))
TOGETHER_UP_TO = 1 << 17  # numbers in a map up to which several operators' maps are stacked


@dataclass(frozen=True)
class _Group:
    sources: tuple[int, ...]
    edges: tuple[int, ...]  # ordered by source, then node

    @property
    def nodes(self) -> tuple[int, ...]:
        return tuple(EDGES[e][0] for e in self.edges)


def _group(*sources: int) -> _Group:
    edges = sorted((s, n, e) for e, (n, s) in enumerate(EDGES) if s in sources)
    return _Group(sources, tuple(e for _, _, e in edges))


GROUPS = (_group(0, 1), *(_group(s) for s in NODES[:-1]))


def node_slice(node: int) -> tuple[int, int]:
    """First edge into a node and the one after its last; EDGES lists them together, by source."""
    found = [e for e, (n, _) in enumerate(EDGES) if n == node]
    return found[0], found[-1] + 1


def _uniform(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape))


def shuffle_index(channels: int, partial: int) -> Tensor:
    """Channel shuffle in ``partial`` groups: shuffled[i] = unshuffled[index[i]]."""
    return torch.arange(channels).view(partial, channels // partial).t().reshape(-1)


def _reorder(weight: Tensor, order: Tensor | None) -> Tensor:
    return weight if order is None else weight[:, order.to(weight.device)]


def _phase(x_NCHW: Tensor, offset: int) -> Tensor:
    """Every second pixel from ``offset`` as rows; sizes rounded up, zeros beyond the border."""
    h, w = x_NCHW.shape[2:]
    if offset and (h % 2 or w % 2):
        x_NCHW = F.pad(x_NCHW, (0, w % 2, 0, h % 2))
    return ops.pixels(x_NCHW[:, :, offset::2, offset::2])


class _Preprocess(nn.Module):
    """Input of a cell to C channels, as rows: (ReLU outside) 1x1 convolution or reduction, BN.

    The factorised reduction is two 1x1 convolutions of stride 2, the second shifted by one pixel.
    """

    def __init__(self, in_channels: int, out_channels: int, reduce: bool) -> None:
        super().__init__()
        self.reduce = reduce
        first = out_channels - out_channels // 2 if reduce else out_channels
        self.weight = _uniform(first, in_channels)
        self.weight_odd = _uniform(out_channels - first, in_channels) if reduce else None

    def forward(self, x_NCHW: Tensor, order: Tensor | None) -> Tensor:
        """``order``: the order of the channels of the input relative to the weights'."""
        if self.weight_odd is None:
            y = F.linear(ops.pixels(x_NCHW), _reorder(self.weight, order))
        else:
            weights = (self.weight, self.weight_odd)
            y = torch.cat(
                [F.linear(_phase(x_NCHW, i), _reorder(w, order)) for i, w in enumerate(weights)], 1
            )
        return ops.batch_norm(y[None])[0]

    def planes(self, x_NCHW: Tensor) -> Tensor:
        """The same as a map of planes [N, C, H, W]."""
        height, width = x_NCHW.shape[2:]
        if self.weight_odd is None:
            y = torch.matmul(self.weight, x_NCHW.flatten(2))
        else:
            if height % 2 or width % 2:
                x_NCHW = F.pad(x_NCHW, (0, width % 2, 0, height % 2))
            height, width = (height + 1) // 2, (width + 1) // 2
            parts = [
                torch.matmul(w, x_NCHW[:, :, i::2, i::2].flatten(2))
                for i, w in enumerate((self.weight, self.weight_odd))
            ]
            y = torch.cat(parts, 1)
        y = F.batch_norm(y, None, None, training=True)
        return y.view(*y.shape[:2], height, width)


class _EdgeGroup(nn.Module):
    """All candidates of all edges that leave the sources of one group.

    Weights are stacked: depthwise [m c, 1, k, k] an operator, pointwise [operators, m c, c], edge
    by edge along the channels.
    """

    def __init__(self, group: _Group, channels: int, stride: int) -> None:
        super().__init__()
        self.group, self.channels, self.stride = group, channels, stride
        total = len(group.edges) * channels
        self.depthwise = nn.ParameterDict()
        for size in (3, 5):
            self.depthwise[f"sep{size}_1"] = _uniform(total, 1, size, size)
            self.depthwise[f"sep{size}_2"] = _uniform(total, 1, size, size)
            self.depthwise[f"dil{size}"] = _uniform(total, 1, size, size)
        self.pointwise1 = _uniform(4, total, channels)  # sep 3, sep 5, dil 3, dil 5
        self.pointwise2 = _uniform(2, total, channels)  # sep 3, sep 5
        second = channels // 2
        edges = len(group.edges)
        self.skip_even = _uniform(edges * (channels - second), channels) if stride == 2 else None
        self.skip_odd = _uniform(edges * second, channels) if stride == 2 and second else None

    def forward(
        self, x_RC: Tensor, size: tuple[int, int], mixed_EO: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per edge the weighted sum of what has weights; and what all edges of a source share.

        ``x_RC`` are the operator channels of the group's sources, side by side.
        """
        m, c, w = len(self.group.edges), self.channels, self.depthwise
        sources = len(self.group.sources)
        index = torch.tensor(self.group.edges, device=mixed_EO.device)
        scale_mO = mixed_EO.index_select(0, index)
        scale_OC = scale_mO.t().repeat_interleave(c, 1)
        active = F.relu(x_RC)
        spread = ops.image(ops.repeat_channels(active, sources, m // sources), size)
        first = [
            ops.pixels(ops.depthwise(spread, w[name], self.stride, dilation))
            for name, dilation in (("sep3_1", 1), ("sep5_1", 1), ("dil3", 2), ("dil5", 2))
        ]
        scale1 = torch.cat([torch.ones_like(scale_OC[:2]), scale_OC[list(DIL)]])
        sep3, sep5, dil3, dil5 = _mix_and_norm(first, self.pointwise1, m, scale1)
        half = (size[0] + 1) // 2, (size[1] + 1) // 2
        out = half if self.stride == 2 else size
        second = [
            ops.pixels(ops.depthwise(ops.image(F.relu(y), out), w[name]))
            for y, name in ((sep3, "sep3_2"), (sep5, "sep5_2"))
        ]
        sep3, sep5 = _mix_and_norm(second, self.pointwise2, m, scale_OC[list(SEP)])
        total = sep3 + sep5 + dil3 + dil5
        if self.stride == 2:
            total = total + self._reduced_skip(active, size, scale_mO[:, SKIP])
        image = ops.image(x_RC, size)
        pooled = torch.stack(
            [
                ops.pixels(F.max_pool2d(image, 3, self.stride, 1)),
                ops.pixels(F.avg_pool2d(image, 3, self.stride, 1, count_include_pad=False)),
            ]
        )
        shared = [*ops.batch_norm(pooled).unbind(0)] + ([x_RC] if self.stride == 1 else [])
        per_source = [part.contiguous() for t in shared for part in t.chunk(sources, 1)]
        return list(total.chunk(m, 1)), per_source

    def _reduced_skip(self, active: Tensor, size: tuple[int, int], scale_m: Tensor) -> Tensor:
        m = len(self.group.edges)
        halves = []
        for offset, weight in enumerate((self.skip_even, self.skip_odd)):
            if weight is None:
                continue
            y = ops.mix(_phase(ops.image(active, size), offset)[None], weight[None], 2)
            width = weight.shape[0] // m
            y = ops.batch_norm(y, scale_m.repeat_interleave(width)[None])
            halves.append(y.view(-1, m, width))
        return torch.cat(halves, 2).flatten(1)


def _mix_and_norm(
    maps: list[Tensor], weights_BOI: Tensor, groups: int, scale_BC: Tensor
) -> list[Tensor]:
    """1x1 convolution and scaled BN of every map: small maps in one call, large ones in turn."""
    if maps[0].numel() <= TOGETHER_UP_TO:
        mixed = ops.mix(torch.stack(maps), weights_BOI, groups)
        return list(ops.batch_norm(mixed, scale_BC).unbind(0))
    parts = zip(maps, weights_BOI.split(1), scale_BC.split(1), strict=True)
    return [ops.batch_norm(ops.mix(x[None], w, groups), s)[0] for x, w, s in parts]


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
        self.front, self.rest = tuple(shuffle[:c].tolist()), tuple(shuffle[c:].tolist())
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
        planes: bool = False,
    ) -> Tensor:
        """The four nodes side by side, each before its channel shuffle (see output_order).

        ``inputs`` are the outputs of the two cells before, after a ReLU. With ``planes`` by
        compiled loops (fused_cell.py), and the nodes are shuffled already.
        """
        c, channels = self.plan.channels // self.partial, self.plan.channels
        mixed_EO = mixing.alpha_EO * mixing.beta_E[:, None]
        if planes:
            return self._fused(inputs, mixed_EO, mixing.beta_E)
        states = [self.preprocess0(inputs[0], orders[0]), self.preprocess1(inputs[1], orders[1])]
        halves = [s.split([c, channels - c], 1) for s in states]
        front = [torch.cat([half[0] for half in halves], 1)]
        bypass = [self._pool(half[1]) for half in halves] if self.partial > 1 else []
        sums: dict[int, list[Tensor]] = {node: [] for node in NODES}
        terms: dict[int, list[Tensor]] = {node: [] for node in NODES}
        picks: dict[int, list[int]] = {node: [] for node in NODES}
        nodes: list[Tensor] = []
        for module, node in zip(self.groups, NODES, strict=True):
            assert isinstance(module, _EdgeGroup)
            group = module.group
            size = self.plan.source_size if 0 in group.sources else self.plan.node_size
            per_edge, shared = module(front[-1], size, mixed_EO)
            kinds = (MAX, AVG) if module.stride == 2 else (MAX, AVG, SKIP)
            for edge, target, part in zip(group.edges, group.nodes, per_edge, strict=True):
                sums[target].append(part)
                position = group.sources.index(EDGES[edge][1])
                for k, op in enumerate(kinds):
                    terms[target].append(shared[k * len(group.sources) + position])
                    picks[target].append(edge * len(OPS) + op)
            pick = torch.tensor(picks[node], device=mixed_EO.device)
            value = ops.weighted_sum(terms[node], mixed_EO.reshape(-1).index_select(0, pick))
            for part in sums[node]:
                value = value + part
            if self.partial > 1:
                start, end = node_slice(node)
                value = torch.cat([value, ops.weighted_sum(bypass, mixing.beta_E[start:end])], 1)
            nodes.append(value)
            if node == NODES[-1]:
                continue
            if self.partial == 1:
                front.append(value)
            else:
                front.append(ops.select_channels(value, self.front))
                bypass.append(ops.select_channels(value, self.rest))
        return ops.image(torch.cat(nodes, 1), self.plan.node_size)

    def _fused(self, inputs: tuple[Tensor, Tensor], mixed_EO: Tensor, beta_E: Tensor) -> Tensor:
        """The same by compiled loops over planes; no reordering is needed there."""
        from factory.spaces.fused_cell import Layout, fused_cell

        stride = 2 if self.plan.reduction else 1
        layout = Layout(self.plan.channels, self.partial, stride)
        x0, x1 = self.preprocess0.planes(inputs[0]), self.preprocess1.planes(inputs[1])
        return fused_cell(layout, x0, x1, mixed_EO, beta_E, list(self.groups))

    def _pool(self, x_RC: Tensor) -> Tensor:
        """What passes the operators by, at the nodes' size."""
        if not self.plan.reduction:
            return x_RC.contiguous()
        x_NCHW = ops.image(x_RC, self.plan.source_size)
        return ops.pixels(F.max_pool2d(x_NCHW, 2, 2, ceil_mode=True))


class SuperStem(nn.Module):
    """The stem of :class:`NetworkSpec`; returns what cell 0 reads as inputs 0 and 1."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        out, half = spec.stem_channels, max(1, spec.stem_channels // 2)
        image = spec.input_shape[0]
        widths = (
            [(image, out)] if spec.stem == "cifar" else [(image, half), (half, out), (out, out)]
        )
        self.stride = 1 if spec.stem == "cifar" else 2
        self.weights = nn.ParameterList(_uniform(o, i, 3, 3) for i, o in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o, track_running_stats=False) for _, o in widths)

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
        self.stem = SuperStem(spec)
        self.cells = nn.ModuleList(SuperCell(plan, partial_channels) for plan in spec.plan)
        features = spec.plan[-1].out_channels
        self.classifier_weight = _uniform(spec.num_classes, features)
        self.classifier_bias = _uniform(spec.num_classes)
        initialise_supernet(self, seed, features)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, x: Tensor, mixing: Mapping[str, Mixing], dropout: SkipDropout | None = None
    ) -> Tensor:
        """Logits; ``mixing`` per cell type."""
        planes = ops.use_planes(x)
        state0, state1 = self.stem(x.contiguous(memory_format=ops.CL))
        if planes:
            state0, state1 = state0.contiguous(), state1.contiguous()
        last = state1
        inputs = (F.relu(state0), F.relu(state1))
        orders: tuple[Tensor | None, Tensor | None] = (None, None)
        for cell in self.cells:
            assert isinstance(cell, SuperCell)
            last = cell(inputs, orders, mixing[cell.plan.cell_type], planes)
            inputs = (inputs[1], F.relu(last))
            orders = (orders[1], None if planes else cell.output_order)
        features = last.mean((2, 3))
        return F.linear(features, _reorder(self.classifier_weight, orders[1]), self.classifier_bias)
