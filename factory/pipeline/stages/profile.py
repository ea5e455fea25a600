"""Stage 1, profile: the kernels of the space and some of its networks, measured on each chip."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.files import write_json
from factory.core.reading import read_json
from factory.devices.base import Device, open_device
from factory.pipeline.adaptation import (
    candidates_of_spaces,
    choose_candidates,
    known_predictors,
    measure,
)
from factory.pipeline.context import BuildContext
from factory.pipeline.profiling_plan import Measured, measure_chip
from factory.pipeline.recipe_loading import fingerprint
from factory.pipeline.run_folder import Unit
from factory.profiling.settings import ProfileSummary
from factory.profiling.table import LatencyTable, table_name
from factory.profiling.trust import Usual


def units(ctx: BuildContext) -> list[Unit]:
    """One unit per chip."""
    return [device_unit(ctx, device_id) for device_id in ctx.devices]


def device_unit(ctx: BuildContext, device_id: str) -> Unit:
    """The measurements on a chip."""
    inputs = {
        "chip": ctx.chip_identity(ctx.devices[device_id]),
        "sizes": fingerprint([ctx.size_hash(space) for space in ctx.spaces_on(device_id)]),
        "recipe": ctx.part("profile"),
        "seed": str(ctx.seed),
    }
    if ctx.activations:
        inputs["activations"] = fingerprint(list(ctx.activations))
    return ctx.folder.unit("profile", device_id, inputs, shared=True)


def run(ctx: BuildContext) -> None:
    """Measure what is not measured yet."""
    for device_id in ctx.devices:
        unit = device_unit(ctx, device_id)
        if not unit.is_done():
            _measure(ctx, device_id, unit)
    summaries = {
        device_id: read_json(summary_path(ctx, device_id), "profile summary")
        for device_id in ctx.devices
    }
    path = ctx.folder.stage("profile") / "summary.json"
    if not path.exists() or read_json(path) != summaries:
        write_json(path, summaries)


def summary_path(ctx: BuildContext, device_id: str) -> Path:
    """What was measured on one chip; summary.json collects them."""
    return ctx.folder.stage("profile") / f"{device_id}.summary.json"


def table_paths(ctx: BuildContext, device_id: str) -> list[Path]:
    """The tables of a chip in the run folder: one, or none yet."""
    return sorted(ctx.folder.stage("profile").glob(f"{device_id}__*.csv"))


def open_table(ctx: BuildContext, device_id: str) -> LatencyTable:
    """The finished table of a chip, to read."""
    paths = table_paths(ctx, device_id)
    if not paths:
        raise InputError(
            f"the latency table of {device_id!r} is missing",
            where=str(ctx.folder.stage("profile")),
            fix="run the build again, it measures what is missing",
        )
    return LatencyTable.read(paths[0])


def usual(ctx: BuildContext, device_id: str) -> Usual | None:
    """What the references took on a chip while it was profiled."""
    return Usual.of_table(open_table(ctx, device_id))


def _measure(ctx: BuildContext, device_id: str, unit: Unit) -> None:
    started = time.monotonic()
    profile, settings = ctx.devices[device_id], ctx.recipe.profile
    unit.begin([*table_paths(ctx, device_id), summary_path(ctx, device_id)])
    with open_device(profile) as device:
        describe = device.describe()
        path = ctx.folder.stage("profile") / table_name(describe)
        with LatencyTable.open(path, profile, describe) as table:
            measured = (
                _measure_few(ctx, device, table)
                if settings.known_devices
                else measure_chip(
                    device,
                    table,
                    ctx.spaces_on(device_id),
                    networks=settings.networks,
                    pool=settings.pool,
                    effort=settings.effort,
                    seed=ctx.seed,
                    activations=ctx.activations,
                    progress=ctx.progress,
                )
            )
            rows = [row for row in table.rows() if row.kind != "reference"]
    seconds = time.monotonic() - started
    summary: dict[str, Any] = {
        "table": path.name,
        "kernels": sum(row.kind == "kernel" for row in rows),
        "networks": sum(row.kind == "network" for row in rows),
        "failed": sum(row.status != "ok" for row in rows),
        "marked_blocks": measured.kernels.marked_blocks + measured.networks.marked_blocks,
        "repeated_blocks": measured.kernels.repeated_blocks + measured.networks.repeated_blocks,
        "remeasured_blocks": measured.kernels.remeasured_blocks
        + measured.networks.remeasured_blocks,
        "seconds": round(seconds, 1),
        "describe": describe,
    }
    write_json(summary_path(ctx, device_id), summary)
    for note in describe.get("notes", []):
        ctx.progress.message(f"{device_id}: {note}")
    unit.finish([path, summary_path(ctx, device_id)], seconds)


def _measure_few(ctx: BuildContext, device: Device, table: LatencyTable) -> Measured:
    """The networks that the known devices' predictors ask for, in place of a whole profile."""
    settings, profile = ctx.recipe.profile, device.profile
    predictors, _ = known_predictors(profile, settings.known_devices)
    candidates = candidates_of_spaces(ctx.spaces_on(profile.id), profile.dtype, ctx.seed)
    chosen = choose_candidates(predictors, candidates, settings.networks, ctx.seed)
    return Measured(ProfileSummary(), measure(device, table, chosen, ctx.progress))
