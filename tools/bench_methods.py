"""All search methods on one fixed subset of CIFAR-10, in one table: what each finds and costs.

Every method searches from every seed with its short preset; its network is then trained from
scratch, equally long for all, tested, and measured on a chip of this machine (all networks in turn,
medians). `random` trains so many networks of the space and takes the best on held-out training
pictures; `evolution` is the discrete strategy of that name with the same number of trainings.
Killed at any moment, the same command goes on; --out holds one folder a method and seed.

    python tools/bench_methods.py --data CIFAR10_ROOT --out runs/methods --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factory.core.files import read_json, write_json
from factory.core.progress import SILENT
from factory.core.provenance import provenance
from factory.data.config import DataConfig
from factory.data.datasets import load_data
from factory.search.architectures import TierBudget, search_architectures
from factory.search.config import SearchConfig
from factory.search.costs import macs_term
from factory.search.diagnostics import skip_share_by_cell
from factory.spaces.cell_network import CellNetwork
from factory.spaces.cell_space import CellSpace
from factory.spaces.genotype import Genotype
from factory.spaces.network_spec import NetworkSpec
from factory.training.config import TrainConfig
from factory.training.loop import train_network

DIFFERENTIABLE = (
    "darts", "darts-2nd", "p-darts", "pc-darts", "stabilized-darts", "la-darts", "scalable-darts",
)  # fmt: skip
DISCRETE = ("random", "evolution")


def main() -> None:
    """Run what is not there yet, then print the table."""
    args = parse()
    torch.set_num_threads(args.threads)
    data = load_data(
        DataConfig(
            kind="cifar10", root=args.data, max_train=args.pictures, max_test=args.test_pictures
        ),
        0,
        SILENT,
    )
    spec = NetworkSpec(args.channels, args.layers, "cifar", data.image_shape, len(data.class_names))
    rows = []
    for seed in args.seeds:
        for method in args.methods:
            folder = Path(args.out) / f"{method}-seed-{seed}"
            row = one(args, data, spec, method, seed, folder)
            rows.append(row)
            print(f"{method} seed {seed}: {row['accuracy']:.2%}", file=sys.stderr, flush=True)
    if args.device:
        measure(args, spec, rows)
    settings = {k: v for k, v in vars(args).items() if k not in ("data", "out")}
    write_json(
        Path(args.out) / "methods.json",
        {"schema_version": 1, "settings": settings, "provenance": provenance(), "rows": rows},
    )
    show(rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="root folder of CIFAR-10")
    parser.add_argument("--out", required=True, help="folder of results; resumable")
    names = [*DIFFERENTIABLE, *DISCRETE]
    parser.add_argument("--methods", nargs="+", default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=4000, help="training pictures, both halves")
    parser.add_argument("--test-pictures", type=int, default=2000)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12, help="of a search; a third in each stage")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--max-macs", type=float, help="one MAC budget for all")
    parser.add_argument("--train-epochs", type=int, default=12)
    parser.add_argument("--queries", type=int, default=6, help="trainings of a discrete search")
    parser.add_argument("--query-epochs", type=int, default=3)
    parser.add_argument("--device", default="", help="chip to measure on, e.g. local-cpu-t1-fp32")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every network")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def one(
    args: argparse.Namespace, data: Any, spec: NetworkSpec, method: str, seed: int, folder: Path
) -> dict[str, Any]:
    """One search and the training of what it found; read back where it is done."""
    done = folder / "row.json"
    if done.exists():
        return dict(read_json(done, "row"))
    started = time.monotonic()
    if method in DISCRETE:
        found = discrete(args, data, spec, method, seed, folder)
    else:
        found = differentiable(args, data, spec, method, seed, folder)
    # a resumed search adds up the time of its parts
    clock = folder / "seconds.json"
    before = read_json(clock, "seconds")["search_s"] if clock.exists() else 0.0
    search_s = before + time.monotonic() - started
    write_json(clock, {"search_s": search_s})
    genotype = Genotype.from_dict(found["genotype"])
    result = train(args, data, spec, genotype, args.train_epochs, seed, folder / "training")
    counts = CellSpace(spec).counts(genotype)
    row = {
        "method": method,
        "seed": seed,
        "accuracy": result,
        "macs": counts.macs,
        "params": counts.params,
        "search_s": search_s,
        "skip_share": skip_share_by_cell(genotype),
        **found,
    }
    write_json(done, row)
    return row


def differentiable(
    args: argparse.Namespace, data: Any, spec: NetworkSpec, method: str, seed: int, folder: Path
) -> dict[str, Any]:
    """A short search by gradient."""
    progressive = SearchConfig(preset=f"{method}-short").schedule == "progressive"
    epochs = max(2, args.epochs // 3) if progressive else args.epochs
    published = SearchConfig(preset=method)
    warm = int(epochs * published.warmup_epochs / published.epochs)
    settings: dict[str, Any] = {
        "preset": f"{method}-short",
        "channels": args.channels,
        "layers": args.layers,
        "batch_size": args.batch,
        "epochs": epochs,
        "warmup_epochs": warm,
    }
    cfg = SearchConfig.model_validate(settings)
    costs = [macs_term(CellSpace(spec).presence(), args.max_macs)]
    if cfg.latency_cost == "module":  # stands in for a chip: MACs, learned by the module
        costs.append(dataclasses.replace(costs[0], name="proxy_ms", limit=None, unit="ms"))
    result = search_architectures(
        CellSpace(spec), data, [TierBudget("found", costs)], cfg, folder / "search", SILENT, seed
    )["found"]
    return {
        "genotype": result.genotype.to_dict(),
        "free_skip_share": result.skip_share_by_cell,
        "entropy": result.entropy,
        "gap": result.gap,
        "stopped": result.stopped,
    }


def discrete(
    args: argparse.Namespace, data: Any, spec: NetworkSpec, method: str, seed: int, folder: Path
) -> dict[str, Any]:
    """The best of some short trainings, tested on held-out training pictures."""
    train_half, held_out = data.split(0.5, seed)
    halves = dataclasses.replace(data, train=train_half, test=held_out)
    space = CellSpace(spec)
    limits = {} if args.max_macs is None else {"macs": args.max_macs}

    def accuracy(genotype: Genotype) -> float:
        name = "".join(c if c.isalnum() else "-" for c in str(genotype))
        path = folder / "queries" / name[:200]
        return train(args, halves, spec, genotype, args.query_epochs, seed, path)

    from factory.search.strategies import STRATEGIES
    from factory.search.strategies.problem import Problem, Score
    from factory.search.strategies.study import run_search

    class Objective:
        def known_costs(self, genotype: Genotype) -> dict[str, float]:
            macs = float(space.counts(genotype).macs)
            return {"latency_ms": macs / 1e7, "macs": macs}  # a proxy: MACs

        def evaluate(self, genotype: Genotype) -> Any:
            costs = self.known_costs(genotype)
            return Score(accuracy(genotype), costs["latency_ms"], costs["macs"])

    outcome = run_search(
        Problem(space, Objective(), limits),
        STRATEGIES.get(method)(),
        queries=args.queries,
        seed=seed,
        path=folder / "trials.jsonl",
    )
    assert outcome.best is not None
    return {"genotype": outcome.best.architecture.to_dict(), "queries": args.queries}


def train(
    args: argparse.Namespace,
    data: Any,
    spec: NetworkSpec,
    genotype: Genotype,
    epochs: int,
    seed: int,
    folder: Path,
) -> float:
    """Test accuracy after an equal short training from scratch."""
    cfg = TrainConfig.model_validate(
        {
            "epochs": epochs, "batch_size": args.batch, "lr": 0.1, "auxiliary_weight": 0.0,
            "drop_path": 0.0, "ema_decay": 0.0, "eval_every": epochs, "device": "auto",
            "warmup_epochs": min(1.0, epochs / 4),
        }
    )  # fmt: skip
    network = CellNetwork(genotype, spec).initialise(seed)
    return float(train_network(network, data, cfg, folder, SILENT, seed).test_accuracy)


def measure(args: argparse.Namespace, spec: NetworkSpec, rows: list[dict[str, Any]]) -> None:
    """Latency of every network on the chip, in turn, the median of all rounds."""
    from factory.devices.base import open_device
    from factory.devices.profile import load_profile
    from factory.pipeline.profiling_plan import network_bytes
    from factory.verification.verify import verify_model

    profile = load_profile(args.device)
    times: list[list[float]] = [[] for _ in rows]
    with open_device(profile) as device:
        for _ in range(args.rounds):
            for row, found in zip(rows, times, strict=True):
                genotype = Genotype.from_dict(row["genotype"])
                _, content = network_bytes(CellSpace(spec), genotype, profile.dtype, 0)
                median_ms = verify_model(content, device).median_ms
                if median_ms is not None:
                    found.append(median_ms)
    for row, found in zip(rows, times, strict=True):
        row["latency_ms"] = statistics.median(found) if found else None


def show(rows: list[dict[str, Any]]) -> None:
    """One line a method: mean and spread over the seeds."""
    head = (
        "method", "seeds", "accuracy %", "M MACs", "latency ms", "search s", "skips normal",
        "without limit", "stopped early",
    )  # fmt: skip
    lines = [head]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        free = [r["free_skip_share"]["normal"] for r in own if "free_skip_share" in r]
        lines.append(
            (
                method,
                str(len(own)),
                spread([100 * r["accuracy"] for r in own], 2),
                spread([r["macs"] / 1e6 for r in own], 2),
                spread([r["latency_ms"] for r in own if r.get("latency_ms") is not None], 3),
                spread([r["search_s"] for r in own], 0),
                spread([r["skip_share"]["normal"] for r in own], 2),
                spread(free, 2),
                str(sum(r.get("stopped") is not None for r in own)),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())
    print(json.dumps({"rows": len(rows)}))


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} +- {np.std(values, ddof=1):.{digits}f}"


if __name__ == "__main__":
    main()
