"""A foreign table of latencies as rows of ours, by a mapping that a person writes.

The mapping (TOML, docs/formats/table-mapping.md) says which chip and setting the numbers belong to,
which column holds the time and in which unit, and how a row's cells make a kernel: cells are put
into patterns such as ``"1x{cin}x{h}x{w}"`` or ``"{(k-1)//2}"``, whole-number arithmetic allowed.
"""

from __future__ import annotations

import ast
import csv
import io
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from factory.core.errors import InputError, nearest
from factory.core.reading import read_text, read_toml
from factory.core.validation import validate
from factory.devices.profile import ID_PATTERN, MOST_OF_ID
from factory.graph.kernel import Kernel
from factory.profiling.rows import Row

MS_OF_UNIT = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
PLAUSIBLE_GMACS = (1e-4, 1e5)  # per second, between which the fastest kernel of any chip lies
_HOLE = re.compile(r"\{([^{}]*)\}")
_ARITHMETIC: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
# Of the name of a table's file, which no part may leave or make too long.
PartOfName = Annotated[str, pydantic.Field(pattern=r"^[^/\\\x00-\x1f]+$", max_length=50)]
_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class TableFacts(pydantic.BaseModel):
    """What the numbers belong to, and where they are from."""

    model_config = _STRICT

    device: str = pydantic.Field(pattern=ID_PATTERN, max_length=MOST_OF_ID)
    chip: str = pydantic.Field(min_length=1, max_length=200)
    runtime: PartOfName
    runtime_version: PartOfName = "unknown"
    execution_provider: PartOfName = "CPUExecutionProvider"
    threads: int = pydantic.Field(default=1, ge=1, le=1024)
    precision: Literal["fp32", "int8"] = "fp32"
    source: str = pydantic.Field(min_length=1, description="Who measured it, where it is from.")


class Columns(pydantic.BaseModel):
    """Which column holds what; only the median must be there."""

    model_config = _STRICT

    median: str
    unit: Literal["s", "ms", "us", "ns"] = pydantic.Field(description="Of all columns of times.")
    p10: str = ""
    p90: str = ""
    min: str = ""
    runs: str = ""
    date: str = ""
    kernel: str = pydantic.Field(default="", description="Kernels in our own text form.")
    operator: str = pydantic.Field(default="", description="Selects a pattern of [operators].")
    network: str = pydantic.Field(
        default="", description="Of a whole network: its kernels, '2*Conv(...);1*Add(...)'."
    )


class Pattern(pydantic.BaseModel):
    """How the cells of a row make a kernel."""

    model_config = _STRICT

    op: str
    x: str
    w: str = ""
    attrs: dict[str, str] = pydantic.Field(default_factory=dict)


class TableMapping(pydantic.BaseModel):
    """The whole mapping file."""

    model_config = _STRICT

    schema_version: Literal[1]
    table: TableFacts
    columns: Columns
    operators: dict[str, Pattern] = pydantic.Field(default_factory=dict)
    values: dict[str, dict[str, str]] = pydantic.Field(default_factory=dict)
    skip: dict[str, list[str]] = pydantic.Field(
        default_factory=dict, description="Column -> cells whose rows are left out."
    )

    @pydantic.model_validator(mode="after")
    def _tells_kernels(self) -> TableMapping:
        columns = self.columns
        if not (columns.kernel or columns.network or (columns.operator and self.operators)):
            raise ValueError(
                "say how a row becomes a kernel: columns.kernel, or columns.operator with "
                "[operators.NAME] patterns, or columns.network"
            )
        return self


@dataclass
class Foreign:
    """What was read: rows, and what was left out."""

    mapping: TableMapping
    rows: list[Row] = field(default_factory=list)
    skipped: int = 0
    refused: list[str] = field(default_factory=list)  # 'line 7: ...'


def read_mapping(path: Path | str) -> TableMapping:
    """The mapping in a TOML file; InputError in one sentence otherwise."""
    data = read_toml(path, "mapping", fix="write one, see docs/formats/table-mapping.md")
    return validate(TableMapping, data, where=f"mapping {path}")


def read_foreign(path: Path | str, mapping: TableMapping) -> Foreign:
    """The rows of a foreign CSV file; a row that makes no sense is told, not taken.

    Raises:
        InputError: no such file, a column that the mapping names is missing, not one usable row,
            or times that cannot be in the unit that the mapping says.
    """
    path = Path(path)
    header, lines = _parsed(path)
    _check_columns(path, mapping, header)
    found = Foreign(mapping)
    for number, cells in enumerate(lines, start=2):
        if None in cells or None in cells.values():
            found.refused.append(f"line {number}: another number of cells than columns")
            continue
        if any(cells[column] in left_out for column, left_out in mapping.skip.items()):
            found.skipped += 1
            continue
        try:
            found.rows.append(_row(cells, mapping))
        except (ValueError, InputError) as error:
            found.refused.append(f"line {number}: {error}")
    if not found.rows:
        raise InputError(
            f"no row of {path} becomes a row of a latency table",
            why=found.refused[0] if found.refused else "it is empty",
            fix="correct the mapping",
        )
    _check_unit(path, mapping, found.rows)
    return found


def _parsed(path: Path) -> tuple[list[str], list[dict[Any, Any]]]:
    """Names of the columns, and the cells of every line by them."""
    reader = csv.DictReader(io.StringIO(read_text(path, "table")))
    try:
        return list(reader.fieldnames or []), list(reader)
    except csv.Error as error:
        raise InputError(f"{path} is not CSV", why=f"line {reader.line_num}: {error}") from None


def _check_columns(path: Path, mapping: TableMapping, header: list[str]) -> None:
    named = [
        value for name, value in mapping.columns.model_dump().items() if name != "unit" and value
    ]
    for column in [*named, *mapping.skip, *mapping.values]:
        if column not in header:
            raise InputError(
                f"{path} has no column {column!r}",
                fix=f"correct the mapping; {nearest(column, header)}",
            )


def _row(cells: Mapping[str, str], mapping: TableMapping) -> Row:
    columns, unit_ms = mapping.columns, MS_OF_UNIT[mapping.columns.unit]

    def ms(column: str, default: float = 0.0) -> float:
        return float(cells[column]) * unit_ms if column and cells[column] else default

    kind, key, kernels = _kernel_cells(cells, mapping)
    median = ms(columns.median)
    row = Row(
        kind=kind,
        key=key,
        kernels=kernels,
        median_ms=median,
        p10_ms=ms(columns.p10, median),
        p90_ms=ms(columns.p90, median),
        min_ms=ms(columns.min, median),
        runs=int(cells[columns.runs]) if columns.runs and cells[columns.runs] else 1,
        reason="imported",
        date=cells[columns.date] if columns.date else "",
    )
    if fault := row.fault():
        raise ValueError(fault)
    return row


def _kernel_cells(cells: Mapping[str, str], mapping: TableMapping) -> tuple[str, str, str]:
    """Kind, key and kernels of a row."""
    from factory.core.files import sha256_bytes

    columns = mapping.columns
    if columns.network and cells[columns.network]:
        counts = cells[columns.network]
        for item in filter(None, counts.split(";")):
            _check_dtype(Kernel.parse(item.partition("*")[2]), mapping)
        return "network", "net:" + sha256_bytes(counts.encode())[:12], counts
    if columns.kernel and cells[columns.kernel]:
        kernel = Kernel.parse(cells[columns.kernel])
        _check_dtype(kernel, mapping)
        return "kernel", str(kernel), ""
    name = cells[columns.operator] if columns.operator else ""
    if name not in mapping.operators:
        raise ValueError(f"operator {name!r} has no pattern ({nearest(name, mapping.operators)})")
    pattern = mapping.operators[name]
    translated = {
        column: mapping.values.get(column, {}).get(cell, cell) for column, cell in cells.items()
    }
    parts = ["x=" + fill(pattern.x, translated)]
    if pattern.w:
        parts.append("w=" + fill(pattern.w, translated))
    parts += [f"{key}={fill(value, translated)}" for key, value in pattern.attrs.items()]
    dtype = {"fp32": "f32", "int8": "i8"}[mapping.table.precision]
    return "kernel", str(Kernel.parse(f"{pattern.op}({','.join(parts)},dtype={dtype})")), ""


def _check_dtype(kernel: Kernel, mapping: TableMapping) -> None:
    dtype = {"fp32": "f32", "int8": "i8"}[mapping.table.precision]
    if kernel.dtype != dtype:
        raise ValueError(f"{kernel} is {kernel.dtype}, the mapping says {mapping.table.precision}")


def fill(pattern: str, cells: Mapping[str, str]) -> str:
    """``"1x{cin}x{h//2}"`` with the cells in its holes; ValueError where that makes no sense."""

    def value(match: re.Match[str]) -> str:
        hole = match[1].strip()
        if hole in cells:
            return cells[hole].strip()
        try:
            tree = ast.parse(hole, mode="eval").body
        except SyntaxError:
            raise ValueError(f"{{{hole}}} is no column and no arithmetic") from None
        return str(_evaluate(tree, hole, cells))

    return _HOLE.sub(value, pattern)


def _evaluate(node: ast.expr, hole: str, cells: Mapping[str, str]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        if node.id not in cells:
            raise ValueError(f"{{{hole}}} names no column ({nearest(node.id, cells)})")
        return int(cells[node.id])
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _evaluate(node.left, hole, cells), _evaluate(node.right, hole, cells)
        if right == 0 and isinstance(node.op, ast.FloorDiv | ast.Mod):
            raise ValueError(f"{{{hole}}} divides by zero")
        return _ARITHMETIC[type(node.op)](left, right)
    raise ValueError(f"{{{hole}}} is not arithmetic of columns and whole numbers (+ - * // %)")


def _check_unit(path: Path, mapping: TableMapping, rows: list[Row]) -> None:
    """Refuse times with which the chip would be faster or slower than any."""
    rates = []
    for row in rows:
        if row.kind == "kernel" and (macs := Kernel.parse(row.key).macs):
            rates.append(macs / row.median_ms / 1e6)
    low, high = PLAUSIBLE_GMACS
    if rates and not low <= max(rates) <= high:
        raise InputError(
            f"the fastest kernel of {path} would run at {max(rates):.3g} G MACs/s",
            why=f"the mapping says that times are in {mapping.columns.unit}",
            fix="correct columns.unit of the mapping",
        )


def imported_header(
    mapping: TableMapping, file: Path, mapping_file: Path, foreign: Foreign
) -> dict[str, Any]:
    """The header of the imported table, which says in every place that it is one."""
    from factory.core.files import sha256_file
    from factory.core.provenance import now_utc, provenance
    from factory.profiling.table_file import SCHEMA_VERSION

    facts = mapping.table
    return {
        "schema_version": SCHEMA_VERSION,
        "device": facts.device,
        "dtype": {"fp32": "f32", "int8": "i8"}[facts.precision],
        "fingerprint": {
            "chip": facts.chip,
            "runtime": facts.runtime,
            "runtime_version": facts.runtime_version,
            "execution_provider": facts.execution_provider,
            "provider_options": {},
            "threads": facts.threads,
            "precision": facts.precision,
        },
        "describe": {
            "device": facts.device,
            "transport": "table",
            "simulated": False,
            "notes": [f"imported, not measured by the factory: {facts.source}"],
        },
        "provenance": provenance(),
        "imported": {
            "source": facts.source,
            "file": file.name,
            "sha256": sha256_file(file),
            "mapping": mapping_file.name,
            "mapping_sha256": sha256_file(mapping_file),
            "date": now_utc(),
            "rows": len(foreign.rows),
            "skipped": foreign.skipped,
            "refused": len(foreign.refused),
        },
    }
