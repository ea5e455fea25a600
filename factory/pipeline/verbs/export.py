"""export: a trained tier of a run folder as an ONNX file of either precision."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from factory.core.errors import InputError, unknown_name
from factory.core.progress import SILENT, Progress

SCHEMA_VERSION = 1
PRECISIONS = ("fp32", "int8")


def export(
    run: str | Path,
    *,
    tier: str,
    out: str | Path = "model.onnx",
    precision: str | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Export the trained network of ``tier`` to ``out``.

    Args:
        run: a run folder whose tier is trained.
        tier: name of the tier.
        out: the ONNX file to write.
        precision: "fp32" or "int8"; by default that of the tier's device.
        dry_run: only check and say what would be written.
        progress: where progress is reported.
    """
    from factory.pipeline.context import open_run

    if precision is not None and precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    ctx = open_run(run, progress)
    names = [entry.name for entry in ctx.recipe.tiers]
    if tier not in names:
        raise unknown_name("tier", tier, names, where=str(run))
    section = ctx.recipe.tier(tier)
    weights = ctx.folder.stage("train") / tier / "weights.safetensors"
    if not weights.is_file():
        raise InputError(
            f"tier {tier!r} is not trained yet",
            where=str(run),
            fix="run `factory build` with its recipe until it is",
        )
    precision = precision or ctx.device(section).precision
    path = Path(out)
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "path": str(path),
        "tier": tier,
        "precision": precision,
    }
    if dry_run:
        return {**answer, "dry_run": True}
    from factory.pipeline.stages.deploy import export_tier

    with tempfile.TemporaryDirectory(prefix="factory-export-") as folder:
        int8 = precision == "int8"
        fp32_path = Path(folder) / "model-fp32.onnx" if int8 else path
        manifest = export_tier(ctx, section, path, fp32_path=fp32_path, int8=int8)
    return {**answer, "manifest": manifest.model_dump(mode="json")}
