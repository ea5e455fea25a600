"""The line: seven stages in order, each skipped when done, and the rounds when a budget breaks."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType
from typing import Any

from factory.core.errors import EXIT_DOES_NOT_HOLD, EXIT_OK, EXIT_UNDECIDED
from factory.core.files import write_json
from factory.core.progress import SILENT, Progress
from factory.pipeline import search_files
from factory.pipeline.context import BuildContext
from factory.pipeline.lock import locked
from factory.pipeline.recipe import Recipe
from factory.pipeline.run_folder import DONE, STAGES, RunFolder
from factory.pipeline.stages import deploy, fit, profile, report, search, train, verify
from factory.search.config import check_row
from factory.verification.result import UNDECIDED

SCHEMA_VERSION = 1
DATA_FILE = "data.json"  # what the pictures were, for the report
MODULES: dict[str, ModuleType] = {
    "profile": profile,
    "fit": fit,
    "search": search,
    "train": train,
    "deploy": deploy,
    "verify": verify,
    "report": report,
}


def run_build(
    recipe: Recipe, out: Path, *, until: str = "report", progress: Progress = SILENT
) -> BuildContext:
    """Run the stages up to ``until`` in the folder ``out``, going on where an earlier run was.

    Raises:
        InputError: the folder is another recipe's, or another process is working in it.
        BudgetError: a budget that no network of the space can meet.
    """
    ctx = BuildContext(recipe, RunFolder(out), progress)
    if until not in ("profile", "fit"):
        # a space that cannot be searched is told before anything is measured
        check_row(ctx.search_space(), ctx.recipe.search)
    with locked(out):
        going_on = ctx.folder.claim(recipe.as_dict(), seed=recipe.seed)
        progress.message(f"{'going on in' if going_on else 'building into'} {out}")
        if until not in ("profile", "fit") and not (ctx.folder.stage("train") / DONE).exists():
            # A picture that cannot be read is named before anything is measured.
            write_json(out / DATA_FILE, {"schema_version": 1, **ctx.data.describe()})
        wanted = STAGES[: STAGES.index(until) + 1]
        with progress.task("build", total=None) as task:  # stages differ in length
            for number, stage in enumerate(wanted, start=1):
                task.advance(0, note=f"stage {number}/{len(wanted)} {stage}")
                _run_stage(ctx, stage)
                if stage == "verify":
                    _search_on(ctx)
                task.advance()
    return ctx


def _run_stage(ctx: BuildContext, stage: str) -> None:
    started = time.time()
    module = MODULES[stage]
    module.run(ctx)
    units = module.units(ctx)
    if not ctx.folder.stage_is_current(stage, units):
        ctx.folder.finish_stage(stage, units, started)


def _search_on(ctx: BuildContext) -> None:
    """New rounds for tiers over budget or far below: search, train, deploy and verify again."""
    while verify.retarget(ctx):
        for stage in ("search", "train", "deploy", "verify"):
            _run_stage(ctx, stage)


def plan(recipe: Recipe, out: Path) -> list[dict[str, str]]:
    """Which stages are done in the folder and which would run."""
    folder = RunFolder(out)
    return [
        {
            "stage": stage,
            "state": "done, is kept" if (folder.stage(stage) / DONE).exists() else "would run",
        }
        for stage in STAGES
    ]


def summary(ctx: BuildContext, until: str = "report") -> dict[str, Any]:
    """The answer of a build: every tier's numbers, the verdict, the paths."""
    reached = STAGES[: STAGES.index(until) + 1]
    tiers = [_tier_summary(ctx, tier.name, reached) for tier in ctx.recipe.tiers]
    verdicts = [tier.get("verdict") for tier in tiers]
    return {
        "schema_version": SCHEMA_VERSION,
        "name": ctx.recipe.name,
        "run": str(ctx.folder.root),
        "stage": until,
        "passed": all(v == "passed" for v in verdicts) if "verify" in reached else True,
        "exit_code": _exit_code(verdicts) if "verify" in reached else EXIT_OK,
        "tiers": tiers,
        "report": str(report.report_path(ctx)) if "report" in reached else None,
    }


def _exit_code(verdicts: list[Any]) -> int:
    """A failed tier counts before an undecided one."""
    if "failed" in verdicts:
        return EXIT_DOES_NOT_HOLD
    return EXIT_UNDECIDED if UNDECIDED in verdicts else EXIT_OK


def _tier_summary(ctx: BuildContext, name: str, reached: tuple[str, ...]) -> dict[str, Any]:
    tier = ctx.recipe.tier(name)
    budget = fit.load_budgets(ctx)[name]
    entry: dict[str, Any] = {
        "tier": name,
        "device_id": ctx.device(tier).id,
        "simulated": ctx.device(tier).transport == "simulated",
        "max_latency_ms": budget["max_latency_ms"],
        "max_macs": budget["max_macs"],
    }
    if "search" in reached:
        found = search_files.load_result(ctx, name)
        keys = ("predicted_ms", "low_ms", "high_ms", "macs", "params", "checked_ms")
        entry.update({key: found[key] for key in keys})
        entry["genotype"] = str(search_files.genotype_path(ctx, name))
    if "train" in reached and "verify" not in reached:
        from factory.core.reading import read_json

        trained = read_json(ctx.folder.stage("train") / name / "result.json", "training result")
        entry["accuracy"] = trained["test_accuracy"]
    if "deploy" in reached:
        entry["model"] = str(ctx.folder.stage("deploy") / name / deploy.MODEL)
    if "verify" in reached:
        result = verify.load_result(ctx, tier)
        shown = ("median_ms", "p10_ms", "p90_ms", "accuracy", "accuracy_fp32", "verdict", "reasons")
        entry.update({key: result[key] for key in shown})
    return entry
