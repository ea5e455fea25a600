"""From what the page posted to a Timing: checked numbers, node shares, and who ran what.

The WASM build runs every node on its one CPU provider. WebGPU and WebNN hand what they do not take
to it without a word, so a model on them is always traced once: nodes that fell back are counted,
and a model that fell back whole is a failure, never a time of the accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from factory.devices.base import CPU, Timing
from factory.devices.browser_boundary import NO_BOUNDARY, Boundary
from factory.devices.browser_facts import text

WASM = "wasm"
NAMES = {  # the runtime's names of its providers -> those of a profile
    CPU: WASM,
    "JsExecutionProvider": "webgpu",
    "WebGpuExecutionProvider": "webgpu",
    "WebNNExecutionProvider": "webnn",
}
NUMBERS = ("median_ms", "p10_ms", "p90_ms", "min_ms")
OPTIONAL = ("session_ms", "mean_ms")


def timing_of(
    raw: Mapping[str, Any], model: bytes, provider: str, boundary: Boundary = NO_BOUNDARY
) -> Timing:
    """The timing of one model on ``provider`` ("wasm", "webgpu", "webnn").

    The share of its time at the ``boundary`` joins that of the nodes that one kernel's graph adds.
    """
    if raw.get("status") != "ok":
        return Timing.failed(text(raw.get("reason"), 400))
    values = {name: raw.get(name) for name in NUMBERS}
    runs = raw.get("runs")
    if not all(_is_time(value) for value in values.values()) or not _is_count(runs):
        return Timing.failed("the page sent no proper times")
    timing: dict[str, Any] = {
        "status": "ok",
        **values,
        "runs": runs,
        **{name: raw[name] for name in OPTIONAL if _is_time(raw.get(name))},
        "providers": {},
    }
    events, traced_runs = raw.get("events"), raw.get("traced_runs")
    if isinstance(events, list) and events and isinstance(traced_runs, int):
        try:
            timing.update(_traced(events, traced_runs))
        except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
            return Timing.failed("the page sent a trace that makes no sense")
    elif provider == WASM:
        timing["providers"] = {WASM: count_nodes(model)}
    within = 1.0 - boundary.share(model, timing["median_ms"])
    timing["reorder_share"] = 1.0 - (1.0 - timing.get("reorder_share", 0.0)) * within
    return Timing.from_dict(timing).placed_on(provider, WASM)


def count_nodes(model: bytes) -> int:
    """Nodes of the graph as it was sent."""
    import onnx

    return max(1, len(onnx.load_from_string(model).graph.node))


def _traced(events: Sequence[Mapping[str, Any]], runs: int) -> dict[str, Any]:
    from factory.devices.measure import nodes_of_events, reorder_share

    nodes, traced_ms = nodes_of_events(events, runs)
    for node in nodes:
        node["name"], node["op"] = text(node["name"], 120), text(node["op"])
        node["provider"] = NAMES.get(node["provider"], text(node["provider"]))
    providers: dict[str, int] = {}
    for node in nodes:
        providers[node["provider"]] = providers.get(node["provider"], 0) + 1
    return {
        "nodes": tuple(nodes),
        "traced_ms": traced_ms,
        "reorder_share": reorder_share(nodes),
        "providers": providers,
    }


def _is_time(value: Any) -> bool:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return good and math.isfinite(value) and 0 < value < 1e9


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9
