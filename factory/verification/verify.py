"""The judge: how long an ONNX model takes on a chip, and whether that holds a budget.

A verdict rests on several rounds spread over seconds, each in a session of its own, so that a
burst of other load or a throttled clock shows as a difference between rounds; when rounds
disagree, more are made. The reported median, p10 and p90 are medians over rounds, min is the
least of all. Every node must have run on the execution provider that the profile asks for.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from factory.core.errors import InputError
from factory.devices.base import Device, Timing, TimingPlan
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_import import from_onnx
from factory.latency.predictor import LatencyPredictor
from factory.verification.model_file import ModelFile, read_model
from factory.verification.result import VerifyResult

ROUNDS = 5
EXTRA_ROUNDS = 5
PAUSE_S = 0.3
STEADY_SPREAD = 0.08  # rounds whose medians lie further apart ask for more rounds
PROFILE_RUNS = 10
PLAN = TimingPlan(min_runs=30, max_runs=2000, min_time_ms=300.0)


def verify_model(
    path_or_bytes: Path | str | bytes,
    device: Device,
    *,
    max_latency_ms: float | None = None,
    plan: TimingPlan = PLAN,
    rounds: int = ROUNDS,
    predictor: LatencyPredictor | None = None,
    pause_s: float = PAUSE_S,
) -> VerifyResult:
    """Measure a model on the device and judge it against a budget.

    Args:
        path_or_bytes: an ONNX file, or its content.
        device: the chip, open.
        max_latency_ms: the budget; without one the verdict is "measured".
        plan: how often each round runs the model.
        rounds: how many rounds; up to EXTRA_ROUNDS more when they disagree.
        predictor: also predicts the latency, to show beside the measured one.
        pause_s: seconds between rounds.

    Raises:
        InputError: the budget is not above zero, or the file is not an ONNX model with fixed
            shapes and known operators.
    """
    if max_latency_ms is not None and not (math.isfinite(max_latency_ms) and max_latency_ms > 0):
        raise InputError(
            f"max_latency_ms = {max_latency_ms:g} is not a latency budget",
            why="it must be a finite number of milliseconds above zero",
            fix="give for example --max-latency-ms 8",
        )
    if rounds < 1:
        raise InputError(f"{rounds} rounds measure nothing", fix="ask for one round or more")
    return _verify(
        read_model(path_or_bytes), device, max_latency_ms, plan, rounds, predictor, pause_s
    )


def verify_file(
    path: Path, device: Device, *, max_latency_ms: float | None = None, plan: TimingPlan = PLAN
) -> VerifyResult:
    """:func:`verify_model` for a file whose graph need not be understood (16-bit floats, ORT)."""
    model = ModelFile(path.read_bytes(), None)
    return _verify(model, device, max_latency_ms, plan, ROUNDS, None, PAUSE_S)


def _verify(
    model: ModelFile,
    device: Device,
    max_latency_ms: float | None,
    plan: TimingPlan,
    rounds: int,
    predictor: LatencyPredictor | None,
    pause_s: float,
) -> VerifyResult:
    timings = _measure(model, device, plan, rounds, pause_s)
    result = VerifyResult(
        device_id=device.profile.id,
        precision=device.profile.precision,
        execution_provider=device.profile.execution_provider,
        describe=device.describe(),
        model_bytes=len(model.content),
        model_sha256=model.sha256,
        max_latency_ms=max_latency_ms,
    )
    result = _with_prediction(result, model, predictor)
    failures = [t for t in timings if not t.ok]
    if failures:
        return dataclasses.replace(result, verdict="failed", reasons=(failures[0].reason,))
    result = _with_timings(result, timings)
    return judge(result)


def _measure(
    model: ModelFile, device: Device, plan: TimingPlan, rounds: int, pause_s: float
) -> list[Timing]:
    """One Timing a round; the first failure ends it. Only the last round is traced as well."""
    quiet = dataclasses.replace(plan, profile_runs=0)
    timings: list[Timing] = []
    wanted = rounds
    while len(timings) < wanted:
        if timings:
            time.sleep(pause_s)
        timing = device.time_many([model.content], quiet)[0]
        timings.append(timing)
        if not timing.ok:
            return timings
        if len(timings) == rounds and _spread(timings) > STEADY_SPREAD:
            wanted = rounds + min(EXTRA_ROUNDS, rounds)
    traced_plan = dataclasses.replace(
        plan,
        min_runs=3,
        max_runs=3,
        min_time_ms=0.0,
        profile_runs=plan.profile_runs or PROFILE_RUNS,
    )
    traced = device.time_many([model.content], traced_plan)[0]
    if not traced.ok:
        return [*timings, traced]
    last = timings[-1]
    timings[-1] = dataclasses.replace(last, nodes=traced.nodes, providers=traced.providers)
    return timings


def _spread(timings: Sequence[Timing]) -> float:
    medians = np.array([t.median_ms for t in timings])
    return float((medians.max() - medians.min()) / np.median(medians))


def _with_timings(result: VerifyResult, timings: Sequence[Timing]) -> VerifyResult:
    last = timings[-1]
    median_ms = float(np.median([t.median_ms for t in timings]))
    predicted = result.predicted_ms
    return dataclasses.replace(
        result,
        median_ms=median_ms,
        p10_ms=float(np.median([t.p10_ms for t in timings])),
        p90_ms=float(np.median([t.p90_ms for t in timings])),
        min_ms=min(t.min_ms for t in timings),
        session_ms=float(np.median([t.session_ms for t in timings])),
        spread_percent=100 * _spread(timings),
        rounds=tuple(
            {
                "median_ms": t.median_ms,
                "p10_ms": t.p10_ms,
                "p90_ms": t.p90_ms,
                "min_ms": t.min_ms,
                "runs": t.runs,
            }
            for t in timings
        ),
        providers=dict(last.providers or {}),
        nodes=tuple(dict(node) for node in last.nodes),
        relative_error=None if predicted is None else predicted / median_ms - 1.0,
    )


def _with_prediction(
    result: VerifyResult, model: ModelFile, predictor: LatencyPredictor | None
) -> VerifyResult:
    """The prediction beside the measurement; a predictor that cannot say is a note."""
    if predictor is None or model.proto is None:
        return result
    try:
        counts = kernel_counts(canonicalise(from_onnx(model.proto)))
        prediction = predictor.predict(counts)
    except InputError as error:
        return dataclasses.replace(result, notes=(f"no prediction: {error}",))
    return dataclasses.replace(
        result,
        predicted_ms=prediction.latency_ms,
        low_ms=prediction.low_ms,
        high_ms=prediction.high_ms,
        kernels=tuple(prediction.to_dict()["kernels"]),
        notes=tuple(prediction.warnings),
    )


def judge(result: VerifyResult) -> VerifyResult:
    """The verdict of a measured result: provider assignment first, then the budget."""
    assert result.median_ms is not None
    asked = result.execution_provider
    strays = {name: n for name, n in result.providers.items() if n and name != asked}
    notes = list(result.notes)
    if not result.providers:
        notes.append("the device does not tell which provider ran each node")
    if result.spread_percent > 100 * STEADY_SPREAD:
        notes.append(
            f"unsteady: medians of the rounds lie {result.spread_percent:.0f} % apart; "
            "measure again on an idle machine"
        )
    verdict, reasons, margin = "measured", [], None
    if result.max_latency_ms is not None:
        margin = 100 * (1.0 - result.median_ms / result.max_latency_ms)
        verdict = "holds" if result.median_ms <= result.max_latency_ms else "over budget"
        if verdict == "over budget":
            reasons.append(
                f"median {result.median_ms:.4g} ms is {-margin:.1f} % over the budget of "
                f"{result.max_latency_ms:.4g} ms"
            )
    if strays:
        verdict = "failed"
        told = ", ".join(f"{n} on {name}" for name, n in sorted(strays.items()))
        named = [str(n.get("name")) for n in result.nodes if n.get("provider") in strays]
        reasons.insert(
            0,
            f"nodes fell on another provider than {asked}: {told}"
            + (f" (first: {', '.join(named[:3])})" if named else ""),
        )
    return dataclasses.replace(
        result, verdict=verdict, reasons=tuple(reasons), margin_percent=margin, notes=tuple(notes)
    )
