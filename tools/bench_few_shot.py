"""Few-shot prediction for a chip that nobody knows: each device of a table held out in turn.

The table has a column that describes the architecture (``arch_str`` of NAS-Bench-201, or
``op_idx_list``, operator numbers a layer) and one column of milliseconds a device. The pool of a
device is the table without all devices of its chip family (all batch sizes included). From the
pool alone come the prior, the choice of the networks and the interval's calibration; of the device
itself only the chosen networks' times are used. Beside it: a ridge on the same networks, a ridge
on a D-optimal choice without a pool, and ten random choices with either.

    python tools/bench_few_shot.py nasbench201_devices_ms.csv.gz --out few_shot.json --ceiling
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from factory.core.errors import InputError
from factory.core.files import write_json
from factory.latency.design import d_optimal
from factory.latency.few_shot import Interval
from factory.latency.known_chips import KnownChips
from factory.latency.pool import relative_fit
from factory.spaces.nas_bench_201 import OPS, Cell201, one_hot
from factory.spaces.nas_bench_201_counts import (
    executed_counts,
    reachable_cell,
    reachable_counts,
    written_counts,
)

# Chips of one micro-architecture or maker are one family; a name without entry is its own.
FAMILIES = {
    r"1080ti|titanxp?": "nvidia-pascal",
    r"2080ti|titan_rtx": "nvidia-turing",
    r"gold_.*|silver_.*": "intel-xeon",
    r"samsung_.*": "samsung-exynos",
    r"essential_ph|pixel.*": "qualcomm-snapdragon",
}
RIDGE = 1.0
RANDOM_DRAWS = 10


def family(device: str, table: dict[str, str] = FAMILIES) -> str:
    """The chip family of a device name; a trailing number is a batch size."""
    base = re.sub(r"_\d+$", "", device) if not re.match(r"(gold|silver)_", device) else device
    return next((name for pattern, name in table.items() if re.fullmatch(pattern, base)), base)


def details_201(cells: Sequence[Cell201]) -> np.ndarray:
    """Finer features of cells: operator of each edge, what is executed, all pairs of operators."""
    flat = one_hot(cells).reshape(len(cells), -1)
    i, j = np.triu_indices(flat.shape[1], 1)
    pairs = (flat[:, i] * flat[:, j])[:, i // len(OPS) != j // len(OPS)]
    return np.hstack([flat, executed_counts(cells), pairs])


def read_views(
    table: pd.DataFrame,
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray] | None]:
    """(views of the networks, features of the plain ridge, finer features of each view)."""
    if "arch_str" in table:
        cells = [Cell201.parse(text) for text in table["arch_str"]]
        written = written_counts(cells)
        flat = one_hot(cells).reshape(len(cells), -1)
        details = [details_201(cells), details_201([reachable_cell(cell) for cell in cells])]
        return [written, reachable_counts(cells)], np.hstack([flat, written]), details
    rows = np.array([text.split() for text in table["op_idx_list"]], dtype=np.int64)
    width = int(rows.max()) + 1
    flat = np.eye(width)[rows].reshape(len(rows), -1)
    return [flat], np.hstack([flat, np.eye(width)[rows].sum(1)]), None


def ridge(features: np.ndarray, chosen: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Plain ridge regression on the chosen networks, predictions of all."""
    x, mean = features[chosen], features[chosen].mean(0)
    gram = (x - mean).T @ (x - mean) + RIDGE * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (x - mean).T @ (ms[chosen] - ms[chosen].mean()))
    return np.asarray((features - mean) @ weights + ms[chosen].mean())


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation with mean ranks for ties."""
    ranks = [pd.Series(x).rank().to_numpy() for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1]) if min(r.std() for r in ranks) > 0 else 0.0


def scores(found: Interval, ms: np.ndarray) -> dict[str, float]:
    """Rank correlation, errors and the interval's coverage."""
    share = np.abs(found.ms / ms - 1)
    return {
        "spearman": spearman(found.ms, ms),
        "median_error_percent": 100 * float(np.median(share)),
        "within_10_percent": 100 * float(np.mean(share <= 0.1)),
        "interval_covers_percent": 100
        * float(np.mean((ms >= found.low_ms) & (ms <= found.high_ms))),
        "interval_median_half_width_percent": 100
        * float(np.median((found.high_ms - found.low_ms) / 2 / found.ms)),
    }


def ceiling(
    views: Sequence[np.ndarray],
    features: np.ndarray,
    details: Sequence[np.ndarray] | None,
    ms: np.ndarray,
) -> dict[str, float]:
    """What the same descriptions reach with four fifths of the device's own measurements.

    Rank correlations of 5-fold predictions: "additive", the best view's weights; "detailed", the
    finer features beside all views. A predictor of ten measurements is not expected to pass them.
    """
    fold = np.random.default_rng(0).permutation(len(ms)) % 5

    def unseen(columns: np.ndarray) -> float:
        found = np.zeros(len(ms))
        for k in range(5):
            train = fold != k
            weights, _ = relative_fit(columns[train], ms[train], ridge=1e-9)
            found[~train] = columns[~train] @ weights
        return spearman(found, ms)

    wide = np.hstack([*views, features if details is None else details[0]])
    return {
        "additive": max(unseen(view) for view in views),
        "detailed": unseen(np.hstack([wide, np.ones((len(ms), 1))])),
    }


class Pool:
    """What the table says without one family: known chips, networks per seed, calibration."""

    def __init__(
        self,
        plain: KnownChips,
        known: KnownChips,
        kept: np.ndarray,
        families: list[str],
        count: int,
        seeds: int,
    ) -> None:
        self.plain, self.known = plain.only(kept), known.only(kept)
        self.designs = [self.known.choose(count, seed=seed) for seed in range(seeds)]
        self.stretch = self.known.calibrate(families, self.designs[0])


def one_device(features: np.ndarray, ms: np.ndarray, pool: Pool, count: int) -> dict[str, Any]:
    """All methods on one held-out device; each is scored on the networks it has not measured."""

    def rest(chosen: np.ndarray) -> np.ndarray:
        return np.setdiff1d(np.arange(len(ms)), chosen)

    def transfer(chosen: np.ndarray) -> Interval:
        found = pool.known.fit(chosen, ms[chosen], pool.stretch)
        others = rest(chosen)
        details = None if pool.known.details is None else pool.known.details[:, others]
        return found.predict(pool.known.views[:, others], details)

    def sums_only(chosen: np.ndarray) -> np.ndarray:
        found = pool.plain.fit(chosen, ms[chosen])
        return found.predict(pool.plain.views[:, rest(chosen)]).ms

    def mean(method: Callable[[np.ndarray], np.ndarray], designs: list[np.ndarray]) -> float:
        return float(np.mean([spearman(method(c), ms[rest(c)]) for c in designs]))

    def plain_ridge(chosen: np.ndarray) -> np.ndarray:
        return ridge(features, chosen, ms)[rest(chosen)]

    draws = [
        np.random.default_rng(seed).choice(len(ms), count, replace=False)
        for seed in range(RANDOM_DRAWS)
    ]
    results = [scores(transfer(chosen), ms[rest(chosen)]) for chosen in pool.designs]
    ranks = [result["spearman"] for result in results]
    return {
        **{name: float(np.mean([r[name] for r in results])) for name in results[0]},
        "spearman_of_seeds": ranks,
        "spearman_lowest": min(ranks),
        "sums_only": mean(sums_only, pool.designs),
        "ridge_same_networks": mean(plain_ridge, pool.designs),
        "ridge_d_optimal": mean(plain_ridge, [d_optimal(features, count)]),
        "transfer_random": mean(lambda chosen: transfer(chosen).ms, draws),
        "ridge_random": mean(plain_ridge, draws),
    }


def run(
    table: pd.DataFrame, count: int, families: dict[str, str], with_ceiling: bool, seeds: int
) -> dict[str, dict[str, Any]]:
    """Every device of the table held out in turn."""
    views, features, details = read_views(table)
    devices = [c for c in table.columns if c not in ("arch_index", "arch_str", "op_idx_list")]
    ms = table[devices].to_numpy(np.float64)
    of = [family(device, families) for device in devices]
    if len(set(of)) < 2:
        raise InputError(
            f"all {len(devices)} devices of the table are of one chip family",
            why="a held-out device needs known chips of other families",
        )
    plain = KnownChips(views, ms)
    known = KnownChips(views, ms, details) if details is not None else plain
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(of):
        outside = np.array([other != name for other in of])
        pool = Pool(plain, known, outside, [k for k in of if k != name], count, seeds)
        for d in (k for k in range(len(devices)) if of[k] == name):
            row = {"family": name, **one_device(features, ms[:, d], pool, count)}
            row["chosen"] = table["arch_index"].to_numpy()[pool.designs[0]].tolist()
            if with_ceiling:
                row["ceiling"] = ceiling(views, features, details, ms[:, d])
            rows[devices[d]] = row
            print(f"{devices[d]}: {row['spearman']:.4f}", file=sys.stderr, flush=True)
    return {device: rows[device] for device in devices}


COLUMNS = (
    ("spearman", 4),
    ("spearman_lowest", 4),
    ("sums_only", 4),
    ("within_10_percent", 1),
    ("interval_covers_percent", 1),
    ("interval_median_half_width_percent", 1),
    ("ridge_same_networks", 3),
    ("ridge_d_optimal", 3),
    ("transfer_random", 3),
    ("ridge_random", 3),
)


def print_table(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """A Markdown table; returns the means."""
    with_ceiling = "ceiling" in next(iter(rows.values()))
    names = [name.replace("_", " ") for name, _ in COLUMNS]
    names += ["ceiling additive", "ceiling detailed"] if with_ceiling else []
    print("| device | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    means: dict[str, float] = {}
    for device, row in [*rows.items(), ("mean", means)]:
        if device == "mean":
            for name, _ in COLUMNS:
                means[name] = float(np.mean([r[name] for r in rows.values()]))
            if with_ceiling:
                for name in ("additive", "detailed"):
                    means[f"ceiling_{name}"] = float(
                        np.mean([r["ceiling"][name] for r in rows.values()])
                    )
        cells = [f"{row[name]:.{digits}f}" for name, digits in COLUMNS]
        if with_ceiling:
            for name in ("additive", "detailed"):
                value = row["ceiling"][name] if "ceiling" in row else row[f"ceiling_{name}"]
                cells.append(f"{value:.4f}")
        print(f"| {device} | " + " | ".join(cells) + " |")
    return means


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="+", type=Path, help="CSV files of the layout above")
    parser.add_argument("--count", type=int, default=10, help="networks measured on the new chip")
    parser.add_argument("--seeds", type=int, default=3, help="designs, averaged")
    parser.add_argument("--families", type=Path, help="JSON: name pattern -> chip family")
    parser.add_argument("--ceiling", action="store_true", help="also what all measurements give")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    families = json.loads(args.families.read_text()) if args.families else FAMILIES
    result: dict[str, Any] = {"schema_version": 1, "count": args.count, "tables": {}}
    for path in args.tables:
        print(f"\n{path.name}, {args.count} networks\n")
        rows = run(pd.read_csv(path), args.count, families, args.ceiling, args.seeds)
        result["tables"][path.name] = {"devices": rows, "mean": print_table(rows)}
        if args.out:
            write_json(args.out, result)


if __name__ == "__main__":
    main()
