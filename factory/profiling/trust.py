"""When a measurement can be trusted: the references beside it, repeats, and waiting with a limit.

Other load, throttling and, on virtual machines, whatever the host does make a chip slower for
seconds at a time. What is measured then says little about the model. This is the one procedure that
decides: profiles, finalists, verifications and `factory verify` all time their models through a
:class:`SteadyTimer`, and one threshold says what counts as a disturbance
(:data:`factory.devices.base.DISTURBED`).

Two signs count, whichever says more:

- the median of a reference over its usual one: the clock, the caches or the memory are slower;
- the time that single runs of the references took beyond their medians, over the time of the
  medians: something else had the core for milliseconds. Networks of more than some milliseconds
  are then interrupted in every run, and their own medians do not show it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from factory.devices.base import DISTURBED, Device, Timing, TimingPlan
from factory.profiling.reference import (
    GRAPHS,
    reference_models,
    reference_rows,
    title,
    usual_references_ms,
)
from factory.profiling.table import LatencyTable

LOOK_TIME_MS = 60.0
PAUSE_S = 0.5
STEADY_LOOKS = 3  # so many in a row end the waiting
MOST_ORDINARY = 0.10  # time beyond the medians that a runtime takes by itself, as a share


@dataclass(frozen=True)
class Usual:
    """What the references take when nothing disturbs them.

    Attributes:
        median_ms: by the key of the reference; those that are not known do not count.
        stolen: the time beyond the medians that this chip's runtime takes by itself, as a share.
    """

    median_ms: Mapping[str, float]
    stolen: float = 0.0

    @classmethod
    def of_table(cls, table: LatencyTable) -> Usual | None:
        """What they took while the table was measured; None for a table without references."""
        medians = usual_references_ms(table)
        if not medians:
            return None
        rows = [row for key in medians for row in reference_rows(table, key) if row.mean_ms > 0]
        beyond = [max(0.0, row.mean_ms / row.median_ms - 1.0) for row in rows]
        return cls(medians, _ordinary(statistics.median_low(beyond) if beyond else 0.0))

    @classmethod
    def least_of(cls, speeds: Sequence[Speed]) -> Usual:
        """The fastest that the references were seen, where nothing else is known."""
        keys = {key for speed in speeds for key in speed.timings}
        times = {
            key: min(s.timings[key].median_ms for s in speeds if key in s.timings) for key in keys
        }
        return cls(times, _ordinary(min((speed.stolen for speed in speeds), default=0.0)))


class Slowdown(NamedTuple):
    """By how much the machine was slower than usual, as a share, and what showed it."""

    share: float
    sign: str = ""


NOT_SLOWER = Slowdown(0.0)


@dataclass(frozen=True)
class Speed:
    """What the references took beside one measurement: the successful timings, by key."""

    timings: Mapping[str, Timing]

    @property
    def stolen(self) -> float:
        """Time of all runs beyond the medians, over that of the medians; 0 where not known."""
        known = [timing for timing in self.timings.values() if timing.mean_ms > 0]
        usual = sum(timing.runs * timing.median_ms for timing in known)
        beyond = sum(timing.runs * (timing.mean_ms - timing.median_ms) for timing in known)
        return max(0.0, beyond / usual) if usual > 0 else 0.0

    def median_ms(self, key: str) -> float:
        """The median of one reference; 0 where it failed."""
        return self.timings[key].median_ms if key in self.timings else 0.0

    def slower(self, usual: Usual | None) -> Slowdown:
        """The largest sign of a disturbance against what is usual; none where nothing is known."""
        if usual is None:
            return NOT_SLOWER
        share = (1.0 + self.stolen) / (1.0 + usual.stolen) - 1.0
        found = [Slowdown(share, f"other programs took {share:.0%} of the core's time")]
        for key, timing in self.timings.items():
            if usual.median_ms.get(key, 0.0) > 0:
                share = timing.median_ms / usual.median_ms[key] - 1.0
                found.append(Slowdown(share, f"{title(key)} took {share:+.0%}"))
        return max(found)


@dataclass(frozen=True)
class Attempt:
    """One measurement: the models' timings, the references' beside them, and what that says.

    Attributes:
        number: how many measurements it took to get this one.
        failed: why the smallest reference has no time; "" when it has.
    """

    timings: Sequence[Timing]
    speed: Speed
    slower: Slowdown
    number: int = 1
    failed: str = ""


class SteadyTimer:
    """Times models beside the references, again while the machine is disturbed.

    Args:
        device: the chip, open.
        usual: what the references take undisturbed; None: not known yet, nothing is disturbed.
        patience_s: seconds that may be spent waiting for the machine to become quiet, in all.
        repeats: most further measurements of what was disturbed.
        threshold: slow-down that makes a measurement a disturbed one.
        noticed: called with every disturbed measurement that is repeated.
        stayed: called with it where the machine did not become quiet meanwhile.

    Attributes:
        waited_s: seconds that were spent waiting.
    """

    def __init__(
        self,
        device: Device,
        usual: Usual | None = None,
        *,
        patience_s: float = 0.0,
        repeats: int = 0,
        threshold: float = DISTURBED,
        noticed: Callable[[Attempt], None] = lambda attempt: None,
        stayed: Callable[[Attempt], None] = lambda attempt: None,
    ) -> None:
        self.device, self.usual = device, usual
        self.patience_s, self.repeats = patience_s, repeats
        self.threshold, self.noticed, self.stayed = threshold, noticed, stayed
        self.waited_s = 0.0
        self.references = reference_models(device.profile.dtype)

    def disturbed(self, attempt: Attempt) -> bool:
        """Whether nothing may rest on this measurement."""
        return attempt.slower.share > self.threshold

    def time(self, models: Sequence[bytes], plan: TimingPlan, rounds: int = 1) -> Attempt:
        """The steadiest measurement of these models, of at most 1 + ``repeats``."""
        best = latest = self.once(models, plan, rounds)
        number = 1
        while self.disturbed(latest) and number <= self.repeats:
            self.noticed(latest)
            if not self.wait(plan):
                self.stayed(latest)
            latest = self.once(models, plan, rounds)
            best = min(best, latest, key=lambda attempt: attempt.slower)
            number += 1
        return replace(best, number=number)

    def once(self, models: Sequence[bytes], plan: TimingPlan, rounds: int = 1) -> Attempt:
        """These models and the references, interleaved, measured once."""
        plan = replace(plan, references=len(self.references))
        timings = self.device.time_many([*models, *self.references.values()], plan, rounds=rounds)
        own, beside = timings[: len(models)], timings[len(models) :]
        named = dict(zip(self.references, beside, strict=True))
        speed = Speed({key: timing for key, timing in named.items() if timing.ok})
        first = next(iter(named.values()))
        return Attempt(own, speed, speed.slower(self.usual), failed=first.reason)

    def wait(self, plan: TimingPlan) -> bool:
        """Until the references are as fast as usual or the patience is spent; whether they are.

        A block takes seconds, a look at the references a fraction of one: so that comes first.
        """
        look = replace(
            plan,
            min_time_ms=min(plan.min_time_ms, LOOK_TIME_MS),
            warmup_time_ms=min(plan.warmup_time_ms, LOOK_TIME_MS / 4),
            profile_runs=0,
            optimised_graph=False,
        )
        started = time.monotonic()
        deadline = started + self.patience_s
        steady = 0
        while steady < STEADY_LOOKS and time.monotonic() < deadline:
            seen = self.once([], look)
            if seen.failed:
                break
            steady = 0 if self.disturbed(seen) else steady + 1
            if not steady:
                time.sleep(min(PAUSE_S, max(0.0, deadline - time.monotonic())))
        spent = time.monotonic() - started
        self.patience_s = max(0.0, self.patience_s - spent)
        self.waited_s += spent
        return steady == STEADY_LOOKS


def recent(speeds: Sequence[Speed]) -> Usual:
    """What the references took of late: medians, and the least time that others took.

    A chip that is slower for good (throttled, another governor) is believed after a while; a
    program that takes the core away is a disturbance for as long as it does.
    """
    medians = {}
    for key in GRAPHS:
        times = [speed.timings[key].median_ms for speed in speeds if key in speed.timings]
        if times:
            medians[key] = statistics.median(times)
    return Usual(medians, _ordinary(min((speed.stolen for speed in speeds), default=0.0)))


def _ordinary(stolen: float) -> float:
    """No more than a runtime takes by itself; beyond that somebody else does, and always did."""
    return min(stolen, MOST_ORDINARY)
