"""From a tier's budgets to the cost terms of its search, and its first latency target.

Latency on the tier's own chip comes first; budgets on other chips, MACs, parameters and peak memory
follow, each with a multiplier of its own. A latency target is a share of the budget, the same share
on all chips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from factory.core.errors import BudgetError
from factory.core.units import format_ms
from factory.pipeline.context import BuildContext
from factory.pipeline.recipe import NO_LATENCY, TierSection
from factory.pipeline.search_files import targets
from factory.pipeline.stages import fit

if TYPE_CHECKING:
    from factory.search.architectures import TierBudget
    from factory.search.costs import CostTerm


def tier_costs(
    ctx: BuildContext, tier: TierSection, target_ms: float, activations: tuple[str, ...] = ()
) -> list[CostTerm]:
    """The tier's costs when its own chip's latency is to be ``target_ms`` at most.

    ``activations`` are the candidates of factorised edges; without them all are ReLUs.
    """
    from factory.search.costs import CostTerm, macs_term, parameters_term
    from factory.search.peak_memory import peak_memory_term

    budget = fit.load_budgets(ctx)[tier.name]
    space = ctx.space(tier)
    share = target_ms / float(budget["max_latency_ms"])
    presence = space.presence(ctx.device(tier).dtype, activations)

    def latency_term(device_id: str, name: str, limit_ms: float) -> CostTerm:
        predictor = fit.load_predictor(ctx, device_id)
        counted = space.presence(predictor.dtype, activations, predictor.fusion)
        weights_ms, constant_ms = predictor.linear_ms(counted.kernels)
        return CostTerm(name, counted, weights_ms, constant_ms, limit_ms, "ms", device_id)

    latency = latency_term(ctx.device(tier).id, "latency_ms", target_ms)
    terms = [latency.with_limit(target_ms, ctx.recipe.budget.least_used * target_ms or None)]
    for other in budget["also"]:
        name, limit_ms = other["device_id"], share * float(other["max_latency_ms"])
        terms.append(latency_term(name, f"latency_ms@{name}", limit_ms))
    if budget["max_macs"] is not None:
        terms.append(macs_term(presence, float(budget["max_macs"])))
    if budget.get("max_params") is not None:
        terms.append(parameters_term(presence, float(budget["max_params"])))
    if budget.get("max_peak_memory_mb") is not None:
        limit_mb = float(budget["max_peak_memory_mb"])
        terms.append(peak_memory_term(space, limit_mb, ctx.seed))
    return terms


def tier_budgets(ctx: BuildContext) -> list[TierBudget]:
    """Every architecture with its first limits; the comparison has none.

    Raises BudgetError, naming the budget as it was stated, when no network can meet it.
    """
    from factory.search.architectures import TierBudget

    known, found = targets(ctx), []
    for tier in ctx.recipe.tiers:
        known.start(tier.name, first_target_ms(ctx, tier, ctx.activations))
        first_ms = float(known.of(tier.name)[0]["target_ms"])
        found.append(TierBudget(tier.name, tier_costs(ctx, tier, first_ms, ctx.activations)))
    if NO_LATENCY in ctx.searched_names():
        found.append(TierBudget(NO_LATENCY, []))
    return found


def first_target_ms(
    ctx: BuildContext, tier: TierSection, activations: tuple[str, ...] = ()
) -> float:
    """The safe share of the latency budget where all budgets can be met with it, else the budget.

    Raises BudgetError, naming the budget as it was stated, when no network can meet it.
    """
    from factory.search.derive import derivation_of

    derivation, max_skips = derivation_of(ctx.space(tier)), ctx.recipe.search.max_skips
    limit_ms = float(fit.load_budgets(ctx)[tier.name]["max_latency_ms"])
    stated = tier_costs(ctx, tier, limit_ms, activations)
    where = f"tier {tier.name!r} of the recipe"
    smallest_ms = derivation.check_feasible(stated, max_skips, where=where)["latency_ms"]
    ctx.progress.message(
        f"{tier.name}: budget {format_ms(limit_ms)} on {ctx.device(tier).id}, "
        f"the smallest network of the space needs {format_ms(smallest_ms)}"
    )
    safe_ms = max(ctx.recipe.budget.safety * limit_ms, min(limit_ms, smallest_ms * 1.001))
    safe = [
        term.with_limit(float(term.limit or 0.0) * safe_ms / limit_ms)
        if term.unit == "ms"
        else term
        for term in stated
    ]
    try:
        derivation.check_feasible(safe, max_skips)
    except BudgetError:
        return limit_ms
    return safe_ms
