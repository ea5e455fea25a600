"""The judge: how long an ONNX model takes on a chip, and whether that holds a budget.

A verdict rests on several rounds (factory/verification/rounds.py) in which the machine was as fast
as it usually is. The reported median, p10 and p90 are medians over these rounds, min is the least
of them; where the machine was too busy for enough such rounds there are no numbers and the verdict
is "undecided". Every node must have run on the execution provider that the profile asks for.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.devices.base import DISTURBED, Device, TimingPlan
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_import import from_onnx
from factory.latency.predictor import LatencyPredictor
from factory.profiling.reference import KEY
from factory.profiling.trust import Usual
from factory.verification.model_file import ModelFile, read_model
from factory.verification.result import UNDECIDED, VerifyResult
from factory.verification.rounds import (
    ATTEMPTS,
    STEADY_SPREAD,
    Measured,
    Round,
    measure_rounds,
)

ROUNDS = 5
PAUSE_S = 0.3
LATER_S = 15.0  # before a surprising result is measured again
DIFFERENT = 3  # most measurements that all differ
PLAN = TimingPlan(min_runs=30, max_runs=2000, min_time_ms=300.0)


def verify_model(
    path_or_bytes: Path | str | bytes | ModelFile,
    device: Device,
    *,
    max_latency_ms: float | None = None,
    plan: TimingPlan = PLAN,
    rounds: int = ROUNDS,
    predictor: LatencyPredictor | None = None,
    usual: Usual | None = None,
    pause_s: float = PAUSE_S,
    attempts: int = ATTEMPTS,
    progress: Progress = SILENT,
) -> VerifyResult:
    """Measure a model on the device and judge it against a budget.

    Args:
        path_or_bytes: an ONNX file, or its content; a ModelFile without a graph is only measured
            (16-bit floats, ORT format).
        device: the chip, open.
        max_latency_ms: the budget; without one the verdict is "measured".
        plan: how often each round runs the model.
        rounds: how many rounds; more are made when they disagree or were disturbed.
        predictor: also predicts the latency, to show beside the measured one.
        usual: what the references took in the chip's latency table; a round in which they are
            slower was disturbed. Without it the fastest round says what is usual.
        pause_s: seconds between rounds.
        attempts: how often it is tried on a busy machine before nothing is decided.
        progress: gets a message before another attempt.

    Raises:
        InputError: the budget is not above zero, the file is not an ONNX model, an input has free
            dimensions, or neither ONNX nor the runtime takes its graph.
    """
    if max_latency_ms is not None and not (math.isfinite(max_latency_ms) and max_latency_ms > 0):
        raise InputError(
            f"max_latency_ms = {max_latency_ms:g} is not a latency budget",
            why="it must be a finite number of milliseconds above zero",
            fix="give for example --max-latency-ms 8",
        )
    if rounds < 1:
        raise InputError(f"{rounds} rounds measure nothing", fix="ask for one round or more")
    given = path_or_bytes
    model = given if isinstance(given, ModelFile) else read_model(given)
    measured = measure_rounds(
        model.content,
        device,
        plan,
        rounds,
        pause_s=pause_s,
        usual=usual,
        limit_ms=max_latency_ms,
        attempts=attempts,
        progress=progress,
    )
    result = VerifyResult(
        device_id=device.profile.id,
        precision=device.profile.precision,
        execution_provider=device.profile.execution_provider,
        describe=device.describe(),
        model_bytes=len(model.content) + model.weights_bytes,
        model_sha256=model.sha256,
        max_latency_ms=max_latency_ms,
    )
    result = _with_prediction(result, model, predictor)
    result = dataclasses.replace(result, notes=(*model.notes, *result.notes))
    failure = measured.failure
    if failure is not None and model.fault is not None:
        raise InputError(
            "the model can neither be read nor measured",
            why=f"{model.fault}; the runtime: {failure.reason}",
        )
    if failure is not None:
        return dataclasses.replace(result, verdict="failed", reasons=(failure.reason,))
    result = _with_rounds(result, measured)
    if measured.undecided:
        reason = f"not decided: {measured.undecided}; run the same command again later"
        return dataclasses.replace(result, verdict=UNDECIDED, reasons=(reason,))
    return judge(_with_timings(result, measured))


def verify_with_prediction(
    path_or_bytes: Path | str | bytes | ModelFile,
    device: Device,
    *,
    predictor: LatencyPredictor,
    max_latency_ms: float | None = None,
    usual: Usual | None = None,
    before_ms: float | None = None,
    later_s: float = LATER_S,
    progress: Progress = SILENT,
) -> VerifyResult:
    """:func:`verify_model`, made again later while its result lies outside of the prediction.

    A result inside the interval of the prediction is believed, and so is one that a later
    measurement repeats: then the predictor is wrong. Of three that all differ the middle one is
    taken.

    Args:
        path_or_bytes, device, max_latency_ms, usual: as :func:`verify_model` takes them.
        predictor: of the device.
        before_ms: what the same network was measured at before: a result that differs by more than
            a disturbance may is surprising too.
        later_s: seconds until the next measurement.
        progress: gets a message where a model is measured again or the machine is busy.
    """
    later_s = 0.0 if device.profile.transport == "simulated" else later_s
    model = path_or_bytes if isinstance(path_or_bytes, ModelFile) else read_model(path_or_bytes)
    found: list[VerifyResult] = []
    while True:
        result = verify_model(
            model,
            device,
            max_latency_ms=max_latency_ms,
            predictor=predictor,
            usual=usual,
            progress=progress,
        )
        known = before_ms is None or _alike(result.median_ms or 0.0, before_ms)
        if result.median_ms is None or (known and _as_predicted(result)):
            return result
        times = [one.median_ms or 0.0 for one in found]
        found.append(result)
        if any(_alike(result.median_ms, ms) for ms in times):
            return result
        if len(found) == DIFFERENT:
            return sorted(found, key=lambda one: one.median_ms or 0.0)[DIFFERENT // 2]
        before = "" if known else f", before {before_ms:.4g} ms"
        progress.message(
            f"{device.profile.id}: measured {result.median_ms:.4g} ms, {_predicted(result)}"
            f"{before}; it is measured again"
        )
        time.sleep(later_s)


def _as_predicted(result: VerifyResult) -> bool:
    """Whether the measurement lies in the interval of its prediction, or there is none."""
    if result.median_ms is None or result.low_ms is None or result.high_ms is None:
        return True
    return result.low_ms <= result.median_ms <= result.high_ms


def _alike(one_ms: float, other_ms: float) -> bool:
    least, most = sorted((one_ms, other_ms))
    return most <= (1.0 + DISTURBED) * least


def _predicted(result: VerifyResult) -> str:
    if result.predicted_ms is None:
        return "not predicted"
    return f"predicted {result.predicted_ms:.4g} ({result.low_ms:.4g} to {result.high_ms:.4g})"


def _with_rounds(result: VerifyResult, measured: Measured) -> VerifyResult:
    kept = set(map(id, measured.kept))
    usual = measured.usual
    return dataclasses.replace(
        result,
        usual_reference_ms=None if usual is None else usual.median_ms.get(KEY),
        usual_references_ms={} if usual is None else dict(usual.median_ms),
        rounds=tuple(_round_values(r, id(r) in kept) for r in measured.rounds),
        providers=dict(measured.traced.providers or {}),
        nodes=tuple(dict(node) for node in measured.traced.nodes),
    )


def _with_timings(result: VerifyResult, measured: Measured) -> VerifyResult:
    timings = [r.timing for r in measured.kept]
    median_ms = float(np.median([t.median_ms for t in timings]))
    predicted = result.predicted_ms
    return dataclasses.replace(
        result,
        median_ms=median_ms,
        p10_ms=float(np.median([t.p10_ms for t in timings])),
        p90_ms=float(np.median([t.p90_ms for t in timings])),
        min_ms=min(t.min_ms for t in timings),
        session_ms=float(np.median([t.session_ms for t in timings])),
        first_run_ms=_median([t.first_run_ms for t in timings]),
        peak_memory_mb=_median([t.peak_memory_mb for t in timings]),
        spread_percent=100 * measured.spread,
        relative_error=None if predicted is None else predicted / median_ms - 1.0,
    )


def _median(values: Sequence[float]) -> float | None:
    """Over those that are known, which are above zero."""
    known = [value for value in values if value > 0]
    return float(np.median(known)) if known else None


def _round_values(a_round: Round, kept: bool) -> dict[str, object]:
    """A round as plain values."""
    timing = a_round.timing
    return {
        "median_ms": timing.median_ms,
        "p10_ms": timing.p10_ms,
        "p90_ms": timing.p90_ms,
        "min_ms": timing.min_ms,
        "runs": timing.runs,
        "reference_ms": a_round.speed.median_ms(KEY) or None,
        "references_ms": {key: found.median_ms for key, found in a_round.speed.timings.items()},
        "stolen": a_round.speed.stolen,
        "disturbed": a_round.disturbed,
        "sign": a_round.slower.sign if a_round.disturbed else "",
        "kept": kept,
    }


def _with_prediction(
    result: VerifyResult, model: ModelFile, predictor: LatencyPredictor | None
) -> VerifyResult:
    """The prediction beside the measurement; a predictor that cannot say is a note."""
    if predictor is None or model.proto is None:
        return result
    try:
        counts = kernel_counts(canonicalise(from_onnx(model.proto)), fusion=predictor.fusion)
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
