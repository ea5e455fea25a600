"""What a short spin of idle OpenMP threads costs and saves: one training step, with other load.

Each setting runs in a process of its own, in turn, with and without busy processes beside it:

    python tools/bench_threads.py --repeats 3 --busy 2 --json threads.json

The default that the command sets (factory/cli/main.py) is the row GOMP_SPINCOUNT=10000.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

SETTINGS: dict[str, dict[str, str]] = {
    "as torch comes": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
STEP = """
import time, statistics, torch
from factory.spaces.cell_network import CellNetwork
from factory.spaces.genotype import PUBLISHED
from factory.spaces.network_spec import NetworkSpec
spec = NetworkSpec(channels=8, layers=5, stem="cifar", input_shape=(3, 32, 32), num_classes=10)
network = CellNetwork(PUBLISHED["PC_DARTS_cifar"], spec).initialise(0)
network = network.to(memory_format=torch.channels_last)
x = torch.randn(32, 3, 32, 32).contiguous(memory_format=torch.channels_last)
labels = torch.randint(0, 10, (32,))
taken = []
for _ in range(9):
    start = time.perf_counter()
    torch.nn.functional.cross_entropy(network(x), labels).backward()
    taken.append(time.perf_counter() - start)
print(statistics.median(taken[2:]) * 1e3)
"""
BUSY = "while True: sum(i * i for i in range(100000))"


def step_ms(setting: dict[str, str]) -> float:
    """Median milliseconds of a training step in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        env={**environment, **setting},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measure(repeats: int) -> dict[str, float]:
    """Setting -> median over repeats, the settings taken in turn."""
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(repeats):
        for name, setting in SETTINGS.items():
            found[name].append(step_ms(setting))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure alone, then beside busy processes; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="busy processes")
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()
    alone_ms = measure(args.repeats)
    load = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(args.busy)]
    try:
        beside_ms = measure(args.repeats)
    finally:
        for process in load:
            process.kill()
    print(f"{'setting':26}{'alone ms':>10}{f'beside {args.busy} busy ms':>20}")
    for name in SETTINGS:
        print(f"{name:26}{alone_ms[name]:10.1f}{beside_ms[name]:20.1f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as stream:
            json.dump({"alone_ms": alone_ms, "beside_ms": beside_ms, "busy": args.busy}, stream)


if __name__ == "__main__":
    main()
