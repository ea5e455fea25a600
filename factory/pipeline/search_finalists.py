"""The network that a search found, measured on its chips before it is trained.

One that is measured over a budget gets a lower target and is searched again. Measured finalists are
kept in each tier's checks.json, so that an interrupted stage measures nothing twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import BudgetError
from factory.core.files import write_json
from factory.core.reading import read_json
from factory.core.validation import checked
from factory.devices.base import open_device
from factory.devices.profile import DeviceProfile
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.context import BuildContext
from factory.pipeline.profiling_plan import network_bytes
from factory.pipeline.recipe import NO_LATENCY, TierSection
from factory.pipeline.recipe_loading import fingerprint
from factory.pipeline.search_budgets import tier_costs
from factory.pipeline.search_files import SCHEMA_VERSION, targets, work_folder
from factory.pipeline.stages import fit
from factory.pipeline.stages import profile as stage_profile
from factory.spaces.base import SearchSpace

if TYPE_CHECKING:
    from factory.search.architectures import SearchResult


def finish_tier(ctx: BuildContext, tier: TierSection) -> dict[str, Any]:
    """Measure the finalist, lower the target while it is over budget, and sum up."""
    folder = work_folder(ctx) / tier.name
    budget = fit.load_budgets(ctx)[tier.name]
    limit_ms = float(budget["max_latency_ms"])
    found = _derive(ctx, tier, folder)
    checks = ctx.folder.stage("search") / tier.name / "checks.json"
    checked = check_on_chips(ctx, tier, found.genotype, checks)
    while (over := over_budget(checked, budget)) > 1:
        known = targets(ctx)
        rounds = known.count(tier.name, "finalist", since_verify=True)
        if rounds >= ctx.recipe.budget.finalist_rounds or not known.tighten(
            tier.name,
            "finalist",
            measured_ms=limit_ms * over,  # of the chip that is furthest over
            limit_ms=limit_ms,
            smallest_ms=found.smallest["latency_ms"],
        ):
            break
        ctx.progress.message(
            f"{tier.name}: the finalist takes {over:.3g} times its latency budget as measured, "
            "searching below a lower target"
        )
        found = _derive(ctx, tier, folder)
        checked = check_on_chips(ctx, tier, found.genotype, checks)
    predictor = fit.load_predictor(ctx, ctx.device(tier).id)
    prediction = predictor.predict(
        ctx.space(tier).kernels(found.genotype, predictor.dtype, predictor.fusion)
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "tier": tier.name,
        "device_id": ctx.device(tier).id,
        "budget": {
            key: budget[key]
            for key in ("max_latency_ms", "max_macs", "max_params", "max_peak_memory_mb", "also")
        },
        "target_ms": found.limits["latency_ms"],
        "predicted_ms": prediction.latency_ms,
        "low_ms": prediction.low_ms,
        "high_ms": prediction.high_ms,
        **_sizes(ctx.space(tier), found.genotype),
        "smallest_ms": found.smallest["latency_ms"],
        "checked_ms": checked[ctx.device(tier).id],
        "checked_also_ms": {d.id: checked[d.id] for d in ctx.also(tier)},
        "predicted": found.predicted,
        "targets": targets(ctx).of(tier.name),
        **_summary(ctx, found),
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
            tier_costs(ctx, tier, target_ms, ctx.activations),
            ctx.recipe.search,
            extra_epochs=ctx.recipe.budget.extra_epochs,
            space=ctx.search_space(),
            data=ctx.data if ctx.recipe.budget.extra_epochs else None,
            progress=ctx.progress,
        )
    except BudgetError as error:
        ctx.progress.message(f"{tier.name}: no lower target can be met: {error}")
        return found


def check_on_chips(
    ctx: BuildContext, tier: TierSection, architecture: Any, path: Path
) -> dict[str, float | None]:
    """Median latency with random weights on every chip of the tier, measured once; kept in path."""
    checks: dict[str, float | None] = {}
    if path.exists():
        checks = checked(dict[str, float | None], read_json(path, "finalists"), str(path))
    own = ctx.device(tier)
    found: dict[str, float | None] = {}
    for profile in (own, *ctx.also(tier)):
        key = fingerprint(architecture.to_dict())
        key = key if profile is own else f"{key}@{profile.id}"
        if key not in checks:
            checks[key] = _measured(ctx, ctx.space(tier), architecture, profile)
            write_json(path, checks)
        found[profile.id] = checks[key]
    return found


def _measured(
    ctx: BuildContext, space: SearchSpace[Any], architecture: Any, profile: DeviceProfile
) -> float | None:
    """Median latency of an architecture with random weights in ms."""
    from factory.verification.verify import verify_model

    content = network_bytes(space, architecture, profile.dtype, ctx.seed)
    usual_ms = stage_profile.usual_reference_ms(ctx, profile.id)
    with open_device(profile) as device:
        return verify_model(content, device, usual_reference_ms=usual_ms).median_ms


def over_budget(checked: dict[str, float | None], budget: dict[str, Any]) -> float:
    """Largest ratio of a measured latency to its budget; 0 where nothing could be measured."""
    limits = {budget["device_id"]: budget["max_latency_ms"]}
    limits |= {other["device_id"]: other["max_latency_ms"] for other in budget["also"]}
    ratios = [value / limits[name] for name, value in checked.items() if value is not None]
    return max(ratios, default=0.0)


def finish_baseline(ctx: BuildContext) -> dict[str, Any]:
    """The architecture searched without a latency term, on every chip."""
    from factory.search.architectures import SearchResult

    found = SearchResult.load(work_folder(ctx) / NO_LATENCY)
    space = ctx.space(None)
    predicted_ms: dict[str, float] = {}
    measured_ms: dict[str, float | None] = {}
    for device_id, profile in ctx.devices.items():
        predictor: LatencyPredictor = fit.load_predictor(ctx, device_id)
        measured_ms[device_id] = _measured(ctx, space, found.genotype, profile)
        counts = space.kernels(found.genotype, predictor.dtype, predictor.fusion)
        predicted_ms[device_id] = predictor.predict(counts).latency_ms
    return {
        "schema_version": SCHEMA_VERSION,
        "tier": NO_LATENCY,
        "predicted_ms_by_device": predicted_ms,
        "measured_ms_by_device": measured_ms,
        **_sizes(space, found.genotype),
        "targets": [],
        **_summary(ctx, found),
    }


def _sizes(space: SearchSpace[Any], architecture: Any) -> dict[str, float]:
    counts = space.counts(architecture)
    return {
        "macs": counts.macs,
        "macs_darts_paper": counts.macs_darts_paper,
        "params": counts.params,
        "peak_memory_mb": counts.peak_memory_mb,
    }


def _summary(ctx: BuildContext, found: SearchResult) -> dict[str, Any]:
    space: Any = ctx.search_space()
    return {
        "candidates": {"operators": list(space.OPS), "edges": [list(e) for e in space.EDGES]},
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
        "derived_loss": found.derived_loss,
        "stopped": found.stopped,
    }
