"""Issuing a certificate: one file on one chip, measured from cold start to sustained load."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.core.files import sha256_bytes
from factory.core.provenance import now_utc, provenance
from factory.core.temporary import TemporaryFolder
from factory.deployment.chip_flags import chip_flags, int8_note, wants_reduced_range
from factory.deployment.manifest import describe_file
from factory.devices.base import Device, TimingPlan
from factory.devices.local import LocalDevice
from factory.devices.profile import DeviceProfile
from factory.verification.certificate import (
    AccuracyPart,
    BudgetPart,
    Certificate,
    ChipPart,
    LatencyPart,
    LimitPart,
    ModelPart,
    ProbePart,
    expiry,
)
from factory.verification.intervals import bootstrap_median, wilson

SUSTAINED_S = 3.0
WINDOW_MS = 250.0
PROBE_SEED = 20240601
PROBE_VALUES = 32
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 5e-2}


def profile_digest(profile: DeviceProfile) -> str:
    """Identity of a device profile's content."""
    text = json.dumps(profile.model_dump(mode="json"), sort_keys=True)
    return sha256_bytes(text.encode())


def certify(
    path: Path,
    device: Device,
    result: Mapping[str, Any],
    *,
    accuracy: AccuracyPart | None = None,
    accuracy_note: str = "",
    limits: Sequence[LimitPart] = (),
    min_accuracy: float | None = None,
    macs: int | None = None,
    params: int | None = None,
    sustained_s: float = SUSTAINED_S,
    issued: str | None = None,
) -> Certificate:
    """The certificate of ``path`` from a verification's result.

    Args:
        path: the file that ships.
        device: the chip it was verified on, open.
        result: :meth:`factory.verification.result.VerifyResult.to_dict`, perhaps with further keys;
            its latency rounds under "timing_rounds" or "rounds".
        accuracy: of this file, where labelled pictures are.
        accuracy_note: why there is none.
        limits: budgets beside the latency on this chip.
        min_accuracy: the accuracy that was asked for, stated with the budget.
        macs, params: of the network.
        sustained_s: seconds of the longer run; 0 leaves it out.
        issued: date, now by default.
    """
    profile = device.profile
    content = path.read_bytes()
    issued = issued or now_utc()
    rounds = result.get("timing_rounds") or result.get("rounds") or []
    rounds = [r for r in rounds if r.get("kept", True)] if isinstance(rounds, list | tuple) else []
    started = _started(path, device)
    latency = None
    if result.get("median_ms") is not None and rounds:
        latency = _latency(result, rounds, started, _sustained(content, device, sustained_s))
    memory = started.get("peak_memory_bytes")
    return Certificate(
        issued=issued,
        expires=expiry(issued),
        model=_model_part(path, macs, params),
        chip=_chip_part(device),
        placement={str(k): int(v) for k, v in dict(result.get("providers") or {}).items()},
        latency=latency,
        peak_memory_bytes=memory,
        memory_note=_memory_note(started),
        accuracy=accuracy,
        accuracy_note=accuracy_note if accuracy is None else "",
        budget=_budget(result, latency, profile.id, limits, min_accuracy),
        probe=_probe(content, device, profile.precision),
        unmeasured="" if latency is not None else "; ".join(result.get("reasons") or ["failed"]),
        provenance=dict(provenance()),
    ).sealed()


def accuracy_part(
    predicted: np.ndarray,
    labels: np.ndarray,
    data: str,
    *,
    fp32: float | None = None,
) -> AccuracyPart:
    """Accuracy with its interval from classes and labels."""
    correct, images = int(np.sum(predicted == labels)), len(labels)
    value = correct / images
    return AccuracyPart(
        value=value,
        interval=wilson(correct, images),
        correct=correct,
        images=images,
        data=data,
        fp32=fp32,
        drop_points=None if fp32 is None else 100 * (fp32 - value),
    )


def _model_part(path: Path, macs: int | None, params: int | None) -> ModelPart:
    manifest = describe_file(path)
    metadata = manifest.metadata
    names = metadata.get("class_names")
    preprocessing = metadata.get("preprocessing")
    return ModelPart(
        file=path.name,
        sha256=manifest.sha256,
        size_bytes=manifest.size_bytes,
        target=str(metadata.get("target", "")),
        precision=str(metadata.get("precision", manifest.precision)),
        inputs=[spec.model_dump(mode="json") for spec in manifest.inputs],
        outputs=[spec.model_dump(mode="json") for spec in manifest.outputs],
        class_names=[str(n) for n in names] if isinstance(names, list) else [],
        preprocessing=preprocessing if isinstance(preprocessing, dict) else None,
        macs=macs,
        params=params,
    )


def _chip_part(device: Device) -> ChipPart:
    told = device.describe()
    local = device.profile.chip == "local" and not told.get("simulated")
    flags = chip_flags() if local else ()
    return ChipPart(
        device_id=device.profile.id,
        profile_sha256=profile_digest(device.profile),
        fingerprint=dict(told.get("fingerprint") or {}),
        flags=list(flags),
        int8=int8_note(flags) if local else "not told by this device",
        reduced_range=wants_reduced_range(local, flags),
        simulated=bool(told.get("simulated")),
        pinned=bool(told.get("pinned")),
        notes=[str(note) for note in told.get("notes") or []],
    )


def _latency(
    result: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
    started: Mapping[str, Any],
    sustained: dict[str, Any] | None,
) -> LatencyPart:
    def interval(key: str) -> tuple[float, float]:
        return bootstrap_median([float(r[key]) for r in rounds])

    return LatencyPart(
        rounds=len(rounds),
        runs=sum(int(r.get("runs", 1)) for r in rounds),
        median_ms=result["median_ms"],
        median_interval_ms=interval("median_ms"),
        p10_ms=result["p10_ms"],
        p10_interval_ms=interval("p10_ms"),
        p90_ms=result["p90_ms"],
        p90_interval_ms=interval("p90_ms"),
        min_ms=result["min_ms"],
        spread_percent=result.get("spread_percent", 0.0),
        cold_start_ms=started.get("cold_start_ms"),
        first_run_ms=started.get("first_run_ms"),
        session_ms=started.get("session_ms") or result.get("session_ms"),
        sustained=sustained,
    )


def _started(path: Path, device: Device) -> dict[str, Any]:
    """Cold start and memory where the chip is this machine; else why not."""
    if not isinstance(device, LocalDevice):
        return {"reason": f"not measured through the transport {device.profile.transport!r}"}
    try:
        return device.start_up(path)
    except InputError as error:
        return {"reason": str(error)}


def _memory_note(started: Mapping[str, Any]) -> str:
    if started.get("reason"):
        return str(started["reason"])
    bare = started.get("runtime_memory_bytes")
    if bare is None:
        return "the system does not tell a process's peak memory"
    return (
        f"largest resident memory of a Python process that runs it; {bare / 1e6:.1f} MB of it were "
        "taken before the model was loaded"
    )


def _sustained(content: bytes, device: Device, seconds: float) -> dict[str, Any] | None:
    """Windows of a quarter second, one after the other, for as long as asked."""
    if seconds <= 0:
        return None
    plan = TimingPlan(
        min_runs=3, max_runs=100_000, min_time_ms=WINDOW_MS, warmup_runs=1, warmup_time_ms=0.0
    )
    medians: list[float] = []
    slowest, runs = 0.0, 0
    begun = time.monotonic()
    while time.monotonic() - begun < seconds or len(medians) < 3:
        timing = device.time_many([content], plan)[0]
        if not timing.ok:
            return {"reason": timing.reason}
        medians.append(timing.median_ms)
        slowest = max(slowest, timing.p90_ms)
        runs += timing.runs
        if device.profile.transport == "simulated" and len(medians) >= 3:
            break
    third = max(1, len(medians) // 3)
    first, last = float(np.median(medians[:third])), float(np.median(medians[-third:]))
    return {
        "seconds": round(time.monotonic() - begun, 2),
        "runs": runs,
        "windows": len(medians),
        "median_ms": float(np.median(medians)),
        "first_third_ms": first,
        "last_third_ms": last,
        "drift_percent": 100 * (last / first - 1),
        "slowest_window_p90_ms": slowest,
    }


def _budget(
    result: Mapping[str, Any],
    latency: LatencyPart | None,
    device_id: str,
    further: Sequence[LimitPart],
    min_accuracy: float | None,
) -> BudgetPart:
    limit = result.get("max_latency_ms")
    own = []
    if limit is not None:
        own = [LimitPart.of("latency_ms", result.get("median_ms"), limit, device_id)]
    verdict = {"passed": "holds"}.get(str(result.get("verdict")), str(result.get("verdict")))
    upper = None if latency is None else latency.median_interval_ms[1]
    return BudgetPart(
        max_latency_ms=limit,
        max_macs=next((part.limit for part in further if part.name == "macs"), None),
        min_accuracy=min_accuracy,
        verdict=verdict,  # type: ignore[arg-type]
        margin_percent=result.get("margin_percent"),
        interval_holds=None if limit is None or upper is None else upper <= limit,
        reasons=[str(reason) for reason in result.get("reasons") or []],
        limits=[*own, *further],
    )


def probe_inputs(specs: Sequence[Mapping[str, Any]], seed: int) -> dict[str, np.ndarray]:
    """The fixed inputs: standard normal floats, or whole numbers 0..255 for bytes."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in specs:
        shape, dtype = tuple(spec["shape"]), np.dtype(spec["dtype"])
        if dtype.kind == "f":
            feeds[str(spec["name"])] = rng.standard_normal(shape).astype(dtype)
        else:
            feeds[str(spec["name"])] = rng.integers(0, 256, shape).astype(dtype)
    return feeds


def probe_difference(outputs: Sequence[float], expected: Sequence[float]) -> float:
    """Largest difference over the largest expected value; infinite where not comparable."""
    ours, theirs = np.asarray(outputs, np.float64), np.asarray(expected, np.float64)
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return math.inf
    return float(np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), 1e-9))


def run_probe(
    content: bytes, device: Device, specs: Sequence[Mapping[str, Any]], output: str, seed: int
) -> list[float]:
    """The first values of the first output for the fixed inputs."""
    found = device.run(content, probe_inputs(specs, seed))
    values = np.asarray(found[output], np.float64).reshape(-1)[:PROBE_VALUES]
    return [float(v) for v in values]


def _probe(content: bytes, device: Device, precision: str) -> ProbePart | None:
    with TemporaryFolder("certify") as folder:
        path = folder / ("model.ort" if content[4:8] == b"ORTM" else "model.onnx")
        path.write_bytes(content)
        manifest = describe_file(path)
    specs = [spec.model_dump(mode="json") for spec in manifest.inputs]
    try:
        values = run_probe(content, device, specs, manifest.outputs[0].name, PROBE_SEED)
    except InputError:
        return None
    return ProbePart(
        seed=PROBE_SEED,
        inputs="numpy default_rng(seed): standard_normal for floats, integers(0, 256) for bytes",
        outputs=values,
        tolerance=TOLERANCE.get(precision, 5e-2),
    )
