"""Where the time goes: a tier's kernels as rows a person can read, by share and by kind."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from factory.core.errors import FactoryError
from factory.graph.kernel import Kernel
from factory.reporting.artefacts import Json, number, records

TOP_KERNELS = 12
KIND_NAMES = {
    "conv_dense": "dense conv",
    "conv_pointwise": "pointwise conv",
    "conv_depthwise": "depthwise conv",
    "conv_grouped": "grouped conv",
    "gemm": "linear",
    "pool": "pooling",
    "elementwise": "elementwise",
    "concat": "concat",
    "global_pool": "global pooling",
    "copy": "copies",
    "constant": "constant per run",
    "other": "other",
}


def kernel_rows(kernels: Any) -> Json:
    """The largest kernels and the sum per kind, from ``kernels`` of a verification.

    Returns ``{"top": [{text, label, detail, kind, count, ms, share}], "kinds": [{kind, name,
    share}], "rest": {count, share}}``; shares are of the predicted latency.
    """
    rows: list[Json] = []
    for entry in records(kernels):
        share = number(entry.get("share"))
        if share is None:
            continue
        text = str(entry.get("kernel", ""))
        label, detail, kind = readable(text)
        rows.append(
            {
                "text": text,
                "label": label,
                "detail": detail,
                "kind": kind,
                "count": number(entry.get("count")),
                "ms": number(entry.get("predicted_ms")),
                "share": max(share, 0.0),
            }
        )
    rows.sort(key=lambda row: -row["share"])
    kinds: dict[str, float] = defaultdict(float)
    for row in rows:
        kinds[row["kind"]] += row["share"]
    rest = rows[TOP_KERNELS:]
    return {
        "top": rows[:TOP_KERNELS],
        "kinds": [
            {"kind": kind, "name": KIND_NAMES.get(kind, kind), "share": share}
            for kind, share in sorted(kinds.items(), key=lambda item: -item[1])
        ],
        "rest": {
            "count": len(rest),
            "share": sum(row["share"] for row in rest),
        },
    }


def node_rows(nodes: Any) -> list[Json]:
    """Measured share per operator of the executed graph, from the runtime's trace."""
    shares: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for node in records(nodes):
        share = number(node.get("share"))
        if share is not None:
            entry = shares[str(node.get("op", "?"))]
            entry[0] += share
            entry[1] += 1
    ordered = sorted(shares.items(), key=lambda item: -item[1][0])
    return [{"op": op, "share": share, "count": int(count)} for op, (share, count) in ordered]


def readable(text: str) -> tuple[str, str, str]:
    """Label, detail and kind of a kernel's text; the text itself where it is no kernel."""
    try:
        kernel = Kernel.parse(text)
    except FactoryError:
        kind = "constant" if "constant" in text.lower() else "other"
        return text, "", kind
    shape = "×".join(str(d) for d in kernel.inputs[0][1:])
    name = KIND_NAMES.get(kernel.kind, kernel.op)
    if kernel.op == "Conv" and kernel.weight is not None:
        size = "×".join(str(d) for d in kernel.weight[2:])
        label = f"{size} {name}"
    elif kernel.op in ("MaxPool", "AveragePool"):
        size = kernel.attr("k", "?")
        label = f"{'max' if kernel.op == 'MaxPool' else 'average'} pool {size}"
    else:
        label = kernel.op
    detail = [shape]
    if kernel.weight is not None and kernel.kind != "conv_depthwise":
        detail[0] += f" → {kernel.weight[0]}"
    if kernel.attr("s") not in ("", "1"):
        detail.append(f"stride {kernel.attr('s')}")
    if kernel.attr("d") not in ("", "1"):
        detail.append(f"dilation {kernel.attr('d')}")
    if kernel.attr("act") not in ("", "none"):
        detail.append(f"+ {kernel.attr('act')}")
    return label, ", ".join(detail), kernel.kind
