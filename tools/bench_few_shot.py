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
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from table_noise import drift, drift_percent, half_width_percent, unseen

from factory.core.errors import InputError
from factory.core.files import write_json
from factory.core.reading import read_json
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
    """Finer features of cells: operator of each edge, what is executed, all pairs of operators.

    Pairs with a ``none`` are left out: the others and the edges' operators imply them.
    """
    flat = one_hot(cells).reshape(len(cells), -1)
    i, j = np.triu_indices(flat.shape[1], 1)
    none = OPS.index("none")
    kept = (i // len(OPS) != j // len(OPS)) & (i % len(OPS) != none) & (j % len(OPS) != none)
    pairs = flat[:, i[kept]] * flat[:, j[kept]]
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
) -> tuple[dict[str, float], np.ndarray]:
    """(what four fifths of the device's own measurements reach, drift of its table).

    Rank correlations of 5-fold predictions: "additive", the best view's weights; "detailed", the
    finer features beside all views; "steady", the latter where the table's drift is taken off. A
    predictor of ten measurements is not expected to pass them.
    """
    view = int(np.argmin([relative_fit(view, ms)[1] for view in views]))
    wide = np.hstack([*views, features if details is None else details[view]])
    detailed = unseen(np.hstack([wide, np.ones((len(ms), 1))]), ms)
    moved = drift(ms, detailed)
    return {
        "ceiling_additive": max(spearman(unseen(view, ms), ms) for view in views),
        "ceiling_detailed": spearman(detailed, ms),
        "ceiling_steady": spearman(detailed, ms / moved),
        "ceiling_half_width_percent": half_width_percent(detailed, ms),
        "drift_percent": drift_percent(moved),
    }, moved


@dataclass(frozen=True)
class Settings:
    """What a result depends on beside the table."""

    count: int
    seeds: int
    ceiling: bool
    ranks_only: bool


class Pool:
    """What the table says without one family: known chips, networks per seed, calibration."""

    def __init__(
        self,
        plain: KnownChips,
        known: KnownChips,
        kept: np.ndarray,
        families: list[str],
        settings: Settings,
    ) -> None:
        self.plain, self.known = plain.only(kept), known.only(kept)
        self.designs = [
            self.known.choose(settings.count, seed=seed) for seed in range(settings.seeds)
        ]
        self.draws = 0 if settings.ranks_only else RANDOM_DRAWS
        self.stretch = (
            1.0 if settings.ranks_only else self.known.calibrate(families, self.designs[0])
        )


def one_device(
    features: np.ndarray, ms: np.ndarray, pool: Pool, count: int, moved: np.ndarray | None = None
) -> dict[str, Any]:
    """All methods on one held-out device; each is scored on the networks it has not measured.

    ``moved``: drift of the device's table; the predictions are also ranked against times without
    it. What is measured on the device keeps it.
    """

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
        for seed in range(pool.draws)
    ]
    found = [transfer(chosen) for chosen in pool.designs]
    results = [
        scores(one, ms[rest(chosen)]) for one, chosen in zip(found, pool.designs, strict=True)
    ]
    if moved is not None:
        for result, one, chosen in zip(results, found, pool.designs, strict=True):
            others = rest(chosen)
            result["spearman_steady"] = spearman(one.ms, ms[others] / moved[others])
    ranks = [result["spearman"] for result in results]
    return {
        **{name: float(np.mean([r[name] for r in results])) for name in results[0]},
        "spearman_of_seeds": ranks,
        "spearman_lowest": min(ranks),
        "sums_only": mean(sums_only, pool.designs),
        "ridge_same_networks": mean(plain_ridge, pool.designs),
        "ridge_d_optimal": mean(plain_ridge, [d_optimal(features, count)]),
        **(
            {
                "transfer_random": mean(lambda chosen: transfer(chosen).ms, draws),
                "ridge_random": mean(plain_ridge, draws),
            }
            if draws
            else {}
        ),
    }


def run(
    table: pd.DataFrame,
    settings: Settings,
    families: dict[str, str],
    rows: dict[str, dict[str, Any]],
    deadline: float,
) -> Iterator[str]:
    """Every device of the table held out in turn; ``rows`` are added to, those there stay.

    Yields each device that is done; ends early after ``deadline`` (monotonic seconds).
    """
    views, features, details = read_views(table)
    devices = device_columns(table)
    ms = table[devices].to_numpy(np.float64)
    of = [family(device, families) for device in devices]
    if len(set(of)) < 2:
        raise InputError(
            f"all {len(devices)} devices of the table are of one chip family",
            why="a held-out device needs known chips of other families",
        )
    plain = KnownChips(views, ms)
    known = KnownChips(views, ms, details) if details is not None else plain
    for name in dict.fromkeys(of):
        todo = [d for d in range(len(devices)) if of[d] == name and devices[d] not in rows]
        if not todo:
            continue
        outside = np.array([other != name for other in of])
        pool = Pool(plain, known, outside, [k for k in of if k != name], settings)
        for d in todo:
            if time.monotonic() > deadline:
                return
            limits: dict[str, float] = {}
            moved: np.ndarray | None = None
            if settings.ceiling:
                limits, moved = ceiling(views, features, details, ms[:, d])
            found = one_device(features, ms[:, d], pool, settings.count, moved)
            chosen = table["arch_index"].to_numpy()[pool.designs[0]].tolist()
            rows[devices[d]] = {"family": name, **found, **limits, "chosen": chosen}
            yield devices[d]


def device_columns(table: pd.DataFrame) -> list[str]:
    """The columns of milliseconds."""
    return [c for c in table.columns if c not in ("arch_index", "arch_str", "op_idx_list")]


COLUMNS = (
    ("spearman", 4),
    ("spearman_lowest", 4),
    ("spearman_steady", 4),
    ("ceiling_additive", 4),
    ("ceiling_detailed", 4),
    ("ceiling_steady", 4),
    ("drift_percent", 1),
    ("sums_only", 4),
    ("ridge_same_networks", 3),
    ("ridge_d_optimal", 3),
    ("transfer_random", 3),
    ("ridge_random", 3),
    ("within_10_percent", 1),
    ("interval_covers_percent", 1),
    ("interval_median_half_width_percent", 1),
    ("ceiling_half_width_percent", 1),
)


def print_table(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """A Markdown table; returns the means and medians over the devices."""
    first = next(iter(rows.values()))
    columns = [(name, digits) for name, digits in COLUMNS if name in first]
    if "ridge_random" not in first:  # not calibrated
        columns = [(name, digits) for name, digits in columns if "interval" not in name]
    print("| device | " + " | ".join(name.replace("_", " ") for name, _ in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    values = {name: np.array([row[name] for row in rows.values()]) for name, _ in columns}
    both: dict[str, dict[str, float]] = {
        "mean": {name: float(np.mean(column)) for name, column in values.items()},
        "median": {name: float(np.median(column)) for name, column in values.items()},
    }
    for device, row in [*rows.items(), *both.items()]:
        cells = [f"{row[name]:.{digits}f}" for name, digits in columns]
        print(f"| {device} | " + " | ".join(cells) + " |")
    return both


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="+", type=Path, help="CSV files of the layout above")
    parser.add_argument("--count", type=int, default=10, help="networks measured on the new chip")
    parser.add_argument("--seeds", type=int, default=3, help="designs, averaged")
    parser.add_argument("--families", type=Path, help="JSON: name pattern -> chip family")
    parser.add_argument(
        "--ranks-only", action="store_true", help="no random choices, no calibration: minutes less"
    )
    parser.add_argument(
        "--ceiling",
        action="store_true",
        help="also what all measurements give; rows are in the order they were measured in",
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument(
        "--seconds", type=float, default=np.inf, help="stop after; with --out the next call goes on"
    )
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    families = json.loads(args.families.read_text()) if args.families else FAMILIES
    settings = Settings(args.count, args.seeds, args.ceiling, args.ranks_only)
    result: dict[str, Any] = {"schema_version": 2, "settings": asdict(settings), "tables": {}}
    if args.out and args.out.exists():
        before = read_json(args.out)
        if before.get("settings") == result["settings"]:
            result = before
    for path in args.tables:
        table = pd.read_csv(path)
        rows = result["tables"].setdefault(path.name, {}).setdefault("devices", {})
        for device in run(table, settings, families, rows, deadline):
            print(f"{device}: {rows[device]['spearman']:.4f}", file=sys.stderr, flush=True)
            if args.out:
                write_json(args.out, result)
        devices = device_columns(table)
        if len(rows) < len(devices):
            print(f"{path.name}: {len(rows)} of {len(devices)} devices; call again to go on")
            return
        print(f"\n{path.name}, {args.count} networks\n")
        result["tables"][path.name] = {
            "devices": rows,
            **print_table({device: rows[device] for device in devices}),
        }
        if args.out:
            write_json(args.out, result)


if __name__ == "__main__":
    main()
