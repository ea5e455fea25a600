"""Relaxations: how the discrete choice of a cell becomes continuous parameters and weights.

alpha [E, O] per cell type: softmax over the operators of an edge (DARTS, arXiv 1806.09055).
beta [E] per cell type: softmax over the edges that enter a node (PC-DARTS, arXiv 1907.05737).
gamma [E, A] per cell type: softmax over the activations of an edge (Scalable-DARTS, arXiv
1912.13256): sum_o alpha_o op_o(sum_a gamma_a act_a(x)), every operator evaluated once.

For expected costs the choice is read as a random network, q[e, o] = P(edge e is in it and has
operator o) = pi_e p_eo. p is the softmax of alpha renormalised without ``none``, which can never
be selected (an expectation with it is biased low). pi_e is the probability that e is among two
edges drawn one after the other without replacement with weights b_e ~ beta_e (1 - none_e):

    pi_e = b_e + sum_{f != e} b_f b_e / (1 - b_f),

which sums to exactly 2 over a node and is exact when the choice is one-hot. The ratio is computed
as a softmax over the edges other than f, so nothing is divided by zero when b_f tends to 1.
A relaxation is one object here and one line in axes.py. Legend: E edges, O operators,
A activations, n edges of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from factory.search.supernet import Mixing
from factory.spaces.cell_space import EDGES, OPS
from factory.spaces.genotype import CELL_TYPES, NODES, Genotype

# (alpha_EO with -inf where struck out, cell type, candidates_EO) -> weights_EO, which run [E, O]
Sampler = Callable[[Tensor, str, Tensor], tuple[Tensor, Tensor]]

NONE = OPS.index("none")
NODE_EDGES: dict[int, tuple[int, ...]] = {
    node: tuple(e for e, (n, _) in enumerate(EDGES) if n == node) for node in NODES
}


DROPPED = -30.0  # log strength of a candidate that an earlier stage struck out


@dataclass(frozen=True)
class Relaxation:
    """How an edge is relaxed.

    Attributes:
        partial_channels: only a share of the channels goes through the candidates.
        factorised: the activation before an operator is a choice of its own.
    """

    partial_channels: bool = False
    factorised: bool = False


PARTIAL_CHANNEL = Relaxation(partial_channels=True)
FULL = Relaxation()
FACTORISED = Relaxation(partial_channels=True, factorised=True)


@dataclass(frozen=True)
class EdgeMixing(Mixing):
    """A :class:`Mixing` with what only the supernet of single edges needs.

    Attributes:
        active_EO: which operators run; one that does not has weight zero.
        gamma_EA: weights of the activations of an edge; None: a ReLU.
    """

    active_EO: Tensor | None = None
    gamma_EA: Tensor | None = None


class ArchParameters(nn.Module):
    """alpha and beta of both cell types, drawn from 1e-3 N(0, 1); gamma where edges are factorised.

    Without edge normalisation beta stays zero, is not trained, and every edge has weight 1.

    Args:
        seed: where the first values come from.
        edge_normalisation: edges are weighted by a softmax of beta.
        candidates: per cell type [E, O], the operators that take part; None: all.
        activations: candidates of a factorised edge; 0: edges are not factorised.
    """

    def __init__(
        self,
        seed: int = 0,
        edge_normalisation: bool = True,
        candidates: Mapping[str, Tensor] | None = None,
        activations: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.edge_normalisation = edge_normalisation
        self.alpha = nn.ParameterDict()
        self.beta = nn.ParameterDict()
        self.gamma = nn.ParameterDict()
        for name in CELL_TYPES:
            self.alpha[name] = nn.Parameter(_draw(len(EDGES), len(OPS), generator=generator))
            beta_E = _draw(len(EDGES), generator=generator)
            self.beta[name] = nn.Parameter(
                beta_E if edge_normalisation else torch.zeros_like(beta_E),
                requires_grad=edge_normalisation,
            )
            kept = torch.ones(len(EDGES), len(OPS), dtype=torch.bool)
            if candidates is not None:
                kept = candidates[name].detach().cpu().clone()
            self.register_buffer(f"candidates_{name}", kept)
        if activations:
            for name in CELL_TYPES:
                self.gamma[name] = nn.Parameter(_draw(len(EDGES), activations, generator=generator))

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that the search moves, in a fixed order."""
        return [p for p in self.parameters() if p.requires_grad]

    def candidates(self, name: str) -> Tensor:
        """[E, O]: the operators of a cell type that take part."""
        return self.get_buffer(f"candidates_{name}")

    def kept_alpha(self, name: str) -> Tensor:
        """alpha of a cell type, -inf where an operator does not take part."""
        return self.alpha[name].masked_fill(~self.candidates(name), -torch.inf)

    def mixing(self, detach: bool = False, sample: Sampler | None = None) -> dict[str, EdgeMixing]:
        """Weights of the supernet's sums, per cell type; ``sample`` draws the operators'."""
        result = {}
        for name in CELL_TYPES:
            alpha_EO, active_EO = self.kept_alpha(name), self.candidates(name)
            if sample is None:
                alpha_EO = torch.softmax(alpha_EO, 1)
            else:
                alpha_EO, active_EO = sample(alpha_EO, name, active_EO)
            if self.edge_normalisation:
                beta_E = torch.exp(log_edge_softmax(self.beta[name]))
            else:
                beta_E = torch.ones_like(self.beta[name])
            gamma_EA = torch.softmax(self.gamma[name], 1) if name in self.gamma else None
            if detach:
                alpha_EO, beta_E = alpha_EO.detach(), beta_E.detach()
                gamma_EA = None if gamma_EA is None else gamma_EA.detach()
            result[name] = EdgeMixing(alpha_EO, beta_E, active_EO, gamma_EA)
        return result

    def derived_mixing(self, genotype: Genotype) -> dict[str, EdgeMixing]:
        """The supernet's weights when only ``genotype``'s operators are left.

        Under edge normalisation the two edges of a node share its weight as their betas stand.
        """
        result = {}
        for name in CELL_TYPES:
            hot_EO = torch.zeros(len(EDGES), len(OPS), device=self.alpha[name].device)
            for i, (op, source) in enumerate(genotype.cell(name)):
                hot_EO[EDGES.index((NODES[i // 2], source)), OPS.index(op)] = 1.0
            log_b = self.beta[name].detach().masked_fill(hot_EO.sum(1) == 0, -torch.inf)
            beta_E = log_edge_softmax(log_b).exp()
            if not self.edge_normalisation:
                beta_E = torch.ones_like(beta_E)
            gamma_EA = None
            if name in self.gamma:
                best = self.gamma[name].detach().argmax(1)
                gamma_EA = nn.functional.one_hot(best, self.gamma[name].shape[1]).to(beta_E.dtype)
            result[name] = EdgeMixing(hot_EO, beta_E, hot_EO > 0, gamma_EA)
        return result

    def marginals(self) -> dict[str, Tensor]:
        """q per cell type, differentiable; see :func:`with_gamma`."""
        q = {name: marginals(self.kept_alpha(name), self.beta[name]) for name in CELL_TYPES}
        return with_gamma(q, self.gamma)

    def values(self) -> dict[str, dict[str, list]]:
        """Plain numbers, for a JSON file; alpha of struck-out candidates is DROPPED."""
        found = {
            "alpha": {
                name: self.alpha[name]
                .detach()
                .masked_fill(~self.candidates(name), DROPPED)
                .cpu()
                .tolist()
                for name in CELL_TYPES
            },
            "beta": {name: self.beta[name].detach().cpu().tolist() for name in CELL_TYPES},
        }
        if self.gamma:
            found["gamma"] = {name: self.gamma[name].detach().cpu().tolist() for name in CELL_TYPES}
        return found


def with_gamma(
    q: Mapping[str, Tensor], gamma: Mapping[str, Tensor] | nn.ParameterDict
) -> dict[str, Tensor]:
    """q of factorised edges: P(operator and activation), [E, O * A], operators first."""
    return {
        name: (q_EO[:, :, None] * torch.softmax(gamma[name].double(), 1)[:, None]).flatten(1)
        if name in gamma
        else q_EO
        for name, q_EO in q.items()
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
