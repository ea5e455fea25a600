"""Train one given genotype at a recipe's size, without a search (`factory train --genotype`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.core.files import write_json
from factory.core.progress import SILENT, Progress
from factory.core.provenance import provenance
from factory.pipeline.context import count_classes
from factory.pipeline.lock import locked
from factory.pipeline.recipe import Recipe
from factory.spaces.cell_space import CellSpace
from factory.spaces.genotype import find_genotype

SCHEMA_VERSION = 1


def train_one(
    recipe: Recipe,
    genotype: str,
    *,
    out: str | Path | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Train ``genotype`` into ``out`` (default runs/<recipe>-<genotype>); resumable."""
    space = recipe.space.space(recipe.data.image_shape, count_classes(recipe.data))
    chosen = find_genotype(genotype) if isinstance(space, CellSpace) else space.load(genotype)
    counts = space.counts(chosen)
    folder = Path(out) if out else Path("runs") / f"{recipe.name}-{Path(genotype).stem}"
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run": str(folder),
        "passed": True,
        "genotype": space.to_dict(chosen),
        "params": counts.params,
        "macs": counts.macs,
        "tiers": [],
    }
    if dry_run:
        state = f"{genotype} would be trained for {recipe.training.epochs} epochs"
        return {**answer, "dry_run": True, "stages": [{"stage": "train", "state": state}]}
    from factory.data.datasets import load_data
    from factory.pipeline.stages.train import make_network
    from factory.training.loop import train_network

    with locked(folder):
        data = load_data(recipe.data, recipe.seed, progress)
        network = make_network(chosen, space, recipe.training, recipe.seed)
        result = train_network(
            network, data, recipe.training, folder, progress, recipe.seed, label=f"train {genotype}"
        )
        write_json(folder / "genotype.json", space.to_dict(chosen))
        record = {"recipe": recipe.as_dict(), "provenance": provenance()}
        write_json(folder / "trained.json", {"schema_version": SCHEMA_VERSION, **record})
    tier = {
        "tier": genotype,
        "device_id": None,
        "accuracy": result.test_accuracy,
        "macs": counts.macs,
        "params": counts.params,
    }
    return {**answer, "tiers": [tier], "weights": str(result.weights)}
