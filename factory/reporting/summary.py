"""The run in numbers: one row per tier, the comparison without the latency term, the headline.

These plain values are ``report.json`` and what the HTML template shows; every number comes from
an artefact, nothing is measured or predicted here.
"""

from __future__ import annotations

from typing import Any

from factory.reporting.artefacts import (
    STAGES,
    Json,
    RunArtefacts,
    TierArtefacts,
    mapping,
    number,
    records,
)

SCHEMA_VERSION = 1
PASSED, FAILED, OPEN, UNDECIDED = "passed", "failed", "not verified", "not decided"
VERDICTS = {
    "passed": PASSED,
    "holds": PASSED,
    "failed": FAILED,
    "over budget": FAILED,
    "undecided": UNDECIDED,
}


def first_number(*values: Any) -> float | None:
    """The first of ``values`` that is a number."""
    return next((n for n in map(number, values) if n is not None), None)


def is_simulated(describe: Any, device_id: str = "") -> bool:
    """True where a device says that its times are simulated."""
    facts = mapping(describe)
    nested = mapping(facts.get("fingerprint"))
    for facts_of in (facts, nested):
        if facts_of.get("simulated") is True or facts_of.get("transport") == "simulated":
            return True
    return "simulated" in device_id.lower()


def tier_summary(run: RunArtefacts, tier: TierArtefacts) -> Json:
    """Everything the summary table says about one tier, None where it is not known."""
    verify, search, train = tier.verify, tier.search, tier.train
    budget = mapping(verify.get("budget")) or mapping(search.get("budget"))
    device_id = str(
        verify.get("device_id") or search.get("device_id") or tier.recipe.get("device") or ""
    )
    describe = mapping(verify.get("describe")) or mapping(
        mapping(run.profile.get(device_id)).get("describe")
    )
    median = number(verify.get("median_ms"))
    predicted = first_number(verify.get("predicted_ms"), search.get("predicted_ms"))
    limit = first_number(budget.get("max_latency_ms"), tier.recipe.get("max_latency_ms"))
    max_macs = first_number(budget.get("max_macs"), tier.recipe.get("max_macs"))
    macs = first_number(verify.get("macs"), search.get("macs"))
    low = first_number(verify.get("low_ms"), search.get("low_ms"))
    high = first_number(verify.get("high_ms"), search.get("high_ms"))
    return {
        "name": tier.name,
        "device_id": device_id,
        "chip": chip_name(describe),
        "simulated": is_simulated(describe, device_id),
        "precision": verify.get("precision") or tier.manifest.get("precision"),
        "accuracy": first_number(verify.get("accuracy"), train.get("test_accuracy")),
        "accuracy_of": "the ONNX file on the device"
        if number(verify.get("accuracy")) is not None
        else "the trained network",
        "accuracy_fp32": number(verify.get("accuracy_fp32")),
        "accuracy_drop_points": number(verify.get("accuracy_drop_points")),
        "macs": macs,
        "macs_darts_paper": first_number(
            verify.get("macs_darts_paper"), search.get("macs_darts_paper")
        ),
        "max_macs": max_macs,
        "macs_use": ratio(macs, max_macs),
        "params": first_number(verify.get("params"), search.get("params")),
        "model_bytes": first_number(verify.get("model_bytes"), tier.manifest.get("size_bytes")),
        "predicted_ms": predicted,
        "low_ms": low,
        "high_ms": high,
        "median_ms": median,
        "p10_ms": number(verify.get("p10_ms")),
        "p90_ms": number(verify.get("p90_ms")),
        "min_ms": number(verify.get("min_ms")),
        "max_latency_ms": limit,
        "budget_use": ratio(median, limit),
        "smallest_ms": number(search.get("smallest_ms")),
        "checked_ms": number(search.get("checked_ms")),
        "relative_error": None
        if predicted is None or not median
        else (predicted - median) / median,
        "in_interval": None
        if median is None or low is None or high is None
        else low <= median <= high,
        "parity": mapping(verify.get("parity")),
        "providers": mapping(verify.get("providers")),
        "rounds": first_number(verify.get("rounds")),
        "verdict": VERDICTS.get(str(verify.get("verdict")), OPEN),
        "reasons": _texts(verify.get("reasons")),
        "reached": _reached(tier),
    }


def ratio(part: float | None, whole: float | None) -> float | None:
    """``part / whole`` where both are known."""
    return None if part is None or not whole else part / whole


def chip_name(describe: Any) -> str:
    """The chip in words, from whatever a device tells about itself."""
    facts = mapping(describe)
    nested = mapping(facts.get("fingerprint"))
    for facts_of in (facts, nested):
        for key in ("cpu", "chip_name", "chip", "model", "soc", "fingerprint"):
            value = facts_of.get(key)
            if isinstance(value, str) and value and value != "local":
                parts = value.split("/")
                return parts[1] if len(parts) == 4 and parts[1] else value
    return ""


def _reached(tier: TierArtefacts) -> str:
    for name, found in (
        ("verified", tier.verify),
        ("deployed", tier.manifest),
        ("trained", tier.train),
        ("searched", tier.search),
    ):
        if found:
            return name
    return "not started"


def baseline_summary(run: RunArtefacts, tiers: list[Json]) -> Json | None:
    """The search without the latency term, beside each tier on the tier's own device."""
    if run.baseline is None:
        return None
    search = run.baseline.search
    measured = mapping(search.get("measured_ms_by_device"))
    predicted = mapping(search.get("predicted_ms_by_device"))
    rows = []
    for tier in tiers:
        own = first_number(tier["median_ms"], tier["predicted_ms"])
        device = tier["device_id"]
        other_measured = _latency(measured.get(device))
        other = other_measured if other_measured is not None else _latency(predicted.get(device))
        rows.append(
            {
                "tier": tier["name"],
                "device_id": device,
                "tier_ms": own,
                "tier_measured": tier["median_ms"] is not None,
                "baseline_ms": other,
                "baseline_measured": other_measured is not None,
                "saved": None if own is None or not other else 1 - own / other,
                "max_latency_ms": tier["max_latency_ms"],
                "simulated": tier["simulated"],
            }
        )
    return {
        "macs": number(search.get("macs")),
        "macs_darts_paper": number(search.get("macs_darts_paper")),
        "params": number(search.get("params")),
        "accuracy": first_number(
            run.baseline.verify.get("accuracy"), run.baseline.train.get("test_accuracy")
        ),
        "devices": rows,
    }


def _texts(value: Any) -> list[str]:
    return [str(text) for text in value] if isinstance(value, list) else []


def _latency(value: Any) -> float | None:
    return first_number(value, mapping(value).get("median_ms"), mapping(value).get("latency_ms"))


def predictor_summary(run: RunArtefacts) -> list[Json]:
    """Held-out error of each device's predictor beside the baselines."""
    rows = []
    for device_id, report in run.fit.items():
        if not isinstance(report, dict) or not ("held_out" in report or "n_kernels" in report):
            continue
        describe = mapping(run.profile.get(device_id)).get("describe")
        rows.append(
            {
                "device_id": device_id,
                "simulated": is_simulated(describe, device_id),
                "n_kernels": number(report.get("n_kernels")),
                "n_failed": number(report.get("n_failed")),
                "n_networks": number(report.get("n_networks")),
                "protocol": str(report.get("protocol") or ""),
                "held_out": _errors(report.get("held_out")),
                "baselines": {
                    name: _errors(value) for name, value in mapping(report.get("baselines")).items()
                },
                "noise_percent": number(
                    mapping(report.get("noise")).get("reference_spread_percent")
                ),
            }
        )
    return rows


def _errors(value: Any) -> Json:
    errors = mapping(value)
    keys = ("median_percent", "mean_percent", "max_percent", "within_10_percent")
    return {key: number(errors.get(key)) for key in keys}


def stage_summary(run: RunArtefacts) -> list[Json]:
    """The seven stages with what is known of each: done, and how long it took."""
    noted = {str(s.get("stage")): s for s in records(run.record.get("stages"))}
    rows = []
    for position, name in enumerate(STAGES, start=1):
        folder = run.root / f"{position:02d}-{name}"
        done = name in noted or (folder / "DONE").is_file() or name == "report"
        seconds = number(mapping(noted.get(name)).get("seconds"))
        rows.append({"stage": name, "done": done, "seconds": seconds})
    return rows


def headline(tiers: list[Json]) -> Json:
    """The verdict of the whole run in one sentence."""
    passed = sum(t["verdict"] == PASSED for t in tiers)
    failed = [t["name"] for t in tiers if t["verdict"] == FAILED]
    undecided = [t["name"] for t in tiers if t["verdict"] == UNDECIDED]
    pending = len(tiers) - passed - len(failed)
    plural = "model" if len(tiers) == 1 else "models"
    if not tiers:
        return {"verdict": OPEN, "text": "No tier has been started yet"}
    if failed:
        named = ", ".join(failed)
        text = f"{passed} of {len(tiers)} {plural} passed; failed: {named}"
        return {"verdict": FAILED, "text": text}
    if undecided:
        text = f"{passed} of {len(tiers)} {plural} passed; not decided: {', '.join(undecided)}"
        return {"verdict": OPEN, "text": text}
    if pending:
        text = f"{passed} of {len(tiers)} {plural} verified; {pending} still to come"
        return {"verdict": OPEN, "text": text}
    text = (
        "The model holds its budget"
        if len(tiers) == 1
        else f"All {len(tiers)} models hold their budgets"
    )
    return {"verdict": PASSED, "text": text}


def data_summary(run: RunArtefacts) -> Json | None:
    """How many pictures of each class were learned from and judged with, and what was left out."""
    train, test = (
        {str(k): n for k, n in mapping(run.data.get(part)).items() if isinstance(n, int)}
        for part in ("train", "test")
    )
    if not train or not any(test.values()):
        return None
    return {
        "train": sum(train.values()),
        "test": sum(test.values()),
        "classes": [
            {"name": name, "train": count, "test": test.get(name, 0)}
            for name, count in train.items()
        ],
        "notes": _texts(run.data.get("notes")),
    }


def summarise(run: RunArtefacts) -> Json:
    """The content of ``report.json``."""
    recipe = mapping(run.record.get("recipe"))
    about = mapping(recipe.get("recipe"))
    tiers = [tier_summary(run, tier) for tier in run.tiers]
    return {
        "schema_version": SCHEMA_VERSION,
        "name": str(about.get("name") or recipe.get("name") or run.root.resolve().name),
        "description": str(about.get("description") or ""),
        "seed": first_number(run.record.get("seed"), about.get("seed")),
        "recipe_sha256": run.record.get("recipe_sha256"),
        "headline": headline(tiers),
        "data": data_summary(run),
        "tiers": tiers,
        "no_latency": baseline_summary(run, tiers),
        "predictors": predictor_summary(run),
        "stages": stage_summary(run),
        "provenance": mapping(run.record.get("provenance")),
        "missing": run.missing,
    }
