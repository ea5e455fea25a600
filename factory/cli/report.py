"""`factory report`: write the report of a run again from what the run left."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines


def report(
    run: Annotated[str, typer.Argument(help="Run folder.")],
    json: options.Json = False,
) -> None:
    """Write report.html and report.json of a run folder; prints the path."""
    from factory.api import report as verb

    answer = verb(run)
    if json:
        print_json(answer)
    else:
        print_lines([answer["report"]])
