"""What a latency table holds, as plain values: rows, kernels by family, failures, blocks, clock."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from factory.graph.kernel import Kernel
from factory.latency.features import family
from factory.profiling.drift import clock_drift, drifts_of
from factory.profiling.fusion_rules import fusion_rules, fusion_tests
from factory.profiling.reference import reference_rows, usual_references_ms
from factory.profiling.rows import KINDS, STARTED, Row
from factory.profiling.table import LatencyTable

EXAMPLES = 3


def summarise_table(table: LatencyTable) -> dict[str, Any]:
    """Everything that `factory table show` tells, times in ms."""
    rows = table.rows()
    header, settled = table.header, fusion_rules(table)
    describe = dict(header.get("describe") or {})
    return {
        "device": table.device_id,
        "dtype": table.dtype,
        "table_schema_version": header["schema_version"],
        "fingerprint": table.fingerprint,
        "simulated": bool(describe.get("simulated")),
        "imported": header.get("imported"),
        "merged": header.get("merged", []),
        "describe": describe,
        "provenance": header.get("provenance"),
        "rows": {
            kind: {
                "ok": sum(row.ok for row in rows if row.kind == kind),
                "failed": sum(not row.ok for row in rows if row.kind == kind),
            }
            for kind in KINDS
        },
        "superseded": len(table.all_rows()) - len(rows) - len(table.quarantined),
        "quarantined": len(table.quarantined),
        "cut_tail": table.cut_tail,
        "families": _families(rows),
        "failures": _failures(rows),
        "times": _times(rows),
        "reference": _reference(table),
        "blocks": blocks(rows),
        "networks": _networks(table.rows("network")),
        "fusion": [
            {
                "pair": str(test.rule),
                "saved_ms": test.saved_ms,
                "cost_ms": test.cost_ms,
                "share": test.share,
                "folded": test.rule in settled,
            }
            for test in fusion_tests(table)
        ],
    }


def blocks(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Each block: when, how many rows, how fast the chip was, and whether it was marked."""
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.block].append(row)
    return [
        {
            "block": number,
            "date": min(row.date for row in members),
            "rows": sum(row.kind != "reference" for row in members),
            "reference_ms": max(row.reference_ms for row in members) or None,
            "marked": any(row.disturbed for row in members),
        }
        for number, members in sorted(found.items())
    ]


def _families(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Kernels by family; ``share``: of the time of all kernels in place."""
    times: dict[str, list[float]] = defaultdict(list)
    numbers: dict[str, dict[str, int]] = defaultdict(lambda: {"kernel": 0, "in_place": 0})
    kernels: dict[str, set[str]] = defaultdict(set)
    spent: dict[str, float] = defaultdict(float)
    for row in rows:
        if row.kind in ("kernel", "in_place") and row.ok:
            text = row.key.rpartition("@")[0] or row.key
            name = family(Kernel.parse(text))
            times[name].append(row.median_ms)
            numbers[name][row.kind] += 1
            kernels[name].add(text)
            if row.kind == "in_place":
                spent[name] += row.median_ms * float(row.kernels.partition("*")[0] or 1)
    total = sum(spent.values())
    return [
        {
            "family": name,
            "kernels": len(kernels[name]),
            "alone": numbers[name]["kernel"],
            "in_place": numbers[name]["in_place"],
            "least_ms": min(values),
            "median_ms": statistics.median(values),
            "most_ms": max(values),
            "share": spent[name] / total if total else None,
        }
        for name, values in sorted(times.items(), key=lambda item: (-spent[item[0]], item[0]))
    ]


def _failures(rows: Iterable[Row]) -> list[dict[str, Any]]:
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if not row.ok:
            found[row.reason or "no reason given"].append(row.key)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"reason": reason, "count": len(keys), "examples": keys[:EXAMPLES]}
        for reason, keys in ordered
    ]


def _times(rows: Iterable[Row]) -> dict[str, Any]:
    dates = sorted(row.date for row in rows if row.date)
    return {"first": dates[0] if dates else None, "last": dates[-1] if dates else None}


def _reference(table: LatencyTable) -> dict[str, Any] | None:
    times = [row.median_ms for row in reference_rows(table)]
    if not times:
        return None
    drift = clock_drift(times)
    return {
        "times": len(times),
        "usual_ms": statistics.median(times),
        "least_ms": min(times),
        "most_ms": max(times),
        "all_usual_ms": usual_references_ms(table),
        "drift_percent": None if drift is None else drift.percent,
        "drift": "; ".join(found.sentence() for found in drifts_of(table)),
    }


def _networks(rows: Sequence[Row]) -> dict[str, Any]:
    measured = [row for row in rows if row.ok]
    answer: dict[str, Any] = {"measured": len(measured)}
    for name in ("median_ms", *STARTED):
        values = [value for row in measured if (value := getattr(row, name)) > 0]
        answer[name] = (
            {"least": min(values), "median": statistics.median(values), "most": max(values)}
            if values
            else None
        )
    return answer
