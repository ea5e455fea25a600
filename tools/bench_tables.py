"""Predictors of whole networks on a table of one chip under two runtimes, NAS-Bench-201.

The table is a Parquet file with a row an architecture and runtime: arch_idx, rep_arch_idx (the
architecture whose network was measured for the whole isomorphism class), framework,
lat_ms_median. Features are those of the representative; training and test networks are different
classes; one row a class is scored. Random training sets are drawn five times.

    python tools/bench_tables.py nasbench201_pi5_cifar100.parquet --out tables.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_few_shot import ridge, scores

from factory.core.files import write_json
from factory.latency.design import d_optimal
from factory.latency.few_shot import Interval, fit_few_shot
from factory.latency.pool import fit_pool
from factory.latency.small_sample import fit_small_sample
from factory.spaces.nas_bench_201 import Cell201, one_hot
from factory.spaces.nas_bench_201_counts import executed_counts, written_counts

DRAWS = 5
KERNELS = 6  # first columns of EXECUTED
Method = Callable[[np.ndarray], Interval]


class Table:
    """One row an isomorphism class."""

    def __init__(self, path: Path, runtime: str, known: str) -> None:
        rows = pd.read_parquet(path)
        classes = np.sort(rows["rep_arch_idx"].unique())
        cells = [Cell201.from_index(int(index)) for index in classes]

        def ms(framework: str) -> np.ndarray:
            found = rows[(rows["framework"] == framework) & (rows["status"] == "ok")]
            by_class = found.groupby("rep_arch_idx")["lat_ms_median"].first()
            return by_class.loc[classes].to_numpy(np.float64)

        self.ms, self.known_ms = ms(runtime), ms(known)
        self.executed = executed_counts(cells)
        # with ten networks: the six kinds of kernel, without the finer columns
        self.kernels = np.hstack([self.executed[:, :KERNELS], np.ones((len(cells), 1))])
        self.onehot = np.hstack([one_hot(cells).reshape(len(cells), -1), written_counts(cells)])

    def ours(self, train: np.ndarray) -> Interval:
        """The small-sample regressor on what was executed."""
        return fit_small_sample(self.executed[train], self.ms[train]).predict(self.executed)

    def few(self, train: np.ndarray) -> Interval:
        """The same on the kinds of kernel, for about ten networks."""
        return fit_small_sample(self.kernels[train], self.ms[train]).predict(self.kernels)

    def ridge(self, train: np.ndarray) -> Interval:
        """The baseline."""
        found = ridge(self.onehot, train, self.ms)
        return Interval(found, found, found)

    def transfer(self, train: np.ndarray) -> Interval:
        """The other runtime's whole table as the pool of one, plus the training networks."""
        prior = fit_pool([self.kernels], self.known_ms[:, None])
        return fit_few_shot(prior, [self.kernels], train, self.ms[train]).predict([self.kernels])

    def known(self, train: np.ndarray) -> Interval:
        """The other runtime's times, scaled: what a table of the chip says without the runtime."""
        found = self.known_ms * np.median(self.ms[train] / self.known_ms[train])
        return Interval(found, found, found)

    def module(self, train: np.ndarray) -> Interval:
        """The network-level module of LA-DARTS on the representative's one-hot code."""
        import torch

        from factory.latency.network_module import fit_network_module

        codes = self.onehot[:, :30].reshape(-1, 6, 5)
        found = fit_network_module({"cell": codes[train]}, self.ms[train])
        ms = found.network_ms(torch.from_numpy(self.onehot[:, :30])).numpy()
        return Interval(ms, ms, ms)

    def score(self, method: Method, trains: list[np.ndarray]) -> dict[str, float]:
        """Means over training sets, on the classes that are not among them."""
        results = []
        for train in trains:
            rest = np.setdiff1d(np.arange(len(self.ms)), train)
            found = method(train)
            results.append(scores(Interval(*(x[rest] for x in found)), self.ms[rest]))
        return {name: float(np.mean([r[name] for r in results])) for name in results[0]}


def run(table: Table, sizes: Sequence[int], with_module: bool) -> dict[str, dict[str, Any]]:
    """All rows of the result."""
    total = len(table.ms)

    def drawn(count: int, draws: int) -> list[np.ndarray]:
        return [
            np.random.default_rng(seed).choice(total, count, replace=False) for seed in range(draws)
        ]

    scale = np.where(table.kernels.std(0) > 0, table.kernels.std(0), 1.0)
    center = np.append(table.kernels[:, :-1].mean(0), 0.0)  # the last column is a constant
    designed = [d_optimal((table.kernels - center) / scale, 10)]
    plain = [d_optimal(table.onehot, 10)]
    rows: dict[str, dict[str, Any]] = {}
    for count in sizes:
        rows[f"{count} random, small-sample regressor"] = table.score(
            table.ours, drawn(count, DRAWS)
        )
        rows[f"{count} random, ridge"] = table.score(table.ridge, drawn(count, DRAWS))
    rows["10 by design, small-sample regressor"] = table.score(table.few, designed)
    rows["10 by design, other runtime known"] = table.score(table.transfer, designed)
    rows["10 by design, other runtime scaled"] = table.score(table.known, designed)
    rows["10 by design, ridge"] = table.score(table.ridge, plain)
    for count in (10, 5):
        trains = drawn(count, 4 * DRAWS)
        rows[f"{count} random, small-sample regressor"] = table.score(table.few, trains)
        rows[f"{count} random, other runtime known"] = table.score(table.transfer, trains)
        rows[f"{count} random, ridge"] = table.score(table.ridge, trains)
    for count in (900, 5000) if with_module else ():
        rows[f"{count} random, network module"] = table.score(table.module, drawn(count, DRAWS))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--runtime", default="onnx", help="the runtime to predict")
    parser.add_argument("--known", default="litert", help="the runtime whose table is known")
    parser.add_argument("--sizes", type=int, nargs="*", default=[900, 50], help="random sets")
    parser.add_argument("--module", action="store_true", help="also the network-level module")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    rows = run(Table(args.table, args.runtime, args.known), args.sizes, args.module)
    names = list(next(iter(rows.values())))
    print("| training networks, method | " + " | ".join(n.replace("_", " ") for n in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for label, row in rows.items():
        digits = {"spearman": 4}
        print(f"| {label} | " + " | ".join(f"{row[n]:.{digits.get(n, 1)}f}" for n in names) + " |")
    if args.out:
        result = {
            "schema_version": 1,
            "table": args.table.name,
            "runtime": args.runtime,
            "known": args.known,
            "rows": rows,
        }
        write_json(args.out, result)


if __name__ == "__main__":
    main()
