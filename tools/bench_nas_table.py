"""Discrete strategies on a table of all NAS-Bench-201 cells: share of the true hypervolume.

python tools/bench_nas_table.py TABLE [--runtime onnx] [--queries 300] [--seeds 20]
    [--strategies random evolution nsga2 surrogate] [--min-accuracy 50] [--out FOLDER]

A query is a unique evaluated architecture; proposing it again costs nothing. The hypervolume is
that of log latency and accuracy; its reference point is the table's largest latency and
--min-accuracy. Every finished (strategy, seed) is a file in --out, so that a stopped run goes on;
results.json there has the whole table with versions.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.files import sha256_file, write_json
from factory.core.provenance import package_version, provenance
from factory.core.reading import read_json
from factory.search.strategies import STRATEGIES
from factory.search.strategies.problem import Problem
from factory.search.strategies.study import run_search
from factory.search.strategies.tabular import Table201

SCHEMA_VERSION = 1


def run_one(
    table: Table201, name: str, seed: int, queries: int, min_accuracy: float
) -> dict[str, Any]:
    """One search: the indices in the order of their queries, and the seconds."""
    problem = Problem(table.space(), table, min_accuracy=min_accuracy)
    started = time.perf_counter()
    outcome = run_search(problem, STRATEGIES.get(name)(), queries=queries, seed=seed)
    return {
        "queried": [seen.architecture.index for seen in outcome.history.queries],
        "proposals": len(outcome.history),
        "seconds": time.perf_counter() - started,
    }


def summary(shares: list[list[float]], marks: list[int], goal: float) -> dict[str, Any]:
    """Medians and quartiles of the share at each number of queries; queries to the goal."""
    values = np.array(shares)
    needed = [next((m + 1 for m, v in enumerate(row) if v >= goal), None) for row in shares]
    middle = float(np.median([np.inf if n is None else n for n in needed]))
    return {
        "median": {m: float(np.median(values[:, m - 1])) for m in marks},
        "quartiles": np.percentile(values[:, -1], [25, 75]).tolist(),
        "range": [float(values[:, -1].min()), float(values[:, -1].max())],
        "seeds_at_goal": sum(n is not None for n in needed),
        "median_queries_to_goal": middle if np.isfinite(middle) else None,
    }


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("table", type=Path)
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES.names())
    parser.add_argument("--min-accuracy", type=float, default=50.0, help="percent")
    parser.add_argument("--goal", type=float, default=0.99)
    parser.add_argument("--out", type=Path, default=Path("runs/bench_nas_table"))
    args = parser.parse_args()

    table = Table201.load(args.table, args.runtime)
    floor = args.min_accuracy / 100.0
    whole = table.hypervolume(np.arange(len(table.latency_ms)), floor)
    digest = sha256_file(args.table)[:12]
    marks = sorted({m for m in (50, 100, 150, 200, 250) if m < args.queries} | {args.queries})
    results: dict[str, Any] = {}
    print(f"{table.name}: true hypervolume {whole:.4f}, {args.seeds} seeds", flush=True)
    for name in args.strategies:
        shares, seconds = [], []
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            key = f"{name}-{args.runtime}-{args.queries}-{args.min_accuracy:g}-{seed}"
            path = args.out / f"{digest}-{key}.json"
            if path.exists():
                found = read_json(path)
            else:
                found = run_one(table, name, seed, args.queries, floor)
                write_json(path, found)
            queried = found["queried"]
            assert len(set(queried)) == len(queried) == args.queries
            shares.append(
                [table.hypervolume(np.array(queried[: n + 1]), floor) / whole
                 for n in range(args.queries)]
            )  # fmt: skip
            seconds.append(found["seconds"])
        results[name] = summary(shares, marks, args.goal)
        results[name]["seconds_per_search"] = float(np.median(seconds))
        print_row(name, results[name], args.seeds)
    write_json(
        args.out / "results.json",
        {
            "schema_version": SCHEMA_VERSION,
            "table": table.name,
            "table_sha256": sha256_file(args.table),
            "queries": args.queries,
            "seeds": args.seeds,
            "first_seed": args.first_seed,
            "min_accuracy_percent": args.min_accuracy,
            "goal": args.goal,
            "true_hypervolume": whole,
            "strategies": results,
            "optuna": package_version("optuna"),
            "provenance": provenance(),
        },
    )


def print_row(name: str, row: dict[str, Any], seeds: int) -> None:
    """One line of the table."""
    medians = "  ".join(f"{m}: {value:.4f}" for m, value in row["median"].items())
    low, high = row["quartiles"]
    to_goal = row["median_queries_to_goal"]
    print(
        f"{name:10s} {medians}  quartiles {low:.4f}-{high:.4f}  "
        f"goal by {row['seeds_at_goal']}/{seeds} seeds, median queries "
        f"{'-' if to_goal is None else f'{to_goal:.0f}'}, {row['seconds_per_search']:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
