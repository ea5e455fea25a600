"""`factory package`: what an app developer needs of a tier, in a folder or a zip."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines
from factory.cli.progress import shown_progress


def package(
    run: Annotated[str, typer.Argument(help="Run folder with verified tiers.")],
    tier: Annotated[str | None, typer.Option(help="The tier (default: the only one).")] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder or .zip to write (default: <tier>.zip).")
    ] = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Pack a tier: models, certificate, model card, labels, examples for Python and phones."""
    from factory.api import package as verb

    with shown_progress(quiet) as progress:
        answer = verb(run, tier=tier, out=out, progress=progress)
    if json:
        print_json(answer)
    else:
        print_lines([*(f"  {name}" for name in answer["files"]), f"wrote {answer['path']}"])
