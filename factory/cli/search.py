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
    strategy: Annotated[
        str | None,
        typer.Option(
            help="Discrete search instead: random, evolution, nsga2 or surrogate; one query "
            "is a short training."
        ),
    ] = None,
    queries: Annotated[int, typer.Option(help="With --strategy: trainings per tier.", min=1)] = 30,
    epochs: Annotated[int, typer.Option(help="With --strategy: epochs of each.", min=1)] = 3,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Profile, fit and search: one architecture per tier, not yet trained."""
    from factory.api import search as verb

    with shown_progress(quiet) as progress:
        answer = verb(
            recipe,
            out=out,
            scale=scale,
            seed=seed,
            dry_run=dry_run,
            strategy=strategy,
            queries=queries,
            epochs=epochs,
            progress=progress,
        )
    if json:
        print_json(answer)
    else:
        print_build(answer)
