"""What another program does to networks of 1, 8 and 30 ms, and which reference shows it.

A program that streams through memory, one that computes, and one that does both, on the measured
core, on another one, and on both. Each is measured between two quiet measurements; a table says by
how much networks and references slow down, and what decides (factory/profiling/trust.py).

    python tools/bench_references.py --device local-cpu-t1-fp32 --repeats 3 --out references.json
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.core.files import write_json
from factory.core.provenance import now_utc, provenance
from factory.devices.base import DISTURBED, Device, TimingPlan, open_device
from factory.devices.profile import load_profile
from factory.graph.counts import count
from factory.graph.onnx_build import to_onnx
from factory.pipeline.network_samples import sample_network
from factory.profiling.trust import Attempt, SteadyTimer, recent

SCHEMA_VERSION = 1
SEED = 50_000  # networks that no profile draws
WANTED_MS = (1.0, 8.0, 30.0)
CANDIDATES = 60
PLAN = TimingPlan(min_runs=16, max_runs=2000, min_time_ms=200.0)
ROUNDS = 4
QUIET_FIRST = 3  # measurements that say what is usual
DISTURBER = """
import os, sys, time
import numpy as np
kind, cores, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
os.sched_setaffinity(0, {int(cores)})
source = np.ones(64 << 20, dtype=np.float32)  # 256 MB, and as much again
target, small = np.empty_like(source), np.ones((96, 96), np.float32)
target[:] = 0
print("ready", flush=True)
end = time.time() + seconds
while time.time() < end:
    if kind != "compute":
        np.copyto(target, source)
    if kind != "stream":
        until = time.time() + 0.05
        while time.time() < until:
            small @ small
"""


@contextlib.contextmanager
def disturbed(kind: str, cores: list[int]) -> Iterator[None]:
    """One program a core, while the block runs."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DISTURBER, kind]
    started = [
        subprocess.Popen([*command, str(core), "120"], env=environment, stdout=subprocess.PIPE)
        for core in cores
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        time.sleep(0.2)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def networks(device: Device) -> dict[str, bytes]:
    """Random mobile networks that take nearest to the wanted times on this device."""
    dtype = device.profile.dtype
    graphs = [sample_network("mobile", SEED, number) for number in range(CANDIDATES)]
    graphs.sort(key=lambda graph: count(graph).macs)
    times: list[tuple[float, bytes]] = []
    short = TimingPlan(min_runs=5, max_runs=20, min_time_ms=20.0)
    for graph in graphs:
        model = to_onnx(graph, dtype).SerializeToString()
        timing = device.time_many([model], short)[0]
        if timing.ok:
            times.append((timing.median_ms, model))
    chosen = [min(times, key=lambda one: abs(one[0] / ms - 1.0)) for ms in WANTED_MS]
    return {f"network of {ms:.3g} ms": model for ms, model in chosen}


def main() -> None:
    """Measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="local-cpu-t1-fp32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    with open_device(load_profile(args.device)) as device:
        describe = device.describe()
        models = networks(device)
        timer = SteadyTimer(device)
        quiet = [timer.once(list(models.values()), PLAN, ROUNDS) for _ in range(QUIET_FIRST)]
        timer.usual = recent([attempt.speed for attempt in quiet])
        own = describe["cores"][-1]
        other = next(core for core in os.sched_getaffinity(0) if core != own)
        where = {"same core": [own], "other core": [other], "both cores": [own, other]}
        usual = [statistics.median(a.timings[i].median_ms for a in quiet) for i in range(3)]

        def row(attempt: Attempt) -> dict[str, Any]:
            slower = [t.median_ms / ms for t, ms in zip(attempt.timings, usual, strict=True)]
            median_ms = timer.usual.median_ms if timer.usual else {}
            return {
                **dict(zip(models, slower, strict=True)),
                **{k: attempt.speed.median_ms(k) / ms for k, ms in median_ms.items()},
                "stolen": attempt.speed.stolen,
                "disturbed": attempt.slower.share,
                "sign": attempt.slower.sign,
            }

        for _ in range(args.repeats):
            for kind in ("stream", "compute", "both"):
                for name, cores in where.items():
                    with disturbed(kind, cores):
                        measured = timer.once(list(models.values()), PLAN, ROUNDS)
                    rows.setdefault(f"{kind}, {name}", []).append(row(measured))
                    measured = timer.once(list(models.values()), PLAN, ROUNDS)
                    rows.setdefault("quiet", []).append(row(measured))
    columns = [key for key in rows["quiet"][0] if key != "sign"]
    print("| program | " + " | ".join(columns) + " | decided on |")
    print("|---|" + "---|" * (len(columns) + 1))
    for name, found in rows.items():
        middle = [f"{statistics.median(one[key] for one in found):.2f}" for key in columns]
        trusted = sum(one["disturbed"] <= DISTURBED for one in found)
        print(f"| {name} | " + " | ".join(middle) + f" | {trusted} of {len(found)} |")
    if args.out:
        write_json(
            args.out,
            {
                "schema_version": SCHEMA_VERSION,
                "date": now_utc(),
                "describe": describe,
                "provenance": provenance(),
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
