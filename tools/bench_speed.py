"""How fast predictions are: populations of the cell space, and one ONNX file from a cold process.

The device needs a latency table and its predictor (`factory profile`, `factory fit`). Populations:
random genotypes as one-hot choices, scored at once with the table's weights, and the same from the
genotypes on. One file: `factory predict` as a new process each time, wall seconds and the
process's own CPU seconds; the first run fills the file caches and is not counted.

    python tools/bench_speed.py --device local-cpu-t1-fp32 --model mobilenet_v2.onnx
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.files import write_json
from factory.core.provenance import provenance
from factory.devices.profile import load_profile
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.tables import predictor_for
from factory.spaces.cell_space import CellSpace
from factory.spaces.network_spec import NetworkSpec

SPEC = NetworkSpec(16, 8, "cifar", (3, 32, 32), 10)
HEAVY = ("torch", "sklearn", "scipy", "pandas")


def population(predictor: LatencyPredictor, count: int, repeats: int) -> dict[str, Any]:
    """Architectures a second of each repeat; a CPU second is one of this process on any core."""
    space = CellSpace(SPEC)
    started = time.perf_counter()
    presence = space.presence(predictor.dtype, fusion=predictor.fusion)
    weights, constant = predictor.linear_ms(presence.kernels)
    prepared_s = time.perf_counter() - started
    rng = np.random.default_rng(0)
    genotypes = [space.random(rng) for _ in range(count)]
    choices = space.one_hot_many(genotypes)
    scored, used, whole = [], [], []
    for _ in range(repeats):
        started, before = time.perf_counter(), time.process_time()
        presence.scores(choices, weights, constant)
        scored.append(time.perf_counter() - started)
        used.append(time.process_time() - before)
        started = time.perf_counter()
        presence.scores(space.one_hot_many(genotypes), weights, constant)
        whole.append(time.perf_counter() - started)
    return {
        "architectures": count,
        "preparation_s": prepared_s,
        "one_hot_per_s": [count / s for s in scored],
        "one_hot_per_cpu_s": [count / s for s in used],
        "genotypes_per_s": [count / s for s in whole],
    }


def one_file(device: str, model: Path, repeats: int) -> dict[str, Any]:
    """Seconds of `factory predict` with the process's start, and what heavy packages it loads."""
    verb = ["predict", str(model), "--device", device, "--json"]
    command = [sys.executable, "-m", "factory", *verb]
    wall_s, cpu_s = [], []
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        wall_s.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        cpu_s.append(used)
    times = subprocess.run(
        [sys.executable, "-X", "importtime", *command[1:]],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    loaded = {line.rpartition("|")[2].strip() for line in times.splitlines()}
    return {
        "latency_ms": json.loads(answer.stdout)["latency_ms"],
        "wall_s": wall_s[1:],
        "cpu_s": cpu_s[1:],
        "heavy_packages": [name for name in HEAVY if name in loaded],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", required=True)
    parser.add_argument("--model", type=Path, required=True, help="an ONNX file")
    parser.add_argument("--architectures", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    predictor, path = predictor_for(load_profile(args.device), None)
    scored = population(predictor, args.architectures, args.repeats)
    file = one_file(args.device, args.model, args.repeats)
    print(
        f"{predictor.report['n_kernels']} kernels, {path.name}, {path.stat().st_size / 1e6:.1f} MB"
    )
    for name in ("one_hot_per_s", "one_hot_per_cpu_s", "genotypes_per_s"):
        print(f"{name}: {min(scored[name]):,.0f} to {max(scored[name]):,.0f}")
    for name in ("wall_s", "cpu_s"):
        print(f"{name}: {', '.join(f'{s:.2f}' for s in sorted(file[name]))}")
    print(f"heavy packages: {', '.join(file['heavy_packages']) or 'none'}")
    if args.out:
        answer = {"schema_version": 1, "device": args.device, "population": scored, "file": file}
        write_json(args.out, {**answer, "provenance": provenance()})


if __name__ == "__main__":
    main()
