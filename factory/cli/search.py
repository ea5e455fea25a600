"""`factory search`: the first three stages of a build."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json
from factory.cli.progress import shown_progress
from factory.cli.report_lines import print_build


def search(
    recipe: Annotated[str, typer.Argument(help="A recipe (TOML file or known name).")],
    out: options.Out = None,
    scale: options.Scale = None,
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Profile, fit and search: one architecture per tier, not yet trained."""
    from factory.api import search as verb

    with shown_progress(quiet) as progress:
        answer = verb(recipe, out=out, scale=scale, seed=seed, dry_run=dry_run, progress=progress)
    if json:
        print_json(answer)
    else:
        print_build(answer)
