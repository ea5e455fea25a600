"""What `factory devices explain` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from factory.cli.output import table

MOST_NODES = 3  # names of refused nodes shown for one reason


def explained_lines(answer: Mapping[str, Any]) -> list[str]:
    """The answer of the verb as lines: the verdict first, then what was refused, then the rest."""
    provider = answer["provider"]
    lines = [f"{answer['model']} on {answer['device']} ({provider}):"]
    if answer["failure"]:
        lines.append(f"  no session can be made: {answer['failure']}")
    elif not answer["taken"]:
        lines.append("  it takes NO node: the CPU would run the whole model")
    else:
        pieces = answer["partitions"].get(provider, 0)
        piece = "1 piece" if pieces == 1 else f"{pieces} pieces"
        lines.append(f"  it takes {answer['taken']} of {len(answer['nodes'])} nodes, in {piece}")
    lines += [f"  the runtime said: {fault}" for fault in answer["faults"]]
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for node in answer["nodes"]:
        if node["provider"] != provider:
            grouped.setdefault((node["op"], node["reason"], node["change"]), []).append(
                node["name"]
            )
    if grouped and not answer["taken"] and not answer["failure"]:
        ops = Counter(node["op"] for node in answer["nodes"])
        lines.append("  refused: " + ", ".join(f"{n} {op}" for op, n in ops.most_common(8)))
        _, reason, change = next(iter(grouped))
        if reason not in answer["faults"]:
            lines.append(f"  why: {reason}")
        lines.append(f"  what to change: {change}")
    elif grouped:
        rows = [
            [op, _names(names), reason, change] for (op, reason, change), names in grouped.items()
        ]
        lines += table(["refused", "nodes", "why", "what to change"], rows)
    if answer["cosine_to_cpu"] is not None:
        lines.append(f"  outputs against the CPU's: cosine {answer['cosine_to_cpu']:.4f}")
    for context in answer["contexts"]:
        what = context.get("error") or f"{context['path']} ({context['bytes'] / 1e6:.1f} MB)"
        lines.append(f"  compiled for SoC {context['soc']}: {what}")
    return [*lines, *(f"  note: {note}" for note in answer["notes"])]


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NODES} more" if len(names) > MOST_NODES else ""
    return ", ".join(names[:MOST_NODES]) + more
