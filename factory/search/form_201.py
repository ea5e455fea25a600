"""The form of NAS-Bench-201: one cell type, an operator on each of six edges (see form.py).

``none`` can be chosen here. What cannot be is a cell without a path to its output: expectations
are over the connected cells alone, E = sum_c P(c) cost(c) / sum_c P(c), P(c) = prod_e q[e, c_e], so
that the mass of ``none`` does not make networks look cheap. All 15,625 cells are looked at when one
is derived: what comes out is the most probable one within all limits, not a neighbour of it.
Legend: E edges, O operators, M connected cells, T terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from factory.core.errors import BudgetError, InputError
from factory.graph.counts import count
from factory.latency.presence import PresenceMatrix
from factory.search.config import SearchConfig
from factory.search.costs import CostTerm
from factory.search.feasibility import check_each
from factory.search.peak_memory import MEMORY, NAME
from factory.search.relaxation import EdgeMixing, Sampler
from factory.search.supernet_201 import Supernet201
from factory.spaces.base import SearchSpace
from factory.spaces.nas_bench_201 import EDGES, NODES, OPS, Cell201, all_cells, one_hot
from factory.spaces.nas_bench_201_space import STAGES, NasBench201Space, Spec201

CELL = "cell"
SKIP = OPS.index("skip_connect")
UNSUPPORTED = {  # axis -> choices that mean nothing here, and why
    "relaxation": {"factorised": "its networks have no form for other activations"},
    "schedule": {"progressive": "its stages have no form with fewer candidates"},
    "latency_cost": {"module": "the module's code is that of the cell space"},
}


class ArchParameters201(nn.Module):
    """alpha [6, 5] and, with edge normalisation, beta [6]; drawn from 1e-3 N(0, 1)."""

    def __init__(self, seed: int = 0, edge_normalisation: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.edge_normalisation = edge_normalisation
        alpha_EO = 1e-3 * torch.randn(len(EDGES), len(OPS), generator=generator)
        beta_E = 1e-3 * torch.randn(len(EDGES), generator=generator)
        self.alpha = nn.ParameterDict({CELL: nn.Parameter(alpha_EO)})
        self.beta = nn.ParameterDict(
            {
                CELL: nn.Parameter(
                    beta_E if edge_normalisation else torch.zeros_like(beta_E),
                    requires_grad=edge_normalisation,
                )
            }
        )

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that the search moves, in a fixed order."""
        return [p for p in self.parameters() if p.requires_grad]

    def kept_alpha(self, name: str) -> Tensor:
        """alpha; all operators take part."""
        return self.alpha[name]

    def mixing(self, detach: bool = False, sample: Sampler | None = None) -> dict[str, EdgeMixing]:
        """Weights of the supernet's sums."""
        alpha_EO = self.alpha[CELL]
        active_EO = torch.ones_like(alpha_EO, dtype=torch.bool)
        if sample is None:
            alpha_EO = torch.softmax(alpha_EO, 1)
        else:
            alpha_EO, active_EO = sample(alpha_EO, CELL, active_EO)
        beta_E = self._edge_weights()
        if detach:
            alpha_EO, beta_E = alpha_EO.detach(), beta_E.detach()
        return {CELL: EdgeMixing(alpha_EO, beta_E, active_EO)}

    def derived_mixing(self, architecture: Cell201) -> dict[str, EdgeMixing]:
        """The supernet's weights when only ``architecture``'s operators are left."""
        hot_EO = torch.tensor(architecture.one_hot()).to(self.alpha[CELL])
        return {CELL: EdgeMixing(hot_EO, self._edge_weights().detach(), hot_EO > 0)}

    def _edge_weights(self) -> Tensor:
        beta_E = self.beta[CELL]
        if not self.edge_normalisation:
            return torch.ones_like(beta_E)
        parts = [torch.softmax(beta_E[[e for e, (n, _) in enumerate(EDGES) if n == node]], 0)
                 for node in NODES]  # fmt: skip
        return torch.cat(parts)  # EDGES are in the order of the nodes

    def marginals(self) -> dict[str, Tensor]:
        """q: the softmax of alpha in float64, differentiable."""
        return {CELL: torch.softmax(self.alpha[CELL].double(), 1)}

    def values(self) -> dict[str, dict[str, list[Any]]]:
        """Plain numbers, for a JSON file."""
        return {
            "alpha": {CELL: self.alpha[CELL].detach().cpu().tolist()},
            "beta": {CELL: self.beta[CELL].detach().cpu().tolist()},
        }


@lru_cache(maxsize=1)
def connected_cells() -> tuple[list[Cell201], np.ndarray]:
    """The M connected cells in the order of the presence matrix, and their choices [M, E]."""
    cells = [cell for cell in all_cells() if cell.connected]
    return cells, np.array([cell.choices for cell in cells])


def costs_of_cells(term: CostTerm) -> np.ndarray:
    """The term's cost of every connected cell, [M]."""
    constant, coefficients_M = term.presence.weighted(term.weights, term.constant)
    return np.asarray(constant + coefficients_M, dtype=np.float64)


class ConnectedCost:
    """Expected cost over the connected cells."""

    def __init__(self, term: CostTerm) -> None:
        self.costs_M = torch.from_numpy(costs_of_cells(term))
        self.choices_ME = torch.from_numpy(connected_cells()[1])

    def __call__(self, q: Mapping[str, Tensor]) -> Tensor:
        """A float64 scalar, differentiable in q["cell"] [6, 5]."""
        q_EO = q[CELL].double()
        edges = torch.arange(len(EDGES), device=q_EO.device)
        p_M = q_EO[edges, self.choices_ME.to(q_EO.device)].prod(1)
        return (p_M * self.costs_M.to(q_EO.device)).sum() / p_M.sum()


class Form201:
    """See the module's text."""

    cell_types = (CELL,)

    def check(self, cfg: SearchConfig) -> None:
        """Refuse the rows that have no meaning on this space."""
        for axis, choices in UNSUPPORTED.items():
            chosen = getattr(cfg, axis)
            if chosen in choices:
                raise InputError(
                    f"{axis} = {chosen!r} does not run on nas_bench_201",
                    where="[search] of the recipe",
                    why=choices[chosen],
                    fix=f"choose another {axis}, or [space] kind = 'cell'",
                )
        if cfg.layers % STAGES:
            raise InputError(
                f"search.layers = {cfg.layers} is no multiple of {STAGES}",
                where="[search] of the recipe",
                why="nas_bench_201 has three equal stages",
            )

    def supernet(self, spec: Spec201, cfg: SearchConfig, layers: int, seed: int) -> nn.Module:
        """All operators of all edges."""
        sized = Spec201(spec.channels, layers // STAGES, spec.input_shape, spec.num_classes)
        return Supernet201(sized, cfg.partial_channels, seed)

    def parameters(self, seed: int, edge_weights: bool) -> ArchParameters201:
        """alpha and beta of the cell."""
        return ArchParameters201(seed, edge_weights)

    def exact_cost(self, term: CostTerm) -> ConnectedCost:
        """Exact at a connected one-hot choice."""
        return ConnectedCost(term)

    def scores(self, values: Mapping[str, Any]) -> np.ndarray:
        """Log probabilities [E, O]."""
        a = np.asarray(values["alpha"][CELL], dtype=np.float64)
        shifted = a - a.max(1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))

    def discretise(self, scores: np.ndarray, max_skips: int | None = None) -> Cell201:
        """The most probable connected cell with at most ``max_skips`` skips."""
        return self.repair(scores, [], max_skips)[0]

    def repair(
        self, scores: np.ndarray, terms: Sequence[CostTerm], max_skips: int | None = None
    ) -> tuple[Cell201, bool]:
        """The most probable within all limits; the skip limit gives way to budgets."""
        cells, choices_ME = connected_cells()
        strength_M = scores[np.arange(len(EDGES)), choices_ME].sum(1)
        few_M = _few_skips(max_skips)
        free = int(np.argmax(np.where(few_M, strength_M, -np.inf)))
        inside_M = _inside(terms)
        if not inside_M.any():
            raise BudgetError(
                "no network in this space meets the budgets "
                + ", ".join(f"{t.name} {t.text(t.limit)}" for t in terms if t.limit is not None),
                fix="raise the budgets, or lower the channels or layers of the space",
            )
        allowed_M = inside_M & few_M if (inside_M & few_M).any() else inside_M
        used_M = allowed_M & _used(terms)
        allowed_M = used_M if used_M.any() else allowed_M
        best = int(np.argmax(np.where(allowed_M, strength_M, -np.inf)))
        return cells[best], best != free

    def check_feasible(
        self, terms: Sequence[CostTerm], max_skips: int | None = None, where: str = ""
    ) -> dict[str, float]:
        """Exact: all cells are looked at."""
        limited = [term for term in terms if term.limit is not None]
        smallest = {term.name: float(costs_of_cells(term).min()) for term in limited}
        check_each(limited, smallest, where)
        if limited and not _inside(limited).any():
            ratios = np.stack([costs_of_cells(t) / float(t.limit or 1.0) for t in limited])
            worst = float(ratios.max(0).min())
            raise BudgetError(
                "no network in this space meets all budgets at once: "
                + " and ".join(t.text(float(t.limit or 0)) for t in limited),
                where=where,
                fix=f"raise the budgets by {100 * (worst - 1):.0f} %, "
                "or lower the channels or layers of the space",
            )
        return smallest

    def derived_costs(self, terms: Sequence[CostTerm], architecture: Cell201) -> dict[str, float]:
        """The cell's row of every term."""
        row = _row_of()[architecture]
        return {term.name: float(costs_of_cells(term)[row]) for term in terms}

    def marginals(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """q of alpha."""
        return {CELL: torch.softmax(torch.tensor(values["alpha"][CELL]).double(), 1)}

    def front(
        self, scores: np.ndarray, terms: Sequence[CostTerm], count: int, max_skips: int | None
    ) -> list[dict[str, Any]]:
        """The most probable cell under each of ``count`` limits of the first term."""
        if not terms or count < 1:
            return []
        term, others = terms[0], list(terms[1:])
        _, choices_ME = connected_cells()
        strength_M = scores[np.arange(len(EDGES)), choices_ME].sum(1)
        costs_M = costs_of_cells(term)
        largest = self.derived_costs([term], self.discretise(scores, max_skips))[term.name]
        smallest = float(costs_M.min()) * 1.001
        found: list[dict[str, Any]] = []
        for limit in np.geomspace(smallest, max(smallest, largest), count):
            try:
                cell, _ = self.repair(scores, [term.with_limit(float(limit)), *others], max_skips)
            except BudgetError:
                continue
            strength = float(strength_M[_row_of()[cell]])
            if not found or strength > found[-1]["strength"]:
                costs = self.derived_costs(list(terms), cell)
                found.append({"limit": float(limit), "costs": costs, "strength": strength,
                              "genotype": cell.to_dict()})  # fmt: skip
        return found

    def skip_share_by_cell(self, architecture: Cell201) -> dict[str, float]:
        """Of the operators that reach the output."""
        ops = [op for op in architecture.live().ops if op != "none"]
        return {CELL: ops.count("skip_connect") / max(1, len(ops))}

    def peak_memory_term(
        self, space: SearchSpace[Any], limit_mb: float | None, seed: int = 0
    ) -> CostTerm:
        """Exact for every cell; takes half a minute the first time."""
        presence = _memory(space.spec)
        return CostTerm(NAME, presence, np.ones(1), 0.0, limit_mb, "MB")


@lru_cache(maxsize=1)
def _row_of() -> dict[Cell201, int]:
    return {cell: row for row, cell in enumerate(connected_cells()[0])}


def _few_skips(max_skips: int | None) -> np.ndarray:
    choices_ME = connected_cells()[1]
    if max_skips is None:
        return np.ones(len(choices_ME), dtype=bool)
    return np.asarray((choices_ME == SKIP).sum(1) <= max_skips)


def _inside(terms: Sequence[CostTerm]) -> np.ndarray:
    inside = np.ones(len(connected_cells()[1]), dtype=bool)
    for term in terms:
        if term.limit is not None:
            inside &= costs_of_cells(term) <= term.limit * (1 + 1e-12)
    return inside


def _used(terms: Sequence[CostTerm]) -> np.ndarray:
    """[M]: cells that use as much of every budget as its term's ``least`` asks for."""
    used = np.ones(len(connected_cells()[1]), dtype=bool)
    for term in terms:
        if term.least is not None:
            used &= costs_of_cells(term) >= term.least
    return used


@lru_cache(maxsize=8)
def _memory(spec: Spec201) -> PresenceMatrix:
    """Peak memory of every connected cell; the largest maps are those of the first stage."""
    shallow = NasBench201Space(
        Spec201(spec.channels, min(2, spec.cells_per_stage), spec.input_shape, spec.num_classes)
    )
    cells, _ = connected_cells()
    known: dict[Cell201, float] = {}
    values = []
    for cell in cells:
        form = cell.canonical()
        if form not in known:
            known[form] = count(shallow.lower(form)).peak_memory_mb
        values.append(known[form])
    monomials = [(CELL, mask == 0) for mask in one_hot(cells)]
    return PresenceMatrix((MEMORY,), np.zeros(1), monomials, np.array([values]))


FORM_201 = Form201()
