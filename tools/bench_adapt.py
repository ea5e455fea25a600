"""`factory adapt` on real tables: networks of a device's own table, a few of them measured.

The known device's predictor is fitted to its whole table. Of the new device's table only a few
networks count as measured, chosen by design; all others are predicted and compared with what the
table says of them. Beside it the known device's times, scaled by the same measurements, and random
choices in place of the design. No device is needed.

    python tools/bench_adapt.py --known T1.csv --new T2.csv --out adapt.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.core.files import write_json
from factory.core.provenance import provenance
from factory.graph.kernel import Kernel
from factory.latency.chip_transfer import bases, choose_networks, transfer
from factory.latency.facts import read_facts
from factory.latency.predictor import LatencyPredictor
from factory.profiling.table import LatencyTable

DESIGNS = 3  # seeds of the choice by design
RANDOM_DRAWS = 20
LEAST_LEFT = 5  # networks to be predicted
ROWS = ("unchanged", "scaled", "adapted")


def errors(predicted_ms: np.ndarray, measured_ms: np.ndarray) -> dict[str, float]:
    """Relative errors in percent and the shares within 5 and 10 %."""
    percent = 100 * np.abs(predicted_ms / measured_ms - 1)
    return {
        "median_percent": float(np.median(percent)),
        "mean_percent": float(percent.mean()),
        "max_percent": float(percent.max()),
        "within_5_percent": 100 * float(np.mean(percent <= 5)),
        "within_10_percent": 100 * float(np.mean(percent <= 10)),
    }


class Task:
    """The networks of the new table as the known chip's predictor and the new chip see them."""

    def __init__(self, predictor: LatencyPredictor, table: LatencyTable) -> None:
        networks = read_facts(table).networks
        counts = [dict(network.counts) for network in networks]
        self.kernels: list[Kernel] = sorted({kernel for one in counts for kernel in one})
        self.matrix = np.array([[one.get(k, 0.0) for k in self.kernels] for one in counts])
        self.ms = np.array([network.median_ms for network in networks])
        self.device = table.device_id
        self.known_ms = predictor.predict_many(self.matrix, self.kernels)
        self.bases = bases([predictor], counts)

    def scores(self, chosen: np.ndarray) -> dict[str, dict[str, float]]:
        """All methods on the networks that are not among the ``chosen``."""
        rest = np.setdiff1d(np.arange(len(self.ms)), chosen)
        real = self.ms[rest]
        found = transfer(self.bases, chosen, self.ms[chosen], self.device, "")
        adapted_ms = found.predictor.predict_many(self.matrix[rest], self.kernels)
        reach = found.predictor.half_width
        scale = float(np.median(self.ms[chosen] / self.known_ms[chosen]))
        return {
            "unchanged": errors(self.known_ms[rest], real),
            "scaled": errors(scale * self.known_ms[rest], real),
            "adapted": {
                **errors(adapted_ms, real),
                "said_mean_percent": float(found.left_out_percent.mean()),
                "interval_covers_percent": 100
                * float(np.mean(np.abs(real / adapted_ms - 1) <= reach)),
                "interval_half_width_percent": 100 * reach,
            },
            "factors": found.factors,
        }


def means(scores: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean of every figure over some choices."""
    return {
        row: {name: float(np.mean([s[row][name] for s in scores])) for name in scores[0][row]}
        for row in scores[0]
    }


def run(known: Path, new: Path, counts: list[int]) -> dict[str, Any]:
    """Choices by design and by chance for each number of measured networks."""
    predictor = LatencyPredictor.fit(LatencyTable.read(known))
    task = Task(predictor, LatencyTable.read(new))
    total = len(task.ms)
    if total < max(counts) + LEAST_LEFT:
        raise InputError(
            f"{new.name} holds {total} networks",
            why=f"{max(counts)} are measured and {LEAST_LEFT} or more are to be predicted",
        )
    rows: dict[str, Any] = {}
    for count in counts:
        designs = [choose_networks(task.bases, count, seed=seed) for seed in range(DESIGNS)]
        draws = [
            np.random.default_rng(seed).choice(total, count, replace=False)
            for seed in range(RANDOM_DRAWS)
        ]
        rows[str(count)] = {
            "by design": means([task.scores(chosen) for chosen in designs]),
            "random": means([task.scores(chosen) for chosen in draws]),
        }
    return {
        "known": predictor.device_id,
        "new": task.device,
        "networks": total,
        "range_ms": [float(task.ms.min()), float(task.ms.max())],
        "known_kernels_percent": 100
        * float(np.mean([kernel in predictor.measured_ms for kernel in task.kernels])),
        "measurements": rows,
    }


def show(answer: dict[str, Any]) -> None:
    """A Markdown table."""
    print(
        f"\n{answer['known']} -> {answer['new']}: {answer['networks']} networks, "
        f"{answer['range_ms'][0]:.2f} to {answer['range_ms'][1]:.2f} ms, "
        f"{answer['known_kernels_percent']:.0f} % of their kernels timed on the known device\n"
    )
    columns = ("median", "mean", "max", "within 5 %", "within 10 %")
    names = [name.replace(" %", "").replace(" ", "_") + "_percent" for name in columns]
    print("| measured | " + " | ".join(["method", *columns, "90 % interval"]) + " |")
    print("|---" * (len(columns) + 3) + "|")
    for count, choices in answer["measurements"].items():
        for choice, scores in choices.items():
            for row in ROWS:
                one = scores[row]
                interval = ""
                if "said_mean_percent" in one:
                    interval = (
                        f"covers {one['interval_covers_percent']:.0f} %, "
                        f"half width {one['interval_half_width_percent']:.1f} %"
                    )
                figures = " | ".join(f"{one[name]:.1f}" for name in names)
                print(f"| {count} {choice} | {row} | {figures} | {interval} |")


def main() -> None:
    """Fit, choose, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--known", type=Path, required=True, help="the known device's table")
    parser.add_argument("--new", type=Path, required=True, help="the new device's table")
    parser.add_argument("--counts", type=int, nargs="+", default=[10])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    answer = {"schema_version": 1, **run(args.known, args.new, args.counts)}
    show(answer)
    if args.out:
        write_json(args.out, {**answer, "provenance": provenance()})


if __name__ == "__main__":
    main()
