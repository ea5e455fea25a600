"""All search methods on one fixed subset of CIFAR-10, in one table: what each finds and costs.

Every method searches from every seed with its short preset; its network is then trained from
scratch, equally long for all, and tested. `random` trains so many networks of the space and takes
the best on held-out training pictures; `evolution` is the discrete strategy of that name with the
same number of trainings. With --device the latency of that chip's predictor (`factory profile` of
the same size first) is the cost that LA-DARTS and the discrete searches see, and LA-DARTS gets a
budget on it that is fixed beforehand; without it MACs stand in.

Killed at any moment, the same command goes on; --out holds one folder a method and seed, and the
table is printed from what is there. Latencies are measured by a call of its own, on a quiet
machine: the same command with --measure, all networks in turn, medians. --no-training searches
only: with many --epochs, whether the cells collapse and what the diagnostics say.

    python tools/bench_methods.py --data CIFAR10_ROOT --out runs/methods --device local-cpu-t1-fp32
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factory.core.errors import InputError
from factory.core.files import write_json
from factory.core.progress import SILENT
from factory.core.provenance import provenance
from factory.core.reading import read_json
from factory.data.config import DataConfig
from factory.data.datasets import load_data
from factory.devices.base import open_device
from factory.devices.profile import DeviceProfile, load_profile
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.lock import locked
from factory.pipeline.profiling_plan import network_bytes
from factory.pipeline.tables import predictor_for
from factory.search.architectures import TierBudget, search_architectures
from factory.search.config import SearchConfig
from factory.search.costs import CostTerm, macs_term
from factory.search.derive import derivation_of
from factory.spaces.cell_network import CellNetwork
from factory.spaces.cell_space import CellSpace
from factory.spaces.genotype import Genotype
from factory.spaces.network_spec import NetworkSpec
from factory.training.config import TrainConfig
from factory.training.loop import train_network
from factory.verification.verify import verify_model

DIFFERENTIABLE = (
    "darts", "p-darts", "pc-darts", "stabilized-darts", "la-darts", "scalable-darts",
)  # fmt: skip
DISCRETE = ("random", "evolution")


def main() -> None:
    """Run what is not there yet, or measure it; then print the table."""
    args = parse()
    torch.set_num_threads(args.threads)
    shape = (3, args.image_size, args.image_size)
    spec = NetworkSpec(args.channels, args.layers, "cifar", shape, 10)
    wanted = [(seed, method) for seed in args.seeds for method in args.methods]
    if not args.measure:
        setting = Setting(args, spec)
        for seed, method in wanted:
            folder = folder_of(args, method, seed)
            try:
                with locked(folder):
                    row = one(setting, method, seed, folder)
            except InputError as error:
                print(f"{method} seed {seed}: {error}", file=sys.stderr)
                continue
            print(f"{method} seed {seed}: {result_text(row)}", file=sys.stderr, flush=True)
    paths = [folder_of(args, method, seed) / "row.json" for seed, method in wanted]
    rows = [dict(read_json(path, "row")) for path in paths if path.exists()]
    if args.measure:
        measure(args, spec, rows)
        for row in rows:
            write_json(folder_of(args, row["method"], row["seed"]) / "row.json", row)
    settings = {k: v for k, v in vars(args).items() if k not in ("data", "out", "measure")}
    write_json(
        Path(args.out) / "methods.json",
        {"schema_version": 1, "settings": settings, "provenance": provenance(), "rows": rows},
    )
    show(rows)


def folder_of(args: argparse.Namespace, method: str, seed: int) -> Path:
    """Of one search."""
    return Path(args.out) / f"{method}-seed-{seed}"


class Setting:
    """What all searches share: the pictures, the space, the latency of its networks."""

    def __init__(self, args: argparse.Namespace, spec: NetworkSpec) -> None:
        self.args, self.spec, self.space = args, spec, CellSpace(spec)
        channels, layers = args.search_channels, args.search_layers
        self.supernet = CellSpace(dataclasses.replace(spec, channels=channels, layers=layers))
        pictures = DataConfig(
            kind="cifar10",
            root=args.data,
            image_size=args.image_size,
            max_train=args.pictures,
            max_test=args.test_pictures,
        )
        self.data = load_data(pictures, 0, SILENT)
        self.macs = macs_term(self.space.presence(), args.max_macs)
        self.latency = latency_term(self.space, args.device)
        low = derivation_of(self.space).smallest(self.latency)[0]
        high = derivation_of(self.space).largest(self.latency)
        limit = low + args.latency_share * (high - low)
        self.limited = self.latency.with_limit(limit)

    def predicted_ms(self, genotype: Genotype) -> float:
        """Latency of the derived network, its own activations included; without a chip M MACs."""
        if not self.args.device:
            return float(self.latency.value(self.space.one_hot(genotype)))
        predictor, profile = predictor_of(self.args.device)
        return float(
            predictor.predict(
                self.space.kernels(genotype, profile.dtype, predictor.fusion)
            ).latency_ms
        )


def latency_term(space: CellSpace, device: str) -> CostTerm:
    """Latency by the predictor of the chip's table; without a chip MACs, in millions."""
    if not device:
        return dataclasses.replace(
            macs_term(space.presence()), name="latency_ms", weights=_millions(space), unit="ms"
        )
    predictor, profile = predictor_of(device)
    presence = space.presence(profile.dtype, fusion=predictor.fusion)
    weights_ms, constant_ms = predictor.linear_ms(presence.kernels)
    return CostTerm("latency_ms", presence, weights_ms, constant_ms, None, "ms", profile.id)


@functools.cache
def predictor_of(device: str) -> tuple[LatencyPredictor, DeviceProfile]:
    """The predictor of a chip's table, fitted once."""
    profile = load_profile(device)
    return predictor_for(profile, None)[0], profile


def _millions(space: CellSpace) -> np.ndarray:
    return np.asarray(macs_term(space.presence()).weights) / 1e6


def result_text(row: dict[str, Any]) -> str:
    """One line on the way."""
    accuracy = "not trained" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
    stopped = f"; {row['stopped']}" if row.get("stopped") else ""
    return f"{accuracy}, {row['search_s']:.0f} s{stopped}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="root folder of CIFAR-10")
    parser.add_argument("--out", required=True, help="folder of results; resumable")
    names = [*DIFFERENTIABLE, *DISCRETE]
    parser.add_argument("--methods", nargs="+", default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=2000, help="training pictures, both halves")
    parser.add_argument("--test-pictures", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=32, help="pictures are resized to it")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--search-channels", type=int, default=8, help="of the supernet")
    parser.add_argument("--search-layers", type=int, default=5, help="of the supernet")
    parser.add_argument("--epochs", type=int, default=12, help="of a search; a third in each stage")
    parser.add_argument("--steps", type=int, help="of an epoch of a search, if not a whole pass")
    parser.add_argument("--search-batch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="of a training")
    parser.add_argument("--max-macs", type=float, help="one MAC budget for all")
    parser.add_argument("--train-epochs", type=int, default=12)
    parser.add_argument("--queries", type=int, default=6, help="trainings of a discrete search")
    parser.add_argument("--query-epochs", type=int, default=3)
    parser.add_argument("--no-training", action="store_true", help="searches only")
    parser.add_argument("--device", default="", help="chip, e.g. local-cpu-t1-fp32")
    parser.add_argument(
        "--latency-share", type=float, default=0.3, help="LA-DARTS's budget in the space's range"
    )
    parser.add_argument("--measure", action="store_true", help="only measure what is there")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every network")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def one(setting: Setting, method: str, seed: int, folder: Path) -> dict[str, Any]:
    """One search and the training of what it found; read back where it is done."""
    done = folder / "row.json"
    if done.exists():
        return dict(read_json(done, "row"))
    # a resumed search adds up the processor time of its parts
    clock = folder / "seconds.json"
    before = read_json(clock, "seconds")["search_s"] if clock.exists() else 0.0
    started = time.process_time()
    found_file = folder / "found.json"
    if found_file.exists():
        found = dict(read_json(found_file, "what a search found"))
    else:
        try:
            search = discrete if method in DISCRETE else differentiable
            found = search(setting, method, seed, folder)
        finally:
            search_s = before + time.process_time() - started
            write_json(clock, {"search_s": search_s})
        found["search_s"] = search_s
        write_json(found_file, found)
    genotype = Genotype.from_dict(found["genotype"])
    accuracy = None
    if not setting.args.no_training:
        args = setting.args
        accuracy = train(args, setting.data, setting.spec, genotype, args.train_epochs, seed,
                         folder / "training")  # fmt: skip
    counts = setting.space.counts(genotype)
    row = {
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "macs": counts.macs,
        "params": counts.params,
        "predicted_ms": setting.predicted_ms(genotype),
        "skip_share": setting.space.skip_shares(genotype),
        **found,
    }
    write_json(done, row)
    return row


def differentiable(setting: Setting, method: str, seed: int, folder: Path) -> dict[str, Any]:
    """A short search by gradient."""
    args = setting.args
    progressive = SearchConfig(preset=f"{method}-short").schedule == "progressive"
    epochs = max(2, args.epochs // 3) if progressive else args.epochs
    published = SearchConfig(preset=method)
    warm = int(epochs * published.warmup_epochs / published.epochs)
    settings: dict[str, Any] = {
        "preset": f"{method}-short",
        "channels": args.search_channels,
        "layers": args.search_layers,
        "batch_size": args.search_batch,
        "epochs": epochs,
        "warmup_epochs": warm,
        "steps_per_epoch": args.steps,
    }
    if progressive:
        settings["stage_layers"] = [args.search_layers + i for i in range(3)]
    cfg = SearchConfig.model_validate(settings)
    latency = setting.limited if method == "la-darts" else setting.latency
    result = search_architectures(
        setting.supernet, setting.data, [TierBudget("found", [latency, setting.macs])], cfg,
        folder / "search", SILENT, seed,
    )["found"]  # fmt: skip
    return {
        "genotype": result.genotype.to_dict(),
        "free_skip_share": result.skip_share_by_cell,
        "skip_share_by_epoch": free_skips(result.history),
        "entropy": result.entropy,
        "gap": result.gap,
        "stopped": result.stopped,
        "limits": result.limits,
    }


def free_skips(history: Path) -> list[float]:
    """Skip share of the normal cell without the skip limit, at the end of every epoch."""
    rows = (json.loads(line) for line in history.read_text(encoding="utf-8").splitlines())
    return [row["skip_share_by_cell"]["normal"] for row in rows if "skip_share_by_cell" in row]


def discrete(setting: Setting, method: str, seed: int, folder: Path) -> dict[str, Any]:
    """The best of some short trainings, tested on held-out training pictures."""
    args, data, space = setting.args, setting.data, setting.space
    train_half, held_out = data.split(0.5, seed)
    halves = dataclasses.replace(data, train=train_half, test=held_out)
    limits = {} if args.max_macs is None else {"macs": args.max_macs}

    def accuracy(genotype: Genotype) -> float:
        name = hashlib.sha256(str(genotype).encode()).hexdigest()[:16]
        path = folder / "queries" / name
        return train(args, halves, setting.spec, genotype, args.query_epochs, seed, path)

    from factory.search.strategies import STRATEGIES
    from factory.search.strategies.problem import Problem, Score
    from factory.search.strategies.study import run_search

    class Objective:
        def known_costs(self, genotype: Genotype) -> dict[str, float]:
            latency_ms = setting.latency.value(space.one_hot(genotype))
            return {"latency_ms": latency_ms, "macs": float(space.counts(genotype).macs)}

        def evaluate(self, genotype: Genotype) -> Any:
            costs = self.known_costs(genotype)
            return Score(accuracy(genotype), costs["latency_ms"], costs["macs"])

    folder.mkdir(parents=True, exist_ok=True)
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
    profile = load_profile(args.device)
    times: list[list[float]] = [[] for _ in rows]
    with open_device(profile) as device:
        for _ in range(args.rounds):
            for row, found in zip(rows, times, strict=True):
                genotype = Genotype.from_dict(row["genotype"])
                content = network_bytes(CellSpace(spec), genotype, profile.dtype, 0)
                median_ms = verify_model(content, device).median_ms
                if median_ms is not None:
                    found.append(median_ms)
    for row, found in zip(rows, times, strict=True):
        row["latency_ms"] = statistics.median(found) if found else None


def show(rows: list[dict[str, Any]]) -> None:
    """One line a method: mean and spread over the seeds."""
    head = (
        "method", "seeds", "accuracy %", "M MACs", "latency ms", "search CPU s", "skips normal",
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
                spread([100 * r["accuracy"] for r in own if r["accuracy"] is not None], 2),
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
    for row in rows:
        if row.get("stopped"):
            print(f"{row['method']} seed {row['seed']}: {row['stopped']}")


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} +- {np.std(values, ddof=1):.{digits}f}"


if __name__ == "__main__":
    main()
