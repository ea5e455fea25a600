"""Several searches that differ in their seed alone: statistics, and the best one of each tier.

"Best" is the lowest validation loss of the derived network inside its supernet (a proxy: it costs
nothing more, but ranks networks only roughly), among the networks that are within all limits.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.core.files import write_json
from factory.core.progress import SILENT, Progress
from factory.data.image_data import ImageData
from factory.search.architectures import SearchResult, TierBudget, search_architectures
from factory.search.config import SearchConfig
from factory.spaces.base import SearchSpace

SCHEMA_VERSION = 1
FILE = "seeds.json"


def search_seeds(
    space: SearchSpace[Any],
    data: ImageData,
    tiers: Sequence[TierBudget],
    cfg: SearchConfig,
    out_dir: Path,
    progress: Progress = SILENT,
    seed: int = 0,
) -> dict[str, SearchResult]:
    """Search from ``cfg.seeds`` seeds (``seed``, ``seed`` + 1, ...); the best result of each tier.

    The arguments are those of :func:`search_architectures`. One seed is that function itself.
    With several, each works in ``out_dir/seed-N``; the best folder of a tier is copied to
    ``out_dir/tier``, beside seeds.json with the statistics. Killed at any moment, the same call
    goes on from there.
    """
    if cfg.seeds == 1:
        return search_architectures(space, data, tiers, cfg, out_dir, progress, seed)
    found: dict[int, dict[str, SearchResult]] = {}
    for number in range(seed, seed + cfg.seeds):
        progress.message(f"search from seed {number} ({number - seed + 1} of {cfg.seeds})")
        folder = out_dir / f"seed-{number}"
        found[number] = search_architectures(space, data, tiers, cfg, folder, progress, number)
    results: dict[str, SearchResult] = {}
    for tier in tiers:
        runs = {number: results_of[tier.name] for number, results_of in found.items()}
        best = min(runs, key=lambda number: (_loss(runs[number]), number))
        target = out_dir / tier.name
        if not (target / FILE).exists():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(out_dir / f"seed-{best}" / tier.name, target)
            write_json(target / FILE, statistics_of(list(runs.values()), best))
        results[tier.name] = SearchResult.load(target)
    return results


def statistics_of(runs: Sequence[SearchResult], best: int) -> dict[str, Any]:
    """Mean, spread and every value of what the searches of one tier came to."""
    columns: dict[str, list[float]] = {
        "skip_share": [run.skip_share for run in runs],
        "entropy": [run.entropy for run in runs],
        "derived_loss": [run.derived_loss for run in runs if run.derived_loss is not None],
        "gap": [run.gap for run in runs if run.gap is not None],
    }
    for name in runs[0].predicted:
        columns[name] = [run.predicted[name] for run in runs]
    return {
        "schema_version": SCHEMA_VERSION,
        "tier": runs[0].tier,
        "seeds": [run.seed for run in runs],
        "best_seed": best,
        "different_genotypes": len({str(run.genotype) for run in runs}),
        "stopped": [run.stopped for run in runs],
        "values": {name: _summary(values) for name, values in columns.items() if values},
    }


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "mean": statistics.fmean(values),
        "stdev": statistics.stdev(values) if len(values) > 1 else None,
        "least": min(values),
        "largest": max(values),
        "all": values,
    }


def _loss(run: SearchResult) -> float:
    return float("inf") if run.derived_loss is None else run.derived_loss
