"""Budgets in the loss: one multiplier a budget, found by dual ascent.

    minimise over the architecture   CE_val + sum_b lambda_b s_b (E_b / limit_b - 1),
    lambda_b <- clip(lambda_b + rho e_b, 0, max)

with the expected cost E_b. s_b is the running ratio of the gradient norms of the two terms, so
that lambda_b = 1 means "as strong as the task" whatever the units, the space and the step: this
keeps short searches stable. The excess e_b follows both the expectation and the network that
would be derived now, since only the latter ships: their mean, but at least the derived network's
as long as that is over the budget.
Budget as a constraint with a learned multiplier: LightNAS-style dual ascent; a fixed multiplier
misses the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from factory.search.axes import LATENCY_COSTS
from factory.search.config import SearchConfig
from factory.search.costs import Cost, CostTerm, exact_cost
from factory.search.gradient import norm as _norm
from factory.spaces.base import SearchSpace

MAX_EXCESS = 0.5  # of one update
DECAY = 0.9  # of the running gradient norms


class Budgets:
    """The cost terms of one tier: their gradient, their multipliers."""

    def __init__(
        self,
        terms: Sequence[CostTerm],
        rate: float,
        largest: float,
        costs: Sequence[Cost] | None = None,
    ) -> None:
        self.terms = list(terms)
        self.rate, self.largest = rate, largest
        self.costs: list[Cost] = [exact_cost(t) for t in terms] if costs is None else list(costs)
        self.limited = [t.name for t in terms if t.limit is not None]
        self.multipliers = dict.fromkeys(self.limited, 0.0)
        self.task_norm: float | None = None
        self.cost_norms: dict[str, float] = {}

    @classmethod
    def of(
        cls, terms: Sequence[CostTerm], space: SearchSpace[Any], cfg: SearchConfig, seed: int
    ) -> Budgets:
        """As the settings say: latency by ``latency_cost``, everything else exactly.

        With latency_cost = "none" latency is only observed; its limit is kept when the network is
        derived.
        """
        used: list[CostTerm] = []
        costs: list[Cost] = []
        for term in terms:
            how = cfg.latency_cost if term.unit == "ms" else "additive"
            cost = LATENCY_COSTS.get(how).load()(term, space, cfg, seed)
            if cost is None:
                term, cost = term.with_limit(None), exact_cost(term)
            used.append(term)
            costs.append(cost)
        return cls(used, cfg.multiplier_lr, cfg.multiplier_max, costs)

    def at(self, step: int) -> None:
        """Tell the costs that sample which step it is."""
        for cost in self.costs:
            tell = getattr(cost, "at", None)
            if tell is not None:
                tell(step)

    def expected(self, q: Mapping[str, Tensor]) -> dict[str, float]:
        """Expected cost of every term."""
        with torch.no_grad():
            pairs = zip(self.terms, self.costs, strict=True)
            return {term.name: float(cost(_as_seen(q, term))) for term, cost in pairs}

    def add_gradients(
        self, task: Sequence[Tensor], q: Mapping[str, Tensor], parameters: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, float]]:
        """The task's gradients plus those of the budgets; and the expected costs.

        ``q`` must be a function of ``parameters``.
        """
        total = list(task)
        expected: dict[str, float] = {}
        self.task_norm = _running(self.task_norm, _norm(task))
        for term, cost in zip(self.terms, self.costs, strict=True):
            value = cost(_as_seen(q, term))
            expected[term.name] = float(value.detach())
            if term.limit is None:
                continue
            grads = torch.autograd.grad(
                value / term.limit, parameters, retain_graph=True, allow_unused=True
            )
            found = [
                torch.zeros_like(p) if g is None else g
                for g, p in zip(grads, parameters, strict=True)
            ]
            norm = _running(self.cost_norms.get(term.name), _norm(found))
            self.cost_norms[term.name] = norm
            factor = self.multipliers[term.name] * self.scale(term.name)
            if factor:
                total = [t + factor * g.to(t.dtype) for t, g in zip(total, found, strict=True)]
        return total, expected

    def scale(self, name: str) -> float:
        """s_b: the task's gradient norm over the budget's."""
        norm = self.cost_norms.get(name, 0.0)
        return (self.task_norm or 0.0) / norm if norm > 0 else 0.0

    def penalty(self, expected: Mapping[str, float]) -> float:
        """The budgets' part of the objective at the current multipliers."""
        return sum(
            self.multipliers[t.name] * self.scale(t.name) * (expected[t.name] / t.limit - 1)
            for t in self.terms
            if t.limit is not None
        )

    def ascend(self, expected: Mapping[str, float], derived: Mapping[str, float]) -> None:
        """One dual step from the expectation and the currently derived network."""
        for term in self.terms:
            if term.limit is None:
                continue
            soft = expected[term.name] / term.limit - 1
            hard = derived[term.name] / term.limit - 1
            excess = 0.5 * (soft + hard)
            if hard > 0:
                excess = max(excess, hard)
            excess = min(MAX_EXCESS, max(-MAX_EXCESS, excess))
            raised = self.multipliers[term.name] + self.rate * excess
            self.multipliers[term.name] = min(self.largest, max(0.0, raised))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; plain numbers."""
        return {
            "multipliers": self.multipliers,
            "task_norm": self.task_norm,
            "cost_norms": self.cost_norms,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.multipliers = {name: float(state["multipliers"][name]) for name in self.limited}
        self.task_norm = state["task_norm"]
        self.cost_norms = dict(state["cost_norms"])


def _as_seen(q: Mapping[str, Tensor], term: CostTerm) -> dict[str, Tensor]:
    """q with the columns of the term: summed over the activations where it does not tell them."""
    columns = {name: mask.shape[1] for name, mask in term.presence.monomials}
    return {
        name: q_EO
        if q_EO.shape[1] == columns.get(name, q_EO.shape[1])
        else q_EO.reshape(len(q_EO), columns[name], -1).sum(2)
        for name, q_EO in q.items()
    }


def _running(old: float | None, new: float) -> float:
    return new if old is None else DECAY * old + (1 - DECAY) * new
