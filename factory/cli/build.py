"""`factory build`: the whole line, from chips to verified models and a report."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json
from factory.cli.progress import shown_progress
from factory.cli.report_lines import print_build


def build(
    recipe: Annotated[str, typer.Argument(help="A recipe (TOML file or known name).")],
    out: options.Out = None,
    scale: options.Scale = None,
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Build one verified ONNX model per tier; run it again to go on where it was."""
    from factory.api import build as verb

    with shown_progress(quiet) as progress:
        answer = verb(recipe, out=out, scale=scale, seed=seed, dry_run=dry_run, progress=progress)
    if json:
        print_json(answer)
    else:
        print_build(answer)
    if answer.get("exit_code"):
        raise typer.Exit(answer["exit_code"])
