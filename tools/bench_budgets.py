"""Does a search with a latency budget end inside it, as re-measured, and use most of it?

For every chip the range of the space is that from its fastest to its slowest network as the chip's
table predicts it (`factory profile` of the same size first). Budgets are fixed at shares of that
range before anything is searched; one build up to its search stage, with one tier a chip and
budget, then profiles, fits and searches as for any recipe. Every network found is measured again
afterwards, all in turn, medians. On a quiet machine:

    python tools/bench_budgets.py --out runs/budgets --devices local-cpu-t1-fp32 local-cpu-t1-int8
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_methods import latency_term, measure

from factory.core.files import write_json
from factory.core.progress import SILENT
from factory.core.provenance import provenance
from factory.core.reading import read_json
from factory.pipeline import search_files
from factory.pipeline.build import run_build
from factory.pipeline.recipe import Recipe
from factory.search.derive import derivation_of
from factory.spaces.cell_space import CellSpace
from factory.spaces.network_spec import NetworkSpec

WANTED = 0.8  # share of the budget that a network should use


def main() -> None:
    """Search from every seed, measure, print the table."""
    args = parse()
    torch.set_num_threads(1)
    spec = NetworkSpec(args.channels, args.layers, "cifar", (3, 32, 32), 10)
    fixed = Path(args.out) / "budgets.json"
    if not fixed.exists():
        write_json(fixed, budgets(CellSpace(spec), args.devices, args.shares))
    tiers = read_json(fixed, "budgets")["tiers"]
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        rows += searched(args, tiers, seed)
    for device in args.devices:
        args.device = device
        measure(args, spec, [row for row in rows if row["device"] == device])
    for row in rows:
        row["used"] = None if row["latency_ms"] is None else row["latency_ms"] / row["budget_ms"]
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "device")}
    write_json(
        Path(args.out) / "result.json",
        {"schema_version": 1, "settings": settings, "provenance": provenance(), "rows": rows},
    )
    show(rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of results; resumable")
    parser.add_argument("--devices", nargs="+", required=True)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.5, 0.75])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--preset", default="short")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--search-channels", type=int, default=4)
    parser.add_argument("--search-layers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--warmup-epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--least-used", type=float, help="budget.least_used of the recipe")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of every network")
    parser.add_argument("--until", default="search", choices=["profile", "fit", "search"])
    return parser.parse_args()


def budgets(space: CellSpace, devices: list[str], shares: list[float]) -> dict[str, Any]:
    """Range of the space on every chip, and the budgets in it."""
    ranges, tiers = {}, []
    for device in devices:
        term = latency_term(space, device)
        derivation = derivation_of(space)
        low, high = derivation.smallest(term)[0], derivation.largest(term)
        ranges[device] = [low, high]
        for share in shares:
            tiers.append(
                {
                    "name": f"{device.removeprefix('local-')}-{round(100 * share)}",
                    "device": device,
                    "share": share,
                    "max_latency_ms": low + share * (high - low),
                }
            )
    return {"schema_version": 1, "ranges_ms": ranges, "tiers": tiers}


def searched(args: argparse.Namespace, tiers: list[dict[str, Any]], seed: int) -> list[dict]:
    """One build up to the search: what it found for every tier."""
    keys = ("name", "device", "max_latency_ms")
    budget = {"baseline": False}
    if args.least_used is not None:
        budget["least_used"] = args.least_used
    recipe = Recipe.model_validate(
        {
            "recipe": {"name": "budgets", "seed": seed},
            "data": {"kind": "digits", "image_size": 32},
            "space": {"kind": "cell", "channels": args.channels, "layers": args.layers},
            "profile": {"effort": "quick", "networks": 24},
            "search": {
                "preset": args.preset,
                "channels": args.search_channels,
                "layers": args.search_layers,
                "batch_size": args.batch,
                "epochs": args.epochs,
                "warmup_epochs": args.warmup_epochs,
            },
            "training": {"epochs": 1},
            "budget": budget,
            "tiers": [{key: tier[key] for key in keys} for tier in tiers],
        }
    )
    folder = Path(args.out) / f"seed-{seed}"
    ctx = run_build(recipe, folder, until=args.until, progress=SILENT)
    if args.until != "search":
        sys.exit(f"{folder}: done up to {args.until}")
    rows = []
    for tier in tiers:
        found = search_files.load_result(ctx, tier["name"])
        rows.append(
            {
                "seed": seed,
                "device": tier["device"],
                "share": tier["share"],
                "budget_ms": tier["max_latency_ms"],
                "target_ms": found["target_ms"],
                "predicted_ms": found["predicted_ms"],
                "checked_ms": found["checked_ms"],
                "rounds": len(found["targets"]) - 1,
                "repaired": found["repaired"],
                "multipliers": found["multipliers"],
                "macs": found["macs"],
                "genotype": json.loads(search_files.genotype_path(ctx, tier["name"]).read_text()),
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """One line a search."""
    print(
        "seed  chip                share  budget ms  predicted  measured  used   rounds  repaired"
    )
    for row in rows:
        print(
            f"{row['seed']:<4}  {row['device']:<18}  {row['share']:<5.2f}  {row['budget_ms']:<9.4f}"
            f"  {row['predicted_ms']:<9.4f}  {row['latency_ms']:<8.4f}  {row['used']:<5.3f}  "
            f"{row['rounds']:<6}  {row['repaired']}"
        )
    used = np.array([row["used"] for row in rows])
    print(
        f"inside: {int((used <= 1).sum())} of {len(used)}; at least {WANTED:.0%} used: "
        f"{int((used >= WANTED).sum())}; both: {int(((used <= 1) & (used >= WANTED)).sum())}"
    )


if __name__ == "__main__":
    main()
