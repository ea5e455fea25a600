"""From what the page posted to a Timing: checked numbers, node shares, and who ran what.

The WASM build runs every node on its one CPU provider. WebGPU and WebNN hand what they do not take
to it without a word, so a model on them is always traced once: nodes that fell back are counted,
and a model that fell back whole is a failure, never a time of the accelerator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factory.core.wire import Wrong
from factory.devices.base import CPU, Timing
from factory.devices.browser_boundary import NO_BOUNDARY, Boundary
from factory.devices.browser_facts import text
from factory.devices.messages import PAGE_RESULT, check_trace

WASM = "wasm"
NAMES = {  # the runtime's names of its providers -> those of a profile
    CPU: WASM,
    "JsExecutionProvider": "webgpu",
    "WebGpuExecutionProvider": "webgpu",
    "WebNNExecutionProvider": "webnn",
}
OPTIONAL = ("session_ms", "mean_ms")


def read_result(raw: Any, most_traced_runs: int) -> dict[str, Any]:
    """What the page posted for one model, checked, its trace made into nodes with their shares.

    A failure where it makes no sense: that costs the model, not the block.
    """
    try:
        result: dict[str, Any] = PAGE_RESULT(raw, "")
        events, runs = result.pop("events", []), result.pop("traced_runs", 0)
        if events and not 1 <= runs <= most_traced_runs:
            raise Wrong(f"traced_runs is {runs}, not 1 to {most_traced_runs}")
        if events:
            check_trace(events, runs)
            result.update(_traced(events, runs))
    except Wrong as wrong:
        return {"status": "failed", "reason": f"the page sent no proper times: {wrong}"}
    return result


def timing_of(
    result: Mapping[str, Any], model: bytes, provider: str, boundary: Boundary = NO_BOUNDARY
) -> Timing:
    """The timing of one model on ``provider`` ("wasm", "webgpu", "webnn"), as it was read.

    The share of its time at the ``boundary`` joins that of the nodes that one kernel's graph adds.
    """
    if result["status"] != "ok":
        return Timing.failed(result["reason"])
    timing = {**result, **{name: result.get(name) or 0.0 for name in OPTIONAL}}
    if "nodes" not in timing:
        timing["providers"] = {WASM: count_nodes(model)} if provider == WASM else {}
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
