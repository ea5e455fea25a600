"""Whether a device agent on this machine measures what the local transport measures.

Blocks of kernels of the demo's space are timed in turn by the local transport, by an agent on
loopback and by the local transport in another process, pinned to the same core with the same plan;
every block in processes of its own, in an order that turns. What the two local measurements differ
by is the noise that the agent's difference is held against: two processes of one program lie
differently in memory, and that alone is worth a few per cent.

    python tools/bench_transports.py --out transports.json [--agent http://127.0.0.1:8765]

Without --agent one is started for the run (tools/device_agent.py). Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.files import write_json
from factory.core.provenance import provenance
from factory.devices.agent import AgentDevice
from factory.devices.agent_options import AgentOptions
from factory.devices.base import Device, Timing
from factory.devices.local import LocalDevice
from factory.devices.profile import DeviceProfile
from factory.pipeline.profiling_plan import effort_settings, kernels_of
from factory.pipeline.shapes import cell_space
from factory.profiling.kernel_model import kernel_model

AGENT = Path(__file__).resolve().parent / "device_agent.py"
WAYS = ("local", "agent", "another local")


@contextlib.contextmanager
def own_agent() -> Iterator[str]:
    """The address of an agent that lives as long as the block."""
    command = [sys.executable, str(AGENT), "--port", "0", "--quiet", "--longest-wait", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def open_way(way: str, url: str, number: int) -> Device:
    """A device whose child process is a new one; an agent starts one for another timeout."""
    if way != "agent":
        return LocalDevice(DeviceProfile(id="local", threads=1))
    timeout_s = 60.0 + number
    agent = AgentOptions(url=url)
    profile = DeviceProfile(
        id="agent", transport="agent", threads=1, timeout_s=timeout_s, agent=agent
    )
    return AgentDevice(profile, token="")


def measure(url: str, count: int, effort: str, block_size: int) -> list[dict[str, Any]]:
    """One entry a kernel: its medians in ms by way."""
    settings = effort_settings(effort)
    plan, rounds = settings.kernel_plan(), settings.rounds
    kernels = kernels_of([cell_space(8, 5, "3x32x32", "cifar", 10)], "f32")  # the demo's
    random.Random(0).shuffle(kernels)
    kernels = kernels[:count]
    entries: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, len(kernels), block_size)):
        block = kernels[start : start + block_size]
        models = [kernel_model(kernel) for kernel in block]
        timed: dict[str, list[Timing]] = {}
        with contextlib.ExitStack() as stack:
            devices = {way: stack.enter_context(open_way(way, url, number)) for way in WAYS}
            if number == 0:
                prints = [device.describe()["fingerprint"] for device in devices.values()]
                assert prints[0] == prints[1] == prints[2], "the agent is another chip"
            turn = number % len(WAYS)
            for way in WAYS[turn:] + WAYS[:turn]:
                timed[way] = devices[way].time_many(models, plan, rounds=rounds)
        for index, kernel in enumerate(block):
            timings = [timed[way][index] for way in WAYS]
            entries.append(
                {
                    "kernel": str(kernel),
                    "equal_nodes": len({tuple(n["op"] for n in t.nodes) for t in timings}) == 1,
                    **{way: t.median_ms for way, t in zip(WAYS, timings, strict=True)},
                    "failed": [t.reason for t in timings if not t.ok],
                }
            )
        print(f"{len(entries)} of {len(kernels)}", file=sys.stderr)
    return entries


def summary(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the agent is from the mean of both local measurements, and these from each other."""
    good = [entry for entry in entries if not entry["failed"]]
    a, b, c = (np.array([entry[way] for entry in good]) for way in WAYS)
    ratios = {"agent over local": b / np.sqrt(a * c), "local over another local": c / a}
    return {
        name: {
            "median": float(np.median(ratio)),
            "p5": float(np.percentile(ratio, 5)),
            "p95": float(np.percentile(ratio, 95)),
        }
        for name, ratio in ratios.items()
    } | {
        "kernels": len(entries),
        "failed": len(entries) - len(good),
        "equal_nodes": sum(entry["equal_nodes"] for entry in entries),
    }


def main() -> None:
    """Measure, print a table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--agent", default=None, help="address of a running agent without a token")
    parser.add_argument("--kernels", type=int, default=96)
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--block-size", type=int, default=8)
    options = parser.parse_args()
    started = time.monotonic()
    context = contextlib.nullcontext(options.agent) if options.agent else own_agent()
    with context as url:
        entries = measure(url, options.kernels, options.effort, options.block_size)
    facts = summary(entries)
    seconds = round(time.monotonic() - started, 1)
    write_json(
        options.out,
        {
            "schema_version": 1,
            "provenance": provenance(),
            "options": {"kernels": options.kernels, "effort": options.effort},
            "seconds": seconds,
            "summary": facts,
            "entries": entries,
        },
    )
    for name in ("agent over local", "local over another local"):
        row = facts[name]
        print(f"{name:24} median {row['median']:.4f}  p5 {row['p5']:.3f}  p95 {row['p95']:.3f}")
    print(
        f"{facts['kernels']} kernels, {facts['failed']} failed, nodes equal for "
        f"{facts['equal_nodes']}, {seconds:.0f} s; written to {options.out}"
    )


if __name__ == "__main__":
    main()
