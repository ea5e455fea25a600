"""The user's own onnxruntime_perf_test as the runner on a phone.

It times one model a call with random inputs and appends `model,seconds,...` a run to a file, so
models are interleaved call by call. It neither pins nor returns outputs, and its version of ONNX
Runtime is not told: the profile's `runtime_version` says it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from factory.core.wire import LONGEST_JSON, Wrong, printable
from factory.devices.adb_job import content_of
from factory.devices.base import TimingPlan
from factory.devices.profile import DeviceProfile

PROGRAM = "onnxruntime_perf_test"
PROBE_RUNS = 5
LONGEST_RUN_S = 1e5
FEWEST_RUNS = 3
PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "NnapiExecutionProvider": "nnapi",
    "XnnpackExecutionProvider": "xnnpack",
    "QNNExecutionProvider": "qnn",
    "SNPEExecutionProvider": "snpe",
}


def arguments(
    profile: DeviceProfile, threads: int, model: str, results: str, runs: int, trace: str = ""
) -> list[str]:
    """The command line of one call."""
    name = profile.execution_provider
    words = ["-I", "-m", "times", "-r", str(runs), "-o", "99", "-x", str(threads), "-y", "1"]
    words += ["-e", PROVIDERS.get(name, name.removesuffix("ExecutionProvider").lower())]
    if profile.provider_options:
        pairs = [f"{key}|{value}" for key, value in profile.provider_options.items()]
        words += ["-i", " ".join(pairs)]
    if threads > 1:
        words += ["-C", "session.intra_op.allow_spinning|0"]
    if trace:
        words += ["-p", trace]
    return [*words, model, results]


def parse_results(path: Path) -> list[int]:
    """Nanoseconds of every run that the file holds; Wrong when it holds none, or another thing."""
    samples = []
    for line in content_of(path, LONGEST_JSON).decode("utf-8", "replace").splitlines():
        cells = line.split(",")
        if len(cells) >= 5:
            try:
                seconds = float(cells[1])
            except ValueError:
                seconds = -1.0
            if not 0 <= seconds <= LONGEST_RUN_S:
                raise Wrong(f"{PROGRAM} wrote {printable(cells[1], 40)!r} as a time")
            samples.append(round(seconds * 1e9))
    if not samples:
        raise Wrong(f"{PROGRAM} wrote no times")
    return samples


def runs_per_round(probe_ns: Sequence[int], plan: TimingPlan, rounds: int) -> int:
    """How many runs each round gets, by the rules of the plan, from a few probing runs."""
    median_ms = max(statistics.median(probe_ns) / 1e6, 1e-6)
    runs = min(max(math.ceil(plan.min_time_ms / median_ms), plan.min_runs), plan.max_runs)
    affordable = max(int(plan.max_time_ms / median_ms), FEWEST_RUNS)
    return max(1, math.ceil(min(runs, affordable) / rounds))
