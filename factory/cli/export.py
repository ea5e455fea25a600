"""`factory export`: a trained tier of a run as an ONNX file."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines
from factory.cli.progress import shown_progress


def export(
    run: Annotated[str, typer.Argument(help="Run folder with trained tiers.")],
    tier: Annotated[str, typer.Option(help="The tier whose network is exported.")],
    out: Annotated[str, typer.Option(help="The ONNX file to write.")] = "model.onnx",
    precision: Annotated[
        str | None, typer.Option(help="fp32 or int8 (default: that of the tier's chip).")
    ] = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Export a trained tier to ONNX, in fp32 or quantised to int8."""
    from factory.api import export as verb

    with shown_progress(quiet) as progress:
        answer = verb(
            run, tier=tier, out=out, precision=precision, dry_run=dry_run, progress=progress
        )
    if json:
        print_json(answer)
    elif dry_run:
        print_lines([f"{answer['precision']} model of tier {tier} would go to {answer['path']}"])
    else:
        size = answer["manifest"]["size_bytes"] / 2**20
        print_lines([f"wrote {answer['path']} ({answer['precision']}, {size:.2f} MiB)"])
