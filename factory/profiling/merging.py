"""Several tables of one chip as one: every row is kept, and where it came from is told.

The tables must agree in chip, runtime, execution provider, threads and precision, and the chip must
have been as fast: where kernels that two tables hold differ in the median by more than MOST_APART,
one of them was measured at another clock. Rows of several runs stand in the order of their dates,
blocks are numbered anew; rows that are in two tables alike are written once.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.files import sha256_file, write_atomic_text
from factory.core.provenance import provenance
from factory.graph.fusion import rule_texts
from factory.profiling.fusion_rules import fusion_rules
from factory.profiling.quarantine import Entry, load_quarantine, row_id
from factory.profiling.reference import usual_reference_ms
from factory.profiling.rows import COLUMNS, Row
from factory.profiling.table import LatencyTable
from factory.profiling.table_file import SCHEMA_VERSION, header_text

MOST_APART = 0.15


@dataclass(frozen=True)
class Merged:
    """A merged table that is not written yet."""

    table: LatencyTable
    entries: dict[str, Entry]  # of the parts' quarantines
    doubled: int  # rows that several tables hold alike

    def write(self) -> None:
        """Write the table, all at once."""
        rows = "".join(row.text(COLUMNS) for row in self.table.all_rows())
        write_atomic_text(self.table.path, header_text(self.table.header) + rows)


def merge_rows(tables: Sequence[LatencyTable], out: Path, device: str | None = None) -> Merged:
    """The tables as one, to be written to ``out``.

    Args:
        tables: two or more, or one to bring it to the current schema version.
        out: where the merged table is to be.
        device: its device; that of the first table without it.

    Raises:
        InputError: they are not of one chip and setting, or of one speed of the chip.
    """
    first = tables[0]
    for other in tables[1:]:
        _check_same(first, other)
    ordered = sorted(tables, key=lambda table: max((r.date for r in table.all_rows()), default=""))
    for older, newer in itertools.pairwise(ordered):
        _check_speed(older, newer)
    rows: list[Row] = []
    parts: list[dict[str, Any]] = []
    entries: dict[str, Entry] = {}
    seen: set[str] = set()
    doubled = 0
    for table in ordered:
        start = max((row.block for row in rows), default=-1) + 1
        fresh = []
        for row in table.all_rows():
            if row_id(row) in seen:
                doubled += 1
                continue
            fresh.append(row)
        seen |= {row_id(row) for row in fresh}
        rows += [replace(row, block=row.block + start) for row in fresh]
        entries.update(load_quarantine(table.path))
        parts += _parts(table, start, fresh)
    kept = ("imported",)
    header = {
        "schema_version": SCHEMA_VERSION,
        "device": device or first.device_id,
        "dtype": first.dtype,
        "fingerprint": first.fingerprint,
        "describe": dict(first.header.get("describe") or {}),
        "provenance": provenance(),
        **{key: first.header[key] for key in kept if key in first.header},
        "merged": parts,
    }
    return Merged(LatencyTable(out, header, rows), entries, doubled)


def _parts(table: LatencyTable, start: int, fresh: Sequence[Row]) -> list[dict[str, Any]]:
    """Where the rows of one table came from; a merged table tells its own parts."""
    blocks = sorted({row.block for row in fresh})
    earlier = table.header.get("merged")
    if earlier:
        return [
            {**part, "blocks": [part["blocks"][0] + start, part["blocks"][1] + start]}
            for part in earlier
            if part["blocks"] and blocks
        ]
    return [
        {
            "table": table.path.name,
            "sha256": sha256_file(table.path),
            "device": table.device_id,
            "rows": len(fresh),
            "blocks": [blocks[0] + start, blocks[-1] + start] if blocks else [],
            "describe": table.header.get("describe"),
            "provenance": table.header.get("provenance"),
        }
    ]


def _check_same(first: LatencyTable, other: LatencyTable) -> None:
    here, there = first.fingerprint, other.fingerprint
    facts = [(key, here.get(key), there.get(key)) for key in sorted({*here, *there})]
    facts += [("dtype", first.dtype, other.dtype)]
    one, two = (rule_texts(fusion_rules(table)) for table in (first, other))
    facts += [("fusion rules", one, two)]
    facts += [("imported", bool(first.header.get("imported")), bool(other.header.get("imported")))]
    differing = [f"{key.replace('_', ' ')} {a!r} and {b!r}" for key, a, b in facts if a != b]
    if differing:
        raise InputError(
            f"{first.path.name} and {other.path.name} are not tables of one chip and setting",
            why="; ".join(differing),
            fix="merge only tables that agree, or look at both with `factory table compare`",
        )


def _check_speed(older: LatencyTable, newer: LatencyTable) -> None:
    """Refuse two tables between which the whole chip became faster or slower."""
    before = {(row.kind, row.key): row.median_ms for row in older.rows() if _counts(row)}
    ratios = [
        row.median_ms / before[row.kind, row.key]
        for row in newer.rows()
        if _counts(row) and (row.kind, row.key) in before
    ]
    usual = [ms for table in (older, newer) if (ms := usual_reference_ms(table)) is not None]
    what = "what both hold"
    if len(ratios) < 3:
        if len(usual) < 2:
            return
        ratios, what = [usual[1] / usual[0]], "the reference model"
    middle = statistics.median(ratios)
    if not 1 / (1 + MOST_APART) <= middle <= 1 + MOST_APART:
        raise InputError(
            f"{what} takes {middle:.2f} times as long in {newer.path.name} as in {older.path.name}",
            why="one of them was measured at another clock or load, or in another unit",
            fix="look at both with `factory table compare` and measure one of them again",
        )


def _counts(row: Row) -> bool:
    return row.ok and row.median_ms > 0 and row.kind in ("kernel", "network")
