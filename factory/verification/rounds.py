"""Rounds of a verification: the model beside the reference model, repeated while disturbed.

A verdict rests on several rounds spread over seconds, each in a session of its own. Every round
times the reference model of the latency table (factory/profiling/reference.py) too: where that is
slower than usual, the machine was busy, throttled or slow to wake its threads, and what was
measured then says nothing about the model. Such rounds are repeated, as soon as the reference is as
fast as usual (PATIENCE_S), and left out where enough others remain. The rule is the profiler's, so
that a prediction and its verification speak of the same state of the chip.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factory.devices.base import Device, Timing, TimingPlan
from factory.profiling.attempts import wait_for_speed
from factory.profiling.reference import reference_model

EXTRA_ROUNDS = 5
STEADY_SPREAD = 0.08  # rounds whose medians lie further apart ask for more rounds
PATIENCE_S = 30.0  # for a chip that is slower than usual, in all rounds together
DISTURBED = 0.10  # slow-down of the reference model that makes a round a disturbed one
FEWEST_KEPT = 3
PROFILE_RUNS = 10


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        timing: of the model; a failure has no numbers.
        reference_ms: median of the reference model in the same round; None where it did not run.
        slower: reference_ms over its usual value, minus 1; 0 where nothing is known.
    """

    timing: Timing
    reference_ms: float | None
    slower: float = 0.0

    @property
    def disturbed(self) -> bool:
        """Whether the machine was slower than usual."""
        return self.slower > DISTURBED


@dataclass(frozen=True)
class Measured:
    """All rounds, those that count, and a trace of the model.

    Attributes:
        rounds: every round, in order.
        kept: those that the verdict rests on: the undisturbed ones, or all where too few are.
        traced: the model once more with a trace; a failure when a round or the trace failed.
        usual_reference_ms: what the reference model is compared with.
    """

    rounds: tuple[Round, ...]
    kept: tuple[Round, ...]
    traced: Timing
    usual_reference_ms: float | None

    @property
    def failure(self) -> Timing | None:
        """The first timing without numbers."""
        timings = [*(r.timing for r in self.rounds), self.traced]
        return next((t for t in timings if not t.ok), None)

    @property
    def spread(self) -> float:
        """How far the medians of the kept rounds lie apart, as a share."""
        return spread(self.kept)

    @property
    def disturbed(self) -> int:
        """Number of rounds measured while the machine was slower than usual."""
        return sum(r.disturbed for r in self.rounds)


def measure_rounds(
    model: bytes,
    device: Device,
    plan: TimingPlan,
    rounds: int,
    *,
    pause_s: float,
    usual_reference_ms: float | None = None,
) -> Measured:
    """Time ``model`` in ``rounds`` undisturbed rounds, with up to EXTRA_ROUNDS more to get them.

    Args:
        model: ONNX bytes.
        device: the chip, open.
        plan: how often each round runs the model.
        rounds: rounds asked for.
        pause_s: seconds between rounds.
        usual_reference_ms: the reference model's time in the chip's latency table; without it
            the fastest round says what is usual.
    """
    quiet = dataclasses.replace(plan, profile_runs=0)
    reference = reference_model(device.profile.dtype)
    found: list[Round] = []
    patience_s = PATIENCE_S
    if device.profile.transport == "simulated":
        pause_s = patience_s = 0.0  # no chip that could be disturbed
    while True:
        timing, beside = device.time_many([model, reference], quiet)
        found.append(Round(timing, beside.median_ms if beside.ok else None))
        if not timing.ok:
            return Measured(tuple(found), tuple(found), timing, usual_reference_ms)
        judged, usual_ms = _judge(found, usual_reference_ms)
        if len(found) >= rounds and _enough(judged, rounds):
            break
        if len(found) >= rounds + min(EXTRA_ROUNDS, rounds):
            break
        time.sleep(pause_s)
        if judged[-1].disturbed and usual_ms:
            highest_ms = (1.0 + DISTURBED) * usual_ms
            patience_s -= wait_for_speed(device, reference, quiet, highest_ms, patience_s).seconds
    kept = [r for r in judged if not r.disturbed]
    if len(kept) < min(FEWEST_KEPT, rounds):
        kept = judged
    return Measured(tuple(judged), tuple(kept), _trace(model, device, plan), usual_ms)


def spread(rounds: Sequence[Round]) -> float:
    """Largest minus smallest median over their median, as a share."""
    medians = np.array([r.timing.median_ms for r in rounds])
    return float((medians.max() - medians.min()) / np.median(medians))


def _judge(found: Sequence[Round], stated_ms: float | None) -> tuple[list[Round], float | None]:
    """Every round beside what the reference usually takes, and that time."""
    references = [r.reference_ms for r in found if r.reference_ms]
    usual_ms = stated_ms or (min(references) if references else None)
    if usual_ms is None:
        return list(found), None
    judged = [
        dataclasses.replace(r, slower=(r.reference_ms or usual_ms) / usual_ms - 1.0) for r in found
    ]
    return judged, usual_ms


def _enough(judged: Sequence[Round], rounds: int) -> bool:
    steady = [r for r in judged if not r.disturbed]
    return len(steady) >= rounds and spread(steady) <= STEADY_SPREAD


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
