"""`factory doctor`: is everything there, and what to do about what is not."""

from __future__ import annotations

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines


def doctor(json: options.Json = False) -> None:
    """Check versions, execution providers, devices and disk; say what is missing."""
    from factory.api import doctor as verb

    answer = verb()
    if json:
        print_json(answer)
    else:
        marks = {"ok": "ok     ", "warning": "warning", "missing": "MISSING"}
        lines = [f"{marks[c['status']]}  {c['name']}: {c['found']}" for c in answer["checks"]]
        fixes = [f"  - {c['name']}: {c['fix']}" for c in answer["checks"] if c["fix"]]
        print_lines([*lines, *(["", "What to do:"] if fixes else []), *fixes])
    if not answer["ready"]:
        raise typer.Exit(2)
