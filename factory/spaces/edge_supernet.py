"""The supernet of single edges: only the candidates that take part exist and run.

For rows that the batched supernet (cell_supernet.py) has no form for: stages with fewer candidates
(P-DARTS, arXiv 1904.12760) and their dropout on skips, one sampled operator an edge (GDAS,
arXiv 1910.04465), and factorised edges (Scalable-DARTS, arXiv 1912.13256):

    o(x) = sum_o alpha_o op_o(sum_a gamma_a act_a(x)),

where act takes the place of the leading ReLU of a convolution (of both, in a separable one) and of
the stride-2 skip. Partial channels and edge weights as there. Any operator of the registry works:
those made of convolutions are built here, with the fast depthwise convolution; others as they are.
Legend: N batch, C channels, H height, W width, E edges, O operators, A activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.spaces import fast_ops
from factory.spaces.activation_functions import FUNCTIONS
from factory.spaces.cell_space import EDGES, OPS
from factory.spaces.cell_supernet import SuperStem
from factory.spaces.genotype import CELL_TYPES, NODES
from factory.spaces.mixing import Mixing, SkipDropout, fixed_statistics_off
from factory.spaces.network_spec import CellPlan, NetworkSpec
from factory.spaces.operators import build_op
from factory.spaces.torch_initialise import initialise_supernet

Activation = Callable[[Tensor], Tensor]
CL = torch.channels_last
SKIP = OPS.index("skip_connect")
POOLS = ("max_pool_3x3", "avg_pool_3x3")
CONVOLUTIONS: dict[str, tuple[int, int, int]] = {  # operator -> kernel, dilation, blocks
    "sep_conv_3x3": (3, 1, 2),
    "sep_conv_5x5": (5, 1, 2),
    "dil_conv_3x3": (3, 2, 1),
    "dil_conv_5x5": (5, 2, 1),
}


def batch_norm(x_NCHW: Tensor) -> Tensor:
    """By the batch's own statistics, without slope and offset."""
    return F.batch_norm(x_NCHW, None, None, None, None, True)


def pointwise(x_NCHW: Tensor, weight_OI: Tensor, stride: int = 1) -> Tensor:
    """1x1 convolution.

    A stride is taken by a slice: torch 2.15's own backward of a strided one writes beyond its
    memory for a few channels in channels_last (oneDNN with AVX2, one thread).
    """
    return F.conv2d(x_NCHW[:, :, ::stride, ::stride], weight_OI[:, :, None, None])


class _Convolutions(nn.Module):
    """One or two blocks of activation, depthwise, pointwise convolution, BatchNorm."""

    def __init__(self, channels: int, stride: int, kernel: int, dilation: int, blocks: int) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.depthwise = nn.ParameterList(
            torch.empty(channels, 1, kernel, kernel) for _ in range(blocks)
        )
        self.pointwise = nn.ParameterList(torch.empty(channels, channels) for _ in range(blocks))

    def forward(self, activated_NCHW: Tensor, activation: Activation) -> Tensor:
        x = activated_NCHW
        for i, (depthwise, mix) in enumerate(zip(self.depthwise, self.pointwise, strict=True)):
            x = x if i == 0 else activation(x)
            y = fast_ops.depthwise(x, depthwise, 1 if i else self.stride, self.dilation)
            x = batch_norm(pointwise(y, mix))
        return x


class _ReducedSkip(nn.Module):
    """The stride-2 skip: two 1x1 convolutions, the second shifted by a pixel; any size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        second = out_channels // 2
        self.even = nn.Parameter(torch.empty(out_channels - second, in_channels))
        self.odd = nn.Parameter(torch.empty(second, in_channels)) if second else None

    def forward(self, activated_NCHW: Tensor) -> Tensor:
        x = activated_NCHW
        parts = [pointwise(x, self.even, 2)]
        if self.odd is not None:
            h, w = x.shape[2:]
            shifted = F.pad(x, (0, w % 2, 0, h % 2))[:, :, 1:, 1:]
            parts.append(pointwise(shifted, self.odd, 2))
        return batch_norm(torch.cat(parts, 1))


class _Preprocess(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, reduce: bool) -> None:
        super().__init__()
        self.skip = _ReducedSkip(in_channels, out_channels) if reduce else None
        self.weight = None if reduce else nn.Parameter(torch.empty(out_channels, in_channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = F.relu(x_NCHW)
        if self.skip is not None:
            return self.skip(x)
        assert self.weight is not None
        return batch_norm(pointwise(x, self.weight))


def _other(name: str, channels: int, stride: int) -> nn.Module:
    """A registered operator; its BatchNorms keep no running statistics."""
    operator = build_op(name, channels, stride, affine=False)
    fixed_statistics_off(operator)
    return operator


class _Edge(nn.Module):
    """The candidates of one edge that have weights; pools and identities have none."""

    def __init__(self, channels: int, stride: int, kept_O: Sequence[bool]) -> None:
        super().__init__()
        self.stride = stride
        self.operators = nn.ModuleDict()
        for name, kept in zip(OPS, kept_O, strict=True):
            if not kept or name == "none" or name in POOLS:
                continue
            if name in CONVOLUTIONS:
                self.operators[name] = _Convolutions(channels, stride, *CONVOLUTIONS[name])
            elif name == "skip_connect":
                if stride == 2:
                    self.operators[name] = _ReducedSkip(channels, channels)
            else:
                self.operators[name] = _other(name, channels, stride)


class _Source:
    """What the edges of one source share: its ReLU and its pools, each made once."""

    def __init__(self, x_NCHW: Tensor) -> None:
        self.x_NCHW = x_NCHW
        self._made: dict[str, Tensor] = {}

    def _once(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def relu(self) -> Tensor:
        return self._once("relu", lambda: F.relu(self.x_NCHW))

    def pool(self, name: str, stride: int) -> Tensor:
        x = self.x_NCHW
        if name == "max_pool_3x3":
            return self._once(name, lambda: batch_norm(F.max_pool2d(x, 3, stride, 1)))
        return self._once(
            name,
            lambda: batch_norm(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)),
        )


class EdgeCell(nn.Module):
    """One cell, edge by edge."""

    def __init__(
        self, plan: CellPlan, partial: int, kept_EO: Tensor, activations: Sequence[str]
    ) -> None:
        super().__init__()
        self.plan, self.partial, self.activations = plan, partial, tuple(activations)
        c = plan.channels // partial
        self.preprocess0 = _Preprocess(plan.in_channels[0], plan.channels, plan.reduction_prev)
        self.preprocess1 = _Preprocess(plan.in_channels[1], plan.channels, False)
        self.edges = nn.ModuleList(
            _Edge(c, plan.stride(source), kept_EO[e].tolist())
            for e, (_, source) in enumerate(EDGES)
        )

    def forward(
        self,
        s0_NCHW: Tensor,
        s1_NCHW: Tensor,
        mixing: Mixing,
        active_EO: list[list[bool]],
        dropout: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        """The four nodes side by side; ``active_EO``: the operators that run."""
        c = self.plan.channels // self.partial
        states = [self.preprocess0(s0_NCHW), self.preprocess1(s1_NCHW)]
        fronts = [_Source(s[:, :c].contiguous(memory_format=CL)) for s in states]
        rests = [self._bypass(s[:, c:]) for s in states] if self.partial > 1 else []
        for node in NODES:
            edges = [e for e, (target, _) in enumerate(EDGES) if target == node]
            parts = [
                mixing.beta_E[e] * y
                for e in edges
                if (y := self._edge(e, fronts[EDGES[e][1]], mixing, active_EO[e], dropout))
                is not None
            ]
            value = _total(parts) if parts else fronts[-1].x_NCHW.new_zeros(self._shape(states))
            if self.partial > 1:
                weighted = [mixing.beta_E[e] * rests[EDGES[e][1]] for e in edges]
                value = F.channel_shuffle(torch.cat([value, _total(weighted)], 1), self.partial)
            states.append(value)
            if node != NODES[-1]:
                fronts.append(_Source(value[:, :c].contiguous(memory_format=CL)))
                if self.partial > 1:
                    rests.append(value[:, c:])
        return torch.cat(states[2:], 1)

    def _shape(self, states: list[Tensor]) -> tuple[int, ...]:
        return (states[0].shape[0], self.plan.channels // self.partial, *self.plan.node_size)

    def _bypass(self, x_NCHW: Tensor) -> Tensor:
        return F.max_pool2d(x_NCHW, 2, 2, ceil_mode=True) if self.plan.reduction else x_NCHW

    def _edge(
        self,
        e: int,
        source: _Source,
        mixing: Mixing,
        active_O: list[bool],
        dropout: Callable[[Tensor], Tensor] | None,
    ) -> Tensor | None:
        """The weighted sum of an edge's operators; None when nothing but ``none`` runs."""
        edge = self.edges[e]
        assert isinstance(edge, _Edge)
        activation, activated = self._activation(e, source, mixing)
        parts: list[Tensor] = []
        for o, name in enumerate(OPS):
            if not active_O[o] or name == "none":
                continue
            if name in POOLS:
                y = source.pool(name, edge.stride)
            elif o == SKIP and edge.stride == 1:
                y = source.x_NCHW if dropout is None else dropout(source.x_NCHW)
            elif o == SKIP:
                y = edge.operators[name](activated())
            elif name in CONVOLUTIONS:
                y = edge.operators[name](activated(), activation)
            else:
                y = edge.operators[name](source.x_NCHW)
            parts.append(mixing.alpha_EO[e, o] * y)
        return _total(parts) if parts else None

    def _activation(
        self, e: int, source: _Source, mixing: Mixing
    ) -> tuple[Activation, Callable[[], Tensor]]:
        """The edge's activation, and what gives the activated source (made once an edge)."""
        if mixing.gamma_EA is None:
            return F.relu, source.relu
        weights_A = mixing.gamma_EA[e]

        def mixed(x: Tensor) -> Tensor:
            return _total(
                [w * FUNCTIONS.get(n)(x) for w, n in zip(weights_A, self.activations, strict=True)]
            )

        made: list[Tensor] = []

        def activated() -> Tensor:
            if not made:
                made.append(mixed(source.x_NCHW))
            return made[0]

        return mixed, activated


def _total(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


class EdgeSupernet(nn.Module):
    """The supernet of a network size with chosen candidates; the architecture comes with a call.

    Args:
        spec: size of the network.
        partial_channels: K.
        seed: where the weights come from.
        candidates: per cell type [E, O], the operators that exist; None: all.
        activations: names of the candidates of a factorised edge, in the order of gamma.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        partial_channels: int = 1,
        seed: int = 0,
        candidates: Mapping[str, Tensor] | None = None,
        activations: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if spec.channels % partial_channels:
            raise ValueError(f"{spec.channels} channels cannot be split in {partial_channels}")
        self.spec = spec
        if candidates is None:
            every = torch.ones(len(EDGES), len(OPS), dtype=torch.bool)
            candidates = dict.fromkeys(CELL_TYPES, every)
        self.stem = SuperStem(spec)
        self.cells = nn.ModuleList(
            EdgeCell(plan, partial_channels, candidates[plan.cell_type], activations)
            for plan in spec.plan
        )
        self.classifier_weight = nn.Parameter(
            torch.empty(spec.num_classes, spec.plan[-1].out_channels)
        )
        self.classifier_bias = nn.Parameter(torch.empty(spec.num_classes))
        initialise_supernet(self, seed, spec.plan[-1].out_channels)
        self.to(memory_format=CL)

    def forward(
        self, x: Tensor, mixing: Mapping[str, Mixing], dropout: SkipDropout | None = None
    ) -> Tensor:
        """Logits; ``mixing`` per cell type; ``dropout`` of the skips in this step."""
        active = {name: _active(mixing[name]) for name in mixing}
        drop = None if dropout is None or not dropout.probability else _Dropper(dropout)
        s0, s1 = self.stem(x.contiguous(memory_format=CL))
        for cell in self.cells:
            assert isinstance(cell, EdgeCell)
            name = cell.plan.cell_type
            s0, s1 = s1, cell(s0, s1, mixing[name], active[name], drop)
        return F.linear(s1.mean((2, 3)), self.classifier_weight, self.classifier_bias)


def _active(mixing: Mixing) -> list[list[bool]]:
    kept = mixing.active_EO
    found: list[list[bool]] = (
        [[True] * len(OPS)] * len(EDGES) if kept is None else kept.detach().cpu().tolist()
    )
    return found


class _Dropper:
    """Dropout with masks that depend on the seed and the order of the calls alone."""

    def __init__(self, dropout: SkipDropout) -> None:
        self.keep = 1.0 - dropout.probability
        self.generator: torch.Generator | None = None
        self.seed = dropout.seed

    def __call__(self, x: Tensor) -> Tensor:
        if self.generator is None:
            self.generator = torch.Generator(x.device).manual_seed(self.seed)
        mask = torch.rand(x.shape, generator=self.generator, device=x.device) < self.keep
        return x * mask.to(x.dtype).contiguous(memory_format=CL) / self.keep
