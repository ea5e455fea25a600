"""What a verb prints: JSON alone, or lines and tables for a person; always on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text."""
    for line in lines:
        sys.stdout.write(line.rstrip() + "\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a plain table; columns are as wide as their longest entry."""
    body = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in body) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in body]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def called(name: object, simulated: object) -> str:
    """The name of a device or chip, labelled where its times are not measured."""
    return f"{name} (SIMULATED)" if simulated else str(name)
