"""What `factory table check` finds: errors planted in a measured table, found and falsely accused.

Planted are, one kind after the other: the time of a kernel within a traced network multiplied by a
factor, the rest of that network rescaled so that it still sums to its total, as a disturbed trace
would have it; and a whole network with all its kernels multiplied. Rows of 20 us and more only,
each in a network of its own. Without anything planted every accusation is counted as false.

    python tools/bench_table_check.py TABLE.csv [TABLE.csv ...] --out check.json
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from factory.core.files import write_json
from factory.latency.neighbours import judge
from factory.profiling.rows import Row
from factory.profiling.table import LatencyTable

LEAST_MS = 0.02
KERNEL_FACTORS = (0.5, 1.5, 2.0, 3.0, 5.0)
NETWORK_FACTORS = (0.7, 1.3, 1.5, 2.0)
MOST_AT_ONCE = 10  # networks with something planted, at most a tenth of all


def network_of(row: Row) -> str:
    """Key of the network that a row belongs to."""
    return row.key if row.kind == "network" else row.key.rpartition("@")[2]


def count_of(row: Row) -> float:
    """How often a kernel in place occurs in its network."""
    return float(row.kernels.partition("*")[0])


def kernel_error(members: list[Row], chosen: Row, factor: float) -> dict[int, Row]:
    """One kernel of a network wrong, the others rescaled to the same total."""
    others = [row for row in members if row.kind == "in_place" and row is not chosen]
    extra = (factor - 1.0) * chosen.median_ms * count_of(chosen)
    total = sum(row.median_ms * count_of(row) for row in others)
    scale = max(1.0 - extra / total, 0.05) if total else 1.0
    changed = {id(row): replace(row, median_ms=row.median_ms * scale) for row in others}
    return {**changed, id(chosen): replace(chosen, median_ms=chosen.median_ms * factor)}


def planted(rows: list[Row], factor: float, whole: bool, seed: int) -> dict[str, Any]:
    """Plant, judge, count."""
    rng = random.Random(seed)
    by_network: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind in ("network", "in_place") and row.ok:
            by_network.setdefault(network_of(row), []).append(row)
    names = sorted(by_network)
    picks = rng.sample(names, max(1, min(MOST_AT_ONCE, len(names) // 10)))
    changed: dict[int, Row] = {}
    targets: list[int] = []
    for name in picks:
        members = by_network[name]
        if whole:
            targets += [id(row) for row in members if row.kind == "network"]
            changed |= {id(r): replace(r, median_ms=r.median_ms * factor) for r in members}
            continue
        long = [row for row in members if row.kind == "in_place" and row.median_ms >= LEAST_MS]
        if long:
            chosen = rng.choice(long)
            targets.append(id(chosen))
            changed |= kernel_error(members, chosen, factor)
    table = LatencyTable(Path("planted.csv"), HEADER, [changed.get(id(row), row) for row in rows])
    doubted = {id(doubt.row) for doubt in judge(table).doubts}
    found = sum(id(changed[target]) in doubted for target in targets)
    touched = {network_of(row) for row in rows if id(row) in changed}
    elsewhere = [
        row for row in table.all_rows()
        if id(row) in doubted and network_of(row) not in touched
    ]  # fmt: skip
    return {"planted": len(targets), "found": found, "false": len(elsewhere)}


HEADER: dict[str, Any] = {}


def main() -> None:
    """Every table, every kind of error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {}
    for path in args.tables:
        known = LatencyTable.read(path)
        HEADER.clear()
        HEADER.update(known.header)
        rows = known.all_rows()
        clean = judge(known)
        entry: dict[str, Any] = {
            "rows": len(rows),
            "networks": len(known.rows("network")),
            "judged": clean.judged,
            "false": len(clean.doubts),
        }
        print(f"{path.name}: {entry}")
        for whole, factors in ((False, KERNEL_FACTORS), (True, NETWORK_FACTORS)):
            for factor in factors:
                parts = [planted(rows, factor, whole, seed) for seed in range(args.repeats)]
                total = {key: sum(part[key] for part in parts) for key in parts[0]}
                name = f"{'network' if whole else 'kernel'} x {factor:g}"
                entry[name] = total
                print(f"  {name}: {total}")
        results[path.name] = entry
    if args.out:
        write_json(args.out, {"schema_version": 1, "tables": results})


if __name__ == "__main__":
    main()
