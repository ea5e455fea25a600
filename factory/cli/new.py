"""`factory new`: a commented recipe to start from."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines
from factory.cli.progress import shown_progress
from factory.cli.report_lines import data_lines


def new(
    path: Annotated[str, typer.Argument(help="The recipe to write, e.g. my.toml.")],
    data: Annotated[
        str | None, typer.Option(help="Folder of your pictures, one sub-folder per class.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the square pictures in pixels (default: by size).")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="What a build of your pictures should take on this machine.")
    ] = 30.0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Write a commented recipe: digits, or your own pictures with --data."""
    from factory.api import new as verb

    with shown_progress(quiet) as progress:
        answer = verb(
            path,
            data=data,
            image_size=image_size,
            minutes=minutes,
            force=force,
            progress=progress,
        )
    if json:
        print_json(answer)
        return
    lines = [f"wrote {answer['path']}"]
    if "data" in answer:
        lines = [*data_lines(answer["data"]), *lines, f"a build takes {answer['estimate']}"]
    print_lines([*lines, f"next: {answer['next']}"])
