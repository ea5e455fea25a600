"""Step time of the batched supernet beside a plain one with a module per edge and operator.

Both take one bilevel step (architecture gradient on one batch, weight gradient on another) in
turn in one process; medians go to stdout as JSON:
    python tools/bench_supernet.py --channels 16 --layers 8 --batch 16 --partial 4
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.search.relaxation import ArchParameters
from factory.search.supernet import Supernet
from factory.spaces.cell_space import EDGES, OPS
from factory.spaces.network_spec import CellPlan, NetworkSpec
from factory.spaces.operators import FactorizedReduce, ReluConvBn, build_op


class PlainEdge(nn.Module):
    """One mixed operation: eight modules, partial channels, shuffle."""

    def __init__(self, channels: int, stride: int, partial: int) -> None:
        super().__init__()
        self.partial, self.stride = partial, stride
        c = channels // partial
        self.ops = nn.ModuleList()
        for name in OPS:
            op = build_op(name, c, stride, affine=False)
            pool = nn.Sequential(op, nn.BatchNorm2d(c, affine=False)) if "pool" in name else op
            self.ops.append(pool)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of the candidates."""
        c = x.shape[1] // self.partial
        front = x[:, :c].contiguous()
        y = sum(w * op(front) for w, op in zip(weights, self.ops, strict=True))
        assert isinstance(y, Tensor)
        if self.partial == 1:
            return y
        rest = x[:, c:] if self.stride == 1 else F.max_pool2d(x[:, c:], 2, 2)
        return F.channel_shuffle(torch.cat([y, rest], 1), self.partial)


class PlainCell(nn.Module):
    """One cell, edge by edge."""

    def __init__(self, plan: CellPlan, partial: int) -> None:
        super().__init__()
        first = FactorizedReduce if plan.reduction_prev else ReluConvBn
        self.plan = plan
        self.pre = nn.ModuleList(
            [
                first(plan.in_channels[0], plan.channels, False),
                ReluConvBn(plan.in_channels[1], plan.channels, False),
            ]
        )
        self.edges = nn.ModuleList(
            PlainEdge(plan.channels, plan.stride(source), partial) for _, source in EDGES
        )

    def forward(self, s0: Tensor, s1: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """The four nodes side by side."""
        states = [self.pre[0](s0), self.pre[1](s1)]
        for node in range(2, 6):
            found = [
                beta[e] * self.edges[e](states[s], alpha[e])
                for e, (n, s) in enumerate(EDGES)
                if n == node
            ]
            states.append(sum(found[1:], start=found[0]))
        return torch.cat(states[2:], 1)


class PlainSupernet(nn.Module):
    """The whole network."""

    def __init__(self, spec: NetworkSpec, partial: int) -> None:
        super().__init__()
        out = spec.stem_channels
        self.stem = nn.Sequential(
            nn.Conv2d(spec.input_shape[0], out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        )
        self.cells = nn.ModuleList(PlainCell(plan, partial) for plan in spec.plan)
        self.head = nn.Linear(spec.plan[-1].out_channels, spec.num_classes)

    def forward(self, x: Tensor, mixing: dict) -> Tensor:
        """Logits."""
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            mix = mixing[cell.plan.cell_type]
            s0, s1 = s1, cell(s0, s1, mix.alpha_EO, mix.beta_E)
        return self.head(s1.mean((2, 3)))


def bilevel_step(
    net: nn.Module, arch: ArchParameters, split: bool
) -> Callable[[Tensor, Tensor], None]:
    """One step; ``split`` asks each pass only for the gradients it uses."""

    def step(x: Tensor, y: Tensor) -> None:
        weights, alphas = list(net.parameters()), list(arch.parameters())
        if split:
            loss = F.cross_entropy(net(x, arch.mixing()), y)
            torch.autograd.grad(loss, alphas)
            loss = F.cross_entropy(net(x, arch.mixing(detach=True)), y)
            torch.autograd.grad(loss, weights)
        else:
            for _ in range(2):
                F.cross_entropy(net(x, arch.mixing()), y).backward()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("channels", 16), ("layers", 8), ("batch", 16), ("partial", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-batched", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    spec = NetworkSpec(args.channels, args.layers, "cifar", (3, args.size, args.size), 10)
    arch = ArchParameters(seed=0)
    nets = {"batched": bilevel_step(Supernet(spec, args.partial), arch, True)}
    if not args.only_batched:
        nets["plain"] = bilevel_step(PlainSupernet(spec, args.partial), arch, False)
    x = torch.randn(args.batch, 3, args.size, args.size)
    y = torch.randint(0, 10, (args.batch,))
    times: dict[str, list[float]] = {name: [] for name in nets}
    for round_ in range(args.rounds + 1):
        for name, step in nets.items():
            start = time.perf_counter()
            step(x, y)
            if round_:
                times[name].append(time.perf_counter() - start)
    median_ms = {name: round(1e3 * statistics.median(t), 1) for name, t in times.items()}
    result = {"schema_version": 1, "settings": vars(args), "median_step_ms": median_ms}
    if "plain" in median_ms:
        result["speedup"] = round(median_ms["plain"] / median_ms["batched"], 1)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
