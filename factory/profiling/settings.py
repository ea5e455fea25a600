"""How much to measure: the settings of a profile, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import pydantic

from factory.devices.base import DISTURBED, TimingPlan


class ProfileSettings(pydantic.BaseModel):
    """Settings of a profile; the defaults take about 0.2 s a kernel, 0.8 s a network."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    block_size: int = pydantic.Field(
        default=8, ge=1, le=64, description="Kernels that are measured interleaved."
    )
    rounds: int = pydantic.Field(
        default=8, ge=1, le=100, description="How often a block is gone through."
    )
    min_runs: int = pydantic.Field(default=16, ge=1, description="Fewest runs of a kernel.")
    max_runs: int = pydantic.Field(default=6000, ge=1, description="Most runs of a kernel.")
    min_time_ms: float = pydantic.Field(
        default=240.0, ge=0, description="Time that a kernel is run for, in all rounds together."
    )
    warmup_runs: int = pydantic.Field(
        default=5, ge=1, description="Runs in a warm-up window; two windows must agree."
    )
    warmup_time_ms: float = pydantic.Field(
        default=30.0, ge=0, description="Longest warm-up of a kernel."
    )
    trace_runs: int = pydantic.Field(
        default=60, ge=0, description="Runs of the traced session that finds the reorders; 0: none."
    )
    network_block_size: int = pydantic.Field(
        default=4, ge=1, le=64, description="Whole networks that are measured interleaved."
    )
    network_time_ms: float = pydantic.Field(
        default=600.0, ge=0, description="Time that a whole network is run for."
    )
    network_trace_runs: int = pydantic.Field(
        default=40,
        ge=0,
        description="Most traced runs of a network, for its kernels' times in place; 0: none.",
    )
    drift_limit: float = pydantic.Field(
        default=DISTURBED, gt=0, description="Slow-down of the references that repeats a block."
    )
    max_repeats: int = pydantic.Field(
        default=2, ge=0, le=20, description="Repeats of a block before its rows are marked."
    )
    longest_wait_s: float = pydantic.Field(
        default=15.0,
        ge=0,
        description="Longest wait, for a block, until the chip is as fast as it was; 0: none.",
    )
    retry_failed: bool = pydantic.Field(
        default=False, description="Measure again what failed in an earlier run."
    )

    @pydantic.model_validator(mode="after")
    def _runs_in_order(self) -> ProfileSettings:
        if self.min_runs > self.max_runs:
            raise ValueError(f"min_runs {self.min_runs} is more than max_runs {self.max_runs}")
        return self

    def kernel_plan(self) -> TimingPlan:
        """How a kernel is timed."""
        return TimingPlan(
            min_runs=self.min_runs,
            max_runs=self.max_runs,
            min_time_ms=self.min_time_ms,
            warmup_runs=self.warmup_runs,
            warmup_time_ms=self.warmup_time_ms,
            profile_runs=self.trace_runs,
        )

    def network_plan(self) -> TimingPlan:
        """How a whole network is timed."""
        return TimingPlan(
            min_runs=self.min_runs,
            max_runs=self.max_runs,
            min_time_ms=self.network_time_ms,
            max_time_ms=max(4000.0, self.network_time_ms),
            warmup_runs=self.warmup_runs,
            warmup_time_ms=2 * self.warmup_time_ms,
            profile_runs=self.network_trace_runs,
            optimised_graph=self.network_trace_runs > 0,
        )


QUICK = ProfileSettings(
    rounds=4, min_time_ms=60.0, max_runs=2000, trace_runs=20, network_time_ms=200.0
)


@dataclass
class ProfileSummary:
    """What a profile did.

    Attributes:
        measured: rows written now, failures included.
        skipped: already in the table.
        failed: of the rows written now; ``reasons`` says why, by key.
        in_place: rows of kernels timed within networks.
        repeated_blocks: blocks measured again because the machine was disturbed.
        remeasured_blocks: blocks measured once more at the end, since they had been disturbed or
            had run at another speed than most, whose new rows took the place of the old ones.
        marked_blocks: blocks kept although the machine stayed disturbed; their rows are marked.
        waited_s: of the ``seconds``, those spent waiting until the chip was as fast as before.
        reference_ms: median of the smallest reference in each kept block.
        drift: how the clock moved while the table was measured; empty when it did not.
    """

    measured: int = 0
    skipped: int = 0
    failed: int = 0
    in_place: int = 0
    repeated_blocks: int = 0
    remeasured_blocks: int = 0
    marked_blocks: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    drift: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    reference_ms: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
