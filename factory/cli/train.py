"""`factory train`: the first four stages of a build, or the training of one given genotype."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json
from factory.cli.progress import shown_progress
from factory.cli.report_lines import print_build


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe (TOML file or known name).")],
    genotype: Annotated[
        str | None,
        typer.Option(help="Train only this genotype (name or JSON file), without a search."),
    ] = None,
    out: options.Out = None,
    scale: options.Scale = None,
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Train the architectures of a recipe (searching them first), or one genotype."""
    from factory.api import train as verb

    with shown_progress(quiet) as progress:
        answer = verb(
            recipe,
            genotype=genotype,
            out=out,
            scale=scale,
            seed=seed,
            dry_run=dry_run,
            progress=progress,
        )
    if json:
        print_json(answer)
    else:
        print_build(answer)
