"""Stage 3, search: one architecture per tier, its finalist measured on the chip before training.

The search room finds each tier's network under a target: the latency budget times
``budget.safety``. The network then runs on its chip with random weights; one that is measured over
its budget gets a lower target and is searched again. Targets are kept in targets.json, measured
finalists in each tier's checks.json, so that an interrupted stage measures nothing twice; the
verify stage adds targets to the same file. The search room works in `.search/`; what others read is
copied into the tier's folder.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import BudgetError
from factory.core.files import read_json, write_atomic_bytes, write_json
from factory.core.units import format_ms
from factory.devices.base import open_device
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.context import BuildContext
from factory.pipeline.profiling_plan import network_bytes
from factory.pipeline.recipe import NO_LATENCY, TierSection
from factory.pipeline.recipe_loading import fingerprint
from factory.pipeline.run_folder import Unit
from factory.pipeline.stages import fit
from factory.pipeline.stages import profile as stage_profile
from factory.pipeline.targets import Targets
from factory.spaces.base import SearchSpace
from factory.spaces.genotype import Genotype

if TYPE_CHECKING:
    from factory.search.architectures import SearchResult, TierBudget
    from factory.search.costs import CostTerm

SCHEMA_VERSION = 1
RESULT = "result.json"
GENOTYPE = "genotype.json"
HISTORY = "history.jsonl"


def units(ctx: BuildContext) -> list[Unit]:
    """One unit per architecture."""
    return [tier_unit(ctx, name) for name in ctx.searched_names()]


def tier_unit(ctx: BuildContext, name: str) -> Unit:
    """The search of a tier, or of the comparison without a latency term."""
    inputs = {device: fit.device_unit(ctx, device).digest() for device in ctx.devices}
    inputs["budgets"] = fit.budget_unit(ctx).digest()
    inputs["recipe"] = ctx.part("data", "space", "search", "budget", "tiers")
    inputs["seed"] = str(ctx.seed)
    return ctx.folder.unit("search", name, inputs)


def genotype_path(ctx: BuildContext, name: str) -> Path:
    """Where the architecture of a tier is."""
    return ctx.folder.stage("search") / name / GENOTYPE


def load_genotype(ctx: BuildContext, name: str) -> Genotype:
    """The architecture of a tier."""
    return Genotype.load(genotype_path(ctx, name))


def load_result(ctx: BuildContext, name: str) -> dict[str, Any]:
    """What the search of a tier came to."""
    path = ctx.folder.stage("search") / name / RESULT
    value: dict[str, Any] = read_json(path, "search result")
    return value


def targets(ctx: BuildContext) -> Targets:
    """The latency targets that the tiers' searches were given so far."""
    path = ctx.folder.stage("search") / "targets.json"
    return Targets(path, fit.budget_unit(ctx).digest())


def round_count(ctx: BuildContext, name: str) -> int:
    """How often the target of a tier was lowered."""
    return max(0, len(targets(ctx).of(name)) - 1)


def add_target(ctx: BuildContext, name: str, *, measured_ms: float, limit_ms: float) -> bool:
    """Lower the target of a tier whose trained file is over its budget; False: no round left."""
    known = targets(ctx)
    if known.count(name, "verify") >= ctx.recipe.budget.verify_rounds:
        return False
    return known.tighten(
        name,
        "verify",
        measured_ms=measured_ms,
        limit_ms=limit_ms,
        smallest_ms=float(load_result(ctx, name)["smallest_ms"]),
    )


def run(ctx: BuildContext) -> None:
    """Search what is not searched yet, then measure the finalists."""
    pending = [name for name in ctx.searched_names() if not _is_done(ctx, name)]
    if not pending:
        return
    started = time.monotonic()
    for name in pending:
        if not tier_unit(ctx, name).is_done():
            tier_unit(ctx, name).begin()
    _search(ctx, pending)
    searched_s = (time.monotonic() - started) / len(pending)
    for name in pending:
        began = time.monotonic()
        if name == NO_LATENCY:
            result = _finish_baseline(ctx)
        else:
            result = _finish_tier(ctx, ctx.recipe.tier(name))
        folder = ctx.folder.stage("search") / name
        for copied in (GENOTYPE, HISTORY):
            write_atomic_bytes(folder / copied, (_work_folder(ctx) / name / copied).read_bytes())
        write_json(folder / RESULT, result)
        outputs = [folder / RESULT, folder / GENOTYPE, folder / HISTORY]
        tier_unit(ctx, name).finish(outputs, searched_s + time.monotonic() - began)


def _work_folder(ctx: BuildContext) -> Path:
    """Where the search room works: one folder for each state of what the search is made from."""
    key = fingerprint(dict(tier_unit(ctx, ctx.recipe.tiers[0].name).inputs))
    return ctx.folder.stage("search") / ".search" / key[:12]


def _is_done(ctx: BuildContext, name: str) -> bool:
    if not tier_unit(ctx, name).is_done():
        return False
    return bool(load_result(ctx, name)["targets"] == targets(ctx).of(name))


def _costs(ctx: BuildContext, tier: TierSection, target_ms: float) -> list[CostTerm]:
    """The tier's costs under a latency target."""
    from factory.search.costs import CostTerm, macs_term, parameters_term

    profile, budget = ctx.device(tier), fit.load_budgets(ctx)[tier.name]
    presence = ctx.space(tier).presence(profile.dtype)
    weights_ms, constant_ms = fit.load_predictor(ctx, profile.id).linear_ms(presence.kernels)
    latency = CostTerm("latency_ms", presence, weights_ms, constant_ms, None, "ms", profile.id)
    least_ms = ctx.recipe.budget.least_used * target_ms
    terms = [latency.with_limit(target_ms, least_ms or None)]
    if budget["max_macs"] is not None:
        terms.append(macs_term(presence, float(budget["max_macs"])))
    if budget.get("max_params") is not None:
        terms.append(parameters_term(presence, float(budget["max_params"])))
    return terms


def _tier_budgets(ctx: BuildContext) -> list[TierBudget]:
    """Every architecture with its first limits; the comparison has none.

    Raises BudgetError, naming the budget as it was stated, when no network can meet it.
    """
    from factory.search.architectures import TierBudget
    from factory.search.feasibility import check_feasible

    known, budgets = targets(ctx), fit.load_budgets(ctx)
    found = []
    for tier in ctx.recipe.tiers:
        limit_ms = float(budgets[tier.name]["max_latency_ms"])
        stated = _costs(ctx, tier, limit_ms)
        smallest_ms = check_feasible(
            stated, ctx.recipe.search.max_skips, where=f"tier {tier.name!r} of the recipe"
        )["latency_ms"]
        ctx.progress.message(
            f"{tier.name}: budget {format_ms(limit_ms)} on {ctx.device(tier).id}, "
            f"the smallest network of the space needs {format_ms(smallest_ms)}"
        )
        known.start(tier.name, _first_target(ctx, stated, smallest_ms))
        first_ms = float(known.of(tier.name)[0]["target_ms"])
        found.append(TierBudget(tier.name, _costs(ctx, tier, first_ms)))
    if NO_LATENCY in ctx.searched_names():
        found.append(TierBudget(NO_LATENCY, []))
    return found


def _first_target(ctx: BuildContext, stated: list[CostTerm], smallest_ms: float) -> float:
    """The safe share of the budget where it can be met together with the MACs, else the budget."""
    from factory.search.feasibility import check_feasible

    latency, limit_ms = stated[0], float(stated[0].limit or 0.0)
    safe_ms = max(ctx.recipe.budget.safety * limit_ms, min(limit_ms, smallest_ms * 1.001))
    try:
        check_feasible([latency.with_limit(safe_ms), *stated[1:]], ctx.recipe.search.max_skips)
    except BudgetError:
        return limit_ms
    return safe_ms


def _search(ctx: BuildContext, pending: list[str]) -> None:
    """Run the search of the pending tiers (those that are done come back as they are)."""
    from factory.search.seeds import search_seeds

    folder = _work_folder(ctx)
    if all((folder / name / "search.json").exists() for name in pending):
        return
    search_seeds(
        ctx.search_space(),
        ctx.data,
        _tier_budgets(ctx),
        ctx.recipe.search,
        folder,
        ctx.progress,
        ctx.seed,
    )


def _finish_tier(ctx: BuildContext, tier: TierSection) -> dict[str, Any]:
    """Measure the finalist, lower the target while it is over budget, and sum up."""
    folder = _work_folder(ctx) / tier.name
    budget = fit.load_budgets(ctx)[tier.name]
    limit_ms = float(budget["max_latency_ms"])
    found = _derive(ctx, tier, folder)
    checked_ms = _check(ctx, tier, found.genotype)
    while checked_ms is not None and checked_ms > limit_ms:
        known = targets(ctx)
        rounds = known.count(tier.name, "finalist", since_verify=True)
        if rounds >= ctx.recipe.budget.finalist_rounds or not known.tighten(
            tier.name,
            "finalist",
            measured_ms=checked_ms,
            limit_ms=limit_ms,
            smallest_ms=found.smallest["latency_ms"],
        ):
            break
        ctx.progress.message(
            f"{tier.name}: the finalist takes {format_ms(checked_ms)} of {format_ms(limit_ms)}, "
            "searching below a lower target"
        )
        found = _derive(ctx, tier, folder)
        checked_ms = _check(ctx, tier, found.genotype)
    predictor = fit.load_predictor(ctx, ctx.device(tier).id)
    prediction = predictor.predict(ctx.space(tier).kernels(found.genotype, predictor.dtype))
    return {
        "schema_version": SCHEMA_VERSION,
        "tier": tier.name,
        "device_id": ctx.device(tier).id,
        "budget": {"max_latency_ms": limit_ms, "max_macs": budget["max_macs"]},
        "target_ms": found.limits["latency_ms"],
        "predicted_ms": prediction.latency_ms,
        "low_ms": prediction.low_ms,
        "high_ms": prediction.high_ms,
        **_sizes(ctx.space(tier), found.genotype),
        "smallest_ms": found.smallest["latency_ms"],
        "checked_ms": checked_ms,
        "targets": targets(ctx).of(tier.name),
        **_summary(found),
    }


def _derive(ctx: BuildContext, tier: TierSection, folder: Path) -> SearchResult:
    """The architecture under the current target; an unreachable lower target keeps the last."""
    from factory.search.architectures import SearchResult, continue_with_tighter

    found = SearchResult.load(folder)
    target_ms = targets(ctx).last_ms(tier.name)
    if found.limits["latency_ms"] == target_ms:
        return found
    try:
        return continue_with_tighter(
            folder,
            _costs(ctx, tier, target_ms),
            ctx.recipe.search,
            extra_epochs=ctx.recipe.budget.extra_epochs,
            space=ctx.search_space(),
            data=ctx.data if ctx.recipe.budget.extra_epochs else None,
            progress=ctx.progress,
        )
    except BudgetError as error:
        ctx.progress.message(f"{tier.name}: no lower target can be met: {error}")
        return found


def _check(ctx: BuildContext, tier: TierSection, genotype: Genotype) -> float | None:
    """Median latency of the finalist with random weights on its chip, measured once."""
    from factory.verification.verify import verify_model

    path = ctx.folder.stage("search") / tier.name / "checks.json"
    checks: dict[str, float | None] = read_json(path, "finalists") if path.exists() else {}
    key = fingerprint(genotype.to_dict())
    if key not in checks:
        profile = ctx.device(tier)
        _, content = network_bytes(ctx.space(tier), genotype, profile.dtype, ctx.seed)
        usual_ms = stage_profile.usual_reference_ms(ctx, profile.id)
        with open_device(profile) as device:
            result = verify_model(content, device, usual_reference_ms=usual_ms)
        checks[key] = result.median_ms
        write_json(path, checks)
    return checks[key]


def _finish_baseline(ctx: BuildContext) -> dict[str, Any]:
    """The architecture searched without a latency term, on every chip."""
    from factory.search.architectures import SearchResult
    from factory.verification.verify import verify_model

    found = SearchResult.load(_work_folder(ctx) / NO_LATENCY)
    space = ctx.space(None)
    predicted_ms: dict[str, float] = {}
    measured_ms: dict[str, float | None] = {}
    for device_id, profile in ctx.devices.items():
        predictor: LatencyPredictor = fit.load_predictor(ctx, device_id)
        counts, content = network_bytes(space, found.genotype, profile.dtype, ctx.seed)
        predicted_ms[device_id] = predictor.predict(counts).latency_ms
        usual_ms = stage_profile.usual_reference_ms(ctx, device_id)
        with open_device(profile) as device:
            result = verify_model(content, device, usual_reference_ms=usual_ms)
        measured_ms[device_id] = result.median_ms
    return {
        "schema_version": SCHEMA_VERSION,
        "tier": NO_LATENCY,
        "predicted_ms_by_device": predicted_ms,
        "measured_ms_by_device": measured_ms,
        **_sizes(space, found.genotype),
        "targets": [],
        **_summary(found),
    }


def _sizes(space: SearchSpace[Any], genotype: Genotype) -> dict[str, int]:
    counts = space.counts(genotype)
    return {
        "macs": counts.macs,
        "macs_darts_paper": counts.macs_darts_paper,
        "params": counts.params,
    }


def _summary(found: SearchResult) -> dict[str, Any]:
    return {
        "repaired": found.repaired,
        "discretised": found.discretised.to_dict(),
        "skip_share": found.skip_share,
        "entropy": found.entropy,
        "expected": found.expected,
        "multipliers": found.multipliers,
        "steps": found.steps,
        "method": found.method,
        "seed": found.seed,
        "skip_share_by_cell": found.skip_share_by_cell,
        "gap": found.gap,
        "stopped": found.stopped,
    }
