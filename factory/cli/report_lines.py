"""The answers of build, search, train and fit as lines for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.cli.output import print_lines, table


def print_build(answer: Mapping[str, Any]) -> None:
    """The tiers as a table, then what to look at; the report's path is the last line."""
    if answer.get("dry_run"):
        print_lines(
            [f"run folder: {answer['run']}"]
            + [f"{entry['stage']}: {entry['state']}" for entry in answer["stages"]]
        )
        return
    rows = [_tier_row(tier) for tier in answer["tiers"]]
    print_lines(["", *table(_HEADER, rows)] if rows else [])
    for tier in answer["tiers"]:
        for reason in tier.get("reasons", []):
            print_lines([f"{tier['tier']}: {reason}"])
    print_lines([answer.get("report") or answer["run"]])


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
        str(tier["device_id"] or "-"),
        number("max_latency_ms", ".3f"),
        number("predicted_ms", ".3f"),
        number("median_ms", ".3f"),
        number("macs", ".2f", 1e-6),
        number("accuracy", ".2%"),
        str(tier.get("verdict") or "-"),
    ]


def predictor_lines(report: Mapping[str, Any]) -> list[str]:
    """A predictor's errors, key by key as the fit reports them."""
    lines = []
    for key, value in report.items():
        if isinstance(value, Mapping):
            inner = ", ".join(
                f"{name} {_short(entry)}"
                for name, entry in value.items()
                if not isinstance(entry, dict | list)
            )
            lines.append(f"{key}: {inner}")
        elif not isinstance(value, list):
            lines.append(f"{key}: {_short(value)}")
    return lines


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
