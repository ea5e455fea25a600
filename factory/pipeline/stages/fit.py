"""Stage 2, fit: a predictor per chip from its table, then the latency budgets in milliseconds.

A budget given as a percentile of the space's random networks is resolved here, once, and frozen
in 02-fit/budgets.json: every later stage reads milliseconds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from factory.core.errors import InputError
from factory.core.files import sha256_file, write_json
from factory.core.reading import read_json, read_object
from factory.core.validation import checked
from factory.devices.profile import load_profile
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.adaptation import adapt_table, candidates_of_spaces, known_predictors
from factory.pipeline.context import BuildContext
from factory.pipeline.recipe import TierSection
from factory.pipeline.run_folder import Unit
from factory.pipeline.stages import profile
from factory.pipeline.tables import table_for
from factory.profiling.quarantine import quarantine_path
from factory.spaces.base import SearchSpace

SCHEMA_VERSION = 1
POOL = 400  # random networks that a percentile budget is taken over
BUDGETS = "budgets.json"


class _Also(pydantic.BaseModel):
    """Another chip of a tier."""

    device_id: str
    max_latency_ms: float
    latency_percentile: float | None


class _Budget(pydantic.BaseModel):
    """A tier's entry of budgets.json."""

    device_id: str
    max_latency_ms: float
    max_macs: float | None
    max_params: float | None
    max_peak_memory_mb: float | None
    latency_percentile: float | None
    also: list[_Also]


def units(ctx: BuildContext) -> list[Unit]:
    """One unit per chip, and the budgets."""
    return [*(device_unit(ctx, device_id) for device_id in ctx.devices), budget_unit(ctx)]


def run(ctx: BuildContext) -> None:
    """Fit what is not fitted yet, then resolve the budgets."""
    reports: dict[str, Any] = {}
    for device_id in ctx.devices:
        unit = device_unit(ctx, device_id)
        path = predictor_path(ctx, device_id)
        if not unit.is_done():
            started = time.monotonic()
            unit.begin([path])
            _fit(ctx, device_id).save(path)
            unit.finish([path], time.monotonic() - started)
        reports[device_id] = LatencyPredictor.load(path).report
    collected = ctx.folder.stage("fit") / "report.json"
    if not collected.exists() or read_json(collected) != reports:
        write_json(collected, reports)
    unit = budget_unit(ctx)
    if not unit.is_done():
        started = time.monotonic()
        path = ctx.folder.stage("fit") / BUDGETS
        unit.begin([path])
        write_json(path, {"schema_version": SCHEMA_VERSION, "tiers": resolve_budgets(ctx)})
        unit.finish([path], time.monotonic() - started)


def predictor_path(ctx: BuildContext, device_id: str) -> Path:
    """Where the predictor of a chip is."""
    return ctx.folder.stage("fit") / f"{device_id}.predictor.json"


def load_predictor(ctx: BuildContext, device_id: str) -> LatencyPredictor:
    """The fitted predictor of a chip."""
    return LatencyPredictor.load(predictor_path(ctx, device_id))


def device_unit(ctx: BuildContext, device_id: str) -> Unit:
    """The predictor of a chip."""
    inputs = {
        "profile": profile.device_unit(ctx, device_id).digest(),
        "seed": str(ctx.seed),
    }
    for known in ctx.recipe.profile.known_devices:
        inputs[f"known {known}"] = sha256_file(table_for(load_profile(known)).path)
    for path in profile.table_paths(ctx, device_id):
        if quarantine_path(path).exists():
            inputs["quarantine"] = sha256_file(quarantine_path(path))
    return ctx.folder.unit("fit", device_id, inputs, shared=True)


def budget_unit(ctx: BuildContext) -> Unit:
    """The frozen budgets."""
    inputs = {device_id: device_unit(ctx, device_id).digest() for device_id in ctx.devices}
    inputs["tiers"] = ctx.part("tiers", "space", "data")
    return ctx.folder.unit("fit", "budgets", inputs, shared=True)


def _fit(ctx: BuildContext, device_id: str) -> LatencyPredictor:
    table = profile.open_table(ctx, device_id)
    if known := ctx.recipe.profile.known_devices:
        device = ctx.devices[device_id]
        predictors, _ = known_predictors(device, known)
        candidates = candidates_of_spaces(ctx.spaces_on(device_id), device.dtype, ctx.seed)
        return adapt_table(table, predictors, candidates).predictor
    return LatencyPredictor.fit(table, seed=ctx.seed)


def resolve_budgets(ctx: BuildContext) -> dict[str, Any]:
    """Tier -> budget in milliseconds and MACs, with the percentile it came from."""
    budgets: dict[str, Any] = {}
    for tier in ctx.recipe.tiers:
        entry: dict[str, Any] = {
            "device_id": ctx.device(tier).id,
            "max_latency_ms": tier.max_latency_ms,
            "max_macs": tier.max_macs,
            "max_params": tier.max_params,
            "max_peak_memory_mb": tier.max_peak_memory_mb,
            "latency_percentile": tier.latency_percentile,
        }
        entry["max_latency_ms"] = _in_ms(ctx, tier, entry)
        entry["also"] = [
            {
                "device_id": device.id,
                "max_latency_ms": other.max_latency_ms,
                "latency_percentile": other.latency_percentile,
            }
            for other, device in zip(tier.also, ctx.also(tier), strict=True)
        ]
        for other_entry in entry["also"]:
            other_entry["max_latency_ms"] = _in_ms(ctx, tier, other_entry)
        budgets[tier.name] = entry
    return budgets


def _in_ms(ctx: BuildContext, tier: TierSection, entry: dict[str, Any]) -> float:
    """The latency budget of a chip; a percentile is one of the tier's own random networks."""
    if entry["latency_percentile"] is None:
        return float(entry["max_latency_ms"])
    predictor = load_predictor(ctx, entry["device_id"])
    latencies = random_latencies_ms(ctx.space(tier), predictor, ctx.seed)
    budget = float(np.percentile(latencies, entry["latency_percentile"]))
    # Three digits, so that the number people read is exactly the number that is held.
    return float(f"{budget:.3g}")


def random_latencies_ms(
    space: SearchSpace[Any], predictor: LatencyPredictor, seed: int, count: int = POOL
) -> np.ndarray:
    """Predicted latency of random networks of the space."""
    rng = np.random.default_rng([seed, 11])
    q = space.one_hot_many([space.random(rng) for _ in range(count)])
    presence = space.presence(predictor.dtype, fusion=predictor.fusion)
    return predictor.predict_many(presence.counts(q), presence.kernels)


def load_budgets(ctx: BuildContext) -> dict[str, Any]:
    """The frozen budgets, tier by tier."""
    path = ctx.folder.stage("fit") / BUDGETS
    value = read_object(path, "budgets")
    if value.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} is of another schema version",
            fix="build into another folder with --out",
        )
    names = [tier.name for tier in ctx.recipe.tiers]
    checked(dict[str, _Budget], value.get("tiers"), str(path))
    tiers: dict[str, Any] = value["tiers"]
    if missing := [name for name in names if name not in tiers]:
        raise InputError(f"{path} has no budget of tier {missing[0]!r}", fix="remove it")
    return tiers
