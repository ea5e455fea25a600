"""The answers of build, search, train and fit as lines for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.cli.output import called, print_lines, table

MOST_CLASSES = 12  # named in a line
SOURCES = {"in_place": "in place", "isolated": "alone", "inferred": "inferred from networks"}


def print_build(answer: Mapping[str, Any]) -> None:
    """The tiers as a table, then what to look at; the report's path is the last line."""
    if answer.get("dry_run"):
        print_lines(
            (data_lines(answer["data"]) if answer.get("data") else [])
            + [f"run folder: {answer['run']}"]
            + [f"{entry['stage']}: {entry['state']}" for entry in answer["stages"]]
        )
        return
    rows = [_tier_row(tier) for tier in answer["tiers"]]
    print_lines(["", *table(_HEADER, rows)] if rows else [])
    for tier in answer["tiers"]:
        for reason in tier.get("reasons", []):
            print_lines([f"{tier['tier']}: {reason}"])
    print_lines([answer.get("report") or answer["run"]])


def data_lines(data: Mapping[str, Any]) -> list[str]:
    """A folder of pictures: classes, counts, sizes, and what is left out or cannot be read."""
    train, test, px = data["train"], data["test"], data["shorter_side_px"]
    largest = sorted(train, key=lambda name: -train[name])
    shown = ", ".join(f"{name} {train[name]}" for name in largest[:MOST_CLASSES])
    more = f" and {len(largest) - MOST_CLASSES} more" if len(largest) > MOST_CLASSES else ""
    return [
        f"{sum(train.values())} training and {sum(test.values())} test pictures of "
        f"{data['classes']} classes: {shown}{more}",
        f"shorter sides of {px['0']} to {px['100']} pixels, half of them up to {px['50']}; "
        f"{data['grey']} of {data['surveyed']} without colour",
        *data["notes"],
    ]


_HEADER = [
    "tier",
    "device",
    "budget ms",
    "predicted",
    "measured",
    "M MACs",
    "accuracy",
    "verdict",
]


def _tier_row(tier: Mapping[str, Any]) -> list[str]:
    def number(key: str, form: str, scale: float = 1.0) -> str:
        value = tier.get(key)
        return "-" if value is None else format(value * scale, form)

    return [
        str(tier["tier"]),
        called(tier["device_id"] or "-", tier.get("simulated")),
        number("max_latency_ms", ".3f"),
        number("predicted_ms", ".3f"),
        number("median_ms", ".3f"),
        number("macs", ".2f", 1e-6),
        number("accuracy", ".2%"),
        str(tier.get("verdict") or "-"),
    ]


def predictor_lines(report: Mapping[str, Any], simulated: bool = False) -> list[str]:
    """A predictor's errors on networks it has not seen, beside its baselines."""
    lines = [
        f"{called(report['device'], simulated)}: {report['n_kernels']} kernels and "
        f"{report['n_networks']} networks, {report['n_failed']} failed"
    ]
    lines += _source_lines(report)
    held_out = report.get("held_out") or {}
    for name, errors in {"this predictor": held_out, **(report.get("baselines") or {})}.items():
        if "median_percent" in errors:
            lines.append(
                f"  {name.replace('_', ' ')}: median error {errors['median_percent']:.1f} %, "
                f"largest {errors['max_percent']:.1f} %, "
                f"{errors['within_10_percent']:.0%} within 10 %"
            )
    if not held_out:
        lines.append("  no whole network was measured: the errors are unknown")
    protocol = report.get("protocol")
    return [*lines, f"  on networks not seen ({protocol})"] if protocol and held_out else lines


def _source_lines(report: Mapping[str, Any]) -> list[str]:
    """Where kernel times come from, and the residual of each source."""
    lines = []
    for name, entry in report.get("sources", {}).items():
        ratio, held_out = entry["sum_over_measured"], entry["held_out"]
        if ratio is None or held_out is None:
            continue
        mark = "taken" if name == report["source"] else "not taken"
        lines.append(
            f"kernels {SOURCES.get(name, name)} ({mark}): mean error "
            f"{held_out['mean_percent']:.1f} %, their sum {ratio['low']:.2f}-{ratio['high']:.2f} "
            "of a network"
        )
    return lines
