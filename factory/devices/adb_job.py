"""The job file that a runner on a phone reads, and the results that it writes.

The format is told in docs/formats/adb-job.md; tools/android_runner/factory_runner.cc is the
program that carries it out.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.frames import unpack_arrays
from factory.core.wire import LONGEST_JSON, Form, Wrong, parse_json
from factory.devices.base import Timing, TimingPlan
from factory.devices.messages import (
    LONGEST_OUTPUTS,
    RUNNER_HEAD,
    RUNNER_TIMED,
    TIMINGS,
    check_trace,
    node_events,
    read,
    timings,
)
from factory.devices.profile import DeviceProfile

JOB, RESULTS = "job.txt", "results.jsonl"
WRITTEN = ("trace", "optimised")  # files that "time" writes for each model
FIRST_LINE = "factory-job 1"
PLAN_KEYS = (
    "min_runs",
    "max_runs",
    "min_time_ms",
    "max_time_ms",
    "warmup_runs",
    "warmup_time_ms",
    "warmup_tolerance",
    "profile_runs",
    "optimised_graph",
)


def job_text(
    kind: str,
    profile: DeviceProfile,
    cores: Sequence[int],
    memory_mb: int,
    models: Sequence[str],
    *,
    plan: TimingPlan | None = None,
    rounds: int = 1,
    inputs: Sequence[tuple[str, np.ndarray, str]] = (),
) -> str:
    """A job: "time", "run" or "batch" of ``models`` (file names), ``inputs`` (name, array, file).

    Whatever a user or a model names is written in hexadecimal: one word, whatever it holds.
    """
    from factory.devices.measure import TRACE_WARMUP_RUNS

    lines = [FIRST_LINE, f"kind {kind}", f"provider {profile.execution_provider}"]
    for key, value in profile.provider_options.items():
        lines.append(f"option {_hex(key)} {_hex(str(value))}")
    lines += [f"threads {len(cores)}", f"rounds {max(1, rounds)}", f"memory_mb {memory_mb}"]
    lines += [f"core {core}" for core in (cores if profile.pin else ())]
    if plan is not None:
        lines += [f"{key} {value:g}" for key, value in asdict(plan).items() if key in PLAN_KEYS]
        lines.append(f"trace_warmup_runs {TRACE_WARMUP_RUNS}")
    lines += [f"model {name}" for name in models]
    for name, array, file in inputs:
        sizes = " ".join(str(size) for size in array.shape)
        lines.append(f"input {_hex(name)} {array.dtype.str} {file} {array.ndim} {sizes}".rstrip())
    return "\n".join(lines) + "\n"


def read_results(folder: Path, form: Form = RUNNER_TIMED) -> tuple[str, list[dict[str, Any]]]:
    """What the runner could not do when it started, and a result a model, in order.

    Raises Wrong when the file is cut or not what a runner writes; ``form`` is that of a result.
    """
    head, *lines = content_of(folder / RESULTS, LONGEST_JSON).splitlines() or [b""]
    pin_note = read(head, RUNNER_HEAD)["pin_note"]
    results: list[dict[str, Any]] = []
    for index, line in enumerate(lines):
        result = read(line, form, LONGEST_JSON)
        if result["index"] != index:
            raise Wrong(f"result {index} is missing")
        results.append(result)
    return pin_note, results


def content_of(path: Path, longest: int) -> bytes:
    """The content of a file that came from a phone; Wrong when it is not there or too long."""
    try:
        with path.open("rb") as stream:
            content = stream.read(min(longest, path.stat().st_size) + 1)
    except OSError as error:
        raise Wrong(f"{path.name} cannot be read ({error.strerror})") from None
    if len(content) > longest:
        raise Wrong(f"{path.name} has more than {longest} bytes")
    return content


def file_names(kind: str, entries: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Names of files that a runner says it wrote ("trace0_1.json", "out0.bin"), none else.

    Wrong when one has another form: what a phone answers must not lead out of the folder.
    """
    names = [entry[key] for entry in entries if entry.get(key)]
    for name in names:
        if not re.fullmatch(rf"{kind}[0-9A-Za-z_-]+\.(json|bin|onnx)", name):
            raise Wrong(f"a file called {name[:60]!r}")
    return names


def timing_of(result: Mapping[str, Any], folder: Path, profile_runs: int) -> Timing:
    """The Timing of one result, its trace and executed graph read from ``folder``; or Wrong."""
    from factory.devices.measure import nodes_of_events, reorder_share, sample_statistics

    if result["status"] != "ok":
        return Timing.failed(result["reason"])
    nodes: list[dict[str, Any]] = []
    traced_ms = 0.0
    if result.get("trace") and profile_runs:
        [name] = file_names("trace", [result], "trace")
        events = node_events(parse_json(content_of(folder / name, LONGEST_JSON)), name)
        check_trace(events, profile_runs)
        nodes, traced_ms = nodes_of_events(events, profile_runs)
    providers: dict[str, int] = {}
    for node in nodes:
        providers[node["provider"]] = providers.get(node["provider"], 0) + 1
    optimised = ""
    if nodes and result.get("optimised"):
        [name] = file_names("optimised", [result], "optimised")
        optimised = base64.b64encode(content_of(folder / name, 1 << 24)).decode()
    told = {
        "status": "ok",
        **sample_statistics(result["samples_ns"]),
        "session_ms": result["session_ms"],
        "nodes": nodes,
        "traced_ms": traced_ms,
        "reorder_share": reorder_share(nodes) if nodes else 0.0,
        "providers": providers,
        "optimised": optimised,
    }
    return timings(TIMINGS([told], "timings"), 1)[0]


def outputs_of(result: Mapping[str, Any], folder: Path) -> dict[str, np.ndarray]:
    """The arrays that a "run" or "batch" wrote, by output name; Wrong where they are damaged."""
    facts, contents = [], []
    for output in result["outputs"]:
        names = file_names("out", [output], "file")
        contents.append(content_of(folder / names[0], LONGEST_OUTPUTS) if names else b"")
        shape, size = output["shape"], np.dtype(output["dtype"]).itemsize
        if "joined" in result:  # the outputs of a batch, one after the other
            repeats = len(contents[-1]) // max(size * math.prod(shape), 1)
            if result["joined"] and not shape:
                raise Wrong(f"{names} has no dimension along which it could be joined")
            shape = [repeats * shape[0], *shape[1:]] if result["joined"] else [repeats, *shape]
        facts.append({"name": output["name"], "dtype": output["dtype"], "shape": shape})
    return unpack_arrays(facts, contents)


def _hex(text: str) -> str:
    return text.encode().hex() or "-"
