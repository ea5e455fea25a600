"""The supernet of NAS-Bench-201 (arXiv 2001.00326): all five operators on all six edges.

Stem, stages and residual blocks as in spaces/nas_bench_201_network.py. Node j of a cell is
sum_i beta_ij sum_o alpha_ijo op_o(x_i); ``none`` adds nothing, the average pool has no BatchNorm.
BatchNorms of cells have no slope and offset and take the statistics of their batch. Partial
channels (PC-DARTS, arXiv 1907.05737): the first C / K channels of a node's sources go through the
operators, the others bypass them, then the channels are shuffled.
The ReLU of a node is made once, and the convolutions of one size that leave it are one convolution.
Only operators that take part (``active_EO``) run, so that one sampled operator an edge costs one.
Legend: N batch, C channels, E edges, O operators.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.spaces.mixing import Mixing, SkipDropout, fixed_statistics_off
from factory.spaces.nas_bench_201 import EDGES, NODES, OPS
from factory.spaces.nas_bench_201_network import Frame201
from factory.spaces.nas_bench_201_space import Spec201
from factory.spaces.torch_initialise import initialise_supernet

SKIP, POOL = OPS.index("skip_connect"), OPS.index("avg_pool_3x3")
CONVOLUTIONS: tuple[tuple[int, int], ...] = (
    (OPS.index("nor_conv_1x1"), 1),
    (OPS.index("nor_conv_3x3"), 3),
)


class SuperCell201(nn.Module):
    """One cell; weights [E, c, c, k, k] of either convolution."""

    def __init__(self, channels: int, partial: int) -> None:
        super().__init__()
        self.partial, c = partial, channels // partial
        self.weights = nn.ParameterList(
            torch.empty(len(EDGES), c, c, k, k) for _, k in CONVOLUTIONS
        )

    def forward(self, x_NCHW: Tensor, mixing: Mixing, active: list[list[bool]]) -> Tensor:
        """The last node."""
        c = x_NCHW.shape[1] // self.partial
        states = [x_NCHW]
        sums: dict[int, list[Tensor]] = {node: [] for node in NODES}
        for node in NODES:
            self._leave(node - 1, states[-1][:, :c], mixing, active, sums)
            value = sum(sums[node], torch.zeros_like(states[0][:, :c]))
            if self.partial > 1:
                edges = [(e, s) for e, (n, s) in enumerate(EDGES) if n == node]
                rest = sum(
                    (mixing.beta_E[e] * states[s][:, c:] for e, s in edges),
                    torch.zeros_like(states[0][:, c:]),
                )
                value = F.channel_shuffle(torch.cat([value, rest], 1), self.partial)
            states.append(value)
        return states[-1]

    def _leave(
        self,
        source: int,
        x_NCHW: Tensor,
        mixing: Mixing,
        active: list[list[bool]],
        sums: dict[int, list[Tensor]],
    ) -> None:
        """Add what leaves ``source`` to the sums of its targets."""
        edges = [e for e, (_, s) in enumerate(EDGES) if s == source]
        factor_EO = mixing.alpha_EO * mixing.beta_E[:, None]
        activated: Tensor | None = None
        for (o, k), weights in zip(CONVOLUTIONS, self.weights, strict=True):
            run = [e for e in edges if active[e][o]]
            if not run:
                continue
            activated = F.relu(x_NCHW) if activated is None else activated
            y = F.conv2d(activated, weights[run].flatten(0, 1), None, 1, k // 2)
            y = F.batch_norm(y, None, None, None, None, True)
            for e, part in zip(run, y.chunk(len(run), 1), strict=True):
                sums[EDGES[e][0]].append(factor_EO[e, o] * part)
        pooled: Tensor | None = None
        for e in edges:
            if active[e][SKIP]:
                sums[EDGES[e][0]].append(factor_EO[e, SKIP] * x_NCHW)
            if active[e][POOL]:
                if pooled is None:
                    pooled = F.avg_pool2d(x_NCHW, 3, 1, 1, count_include_pad=False)
                sums[EDGES[e][0]].append(factor_EO[e, POOL] * pooled)


class Supernet201(Frame201):
    """The supernet at the size of ``spec``; the architecture comes with every call."""

    def __init__(self, spec: Spec201, partial_channels: int = 1, seed: int = 0) -> None:
        if spec.channels % partial_channels:
            raise ValueError(f"{spec.channels} channels cannot be split in {partial_channels}")
        super().__init__(spec, lambda channels: SuperCell201(channels, partial_channels))
        fixed_statistics_off(self)
        initialise_supernet(self, seed, self.classifier.in_features)

    def forward(
        self, x: Tensor, mixing: Mapping[str, Mixing], dropout: SkipDropout | None = None
    ) -> Tensor:
        """Logits; ``mixing`` of the one cell type, "cell"."""
        weights = mixing["cell"]
        kept = weights.active_EO
        active: list[list[bool]] = (
            [[True] * len(OPS)] * len(EDGES) if kept is None else kept.detach().cpu().tolist()
        )
        y = self.stem(x)
        for layer in self.layers:
            y = layer(y, weights, active) if isinstance(layer, SuperCell201) else layer(y)
        logits: Tensor = self.classifier(self.last(y).flatten(1))
        return logits
