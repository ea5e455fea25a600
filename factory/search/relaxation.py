"""Relaxations: how the discrete choice of a space becomes continuous parameters and weights.

For every matrix of the space's choice (spaces/base.py); in a cell an edge is a row:
alpha [E, O]: softmax over the operators of an edge (DARTS, arXiv 1806.09055).
beta [E]: softmax over the edges that enter a node (PC-DARTS, arXiv 1907.05737).
gamma [E, A]: softmax over the activations of an edge (Scalable-DARTS, arXiv
1912.13256): sum_o alpha_o op_o(sum_a gamma_a act_a(x)), every operator evaluated once.

For expected costs the choice is read as a random network, q[e, o] = P(edge e is in it and has
operator o). Where every row is in the network that is the softmax of alpha. Where a node keeps two
edges it is pi_e p_eo. p is the softmax of alpha renormalised without ``none``, which can never
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
from typing import Any

import torch
from torch import Tensor, nn

from factory.spaces.base import ChoiceMatrix, SearchSpace
from factory.spaces.mixing import Mixing

# (alpha_EO, -inf where struck out; number of the matrix; candidates) -> weights, which run [E, O]
Sampler = Callable[[Tensor, int, Tensor], tuple[Tensor, Tensor]]

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


class ArchParameters(nn.Module):
    """alpha and beta of every matrix, drawn from 1e-3 N(0, 1); gamma where edges are factorised.

    Without edge normalisation beta stays zero, is not trained, and every row has weight 1.

    Args:
        space: whose choice it is.
        seed: where the first values come from.
        edge_normalisation: rows are weighted by a softmax of beta.
        candidates: per matrix [E, O], the columns that take part; None: all that a row has.
        activations: candidates of a factorised edge; 0: edges are not factorised.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        seed: int = 0,
        edge_normalisation: bool = True,
        candidates: Mapping[str, Tensor] | None = None,
        activations: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.space = space
        self.edge_normalisation = edge_normalisation
        self.alpha = nn.ParameterDict()
        self.beta = nn.ParameterDict()
        self.gamma = nn.ParameterDict()
        for matrix in space.matrices:
            name, (rows, columns) = matrix.name, matrix.shape
            self.alpha[name] = nn.Parameter(_draw(rows, columns, generator=generator))
            beta_E = _draw(rows, generator=generator)
            self.beta[name] = nn.Parameter(
                beta_E if edge_normalisation else torch.zeros_like(beta_E),
                requires_grad=edge_normalisation,
            )
            kept = torch.from_numpy(matrix.candidates.copy())
            if candidates is not None:
                kept = candidates[name].detach().cpu().clone()
            self.register_buffer(f"candidates_{name}", kept)
        if activations:
            for matrix in space.matrices:
                gamma_EA = _draw(matrix.shape[0], activations, generator=generator)
                self.gamma[matrix.name] = nn.Parameter(gamma_EA)

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that the search moves, in a fixed order."""
        return [p for p in self.parameters() if p.requires_grad]

    def candidates(self, name: str) -> Tensor:
        """[E, O]: the columns of a matrix that take part."""
        return self.get_buffer(f"candidates_{name}")

    def kept_alpha(self, name: str) -> Tensor:
        """alpha of a matrix, -inf where a column does not take part."""
        return self.alpha[name].masked_fill(~self.candidates(name), -torch.inf)

    def mixing(self, detach: bool = False, sample: Sampler | None = None) -> dict[str, Mixing]:
        """Weights of the supernet's sums, per matrix; ``sample`` draws the columns'."""
        result = {}
        for number, matrix in enumerate(self.space.matrices):
            name = matrix.name
            alpha_EO, active_EO = self.kept_alpha(name), self.candidates(name)
            if sample is None:
                alpha_EO = torch.softmax(alpha_EO, 1)
            else:
                alpha_EO, active_EO = sample(alpha_EO, number, active_EO)
            if self.edge_normalisation:
                beta_E = torch.exp(log_edge_softmax(self.beta[name], matrix))
            else:
                beta_E = torch.ones_like(self.beta[name])
            gamma_EA = torch.softmax(self.gamma[name], 1) if name in self.gamma else None
            if detach:
                alpha_EO, beta_E = alpha_EO.detach(), beta_E.detach()
                gamma_EA = None if gamma_EA is None else gamma_EA.detach()
            result[name] = Mixing(alpha_EO, beta_E, active_EO, gamma_EA)
        return result

    def derived_mixing(self, architecture: Any) -> dict[str, Mixing]:
        """The supernet's weights when only what ``architecture`` has chosen is left.

        Under edge normalisation the rows of a node that are left share its weight as their betas
        stand.
        """
        result = {}
        q = self.space.one_hot(architecture)
        for matrix in self.space.matrices:
            name = matrix.name
            hot_EO = torch.from_numpy(q[name]).to(self.alpha[name])
            log_b = self.beta[name].detach().masked_fill(hot_EO.sum(1) == 0, -torch.inf)
            beta_E = log_edge_softmax(log_b, matrix).exp()
            if not self.edge_normalisation:
                beta_E = torch.ones_like(beta_E)
            gamma_EA = None
            if name in self.gamma:
                best = self.gamma[name].detach().argmax(1)
                gamma_EA = nn.functional.one_hot(best, self.gamma[name].shape[1]).to(beta_E.dtype)
            result[name] = Mixing(hot_EO, beta_E, hot_EO > 0, gamma_EA)
        return result

    def marginals(self) -> dict[str, Tensor]:
        """q per matrix, differentiable; see :func:`with_gamma`."""
        q = {m.name: marginals(self.kept_alpha(m.name), self.beta[m.name], m)
             for m in self.space.matrices}  # fmt: skip
        return with_gamma(q, self.gamma)

    def values(self) -> dict[str, dict[str, list]]:
        """Plain numbers, for a JSON file; alpha of struck-out candidates is DROPPED."""
        found: dict[str, dict[str, list]] = {"alpha": {}, "beta": {}}
        for name in self.alpha:
            alpha_EO = self.alpha[name].detach().masked_fill(~self.candidates(name), DROPPED)
            found["alpha"][name] = alpha_EO.cpu().tolist()
            found["beta"][name] = self.beta[name].detach().cpu().tolist()
        if self.gamma:
            found["gamma"] = {name: g.detach().cpu().tolist() for name, g in self.gamma.items()}
        return found


def choice_of_values(space: SearchSpace[Any], values: Mapping[str, Any]) -> dict[str, Tensor]:
    """The choice q of parameters as plain numbers."""
    q = {
        m.name: marginals(
            torch.tensor(values["alpha"][m.name]), torch.tensor(values["beta"][m.name]), m
        )
        for m in space.matrices
    }
    gamma = {name: torch.tensor(value) for name, value in values.get("gamma", {}).items()}
    return with_gamma(q, gamma)


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


def _by_node(matrix: ChoiceMatrix) -> tuple[list[list[int]], list[int]]:
    """Rows of each node, and the order that puts them back."""
    nodes = dict.fromkeys(matrix.nodes)
    groups = [[e for e, n in enumerate(matrix.nodes) if n == node] for node in nodes]
    order = [e for group in groups for e in group]
    return groups, sorted(range(len(order)), key=order.__getitem__)


def log_edge_softmax(beta_E: Tensor, matrix: ChoiceMatrix) -> Tensor:
    """Log of the softmax of beta over the rows of each node, [E]."""
    groups, inverse = _by_node(matrix)
    return torch.cat([torch.log_softmax(beta_E[group], 0) for group in groups])[inverse]


def selectable(alpha_EO: Tensor, none: int) -> tuple[Tensor, Tensor]:
    """(log p_EO over the operators without ``none``, log of their total mass_E)."""
    log_all = torch.log_softmax(alpha_EO, 1)
    keep = torch.ones(alpha_EO.shape[1], dtype=torch.bool, device=alpha_EO.device)
    keep[none] = False
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


def marginals(alpha_EO: Tensor, beta_E: Tensor, matrix: ChoiceMatrix) -> Tensor:
    """q_EO (see the module's text), in float64; where rows are kept column ``none`` is zero."""
    if matrix.kept is None:
        return torch.softmax(alpha_EO.double(), 1)
    assert matrix.kept == 2
    assert matrix.none is not None
    log_p_EO, mass_E = selectable(alpha_EO.double(), matrix.none)
    log_b_E = beta_E.double() + mass_E
    groups, inverse = _by_node(matrix)
    pi_E = torch.cat([inclusion(log_b_E[group]) for group in groups])[inverse]
    return pi_E[:, None] * log_p_EO.exp()
