"""`factory new`: a commented recipe to start from."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines


def new(
    path: Annotated[str, typer.Argument(help="The recipe to write, e.g. my.toml.")],
    data: Annotated[
        str | None, typer.Option(help="Folder of your pictures, one sub-folder per class.")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Side of the square pictures in pixels.")] = 32,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: options.Json = False,
) -> None:
    """Write a commented recipe: digits, or your own pictures with --data."""
    from factory.api import new as verb

    answer = verb(path, data=data, image_size=image_size, force=force)
    if json:
        print_json(answer)
    else:
        print_lines([f"wrote {answer['path']}", f"next: {answer['next']}"])
