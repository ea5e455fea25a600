"""Comparing tiers: accuracy against latency, and kernel by kernel where two networks differ.

Kernels of an int8 and an fp32 network are joined on everything but their data type. Times of single
kernels are the predictor's, whose sum the report shows beside what was measured.
"""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

from markupsafe import Markup

from factory.core.files import write_atomic_text
from factory.reporting import figures
from factory.reporting.artefacts import (
    Json,
    RunArtefacts,
    TierArtefacts,
    mapping,
    number,
    read_run,
    records,
)
from factory.reporting.formatting import show_ms, show_percent
from factory.reporting.kernel_view import kernel_rows, readable
from factory.reporting.page import render_page
from factory.reporting.summary import summarise

SHOWN = 10
_DTYPE = re.compile(r",?dtype=[a-z0-9]+")


def write_comparison(run_dir: Path | str) -> Path:
    """Write ``07-report/comparison.html``; returns its path."""
    run = read_run(run_dir)
    out = run.root / "07-report" / "comparison.html"
    write_atomic_text(out, render_comparison(run))
    return out


def render_comparison(run: RunArtefacts) -> str:
    """The page for a run that has been read."""
    summary = summarise(run)
    rows = summary["tiers"]
    choices = {tier.name: choice(tier) for tier in run.tiers}
    without = {row["tier"]: row for row in mapping(summary.get("no_latency")).get("devices", [])}
    kernels = {tier.name: tier.verify.get("kernels") for tier in run.tiers}
    plot = figures.accuracy_latency(rows)
    return render_page(
        "comparison",
        rows=[
            {
                **row,
                "why": why(
                    row,
                    kernels.get(row["name"]),
                    choices.get(row["name"], ""),
                    without.get(row["name"]),
                ),
            }
            for row in rows
        ],
        plot=None if plot is None else Markup(plot),
        pairs=[
            {"a": a, "b": b, **difference(kernels.get(a["name"]), kernels.get(b["name"]))}
            for a, b in combinations(rows, 2)
        ],
        folder=run.root.resolve().name,
    )


def choice(tier: TierArtefacts) -> str:
    """What made the search take this network: its rating, and what had to give way to a budget."""
    repaired, best = tier.search.get("repaired"), mapping(tier.search.get("discretised"))
    if repaired is False:
        return "of all networks it is the one that the search rates best"
    if repaired is not True:
        return ""
    taken, wanted = _operators(tier.genotype), _operators(best)
    changed = sum(a != b for a, b in zip(taken, wanted, strict=False))
    told = "of the networks within its budgets it is the best rated one that the search found"
    if len(taken) != len(wanted) or not changed:
        return told
    return f"{told} (the best of all lies outside: {changed} of {len(wanted)} choices differ)"


def _operators(genotype: Json) -> list[Any]:
    """A genotype's choices, one operator on one edge each, cell by cell."""
    if values := mapping(genotype.get("values")):
        return sorted(values.items())
    cells = [value for key, value in sorted(genotype.items()) if not key.endswith("concat")]
    return [entry for cell in cells if isinstance(cell, list) for entry in cell]


def why(row: Json, kernels: Any, chosen: str = "", without: Json | None = None) -> str:
    """One sentence, from the tier's own figures, on why this network was taken.

    Args:
        row: the tier's summary.
        kernels: of its verification.
        chosen: what made the search take it (:func:`choice`).
        without: the network that the search finds without the latency term, on the same chip.
    """
    smallest, limit = number(row.get("smallest_ms")), number(row.get("max_latency_ms"))
    other = number(mapping(without).get("baseline_ms"))
    told = [chosen] if chosen else []
    if limit is not None and number(row.get("predicted_ms")) is not None:
        told.append(
            f"the search was held to {show_ms(limit)} and this network was predicted at "
            f"{show_ms(row['predicted_ms'])}"
        )
    if other is not None:
        told.append(f"without the latency term the search takes one of {show_ms(other)}")
    if smallest is not None:
        told.append(f"the smallest network of the space needs {show_ms(smallest)}")
    kinds = kernel_rows(kernels)["kinds"]
    if kinds:
        told.append(f"most of its time goes into {kinds[0]['name']} ({kinds[0]['share']:.0%})")
    if number(row.get("accuracy")) is not None:
        told.append(f"its test accuracy is {show_percent(row['accuracy'], 2)}")
    sentence = "; ".join(told)
    return sentence[:1].upper() + sentence[1:] + "." if sentence else "Nothing is known of it yet."


def difference(kernels_a: Any, kernels_b: Any) -> Json:
    """Kernels on which two networks spend different times, the largest difference first.

    Returns:
        ``rows``: label, detail, counts and milliseconds of both, ``delta_ms`` = b - a; ``rest_ms``:
        the difference of the kernels not listed; ``only_a``, ``only_b``, ``shared``: how many
        distinct kernels.
    """
    a, b = _by_kernel(kernels_a), _by_kernel(kernels_b)
    rows: list[Json] = []
    for key in a.keys() | b.keys():
        count_a, ms_a, text_a = a.get(key, (0.0, 0.0, ""))
        count_b, ms_b, text_b = b.get(key, (0.0, 0.0, ""))
        label, detail, _ = readable(text_a or text_b)
        rows.append(
            {
                "key": key, "label": label, "detail": detail, "count_a": int(count_a),
                "count_b": int(count_b), "ms_a": ms_a, "ms_b": ms_b, "delta_ms": ms_b - ms_a,
            }
        )  # fmt: skip
    rows.sort(key=lambda row: (-abs(row["delta_ms"]), row["key"]))
    return {
        "rows": rows[:SHOWN],
        "rest_ms": sum(row["delta_ms"] for row in rows[SHOWN:]),
        "only_a": len(a.keys() - b.keys()),
        "only_b": len(b.keys() - a.keys()),
        "shared": len(a.keys() & b.keys()),
    }


def _by_kernel(kernels: Any) -> dict[str, tuple[float, float, str]]:
    """Kernel without its data type -> how many, their time together in ms, and its whole text."""
    found: dict[str, tuple[float, float, str]] = {}
    for entry in records(kernels):
        text = str(entry.get("kernel", ""))
        key = _DTYPE.sub("", text)
        count, ms = number(entry.get("count")), number(entry.get("predicted_ms"))
        if key and count is not None and ms is not None:
            before = found.get(key, (0.0, 0.0, text))
            found[key] = (before[0] + count, before[1] + ms, text)
    return found
