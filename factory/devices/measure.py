"""Timing models with ONNX Runtime, inside the worker: sessions, warm-up, rounds, the trace.

Runs in the child process only: standard library, numpy and onnxruntime.
All the rules are those of :class:`factory.devices.base.TimingPlan`, which arrives as a dictionary.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from factory.core import made_up
from factory.devices import memory
from factory.devices.context import CONTEXT

REORDERS = ("ReorderInput", "ReorderOutput", "Transpose")
TRACE_WARMUP_RUNS = 3
FEWEST_TRACE_RUNS = 10
FEWEST_RUNS = 3
REFERENCE_TIME = 1 / 3  # of the time and runs of a candidate
QUIET_ROUNDS = 0.25  # quantile of the rounds that says what the references take undisturbed
Tick = Callable[[int, str], None]
Given = tuple[Mapping[str, np.ndarray] | None, str]
NOTHING_GIVEN: Given = (None, "")


def one_line(error: BaseException) -> str:
    """An exception as one line of bounded length, without the runtime's boilerplate."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ")[:400]


def make_session(
    model: bytes | str,
    config: Mapping[str, Any],
    trace_prefix: str | None = None,
    optimised_path: str | None = None,
) -> ort.InferenceSession:
    """A session with every optimisation on the one execution provider, never another instead.

    ``model``: its content, or the path of its file.
    ``optimised_path``: where the graph as it will run is written, its weights in a file beside it.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = config["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = config.get("log_severity", 4)
    if config["threads"] > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in config.get("session_entries", {}).items():
        options.add_session_config_entry(key, value)
    if trace_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = trace_prefix
    if optimised_path is not None:
        options.optimized_model_filepath = optimised_path
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{prefix}file_name", "weights.bin")
        options.add_session_config_entry(f"{prefix}min_size_in_bytes", "64")
    if config.get("provider_library"):  # a plug-in is chosen by its devices, not by its name
        name = config["execution_provider"]
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
        options.add_provider_for_devices(devices, config["provider_options"])
        return ort.InferenceSession(model, options, enable_fallback=0)
    provider = (config["execution_provider"], config["provider_options"])
    return ort.InferenceSession(model, options, providers=[provider], enable_fallback=0)


def with_weights(config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The settings for a model whose weights lie in files of ``folder``; "": in itself."""
    if not folder:
        return dict(config)
    key = "session.model_external_initializers_file_folder_path"
    return {**config, "session_entries": {**config.get("session_entries", {}), key: folder}}


def register_plugin(name: str, library: str) -> list[str]:
    """Load a plug-in execution provider; the providers that are there then.

    ``library`` is the path of its library, or a Python package that has get_library_path().
    """
    path = library
    if not library.endswith((".so", ".dll", ".dylib")):
        path = importlib.import_module(library).get_library_path()
    ort.register_execution_provider_library(name, path)
    found = [*ort.get_available_providers(), *(device.ep_name for device in ort.get_ep_devices())]
    return list(dict.fromkeys(found))


class Candidate:
    """One model of a block: its session, its bound buffers and its samples."""

    def __init__(
        self,
        model: bytes,
        config: Mapping[str, Any],
        trace: str | None = None,
        optimised_path: str | None = None,
        given: Given = NOTHING_GIVEN,
    ) -> None:
        feeds, folder = given
        config = with_weights(config, folder)
        before_kb = memory.begin()
        started = time.perf_counter()
        self.session = make_session(model, config, trace, optimised_path)
        self.session_ms = (time.perf_counter() - started) * 1e3
        self.samples_ns: list[list[int]] = []  # by round
        self.runs_per_round = 1
        tries = made_up_feeds(self.session) if feeds is None else [feeds]
        _, self.first_run_ms = made_up.first_of(self._bind_and_run, tries)
        self.peak_memory_mb = memory.peak_mb(before_kb)

    def _bind_and_run(self, feeds: Mapping[str, np.ndarray]) -> float:
        self.feeds = feeds  # keeps the bound buffers alive
        self.binding = self.session.io_binding()
        for name, array in feeds.items():
            self.binding.bind_cpu_input(name, array)
        for output in self.session.get_outputs():
            self.binding.bind_output(output.name)
        return self.run(1)[0] / 1e6

    def run(self, runs: int) -> list[int]:
        """Nanoseconds of each of ``runs`` runs."""
        run, binding, clock = self.session.run_with_iobinding, self.binding, time.perf_counter_ns
        taken_ns = []
        for _ in range(runs):
            start = clock()
            run(binding)
            taken_ns.append(clock() - start)
        return taken_ns

    def warm_up(self, plan: Mapping[str, Any], alive: Callable[[], None]) -> float:
        """Run until the window medians settle or the time is up; the last median in ms."""
        deadline = time.perf_counter() + plan["warmup_time_ms"] / 1e3
        before = 0.0
        while True:
            window: list[int] = []
            while len(window) < plan["warmup_runs"]:
                window += self.run(1)
                alive()
                if time.perf_counter() >= deadline:
                    break
            median = max(statistics.median(window), 1.0)
            if abs(median - before) <= plan["warmup_tolerance"] * before:
                return median / 1e6
            if time.perf_counter() >= deadline:
                return median / 1e6
            before = median

    def plan_runs(
        self, median_ms: float, plan: Mapping[str, Any], rounds: int, share: float = 1.0
    ) -> None:
        """Decide how many runs each round gets; ``share`` of the plan's time and runs."""
        runs = min(
            max(math.ceil(plan["min_time_ms"] / median_ms), plan["min_runs"]), plan["max_runs"]
        )
        affordable = max(int(plan["max_time_ms"] / median_ms), FEWEST_RUNS)
        self.runs_per_round = max(1, math.ceil(share * min(runs, affordable) / rounds))

    def result(self, rounds: Sequence[int]) -> dict[str, Any]:
        """Statistics over the samples of these rounds, as fields of a Timing."""
        samples_ns = [taken for number in rounds for taken in self.samples_ns[number]]
        return {
            "status": "ok",
            **sample_statistics(samples_ns),
            "session_ms": self.session_ms,
            "first_run_ms": self.first_run_ms,
            "peak_memory_mb": self.peak_memory_mb,
            "providers": assigned_providers(self.session),
        }


def sample_statistics(samples_ns: Sequence[int]) -> dict[str, Any]:
    """Median, tails, minimum, mean and number of the samples, as fields of a Timing."""
    samples_ms = np.asarray(samples_ns) / 1e6
    p10, median, p90 = np.percentile(samples_ms, [10, 50, 90])
    return {
        "median_ms": float(median),
        "p10_ms": float(p10),
        "p90_ms": float(p90),
        "min_ms": float(samples_ms.min()),
        "mean_ms": float(samples_ms.mean()),
        "runs": len(samples_ms),
    }


def quiet_rounds(references: Sequence[Candidate], rounds: int, disturbed: float) -> list[int]:
    """The rounds that count: those in which no reference took longer than in the quietest ones.

    A round is disturbed where the mean of a reference's samples is larger by over ``disturbed``
    than in the quieter rounds. (The mean, since a program that shares the core takes it away for
    milliseconds: single runs then take several times as long, the median of a short model stays.)
    All rounds count where fewer than half are quiet: then the quiet ones cannot be told apart.
    """
    quiet = np.ones(rounds, dtype=bool)
    for one in references:
        means = np.array([np.mean(taken) for taken in one.samples_ns])
        quiet &= means <= (1.0 + disturbed) * np.quantile(means, QUIET_ROUNDS)
    kept = np.flatnonzero(quiet)
    return kept.tolist() if 2 * len(kept) >= rounds else list(range(rounds))


def made_up_feeds(session: ort.InferenceSession) -> Iterator[dict[str, np.ndarray]]:
    """Fixed values for the inputs of a session, best first (factory/core/made_up.py).

    Raises ValueError for a dynamic shape, a foreign type or too many elements.
    """
    inputs = {}
    for meta in session.get_inputs():
        if not all(isinstance(size, int) and size >= 0 for size in meta.shape):
            raise ValueError(f"input {meta.name!r} has a dynamic shape {list(meta.shape)}")
        dtype = made_up.TYPES.get(meta.type.removeprefix("tensor(").removesuffix(")"))
        if dtype is None:
            raise ValueError(f"input {meta.name!r} has the unsupported type {meta.type}")
        inputs[meta.name] = (dtype, meta.shape)
    return made_up.feeds(inputs)


def assigned_providers(session: ort.InferenceSession) -> dict[str, int]:
    """Execution provider -> number of graph nodes, where the runtime records it (>= 1.24.1)."""
    counts: dict[str, int] = {}
    try:
        for subgraph in session.get_provider_graph_assignment_info():
            counts[subgraph.ep_name] = counts.get(subgraph.ep_name, 0) + len(subgraph.get_nodes())
    except Exception:  # an older runtime: the trace is asked instead
        return {}
    return counts


def trace_runs(plan: Mapping[str, Any], median_ms: float) -> int:
    """Runs of the traced session: enough for ``min_time_ms``, within 8 and ``profile_runs``."""
    enough = math.ceil(plan["min_time_ms"] / max(median_ms, 1e-3))
    return int(min(plan["profile_runs"], max(enough, FEWEST_TRACE_RUNS)))


def trace_nodes(
    model: bytes,
    config: Mapping[str, Any],
    runs: int,
    folder: str,
    *,
    graph: bool = False,
    given: Given = NOTHING_GIVEN,
) -> tuple[list[dict[str, Any]], float, str]:
    """Nodes as executed with their share of the traced time, that time in ms, and the graph.

    With ``graph`` the last is the graph as executed, an ONNX file without weights in base64; ""
    where it cannot be written: a provider that compiles nodes refuses that for the whole session.
    """
    with tempfile.TemporaryDirectory(dir=folder) as here:
        optimised = os.path.join(here, "optimised.onnx")
        prefix, content = os.path.join(here, "trace"), ""
        candidate = None
        if graph:
            with contextlib.suppress(Exception):
                candidate = Candidate(model, config, prefix, optimised, given)
                with open(optimised, "rb") as stream:
                    content = base64.b64encode(stream.read()).decode()
        if candidate is None:
            candidate = Candidate(model, config, prefix, None, given)
        candidate.run(TRACE_WARMUP_RUNS + runs - 1)  # it has run once
        with open(candidate.session.end_profiling(), encoding="utf-8") as text:
            events = json.load(text)
    return (*nodes_of_events(events, runs), content)


def nodes_of_events(
    events: Sequence[Mapping[str, Any]], runs: int
) -> tuple[list[dict[str, Any]], float]:
    """Nodes with their share of the traced time, and that time in ms.

    ``events`` is the runtime's trace of TRACE_WARMUP_RUNS + ``runs`` runs. It counts whole
    microseconds, cut off: half of one is added to each event, so that a node of less than one is
    not free. The time is the mean of the faster half of the runs; a node counts with the mean of
    the faster half of its own, so that whatever interrupts a run falls on no node. (Seven networks
    traced six times each on a busy machine: shares scattered by 3.5 to 3.9 % so, by 5.5 % as means
    over the runs that were the faster half as a whole.)
    """
    taken_us: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            details = event["args"]
            name = event["name"].removesuffix("_kernel_time")
            label = (name, details.get("op_name", "?"), details.get("provider", "?"))
            taken_us.setdefault(label, []).append(event["dur"] + 0.5)
    labels, us_LR = list(taken_us), np.array([_by_run(us, runs) for us in taken_us.values()])
    if not labels:
        return [], 0.0
    faster = math.ceil(runs / 2)
    total_us = np.sort(us_LR.sum(axis=0))[:faster].mean()
    node_us = np.sort(us_LR, axis=1)[:, :faster].mean(axis=1)
    nodes = [
        {"name": name, "op": op, "provider": provider, "share": float(share)}
        for (name, op, provider), share in zip(labels, node_us / node_us.sum(), strict=True)
    ]
    return nodes, float(total_us) / 1e3


def _by_run(taken_us: Sequence[float], runs: int) -> np.ndarray:
    """Time of the nodes of one name in each run after the warm-up."""
    a_run = len(taken_us) / (TRACE_WARMUP_RUNS + runs)
    if a_run != int(a_run):  # not run every time: its mean is all that can be said
        return np.full(runs, sum(taken_us) / (TRACE_WARMUP_RUNS + runs))
    by_run: np.ndarray = np.asarray(taken_us).reshape(-1, int(a_run)).sum(axis=1)
    return by_run[TRACE_WARMUP_RUNS:]


def reorder_share(nodes: Sequence[Mapping[str, Any]]) -> float:
    """Share of the nodes that a graph of one kernel adds: changes of layout, and context nodes.

    Quantize- and DequantizeLinear stay with the kernel: a kernel that keeps them is one that the
    runtime computes in floats, in a whole network too. A Transpose that stands alone is the kernel.
    """
    added = [n["op"] in REORDERS or CONTEXT in n["name"] for n in nodes]
    if all(added):
        return 0.0
    shares = (node["share"] for node, extra in zip(nodes, added, strict=True) if extra)
    return float(sum(shares))


def measure_many(
    models: Sequence[bytes],
    plan: Mapping[str, Any],
    rounds: int,
    config: Mapping[str, Any],
    folder: str,
    tick: Tick,
    given: Sequence[Given] = (),
) -> list[dict[str, Any]]:
    """Time the models of a block in interleaved rounds; a failure is a result with its reason.

    ``tick(index, phase)`` announces what is done next, so that the parent knows who hangs.
    ``given`` holds what goes with each model: values of its inputs, the folder of its weights.
    """
    given = given or [NOTHING_GIVEN] * len(models)
    results: list[dict[str, Any]] = [{} for _ in models]
    ready: dict[int, Candidate] = {}
    references = range(len(models) - plan.get("references", 0), len(models))

    def attempt(index: int, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            ready.pop(index, None)
            results[index] = {"status": "failed", "reason": one_line(error)}

    def prepare(index: int) -> None:
        tick(index, "making the session")
        candidate = Candidate(models[index], config, given=given[index])
        tick(index, "warming up")
        median_ms = candidate.warm_up(plan, lambda: tick(index, ""))
        share = REFERENCE_TIME if index in references else 1.0
        candidate.plan_runs(median_ms, plan, rounds, share)
        ready[index] = candidate

    def measure(index: int) -> None:
        candidate = ready[index]
        if len(models) > 1 and rounds > 1:
            candidate.run(1)  # the first run after another model finds cold caches
        candidate.samples_ns.append([])
        for _ in range(candidate.runs_per_round):
            candidate.samples_ns[-1] += candidate.run(1)
            tick(-1, "")

    def trace(index: int) -> None:
        tick(index, "tracing")
        result = results[index]
        runs = trace_runs(plan, result["median_ms"])
        graph = bool(plan.get("optimised_graph"))
        nodes, traced_ms, content = trace_nodes(
            models[index], config, runs, folder, graph=graph, given=given[index]
        )
        result.update(nodes=nodes, traced_ms=traced_ms, optimised=content)
        result["reorder_share"] = reorder_share(nodes)
        if not result["providers"]:
            for node in nodes:
                provider = node["provider"]
                result["providers"][provider] = result["providers"].get(provider, 0) + 1

    for index in range(len(models)):
        attempt(index, lambda index=index: prepare(index))  # type: ignore[misc]
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            order = sorted(ready)
            if order:
                start = number % len(order)
                order = order[start:] + order[:start]
            for index in order if number % 2 == 0 else reversed(order):
                attempt(index, lambda index=index: measure(index))  # type: ignore[misc]
    finally:
        gc.enable()
    beside = [ready[index] for index in references if index in ready]
    kept = quiet_rounds(beside, rounds, plan["disturbed"]) if beside else list(range(rounds))
    for index, candidate in list(ready.items()):
        results[index] = candidate.result(kept)
        if plan["profile_runs"] > 0 and index not in references:
            attempt(index, lambda index=index: trace(index))  # type: ignore[misc]
    return results
