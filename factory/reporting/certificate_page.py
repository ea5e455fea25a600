"""The certificate as a page: one self-contained HTML file, from the certificate's JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.core.files import write_atomic_text
from factory.reporting.artefacts import Json, mapping, number, records
from factory.reporting.formatting import UNKNOWN, show_macs, show_ms, show_percent, show_size
from factory.reporting.page import render_page
from factory.verification.certificate import Certificate


def write_certificate_page(certificate: Path | str, out: Path | str) -> Path:
    """Write the page of the certificate JSON ``certificate`` to ``out``; InputError if none."""
    out = Path(out)
    value = Certificate.load(certificate).model_dump(mode="json")
    write_atomic_text(out, render_certificate(value, Path(certificate).name))
    return out


def render_certificate(value: Json, file: str = "certificate.json") -> str:
    """The page of a certificate."""
    return render_page(
        "certificate",
        c=value,
        file=file,
        headline=headline(value),
        sections=[
            *([("Budgets", budgets)] if (budgets := _budget_rows(value)) else []),
            ("Latency", _latency_rows(value)),
            ("Accuracy", _accuracy_rows(value)),
            ("The file", _file_rows(value)),
            ("The chip", _chip_rows(value)),
        ],
    )


def headline(value: Json) -> str:
    """'Holds its budget: 0.42 ms of 0.6 ms, 30.0 % to spare'."""
    budget, latency = mapping(value.get("budget")), mapping(value.get("latency"))
    median, limit = number(latency.get("median_ms")), number(budget.get("max_latency_ms"))
    if median is None:
        return "No latency certified"
    if limit is None:
        return f"Measured: {show_ms(median)}, no budget was given"
    margin = number(budget.get("margin_percent")) or 0.0
    spare = f"{abs(margin):.1f} % {'to spare' if margin >= 0 else 'too much'}"
    words = {"holds": "Holds its budget", "over budget": "Over its budget"}
    verdict = words.get(str(budget.get("verdict")), "Does not pass")
    return f"{verdict}: {show_ms(median)} of {show_ms(limit)}, {spare}"


def _budget_rows(value: Json) -> list[tuple[str, str]]:
    """Every limit: 'parameters', '8,100 of 9,000, 10.0 % to spare'."""
    shows = {
        "latency_ms": ("latency", show_ms),
        "macs": ("MACs", show_macs),
        "params": ("parameters", lambda count: f"{count:,.0f}"),
        "peak_memory_mb": ("peak memory of the tensors", lambda mb: f"{mb:.4g} MB"),
    }
    rows = []
    for part in records(mapping(value.get("budget")).get("limits")):
        name, show = shows.get(str(part.get("name")), (str(part.get("name")), str))
        device = f" on {part['device_id']}" if part.get("device_id") else ""
        found, margin = number(part.get("value")), number(part.get("margin_percent"))
        if found is None or margin is None:
            text = f"not measured, the budget is {show(part.get('limit'))}"
        else:
            spare = f"{abs(margin):.1f} % {'to spare' if margin >= 0 else 'too much'}"
            text = f"{show(found)} of {show(part.get('limit'))}, {spare}"
        rows.append((name + device, text))
    return rows


def _with_interval(part: Json, key: str) -> str:
    interval = part.get(f"{key.removesuffix('_ms')}_interval_ms")
    shown = show_ms(part.get(key))
    if isinstance(interval, list) and len(interval) == 2:
        return f"{shown} ({show_ms(interval[0])} to {show_ms(interval[1])})"
    return shown


def _latency_rows(value: Json) -> list[tuple[str, str]]:
    part = mapping(value.get("latency"))
    if not part:
        return [("not certified", str(value.get("unmeasured") or UNKNOWN))]
    sustained = mapping(part.get("sustained"))
    rows = [
        ("median (95 % interval)", _with_interval(part, "median_ms")),
        ("p10", _with_interval(part, "p10_ms")),
        ("p90", _with_interval(part, "p90_ms")),
        ("fastest run", show_ms(part.get("min_ms"))),
        ("rounds, runs", f"{part.get('rounds')}, {part.get('runs')}"),
        ("rounds lie apart by", f"{number(part.get('spread_percent')) or 0:.1f} %"),
        (
            "cold start",
            f"{show_ms(part.get('cold_start_ms'))} (session {show_ms(part.get('session_ms'))}, "
            f"first run {show_ms(part.get('first_run_ms'))})",
        ),
    ]
    if sustained:
        rows.append(
            (
                "sustained",
                f"{show_ms(sustained.get('median_ms'))} over {sustained.get('seconds')} s, "
                f"{sustained.get('runs')} runs; last third against first "
                f"{number(sustained.get('drift_percent')) or 0:+.1f} %",
            )
        )
    memory = number(value.get("peak_memory_bytes"))
    rows.append(
        ("peak memory", f"{show_size(memory)}: {value.get('memory_note')}" if memory else UNKNOWN)
    )
    return rows


def _accuracy_rows(value: Json) -> list[tuple[str, str]]:
    part = mapping(value.get("accuracy"))
    if not part:
        return [("not certified", str(value.get("accuracy_note") or UNKNOWN))]
    low, high = [*(part.get("interval") or []), None, None][:2]
    rows = [
        (
            "top-1 (95 % interval)",
            f"{show_percent(part.get('value'), 2)} ({show_percent(low, 2)} to "
            f"{show_percent(high, 2)})",
        ),
        ("pictures", f"{part.get('correct')} of {part.get('images')} right"),
        ("data", str(part.get("data"))),
    ]
    if part.get("fp32") is not None:
        lost = number(part.get("drop_points")) or 0.0
        rows.append(("fp32", f"{show_percent(part['fp32'], 2)}; {lost:.2f} points lost"))
    return rows


def _file_rows(value: Json) -> list[tuple[str, str]]:
    part = mapping(value.get("model"))
    names = _texts(part.get("class_names"))
    return [
        ("sha256", str(part.get("sha256"))),
        ("size", show_size(part.get("size_bytes"))),
        ("form, precision", f"{part.get('target') or 'ONNX'}, {part.get('precision')}"),
        ("input", _tensors(part.get("inputs"))),
        ("output", _tensors(part.get("outputs"))),
        ("MACs", f"{show_macs(part.get('macs'))} ({part.get('macs_convention')})"),
        ("labels", f"{len(names)}: {', '.join(names[:12])}"),
        ("preprocessing", _pairs(part.get("preprocessing"))),
    ]


def _chip_rows(value: Json) -> list[tuple[str, str]]:
    part = mapping(value.get("chip"))
    fingerprint = mapping(part.get("fingerprint"))
    placement = mapping(value.get("placement"))
    rows = [(key.replace("_", " "), str(fact)) for key, fact in fingerprint.items() if fact]
    return [
        *rows,
        ("instruction sets", ", ".join(_texts(part.get("flags"))) or UNKNOWN),
        ("int8 arithmetic", str(part.get("int8"))),
        ("int8 weights of 7 bits", "yes" if part.get("reduced_range") else "not needed"),
        ("nodes ran on", ", ".join(f"{n}: {c}" for n, c in placement.items()) or UNKNOWN),
        ("remarks", "; ".join(_texts(part.get("notes"))) or "none"),
    ]


def _tensors(value: Any) -> str:
    return "; ".join(
        f"{t.get('name')} {t.get('dtype')} {'x'.join(_texts(t.get('shape')))}"
        for t in records(value)
    )


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _pairs(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in mapping(value).items()) or UNKNOWN
