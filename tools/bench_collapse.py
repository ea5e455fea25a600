"""Does a search that runs too long end in skip connections? On NAS-Bench-201: its cells are known.

Methods search the cells of NAS-Bench-201 on real CIFAR-10 pictures for the same number of steps,
with nothing that holds them back: no skip limit, no automatic stop. After every epoch the cell that
the parameters name is looked up in a table of all 15,625 cells trained to the end. The rules of
factory/search/collapse.py then judge each history: when they would have stopped the search, and
what they would have taken instead. (DARTS on this space ends in nothing but skips: Dong and Yang,
arXiv 2001.00326, table 5.)

    python tools/bench_collapse.py nasbench201_pi5_cifar100.parquet --data CIFAR10 --out runs/col

Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factory.core.files import write_json
from factory.core.progress import SILENT
from factory.core.provenance import provenance
from factory.core.reading import read_json
from factory.data.config import DataConfig
from factory.data.datasets import load_data
from factory.search.architectures import TierBudget, search_architectures
from factory.search.collapse import CollapseWatch
from factory.search.config import SearchConfig
from factory.search.derive import derivation_of
from factory.search.strategies.tabular import Table201
from factory.spaces.nas_bench_201 import Cell201
from factory.spaces.nas_bench_201_space import STAGES, NasBench201Space, Spec201

METHODS = ("darts", "pc-darts", "stabilized-darts", "beta-darts")


def main() -> None:
    """Search what is not there yet, then print the table."""
    args = parse()
    torch.set_num_threads(args.threads)
    table = Table201.load(args.table)
    spec = Spec201(args.channels, args.cells, (3, args.image_size, args.image_size), 10)
    pictures = DataConfig(
        kind="cifar10", root=args.data, image_size=args.image_size, max_train=args.pictures,
        max_test=100,
    )  # fmt: skip
    data = load_data(pictures, 0, SILENT)
    rows = []
    for seed in args.seeds:
        for method in args.methods:
            folder = args.out / f"{method}-seed-{seed}"
            cfg = settings(method, args)
            search_architectures(
                NasBench201Space(spec), data, [TierBudget("found")], cfg, folder, SILENT, seed
            )
            row = {"method": method, "seed": seed, **judged(folder / "found", table, cfg)}
            rows.append(row)
            print(f"{method} seed {seed}: {sentence(row)}", file=sys.stderr, flush=True)
    write_json(
        args.out / "collapse.json",
        {
            "schema_version": 1,
            "settings": {k: v for k, v in vars(args).items() if k not in ("data", "out", "table")},
            "table": {"name": table.name, "best_accuracy": float(table.accuracy.max())},
            "provenance": provenance(),
            "rows": rows,
        },
    )
    show(rows, table)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="all cells' accuracies, as in bench_nas_table.py")
    parser.add_argument("--data", required=True, help="root folder of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder of results; resumable")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=3000, help="training pictures, both halves")
    parser.add_argument("--image-size", type=int, default=16, help="pictures are resized to it")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=1, help="of each of the three stages")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--arch-lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def settings(method: str, args: argparse.Namespace) -> SearchConfig:
    """The method's published settings at this size, without skip limit and automatic stop."""
    chosen: dict[str, Any] = {
        "preset": method,
        "channels": args.channels,
        "layers": STAGES * args.cells,
        "batch_size": args.batch,
        "epochs": args.epochs,
        "warmup_epochs": 0,
        "arch_lr": args.arch_lr,
        "max_skips": None,
        "stop": "off",
    }
    return SearchConfig.model_validate(chosen)


def judged(folder: Path, table: Table201, cfg: SearchConfig) -> dict[str, Any]:
    """The cell of every epoch, its accuracy in the table, and what the rules say of it all."""
    watch, stopped, taken = CollapseWatch(cfg.stop_patience), None, None
    derivation = derivation_of(NasBench201Space(table.space().spec))
    skips, accuracies, cells = [], [], []
    for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "probabilities" not in row:
            continue
        (share,) = row["skip_share_by_cell"].values()
        (probabilities,) = row["probabilities"].values()
        cell = derivation.discretise({"cell": np.log(np.maximum(probabilities, 1e-30))})
        skips.append(share)
        cells.append(cell)
        accuracies.append(float(table.accuracy[cell.index]))
        if stopped is None and (said := watch.judge(row["epoch"], share, {}, {"cell": cell})):
            stopped = said
            taken = watch.healthy["cell"] if watch.healthy else None
    final = Cell201.from_dict(read_json(folder / "genotype.json", "what a search found"))
    return {
        "cell": str(final),
        "skip_share_by_epoch": skips,
        "accuracy_by_epoch": accuracies,
        "accuracy": accuracies[-1],
        "latency_ms": float(table.latency_ms[final.index]),
        "stopped": stopped,
        "accuracy_if_stopped": None if taken is None else float(table.accuracy[taken.index]),
        "entropy": read_json(folder / "search.json", "a search")["entropy"],
    }


def sentence(row: dict[str, Any]) -> str:
    """One line on the way."""
    return (
        f"{row['cell']}, skips {row['skip_share_by_epoch'][-1]:.0%}, "
        f"{row['accuracy']:.2%} in the table; {row['stopped'] or 'no sign of a collapse'}"
    )


def show(rows: list[dict[str, Any]], table: Table201) -> None:
    """Means over the seeds."""
    print(f"{table.name}: best cell {table.accuracy.max():.2%}, median {median(table):.2%}")
    print(
        f"{'method':18s} seeds  skips at the end  accuracy %       best on the way  stopped  taken"
    )
    for method in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if row["method"] == method]
        ends = [100 * row["accuracy"] for row in of]
        best = [100 * max(row["accuracy_by_epoch"]) for row in of]
        taken = [100 * row["accuracy_if_stopped"] for row in of if row["accuracy_if_stopped"]]
        print(
            f"{method:18s} {len(of):5d}  "
            f"{statistics.mean(row['skip_share_by_epoch'][-1] for row in of):16.2f}  "
            f"{statistics.mean(ends):5.2f} ({min(ends):.2f}-{max(ends):.2f})  "
            f"{statistics.mean(best):15.2f}  {sum(row['stopped'] is not None for row in of):7d}  "
            f"{f'{statistics.mean(taken):.2f}' if taken else '-'}"
        )


def median(table: Table201) -> float:
    """Accuracy of the median cell."""
    return float(np.median(table.accuracy))


if __name__ == "__main__":
    main()
