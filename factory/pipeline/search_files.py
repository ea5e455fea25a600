"""Where the search of a run is on disk, and what later stages read of it.

03-search/<tier> has genotype.json, history.jsonl and result.json; targets.json the latency targets
that the tiers' searches were given; `.search/` is where the search room works.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.core.reading import read_object
from factory.pipeline.context import BuildContext
from factory.pipeline.recipe import NO_LATENCY
from factory.pipeline.recipe_loading import fingerprint
from factory.pipeline.run_folder import Unit
from factory.pipeline.stages import fit
from factory.pipeline.targets import Targets

SCHEMA_VERSION = 1
RESULT = "result.json"
GENOTYPE = "genotype.json"
HISTORY = "history.jsonl"
SEEDS = "seeds.json"
UNUSED = 0.20  # a tier that leaves a larger part of its budget unused is searched again, once
AIMED_AT = 0.9  # of its target that a network has to be predicted at, for a higher one to help
LARGEST_RAISE = 2.0


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


def load_genotype(ctx: BuildContext, name: str) -> Any:
    """The architecture of a tier, or of the comparison."""
    tier = None if name == NO_LATENCY else ctx.recipe.tier(name)
    return ctx.space(tier).load(genotype_path(ctx, name))


def load_result(ctx: BuildContext, name: str) -> dict[str, Any]:
    """What the search of a tier came to."""
    return read_object(ctx.folder.stage("search") / name / RESULT, "search result")


def targets(ctx: BuildContext) -> Targets:
    """The latency targets that the tiers' searches were given so far."""
    path = ctx.folder.stage("search") / "targets.json"
    return Targets(path, fit.budget_unit(ctx).digest())


def round_count(ctx: BuildContext, name: str) -> int:
    """How often the target of a tier was moved."""
    return max(0, len(targets(ctx).of(name)) - 1)


def add_target(ctx: BuildContext, name: str, *, measured_ms: float, limit_ms: float) -> bool:
    """A lower target for a tier whose trained file is over its budget; False: no round left."""
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


def raise_target(ctx: BuildContext, name: str, *, used: float, predicted_ms: float) -> bool:
    """Once, a higher target for a tier that uses the share ``used`` of its latency budget.

    False where it would not help: the network is predicted far below its target, since other
    budgets or the space's largest network hold it back. And false where a trained file was over the
    budget under a higher target: that counts for more than a finalist does.
    """
    known = targets(ctx)
    target_ms = known.last_ms(name)
    tried = known.count(name, "unused") + known.count(name, "verify") > 0
    if not 0 < used < 1 - UNUSED or tried or predicted_ms < AIMED_AT * target_ms:
        return False
    higher = target_ms * min(LARGEST_RAISE, ctx.recipe.budget.safety / used)
    known.add(name, "unused", higher, before_ms=target_ms, used=used)
    return True


def work_folder(ctx: BuildContext) -> Path:
    """Where the search room works: one folder for each state of what the search is made from."""
    key = fingerprint(dict(tier_unit(ctx, ctx.recipe.tiers[0].name).inputs))
    return ctx.folder.stage("search") / ".search" / key[:12]
