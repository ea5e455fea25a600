"""Relaxations: how the discrete choice of a cell becomes continuous parameters and weights.

alpha [E, O] per cell type: softmax over the operators of an edge (DARTS, arXiv 1806.09055).
beta [E] per cell type: softmax over the edges that enter a node (PC-DARTS, arXiv 1907.05737).

For expected costs the choice is read as a random network, q[e, o] = P(edge e is in it and has
operator o) = pi_e p_eo. p is the softmax of alpha renormalised without ``none``, which can never
be selected (an expectation with it is biased low). pi_e is the probability that e is among two
edges drawn one after the other without replacement with weights b_e ~ beta_e (1 - none_e):

    pi_e = b_e + sum_{f != e} b_f b_e / (1 - b_f),

which sums to exactly 2 over a node and is exact when the choice is one-hot. The ratio is computed
as a softmax over the edges other than f, so nothing is divided by zero when b_f tends to 1.
A relaxation is one entry of RELAXATIONS. Legend: E edges, O operators, n edges of a node.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from factory.core.registry import Registry
from factory.search.supernet import Mixing
from factory.spaces.cell_space import EDGES, OPS
from factory.spaces.genotype import CELL_TYPES, NODES

NONE = OPS.index("none")
NODE_EDGES: dict[int, tuple[int, ...]] = {
    node: tuple(e for e, (n, _) in enumerate(EDGES) if n == node) for node in NODES
}


@dataclass(frozen=True)
class Relaxation:
    """How an edge is relaxed: share of channels and whether edges are weighted."""

    partial_channels: bool
    edge_normalisation: bool


RELAXATIONS: Registry[Relaxation] = Registry("relaxation")
RELAXATIONS.add("partial_channel", Relaxation(partial_channels=True, edge_normalisation=True))
RELAXATIONS.add("full", Relaxation(partial_channels=False, edge_normalisation=False))


class ArchParameters(nn.Module):
    """alpha and beta of both cell types, drawn from 1e-3 N(0, 1).

    Without edge normalisation beta stays zero, is not trained, and every edge has weight 1.
    """

    def __init__(self, seed: int = 0, edge_normalisation: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.edge_normalisation = edge_normalisation
        self.alpha = nn.ParameterDict()
        self.beta = nn.ParameterDict()
        for name in CELL_TYPES:
            self.alpha[name] = nn.Parameter(_draw(len(EDGES), len(OPS), generator=generator))
            beta_E = _draw(len(EDGES), generator=generator)
            self.beta[name] = nn.Parameter(
                beta_E if edge_normalisation else torch.zeros_like(beta_E),
                requires_grad=edge_normalisation,
            )

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that the search moves, in a fixed order."""
        return [p for p in self.parameters() if p.requires_grad]

    def mixing(self, detach: bool = False) -> dict[str, Mixing]:
        """Weights of the supernet's sums, per cell type."""
        result = {}
        for name in CELL_TYPES:
            alpha_EO = torch.softmax(self.alpha[name], 1)
            if self.edge_normalisation:
                beta_E = torch.exp(log_edge_softmax(self.beta[name]))
            else:
                beta_E = torch.ones_like(self.beta[name])
            if detach:
                alpha_EO, beta_E = alpha_EO.detach(), beta_E.detach()
            result[name] = Mixing(alpha_EO, beta_E)
        return result

    def marginals(self) -> dict[str, Tensor]:
        """q per cell type, differentiable."""
        return {name: marginals(self.alpha[name], self.beta[name]) for name in CELL_TYPES}

    def values(self) -> dict[str, dict[str, list]]:
        """Plain numbers, for a JSON file."""
        return {
            "alpha": {name: self.alpha[name].detach().cpu().tolist() for name in CELL_TYPES},
            "beta": {name: self.beta[name].detach().cpu().tolist() for name in CELL_TYPES},
        }


def _draw(*shape: int, generator: torch.Generator) -> Tensor:
    return 1e-3 * torch.randn(*shape, generator=generator)


def log_edge_softmax(beta_E: Tensor) -> Tensor:
    """Log of the softmax of beta over the edges that enter each node, [E]."""
    parts = [torch.log_softmax(beta_E[list(edges)], 0) for edges in NODE_EDGES.values()]
    order = [e for edges in NODE_EDGES.values() for e in edges]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(parts)[inverse]


def selectable(alpha_EO: Tensor) -> tuple[Tensor, Tensor]:
    """(log p_EO over the operators without ``none``, log of their total mass_E)."""
    log_all = torch.log_softmax(alpha_EO, 1)
    keep = torch.ones(alpha_EO.shape[1], dtype=torch.bool, device=alpha_EO.device)
    keep[NONE] = False
    mass_E = torch.logsumexp(log_all[:, keep], 1)
    log_p = (log_all - mass_E[:, None]).masked_fill(~keep, -torch.inf)
    return log_p, mass_E


def inclusion(log_b_n: Tensor) -> Tensor:
    """P(edge is among two drawn without replacement) for log weights of one node's edges."""
    n = len(log_b_n)
    log_b_n = torch.log_softmax(log_b_n, 0)
    itself = torch.eye(n, dtype=torch.bool, device=log_b_n.device)
    # second_fe = b_e / (1 - b_f): the draw of e once f is gone
    second_fe = torch.softmax(log_b_n.expand(n, n).masked_fill(itself, -torch.inf), 1)
    b_n = log_b_n.exp()
    return b_n + b_n @ second_fe


def marginals(alpha_EO: Tensor, beta_E: Tensor) -> Tensor:
    """q_EO = pi_e p_eo (see the module's text), in float64; column ``none`` is zero."""
    log_p_EO, mass_E = selectable(alpha_EO.double())
    log_b_E = beta_E.double() + mass_E
    pieces = [inclusion(log_b_E[list(edges)]) for edges in NODE_EDGES.values()]
    order = [e for edges in NODE_EDGES.values() for e in edges]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    pi_E = torch.cat(pieces)[inverse]
    return pi_E[:, None] * log_p_EO.exp()
