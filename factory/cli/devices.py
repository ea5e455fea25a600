"""`factory devices`: the known device profiles."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines, table


def devices(
    check: Annotated[
        bool, typer.Option("--check", help="Reach every device and ask what it is.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List the device profiles that are known, the user's own first."""
    from factory.api import devices as verb

    answer = verb(check=check)
    if json:
        print_json(answer)
        return
    header = ["id", "chip", "runtime", "provider", "threads", "precision", "tier"]
    keys = ["id", "chip", "runtime", "execution_provider", "threads", "precision", "tier"]
    if check:
        header, keys = [*header, "reached"], [*keys, "reached"]
    good = [entry for entry in answer["devices"] if not entry.get("error")]
    print_lines(table(header, [[str(entry.get(key, "")) for key in keys] for entry in good]))
    for entry in answer["devices"]:
        if entry.get("error"):
            print_lines([f"{entry['id']}: {entry['error']}"])
