"""Whether the chip's clock moved while a table was measured, told by its reference model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

NOTICED = 0.10  # a change of the reference model by more is said
WINDOW = 5


@dataclass(frozen=True)
class Drift:
    """How the reference model's time moved.

    Attributes:
        first_ms, last_ms: medians of the first and the last WINDOW times.
        usual_ms: median of all.
        low_ms, high_ms: least and greatest running median over WINDOW times.
    """

    first_ms: float
    last_ms: float
    usual_ms: float
    low_ms: float
    high_ms: float

    @property
    def percent(self) -> float:
        """How much longer the reference model took at the end than at first."""
        return 100 * (self.last_ms / self.first_ms - 1.0)

    @property
    def noticed(self) -> bool:
        """Whether it moved at any time by more than it may."""
        return self.high_ms > (1.0 + NOTICED) * self.low_ms

    def sentence(self) -> str:
        """'the reference model took +20 % at the end, 0.18 to 0.22 ms on the way'."""
        return (
            f"the clock drifted: the reference model took {self.percent:+.0f} % at the end against "
            f"the start, between {self.low_ms:.3g} and {self.high_ms:.3g} ms on the way"
        )


def clock_drift(times_ms: Sequence[float]) -> Drift | None:
    """The drift over the reference model's times in order; None for fewer than three."""
    if len(times_ms) < 3:
        return None
    window = min(WINDOW, len(times_ms))
    running = [
        statistics.median(times_ms[start : start + window])
        for start in range(len(times_ms) - window + 1)
    ]
    return Drift(running[0], running[-1], statistics.median(times_ms), min(running), max(running))
