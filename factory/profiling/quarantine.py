"""The quarantine of a latency table: rows that are not believed, in a file beside the table.

`<table>.quarantine.json` names each row, what it was compared with and why it is not believed. The
table itself keeps every row; a row in quarantine counts as not measured, so that no fit uses it and
the next profile measures it again. A released row is used again, and no check takes it back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pydantic

from factory.core.errors import InputError
from factory.core.files import sha256_bytes, write_atomic_text
from factory.core.reading import read_json
from factory.core.validation import validate
from factory.profiling.rows import Row

SCHEMA_VERSION = 1


class Entry(pydantic.BaseModel):
    """Why one row is not believed."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str
    key: str
    median_ms: float
    date: str = ""
    by: Literal["neighbours", "earlier run", "network"]
    expected_ms: float = pydantic.Field(description="What the others make of it, in ms.")
    reason: str
    since: str = pydantic.Field(default="", description="When it came here; ISO 8601, UTC.")
    released: bool = pydantic.Field(default=False, description="Whether it is used again.")

    @property
    def holds(self) -> bool:
        """Whether the row is kept out."""
        return not self.released


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    schema_version: Literal[1]
    table: str
    rows: dict[str, Entry]


def row_id(row: Row) -> str:
    """The same for a row wherever it is copied to: 12 hex digits over what was measured when."""
    text = "\n".join([row.kind, row.key, f"{row.median_ms:.7g}", row.date])
    return sha256_bytes(text.encode())[:12]


def quarantine_path(table: Path) -> Path:
    """Where the quarantine of a table is."""
    return table.with_name(table.name.removesuffix(".csv") + ".quarantine.json")


def load_quarantine(table: Path) -> dict[str, Entry]:
    """Row id -> entry, released ones too; empty where there is no such file."""
    path = quarantine_path(table)
    if not path.exists():
        return {}
    value = read_json(path, "quarantine")
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} is not a quarantine of schema version {SCHEMA_VERSION}",
            fix="remove it and run `factory table check` again",
        )
    return validate(_File, value, where=f"quarantine {path}").rows


def save_quarantine(table: Path, entries: Mapping[str, Entry]) -> None:
    """Write the file, atomically; without entries there is none."""
    path = quarantine_path(table)
    if not entries:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    rows = {key: entry.model_dump() for key, entry in sorted(entries.items())}
    value = {"schema_version": SCHEMA_VERSION, "table": table.name, "rows": rows}
    write_atomic_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def content_digest(table: Path) -> str:
    """Hex SHA-256 of what counts of a table: its content and its quarantine."""
    content = table.read_bytes()
    path = quarantine_path(table)
    return sha256_bytes(content + path.read_bytes() if path.exists() else content)
