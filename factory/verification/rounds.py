"""Rounds of a verification: the model beside the references, repeated while disturbed.

A verdict rests on several undisturbed rounds spread over seconds, each in a session of its own.
What is undisturbed is decided where profiles decide it too (:mod:`factory.profiling.trust`),
against what the references took while the chip was profiled, so that a prediction and its
verification speak of the same state of the chip. Where not enough rounds are undisturbed after
ATTEMPTS, nothing is decided.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factory.core.progress import SILENT, Progress
from factory.devices.base import DISTURBED, Device, Timing, TimingPlan
from factory.profiling.trust import NOT_SLOWER, Attempt, Slowdown, Speed, SteadyTimer, Usual

EXTRA_ROUNDS = 5
STEADY_SPREAD = 0.08  # rounds whose medians lie further apart ask for more rounds
ATTEMPTS = 3
PATIENCE_S = 30.0  # for a disturbed machine, in all rounds of an attempt together
BETWEEN_S = 20.0  # longest wait for a quiet machine before another attempt
FEWEST_KEPT = 3
PROFILE_RUNS = 10


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        timing: of the model; a failure has no numbers.
        speed: what the references took in the same round.
        slower: against what is usual; nothing where that is not known.
    """

    timing: Timing
    speed: Speed
    slower: Slowdown = NOT_SLOWER

    @property
    def disturbed(self) -> bool:
        """Whether nothing may rest on this round."""
        return self.slower.share > DISTURBED


@dataclass(frozen=True)
class Measured:
    """All rounds, those that count, and a trace of the model.

    Attributes:
        rounds: every round, in order.
        kept: those that the verdict rests on, the undisturbed ones; empty where too few are.
        traced: the model once more with a trace; a failure when a round or the trace failed.
        usual: what the references are compared with.
        undecided: why nothing is decided; "" where something is.
    """

    rounds: tuple[Round, ...]
    kept: tuple[Round, ...]
    traced: Timing
    usual: Usual | None
    undecided: str = ""

    @property
    def failure(self) -> Timing | None:
        """The first timing without numbers."""
        timings = [*(r.timing for r in self.rounds), self.traced]
        return next((t for t in timings if not t.ok), None)

    @property
    def spread(self) -> float:
        """How far the medians of the kept rounds lie apart, as a share."""
        return spread(self.kept)


def measure_rounds(
    model: bytes,
    device: Device,
    plan: TimingPlan,
    rounds: int,
    *,
    pause_s: float,
    usual: Usual | None = None,
    limit_ms: float | None = None,
    attempts: int = ATTEMPTS,
    progress: Progress = SILENT,
) -> Measured:
    """Time ``model`` until ``rounds`` rounds are undisturbed and agree, in ``attempts`` attempts.

    An attempt makes up to EXTRA_ROUNDS more rounds to get them, and FEWEST_KEPT have to be left.

    Args:
        model: ONNX bytes.
        device: the chip, open.
        plan: how often each round runs the model.
        rounds: rounds asked for.
        pause_s: seconds between rounds.
        usual: what the references took in the chip's latency table; without it the fastest round
            says what is usual.
        limit_ms: the budget: rounds that disagree by more than a disturbance may, on both sides of
            it, decide nothing.
        attempts: most attempts; each may wait PATIENCE_S for a quiet machine.
        progress: gets a message before another attempt.
    """
    quiet = dataclasses.replace(plan, profile_runs=0)
    waits = device.profile.transport != "simulated"  # no chip that could be disturbed
    timer = SteadyTimer(device, usual)
    found: list[Round] = []
    undecided = ""
    for attempt in range(1, attempts + 1):
        timer.patience_s = PATIENCE_S if waits else 0.0
        most = len(found) + rounds + min(EXTRA_ROUNDS, rounds)
        while len(found) < most:
            measured = timer.once([model], quiet)
            found = _with(found, measured, usual)
            if not found[-1].timing.ok:
                return Measured(tuple(found), (), found[-1].timing, usual)
            kept = [r for r in found if not r.disturbed]
            if len(kept) >= rounds and spread(kept) <= STEADY_SPREAD:
                break
            time.sleep(pause_s if waits else 0.0)
            timer.usual = usual or Usual.least_of([r.speed for r in found])
            if found[-1].disturbed:
                timer.wait(quiet)
        undecided = _why_undecided(found, min(FEWEST_KEPT, rounds), limit_ms)
        if not undecided:
            break
        if attempt < attempts:
            progress.message(
                f"{device.profile.id}: the machine is busy ({undecided}); "
                f"attempt {attempt + 1} of {attempts} follows"
            )
            timer.patience_s = BETWEEN_S if waits else 0.0
            timer.wait(quiet)
    usual = usual or Usual.least_of([r.speed for r in found])
    if undecided and not waits and _same_speed(found):
        # nobody else runs on a simulated chip: it is slower than it was
        return Measured(tuple(found), tuple(found), _trace(model, device, plan), usual)
    if undecided:
        if _same_speed(found):
            undecided += "; all alike: if the chip is as slow as that now, profile it again"
        why = f"the machine was busy, {attempts} of {attempts} attempts ({undecided})"
        return Measured(tuple(found), (), _trace(model, device, plan), usual, why)
    kept = [r for r in found if not r.disturbed]
    return Measured(tuple(found), tuple(kept), _trace(model, device, plan), usual)


def spread(rounds: Sequence[Round]) -> float:
    """Largest minus smallest median over their median, as a share; 0 without rounds."""
    medians = np.array([r.timing.median_ms for r in rounds])
    return float((medians.max() - medians.min()) / np.median(medians)) if rounds else 0.0


def _with(found: Sequence[Round], new: Attempt, usual: Usual | None) -> list[Round]:
    """Every round so far and the new one, beside what the references usually take."""
    rounds = [*found, Round(new.timings[0], new.speed)]
    if not rounds[-1].timing.ok:
        return rounds
    known = usual or Usual.least_of([r.speed for r in rounds])
    return [dataclasses.replace(r, slower=r.speed.slower(known)) for r in rounds]


def _why_undecided(found: Sequence[Round], fewest: int, limit_ms: float | None) -> str:
    kept = [r for r in found if not r.disturbed]
    if len(kept) < fewest:
        worst = sorted(found, key=lambda r: r.slower)[len(found) // 2]
        return f"{len(kept)} of {len(found)} rounds undisturbed; in others {worst.slower.sign}"
    low_ms, high_ms = np.quantile([r.timing.median_ms for r in kept], [0.25, 0.75])
    apart = high_ms > (1.0 + DISTURBED) * low_ms
    if apart and limit_ms is not None and low_ms <= limit_ms < high_ms:
        return f"undisturbed rounds took {low_ms:.4g} to {high_ms:.4g} ms"
    return ""


def _same_speed(found: Sequence[Round]) -> bool:
    """Whether no round was disturbed against the fastest of them."""
    least = Usual.least_of([r.speed for r in found])
    return all(r.speed.slower(least).share <= DISTURBED for r in found)


def _trace(model: bytes, device: Device, plan: TimingPlan) -> Timing:
    """The model with a trace: which node ran where, and its share of the time."""
    traced = dataclasses.replace(
        plan,
        min_runs=3,
        max_runs=3,
        min_time_ms=0.0,
        profile_runs=plan.profile_runs or PROFILE_RUNS,
    )
    return device.time_many([model], traced)[0]
