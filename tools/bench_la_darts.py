"""LA-DARTS against the same search without its latency term, at an equal MAC budget, in pairs.

From every seed there is one warm-up and then several searches that all keep the MACs between 95 %
and 100 % of --max-macs: one without a latency term, and one for every chip with a latency budget
on it. That budget is fixed before anything is searched: --cut times the median predicted latency
of random networks within the MAC window. All networks are trained from scratch, equally long, from
the same --train-seeds, tested, and measured on the chips in turn. Needs the chips' tables for
networks of this size (`factory profile`).

Killed at any moment, the same command goes on; the table is printed from what is there. Latencies
are measured by a call of its own on a quiet machine: the same command with --measure.

    python tools/bench_la_darts.py --out runs/la --devices local-cpu-t1-fp32 local-cpu-t1-int8
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_methods import latency_term, measure, spread, train

from factory.core.files import write_json
from factory.core.progress import SILENT
from factory.core.provenance import provenance
from factory.core.reading import read_json
from factory.data.config import DataConfig
from factory.data.datasets import load_data
from factory.search.architectures import TierBudget, search_architectures
from factory.search.config import SearchConfig
from factory.search.costs import CostTerm, macs_term
from factory.spaces.cell_space import CellSpace
from factory.spaces.genotype import Genotype
from factory.spaces.network_spec import NetworkSpec

FREE = "without"  # the search without a latency term
MACS_USED = 0.95  # at least this share of the MAC budget
WINDOW_SAMPLES = 200  # random networks within the MAC window that the latency budget is taken from


def main() -> None:
    """Search and train what is not there yet, or measure it; then print the table."""
    args = parse()
    torch.set_num_threads(args.threads)
    shape = (3, args.image_size, args.image_size)
    space = CellSpace(NetworkSpec(args.channels, args.layers, "cifar", shape, 10))
    macs = macs_term(space.presence()).with_limit(args.max_macs, MACS_USED * args.max_macs)
    latency = {device: latency_term(space, device) for device in args.devices}
    window = networks_within(space, macs)
    usual_ms = {
        device: statistics.median(term.value(space.one_hot(g)) for g in window)
        for device, term in latency.items()
    }
    cuts = args.cut * len(args.devices) if len(args.cut) == 1 else args.cut
    limits_ms = {d: cut * usual_ms[d] for d, cut in zip(args.devices, cuts, strict=True)}
    costs = {FREE: [macs]}
    for device, term in latency.items():
        costs[device] = [term.with_limit(limits_ms[device]), macs]
    out = Path(args.out)
    if not args.measure:
        config = DataConfig(
            kind=args.kind,
            root=args.data,
            image_size=args.image_size,
            max_train=args.pictures,
            max_test=args.test_pictures,
        )
        data = load_data(config, 0, SILENT)
        for seed in args.seeds:
            search_and_train(args, data, space, costs, seed)
    paths = [out / f"seed-{seed}" / arm / "row.json" for seed in args.seeds for arm in costs]
    rows = [dict(read_json(path, "row")) for path in paths if path.exists()]
    for row in rows:
        hot = space.one_hot(Genotype.from_dict(row["genotype"]))
        row["predicted_ms"] = {device: term.value(hot) for device, term in latency.items()}
    if args.measure:
        for device in args.devices:
            args.device = device
            measure(args, space.spec, rows)
            for row in rows:
                row.setdefault("measured_ms", {})[device] = row.pop("latency_ms")
        for row in rows:
            write_json(out / f"seed-{row['seed']}" / row["arm"] / "row.json", row)
    hidden = ("data", "out", "measure", "device")
    settings = {k: v for k, v in vars(args).items() if k not in hidden}
    write_json(
        out / "la_darts.json",
        {
            "schema_version": 1,
            "settings": settings,
            "usual_ms": usual_ms,
            "limits_ms": limits_ms,
            "provenance": provenance(),
            "rows": rows,
        },
    )
    show(rows, args.devices, usual_ms, limits_ms)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data", help="root folder of CIFAR-10")
    parser.add_argument("--out", required=True, help="folder of results; resumable")
    parser.add_argument("--devices", nargs="+", required=True, help="e.g. local-cpu-t1-fp32")
    parser.add_argument("--preset", default="la-darts-short")
    parser.add_argument("--max-macs", type=float, default=4e6)
    parser.add_argument(
        "--cut", nargs="+", type=float, default=[0.75], help="budget over usual latency, by chip"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train-seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--kind", default="digits", choices=["digits", "cifar10"])
    parser.add_argument("--pictures", type=int, help="training pictures, both halves; default: all")
    parser.add_argument("--test-pictures", type=int, help="default: all")
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--warmup-epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of an epoch of a search, if not a whole pass")
    parser.add_argument("--search-batch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64, help="of a training")
    parser.add_argument("--train-epochs", type=int, default=12)
    parser.add_argument("--measure", action="store_true", help="only measure what is there")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every network")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def networks_within(space: CellSpace, macs: CostTerm) -> list[Genotype]:
    """Random networks within the MAC window."""
    assert macs.limit is not None
    assert macs.least is not None
    rng = np.random.default_rng(0)
    found: list[Genotype] = []
    for _ in range(20 * WINDOW_SAMPLES):
        genotype = space.random(rng)
        if macs.least <= space.counts(genotype).macs <= macs.limit:
            found.append(genotype)
            if len(found) == WINDOW_SAMPLES:
                break
    if not found:
        sys.exit(f"no random network has between {macs.least:.3g} and {macs.limit:.3g} MACs")
    return found


def search_and_train(
    args: argparse.Namespace,
    data: Any,
    space: CellSpace,
    costs: dict[str, list[CostTerm]],
    seed: int,
) -> None:
    """All searches of a seed and the trainings of what they found."""
    folder = Path(args.out) / f"seed-{seed}"
    if all((folder / arm / "row.json").exists() for arm in costs):
        return
    cfg = SearchConfig.model_validate(
        {
            "preset": args.preset,
            "channels": args.channels,
            "layers": args.layers,
            "batch_size": args.search_batch,
            "epochs": args.epochs,
            "warmup_epochs": args.warmup_epochs,
            "steps_per_epoch": args.steps,
        }
    )
    tiers = [TierBudget(arm, terms) for arm, terms in costs.items()]
    found = search_architectures(space, data, tiers, cfg, folder, SILENT, seed)
    for arm in costs:
        result, done = found[arm], folder / arm / "row.json"
        if done.exists():
            continue
        genotype = result.genotype
        accuracies = [
            train(args, data, space.spec, genotype, args.train_epochs, number,
                  folder / arm / f"training-{number}")
            for number in args.train_seeds
        ]  # fmt: skip
        row = {
            "seed": seed,
            "arm": arm,
            "accuracy": statistics.fmean(accuracies),
            "accuracies": accuracies,
            "macs": space.counts(genotype).macs,
            "repaired": result.repaired,
            "skip_share": space.skip_shares(genotype),
            "genotype": genotype.to_dict(),
        }
        write_json(done, row)
        print(f"seed {seed} {arm}: {row['accuracy']:.2%}", file=sys.stderr, flush=True)


def show(
    rows: list[dict[str, Any]],
    devices: list[str],
    usual_ms: dict[str, float],
    limits_ms: dict[str, float],
) -> None:
    """One line a network, then the differences of the pairs by chip."""
    for device in devices:
        print(
            f"{device}: usual {usual_ms[device]:.4g} ms at these MACs (predicted), "
            f"budget {limits_ms[device]:.4g} ms"
        )
    print("seed  latency term       accuracy %  M MACs  skips  predicted ms / measured ms by chip")
    for row in rows:
        times = "  ".join(
            f"{row['predicted_ms'][d]:.4f} / {_ms(row, d)}" for d in devices
        )  # fmt: skip
        print(
            f"{row['seed']:<4}  {row['arm']:<17}  {100 * row['accuracy']:<10.2f}  "
            f"{row['macs'] / 1e6:<6.2f}  {row['skip_share']['normal']:<5.2f}  {times}"
        )
    for device in devices:
        pairs = pairs_of(rows, device)
        saved = [
            100 * (1 - fast["measured_ms"][device] / free["measured_ms"][device])
            for free, fast in pairs
            if "measured_ms" in free and "measured_ms" in fast
        ]
        print(f"{device}, {len(pairs)} pairs:")
        print(f"  measured latency saved {spread(saved, 1)} %")
        lost = [100 * (free["accuracy"] - fast["accuracy"]) for free, fast in pairs]
        print(f"  accuracy lost {spread(lost, 2)} points")
        apart = [100 * (fast["macs"] / free["macs"] - 1) for free, fast in pairs]
        print(f"  MACs apart {', '.join(f'{value:+.1f}' for value in apart)} %")


def _ms(row: dict[str, Any], device: str) -> str:
    value = row.get("measured_ms", {}).get(device)
    return "-" if value is None else f"{value:.4f}"


def pairs_of(rows: list[dict[str, Any]], device: str) -> list[tuple[dict[str, Any], ...]]:
    """(without, with the chip's latency term) of every seed that has both."""
    by_arm = {(row["seed"], row["arm"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    found = [(by_arm.get((seed, FREE)), by_arm.get((seed, device))) for seed in seeds]
    return [(free, fast) for free, fast in found if free is not None and fast is not None]


if __name__ == "__main__":
    main()
