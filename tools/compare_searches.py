"""What short searches find on both spaces: written down, and compared with an earlier state's.

For a change that must not change results, before and after it on one machine:
    python tools/compare_searches.py before.json
    python tools/compare_searches.py after.json --against before.json
Every preset's short form searches a tiny network on made-up pictures under a latency and a MAC
budget; the refusal is written down where a row does not run on a space.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factory.core.errors import FactoryError
from factory.core.files import write_json
from factory.data.augment import Augmentation
from factory.data.image_data import ImageData, ImageSplit
from factory.search.architectures import TierBudget, search_architectures
from factory.search.config import SearchConfig
from factory.search.costs import CostTerm, macs_term
from factory.search.presets import PRESETS
from factory.spaces import SpaceConfig

CLASSES, SHAPE = 3, (3, 8, 8)
TINY = {"channels": 4, "layers": 3, "batch_size": 16, "steps_per_epoch": 3, "device": "cpu"}


def pictures(count: int = 96) -> ImageData:
    """Noise with one brighter channel a class."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    for label in range(CLASSES):
        images[labels == label, label] += 100
    split = ImageSplit(images, labels)
    grey = (0.4,) * 3, (0.2,) * 3
    return ImageData("tiny", split, split, ("a", "b", "c"), *grey, SHAPE, Augmentation(shift_px=1))


def budgets(space: Any, activations: tuple[str, ...]) -> list[TierBudget]:
    """One tier in the lower half of what the space costs, and one without budgets."""
    presence = space.presence(activations=activations)
    weights = np.array([0.01 + k.macs / 2e8 + k.output_bytes / 2e7 for k in presence.kernels])
    plain = macs_term(space.presence())
    rng = np.random.default_rng(5)
    sizes = np.array(space.cardinalities)
    drawn = [space.from_choices(choices) for choices in rng.integers(0, sizes, (40, len(sizes)))]
    drawn = [architecture for architecture in drawn if space.buildable(architecture)]
    kernels = [space.kernels(architecture) for architecture in drawn]
    known = dict(zip(presence.kernels, weights, strict=True))
    costs_ms = [sum(known[k] * n for k, n in counts.items()) for counts in kernels]
    macs = [sum(k.macs * n for k, n in counts.items()) for counts in kernels]
    latency = CostTerm("latency_ms", presence, weights, 0.05, 0.05 + float(np.median(costs_ms)))
    return [TierBudget("a", [latency, plain.with_limit(float(np.quantile(macs, 0.6)))]),
            TierBudget("free")]  # fmt: skip


def found(kind: str, preset: str) -> Any:
    """The architectures of one search by tier, or why it was refused."""
    values: dict[str, Any] = {**TINY, "preset": f"{preset}-short"}
    if SearchConfig(preset=f"{preset}-short").relaxation == "partial_channel":
        values["partial_channels"] = 2
    if SearchConfig(preset=f"{preset}-short").schedule == "progressive":
        values["stage_layers"] = (3, 3, 5)
    if preset == "la-darts":
        values["module_samples"] = 300
    cfg = SearchConfig(**values)
    space = SpaceConfig(kind=kind, channels=4, layers=3).space(SHAPE, CLASSES)  # type: ignore
    target = SpaceConfig(kind=kind, channels=8, layers=6).space((3, 16, 16), CLASSES)  # type: ignore
    activations = cfg.activations if cfg.relaxation == "factorised" else ()
    with tempfile.TemporaryDirectory() as folder:
        try:
            tiers = budgets(target, activations)
            results = search_architectures(space, pictures(), tiers, cfg, Path(folder), seed=3)
        except FactoryError as error:
            return error.what
        return {
            name: {"genotype": result.genotype.to_dict(), "predicted": result.predicted}
            for name, result in results.items()
        }


def _same(a: Any, b: Any) -> bool:
    """Equal but for the last digits of numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, float) and isinstance(b, float):
        return bool(np.isclose(a, b, rtol=1e-9, atol=0))
    return bool(a == b)


def main() -> None:
    """Search, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", default="", help="names of searches, with commas between")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    before = {} if args.against is None else json.loads(args.against.read_text())
    names = [f"{kind} {preset}" for kind in ("cell", "nas_bench_201") for preset in PRESETS]
    chosen = args.only.split(",") if args.only else [n for n in names if not n.endswith(" short")]
    for name in chosen:
        started = time.monotonic()
        rows[name] = json.loads(json.dumps(found(*name.split())))
        write_json(args.out, rows)
        same = "" if name not in before else ", equal" if _same(rows[name], before[name]) else ""
        print(f"{name}: {time.monotonic() - started:.1f} s{same}", file=sys.stderr)
    differ = [name for name in rows if name in before and not _same(rows[name], before[name])]
    for name in differ:
        print(f"{name}:\n  before {json.dumps(before[name])}\n  now    {json.dumps(rows[name])}")
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
