"""The form of the cell space: two cell types, two edges a node (see form.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from factory.core.errors import BudgetError
from factory.latency.differentiable import ExpectedCost
from factory.search import derive, diagnostics, feasibility
from factory.search.config import SearchConfig
from factory.search.costs import Cost, CostModel, CostTerm
from factory.search.front import derive_front
from factory.search.peak_memory import peak_memory_term
from factory.search.relaxation import ArchParameters, marginals, with_gamma
from factory.search.supernet import Supernet
from factory.spaces.base import SearchSpace
from factory.spaces.genotype import CELL_TYPES, Genotype


class CellForm:
    """The functions of the neighbouring modules under the names of a form."""

    cell_types = CELL_TYPES

    def check(self, cfg: SearchConfig) -> None:
        """Every row runs."""

    def supernet(self, spec: Any, cfg: SearchConfig, layers: int, seed: int) -> nn.Module:
        """The batched supernet; rows that need single edges are made in problem.py."""
        return Supernet(replace(spec, layers=layers), cfg.partial_channels, seed)

    def parameters(self, seed: int, edge_weights: bool) -> ArchParameters:
        """alpha and beta of both cell types."""
        return ArchParameters(seed, edge_weights)

    def exact_cost(self, term: CostTerm) -> Cost:
        """A sum of products of q."""
        return ExpectedCost(term.weights, term.constant, term.presence)

    def scores(self, values: Mapping[str, Any]) -> derive.Scores:
        """Log strengths of (edge, operator)."""
        return derive.log_scores(values["alpha"], values["beta"])

    def discretise(self, scores: derive.Scores, max_skips: int | None = None) -> Genotype:
        """As PC-DARTS does, with the skip limit of P-DARTS."""
        return derive.discretise(scores, max_skips)

    def repair(
        self, scores: derive.Scores, terms: Sequence[CostTerm], max_skips: int | None = None
    ) -> tuple[Genotype, bool]:
        """The most probable genotype found within all limits."""
        return derive.repair(scores, terms, max_skips)

    def check_feasible(
        self, terms: Sequence[CostTerm], max_skips: int | None = None, where: str = ""
    ) -> dict[str, float]:
        """Smallest costs by coordinate descent; of factorised edges with one activation on all."""
        candidates = derive.uniform_activations(terms)
        if not candidates:
            return feasibility.check_feasible(terms, max_skips, where)
        found, refused = [], []
        for activations in candidates:
            given = derive.given_activations(terms, activations)
            try:
                found.append(feasibility.check_feasible(given, max_skips, where))
            except BudgetError as error:
                refused.append(error)
        if not found:
            raise refused[0]
        return {name: min(smallest[name] for smallest in found) for name in found[0]}

    def derived_costs(self, terms: Sequence[CostTerm], architecture: Genotype) -> dict[str, float]:
        """Costs of a genotype."""
        return diagnostics.derived_costs(CostModel(terms), architecture)

    def marginals(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """P(edge in the network with that operator), of a factorised edge also activation."""
        q = {
            name: marginals(torch.tensor(values["alpha"][name]), torch.tensor(values["beta"][name]))
            for name in CELL_TYPES
        }
        gamma = {name: torch.tensor(values["gamma"][name]) for name in values.get("gamma", {})}
        return with_gamma(q, gamma)

    def front(
        self, scores: derive.Scores, terms: Sequence[CostTerm], count: int, max_skips: int | None
    ) -> list[dict[str, Any]]:
        """Networks over a range of budgets."""
        return derive_front(scores, terms, count, max_skips)

    def skip_share_by_cell(self, architecture: Genotype) -> dict[str, float]:
        """Of the eight operators of either cell."""
        return diagnostics.skip_share_by_cell(architecture)

    def peak_memory_term(
        self, space: SearchSpace[Any], limit_mb: float | None, seed: int = 0
    ) -> CostTerm:
        """A line fitted to random genotypes for the gradient, exact where it is checked."""
        return peak_memory_term(space, limit_mb, seed)


CELL_FORM = CellForm()
