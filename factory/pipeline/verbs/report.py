"""report: the report of a run, written again from what the run left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.reporting.report import write_report

SCHEMA_VERSION = 1


def report(run: str | Path) -> dict[str, Any]:
    """Write 07-report/report.html and report.json of a run folder; returns their paths."""
    path = write_report(Path(run))
    return {
        "schema_version": SCHEMA_VERSION,
        "report": str(path),
        "json": str(path.with_suffix(".json")),
    }
