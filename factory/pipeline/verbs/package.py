"""package: everything an app developer needs of one tier, in a folder or a zip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.core.progress import SILENT, Progress

SCHEMA_VERSION = 1


def package(
    run: str | Path,
    *,
    tier: str | None = None,
    out: str | Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write the package of ``tier`` of a run.

    Args:
        run: a run folder whose tier is verified.
        tier: its name; not needed where there is one only.
        out: a folder, or a file that ends in .zip; by default <tier>.zip.
        progress: where progress is reported.
    """
    from factory.pipeline.context import open_run
    from factory.pipeline.packaging import tier_of, write_package

    ctx = open_run(run, progress)
    section = tier_of(ctx, tier)
    path = Path(out) if out is not None else Path(f"{section.name}.zip")
    files = write_package(ctx, section, path)
    return {
        "schema_version": SCHEMA_VERSION,
        "tier": section.name,
        "path": str(path),
        "files": files,
    }
