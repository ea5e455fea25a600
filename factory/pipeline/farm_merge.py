"""The tables of equal devices as one, with a record of which device measured which block.

The merged table is an ordinary latency table of the group's first device; its blocks are numbered
anew. Beside it `<table>.sources.json` says for each block which device measured it, what that
device said of itself and the hash of its own table. Merging again adds what is new and changes
nothing else; killed in the middle, it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic

from factory.core.files import sha256_file, write_json
from factory.core.reading import read_object
from factory.core.validation import checked
from factory.devices.profile import DeviceProfile
from factory.profiling.rows import Row
from factory.profiling.table import LatencyTable, table_name

SCHEMA_VERSION = 1


class _Source(pydantic.BaseModel):
    """What is used of an entry by name."""

    device: str
    blocks: dict[str, int]


def sources_path(table: Path) -> Path:
    """Where it is told which device measured which block of a merged table."""
    return table.with_name(table.name.removesuffix(".csv") + ".sources.json")


def merge(
    folder: Path,
    profile: DeviceProfile,
    describe: Mapping[str, Any],
    parts: Sequence[tuple[Mapping[str, Any], LatencyTable]],
) -> Path:
    """Add the rows of ``parts`` to the table of ``profile`` in ``folder``; its path.

    A kernel or network that several parts hold comes from the first part where it succeeded.
    """
    path = folder / table_name(describe)
    with LatencyTable.open(path, profile, describe) as merged:
        chosen = _new_rows(merged, [table for _, table in parts])
        blocks = _number_blocks(merged, path, chosen)
        sources = []
        for own_describe, table in parts:
            mine = {old: new for (name, old), new in blocks.items() if name == table.device_id}
            sources.append(
                {
                    "device": table.device_id,
                    "simulated": own_describe["simulated"],
                    "transport": own_describe["transport"],
                    "table": str(table.path.relative_to(folder)),
                    "sha256": sha256_file(table.path),
                    "blocks": {str(old): new for old, new in sorted(mine.items())},
                    "describe": dict(own_describe),
                }
            )
        known = _known_sources(path)
        named = {source["device"] for source in sources}
        sources += [source for name, source in known.items() if name not in named]
        write_json(
            sources_path(path),
            {"schema_version": SCHEMA_VERSION, "table": path.name, "sources": sources},
        )
        there = {row.block for row in merged.rows("reference")}
        for name, row in chosen:
            block = blocks[(name, row.block)]
            if row.kind != "reference" or block not in there:
                merged.append(replace(row, block=block))
    return path


def _new_rows(merged: LatencyTable, tables: Sequence[LatencyTable]) -> list[tuple[str, Row]]:
    """(device, row) of what the merged table lacks, with the reference rows of those blocks."""
    best: dict[tuple[str, str], tuple[str, Row]] = {}
    for table in tables:
        for row in table.rows():
            key = (row.kind, row.key)
            if row.kind == "reference":
                continue
            before, held = best.get(key), merged.get(*key)
            if held is not None and (held.ok or not row.ok):
                continue
            if before is None or (row.ok and not before[1].ok):
                best[key] = (table.device_id, row)
    used = {(name, row.block) for name, row in best.values()}
    rows = list(best.values())
    for table in tables:
        name = table.device_id
        rows += [(name, row) for row in table.rows("reference") if (name, row.block) in used]
    return sorted(rows, key=lambda entry: (entry[0], entry[1].block, entry[1].kind))


def _number_blocks(
    merged: LatencyTable, path: Path, rows: Sequence[tuple[str, Row]]
) -> dict[tuple[str, int], int]:
    """(device, its block) -> block of the merged table; those of an earlier merge stay."""
    blocks: dict[tuple[str, int], int] = {}
    for name, source in _known_sources(path).items():
        blocks.update({(name, int(old)): new for old, new in source["blocks"].items()})
    highest = max([*blocks.values(), *(row.block for row in merged.rows())], default=-1)
    for name, row in rows:
        if (name, row.block) not in blocks:
            highest += 1
            blocks[(name, row.block)] = highest
    return blocks


def _known_sources(path: Path) -> dict[str, dict[str, Any]]:
    """Device -> its entry in the record beside the table."""
    record = sources_path(path)
    if not record.exists():
        return {}
    known = read_object(record, "sources")
    checked(list[_Source], known.get("sources"), str(record))
    return {entry["device"]: entry for entry in known["sources"]}
