"""Whether the chip changed its speed slowly while a table was measured, as its rows tell it.

Two things show it: the smallest reference, timed with every block, and the networks of the first
block, which a profile measures again at its end.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from factory.devices.base import DISTURBED
from factory.profiling.reference import GRAPHS, reference_rows
from factory.profiling.table import LatencyTable

WINDOW = 5


@dataclass(frozen=True)
class Drift:
    """How a time moved.

    Attributes:
        what: what was timed, "the reference model".
        percent: how much longer it took at the end than at first.
        low_ms, high_ms: least and greatest on the way.
    """

    what: str
    percent: float
    low_ms: float
    high_ms: float

    @property
    def noticed(self) -> bool:
        """Whether it moved at any time by more than it may."""
        return self.high_ms > (1.0 + DISTURBED) * self.low_ms

    def sentence(self) -> str:
        """'the clock drifted: the reference model took +20 % at the end ...'."""
        return (
            f"the clock drifted: {self.what} took {self.percent:+.0f} % at the end against "
            f"the start, between {self.low_ms:.3g} and {self.high_ms:.3g} ms on the way"
        )


def drifts_of(table: LatencyTable) -> list[Drift]:
    """Every drift that a table's rows show."""
    clock = clock_drift([row.median_ms for row in reference_rows(table)])
    return [d for d in (clock, network_drift(table)) if d is not None and d.noticed]


def clock_drift(times_ms: Sequence[float]) -> Drift | None:
    """Running medians of the smallest reference over WINDOW times; None for fewer than three."""
    if len(times_ms) < 3:
        return None
    window = min(WINDOW, len(times_ms))
    running = [
        statistics.median(times_ms[start : start + window])
        for start in range(len(times_ms) - window + 1)
    ]
    percent = 100 * (running[-1] / running[0] - 1.0)
    return Drift("the reference model", percent, min(running), max(running))


def network_drift(table: LatencyTable) -> Drift | None:
    """The first networks against themselves at the end; None where none was measured again.

    Its times are means over these networks, in ms, each with the median of what they took.
    """
    again = {row.key: row for row in table.rows("reference") if row.ok and row.key not in GRAPHS}
    pairs = [
        (first.median_ms, last.median_ms)
        for key, last in again.items()
        if (first := table.get("network", key)) is not None and first.ok
    ]
    if not pairs:
        return None
    ratio = statistics.median(last / first for first, last in pairs)
    first_ms = statistics.mean(first for first, _ in pairs)
    ends = sorted((first_ms, ratio * first_ms))
    what = f"{len(pairs)} of the first networks"
    return Drift(what, 100 * (ratio - 1.0), ends[0], ends[1])
