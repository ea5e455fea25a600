"""The report of a run: one self-contained HTML file and the same numbers as JSON.

Reads the artefacts of the run folder and nothing else. The page has its style and drawings
inside, loads nothing, needs no script, and reads well on a telephone, in light and in dark.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from factory.core.errors import InputError
from factory.core.files import write_atomic_text, write_json
from factory.deployment.snippet import run_snippet
from factory.reporting import figures, search_figures, search_view
from factory.reporting.artefacts import Json, RunArtefacts, TierArtefacts, mapping, number, read_run
from factory.reporting.drawing import OP_COLOURS, draw_cell
from factory.reporting.kernel_view import kernel_rows, node_rows
from factory.reporting.page import render_page
from factory.reporting.summary import first_number, is_simulated, summarise


def write_report(run_dir: Path | str) -> Path:
    """Write ``07-report/report.html`` and ``report.json``; returns the path of the HTML file."""
    run = read_run(run_dir)
    summary = summarise(run)
    folder = run.root / "07-report"
    target = folder / "report.html"
    write_json(folder / "report.json", summary)
    write_atomic_text(target, render_report(run, summary))
    return target


def render_report(run: RunArtefacts, summary: Json) -> str:
    """The page for a run that has been read and summarised."""
    return render_page(
        "report",
        summary=summary,
        tiers=[
            _tier_view(run, tier, row, index)
            for index, (tier, row) in enumerate(zip(run.tiers, summary["tiers"], strict=True))
        ],
        baseline=_baseline_view(run),
        op_colours=OP_COLOURS,
        accuracy_plot=_markup(figures.accuracy_latency(summary["tiers"])),
        training_plots=[Markup(plot) for plot in figures.training_curves(run)],
        devices=_devices(run),
        comparison="comparison.html"
        if (run.root / "07-report" / "comparison.html").is_file()
        else None,
        recipe=mapping(run.record.get("recipe")),
        folder=run.root.resolve().name,
    )


def _tier_view(run: RunArtefacts, tier: TierArtefacts, row: Json, index: int) -> Json:
    """What the template shows of a tier beyond its row of the table."""
    kernels = kernel_rows(tier.verify.get("kernels"))
    top = max([k["share"] for k in kernels["top"]], default=1.0) or 1.0
    describe = mapping(tier.verify.get("describe"))
    threads = number(mapping(describe.get("fingerprint")).get("threads"))
    threads = first_number(describe.get("threads"), threads)
    return {
        "row": row,
        "anchor": f"tier-{index + 1}",
        "colour": figures.PALETTE[index % len(figures.PALETTE)],
        "cells": _cells(tier.genotype),
        "search_plot": _markup(figures.search_curves(tier, index)),
        **_search_view(tier, index),
        "kernels": kernels,
        "largest_share": top,
        "nodes": node_rows(tier.verify.get("nodes"))[:8],
        "snippet": _snippet(run, tier, int(threads) if threads else None),
        "manifest": tier.manifest,
        "certificate": _certificate(run, tier.name),
    }


def _snippet(run: RunArtefacts, tier: TierArtefacts, threads: int | None) -> str | None:
    """The program that runs the tier's file; None where its manifest does not tell how."""
    if not tier.manifest:
        return None
    try:
        return run_snippet(tier.manifest, threads=threads)
    except InputError as error:
        run.missing.append(f"05-deploy/{tier.name}/manifest.json is damaged ({error.what})")
        return None


def _certificate(run: RunArtefacts, tier: str) -> str | None:
    """Link to the tier's certificate page, where there is one."""
    name = f"certificates/{tier}.html"
    return name if (run.root / "07-report" / name).is_file() else None


def _baseline_view(run: RunArtefacts) -> Json | None:
    if run.baseline is None:
        return None
    return {
        "cells": _cells(run.baseline.genotype),
        "search_plot": _markup(figures.search_curves(run.baseline, 9)),
        **_search_view(run.baseline, 9),
    }


def _search_view(tier: TierArtefacts, index: int) -> Json:
    """Diagnostics, candidates over time and statistics over seeds."""
    return {
        "diagnostics": search_view.diagnostics(tier),
        "diagnostics_plot": _markup(search_figures.diagnostics_plot(tier, index)),
        "probability_plots": [Markup(plot) for plot in search_figures.probability_plots(tier)],
        "seeds": search_view.seed_rows(tier),
    }


def _cells(genotype: Json) -> Json:
    """Normal and reduction cell as drawings; None where the genotype is not there."""
    return {
        "text": genotype.get("cell") or _values(genotype),
        "normal": _markup(
            draw_cell(
                genotype.get("normal"),
                genotype.get("normal_concat"),
                "normal cell",
                activations=genotype.get("normal_activations"),
            )
        ),
        "reduce": _markup(
            draw_cell(
                genotype.get("reduce"),
                genotype.get("reduce_concat"),
                "reduction cell",
                2,
                activations=genotype.get("reduce_activations"),
            )
        ),
    }


def _values(genotype: Json) -> str | None:
    """The variables of a network of a space without drawings."""
    values = mapping(genotype.get("values"))
    return ", ".join(f"{name} {value}" for name, value in values.items()) or None


def _devices(run: RunArtefacts) -> list[Json]:
    """Each profiled device with its facts as (name, value) text pairs."""
    rows = []
    for device_id, value in run.profile.items():
        entry = mapping(value)
        describe = mapping(entry.get("describe"))
        if not entry:
            continue
        facts = {**mapping(describe.get("fingerprint")), **describe}
        rows.append(
            {
                "device_id": device_id,
                "simulated": is_simulated(describe, device_id),
                "kernels": number(entry.get("kernels")),
                "failed": number(entry.get("failed")),
                "seconds": number(entry.get("seconds")),
                "facts": [
                    (key, _fact(fact))
                    for key, fact in sorted(facts.items())
                    if fact not in (None, "", [], {}) and key not in ("fingerprint", "simulated")
                ],
            }
        )
    return rows


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_fact(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_fact(v) for v in value)
    return str(value)


def _markup(svg: str | None) -> Markup | None:
    """Mark a drawing as safe: its text was escaped where it was drawn."""
    return None if svg is None else Markup(svg)
