"""A row of the latency table: its columns, its text and the checks on both.

The format is told in docs/formats/latency-table.md.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

KINDS = ("kernel", "network", "reference", "in_place", "fusion")
STATUSES = ("ok", "failed")
DISTURBED_MARKS = ("disturbed", "drift")  # reasons of disturbed rows begin so; the older last
MOST_MS = 1e12  # of a time, and MB of a size: thirty years
MOST_RUNS = 2**53
RULES = "rules"  # key of the fusion row that says what the tests came to


@dataclass(frozen=True)
class Row:
    """One measurement, also a failed one (its numbers are 0 then and its cells are empty).

    Attributes:
        kind: "kernel", "network", "reference" (a model timed beside every block, or a network that
            a profile measured again at its end), "in_place" (a kernel within a network) or
            "fusion" (a model of a fusion test).
        key: the kernel's text, "net:<sha12>", "reference", "reference:memory",
            "reference:kernels", "<kernel>@<network>", "<pair>:<model>", or "rules" of the fusion
            row that says what the tests came to.
        kernels: what a network is made of, "2*Conv(..);1*Add(..)"; the pairs of "rules"; else "".
        median_ms: with p10, p90, min and mean, over ``runs`` runs.
        reorder_share: share of the time in layout reorders that a graph of one kernel adds.
        status: "ok" or "failed".
        reason: why it failed, or what to know about a good row.
        block: number of the interleaved block that it was measured in.
        reference_ms: median of the reference model in the same block; 0 when unknown.
        date: ISO 8601, UTC.
        session_ms: of a network, time to make its session; 0 when unknown, like the next three.
        first_run_ms: the first run of that session.
        peak_memory_mb: most memory that session and first runs took beyond what the process had.
        model_mb: size of the ONNX file; 1 MB is a million bytes.
        mean_ms: over the runs of median_ms; 0 when unknown.
    """

    kind: str
    key: str
    kernels: str = ""
    median_ms: float = 0.0
    p10_ms: float = 0.0
    p90_ms: float = 0.0
    min_ms: float = 0.0
    runs: int = 0
    reorder_share: float = 0.0
    status: str = "ok"
    reason: str = ""
    block: int = 0
    reference_ms: float = 0.0
    date: str = ""
    session_ms: float = 0.0
    first_run_ms: float = 0.0
    peak_memory_mb: float = 0.0
    model_mb: float = 0.0
    mean_ms: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there are numbers."""
        return self.status == "ok"

    @property
    def disturbed(self) -> bool:
        """Whether the machine stayed disturbed while this was measured."""
        return self.ok and self.reason.startswith(DISTURBED_MARKS)

    def fault(self) -> str:
        """What is wrong with this row; empty when nothing is."""
        if self.kind not in KINDS:
            return f"kind is {self.kind!r}, not one of {', '.join(KINDS)}"
        if self.status not in STATUSES:
            return f"status is {self.status!r}, not one of {', '.join(STATUSES)}"
        if not self.key:
            return "the key is empty"
        for name in (*NUMBERS, *OPTIONAL):
            value = getattr(self, name)
            if isinstance(value, int) and value > MOST_RUNS:
                return f"{name} is more than any count"
            if not math.isfinite(value):
                return f"{name} is {value}"
            if value < 0:
                return f"{name} is negative ({value:g})"
            if value > MOST_MS and name not in INTEGERS:
                return f"{name} is {value:g}, more than any measurement"
        # 0: folded into a neighbour; the row of a table's fusion rules has no time
        timed = self.median_ms > 0 or self.kind == "in_place" or self.key == RULES
        if self.ok and not (timed and self.runs > 0):
            return "the row says ok but has no time"
        return ""

    def text(self, columns: Sequence[str] = ()) -> str:
        """The row as one line of CSV, with its line end; ``columns``: all by default."""
        cells = []
        for name in columns or COLUMNS:
            value = getattr(self, name)
            if name in NUMBERS or name in OPTIONAL:
                empty = (not self.ok and name in MEASURED) or (name in OPTIONAL and not value)
                cells.append("" if empty else f"{value:.7g}")
            else:
                cells.append(" ".join(str(value).replace("\0", " ").split()))
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(cells)
        return buffer.getvalue()

    @classmethod
    def parse(cls, line: str, columns: Sequence[str] = ()) -> Row:
        """The row that :meth:`text` wrote; ValueError says what is wrong with the line."""
        columns = columns or COLUMNS
        try:
            rows = list(csv.reader([line], strict=True))
        except csv.Error as error:
            raise ValueError(str(error)) from None
        cells = rows[0] if rows else []
        if len(cells) != len(columns):
            raise ValueError(f"{len(cells)} cells instead of {len(columns)}")
        values: dict[str, str | int | float] = {}
        for name, cell in zip(columns, cells, strict=True):
            values[name] = _number(name, cell) if name in NUMBERS or name in OPTIONAL else cell
        row = cls(**values)  # type: ignore[arg-type]
        if row.ok and any(
            cell == "" for n, cell in zip(columns, cells, strict=True) if n in NUMBERS
        ):
            raise ValueError("a number is missing")
        if fault := row.fault():
            raise ValueError(fault)
        return row


STARTED = ("session_ms", "first_run_ms", "peak_memory_mb", "model_mb")
OPTIONAL = (*STARTED, "mean_ms")  # empty when unknown
COLUMNS = tuple(field.name for field in fields(Row))
COLUMNS_OF_VERSION = {2: COLUMNS[: -len(OPTIONAL)], 3: COLUMNS[:-1], 4: COLUMNS}
INTEGERS = ("runs", "block")
MEASURED = ("median_ms", "p10_ms", "p90_ms", "min_ms", "runs", "reorder_share")
NUMBERS = (*MEASURED, "block", "reference_ms")
MOST = 2**31  # runs or blocks


def _number(name: str, cell: str) -> int | float:
    if cell == "":
        return 0
    try:
        number = int(cell) if name in INTEGERS else float(cell)
    except ValueError:
        raise ValueError(f"{name} is {cell[:40]!r}, not a number") from None
    if name in INTEGERS and number > MOST:
        raise ValueError(f"{name} is more than {MOST}")
    return number
