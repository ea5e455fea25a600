"""Stage 3, search: one architecture per tier, its finalist measured on the chip before training.

The search room finds each tier's network under a target: the latency budget times
``budget.safety`` (search_budgets.py). The network then runs on its chips with random weights; one
that is measured over a budget gets a lower target and is searched again (search_finalists.py); the
verify stage adds targets to the same file. The search room works in `.search/`; what others read is
copied into the tier's folder (search_files.py).
"""

from __future__ import annotations

import time

from factory.core.files import write_atomic_bytes, write_json
from factory.pipeline.context import BuildContext
from factory.pipeline.recipe import NO_LATENCY
from factory.pipeline.run_folder import Unit
from factory.pipeline.search_budgets import tier_budgets
from factory.pipeline.search_files import (
    GENOTYPE,
    HISTORY,
    RESULT,
    SEEDS,
    load_result,
    targets,
    tier_unit,
    work_folder,
)
from factory.pipeline.search_finalists import finish_baseline, finish_tier


def units(ctx: BuildContext) -> list[Unit]:
    """One unit per architecture."""
    return [tier_unit(ctx, name) for name in ctx.searched_names()]


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
            result = finish_baseline(ctx)
        else:
            result = finish_tier(ctx, ctx.recipe.tier(name))
        folder = ctx.folder.stage("search") / name
        for copied in (GENOTYPE, HISTORY):
            write_atomic_bytes(folder / copied, (work_folder(ctx) / name / copied).read_bytes())
        write_json(folder / RESULT, result)
        outputs = [folder / RESULT, folder / GENOTYPE, folder / HISTORY]
        seeds = work_folder(ctx) / name / SEEDS
        if seeds.exists():
            write_atomic_bytes(folder / SEEDS, seeds.read_bytes())
            outputs.append(folder / SEEDS)
        tier_unit(ctx, name).finish(outputs, searched_s + time.monotonic() - began)


def _is_done(ctx: BuildContext, name: str) -> bool:
    if not tier_unit(ctx, name).is_done():
        return False
    return bool(load_result(ctx, name)["targets"] == targets(ctx).of(name))


def _search(ctx: BuildContext, pending: list[str]) -> None:
    """Run the search of the pending tiers (those that are done come back as they are)."""
    from factory.search.seeds import search_seeds

    folder = work_folder(ctx)
    if all((folder / name / "search.json").exists() for name in pending):
        return
    search_seeds(
        ctx.search_space(),
        ctx.data,
        tier_budgets(ctx),
        ctx.recipe.search,
        folder,
        ctx.progress,
        ctx.seed,
    )
