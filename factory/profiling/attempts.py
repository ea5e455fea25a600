"""One measurement of a block: what the machine did meanwhile, and waiting until it is itself again.

Other load, throttling and, on virtual machines, whatever the host does make a chip slower for
seconds at a time. (Measured: two threads on two virtual cores took 1.33 times as long for 10 to 30
seconds, again and again, whether pinned or not, spinning or not.) What is measured then is of no
use, and a block takes seconds where the reference model takes milliseconds: so that is asked first.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from factory.devices.base import Device, Timing, TimingPlan

LOOK_TIME_MS = 40.0
PAUSE_S = 0.5
STEADY_LOOKS = 3  # so many in a row end the waiting


@dataclass(frozen=True)
class Attempt:
    """One measurement of a block.

    Attributes:
        slower: the reference's time over its running median, minus 1.
        uneven: median over p10 of the block's models, over what it usually is, minus 1.
        number: how many measurements the block took.
        mark: the reason that its rows are marked with, if the machine was slow throughout.
    """

    timings: Sequence[Timing]
    reference: Timing
    slower: float
    uneven: float
    number: int = 1
    mark: str = ""

    @property
    def disturbed(self) -> float:
        """How far it is from a quiet measurement, by whichever sign says more."""
        return max(self.slower, self.uneven)

    def sentence(self) -> str:
        """What was seen while this was measured."""
        if self.slower >= self.uneven:
            return f"the reference model took {self.slower:+.0%}"
        return f"the medians lay {self.uneven:+.0%} farther above the p10 than usual"

    @property
    def reference_ms(self) -> float:
        """What the reference model took; 0 where it failed."""
        return self.reference.median_ms if self.reference.ok else 0.0

    def off(self, usual_ms: float) -> float:
        """By how much the chip's speed differed from the usual one; infinite where unknown."""
        return abs(self.reference_ms / usual_ms - 1.0) if self.reference_ms > 0 else math.inf

    @property
    def spread(self) -> float:
        """Median over p10, the median of the models that were timed; 1 without any."""
        ratios = [one.median_ms / one.p10_ms for one in self.timings if one.p10_ms > 0]
        return statistics.median(ratios) if ratios else 1.0


class Waited(NamedTuple):
    """Whether the chip is as fast as it should be now, and the seconds that it took to know."""

    fast: bool
    seconds: float


def wait_for_speed(
    device: Device, reference: bytes, plan: TimingPlan, highest_ms: float, longest_s: float
) -> Waited:
    """Wait while the reference model takes more than ``highest_ms``.

    Args:
        reference: the reference model in the device's precision.
        plan: how models are timed; the looks at the reference are shorter.
        longest_s: the longest wait, in seconds; 0 neither looks nor waits and says no.
    """
    look = replace(
        plan,
        min_time_ms=min(plan.min_time_ms, LOOK_TIME_MS),
        warmup_time_ms=min(plan.warmup_time_ms, LOOK_TIME_MS / 4),
        profile_runs=0,
        optimised_graph=False,
    )
    started = time.monotonic()
    deadline = started + longest_s
    steady = 0
    while steady < STEADY_LOOKS and time.monotonic() < deadline:
        timing = device.time_many([reference], look)[0]
        if not timing.ok:
            break
        steady = steady + 1 if timing.median_ms <= highest_ms else 0
        if not steady:
            time.sleep(min(PAUSE_S, max(0.0, deadline - time.monotonic())))
    return Waited(steady == STEADY_LOOKS, time.monotonic() - started)
