"""The result of a verification: numbers, verdict, reasons; a value also when it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from factory.core.errors import EXIT_DOES_NOT_HOLD, EXIT_OK, EXIT_UNDECIDED

SCHEMA_VERSION = 1
UNDECIDED = "undecided"  # the machine was too busy: neither a pass nor a failure
VERDICTS = ("holds", "over budget", "measured", "failed", UNDECIDED)


@dataclass(frozen=True)
class VerifyResult:
    """What was measured and what follows.

    Attributes:
        median_ms: median over rounds of the median over runs; p10_ms and p90_ms likewise; None
            when the model could not be run, or not steadily enough.
        min_ms: the fastest run of all rounds.
        session_ms: time to make a session; median over the rounds like first_run_ms, its first run.
        peak_memory_mb: most memory that both took beyond what the process had; with first_run_ms
            None where the device does not tell.
        spread_percent: how far the medians of the rounds that count lie apart.
        usual_reference_ms: what the smallest reference was compared with to find disturbed rounds;
            usual_references_ms has all of them by key.
        rounds: every round with its times, the references', what disturbed it, whether it counts.
        verdict: "holds", "over budget", "measured" (no budget given), "failed", or "undecided"
            where the machine was too busy to tell.
        margin_percent: share of the budget that is left; negative when over; None without one.
        providers: execution provider -> number of nodes that ran on it.
        nodes: name, op, provider and share of the time, from the trace.
        relative_error: predicted / measured - 1, where a predictor was given.
    """

    device_id: str
    precision: str
    execution_provider: str
    describe: Mapping[str, Any]
    model_bytes: int
    model_sha256: str
    max_latency_ms: float | None = None
    verdict: str = "measured"
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    min_ms: float | None = None
    session_ms: float | None = None
    first_run_ms: float | None = None
    peak_memory_mb: float | None = None
    spread_percent: float = 0.0
    usual_reference_ms: float | None = None
    usual_references_ms: Mapping[str, float] = field(default_factory=dict)
    margin_percent: float | None = None
    rounds: tuple[Mapping[str, Any], ...] = ()
    providers: Mapping[str, int] = field(default_factory=dict)
    nodes: tuple[Mapping[str, Any], ...] = ()
    predicted_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    relative_error: float | None = None
    kernels: tuple[Mapping[str, Any], ...] = ()

    @property
    def ok(self) -> bool:
        """True when the model ran as asked and no budget was broken."""
        return self.verdict in ("holds", "measured")

    @property
    def exit_code(self) -> int:
        """0 when it holds, 1 when it does not, 3 when that is not decided."""
        if self.verdict == UNDECIDED:
            return EXIT_UNDECIDED
        return EXIT_OK if self.ok else EXIT_DOES_NOT_HOLD

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the schema version."""
        value = asdict(self)
        for name in ("reasons", "notes", "rounds", "nodes", "kernels"):
            value[name] = list(value[name])
        return {"schema_version": SCHEMA_VERSION, **value}
