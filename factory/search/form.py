"""What the search asks of a space whose networks it relaxes: one form for each kind of space.

A form knows the architecture's parameters and supernet of its space, how their values become a
network and how budgets are kept there. The loop (bilevel.py), the tiers (architectures.py) and the
seeds (seeds.py) know forms only. A new space is one form and one line in FORMS.
Legend: ``values`` are the architecture parameters as plain numbers, {"alpha": {cell type: [E][O]},
"beta": {cell type: [E]}}; ``scores`` log strengths per cell type [E, operators that can be chosen].
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from factory.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from factory.search.config import SearchConfig
    from factory.search.costs import Cost, CostTerm
    from factory.spaces.base import SearchSpace

Values = Mapping[str, Any]
Costs = dict[str, float]


class Form(Protocol):
    """See the module's text; architectures are those of the space."""

    cell_types: tuple[str, ...]

    def check(self, cfg: SearchConfig) -> None:
        """InputError where a row of choices makes no sense on the space."""

    def supernet(self, spec: Any, cfg: SearchConfig, layers: int, seed: int) -> nn.Module:
        """The supernet with all candidates."""

    def parameters(self, seed: int, edge_weights: bool) -> nn.Module:
        """alpha and beta, as :class:`factory.search.relaxation.ArchParameters`."""

    def exact_cost(self, term: CostTerm) -> Cost:
        """The expected cost at q, differentiable, exact where q is one-hot."""

    def scores(self, values: Values) -> Any:
        """Log strengths."""

    def discretise(self, scores: Any, max_skips: int | None = None) -> Any:
        """The strongest architecture, whatever it costs."""

    def repair(
        self, scores: Any, terms: Sequence[CostTerm], max_skips: int | None = None
    ) -> tuple[Any, bool]:
        """The strongest within all limits, and whether that is another one; BudgetError."""

    def check_feasible(
        self, terms: Sequence[CostTerm], max_skips: int | None = None, where: str = ""
    ) -> Costs:
        """Smallest value of every limited cost; BudgetError when the limits cannot be met."""

    def derived_costs(self, terms: Sequence[CostTerm], architecture: Any) -> Costs:
        """Exact costs of an architecture."""

    def marginals(self, values: Values) -> dict[str, Tensor]:
        """The choice q of parameters."""

    def front(
        self, scores: Any, terms: Sequence[CostTerm], count: int, max_skips: int | None
    ) -> list[dict[str, Any]]:
        """Networks over a range of the first budget (front.py)."""

    def skip_share_by_cell(self, architecture: Any) -> dict[str, float]:
        """Share of skip connections among the operators of each cell type."""

    def peak_memory_term(
        self, space: SearchSpace[Any], limit_mb: float | None, seed: int = 0
    ) -> CostTerm:
        """Peak activation memory (graph/counts.py) of the network that ships, as a cost."""


# kind of space -> "module:object" in factory.search
FORMS: Registry[str] = Registry("space of the differentiable search")
FORMS.add("cell", "cell_form:CELL_FORM")
FORMS.add("nas_bench_201", "form_201:FORM_201")


def form_of(kind: str) -> Form:
    """The form of a kind of space; InputError names the known ones."""
    module, name = FORMS.get(kind).split(":")
    found: Form = getattr(importlib.import_module(f"factory.search.{module}"), name)
    return found


def form_of_spec(spec: Any) -> Form:
    """The form of the space whose networks have this size."""
    from factory.spaces.config import space_of

    return form_of(space_of(spec).KIND)


def exact_cost(term: CostTerm) -> Cost:
    """The expected cost of a term on the space that its presence matrix is of."""
    for kind in FORMS.names():
        form = form_of(kind)
        if set(term.presence.cell_types()) <= set(form.cell_types):
            return form.exact_cost(term)
    raise ValueError(f"no form has the cell types {term.presence.cell_types()}")
