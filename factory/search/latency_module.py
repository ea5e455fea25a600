"""The network-level latency module: a regressor of the whole architecture's code, in the gradient.

LA-DARTS (arXiv 2001.06392): a multi-layer regressor, trained on randomly sampled architectures
with their latency, gives the latency term of the search. Deviations: the architectures' latency is
what the chip's predictor says of the network that ships (itself fitted on measurements;
:meth:`LatencyModule.fit` takes measured pairs as well); and the regressor, which learns from
one-hot codes, sees one-hot codes in the search too: straight-through samples whose mean is the
expected choice q, in place of q itself.

    L(q) = mean_k f(h_k + q - stop(q)),   h_k one-hot, E[h_k] = q

A sample takes two edges a node by systematic sampling, whose inclusion probabilities are exactly
those of q, and an operator an edge. Legend: B samples, E edges, O operators, T cell types,
D = T E O numbers of a code.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from factory.data.augment import derived_seed
from factory.search.config import SearchConfig
from factory.search.costs import CostTerm, node_edges
from factory.spaces.cell_space import EDGES, OPS
from factory.spaces.genotype import CELL_TYPES, NODES, SELECTABLE_OPS

STREAM = 16  # of random numbers
HIDDEN = (128, 64)
EPOCHS, BATCH, RATE = 60, 256, 2e-3
HELD_OUT = 0.1
SAMPLES = 8  # codes a step


@dataclass(frozen=True)
class ModuleError:
    """Relative errors on held-out architectures."""

    median: float
    largest: float


class LatencyModule(nn.Module):
    """latency of a code [B, D] -> [B], in the unit of the samples it was fitted on."""

    def __init__(self, inputs: int, seed: int = 0) -> None:
        super().__init__()
        sizes = (inputs, *HIDDEN, 1)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.layers.parameters():
                bound = (parameter.shape[-1]) ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, codes_BD: Tensor) -> Tensor:
        """Predicted latencies [B]."""
        scaled: Tensor = self.layers(codes_BD).squeeze(-1)
        return scaled * self.get_buffer("spread") + self.get_buffer("mean")

    @classmethod
    def fit(
        cls, codes_BD: np.ndarray, latencies_B: np.ndarray, seed: int = 0
    ) -> tuple[LatencyModule, ModuleError]:
        """Learn from pairs; a tenth of them is held out for the error."""
        x = torch.as_tensor(codes_BD, dtype=torch.float32)
        y = torch.as_tensor(latencies_B, dtype=torch.float32)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        held = max(1, int(HELD_OUT * len(x)))
        test, train = order[:held], order[held:]
        module = cls(x.shape[1], seed)
        module.get_buffer("mean").copy_(y[train].mean())
        module.get_buffer("spread").copy_(y[train].std().clamp_min(1e-12))
        optimizer = torch.optim.Adam(module.parameters(), lr=RATE)
        steps = EPOCHS * max(1, len(train) // BATCH)
        decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        generator = torch.Generator().manual_seed(seed + 1)
        for _ in range(steps):
            pick = train[torch.randint(len(train), (min(BATCH, len(train)),), generator=generator)]
            error = (module(x[pick]) - y[pick]) / module.get_buffer("spread")
            optimizer.zero_grad()
            error.square().mean().backward()
            optimizer.step()
            decay.step()
        with torch.no_grad():
            relative = ((module(x[test]) - y[test]).abs() / y[test].abs()).double()
        module.requires_grad_(False)
        return module, ModuleError(float(relative.median()), float(relative.max()))


def random_codes(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Uniform one-hot choices, per cell type [B, E, O]."""
    q = {name: np.zeros((count, len(EDGES), len(OPS))) for name in CELL_TYPES}
    columns = [OPS.index(op) for op in SELECTABLE_OPS]
    for name in CELL_TYPES:
        for node in NODES:
            edges = np.array(node_edges(node))
            two = edges[np.argsort(rng.random((count, node)), axis=1)[:, :2]]
            ops = rng.choice(columns, size=(count, 2))
            q[name][np.arange(count)[:, None], two, ops] = 1.0
    return q


def flat(q: Mapping[str, np.ndarray]) -> np.ndarray:
    """Codes [B, D]."""
    return np.concatenate([q[name].reshape(len(q[name]), -1) for name in CELL_TYPES], 1)


def sample_codes(q: Mapping[str, Tensor], count: int, generator: torch.Generator) -> Tensor:
    """One-hot codes [B, D] whose mean is q, drawn on the CPU."""
    parts = []
    for name in CELL_TYPES:
        q_EO = q[name].detach().cpu().double().clamp_min(0.0)
        hot_BEO = torch.zeros(count, *q_EO.shape, dtype=torch.float64)
        pi_E = q_EO.sum(1)
        for node in NODES:
            edges = torch.tensor(node_edges(node))
            top = pi_E[edges].cumsum(0)
            top = top * (2.0 / top[-1])
            top[-1] = 2.0
            start = torch.rand(count, 1, generator=generator, dtype=torch.float64)
            points = torch.cat([start, start + 1.0], 1)
            chosen = edges[torch.searchsorted(top, points, right=True).clamp_max(node - 1)]
            for slot in range(2):
                ops = torch.multinomial(q_EO[chosen[:, slot]], 1, generator=generator)[:, 0]
                hot_BEO[torch.arange(count), chosen[:, slot], ops] = 1.0
        parts.append(hot_BEO.reshape(count, -1))
    return torch.cat(parts, 1)


class ModuleCost:
    """The module's expectation of a cost at q, by straight-through samples of this step."""

    def __init__(self, module: LatencyModule, error: ModuleError, seed: int) -> None:
        self.module, self.error, self.seed = module, error, seed
        self.step = 0

    def at(self, step: int) -> None:
        """Samples are a pure function of (seed, step)."""
        self.step = step

    def __call__(self, q: Mapping[str, Tensor]) -> Tensor:
        """Expected cost, a float64 scalar, differentiable in q."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, STREAM, self.step))
        hot_BD = sample_codes(q, SAMPLES, generator)
        soft_D = torch.cat([q[name].reshape(-1) for name in CELL_TYPES]).to(torch.float32)
        codes_BD = hot_BD.to(soft_D.device, torch.float32) + soft_D - soft_D.detach()
        return self.module.to(soft_D.device)(codes_BD).mean().double()


def module_cost(term: CostTerm, cfg: SearchConfig, seed: int) -> ModuleCost:
    """Fit a module on random networks of the term's space; always the same one for a seed."""
    rng = np.random.default_rng([seed, STREAM])
    codes, values = [], []
    for size in _pieces(cfg.module_samples, 1000):
        q = random_codes(size, rng)
        base, coefficients_M = term.presence.weighted(term.weights, term.constant)
        values.append(base + term.presence.evaluate_monomials(q) @ coefficients_M)
        codes.append(flat(q))
    module, error = LatencyModule.fit(np.concatenate(codes), np.concatenate(values), seed)
    return ModuleCost(module, error, seed)


def _pieces(total: int, largest: int) -> Sequence[int]:
    return [largest] * (total // largest) + ([total % largest] if total % largest else [])
