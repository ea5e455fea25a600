"""Stage 7, report: one HTML file and its JSON, from what the other stages left."""

from __future__ import annotations

import time
from pathlib import Path

from factory.pipeline.context import BuildContext
from factory.pipeline.run_folder import Unit
from factory.pipeline.stages import verify


def units(ctx: BuildContext) -> list[Unit]:
    """The report is one unit."""
    inputs = {unit.marker: unit.digest() for unit in verify.units(ctx)}
    return [ctx.folder.unit("report", "report", inputs, shared=True)]


def run(ctx: BuildContext) -> None:
    """Write the report when it is not there or not of these results."""
    from factory.reporting.report import write_report

    (unit,) = units(ctx)
    if unit.is_done():
        return
    started = time.monotonic()
    unit.begin([report_path(ctx), report_path(ctx).with_suffix(".json")])
    from factory.reporting.comparison import write_comparison

    write_certificate_pages(ctx)
    write_comparison(ctx.folder.root)
    path = write_report(ctx.folder.root)
    unit.finish([path, path.with_suffix(".json")], time.monotonic() - started)


def report_path(ctx: BuildContext) -> Path:
    """Where the report is."""
    return ctx.folder.stage("report") / "report.html"


def write_certificate_pages(ctx: BuildContext) -> None:
    """A page for every certificate: 07-report/certificates/<tier>.html."""
    from factory.reporting.certificate_page import write_certificate_page

    for tier in ctx.recipe.tiers:
        certificate = verify.certificate_path(ctx, tier)
        if certificate.is_file():
            page = ctx.folder.stage("report") / "certificates" / f"{tier.name}.html"
            write_certificate_page(certificate, page)
