"""The answers of `factory table show`, `check` and `compare` as lines for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from factory.cli.output import called, table

SHOWN = 10
KIND_NAMES = {"in_place": "kernels in place", "kernel": "kernels alone", "network": "networks"}


def show_lines(answer: Mapping[str, Any]) -> list[str]:
    """A table's content, the most important first."""
    facts = answer["fingerprint"]
    rows = answer["rows"]
    lines = [
        f"{called(answer['device'], answer['simulated'])}: {facts.get('chip')}, "
        f"{facts.get('runtime')} "
        f"{facts.get('runtime_version')}, {facts.get('execution_provider')}, "
        f"{facts.get('threads')} thread(s), {facts.get('precision')}",
        f"table: {answer['table']} (schema version {answer['table_schema_version']})",
    ]
    if imported := answer["imported"]:
        lines.append(f"IMPORTED, not measured by the factory: {imported['source']}")
    lines += [
        f"rows: {rows['kernel']['ok']} kernels alone, {rows['in_place']['ok']} in place, "
        f"{rows['network']['ok']} networks, {rows['reference']['ok']} of the reference model; "
        f"{sum(kind['failed'] for kind in rows.values())} failed, "
        f"{answer['quarantined']} in quarantine, {answer['superseded']} replaced by later runs",
        f"measured: {answer['times']['first'] or '?'} to {answer['times']['last'] or '?'}, "
        f"{len(answer['blocks'])} blocks",
    ]
    if answer["cut_tail"]:
        lines.append("the last line is cut: that row is measured again by the next profile")
    if tested := answer["fusion"]:
        folded = [test["pair"] for test in tested if test["folded"]]
        lines.append(
            f"folded into the operator before ({len(folded)} of {len(tested)} pairs): "
            + (", ".join(folded) or "nothing")
        )
    lines += [*_clock_lines(answer), *_network_lines(answer["networks"]), *_origin_lines(answer)]
    if answer["families"]:
        lines += ["", *_family_lines(answer["families"])]
    for failure in answer["failures"]:
        lines.append(f"failed {failure['count']}x: {failure['reason']}")
        lines += [f"  {key}" for key in failure["examples"]]
    return [*lines, *_quarantine_lines(answer["quarantine"])]


def _clock_lines(answer: Mapping[str, Any]) -> list[str]:
    reference, marked = answer["reference"], [b for b in answer["blocks"] if b["marked"]]
    lines = []
    if reference:
        lines.append(
            f"reference model: {reference['usual_ms']:.4g} ms as a rule, "
            f"{reference['least_ms']:.4g} to {reference['most_ms']:.4g} ms over "
            f"{reference['times']} times"
        )
        if reference["drift"]:
            lines.append(reference["drift"])
    if marked:
        named = ", ".join(str(block["block"]) for block in marked[:SHOWN])
        lines.append(f"measured while the machine was disturbed: {len(marked)} block(s): {named}")
    return lines


def _network_lines(networks: Mapping[str, Any]) -> list[str]:
    lines = []
    names = {
        "median_ms": ("latency", "ms"),
        "session_ms": ("session creation", "ms"),
        "first_run_ms": ("first run", "ms"),
        "peak_memory_mb": ("peak memory", "MB"),
        "model_mb": ("model size", "MB"),
    }
    for key, (name, unit) in names.items():
        if spread := networks[key]:
            lines.append(
                f"networks' {name}: {spread['least']:.3g} to {spread['most']:.3g} {unit}, "
                f"median {spread['median']:.3g}"
            )
    return lines


def _origin_lines(answer: Mapping[str, Any]) -> list[str]:
    describe, made = answer["describe"], answer["provenance"] or {}
    lines = []
    if made:
        lines.append(
            f"made by: factory {made.get('factory')}, {made.get('platform')}, {made.get('date')}"
        )
    if describe:
        lines.append(
            f"pinned: {'yes' if describe.get('pinned') else 'no'}, load "
            f"{_known(describe.get('load_1min'))}, clock governor "
            f"{_known(describe.get('governor'))}"
        )
    lines += [f"note: {note}" for note in describe.get("notes") or []]
    for part in answer["merged"]:
        first, last = part["blocks"] or ["-", "-"]
        lines.append(
            f"blocks {first} to {last}: {part['rows']} rows of {part['table']} "
            f"({(part.get('provenance') or {}).get('date', 'date unknown')})"
        )
    return lines


def _known(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _family_lines(families: Iterable[Mapping[str, Any]]) -> list[str]:
    header = ["family", "kernels", "alone", "in place", "least ms", "median", "most", "share"]
    rows = [
        [
            entry["family"],
            str(entry["kernels"]),
            str(entry["alone"]),
            str(entry["in_place"]),
            f"{entry['least_ms']:.4f}",
            f"{entry['median_ms']:.4f}",
            f"{entry['most_ms']:.4f}",
            "" if entry["share"] is None else f"{entry['share']:.1%}",
        ]
        for entry in families
    ]
    return table(header, rows)


def _quarantine_lines(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    held = [entry for entry in entries if not entry["released"]]
    lines = [f"quarantine: {len(held)} row(s)"] if held else []
    for entry in held[:SHOWN]:
        lines.append(f"  {entry['row']} {entry['kind']} {entry['key']}: {entry['reason']}")
    if len(held) > SHOWN:
        lines.append(f"  and {len(held) - SHOWN} more (--json lists them)")
    return lines


def check_lines(answer: Mapping[str, Any]) -> list[str]:
    """What a check found, and what follows."""
    lines = []
    for finding in answer["findings"][: 4 * SHOWN]:
        at = f"line {finding['line']}: " if "line" in finding else ""
        lines.append(f"{finding['what']}: {at}{finding['text']}")
    if answer["exit_code"] == 2:
        damaged = any(finding["what"] == "damaged" for finding in answer["findings"])
        hint = "; `factory table check --repair` moves damaged lines out" if damaged else ""
        return [*lines, f"{answer['table']} cannot be used{hint}"]
    fresh = [entry for entry in answer["quarantined"] if entry["new"]]
    if answer["released"]:
        lines.append(f"{answer['released']} row(s) released")
    lines += [f"quarantined: {entry['key']}: {entry['reason']}" for entry in fresh[: 2 * SHOWN]]
    if len(fresh) > 2 * SHOWN:
        lines.append(f"and {len(fresh) - 2 * SHOWN} more (--json lists them)")
    lines.append(
        f"{answer['rows']} rows, {answer['judged']} compared with others, "
        f"{answer['unjudged']} without neighbours; {len(answer['quarantined'])} in quarantine, "
        f"{len(fresh)} of them new"
    )
    if answer["quarantined"]:
        lines.append(f"quarantine: {answer['quarantine']} (--release KEY takes a row out)")
    return lines


def compare_lines(answer: Mapping[str, Any]) -> list[str]:
    """The ratios b / a."""
    lines = [f"a: {answer['a']['table']}", f"b: {answer['b']['table']}"]
    for key, (one, other) in answer["differing"].items():
        lines.append(f"differing {key.replace('_', ' ')}: {one} and {other}")
    for kind, found in answer["kinds"].items():
        rank = found["rank_correlation"]
        lines += [
            "",
            f"{KIND_NAMES[kind]}: {found['common']} in both, {found['only_a']} only in a, "
            f"{found['only_b']} only in b",
            f"  b takes {found['median_ratio']:.3f} times as long (10 % to 90 %: "
            f"{found['p10_ratio']:.3f} to {found['p90_ratio']:.3f}), rank correlation "
            + ("unknown" if rank is None else f"{rank:.4f}"),
        ]
        if found["families"]:
            rows = [
                [f"  {f['family']}", str(f["common"]), f"{f['median_ratio']:.3f}"]
                for f in found["families"]
            ]
            lines += table(["  family", "in both", "b / a"], rows)
        if found["biggest"]:
            rows = [
                [f"  {b['ratio']:.3f}", f"{b['a_ms']:.4f}", f"{b['b_ms']:.4f}", b["key"]]
                for b in found["biggest"]
            ]
            lines += ["", *table(["  b / a", "a ms", "b ms", "the most unusual"], rows)]
    return lines
