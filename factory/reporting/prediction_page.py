"""A prediction as a page: latency per device with its interval, kernels by share, and why.

From the answers of `factory predict` alone; one self-contained HTML file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from factory.core.files import write_atomic_text
from factory.reporting.artefacts import Json, mapping, number, records
from factory.reporting.formatting import UNKNOWN, show_ms
from factory.reporting.kernel_view import KIND_NAMES, kernel_rows, readable
from factory.reporting.page import render_page
from factory.reporting.prediction_figures import latency_plot, roofline_plot

SHOWN = 16
SOURCES = {"measured": "lookup", "regressor": "regressor", "roofline": "roofline"}


def write_prediction_page(answers: Sequence[Json], out: Path | str) -> Path:
    """Write the page of these answers, one for each device, to ``out``."""
    out = Path(out)
    write_atomic_text(out, render_prediction(answers))
    return out


def render_prediction(answers: Sequence[Json]) -> str:
    """The page."""
    model = Path(str(answers[0]["model"])).name
    plot = latency_plot(answers)
    return render_page(
        "prediction",
        model=model,
        headline=headline(answers),
        plot=None if plot is None else Markup(plot),
        devices=[_device(answer, index) for index, answer in enumerate(answers)],
        macs=answers[0].get("macs"),
        model_bytes=answers[0].get("model_bytes"),
    )


def headline(answers: Sequence[Json]) -> str:
    """'7.81 ms on a, 3.9 ms on b'."""
    return ", ".join(f"{show_ms(a['latency_ms'])} on {a['device']}" for a in answers)


def _device(answer: Json, index: int) -> Json:
    kernels = records(answer.get("kernels"))
    rows = []
    for part in kernels[:SHOWN]:
        label, detail, kind = readable(str(part.get("kernel")))
        rows.append(
            {
                "label": label,
                "detail": detail,
                "kind": kind,
                "text": part.get("kernel"),
                "count": number(part.get("count")) or 0.0,
                "ms": number(part.get("ms")),
                "share": number(part.get("share")) or 0.0,
                "source": SOURCES.get(str(part.get("source")), str(part.get("source"))),
                "why": str(part.get("why") or ""),
                "doubtful": bool(part.get("outside") or part.get("fallback")),
            }
        )
    rest = kernels[SHOWN:]
    kinds = kernel_rows(kernels)["kinds"]
    plot = roofline_plot(answer, index)
    return {
        "name": answer["device"],
        "simulated": answer.get("simulated"),
        "imported": mapping(answer.get("imported")).get("source"),
        "latency_ms": answer["latency_ms"],
        "low_ms": answer["low_ms"],
        "high_ms": answer["high_ms"],
        "facts": _facts(answer),
        "rows": rows,
        "rest": {"count": len(rest), "share": sum(number(p.get("share")) or 0.0 for p in rest)},
        "largest": max((number(p.get("share")) or 0.0 for p in kernels), default=0.0) or 1.0,
        "kinds": [{**kind, "name": KIND_NAMES.get(kind["kind"], kind["kind"])} for kind in kinds],
        "bounds": _bounds(kernels),
        "plot": None if plot is None else Markup(plot),
        "measure": [str(text) for text in answer.get("measure") or []],
        "warnings": [str(text).partition("; measure:")[0] for text in answer.get("warnings") or []],
    }


def _bounds(kernels: Sequence[Json]) -> list[tuple[str, float]]:
    """What binds the time: share by kind of bound, the largest first."""
    shares: dict[str, float] = {}
    for part in kernels:
        bound = str(part.get("bound") or "unknown")
        shares[bound] = shares.get(bound, 0.0) + (number(part.get("share")) or 0.0)
    return sorted(shares.items(), key=lambda item: -item[1])


def _facts(answer: Json) -> list[tuple[str, str]]:
    baselines, held_out = mapping(answer.get("baselines")), mapping(answer.get("held_out"))
    noise, start = mapping(answer.get("noise")), mapping(answer.get("start_up"))
    rates = mapping(answer.get("rates"))
    names = {"macs_line": "MACs only", "counts_ridge": "ridge on kernel counts"}
    rows = [
        ("this predictor errs by", _percent(held_out.get("mean_percent"), "on unseen networks"))
    ]
    for key, name in names.items():
        one = mapping(baselines.get(key))
        if one:
            error = _percent(mapping(one.get("held_out")).get("mean_percent"), "on unseen networks")
            rows.append((f"{name} says", f"{show_ms(one.get('latency_ms'))}; errs by {error}"))
    rows.append(
        ("the chip repeats itself within", _percent(noise.get("reference_spread_percent"), ""))
    )
    for key, error_key, name, unit in (
        ("session_ms", "session_error_percent", "session creation", "ms"),
        ("first_run_ms", "first_run_error_percent", "first run", "ms"),
        ("peak_memory_mb", "peak_memory_error_percent", "peak memory", "MB"),
    ):
        value = number(start.get(key))
        if value is not None:
            error = _percent(start.get(error_key), "mean error")
            rows.append((name, f"{value:.3g} {unit}, {error}"))
    best = number(rates.get("macs_per_ms")), number(rates.get("bytes_per_ms"))
    if best[0] and best[1]:
        rows.append(
            ("best rates measured", f"{best[0] / 1e6:.3g} G MACs/s, {best[1] / 1e6:.3g} GB/s")
        )
    return rows


def _percent(value: Any, what: str) -> str:
    known = number(value)
    return UNKNOWN if known is None else f"{known:.1f} % {what}".rstrip()
